//! System calls that std has no names for: recvmmsg, sendmmsg, poll, eventfd, socket buffers, interface addresses.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::engine::MAX_DATAGRAM;

/// Datagrams per system call.
pub const BATCH: usize = 64;
/// What the sockets' buffers are raised to: a second of 60 Mbit/s. The kernel may grant less (net.core.rmem_max).
const SOCKET_BUFFER: libc::c_int = 8 << 20;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An eventfd: any thread may signal it, and poll or an event loop waits for it.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, not signalled.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes 8 bytes from a live u64. It fails only if the counter is full: then it is readable anyway.
        unsafe { libc::write(self.0.as_raw_fd(), ptr::from_ref(&one).cast(), 8) };
    }

    /// Makes it unreadable until the next signal.
    pub fn clear(&self) {
        let mut value = 0u64;
        // SAFETY: reads 8 bytes into a live u64; it does not block, and fails only if nothing was signalled.
        unsafe { libc::read(self.0.as_raw_fd(), ptr::from_mut(&mut value).cast(), 8) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits until one of the descriptors has one of its events, or the time is over. Interruptions count as nothing.
pub fn poll(descriptors: &mut [libc::pollfd], timeout_millis: i32) -> io::Result<()> {
    // SAFETY: pointer and length belong to one live slice.
    let result = unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, timeout_millis) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            descriptors.iter_mut().for_each(|descriptor| descriptor.revents = 0);
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// Raises the socket's buffers as far as the kernel lets this process.
pub fn enlarge_buffers(socket: &UdpSocket) {
    let pairs = [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)];
    for (forced, asked) in pairs {
        let set = |option| {
            let size = mem::size_of_val(&SOCKET_BUFFER) as libc::socklen_t;
            let value = ptr::from_ref(&SOCKET_BUFFER).cast();
            // SAFETY: value and size describe one live c_int. Failure leaves the default, which works for small calls.
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, size) == 0 }
        };
        let _ = set(forced) || set(asked);
    }
}

/// Lets the kernel tell of each datagram when it was received.
pub fn stamp_receipt(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    let size = mem::size_of_val(&on) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
    // SAFETY: value and size describe one live c_int. Failure leaves datagrams without a time, which callers expect.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&on).cast(), size) };
}

fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec into a live variable; both clocks that are asked for exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    nanos(time)
}

