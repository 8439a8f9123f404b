//! Makes one continuous RTP stream out of the layers and sources that a subscriber is shown one after the other.

use std::collections::VecDeque;

use super::packet::{Codec, Packet};
use crate::proto::indices::Indices;
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
    /// What is counted of pictures and frames.
    pub indices: Indices,
    /// Last packet of its picture.
    pub marker: bool,
    /// Nothing of the packet is sent but its place: another one follows it already.
    pub blank: bool,
    /// The decode targets that its dependency descriptor is to name as active.
    pub active: Option<u32>,
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
        let indices = shifted(packet, self.offsets);
        Rewritten { index: self.index, timestamp, indices, marker: packet.marker, blank: false, active: None }
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
    skipped: VecDeque<u64>,  // ascending numbers of the source that were left out, closing the gap
    forgotten: u64,          // how many of them were dropped from the list
    pictures: VecDeque<u64>, // of those the first of each picture of VP8, whose ids have no gaps
    forgotten_pictures: u16,
    newest_picture: Option<u16>, // left out, by its id
    reach: u64,                  // numbers below this cannot be placed any more
}

impl Run {
    fn skipped_below(&self, index: u64) -> u64 {
        self.forgotten + self.skipped.partition_point(|skipped| *skipped < index) as u64
    }

    /// Notes the picture of a packet that is left out.
    fn leave_out_picture(&mut self, packet: &Packet) {
        let id = packet.counters.picture_id.map(|id| id.value);
        if packet.codec == Codec::Vp8 && id.is_some() && id != self.newest_picture {
            self.newest_picture = id;
            self.pictures.push_back(packet.index);
            if self.pictures.len() > MAX_SKIPPED {
                self.pictures.pop_front();
                self.forgotten_pictures = self.forgotten_pictures.wrapping_add(1);
            }
        }
    }

    /// What is added to the counters of the packet of this number.
    fn offsets_at(&self, index: u64) -> Indices {
        let before = self.pictures.partition_point(|left_out| *left_out < index) as u16;
        let picture_id = self.offsets.picture_id.wrapping_sub(self.forgotten_pictures).wrapping_sub(before);
        Indices { picture_id, ..self.offsets }
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
        let (layer, timestamp_offset, offsets) = (run.layer, run.timestamp_offset, run.offsets_at(source));
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
        let counters = values(packet);
        self.offsets = Indices {
            picture_id: self.indices.picture_id.wrapping_add(1).wrapping_sub(counters.picture_id),
            tl0: self.indices.tl0.wrapping_add(1).wrapping_sub(counters.tl0),
            key_index: self.indices.key_index.wrapping_add(1).wrapping_sub(counters.key_index),
            frame_number: self.indices.frame_number.wrapping_add(1).wrapping_sub(counters.frame_number),
        };
        self.run = Some(Run {
            layer,
            timestamp_offset: self.timestamp_offset,
            offsets: self.offsets,
            source_start: packet.index,
            start: self.next,
            source_highest: packet.index,
            skipped: VecDeque::new(),
            forgotten: 0,
            pictures: VecDeque::new(),
            forgotten_pictures: 0,
            newest_picture: None,
            reach: packet.index,
        });
    }

    /// Places a packet of the present run; `None` if it is from before the run, or was left out, or is too late to place.
    ///
    /// A padding-only packet, or one of which nothing is to be sent, is left out and the gap closed; once a later one was
    /// sent, only its place is filled.
    pub fn rewrite(&mut self, packet: &Packet, passes: bool) -> Option<Rewritten> {
        let blank = !passes || packet.is_padding();
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
            if blank {
                run.leave_out_picture(packet);
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
        let indices = if blank { Indices::default() } else { self.rewrite_indices(packet) };
        Some(Rewritten { index, timestamp, indices, marker: packet.marker && !blank, blank, active: None })
    }

    fn rewrite_indices(&mut self, packet: &Packet) -> Indices {
        let offsets = self.run.as_ref().map_or(self.offsets, |run| run.offsets_at(packet.index));
        let indices = shifted(packet, offsets);
        let narrow = packet.counters.picture_id.is_none_or(|id| !id.wide);
        if is_newer(indices.picture_id, self.indices.picture_id, if narrow { 0x7f } else { 0x7fff }) {
            self.indices.picture_id = indices.picture_id;
        }
        if is_newer(u16::from(indices.tl0), u16::from(self.indices.tl0), 0xff) {
            self.indices.tl0 = indices.tl0;
        }
        if is_newer(u16::from(indices.key_index), u16::from(self.indices.key_index), 0x1f) {
            self.indices.key_index = indices.key_index;
        }
        if is_newer(indices.frame_number, self.indices.frame_number, 0xffff) {
            self.indices.frame_number = indices.frame_number;
        }
        indices
    }
}

/// The packet's counters; zero where it has none.
fn values(packet: &Packet) -> Indices {
    let counters = packet.counters;
    Indices {
        picture_id: counters.picture_id.map_or(0, |id| id.value),
        tl0: counters.tl0.map_or(0, |counter| counter.value),
        key_index: counters.key_index.map_or(0, |counter| counter.value),
        frame_number: packet.dependency.as_ref().map_or(0, |dependency| dependency.number),
    }
}

/// The packet's counters with these added.
fn shifted(packet: &Packet, offsets: Indices) -> Indices {
    let counters = values(packet);
    let mut indices = Indices {
        picture_id: counters.picture_id.wrapping_add(offsets.picture_id) & 0x7fff,
        tl0: counters.tl0.wrapping_add(offsets.tl0),
        key_index: counters.key_index.wrapping_add(offsets.key_index) & 0x1f,
        frame_number: counters.frame_number.wrapping_add(offsets.frame_number),
    };
    if packet.counters.picture_id.is_some_and(|id| !id.wide) {
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
    use crate::proto::indices::Counters;
    use crate::proto::vp8::Descriptor;
    use crate::route::frame::Frame;
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
            frame: Frame::default(),
            dependency: None,
            counters: Descriptor::parse(&payload).unwrap().counters,
            payload,
            key_frame: None,
            passed: Passed::default(),
            redundancy: None,
        }
    }

