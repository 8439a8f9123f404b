//! One IPv4 UDP socket for many local addresses: batches in and out, with packet info, kernel timestamps and UDP_SEGMENT.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::time::Duration;

/// Datagrams in one system call.
pub const BATCH: usize = 64;
/// Bytes of a received datagram that are kept.
pub const DATAGRAM: usize = 2048;
const CONTROL: usize = 128;
const BUFFER: libc::c_int = 64 << 20;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set(
    fd: libc::c_int,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and size describe one live c_int.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(&value).cast(), size) })
        .map(|_| ())
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// A socket with large buffers that tells where each datagram was sent to, and when it came.
pub fn open(address: SocketAddrV4) -> io::Result<UdpSocket> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    for forced in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        set(fd, libc::SOL_SOCKET, forced, BUFFER)?;
    }
    let address = raw(address);
    let size = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: address and size describe one live sockaddr_in.
    check(unsafe { libc::bind(fd, ptr::from_ref(&address).cast(), size) })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Has the kernel stamp what arrives.
pub fn stamp(socket: &UdpSocket) -> io::Result<()> {
    set(
        socket.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_TIMESTAMPNS,
        1,
    )
}

/// Nanoseconds of CLOCK_REALTIME, the clock of kernel timestamps.
pub fn now() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: writes one timespec into live memory, and does so whenever it succeeds, as it does for this clock.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_REALTIME, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits until something can be read, for so long at most.
pub fn wait(socket: &UdpSocket, most: Duration) -> io::Result<bool> {
    let mut descriptor = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = libc::timespec {
        tv_sec: most.as_secs() as i64,
        tv_nsec: i64::from(most.subsec_nanos()),
    };
    // SAFETY: one live pollfd, one live timespec, no signal mask.
    Ok(check(unsafe { libc::ppoll(&raw mut descriptor, 1, &raw const timeout, ptr::null()) })? > 0)
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// What was received in one call.
pub struct Inbox {
    buffers: Box<[[u8; DATAGRAM]; BATCH]>,
    controls: Box<[Control; BATCH]>,
    sources: Box<[libc::sockaddr_in; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
}

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: plain numbers and pointers; all zeros are valid.
        let (empty, messages) = unsafe { (mem::zeroed::<libc::sockaddr_in>(), mem::zeroed()) };
        Self {
            buffers: vec![[0; DATAGRAM]; BATCH]
                .try_into()
                .expect("as many as asked for"),
            controls: Box::new([Control([0; CONTROL]); BATCH]),
            sources: Box::new([empty; BATCH]),
            messages: Box::new(messages),
            vectors: Box::new(
                [libc::iovec {
                    iov_base: ptr::null_mut(),
                    iov_len: 0,
                }; BATCH],
            ),
        }
    }
}

impl Inbox {
    /// Receives what is there without waiting. Gives how many datagrams.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        for n in 0..BATCH {
            self.vectors[n] = libc::iovec {
                iov_base: self.buffers[n].as_mut_ptr().cast(),
                iov_len: DATAGRAM,
            };
            let header = &mut self.messages[n].msg_hdr;
            header.msg_name = (&raw mut self.sources[n]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[n];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[n].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        // SAFETY: every message points at parts of self that outlive the call, with their true sizes.
        let received = check(unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                BATCH as _,
                flags,
                ptr::null_mut(),
            )
        });
        match received {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The address that a datagram was sent to, and when the kernel got it, if it was asked to say.
    pub fn info(&self, index: usize) -> (Ipv4Addr, u64) {
        let header = &self.messages[index].msg_hdr;
        let (mut to, mut stamp) = (Ipv4Addr::UNSPECIFIED, 0);
        // SAFETY: the header is the one that recvmmsg filled in, its control buffer is part of self.
        let mut part = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !part.is_null() {
            // SAFETY: not null, so within the control buffer; its kind says what lies there, perhaps unaligned.
            unsafe {
                match ((*part).cmsg_level, (*part).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info =
                            ptr::read_unaligned(libc::CMSG_DATA(part).cast::<libc::in_pktinfo>());
                        to = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    }
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let time =
                            ptr::read_unaligned(libc::CMSG_DATA(part).cast::<libc::timespec>());
                        stamp = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
                    }
                    _ => {}
                }
                part = libc::CMSG_NXTHDR(header, part);
            }
        }
        (to, stamp)
    }

    /// Where a datagram came from.
    pub fn source(&self, index: usize) -> SocketAddrV4 {
        let source = &self.sources[index];
        SocketAddrV4::new(
            Ipv4Addr::from(u32::from_be(source.sin_addr.s_addr)),
            u16::from_be(source.sin_port),
        )
    }

    /// A datagram.
    pub fn datagram(&mut self, index: usize) -> &mut [u8] {
        let length = (self.messages[index].msg_len as usize).min(DATAGRAM);
        &mut self.buffers[index][..length]
    }
}

