//! Sockets and threads around the engines: binds, runs the media threads, carries commands in and events out.
//!
//! Each thread has an engine and, for every local address, a socket of its own on the one port (SO_REUSEPORT): the kernel
//! gives what comes from one peer's address always to the same thread. Commands go to all of them; what the engines have to
//! tell each other goes from thread to thread ([`crate::engine::crossing`]), a batch at a time.

mod addresses;
#[allow(unsafe_code)] // the system calls that std has no names for; each use says why it is sound
mod sys;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_dialling;
mod thread;
mod traffic;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::crossing::{Crossing, Home};
use crate::engine::plan::LegId;
use crate::engine::{Command, Event};
use crate::measure::Snapshot;
use sys::EventFd;

/// How long a question waits for the media thread, which answers within a millisecond or is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that may wait to be polled; beyond it DTLS is dropped, as a network may.
const MAX_EVENTS: usize = 16_384;

/// Named numbers.
pub type Stats = Vec<(&'static str, u64)>;
/// Bytes of RTP that came from and were sent to each leg.
pub type Traffic = Vec<(LegId, u64, u64)>;

/// What the media threads tell besides the engine's events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// An event of the engine.
    Engine(Event),
    /// A thread panicked or lost its socket; nothing works any more.
    Failed(String),
}

/// The media core does not answer: its thread failed or hangs.
#[derive(Debug)]
pub struct Unavailable;

enum Message {
    /// `Command::AddLeg`, with what tells all threads where the leg lives.
    AddLeg {
        leg: LegId,
        ufrag: String,
        pwd: String,
        home: Home,
    },
    Command(Command),
    Connect(Connect),
    /// Carried out, and all earlier output sent, before it is acknowledged.
    Synchronous(Command, SyncSender<()>),
    Stats(SyncSender<Stats>),
    LegStats(LegId, SyncSender<Option<Stats>>),
    Traffic(SyncSender<Traffic>),
    Stop,
    #[cfg(test)]
    Panic,
}

/// `Command::Connect` with the socket that gets its place in the thread.
struct Connect {
    socket: UdpSocket,
    leg: LegId,
    ufrag: String,
    pwd: String,
    candidates: Vec<SocketAddr>,
}

/// What others put in for one thread.
struct Mailbox {
    messages: Mutex<VecDeque<Message>>,
    crossing: Mutex<Crossing>,
    wake: EventFd,
    published: Mutex<Arc<Snapshot>>,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        let (messages, crossing, published) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { messages, crossing, wake: EventFd::new()?, published })
    }

    fn post(&self, message: Message) {
        lock(&self.messages).push_back(message);
        self.wake.signal();
    }

    /// Takes over what one engine has for this thread's. Gives how many packets and datagrams were dropped.
    fn carry(&self, crossing: &mut Crossing) -> usize {
        let mut waiting = lock(&self.crossing);
        let was_empty = waiting.is_empty(); // else somebody has signalled already
        let dropped = waiting.append(crossing);
        drop(waiting);
        if was_empty {
            self.wake.signal();
        }
        dropped
    }
}

/// What the threads and the handle share. Nothing here is touched per packet.
struct Shared {
    mailboxes: Vec<Mailbox>,
    notices: Mutex<VecDeque<Notice>>,
    notify: EventFd,
    failed: AtomicBool,
    stopped: AtomicBool,
}

/// A panic elsewhere leaves a queue as it was: it may still be read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Posts a message to each thread.
    fn post_all(&self, message: impl Fn() -> Message) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(message()));
    }

    fn notify(&self, notices: impl IntoIterator<Item = Notice>) {
        let mut queue = lock(&self.notices);
        let before = queue.len();
        for notice in notices {
            let droppable = matches!(notice, Notice::Engine(Event::Dtls(..)));
            if !droppable || queue.len() < MAX_EVENTS {
                queue.push_back(notice);
            }
        }
        if queue.len() > before {
            self.notify.signal();
        }
    }

    fn fail(&self, message: String) {
        self.failed.store(true, Ordering::Release);
        self.notify([Notice::Failed(message)]);
        // Whoever waits for an answer learns that none will come.
        self.mailboxes.iter().for_each(|mailbox| lock(&mailbox.messages).clear());
    }
}

/// A running media core.
pub struct MediaCore {
    shared: Arc<Shared>,
    binds: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    homes: Mutex<HashMap<LegId, Home>>,
    dialled: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl MediaCore {
    /// Binds a socket for each address (0.0.0.0 stands for every local IPv4 address) and thread, and starts the threads.
    ///
    /// A port of 0 is chosen by the system, the same one for all addresses of one 0.0.0.0.
    pub fn start(binds: &[SocketAddr], threads: usize) -> io::Result<Self> {
        let sockets = addresses::bind(binds, threads)?;
        let local = sockets[0].iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            mailboxes: sockets.iter().map(|_| Mailbox::new()).collect::<io::Result<_>>()?,
            notices: Mutex::default(),
            notify: EventFd::new()?,
            failed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let core = Self {
            shared: Arc::clone(&shared),
            binds: binds.to_vec(),
            local,
            homes: Mutex::default(),
            dialled: AtomicUsize::new(0),
            threads: Mutex::default(),
        };
        let clock = thread::Clock::start();
        for (index, sockets) in sockets.into_iter().enumerate() {
            let thread = thread::spawn(index, sockets, Arc::clone(&shared), clock)?;
            lock(&core.threads).push(thread);
        }
        Ok(core)
    }

    /// The addresses that are bound.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local
    }

