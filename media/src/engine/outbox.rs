//! Datagrams that wait to be sent: one growing buffer and its cuts, so that a packet costs no allocation.
//!
//! Datagrams to one peer that follow each other, all of one size but for a smaller last one, make up one *message*: the kernel
//! takes it in one piece and cuts it (UDP_SEGMENT). That is what makes sending cheap, so whoever fills the outbox writes
//! all that is for one peer in a row.

use std::net::SocketAddr;

/// Most datagrams of one message that every kernel with UDP_SEGMENT takes.
pub const MAX_SEGMENTS: usize = 64;
/// Most bytes of one message: what an IPv4 datagram may have, less some room for headers.
pub const MAX_MESSAGE: usize = 65_000;

/// Where a datagram goes: which of the sockets, and the peer's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// The socket's place in the list of local addresses.
    pub socket: usize,
    /// The peer.
    pub peer: SocketAddr,
}

/// Datagrams to one peer, which lie one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where they go.
    pub path: Path,
    /// The size of each but the last, which may be smaller.
    pub segment: usize,
    start: usize,
    end: usize,
}

impl Message {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> usize {
        (self.end - self.start).div_ceil(self.segment.max(1))
    }

    fn takes(&self, path: Path, start: usize, end: usize) -> bool {
        let (so_far, length) = (self.end - self.start, end - start);
        self.path == path
            && self.end == start
            && (1..=self.segment).contains(&length)
            && so_far % self.segment == 0
            && so_far / self.segment < MAX_SEGMENTS
            && end - self.start <= MAX_MESSAGE
    }
}

/// Datagrams in the order in which they were made.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The buffer that the next datagram is appended to.
    pub bytes: Vec<u8>,
    messages: Vec<Message>,
}

impl Outbox {
    /// Where the next datagram begins in `bytes`.
    pub fn start(&self) -> usize {
        self.bytes.len()
    }

    /// What was appended since `start` goes to `path`, as one datagram. Gives its length.
    pub fn commit(&mut self, start: usize, path: Path) -> usize {
        let end = self.bytes.len();
        match self.messages.last_mut() {
            Some(last) if last.takes(path, start, end) => last.end = end,
            _ => self.messages.push(Message { path, segment: end - start, start, end }),
        }
        end - start
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many datagrams wait.
    pub fn datagrams(&self) -> usize {
        self.messages.iter().map(Message::datagrams).sum()
    }

    /// The waiting messages.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// All bytes of a message.
    pub fn bytes_of(&self, message: &Message) -> &[u8] {
        &self.bytes[message.start..message.end]
    }

    /// Puts messages from one socket next to each other; those to one peer stay in order.
    pub fn sort_by_socket(&mut self) {
        if !self.messages.is_sorted_by_key(|message| message.path.socket) {
            self.messages.sort_by_key(|message| message.path.socket);
        }
    }

    /// Each datagram of a message as a message of its own.
    pub fn split(message: &Message) -> impl Iterator<Item = Message> + use<> {
        let Message { path, segment, start, end } = *message;
        (start..end).step_by(segment.max(1)).map(move |start| {
            let end = end.min(start + segment);
            Message { path, segment: end - start, start, end }
        })
    }

    /// Makes every datagram a message of its own.
    pub fn split_all(&mut self) {
        if self.messages.iter().any(|message| message.datagrams() > 1) {
            self.messages = self.messages.iter().flat_map(Self::split).collect();
        }
    }

    /// The waiting datagrams.
    pub fn iter(&self) -> impl Iterator<Item = (Path, &[u8])> {
        self.messages.iter().flat_map(|message| {
            self.bytes_of(message).chunks(message.segment.max(1)).map(|datagram| (message.path, datagram))
        })
    }

    /// Forgets them: they were sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path { socket: 0, peer: ([127, 0, 0, 1], port).into() }
    }

    fn commit(outbox: &mut Outbox, port: u16, length: usize) {
        let start = outbox.start();
        outbox.bytes.resize(start + length, port as u8);
        assert_eq!(outbox.commit(start, path(port)), length);
    }

    #[test]
    fn equal_datagrams_to_one_peer_are_one_message_that_a_smaller_one_ends() {
        let mut outbox = Outbox::default();
        for (port, length) in [(1, 100), (1, 100), (1, 40), (1, 40), (1, 41), (2, 41), (1, 41)] {
            commit(&mut outbox, port, length);
        }
        let messages: Vec<_> = outbox.messages().iter().map(|it| (it.path, it.segment, it.datagrams())).collect();
        assert_eq!(
            messages,
            [(path(1), 100, 3), (path(1), 40, 1), (path(1), 41, 1), (path(2), 41, 1), (path(1), 41, 1)]
        );
        let datagrams: Vec<_> = outbox.iter().map(|(path, bytes)| (path.peer.port(), bytes.len())).collect();
        assert_eq!(datagrams, [(1, 100), (1, 100), (1, 40), (1, 40), (1, 41), (2, 41), (1, 41)]);
        assert_eq!(outbox.datagrams(), 7);
        let wanted: Vec<_> = outbox.iter().map(|(path, bytes)| (path, bytes.to_vec())).collect();
        outbox.split_all();
        assert_eq!(outbox.messages().len(), 7);
        assert_eq!(outbox.iter().map(|(path, bytes)| (path, bytes.to_vec())).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_message_has_no_more_datagrams_and_bytes_than_the_kernel_takes() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            commit(&mut outbox, 1, 200);
        }
        assert_eq!(outbox.messages().iter().map(Message::datagrams).collect::<Vec<_>>(), [64, 36]);
        outbox.clear();
        for _ in 0..60 {
            commit(&mut outbox, 1, 2000);
        }
        assert_eq!(outbox.messages().iter().map(Message::datagrams).collect::<Vec<_>>(), [32, 28]);
    }
}
