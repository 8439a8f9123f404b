//! Which of the layers within one stream a subscriber gets: spatial and temporal ones (SVC), cut where decoders can follow.

use super::frame::{Cell, Reader};
use super::packet::Packet;
use super::rewrite::Rewritten;
use crate::proto::dependency::MAX_SPATIAL;

/// The cut through the layers of the source that a subscriber gets.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    current: Cell,
    /// Up to where it should go.
    pub wanted: Cell,
    whole: [bool; MAX_SPATIAL], // spatial layers of which nothing is missing that a decoder would refer to
    named: bool,                // the decode targets were named, and are so from now on
}

impl Default for Cut {
    fn default() -> Self {
        Self { current: Cell::ALL, wanted: Cell::ALL, whole: [true; MAX_SPATIAL], named: false }
    }
}

impl Cut {
    /// Where it is.
    pub fn current(&self) -> Cell {
        self.current
    }

    /// It cannot get to where it should without a key frame.
    pub fn waits(&self) -> bool {
        let (now, wanted) = (self.current.spatial, self.wanted.spatial);
        wanted > now || (wanted < now && !self.whole[usize::from(wanted)])
    }

    /// Another layer or source begins, with a key frame.
    pub fn enter(&mut self) {
        *self = Self { wanted: self.wanted, current: self.wanted, ..Self::default() };
    }

    /// Whether a packet of the source is for the subscriber. Asked of each packet in turn.
    pub fn passes(&mut self, packet: &Packet) -> bool {
        let frame = &packet.frame;
        if packet.key_frame.is_some() {
            (self.current, self.whole) = (self.wanted, [true; MAX_SPATIAL]);
        } else if frame.starts && self.current != self.wanted {
            self.step(packet);
        }
        let passes = frame.needed.has(self.current);
        let whole = &mut self.whole[usize::from(frame.layer.spatial)];
        if !passes {
            *whole &= frame.layer.temporal > self.current.temporal;
        } else if frame.starts && !frame.predicted {
            *whole = true;
        }
        passes
    }

    /// Goes towards what is wanted, as far as this frame permits.
    fn step(&mut self, packet: &Packet) {
        let frame = &packet.frame;
        let (now, wanted) = (self.current, self.wanted);
        if wanted.temporal < now.temporal && frame.layer.spatial == 0 {
            self.current.temporal = wanted.temporal;
        }
        let steps = (now.temporal + 1..=wanted.temporal).rev().map(|temporal| Cell { temporal, ..now });
        if let Some(up) = steps.into_iter().find(|up| frame.switch.has(*up) && now.temporal >= frame.switch_from) {
            self.current = up;
        }
        if wanted.spatial < now.spatial && frame.layer.spatial == 0 && self.whole[usize::from(wanted.spatial)] {
            self.current.spatial = wanted.spatial;
        }
        let next = now.spatial + 1;
        let reached = frame.layer.spatial == next && frame.layer.temporal <= now.temporal && !frame.predicted;
        if wanted.spatial > now.spatial && reached && self.whole[usize::from(now.spatial)] {
            self.current.spatial = next;
        }
    }

    /// Notes in a packet's place what the cut changes of it: the picture's last packet is marked, what is sent is named.
    pub fn apply(&mut self, rewritten: &mut Rewritten, packet: &Packet, reader: &Reader) {
        rewritten.marker |= self.marks(packet);
        let tells = packet.frame.starts && packet.frame.layer.temporal == 0;
        if packet.dependency.is_some() && tells {
            let active = reader.mask(self.current);
            self.named |= active != reader.mask(Cell::ALL);
            rewritten.active = active.filter(|_| self.named);
        }
    }

