//! Sockets and threads around the engine: binds, runs the media thread, carries commands in and events out.
//!
//! One media thread serves all sockets now. With more of them each gets sockets of its own by SO_REUSEPORT and the legs
//! whose send side it owns; the command queue below is then one per thread.

mod addresses;
#[allow(unsafe_code)] // the system calls that std has no names for; each use says why it is sound
mod sys;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_dialling;
mod thread;
mod traffic;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

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

/// What the media thread tells besides the engine's events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// An event of the engine.
    Engine(Event),
    /// The thread panicked or lost its socket; nothing works any more.
    Failed(String),
}

/// The media core does not answer: its thread failed or hangs.
#[derive(Debug)]
pub struct Unavailable;

enum Message {
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

/// What the threads and the handle share. Nothing here is touched per packet.
struct Shared {
    inbox: Mutex<VecDeque<Message>>,
    wake: EventFd,
    notices: Mutex<VecDeque<Notice>>,
    notify: EventFd,
    published: Mutex<Arc<Snapshot>>,
    failed: AtomicBool,
    stopped: AtomicBool,
}

/// A panic elsewhere leaves a queue as it was: it may still be read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn post(&self, message: Message) {
        lock(&self.inbox).push_back(message);
        self.wake.signal();
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
        lock(&self.inbox).clear(); // whoever waits for an answer learns that none will come
    }
}

/// A running media core.
pub struct MediaCore {
    shared: Arc<Shared>,
    binds: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl MediaCore {
    /// Binds one socket per address (0.0.0.0 stands for every local IPv4 address) and starts the media thread.
    ///
    /// A port of 0 is chosen by the system, the same one for all addresses of one 0.0.0.0.
    pub fn start(binds: &[SocketAddr]) -> io::Result<Self> {
        let sockets = addresses::bind(binds)?;
        let local = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            wake: EventFd::new()?,
            notices: Mutex::default(),
            notify: EventFd::new()?,
            published: Mutex::default(),
            failed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let thread = thread::spawn(sockets, Arc::clone(&shared))?;
        Ok(Self { shared, binds: binds.to_vec(), local, thread: Mutex::new(Some(thread)) })
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
        self.shared.post(Message::Command(command));
        Ok(())
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
            self.shared.post(Message::Connect(Connect { socket, leg, ufrag, pwd, candidates }));
        }))
    }

    /// Queues a command and waits until it was carried out and everything before it was sent.
    pub fn command_and_wait(&self, command: Command) -> Result<(), Unavailable> {
        self.ask(|reply| Message::Synchronous(command, reply)).map(|_| ())
    }

    /// Every counter and gauge; nothing once shut down.
    pub fn stats(&self) -> Result<Stats, Unavailable> {
        Ok(self.ask(Message::Stats)?.unwrap_or_default())
    }

    /// What was measured, as published last, at most a second ago. The media thread is not asked.
    pub fn published(&self) -> Result<Arc<Snapshot>, Unavailable> {
        self.check()?;
        Ok(Arc::clone(&lock(&self.shared.published)))
    }

    /// What is known of one leg.
    pub fn leg_stats(&self, leg: LegId) -> Result<Option<Stats>, Unavailable> {
        Ok(self.ask(|reply| Message::LegStats(leg, reply))?.flatten())
    }

    /// What each leg has sent and was sent; nothing once shut down.
    pub fn traffic(&self) -> Result<Traffic, Unavailable> {
        Ok(self.ask(Message::Traffic)?.unwrap_or_default())
    }

    /// Stops and joins the media thread and closes the sockets. May be called again.
    pub fn shutdown(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.post(Message::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // a panic was caught and told inside
        }
    }

    fn check(&self) -> Result<(), Unavailable> {
        if self.shared.failed.load(Ordering::Acquire) { Err(Unavailable) } else { Ok(()) }
    }

    /// Asks the media thread; `None` once it was shut down.
    fn ask<T>(&self, message: impl FnOnce(SyncSender<T>) -> Message) -> Result<Option<T>, Unavailable> {
        self.check()?;
        if self.shared.stopped.load(Ordering::Acquire) {
            return Ok(None);
        }
        let (reply, answer): (_, Receiver<T>) = sync_channel(1);
        self.shared.post(message(reply));
        answer.recv_timeout(PATIENCE).map(Some).map_err(|_| Unavailable)
    }
}

impl Drop for MediaCore {
    fn drop(&mut self) {
        self.shutdown();
    }
}
