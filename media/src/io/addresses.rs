//! Binding: one socket per concrete local address, so that an answer leaves from the address that was asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use super::sys;

/// Tries to find one port that is free on every local address.
const ATTEMPTS: usize = 32;

/// Binds non-blocking sockets for so many threads: each has one for every address, in the same order.
///
/// Addresses that appear on the machine later are not noticed.
pub fn bind(binds: &[SocketAddr], threads: usize) -> io::Result<Vec<Vec<UdpSocket>>> {
    let first = bind_all(binds)?;
    let mut all = Vec::new();
    if threads > 1 {
        // Only now: whoever else has the port, be it another focus that shares it among its threads, was noticed.
        first.iter().try_for_each(sys::share_port)?;
    }
    for _ in 1..threads {
        all.push(first.iter().map(|socket| bind_shared(socket.local_addr()?)).collect::<io::Result<_>>()?);
    }
    all.insert(0, first);
    Ok(all)
}

fn bind_all(binds: &[SocketAddr]) -> io::Result<Vec<UdpSocket>> {
    if binds.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to bind"));
    }
    let mut sockets = Vec::new();
    for address in binds {
        match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => sockets.extend(bind_everywhere(address.port())?),
            IpAddr::V6(ip) if ip.is_unspecified() => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "name each IPv6 address to bind"));
            }
            _ => sockets.push(bind_one(*address)?),
        }
    }
    Ok(sockets)
}

/// Binds a socket of its own to dial these addresses from: where `binds` fit the first that they can reach.
///
/// Gives it with the addresses that it can reach, which may be none.
pub fn bind_to_dial(binds: &[SocketAddr], candidates: &[SocketAddr]) -> io::Result<(UdpSocket, Vec<SocketAddr>)> {
    let candidates: Vec<_> =
        candidates.iter().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port())).collect();
    let reaches = |bind: &SocketAddr, peer: &SocketAddr| bind.is_ipv4() == peer.is_ipv4();
    let first = candidates.iter().find(|peer| binds.iter().any(|bind| reaches(bind, peer)));
    let fits = |bind: &&SocketAddr| {
        first.is_none_or(|peer| {
            let near = bind.ip().is_unspecified() || bind.ip().is_loopback() == peer.ip().is_loopback();
            reaches(bind, peer) && near
        })
    };
    let other = || binds.iter().find(|bind| first.is_some_and(|peer| reaches(bind, peer)));
    let bind = binds.iter().find(fits).or_else(other);
    let bind = bind.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address to bind"))?;
    let socket = bind_one(SocketAddr::new(bind.ip(), 0))?;
    Ok((socket, candidates.into_iter().filter(|peer| reaches(bind, peer)).collect()))
}

fn bind_everywhere(port: u16) -> io::Result<Vec<UdpSocket>> {
    let addresses = sys::local_ipv4_addresses()?;
    let attempt = || -> io::Result<Vec<UdpSocket>> {
        let mut chosen = port;
        let mut sockets = Vec::new();
        for ip in &addresses {
            let socket = bind_one((*ip, chosen).into())?;
            chosen = socket.local_addr()?.port();
            sockets.push(socket);
        }
        Ok(sockets)
    };
    let mut result = attempt();
    for _ in 1..ATTEMPTS {
        match &result {
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => result = attempt(),
            _ => break,
        }
    }
    result
}

/// Another socket on an address whose socket shares its port.
fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    prepare(sys::bind_shared(address)?)
}

fn bind_one(address: SocketAddr) -> io::Result<UdpSocket> {
    prepare(UdpSocket::bind(address)?)
}

fn prepare(socket: UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    sys::enlarge_buffers(&socket);
    sys::stamp_receipt(&socket);
    sys::join_received(&socket);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The bound address, and how many candidates it reaches.
    fn dial_from(binds: &[&str], candidates: &[&str]) -> (IpAddr, usize) {
        let (socket, reached) = bind_to_dial(&addresses(binds), &addresses(candidates)).unwrap();
        let local = socket.local_addr().unwrap();
        assert!(
            binds.iter().all(|bind| bind.parse::<SocketAddr>().unwrap().port() != local.port()),
            "a port of its own"
        );
        (local.ip(), reached.len())
    }

    #[test]
    fn a_dialling_socket_is_bound_where_it_reaches_the_first_candidate_that_can_be_reached() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(dial_from(&["127.0.0.1:9"], &["127.0.0.1:5", "[::1]:5", "127.0.0.2:5"]), (loopback, 2));
        assert_eq!(dial_from(&["0.0.0.0:9"], &["192.0.2.1:5"]), (Ipv4Addr::UNSPECIFIED.into(), 1));
        assert_eq!(dial_from(&["0.0.0.0:9"], &["[2001:db8::1]:5", "192.0.2.1:5"]), (Ipv4Addr::UNSPECIFIED.into(), 1));
        assert_eq!(dial_from(&["127.0.0.1:9"], &["192.0.2.1:5"]), (loopback, 1), "there is no better one");
        assert_eq!(dial_from(&["127.0.0.1:9"], &["[2001:db8::1]:5"]), (loopback, 0));
        assert_eq!(dial_from(&["127.0.0.1:9"], &[]), (loopback, 0));
        assert_eq!(dial_from(&["127.0.0.1:9"], &["[::ffff:127.0.0.1]:5"]), (loopback, 1));
        let gone = bind_to_dial(&addresses(&["192.0.2.1:9"]), &addresses(&["192.0.2.2:5"]));
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
