//! Makes one continuous RTP stream out of the layers and sources that a subscriber is shown one after the other.

use std::collections::VecDeque;

use super::packet::Packet;
use crate::proto::vp8::Indices;
use crate::time::Time;

/// Sequence numbers left out that a late packet can still be placed around.
const MAX_SKIPPED: usize = 256;
/// A wider gap in the source is closed: the subscriber has nothing to wait for.
const MAX_GAP: u64 = 1000;

/// What a packet becomes for the subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// Extended sequence number; its low 16 bits go on the wire.
    pub index: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// VP8's counters.
    pub indices: Indices,
}

/// Past runs in which a packet is still found: what they sent is seconds old.
const MAX_PAST: usize = 4;

/// A packet that was sent, by where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located {
    /// The source's layer, and that layer's epoch.
    pub layer: (usize, u32),
    /// The publisher's extended sequence number.
    pub source: u64,
    /// What it became for the subscriber; its VP8 counters are `indices_at`'s to say.
    pub index: u64,
    timestamp_offset: u32,
    offsets: Indices,
}

impl Located {
    /// What the packet, which is the one that was located, became for the subscriber.
    pub fn rewritten(&self, packet: &Packet) -> Rewritten {
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        Rewritten { index: self.index, timestamp, indices: shifted(packet, self.offsets) }
    }
}

/// Where a run of one layer began.
#[derive(Debug)]
struct Run {
    layer: (usize, u32),
    timestamp_offset: u32,
    offsets: Indices,
    source_start: u64,
    start: u64,
    source_highest: u64,
    skipped: VecDeque<u64>, // ascending numbers of the source that were left out, closing the gap
    forgotten: u64,         // how many of them were dropped from the list
    reach: u64,             // numbers below this cannot be placed any more
}

impl Run {
    fn skipped_below(&self, index: u64) -> u64 {
        self.forgotten + self.skipped.partition_point(|skipped| *skipped < index) as u64
    }

    /// The source's number of what was sent under `index`, if it can still be told.
    fn source_of(&self, index: u64) -> Option<u64> {
        let mut source = self.source_start + index.checked_sub(self.start)? + self.forgotten;
        for skipped in &self.skipped {
            if *skipped > source {
                break;
            }
            source += 1;
        }
        (source >= self.reach).then_some(source)
    }
}

/// Rewriting state of one sent source. Indices never repeat while the source lasts: SRTP depends on it.
#[derive(Debug)]
pub struct Rewriter {
    next: u64,
    run: Option<Run>,
    past: VecDeque<Run>,
    timestamp_offset: u32,
    newest: Option<(u32, Time)>, // timestamp sent, and when it arrived here
    indices: Indices,            // newest sent
    offsets: Indices,
}

impl Rewriter {
    /// A stream whose first packet will have this extended sequence number; timestamps are shifted by `timestamp_offset`.
    pub fn new(first: u64, timestamp_offset: u32) -> Self {
        Self {
            next: first,
            run: None,
            past: VecDeque::new(),
            timestamp_offset,
            newest: None,
            indices: Indices::default(),
            offsets: Indices::default(),
        }
    }

    /// The next sequence number, extended; a stream that takes this one's place has to start there.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// What was added to the present layer's timestamps.
    pub fn timestamp_offset(&self) -> u32 {
        self.timestamp_offset
    }

    /// The layer of the present run or else the last one, in its epoch.
    pub fn layer(&self) -> Option<(usize, u32)> {
        self.run.as_ref().or(self.past.back()).map(|run| run.layer)
    }

    /// The newest timestamp sent, and when its packet arrived here.
    pub fn newest(&self) -> Option<(u32, Time)> {
        self.newest
    }

    /// Ends the present run: nothing is forwarded until the next `start`.
    pub fn stop(&mut self) {
        if let Some(run) = self.run.take() {
            if self.past.len() == MAX_PAST {
                self.past.pop_front();
            }
            self.past.push_back(run);
        }
    }

    /// Forgets what was sent: another track's packets have nothing to do with it.
    pub fn forget(&mut self) {
        self.stop();
        self.past.clear();
    }