    /// An eventfd that is readable while `poll` has something.
    pub fn event_fd(&self) -> RawFd {
        self.shared.notify.as_raw_fd()
    }

    /// What happened since the last call.
    pub fn poll(&self) -> VecDeque<Notice> {
        let mut queue = lock(&self.shared.notices);
        self.shared.notify.clear();
        std::mem::take(&mut *queue)
    }

    /// Queues a command.
    pub fn command(&self, command: Command) -> Result<(), Unavailable> {
        self.check()?;
        match command {
            Command::AddLeg { leg, ufrag, pwd } => {
                let home = lock(&self.homes).entry(leg).or_default().clone();
                self.shared.post_all(|| Message::AddLeg {
                    leg,
                    ufrag: ufrag.clone(),
                    pwd: pwd.clone(),
                    home: home.clone(),
                });
            }
            Command::SendDtls { leg, .. } => self.mailbox_of(leg).post(Message::Command(command)),
            command => self.shared.post_all(|| Message::Command(command.clone())),
        }
        Ok(())
    }

    /// That of the thread where a leg lives; of the first one while it lives nowhere.
    fn mailbox_of(&self, leg: LegId) -> &Mailbox {
        let home = lock(&self.homes).get(&leg).and_then(Home::get);
        &self.shared.mailboxes[home.unwrap_or(0)]
    }

    /// Binds a socket for a leg that was added, and queues that it dials these addresses from it.
    ///
    /// The inner error is that of the socket.
    pub fn connect(
        &self,
        leg: LegId,
        ufrag: String,
        pwd: String,
        candidates: &[SocketAddr],
    ) -> Result<io::Result<()>, Unavailable> {
        self.check()?;
        Ok(addresses::bind_to_dial(&self.binds, candidates).map(|(socket, candidates)| {
            if let Some(home) = lock(&self.homes).get(&leg) {
                // No datagram decides where it lives: such legs take turns.
                home.claim(self.dialled.fetch_add(1, Ordering::Relaxed) % self.shared.mailboxes.len());
            }
            self.mailbox_of(leg).post(Message::Connect(Connect { socket, leg, ufrag, pwd, candidates }));
        }))
    }

    /// Queues a command and waits until it was carried out and everything before it was sent.
    pub fn command_and_wait(&self, command: Command) -> Result<(), Unavailable> {
        if let Command::RemoveLeg { leg } = &command {
            lock(&self.homes).remove(leg);
        }
        self.ask_all(|reply| Message::Synchronous(command.clone(), reply)).map(|_| ())
    }

    /// Every counter and gauge; nothing once shut down.
    pub fn stats(&self) -> Result<Stats, Unavailable> {
        let mut all = Stats::new();
        for (name, value) in self.ask_all(Message::Stats)?.into_iter().flatten() {
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => all.push((name, value)),
            }
        }
        Ok(all)
    }

    /// What was measured, as published last, at most a second ago. The media threads are not asked.
    pub fn published(&self) -> Result<Arc<Snapshot>, Unavailable> {
        self.check()?;
        let mut published = self.shared.mailboxes.iter().map(|mailbox| Arc::clone(&lock(&mailbox.published)));
        let first = published.next().unwrap_or_default();
        Ok(published.fold(first, |mut all, other| {
            Arc::make_mut(&mut all).add(&other);
            all
        }))
    }

    /// What is known of one leg.
    pub fn leg_stats(&self, leg: LegId) -> Result<Option<Stats>, Unavailable> {
        Ok(self.ask(self.mailbox_of(leg), |reply| Message::LegStats(leg, reply))?.flatten())
    }

    /// What each leg has sent and was sent; nothing once shut down.
    pub fn traffic(&self) -> Result<Traffic, Unavailable> {
        Ok(self.ask_all(Message::Traffic)?.into_iter().flatten().collect())
    }

    /// Stops and joins the media threads and closes the sockets. May be called again.
    pub fn shutdown(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.post_all(|| Message::Stop);
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join(); // a panic was caught and told inside
        }
    }

    fn check(&self) -> Result<(), Unavailable> {
        if self.shared.failed.load(Ordering::Acquire) { Err(Unavailable) } else { Ok(()) }
    }

    /// Asks a media thread; `None` once it was shut down.
    fn ask<T>(
        &self,
        mailbox: &Mailbox,
        message: impl FnOnce(SyncSender<T>) -> Message,
    ) -> Result<Option<T>, Unavailable> {
        self.check()?;
        if self.shared.stopped.load(Ordering::Acquire) {
            return Ok(None);
        }
        let (reply, answer): (_, Receiver<T>) = sync_channel(1);
        mailbox.post(message(reply));
        answer.recv_timeout(PATIENCE).map(Some).map_err(|_| Unavailable)
    }

    /// Asks all media threads at once; nothing once they were shut down.
    fn ask_all<T>(&self, message: impl Fn(SyncSender<T>) -> Message) -> Result<Vec<T>, Unavailable> {
        self.check()?;
        if self.shared.stopped.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        let ask = |mailbox: &Mailbox| {
            let (reply, answer): (_, Receiver<T>) = sync_channel(1);
            mailbox.post(message(reply));
            answer
        };
        let answers: Vec<_> = self.shared.mailboxes.iter().map(ask).collect();
        answers.iter().map(|answer| answer.recv_timeout(PATIENCE).map_err(|_| Unavailable)).collect()
    }
}

impl Drop for MediaCore {
    fn drop(&mut self) {
        self.shutdown();
    }
}