    /// Whether a packet is the last of its picture for the subscriber.
    pub fn marks(&self, packet: &Packet) -> bool {
        packet.frame.ends && packet.frame.layer.spatial == self.current.spatial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dependency::samples::{Described, Describer};
    use crate::proto::extensions::Passed;
    use crate::proto::indices::Indices;
    use crate::route::packet::Codec;
    use crate::time::Time;
    use proptest::prelude::*;

    /// The temporal layers of pictures, one after the other.
    const PATTERN: [u8; 4] = [0, 2, 1, 2];

    /// An encoder of three spatial and three temporal layers; each frame is one packet.
    struct Encoder {
        codec: Codec,
        key_only: bool,
        reader: Reader,
        picture: u32,
        key: u32, // picture of the newest key frame
        number: u16,
    }

    /// A frame by picture and spatial layer.
    type Id = (u32, u8);

    impl Encoder {
        fn new(codec: Codec, key_only: bool) -> Self {
            Self { codec, key_only, reader: Reader::default(), picture: 0, key: 0, number: 0 }
        }

        fn temporal(&self, picture: u32) -> u8 {
            PATTERN[(picture - self.key) as usize % 4]
        }

        /// The next picture: each spatial layer's frame with what it refers to.
        fn next(&mut self, key: bool) -> Vec<(Packet, Id, Vec<Id>)> {
            self.picture += 1;
            if key {
                self.key = self.picture;
            }
            let (picture, temporal) = (self.picture, self.temporal(self.picture));
            let key = picture == self.key;
            (0..3)
                .map(|spatial| {
                    let mut refers = Vec::new();
                    if !key {
                        let lower = |at: &u32| self.temporal(*at) < temporal || self.temporal(*at) == 0;
                        refers.push(((self.key..picture).rev().find(lower).unwrap(), spatial));
                    }
                    if spatial > 0 && (key || !self.key_only) {
                        refers.push((picture, spatial - 1));
                    }
                    (self.packet((spatial, temporal), key), (picture, spatial), refers)
                })
                .collect()
        }

        fn packet(&mut self, layer: (u8, u8), key: bool) -> Packet {
            self.number = self.number.wrapping_add(1);
            let (spatial, temporal) = layer;
            let lone = self.key_only && !key;
            let (payload, described) = match self.codec {
                Codec::Vp9 => {
                    let first = 0x2c | u8::from(!key) << 6 | u8::from(lone && spatial < 2);
                    (vec![first, temporal << 5 | u8::from(temporal > 0) << 4 | spatial << 1, 7, 9], None)
                }
                _ => {
                    let describer = Describer { spatial: 3, temporal: 3, key_only: self.key_only };
                    let described = Described { number: self.number, layer, key, starts: true, ends: true };
                    (vec![0x10, 1], Some(describer.write(described)))
                }
            };
            let timestamp = self.picture * 3000;
            let read = self.reader.read(self.codec, timestamp, &payload, described.as_deref()).unwrap();
            Packet {
                index: u64::from(self.number),
                timestamp,
                marker: spatial == 2,
                codec: self.codec,
                arrival: Time::default(),
                frame: read.frame,
                counters: read.counters,
                dependency: read.dependency,
                key_frame: read.key_frame,
                payload,
                passed: Passed::default(),
                redundancy: None,
            }
        }
    }

    fn rewritten() -> Rewritten {
        let indices = Indices::default();
        Rewritten { index: 0, timestamp: 0, indices, marker: false, blank: false, active: None }
    }

    /// The layers of what passes of the next pictures, and where pictures end.
    fn passing(encoder: &mut Encoder, cut: &mut Cut, pictures: usize) -> Vec<(u8, u8, bool)> {
        let mut passed = Vec::new();
        for (packet, ..) in (0..pictures).flat_map(|_| encoder.next(false)).collect::<Vec<_>>() {
            if cut.passes(&packet) {
                let mut place = rewritten();
                cut.apply(&mut place, &packet, &encoder.reader);
                passed.push((packet.frame.layer.spatial, packet.frame.layer.temporal, place.marker));
            }
        }
        passed
    }

    #[test]
    fn a_small_tile_gets_the_lowest_picture_and_a_large_one_waits_for_a_key_frame() {
        for codec in [Codec::Vp9, Codec::Av1] {
            let (mut encoder, mut cut) = (Encoder::new(codec, true), Cut::default());
            cut.wanted = Cell::new(0, 7);
            cut.enter();
            for (packet, ..) in encoder.next(true) {
                assert_eq!(cut.passes(&packet), packet.frame.layer.spatial == 0);
            }
            let lowest = passing(&mut encoder, &mut cut, 3);
            assert_eq!(lowest, [(0, 2, true), (0, 1, true), (0, 2, true)], "and each packet ends a picture");
            cut.wanted = Cell::new(2, 7);
            assert!(cut.waits());
            assert_eq!(passing(&mut encoder, &mut cut, 2).len(), 2, "still the lowest");
            assert_eq!(encoder.next(true).iter().filter(|(packet, ..)| cut.passes(packet)).count(), 3);
            assert!(!cut.waits());
            let highest = passing(&mut encoder, &mut cut, 2);
            assert_eq!(highest, [(2, 2, true), (2, 1, true)], "the lower ones are needed at key frames only");
            cut.wanted = Cell::new(0, 7);
            assert!(cut.waits(), "of the lowest layer frames are missing");
        }
    }

    #[test]
    fn where_all_layers_are_needed_the_picture_becomes_smaller_at_once() {
        for codec in [Codec::Vp9, Codec::Av1] {
            let (mut encoder, mut cut) = (Encoder::new(codec, false), Cut::default());
            cut.enter();
            assert!(encoder.next(true).iter().all(|(packet, ..)| cut.passes(packet)));
            assert_eq!(passing(&mut encoder, &mut cut, 1).len(), 3);
            cut.wanted = Cell::new(1, 0);
            assert!(!cut.waits());
            let lower = passing(&mut encoder, &mut cut, 4);
            assert_eq!(lower, [(0, 0, false), (1, 0, true)], "two layers of every fourth picture");
        }
    }

    #[test]
    fn vp8_gets_fewer_pictures_at_once_and_more_where_a_picture_refers_to_the_lowest_layer_only() {
        let mut encoder = Encoder::new(Codec::Vp9, false);
        let mut passes = |cut: &mut Cut, temporal: u8, sync: bool| {
            let mut packet = encoder.packet((0, 0), false);
            let payload = [0x90, 0x20, temporal << 6 | u8::from(sync) << 5, 1];
            packet.frame = encoder.reader.read(Codec::Vp8, 0, &payload, None).unwrap().frame;
            cut.passes(&packet)
        };
        let mut cut = Cut::default();
        assert!([0, 2, 1, 2].iter().all(|temporal| passes(&mut cut, *temporal, false)));
        cut.wanted = Cell { temporal: 0, ..Cell::ALL };
        assert!(!cut.waits());
        assert_eq!([0, 2, 1, 2].map(|temporal| passes(&mut cut, temporal, true)), [true, false, false, false]);
        cut.wanted = Cell::ALL;
        assert_eq!([2, 1, 0].map(|temporal| passes(&mut cut, temporal, false)), [false, false, true]);
        assert!(passes(&mut cut, 1, true) && !passes(&mut cut, 2, false) && passes(&mut cut, 2, true));
    }

    #[test]
    fn decode_targets_are_named_from_the_first_cut_on() {
        let (mut encoder, mut cut) = (Encoder::new(Codec::Av1, false), Cut::default());
        cut.enter();
        assert!(encoder.next(true).iter().all(|(packet, ..)| cut.passes(packet)));
        let named = |encoder: &mut Encoder, cut: &mut Cut| {
            let mut named = Vec::new();
            for (packet, ..) in (0..4).flat_map(|_| encoder.next(false)).collect::<Vec<_>>() {
                let mut place = rewritten();
                if cut.passes(&packet) {
                    cut.apply(&mut place, &packet, &encoder.reader);
                }
                named.extend(place.active);
            }
            named
        };
        assert!(named(&mut encoder, &mut cut).is_empty(), "everything is sent");
        cut.wanted = Cell::new(0, 1);
        let lowest = named(&mut encoder, &mut cut);
        assert!(!lowest.is_empty() && lowest.iter().all(|mask| *mask == 0b011), "{lowest:?}");
        cut.wanted = Cell::new(0, 7);
        assert_eq!(named(&mut encoder, &mut cut).last(), Some(&0b111));
    }

    proptest! {
        #[test]
        fn whatever_is_wanted_all_that_passes_can_be_decoded(
            av1 in any::<bool>(),
            key_only in any::<bool>(),
            steps in proptest::collection::vec((0u8..12, 0u8..4, 0u8..4), 1..120),
        ) {
            let codec = if av1 { Codec::Av1 } else { Codec::Vp9 };
            let (mut encoder, mut cut) = (Encoder::new(codec, key_only), Cut::default());
            let mut decoded = std::collections::HashSet::new();
            let mut shown = 0;
            cut.enter();
            for (step, (chance, spatial, temporal)) in steps.into_iter().enumerate() {
                if chance < 4 {
                    cut.wanted = Cell::new(spatial, temporal);
                }
                for (packet, id, refers) in encoder.next(step == 0 || chance == 11) {
                    if cut.passes(&packet) {
                        for other in refers {
                            prop_assert!(decoded.contains(&other), "{id:?} refers to {other:?}, which was left out");
                        }
                        decoded.insert(id);
                        shown += 1;
                    }
                }
                prop_assert!(shown > 0);
            }
            // In the end it gets where it should, with a key frame.
            let _ = encoder.next(true).iter().map(|(packet, ..)| cut.passes(packet)).count();
            prop_assert!(!cut.waits());
        }
    }
}
