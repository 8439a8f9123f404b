//! A media thread: waits for datagrams, commands and deadlines, runs the engine, and sends what it made.

use std::any::Any;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::sys::{self, BATCH, Receiver, Sender};
use super::traffic::Traffic;
use super::{Connect, Mailbox, Message, Notice, Shared, lock};
use crate::engine::crossing::{Crossing, Seat};
use crate::engine::outbox::{Message as Sending, Outbox, Path};
use crate::engine::{Command, Engine, place};
use crate::measure::Snapshot;
use crate::time::{MILLISECOND, SECOND, Time, WallClock};

/// Seconds from NTP's epoch to Unix's.
const NTP_EPOCH: u64 = 2_208_988_800;
/// Longest sleep without a deadline; only a safety net, as everything that matters wakes the thread.
const IDLE: u64 = SECOND;
/// How often what was measured is put where others may read it.
const PUBLISH: u64 = 100 * MILLISECOND;
/// How long a full socket buffer is waited for before its datagrams are dropped.
const SEND_PATIENCE: u64 = 2 * MILLISECOND;
/// Threads that have a name of their own in metrics.
const MAX_NAMES: usize = 256;
/// Rounds of one socket before the others, commands and deadlines get their turn.
const ROUNDS: usize = 4;

/// When the threads were started, which is their engines' time zero.
#[derive(Clone, Copy)]
pub struct Clock {
    started: Instant,
    wall: WallClock,
}

impl Clock {
    /// Zero is now.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fraction = (u64::from(since_epoch.subsec_nanos()) << 32) / 1_000_000_000;
        let wall = WallClock::new((since_epoch.as_secs() + NTP_EPOCH) << 32 | fraction);
        Self { started: Instant::now(), wall }
    }
}

/// The threads' names in metrics.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| (0..MAX_NAMES).map(|index| index.to_string()).collect());

