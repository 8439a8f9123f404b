//! System calls that std has no names for: recvmmsg, sendmmsg, UDP_GRO and UDP_SEGMENT, poll, eventfd, socket buffers, interface addresses.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::engine::outbox::{Message, Outbox};

/// Messages per system call.
pub const BATCH: usize = 64;
/// Bytes of a message: the kernel joins no more (UDP_GRO).
const LONGEST: usize = 65_536;
/// From one receive buffer to the next: their beginnings, which are all that is mostly used, must not share cache sets.
const STRIDE: usize = LONGEST + 20 * 64;
/// Bytes for control messages.
const CONTROL: usize = 128;
/// A control message with a u16, padded.
const SEGMENT_CONTROL: usize = mem::size_of::<libc::cmsghdr>() + 8;
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
pub fn poll(descriptors: &mut [libc::pollfd], timeout_micros: u64) -> io::Result<()> {
    let (seconds, micros) = (timeout_micros / 1_000_000, timeout_micros % 1_000_000);
    let timeout = libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: micros as libc::c_long * 1000 };
    // SAFETY: pointer and length belong to one live slice, the timespec lives, and no signal mask is given.
    let result = unsafe {
        libc::ppoll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, &raw const timeout, ptr::null())
    };
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

/// Lets other sockets of this user be bound to the address and port that this socket has, or will have (SO_REUSEPORT). The
/// kernel gives what comes from one peer's address always to the same of them.
pub fn share_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = mem::size_of_val(&on) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_REUSEPORT);
    // SAFETY: value and size describe one live c_int.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&on).cast(), size) }).map(|_| ())
}

/// Binds a socket to an address whose sockets all share their port.
pub fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    share_port(&socket)?;
    let (raw, length) = to_raw(address);
    // SAFETY: address and length describe one live socket address.
    check(unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&raw).cast(), length) })?;
    Ok(socket.into())
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

/// Room for the control messages of one message.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Lets the kernel hand over several datagrams of one peer in one piece (UDP_GRO). Without it they come one by one.
pub fn join_received(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    let size = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: value and size describe one live c_int. Failure is what kernels before 5.0 answer.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, ptr::from_ref(&on).cast(), size) };
}

/// What the kernel tells of a received message.
#[derive(Clone, Copy, Default)]
struct Told {
    joined: Option<usize>, // the size of the datagrams that lie in it one after the other
    received: Option<u64>, // when, by `wall_nanos`'s clock
}

fn told(header: &libc::msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: the header is one that recvmmsg filled in; its control buffer is alive and as long as it says.
    let mut part = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !part.is_null() {
        // SAFETY: not null, so within the control buffer; its kind says what lies there, perhaps unaligned.
        unsafe {
            match ((*part).cmsg_level, (*part).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = ptr::read_unaligned(libc::CMSG_DATA(part).cast::<libc::c_int>());
                    told.joined = usize::try_from(size).ok().filter(|size| *size > 0);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    told.received = Some(nanos(ptr::read_unaligned(libc::CMSG_DATA(part).cast::<libc::timespec>())));
                }
                _ => {}
            }
            part = libc::CMSG_NXTHDR(header, part);
        }
    }
    told
}

/// Buffers for `recvmmsg`.
pub struct Receiver {
    buffers: Box<[u8]>,
    addresses: Box<[RawAddress; BATCH]>,
    controls: Box<[Control; BATCH]>,
    sizes: Box<[(usize, usize); BATCH]>, // of the message, and of the datagrams in it
    received: Box<[Option<u64>; BATCH]>,
}

impl Receiver {
    /// Empty buffers.
    pub fn new() -> Self {
        Self {
            buffers: vec![0; BATCH * STRIDE].into(), // zeroed pages take memory once they are written to
            addresses: Box::new([empty_address(); BATCH]),
            controls: Box::new([Control([0; CONTROL]); BATCH]),
            sizes: Box::new([(0, 0); BATCH]),
            received: Box::new([None; BATCH]),
        }
    }