    fn padding(index: u64) -> Packet {
        Packet { payload: Vec::new(), counters: Counters::default(), ..packet(index, 0, 0) }
    }

    fn index(rewriter: &mut Rewriter, packet: &Packet) -> Option<u64> {
        rewriter.rewrite(packet, true).map(|rewritten| rewritten.index)
    }

    #[test]
    fn a_switch_is_seamless_in_sequence_time_and_pictures() {
        let mut rewriter = Rewriter::new(100, 5000);
        let first = packet(65_535, 900, 0x7fff);
        rewriter.start(&first, LAYER, 0);
        let first = rewriter.rewrite(&first, true).unwrap();
        let second = rewriter.rewrite(&packet(65_536, 3900, 0), true).unwrap();
        assert_eq!((first.index, first.timestamp), (100, 5900));
        assert_eq!((second.index, second.timestamp), (101, 8900));
        assert_eq!(second.indices.picture_id, first.indices.picture_id + 1);
        let other = packet(7, u32::MAX - 5, 777);
        rewriter.start(&other, LAYER, 3000);
        let third = rewriter.rewrite(&other, true).unwrap();
        assert_eq!((third.index, third.timestamp), (102, 11_900));
        assert_eq!(third.indices.picture_id, second.indices.picture_id + 1);
        assert_eq!(third.indices.tl0, second.indices.tl0 + 1);
    }

    #[test]
    fn time_never_stands_still_over_a_switch() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.start(&packet(1, 1000, 1), LAYER, 0);
        rewriter.rewrite(&packet(1, 1000, 1), true);
        for advance in [-500, 0, i64::MAX] {
            let before = rewriter.newest().unwrap().0;
            let next = packet(1, 77, 1);
            rewriter.start(&next, LAYER, advance);
            assert_eq!(rewriter.rewrite(&next, true).unwrap().timestamp, before + 1);
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
            sent.extend(rewriter.rewrite(&packet(at, 0, 1), true).map(|rewritten| ((2, 0), at, rewritten)));
            rewriter.rewrite(&padding(at + 1), true).ok_or(()).unwrap_err();
        }
        rewriter.start(&packet(500, 77, 9), (0, 3), 90);
        for at in [500, 502, 9_000, 9_001] {
            sent.extend(rewriter.rewrite(&packet(at, 77, 9), true).map(|rewritten| ((0, 3), at, rewritten)));
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

    #[test]
    fn what_is_left_out_leaves_no_gap_in_sequence_or_pictures_and_is_found_past() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.start(&packet(10, 0, 300), LAYER, 0);
        let mut sent = Vec::new();
        for at in 10..40u64 {
            let picture = packet(at, 0, 300 + (at as u16 - 10) / 2); // two packets a picture
            let passes = (at - 10) / 2 % 4 == 0;
            let rewritten = rewriter.rewrite(&picture, passes);
            assert_eq!(rewritten.is_some(), passes);
            sent.extend(rewritten.map(|rewritten| (picture, rewritten)));
        }
        let first = sent[0].1.indices.picture_id;
        for (number, (picture, rewritten)) in sent.iter().enumerate() {
            assert_eq!((rewritten.index, rewritten.indices.picture_id), (number as u64, first + number as u16 / 2));
            let located = rewriter.locate(rewritten.index as u16, 512).unwrap();
            assert_eq!((located.source, located.rewritten(picture)), (picture.index, *rewritten));
        }
    }

    #[test]
    fn what_comes_too_late_to_be_left_out_fills_its_place_with_nothing() {
        let mut rewriter = Rewriter::new(0, 0);
        rewriter.start(&packet(10, 0, 1), LAYER, 0);
        rewriter.rewrite(&packet(10, 0, 1), true);
        rewriter.rewrite(&packet(12, 0, 3), true);
        let late = rewriter.rewrite(&packet(11, 0, 2), false).unwrap();
        assert!((late.index, late.blank, late.marker) == (1, true, false));
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
                let rewritten = rewriter.rewrite(&packet, true);
                if let Some(rewritten) = rewritten
                    && let Some(located) = rewriter.locate(rewritten.index as u16, 512)
                {
                    prop_assert_eq!((located.source, located.rewritten(&packet).index), (at, rewritten.index));
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