/// Starts the thread. A panic in it, or a lost socket, ends as a `Failed` notice.
pub fn spawn(index: usize, sockets: Vec<UdpSocket>, shared: Arc<Shared>, clock: Clock) -> io::Result<JoinHandle<()>> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| io::Error::other("no randomness"))?;
    let seat = Seat { index, count: shared.mailboxes.len() };
    let engine = Engine::new(clock.wall, u64::from_ne_bytes(seed)).seated(seat);
    let sockets = sockets.into_iter().map(Some).collect();
    let mut worker = Worker {
        sockets,
        shared: Arc::clone(&shared),
        seat,
        engine,
        started: clock.started,
        arrived: Crossing::default(),
        published: None,
        traffic: Traffic::default(),
        stamps: Vec::new(),
        sender: Sender::new(),
        segments: true,
    };
    std::thread::Builder::new().name(format!("media-{index}")).spawn(move || {
        match catch_unwind(AssertUnwindSafe(|| worker.run())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => shared.fail(format!("the media thread lost its socket: {error}")),
            Err(panic) => shared.fail(format!("the media thread panicked: {}", panic_message(&*panic))),
        }
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

struct Worker {
    sockets: Vec<Option<UdpSocket>>, // those that are bound for all, then those of legs that dial, as they come and go
    shared: Arc<Shared>,
    seat: Seat,
    engine: Engine,
    arrived: Crossing, // from other threads
    started: Instant,
    published: Option<Time>,
    traffic: Traffic,
    stamps: Vec<(u64, u64)>, // of packets that are due: when received, to how many
    sender: Sender,
    segments: bool, // messages of several datagrams are sent as such
}

impl Worker {
    fn now(&self) -> Time {
        Time::from_micros(self.started.elapsed().as_micros() as u64)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut receiver = Receiver::new();
        let mut descriptors = Vec::new();
        self.publish(self.now());
        loop {
            self.list_descriptors(&mut descriptors);
            sys::poll(&mut descriptors, self.timeout())?;
            let [wake, sockets @ ..] = &descriptors[..] else { return Ok(()) };
            if wake.revents != 0 && !self.take_mail()? {
                return Ok(());
            }
            for (index, descriptor) in sockets.iter().enumerate() {
                if descriptor.revents != 0 {
                    self.receive(index, &mut receiver)?;
                }
            }
            let now = self.now();
            if self.engine.is_due(now) {
                self.engine.tick(now);
            }
            self.hand_over();
            self.send_on(now)?;
            self.publish(now);
            let events = self.engine.take_events();
            if !events.is_empty() {
                self.shared.notify(events.into_iter().map(Notice::Engine));
            }
        }
    }

    /// What to wait for: messages first, then each socket at its place. A place without a socket is skipped by poll(2).
    fn list_descriptors(&self, descriptors: &mut Vec<libc::pollfd>) {
        let sockets = self.sockets.iter().map(|socket| socket.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        let all = std::iter::once(self.mailbox().wake.as_raw_fd()).chain(sockets);
        descriptors.clear();
        descriptors.extend(all.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
    }

    fn timeout(&self) -> u64 {
        self.engine.deadline().map_or(IDLE, |deadline| deadline.since(self.now()))
    }

    fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes[self.seat.index]
    }

    /// Carries out what others put in. False: the thread is to end.
    fn take_mail(&mut self) -> io::Result<bool> {
        self.mailbox().wake.clear();
        let mut arrived = std::mem::take(&mut self.arrived);
        std::mem::swap(&mut *lock(&self.mailbox().crossing), &mut arrived);
        // What other engines tell follows from messages that they had: those are here by now, and come first.
        let goes_on = self.take_messages()?;
        if goes_on && !arrived.is_empty() {
            let now = self.now();
            let stamps = &mut self.stamps;
            self.engine.arrive(now, &mut arrived, |received, times| {
                stamps.extend(received.filter(|_| times > 0).map(|received| (received, times)));
            });
            self.hand_over();
            self.send_on(now)?;
        }
        self.arrived = arrived;
        Ok(goes_on)
    }

    /// Hands to the other threads what is for them.
    fn hand_over(&mut self) {
        for other in self.seat.others() {
            let crossing = self.engine.crossing(other);
            if !crossing.is_empty() {
                let dropped = self.shared.mailboxes[other].carry(crossing);
                self.engine.counters.threads_dropped += dropped as u64;
            }
        }
    }

    /// Carries queued messages out, in order. False: the thread is to end.
    fn take_messages(&mut self) -> io::Result<bool> {
        let messages = std::mem::take(&mut *lock(&self.mailbox().messages));
        for message in messages {
            let now = self.now();
            match message {
                Message::AddLeg { leg, ufrag, pwd, home } => self.engine.add_leg(now, leg, ufrag, &pwd, home),
                Message::Command(command) => self.engine.command(now, command),
                Message::Connect(connect) => self.connect(now, connect),
                Message::Synchronous(command, reply) => {
                    self.engine.command(now, command);
                    self.hand_over();
                    self.flush()?;
                    let _ = reply.send(()); // who asked may have lost patience
                }
                Message::Stats(reply) => {
                    let _ = reply.send(self.stats());
                }
                Message::LegStats(leg, reply) => {
                    let _ = reply.send(self.engine.leg_stats(leg));
                }
                Message::Traffic(reply) => {
                    let _ = reply.send(self.engine.traffic());
                }
                Message::Stop => {
                    self.flush()?;
                    return Ok(false);
                }
                #[cfg(test)]
                Message::Panic => panic!("as asked"),
            }
        }
        Ok(true)
    }

    fn connect(&mut self, now: Time, Connect { socket, leg, ufrag, pwd, candidates }: Connect) {
        let socket = place(&mut self.sockets, socket);
        self.engine.command(now, Command::Connect { leg, socket, ufrag, pwd, candidates });
    }

    fn stats(&self) -> super::Stats {
        let mut stats = self.engine.stats();
        self.traffic.list(&mut stats);
        stats.push(("thread_cpu_ns_total", sys::thread_cpu_nanos()));
        stats
    }

    /// Puts what was measured where others read it without a word to this thread.
    fn publish(&mut self, now: Time) {
        if self.published.is_some_and(|published| now.since(published) < PUBLISH) {
            return;
        }
        self.published = Some(now);
        let mut snapshot: Snapshot = self.engine.measure();
        self.traffic.write(&mut snapshot);
        let help = "Processor time of a media thread.";
        let name = NAMES.get(self.seat.index).map_or("more", String::as_str);
        let cpu = sys::thread_cpu_nanos() / 1000;
        snapshot.number("thread_cpu_microseconds_total", help, vec![("thread", name)], cpu);
        *lock(&self.mailbox().published) = Arc::new(snapshot);
    }

    /// Takes what a socket has, a few batches at most, and sends what comes of each at once.
    fn receive(&mut self, socket: usize, receiver: &mut Receiver) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let Some(from) = &self.sockets[socket] else { return Ok(()) };
            let count = match receiver.receive(from) {
                Ok(count) => count,
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.traffic.receive_batches.observe(count as u64, 1);
            let now = self.now();
            for index in 0..count {
                let before = self.engine.placed;
                self.engine.received = receiver.received_nanos(index);
                if let Some((peer, datagrams)) = receiver.datagrams(index) {
                    for datagram in datagrams {
                        self.traffic.datagrams_in += 1;
                        self.engine.datagram(now, Path { socket, peer }, datagram);
                    }
                }
                let times = self.engine.placed - before;
                if times > 0 {
                    self.stamps.push((self.engine.received.unwrap_or(0), times));
                }
            }
            self.hand_over(); // others can begin meanwhile
            self.send_on(now)?;
            if count < BATCH {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what is due to subscribers, and whatever else waits.
    fn send_on(&mut self, now: Time) -> io::Result<()> {
        self.engine.finish(now);
        self.flush()?;
        if self.stamps.is_empty() {
            return Ok(());
        }
        let sent = sys::wall_nanos();
        for (received, times) in self.stamps.drain(..) {
            let micros = if received == 0 { 0 } else { sent.saturating_sub(received) / 1000 };
            self.traffic.forwarding.observe(micros, times);
        }
        Ok(())
    }

    /// Sends what waits. A datagram that the kernel refuses is dropped and counted, as a network may.
    fn flush(&mut self) -> io::Result<()> {
        if !self.engine.outbox.is_empty() {
            self.send()?;
            self.engine.outbox.clear();
        }
        for socket in self.engine.take_released() {
            self.sockets[socket] = None;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let outbox = &mut self.engine.outbox;
        outbox.sort_by_socket();
        if !self.segments {
            outbox.split_all();
        }
        for from_here in outbox.messages().chunk_by(|one, next| one.path.socket == next.path.socket) {
            let Some(socket) = &self.sockets[from_here[0].path.socket] else { continue };
            let mut rest = from_here;
            let mut waited = false;
            while let Some(first) = rest.first() {
                match self.sender.send(socket, outbox, rest) {
                    Ok(sent) => {
                        let lengths = rest[..sent].iter().map(|message| message.datagrams() as u64);
                        lengths.clone().for_each(|length| self.traffic.segments.observe(length, 1));
                        let datagrams: u64 = lengths.sum();
                        self.traffic.datagrams_out += datagrams;
                        self.traffic.send_batches.observe(datagrams, 1);
                        rest = &rest[sent..];
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if waited {
                            self.traffic.send_dropped += rest.iter().map(Sending::datagrams).sum::<usize>() as u64;
                            break;
                        }
                        waited = true;
                        let mut writable = [libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 }];
                        sys::poll(&mut writable, SEND_PATIENCE)?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if first.datagrams() > 1 => {
                        // This device cannot cut messages, or one datagram is longer than this path takes in one piece.
                        self.segments &= error.raw_os_error() != Some(libc::EIO);
                        for single in Outbox::split(first) {
                            match self.sender.send(socket, outbox, &[single]) {
                                Ok(_) => self.traffic.datagrams_out += 1,
                                Err(_) => self.traffic.send_errors += 1,
                            }
                        }
                        rest = &rest[1..];
                    }
                    Err(_) => {
                        self.traffic.send_errors += 1; // unreachable, forbidden by a firewall, too long: this one only
                        rest = &rest[1..];
                    }
                }
            }
        }
        Ok(())
    }
}

/// Nothing to read now, or an ICMP error of an earlier send.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, OutOfMemory, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock | Interrupted | ConnectionRefused | HostUnreachable | NetworkUnreachable | NetworkDown | OutOfMemory
    )
}
