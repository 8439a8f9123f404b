//! Which packets of a video source are missing: what to NACK, and whether a repaired packet is still wanted (RFC 4585).

use std::collections::BTreeMap;

use crate::time::{MILLISECOND, Time};

/// Most packets of one source that are waited for.
const MAX_MISSING: usize = 256;
/// A larger gap is no loss to repair: the picture starts anew.
const MAX_GAP: u64 = 1000;
/// How far before the first packet another may lie that the network overtook.
const MAX_BEFORE_FIRST: u64 = 32;
/// Reordered packets get this long before they are asked for.
const REORDERING: u64 = 10 * MILLISECOND;
/// Least time between two requests for one packet.
const MIN_SPACING: u64 = 30 * MILLISECOND;
/// Requests for one packet before it is given up.
const MAX_REQUESTS: u8 = 10;

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is wanted.
    Wanted,
    /// It came before, or was given up.
    Unwanted,
    /// It is wanted, but so much before it is lost that only a key frame helps.
    AfterGap,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    since: Time,
    requested: Time,
    requests: u8,
}

/// The holes in one source's sequence.
#[derive(Debug, Default)]
pub struct Missing {
    first: u64,
    highest: Option<u64>,
    holes: BTreeMap<u64, Hole>,
}

impl Missing {
    /// Notes a packet, whether it came by itself or as a repair.
    pub fn on_packet(&mut self, index: u64, now: Time) -> Arrival {
        let hole = Hole { since: now, requested: now, requests: 0 };
        let Some(highest) = self.highest else {
            self.first = index;
            self.highest = Some(index);
            return Arrival::Wanted;
        };
        if index < self.first && self.first - index <= MAX_BEFORE_FIRST {
            self.holes.extend((index + 1..self.first).map(|lost| (lost, hole)));
            self.first = index;
            return Arrival::Wanted;
        }
        if index <= highest {
            return if self.holes.remove(&index).is_some() { Arrival::Wanted } else { Arrival::Unwanted };
        }
        self.highest = Some(index);
        if index - highest > MAX_GAP {
            self.holes.clear();
            return Arrival::AfterGap;
        }
        self.holes.extend((highest + 1..index).map(|lost| (lost, hole)));
        while self.holes.len() > MAX_MISSING {
            self.holes.pop_first();
        }
        Arrival::Wanted
    }

    /// The extended number of a repaired packet.
    pub fn estimate(&self, seq: u16) -> Option<u64> {
        let highest = self.highest?;
        highest.checked_add_signed(i64::from(seq.wrapping_sub(highest as u16) as i16))
    }

    /// Whether there is anything to ask for, now or later.
    pub fn is_empty(&self) -> bool {
        self.holes.is_empty()
    }

    /// What to ask for now, ascending; what was asked for often enough is given up.
    pub fn due(&mut self, now: Time, round_trip: u64) -> Vec<u16> {
        let spacing = round_trip.max(MIN_SPACING);
        self.holes.retain(|_, hole| hole.requests < MAX_REQUESTS || now.since(hole.requested) < spacing);
        let mut due = Vec::new();
        for (index, hole) in &mut self.holes {
            let ready = match hole.requests {
                0 => now.since(hole.since) >= REORDERING,
                requests => requests < MAX_REQUESTS && now.since(hole.requested) >= spacing,
            };
            if ready {
                hole.requests += 1;
                hole.requested = now;
                due.push(*index as u16);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * MILLISECOND)
    }

    #[test]
    fn a_lost_packet_is_asked_for_at_round_trips_and_then_given_up() {
        let mut missing = Missing::default();
        missing.on_packet(65_535, at(0));
        missing.on_packet(65_538, at(0));
        assert_eq!(missing.due(at(5), 0), [], "reordering gets its time");
        assert_eq!(missing.due(at(10), 100 * MILLISECOND), [0, 1]);
        assert_eq!(missing.due(at(60), 100 * MILLISECOND), []);
        assert_eq!(missing.on_packet(65_536, at(70)), Arrival::Wanted);
        let asked: usize = (1..100).map(|n| missing.due(at(10 + n * 100), 100 * MILLISECOND).len()).sum();
        assert_eq!(asked, usize::from(MAX_REQUESTS) - 1);
        assert!(missing.is_empty());
        assert_eq!(missing.on_packet(65_537, at(20_000)), Arrival::Unwanted, "given up");
    }

    #[test]
    fn a_packet_that_was_repaired_is_not_taken_again() {
        let mut missing = Missing::default();
        for index in [10, 12] {
            missing.on_packet(index, at(0));
        }
        assert_eq!(missing.estimate(11), Some(11));
        assert_eq!(missing.on_packet(11, at(1)), Arrival::Wanted);
        assert_eq!(missing.on_packet(11, at(2)), Arrival::Unwanted);
        assert_eq!(missing.on_packet(12, at(2)), Arrival::Unwanted);
    }

    #[test]
    fn what_the_first_packet_overtook_is_wanted() {
        let mut missing = Missing::default();
        missing.on_packet(100, at(0));
        assert_eq!(missing.on_packet(98, at(1)), Arrival::Wanted);
        assert_eq!(missing.on_packet(98, at(1)), Arrival::Unwanted);
        assert_eq!(missing.on_packet(99, at(2)), Arrival::Wanted);
        assert_eq!(missing.on_packet(50, at(2)), Arrival::Unwanted);
    }

    #[test]
    fn gaps_cost_a_bounded_list() {
        let mut missing = Missing::default();
        missing.on_packet(0, at(0));
        assert_eq!(missing.on_packet(900, at(0)), Arrival::Wanted);
        assert_eq!(missing.due(at(20), 0).len(), MAX_MISSING);
        assert_eq!(missing.on_packet(30_000, at(20)), Arrival::AfterGap);
        assert!(missing.is_empty());
    }
}