    /// Receives what is there, up to `BATCH` messages, without blocking. Gives how many.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut buffers = self.buffers.chunks_exact_mut(STRIDE);
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|_| libc::iovec {
            iov_base: buffers.next().map_or(ptr::null_mut(), <[u8]>::as_mut_ptr).cast(),
            iov_len: LONGEST,
        });
        let size = mem::size_of::<RawAddress>() as libc::socklen_t;
        let mut messages: [libc::mmsghdr; BATCH] = std::array::from_fn(|n| {
            let mut message = message(&raw mut self.addresses[n], size, &raw mut vectors[n]);
            message.msg_hdr.msg_control = self.controls[n].0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL as _;
            message
        });
        // SAFETY: every message points at an address, a vector, a control buffer and a buffer that outlive the call, with
        // their true sizes.
        let count = check(unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as _, flags, ptr::null_mut())
        })? as usize;
        let places = self.sizes.iter_mut().zip(self.received.iter_mut());
        for ((sizes, received), message) in places.zip(&messages[..count]) {
            let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let length = if truncated { 0 } else { message.msg_len as usize };
            let told = told(&message.msg_hdr);
            *sizes = (length, told.joined.unwrap_or(length));
            *received = told.received;
        }
        Ok(count)
    }

    /// When the kernel received it, by `wall_nanos`'s clock.
    pub fn received_nanos(&self, index: usize) -> Option<u64> {
        self.received[index]
    }

    /// The datagrams of a received message and where they came from. A truncated message has none.
    pub fn datagrams(&mut self, index: usize) -> Option<(SocketAddr, impl Iterator<Item = &mut [u8]>)> {
        let address = from_raw(&self.addresses[index])?;
        let (length, size) = self.sizes[index];
        Some((address, self.buffers[index * STRIDE..][..length].chunks_mut(size.max(1))))
    }
}

/// Buffers for `sendmmsg`.
pub struct Sender {
    messages: Box<[libc::mmsghdr; BATCH]>,
    addresses: Box<[RawAddress; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    controls: Box<[Control; BATCH]>,
}

// SAFETY: what its pointers point at is written anew by each `send` before anybody follows them.
unsafe impl Send for Sender {}

impl Sender {
    /// Empty buffers.
    pub fn new() -> Self {
        Self {
            // SAFETY: plain numbers and pointers; all zeros are valid.
            messages: Box::new([unsafe { mem::zeroed() }; BATCH]),
            addresses: Box::new([empty_address(); BATCH]),
            vectors: Box::new([libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH]),
            controls: Box::new([segment_control(); BATCH]),
        }
    }

    /// Sends messages of the outbox in order, up to `BATCH` of them, without blocking. Gives how many were sent.
    ///
    /// An error is the first message's: nothing was sent then.
    pub fn send(&mut self, socket: &UdpSocket, outbox: &Outbox, messages: &[Message]) -> io::Result<usize> {
        let count = messages.len().min(BATCH);
        for (n, one) in messages[..count].iter().enumerate() {
            let bytes = outbox.bytes_of(one);
            let length;
            (self.addresses[n], length) = to_raw(one.path.peer);
            self.vectors[n] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut self.messages[n];
            *header = message(&raw mut self.addresses[n], length, &raw mut self.vectors[n]);
            if bytes.len() > one.segment {
                let at = mem::size_of::<libc::cmsghdr>();
                let segment = u16::try_from(one.segment).unwrap_or(u16::MAX); // longer ones are refused by the kernel
                self.controls[n].0[at..at + 2].copy_from_slice(&segment.to_ne_bytes());
                header.msg_hdr.msg_control = self.controls[n].0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = SEGMENT_CONTROL as _;
            }
        }
        // SAFETY: the first `count` messages point at addresses, vectors, control messages and bytes that outlive the
        // call; the kernel only reads the bytes, though the type of iovec cannot say so.
        let sent = check(unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count as libc::c_uint, flags)
        })?;
        Ok(sent as usize)
    }
}

/// A control message UDP_SEGMENT whose value is still to be written.
fn segment_control() -> Control {
    let mut control = Control([0; CONTROL]);
    // SAFETY: zeros are valid; the buffer is longer than the header and aligned for it.
    unsafe {
        let mut header: libc::cmsghdr = mem::zeroed();
        header.cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as u32) as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        control.0.as_mut_ptr().cast::<libc::cmsghdr>().write(header);
    }
    control
}
