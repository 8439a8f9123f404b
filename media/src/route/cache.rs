//! What was sent to one subscriber lately without RTX, to answer its NACKs with the very same packets; and how often.

use std::collections::VecDeque;
use std::sync::Arc;

use super::history::CAPACITY;
use super::packet::Packet;
use super::rewrite::Rewritten;
use crate::time::{MILLISECOND, SECOND, Time};

/// Older packets come too late to be shown.
pub const MAX_AGE: u64 = 3 * SECOND;
/// Packets of one stream whose repeats are remembered.
const MAX_REMEMBERED: usize = 128;
/// Least time between two repeats of one packet.
const MIN_SPACING: u64 = 20 * MILLISECOND;
/// Repeats of one packet, however often it is asked for.
const MAX_REPEATS: u8 = 6;

/// One sent packet.
#[derive(Debug)]
pub struct Sent {
    /// Where it stood in the subscriber's stream.
    pub rewritten: Rewritten,
    /// What was sent.
    pub packet: Arc<Packet>,
    /// Its RTP header as sent.
    pub header: Box<[u8]>,
    /// Bytes of padding that it was sent with.
    pub padding: usize,
    sent: Time,
}

/// A bounded ring of sent packets.
#[derive(Debug, Default)]
pub struct Cache {
    slots: Vec<Option<Sent>>,
}

impl Cache {
    /// Keeps a packet, in place of the one `CAPACITY` before it.
    pub fn insert(&mut self, rewritten: Rewritten, packet: Arc<Packet>, header: Box<[u8]>, padding: usize, now: Time) {
        if self.slots.is_empty() {
            self.slots.resize_with(CAPACITY, || None);
        }
        let slot = (rewritten.index % CAPACITY as u64) as usize;
        self.slots[slot] = Some(Sent { rewritten, packet, header, padding, sent: now });
    }

    /// The packet of this sequence number, unless it is gone or too old.
    pub fn get(&self, seq: u16, now: Time) -> Option<&Sent> {
        let sent = self.slots.get(usize::from(seq) % CAPACITY)?.as_ref()?;
        (sent.rewritten.index as u16 == seq && now.since(sent.sent) <= MAX_AGE).then_some(sent)
    }

    /// Forgets everything: another track takes this one's place.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
    }
}

/// How often packets of one stream were repeated, and when last.
#[derive(Debug, Default)]
pub struct Repeats {
    made: VecDeque<(u64, Time, u8)>, // by extended sequence number
}

impl Repeats {
    /// Whether a packet may be sent again now; then the repeat counts as made.
    pub fn take(&mut self, index: u64, now: Time, round_trip: u64) -> bool {
        if let Some((_, last, count)) = self.made.iter_mut().find(|(made, ..)| *made == index) {
            let granted = now.since(*last) >= round_trip.max(MIN_SPACING) && *count < MAX_REPEATS;
            if granted {
                (*last, *count) = (now, *count + 1);
            }
            return granted;
        }
        if self.made.len() == MAX_REMEMBERED {
            self.made.pop_front();
        }
        self.made.push_back((index, now, 1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::extensions::Passed;
    use crate::proto::indices::{Counters, Indices};
    use crate::route::frame::Frame;
    use crate::route::packet::Codec;

    fn packet() -> Arc<Packet> {
        Arc::new(Packet {
            index: 0,
            timestamp: 0,
            marker: false,
            codec: Codec::Vp8,
            arrival: Time::default(),
            payload: vec![1],
            frame: Frame::default(),
            counters: Counters::default(),
            dependency: None,
            key_frame: None,
            passed: Passed::default(),
            redundancy: None,
        })
    }

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * MILLISECOND)
    }

    #[test]
    fn packets_are_kept_until_others_take_their_place_or_they_are_old() {
        let mut cache = Cache::default();
        assert!(cache.get(0, at(0)).is_none());
        for index in 65_000..65_600u64 {
            let rewritten = Rewritten {
                index,
                timestamp: 0,
                indices: Indices::default(),
                marker: false,
                blank: false,
                active: None,
            };
            cache.insert(rewritten, packet(), Box::default(), 0, at(0));
        }
        assert!(cache.get(65_000, at(1)).is_none(), "overwritten");
        assert_eq!(cache.get(63, at(1)).map(|sent| sent.rewritten.index), Some(65_599));
        assert!(cache.get(62, at(3001)).is_none(), "too old");
        assert!(cache.get(500, at(1)).is_none(), "never sent");
    }

    #[test]
    fn repeats_are_spaced_and_counted_and_a_flood_of_them_is_forgotten_oldest_first() {
        let mut repeats = Repeats::default();
        assert!(repeats.take(7, at(1), 0));
        assert!(!repeats.take(7, at(10), 0));
        assert!(!repeats.take(7, at(40), 100 * MILLISECOND), "a round trip has not passed");
        let granted = (2..100).filter(|n| repeats.take(7, at(n * 25), 0)).count();
        assert_eq!(granted, usize::from(MAX_REPEATS) - 1);
        for index in 100..1000 {
            assert!(repeats.take(index, at(3000), 0));
        }
        assert_eq!(repeats.made.len(), MAX_REMEMBERED);
    }
}