    /// Finds what was sent under a sequence number, at most `reach` packets ago.
    pub fn locate(&self, seq: u16, reach: u16) -> Option<Located> {
        let behind = (self.next as u16).wrapping_sub(seq);
        let index = self.next.checked_sub(u64::from(behind)).filter(|_| (1..=reach).contains(&behind))?;
        let run = self.past.iter().chain(&self.run).rfind(|run| run.start <= index)?;
        let source = run.source_of(index)?;
        let (layer, timestamp_offset, offsets) = (run.layer, run.timestamp_offset, run.offsets);
        Some(Located { layer, source, index, timestamp_offset, offsets })
    }

    /// Begins a run of a layer, in its epoch, with this packet. `advance` is how many ticks after the newest timestamp it
    /// lies; at least one is used.
    pub fn start(&mut self, packet: &Packet, layer: (usize, u32), advance: i64) {
        self.stop();
        if let Some((newest, _)) = self.newest {
            let advance = u32::try_from(advance.max(1)).unwrap_or(1);
            self.timestamp_offset = newest.wrapping_add(advance).wrapping_sub(packet.timestamp);
        }
        if let Some(descriptor) = packet.descriptor {
            let picture_id = descriptor.picture_id.map_or(0, |id| id.value);
            self.offsets = Indices {
                picture_id: self.indices.picture_id.wrapping_add(1).wrapping_sub(picture_id),
                tl0: self.indices.tl0.wrapping_add(1).wrapping_sub(descriptor.tl0.unwrap_or(0)),
                key_index: self.indices.key_index.wrapping_add(1).wrapping_sub(descriptor.key_index.unwrap_or(0)),
            };
        }
        self.run = Some(Run {
            layer,
            timestamp_offset: self.timestamp_offset,
            offsets: self.offsets,
            source_start: packet.index,
            start: self.next,
            source_highest: packet.index,
            skipped: VecDeque::new(),
            forgotten: 0,
            reach: packet.index,
        });
    }

    /// Places a packet of the present run; `None` if it is from before the run, or was left out, or is too late to place.
    ///
    /// A padding-only packet is left out and the gap closed, unless a later one was sent already.
    pub fn rewrite(&mut self, packet: &Packet) -> Option<Rewritten> {
        let run = self.run.as_mut()?;
        if packet.index < run.reach {
            return None;
        }
        if packet.index > run.source_highest + MAX_GAP {
            run.forgotten = packet.index - run.source_start - (self.next - run.start);
            run.skipped.clear();
            run.reach = packet.index;
        }
        if packet.index > run.source_highest {
            run.source_highest = packet.index;
            if packet.is_padding() {
                run.skipped.push_back(packet.index);
                if run.skipped.len() > MAX_SKIPPED {
                    run.forgotten += 1;
                    run.reach = run.skipped.pop_front().map_or(run.reach, |skipped| skipped + 1);
                }
                return None;
            }
        }
        if run.skipped.binary_search(&packet.index).is_ok() {
            return None;
        }
        let index = run.start + (packet.index - run.source_start) - run.skipped_below(packet.index);
        self.next = self.next.max(index + 1);
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        if self.newest.is_none_or(|(newest, _)| (timestamp.wrapping_sub(newest) as i32) > 0) {
            self.newest = Some((timestamp, packet.arrival));
        }
        Some(Rewritten { index, timestamp, indices: self.rewrite_indices(packet) })
    }

    fn rewrite_indices(&mut self, packet: &Packet) -> Indices {
        let Some(descriptor) = packet.descriptor else {
            return Indices::default();
        };
        let indices = shifted(packet, self.offsets);
        let narrow = descriptor.picture_id.is_none_or(|id| !id.wide);
        if is_newer(indices.picture_id, self.indices.picture_id, if narrow { 0x7f } else { 0x7fff }) {
            self.indices.picture_id = indices.picture_id;
        }
        if is_newer(u16::from(indices.tl0), u16::from(self.indices.tl0), 0xff) {
            self.indices.tl0 = indices.tl0;
        }
        if is_newer(u16::from(indices.key_index), u16::from(self.indices.key_index), 0x1f) {
            self.indices.key_index = indices.key_index;
        }
        indices
    }
}