/// One message to send: a datagram, or several of one size but for the last (UDP_SEGMENT).
#[derive(Clone, Copy)]
pub struct Out<'a> {
    /// The local address that it leaves from; `None`: the socket's.
    pub from: Option<Ipv4Addr>,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// All datagrams, one after the other.
    pub bytes: &'a [u8],
    /// The size of all but the last.
    pub segment: usize,
}

/// Sends up to `BATCH` messages, waiting for room if need be. Gives how many were sent.
pub fn send(socket: &UdpSocket, outs: &[Out<'_>]) -> io::Result<usize> {
    let count = outs.len().min(BATCH);
    // SAFETY: plain numbers and pointers; all zeros are valid.
    let (mut messages, empty): ([libc::mmsghdr; BATCH], libc::sockaddr_in) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut addresses = [empty; BATCH];
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; BATCH];
    let mut controls = [Control([0; CONTROL]); BATCH];
    for (n, out) in outs[..count].iter().enumerate() {
        addresses[n] = raw(out.to);
        vectors[n] = libc::iovec {
            iov_base: out.bytes.as_ptr().cast_mut().cast(),
            iov_len: out.bytes.len(),
        };
        let header = &mut messages[n].msg_hdr;
        header.msg_name = (&raw mut addresses[n]).cast();
        header.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = &raw mut vectors[n];
        header.msg_iovlen = 1;
        let mut used = 0;
        if let Some(from) = out.from {
            let address = libc::in_addr {
                s_addr: u32::from(from).to_be(),
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: address,
                ipi_addr: address,
            };
            used += put(
                &mut controls[n].0[used..],
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                info,
            );
        }
        if out.bytes.len() > out.segment {
            used += put(
                &mut controls[n].0[used..],
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                out.segment as u16,
            );
        }
        if used > 0 {
            header.msg_control = controls[n].0.as_mut_ptr().cast();
            header.msg_controllen = used;
        }
    }
    loop {
        // SAFETY: the first `count` messages point at addresses, vectors, bytes and controls that outlive the call; the
        // kernel only reads them.
        let sent = check(unsafe {
            libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as _, 0)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut descriptor = libc::pollfd {
                    fd: socket.as_raw_fd(),
                    events: libc::POLLOUT,
                    revents: 0,
                };
                // SAFETY: one live pollfd.
                check(unsafe { libc::poll(&raw mut descriptor, 1, 100) })?;
            }
            other => return other.map(|sent| sent as usize),
        }
    }
}

/// Writes one control message; gives the bytes that it takes.
fn put<T: Copy>(buffer: &mut [u8], level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    // SAFETY: arithmetic only.
    let (space, length, data) = unsafe {
        (
            libc::CMSG_SPACE(mem::size_of::<T>() as u32),
            libc::CMSG_LEN(mem::size_of::<T>() as u32),
            libc::CMSG_LEN(0),
        )
    };
    assert!(buffer.len() >= space as usize);
    // SAFETY: zeros are valid for its padding, on systems that have some.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_len = length as _;
    header.cmsg_level = level;
    header.cmsg_type = kind;
    // SAFETY: the buffer has room for header and value, as was checked; writes need no alignment.
    unsafe {
        ptr::write_unaligned(buffer.as_mut_ptr().cast(), header);
        ptr::write_unaligned(buffer.as_mut_ptr().add(data as usize).cast(), value);
    }
    space as usize
}
