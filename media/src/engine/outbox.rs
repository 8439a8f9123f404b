//! Datagrams that wait to be sent: one growing buffer and its cuts, so that a packet costs no allocation.

use std::net::SocketAddr;
use std::ops::Range;

/// Where a datagram goes: which of the sockets, and the peer's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// The socket's place in the list of local addresses.
    pub socket: usize,
    /// The peer.
    pub peer: SocketAddr,
}

/// Datagrams in the order in which they were made.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The buffer that the next datagram is appended to.
    pub bytes: Vec<u8>,
    cuts: Vec<(Path, Range<usize>)>,
}

impl Outbox {
    /// Where the next datagram begins in `bytes`.
    pub fn start(&self) -> usize {
        self.bytes.len()
    }

    /// What was appended since `start` goes to `path`. Gives its length.
    pub fn commit(&mut self, start: usize, path: Path) -> usize {
        self.cuts.push((path, start..self.bytes.len()));
        self.bytes.len() - start
    }

    /// How many datagrams wait.
    pub fn len(&self) -> usize {
        self.cuts.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The waiting datagrams.
    pub fn iter(&self) -> impl Iterator<Item = (Path, &[u8])> {
        self.cuts.iter().map(|(path, range)| (*path, &self.bytes[range.clone()]))
    }

    /// Forgets them: they were sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.cuts.clear();
    }
}