/// The packet's counters with these added.
fn shifted(packet: &Packet, offsets: Indices) -> Indices {
    let Some(descriptor) = packet.descriptor else {
        return Indices::default();
    };
    let picture = descriptor.picture_id.map_or(0, |id| id.value);
    let mut indices = Indices {
        picture_id: picture.wrapping_add(offsets.picture_id) & 0x7fff,
        tl0: descriptor.tl0.unwrap_or(0).wrapping_add(offsets.tl0),
        key_index: descriptor.key_index.unwrap_or(0).wrapping_add(offsets.key_index) & 0x1f,
    };
    if descriptor.picture_id.is_some_and(|id| !id.wide) {
        indices.picture_id &= 0x7f;
    }
    indices
}

/// Whether `a` lies in the half of the number circle after `b`; `mask` is the circle's size less one.
fn is_newer(a: u16, b: u16, mask: u16) -> bool {
    let ahead = a.wrapping_sub(b) & mask;
    ahead != 0 && ahead <= mask / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::extensions::Passed;
    use crate::proto::vp8::Descriptor;
    use crate::route::packet::Codec;
    use proptest::prelude::*;

    const LAYER: (usize, u32) = (0, 0);

    fn packet(index: u64, timestamp: u32, picture: u16) -> Packet {
        let payload = vec![0x90, 0xe0, 0x80 | (picture >> 8) as u8, picture as u8, picture as u8, 0, 1];
        Packet {
            index,
            timestamp,
            marker: false,
            codec: Codec::Vp8,
            arrival: Time::from_micros(u64::from(timestamp)),
            descriptor: Descriptor::parse(&payload),
            payload,
            key_frame: None,
            passed: Passed::default(),
            redundancy: None,
        }
    }

    fn padding(index: u64) -> Packet {
        Packet { payload: Vec::new(), descriptor: None, ..packet(index, 0, 0) }
    }

    fn index(rewriter: &mut Rewriter, packet: &Packet) -> Option<u64> {
        rewriter.rewrite(packet).map(|rewritten| rewritten.index)
    }

    #[test]
    fn a_switch_is_seamless_in_sequence_time_and_pictures() {
        let mut rewriter = Rewriter::new(100, 5000);
        let first = packet(65_535, 900, 0x7fff);
        rewriter.start(&first, LAYER, 0);
        let first = rewriter.rewrite(&first).unwrap();
        let second = rewriter.rewrite(&packet(65_536, 3900, 0)).unwrap();
        assert_eq!((first.index, first.timestamp), (100, 5900));
        assert_eq!((second.index, second.timestamp), (101, 8900));
        assert_eq!(second.indices.picture_id, first.indices.picture_id + 1);
        let other = packet(7, u32::MAX - 5, 777);
        rewriter.start(&other, LAYER, 3000);
        let third = rewriter.rewrite(&other).unwrap();
        assert_eq!((third.index, third.timestamp), (102, 11_900));
        assert_eq!(third.indices.picture_id, second.indices.picture_id + 1);
        assert_eq!(third.indices.tl0, second.indices.tl0 + 1);
    }

    #[test]
    fn time_never_stands_still_over_a_switch() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.start(&packet(1, 1000, 1), LAYER, 0);
        rewriter.rewrite(&packet(1, 1000, 1));
        for advance in [-500, 0, i64::MAX] {
            let before = rewriter.newest().unwrap().0;
            let next = packet(1, 77, 1);
            rewriter.start(&next, LAYER, advance);
            assert_eq!(rewriter.rewrite(&next).unwrap().timestamp, before + 1);
        }
    }

    #[test]
    fn padding_leaves_no_gap_and_late_packets_find_their_place() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.start(&packet(10, 0, 1), LAYER, 0);
        assert_eq!(index(&mut rewriter, &packet(10, 0, 1)), Some(0));
        assert_eq!(index(&mut rewriter, &padding(11)), None);
        assert_eq!(index(&mut rewriter, &padding(12)), None);
        assert_eq!(index(&mut rewriter, &packet(15, 0, 1)), Some(3));
        assert_eq!(index(&mut rewriter, &packet(13, 0, 1)), Some(1));
        assert_eq!(index(&mut rewriter, &packet(11, 0, 1)), None, "left out before");
        assert_eq!(index(&mut rewriter, &padding(14)), Some(2), "too late to close the gap: the place is filled");
        assert_eq!(index(&mut rewriter, &packet(9, 0, 1)), None, "before the run");
        assert_eq!(index(&mut rewriter, &packet(16, 0, 1)), Some(4));
    }

    #[test]
    fn a_huge_gap_is_closed() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.start(&packet(10, 0, 1), LAYER, 0);
        index(&mut rewriter, &packet(10, 0, 1));
        assert_eq!(index(&mut rewriter, &packet(9_000, 0, 1)), Some(1));
        assert_eq!(index(&mut rewriter, &packet(9_002, 0, 1)), Some(3));
        assert_eq!(index(&mut rewriter, &packet(8_999, 0, 1)), None);
    }

    #[test]
    fn what_was_sent_is_found_again_past_switches_and_gaps() {
        let mut rewriter = Rewriter::new(65_530, 0);
        rewriter.start(&packet(10, 0, 1), (2, 0), 0);
        let mut sent = Vec::new();
        for at in (10..30).filter(|at| at % 5 != 2) {
            sent.extend(rewriter.rewrite(&packet(at, 0, 1)).map(|rewritten| ((2, 0), at, rewritten)));
            rewriter.rewrite(&padding(at + 1)).ok_or(()).unwrap_err();
        }
        rewriter.start(&packet(500, 77, 9), (0, 3), 90);
        for at in [500, 502, 9_000, 9_001] {
            sent.extend(rewriter.rewrite(&packet(at, 77, 9)).map(|rewritten| ((0, 3), at, rewritten)));
        }
        for (layer, source, rewritten) in &sent {
            let found = rewriter.locate(rewritten.index as u16, 512);
            let lost = *source < 9_000 && *layer == (0, 3); // before a gap that was closed
            assert_eq!(found.map(|found| (found.layer, found.source)), (!lost).then_some((*layer, *source)));
        }
        let (_, _, first) = sent[0];
        assert_eq!(rewriter.locate(first.index as u16, 3), None, "too long ago");
        assert_eq!(rewriter.locate(rewriter.next_index() as u16, 512), None, "not sent yet");
        rewriter.forget();
        assert_eq!(rewriter.locate(first.index as u16, 512), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_no_number_is_given_twice_and_order_is_kept(
            steps in proptest::collection::vec((0u64..40, any::<bool>(), 0u8..20), 1..300)
        ) {
            let mut rewriter = Rewriter::new(5, 0);
            let mut base = 1000u64;
            let mut taken = std::collections::BTreeMap::new();
            let mut given = std::collections::HashSet::new();
            rewriter.start(&packet(base, 0, 1), LAYER, 0);
            let mut seen = std::collections::HashSet::new();
            for (offset, pads, step) in steps {
                base += u64::from(step);
                let at = (base + offset).saturating_sub(20);
                if !seen.insert(at) {
                    continue; // the caller lets each packet in once
                }
                let packet = if pads { padding(at) } else { packet(at, 0, 1) };
                let rewritten = rewriter.rewrite(&packet);
                if let Some(rewritten) = rewritten
                    && let Some(located) = rewriter.locate(rewritten.index as u16, 512)
                {
                    prop_assert_eq!((located.source, located.rewritten(&packet)), (at, rewritten));
                }
                if let Some(index) = rewritten.map(|rewritten| rewritten.index) {
                    prop_assert!(given.insert(index), "{index} twice");
                    taken.insert(at, index);
                }
            }
            prop_assert!(taken.values().is_sorted());
        }
    }
}
