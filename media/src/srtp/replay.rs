//! One source's place in its 48-bit packet index: roll-over estimation and the replay window (RFC 3711, section 3.3).

/// Packets that may come late and still be told from replays.
const WINDOW: u64 = 128;

/// What has been seen of one source.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketIndex {
    highest: Option<u64>,
    seen: u128, // bit n: `highest - n` was seen
}

impl PacketIndex {
    /// The index that a sequence number most likely stands for (RFC 3711, section 3.3.1).
    pub fn estimate(&self, seq: u16) -> u64 {
        let Some(highest) = self.highest else {
            return u64::from(seq);
        };
        let ahead = i64::from(seq.wrapping_sub(highest as u16) as i16);
        // Before the very first wrap nothing lies further back: then it is the same number ahead.
        highest.checked_add_signed(ahead).unwrap_or(u64::from(seq))
    }

    /// Whether a packet of this index may still be taken.
    pub fn is_new(&self, index: u64) -> bool {
        match self.highest {
            Some(highest) if index <= highest => {
                let behind = highest - index;
                behind < WINDOW && self.seen >> behind & 1 == 0
            }
            _ => true,
        }
    }

    /// Notes an authenticated packet.
    pub fn accept(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => {
                if highest - index < WINDOW {
                    self.seen |= 1 << (highest - index);
                }
            }
            highest => {
                let ahead = index - highest.unwrap_or(index);
                self.seen = if ahead < WINDOW { self.seen << ahead | 1 } else { 1 };
                self.highest = Some(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(position: &mut PacketIndex, seq: u16) -> Option<u64> {
        let index = position.estimate(seq);
        position.is_new(index).then(|| {
            position.accept(index);
            index
        })
    }

    #[test]
    fn the_roll_over_counter_follows_the_sequence_numbers() {
        let mut position = PacketIndex::default();
        assert_eq!(take(&mut position, 65_534), Some(65_534));
        assert_eq!(take(&mut position, 1), Some(65_537));
        assert_eq!(take(&mut position, 65_535), Some(65_535), "late, from before the wrap");
        assert_eq!(take(&mut position, 0), Some(65_536));
        for round in 1..4u64 {
            for seq in [20_000u16, 40_000, 60_000, 5_000] {
                let wrapped = u64::from(seq == 5_000);
                assert_eq!(take(&mut position, seq), Some((round + wrapped) << 16 | u64::from(seq)));
            }
        }
    }

    #[test]
    fn each_packet_is_taken_once_within_the_window() {
        let mut position = PacketIndex::default();
        for seq in (0..1000).step_by(2) {
            assert_eq!(take(&mut position, seq), Some(u64::from(seq)));
            assert_eq!(take(&mut position, seq), None);
        }
        assert_eq!(take(&mut position, 997), Some(997));
        assert_eq!(take(&mut position, 997), None);
        assert_eq!(take(&mut position, 998 - 127), Some(871));
        assert_eq!(take(&mut position, 998 - 129), None, "too old to tell");
    }

    #[test]
    fn an_early_packet_before_the_first_is_no_index_below_zero() {
        let mut position = PacketIndex::default();
        take(&mut position, 3);
        assert_eq!(position.estimate(65_530), 65_530);
        assert_eq!(take(&mut position, 1), Some(1));
    }
}