fn nanos(time: libc::timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The wall clock that the kernel stamps datagrams by; it may be set while the process runs.
pub fn wall_nanos() -> u64 {
    clock_nanos(libc::CLOCK_REALTIME)
}

/// The processor time that the calling thread has used.
pub fn thread_cpu_nanos() -> u64 {
    clock_nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The IPv4 addresses of all interfaces that are up.
pub fn local_ipv4_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: writes one pointer into a live variable.
    check(unsafe { libc::getifaddrs(&raw mut first) })?;
    let mut addresses = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: not null, so a node of the list that getifaddrs made, freed only below.
        let interface = unsafe { &*next };
        let up = interface.ifa_flags & libc::IFF_UP as libc::c_uint != 0;
        // SAFETY: the address is null or valid; its family is read before it is taken for IPv4.
        if up && !interface.ifa_addr.is_null() && unsafe { (*interface.ifa_addr).sa_family } == libc::AF_INET as u16 {
            // SAFETY: the family says that this is a sockaddr_in; it may lie unaligned.
            let address = unsafe { ptr::read_unaligned(interface.ifa_addr.cast::<libc::sockaddr_in>()) };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        next = interface.ifa_next;
    }
    // SAFETY: the list is the one that getifaddrs made, and no reference into it is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

/// A socket address as the kernel reads and writes it; 28 bytes hold IPv4 and IPv6.
type RawAddress = libc::sockaddr_in6;

fn empty_address() -> RawAddress {
    // SAFETY: plain numbers; all zeros are valid.
    unsafe { mem::zeroed() }
}

fn to_raw(address: SocketAddr) -> (RawAddress, libc::socklen_t) {
    let mut raw = empty_address();
    match address {
        SocketAddr::V4(address) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_in is smaller than sockaddr_in6 and needs no stricter alignment.
            unsafe { ptr::from_mut(&mut raw).cast::<libc::sockaddr_in>().write(v4) };
            (raw, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(address) => {
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = address.port().to_be();
            raw.sin6_flowinfo = address.flowinfo();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            (raw, mem::size_of::<RawAddress>() as libc::socklen_t)
        }
    }
}

fn from_raw(raw: &RawAddress) -> Option<SocketAddr> {
    match libc::c_int::from(raw.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says sockaddr_in, which fits into what is borrowed.
            let v4 = unsafe { &*ptr::from_ref(raw).cast::<libc::sockaddr_in>() };
            Some((Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => Some((IpAddr::V6(Ipv6Addr::from(raw.sin6_addr.s6_addr)), u16::from_be(raw.sin6_port)).into()),
        _ => None,
    }
}

fn message(address: *mut RawAddress, length: libc::socklen_t, vector: *mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: plain numbers and pointers; all zeros are valid.
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    message.msg_hdr.msg_name = address.cast();
    message.msg_hdr.msg_namelen = length;
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// Room for one control message with a time, aligned as the kernel's header wants it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    time: libc::timespec,
}

/// When the kernel received a datagram, of a message that `recvmmsg` filled.
fn receipt(header: &libc::msghdr, control: &Control) -> Option<u64> {
    let whole = header.msg_controllen >= mem::size_of::<Control>() as _;
    let kind = (control.header.cmsg_level, control.header.cmsg_type);
    (whole && kind == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS)).then(|| nanos(control.time))
}

/// Buffers for `recvmmsg`.
pub struct Receiver {
    buffers: Box<[[u8; MAX_DATAGRAM]; BATCH]>,
    addresses: Box<[RawAddress; BATCH]>,
    lengths: Box<[usize; BATCH]>,
    controls: Box<[Control; BATCH]>,
    received: Box<[Option<u64>; BATCH]>,
}

impl Receiver {
    /// Empty buffers.
    pub fn new() -> Self {
        Self {
            buffers: Box::new([[0; MAX_DATAGRAM]; BATCH]),
            addresses: Box::new([empty_address(); BATCH]),
            lengths: Box::new([0; BATCH]),
            // SAFETY: plain numbers; all zeros are valid.
            controls: Box::new([unsafe { mem::zeroed() }; BATCH]),
            received: Box::new([None; BATCH]),
        }
    }

    /// Receives what is there, up to `BATCH` datagrams, without blocking. Gives how many.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|n| libc::iovec {
            iov_base: self.buffers[n].as_mut_ptr().cast(),
            iov_len: MAX_DATAGRAM,
        });
        let size = mem::size_of::<RawAddress>() as libc::socklen_t;
        let mut messages: [libc::mmsghdr; BATCH] =
            std::array::from_fn(|n| message(&raw mut self.addresses[n], size, &raw mut vectors[n]));
        for (message, control) in messages.iter_mut().zip(self.controls.iter_mut()) {
            message.msg_hdr.msg_control = ptr::from_mut(control).cast();
            message.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: every message points at an address, a vector, a buffer and a control message that outlive the call,
        // with their true sizes.
        let count = check(unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as _, flags, ptr::null_mut())
        })? as usize;
        for (length, message) in self.lengths.iter_mut().zip(&messages[..count]) {
            let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *length = if truncated { 0 } else { message.msg_len as usize };
        }
        for (n, message) in messages[..count].iter().enumerate() {
            self.received[n] = receipt(&message.msg_hdr, &self.controls[n]);
        }
        Ok(count)
    }

    /// When the kernel received it, by `wall_nanos`'s clock.
    pub fn received_nanos(&self, index: usize) -> Option<u64> {
        self.received[index]
    }

    /// A received datagram and where it came from. A truncated one is empty.
    pub fn datagram(&mut self, index: usize) -> Option<(SocketAddr, &mut [u8])> {
        let address = from_raw(&self.addresses[index])?;
        Some((address, &mut self.buffers[index][..self.lengths[index]]))
    }
}

/// Sends datagrams in order, up to `BATCH` of them, without blocking. Gives how many were sent.
///
/// An error is the first datagram's: nothing was sent then.
pub fn send(socket: &UdpSocket, datagrams: &[(SocketAddr, &[u8])]) -> io::Result<usize> {
    let count = datagrams.len().min(BATCH);
    let mut addresses = [(empty_address(), 0); BATCH];
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
    for (n, (address, bytes)) in datagrams[..count].iter().enumerate() {
        addresses[n] = to_raw(*address);
        vectors[n] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    }
    let mut messages: [libc::mmsghdr; BATCH] =
        std::array::from_fn(|n| message(&raw mut addresses[n].0, addresses[n].1, &raw mut vectors[n]));
    // SAFETY: the first `count` messages point at addresses, vectors and bytes that outlive the call; the kernel only
    // reads the bytes, though the type of iovec cannot say so.
    let sent = check(unsafe {
        libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
    })?;
    Ok(sent as usize)
}
