//! When each packet left, by its transport-wide sequence number: what a peer's feedback is held against.

use crate::time::Time;

/// Packets remembered; a feedback that comes later than these were sent says nothing any more.
const CAPACITY: usize = 2048;

/// A packet that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// When.
    pub at: Time,
    /// Its length on the wire.
    pub bytes: u16,
    /// It is part of this probe; zero: of none.
    pub probe: u8,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    at: Time,
    seq: u16,
    bytes: u16,
    probe: u8,
    holds: bool,
}

/// The newest packets sent to one peer.
pub struct SentPackets {
    slots: Box<[Slot]>,
}

impl Default for SentPackets {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); CAPACITY].into_boxed_slice() }
    }
}

impl SentPackets {
    /// Remembers a packet in place of the one `CAPACITY` before it.
    pub fn push(&mut self, seq: u16, sent: Sent) {
        let slot = &mut self.slots[usize::from(seq) % CAPACITY];
        *slot = Slot { at: sent.at, seq, bytes: sent.bytes, probe: sent.probe, holds: true };
    }

    /// The packet of this number, once: whatever a peer repeats counts only the first time.
    pub fn take(&mut self, seq: u16) -> Option<Sent> {
        let slot = &mut self.slots[usize::from(seq) % CAPACITY];
        let holds = slot.seq == seq && std::mem::take(&mut slot.holds);
        holds.then_some(Sent { at: slot.at, bytes: slot.bytes, probe: slot.probe })
    }

    /// The packet of this number, which a later feedback may still report.
    pub fn peek(&self, seq: u16) -> Option<Sent> {
        let slot = &self.slots[usize::from(seq) % CAPACITY];
        (slot.holds && slot.seq == seq).then_some(Sent { at: slot.at, bytes: slot.bytes, probe: slot.probe })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_found_once_and_only_while_it_is_new() {
        let mut packets = SentPackets::default();
        let sent = |n: u64| Sent { at: Time::from_micros(n), bytes: 100, probe: 0 };
        for n in 0..70_000u64 {
            packets.push(n as u16, sent(n));
        }
        let newest = 69_999u64;
        assert_eq!(packets.peek(newest as u16), Some(sent(newest)));
        assert_eq!(packets.take(newest as u16), Some(sent(newest)));
        assert_eq!(packets.take(newest as u16), None, "said before");
        let forgotten = newest - CAPACITY as u64;
        assert_eq!(packets.take(forgotten as u16), None);
    }
}
