//! What was sent to one subscriber lately, kept to answer its NACKs; payloads are shared among subscribers.

use std::sync::Arc;

use super::packet::Packet;
use super::rewrite::Rewritten;
use crate::time::{MILLISECOND, SECOND, Time};

/// Packets kept per sent source: some two seconds of the highest layer.
const CAPACITY: usize = 512;
/// Older packets come too late to be shown.
const MAX_AGE: u64 = 3 * SECOND;
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
    /// Its RTP header as sent, kept only where a repeat must be the very same packet (no RTX).
    pub header: Option<Box<[u8]>>,
    sent: Time,
    repeated: Option<Time>,
    repeats: u8,
}

/// A bounded ring of sent packets.
#[derive(Debug, Default)]
pub struct Cache {
    slots: Vec<Option<Sent>>,
}

impl Cache {
    /// Keeps a packet, in place of the one `CAPACITY` before it.
    pub fn insert(&mut self, rewritten: Rewritten, packet: Arc<Packet>, header: Option<Box<[u8]>>, now: Time) {
        if self.slots.is_empty() {
            self.slots.resize_with(CAPACITY, || None);
        }
        let slot = (rewritten.index % CAPACITY as u64) as usize;
        self.slots[slot] = Some(Sent { rewritten, packet, header, sent: now, repeated: None, repeats: 0 });
    }

    /// The packet of this sequence number, if it may be sent again now; the repeat counts as made.
    pub fn repeat(&mut self, seq: u16, now: Time, round_trip: u64) -> Option<&Sent> {
        if self.slots.is_empty() {
            return None;
        }
        let sent = self.slots[usize::from(seq) % CAPACITY].as_mut()?;
        let spaced = sent.repeated.is_none_or(|last| now.since(last) >= round_trip.max(MIN_SPACING));
        let fits = sent.rewritten.index as u16 == seq && now.since(sent.sent) <= MAX_AGE;
        if !fits || !spaced || sent.repeats >= MAX_REPEATS {
            return None;
        }
        sent.repeats += 1;
        sent.repeated = Some(now);
        Some(sent)
    }

    /// Forgets everything: another track takes this one's place.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::vp8::Indices;
    use crate::route::packet::Codec;

    fn packet() -> Arc<Packet> {
        Arc::new(Packet {
            index: 0,
            timestamp: 0,
            marker: false,
            codec: Codec::Vp8,
            arrival: Time::default(),
            payload: vec![1],
            descriptor: None,
            key_frame: None,
            audio_level: None,
            orientation: None,
        })
    }

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * MILLISECOND)
    }

    #[test]
    fn repeats_are_spaced_counted_and_end_with_age() {
        let mut cache = Cache::default();
        assert!(cache.repeat(0, at(0), 0).is_none());
        for index in 65_000..65_600u64 {
            let rewritten = Rewritten { index, timestamp: 0, indices: Indices::default() };
            cache.insert(rewritten, packet(), None, at(0));
        }
        assert!(cache.repeat(65_000, at(1), 0).is_none(), "overwritten");
        assert_eq!(cache.repeat(63, at(1), 0).map(|sent| sent.rewritten.index), Some(65_599));
        assert!(cache.repeat(63, at(10), 0).is_none());
        assert!(cache.repeat(63, at(40), 100 * MILLISECOND).is_none(), "a round trip has not passed");
        let repeats = (2..100).filter(|n| cache.repeat(63, at(n * 25), 0).is_some()).count();
        assert_eq!(repeats, usize::from(MAX_REPEATS) - 1);
        assert!(cache.repeat(62, at(3001), 0).is_none(), "too old");
        assert!(cache.repeat(500, at(1), 0).is_none(), "never sent");
    }
}
