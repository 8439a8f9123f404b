//! VP9's RTP payload descriptor (RFC 9628), and the size of a key frame.

use super::bits::Bits;
use super::indices::{Counter, Counters, PictureId};
use super::u16_at;

/// Most pictures that a frame refers to (RFC 9628, section 4.2).
const MAX_REFERENCES: usize = 3;
/// Spatial layers that a descriptor can name.
pub const MAX_SPATIAL: usize = 8;

/// A payload descriptor (RFC 9628, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Bytes of the descriptor.
    pub length: usize,
    /// A layer's frame begins in this packet (B).
    pub starts_frame: bool,
    /// ... and ends in it (E).
    pub ends_frame: bool,
    /// The frame refers to earlier pictures (P).
    pub predicted: bool,
    /// No higher spatial layer refers to it (Z).
    pub unreferenced: bool,
    /// Temporal layer (TID).
    pub temporal: u8,
    /// What comes in higher temporal layers refers to nothing earlier in them (U).
    pub sync: bool,
    /// Spatial layer (SID).
    pub spatial: u8,
    /// What is counted in it.
    pub counters: Counters,
}

/// The scalability structure: how large the spatial layers are, from the lowest up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structure {
    /// How many there are.
    pub count: u8,
    /// Width and height of each; zero if not told.
    pub sizes: [(u16, u16); MAX_SPATIAL],
}

impl Descriptor {
    /// Parses the descriptor and, if there is one, the scalability structure in it; `None` if the payload ends within it or
    /// has nothing after it.
    pub fn parse(payload: &[u8]) -> Option<(Self, Option<Structure>)> {
        let first = *payload.first()?;
        let has = |bit: u8| first & bit != 0;
        let mut descriptor = Self {
            length: 0,
            starts_frame: has(0x08),
            ends_frame: has(0x04),
            predicted: has(0x40),
            unreferenced: has(0x01),
            temporal: 0,
            sync: false,
            spatial: 0,
            counters: Counters::default(),
        };
        let flexible = has(0x10);
        let mut at = 1;
        if has(0x80) {
            let (id, after) = PictureId::parse(payload, at)?;
            descriptor.counters.picture_id = Some(id);
            at = after;
        }
        if has(0x20) {
            let layers = *payload.get(at)?;
            descriptor.temporal = layers >> 5;
            descriptor.sync = layers & 0x10 != 0;
            descriptor.spatial = layers >> 1 & 0x07;
            at += 1;
            if !flexible {
                descriptor.counters.tl0 = Some(Counter { value: *payload.get(at)?, at: at as u8 });
                at += 1;
            }
        }
        if flexible && has(0x40) {
            let mut references = 1;
            while payload.get(at)? & 1 != 0 {
                references += 1;
                at += 1;
                if references > MAX_REFERENCES {
                    return None;
                }
            }
            at += 1;
        }
        let mut structure = None;
        if has(0x02) {
            let (found, length) = Structure::parse(payload.get(at..)?)?;
            structure = Some(found);
            at += length;
        }
        descriptor.length = at;
        (payload.len() > at).then_some((descriptor, structure))
    }

    /// Width and height if a key frame begins in this packet and tells (VP9 bitstream, section 6.2); zero if it does not.
    ///
    /// `None`: it does not begin here.
    pub fn key_frame(&self, payload: &[u8]) -> Option<(u16, u16)> {
        if !self.starts_frame || self.predicted || self.spatial > 0 {
            return None;
        }
        Some(payload.get(self.length..).and_then(frame_size).unwrap_or_default())
    }
}

impl Structure {
    /// Parses it, and gives its length.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let first = *bytes.first()?;
        let mut structure = Self { count: (first >> 5) + 1, sizes: Default::default() };
        let mut at = 1;
        if first & 0x10 != 0 {
            for size in structure.sizes.iter_mut().take(usize::from(structure.count)) {
                *size = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?);
                at += 4;
            }
        }
        if first & 0x08 != 0 {
            let pictures = *bytes.get(at)?;
            at += 1;
            for _ in 0..pictures {
                at += 1 + usize::from(*bytes.get(at)? >> 2 & 0x03);
            }
        }
        (at <= bytes.len()).then_some((structure, at))
    }
}

/// Width and height of a key frame by its uncompressed header.
fn frame_size(frame: &[u8]) -> Option<(u16, u16)> {
    let mut bits = Bits::new(frame);
    if bits.number(2)? != 2 {
        return None;
    }
    let profile = bits.number(1)? | bits.number(1)? << 1;
    if profile == 3 {
        bits.flag()?;
    }
    let (shown_again, delta) = (bits.flag()?, bits.flag()?);
    bits.skip(2)?; // shown, error resilient
    if shown_again || delta || bits.number(24)? != 0x49_8342 {
        return None;
    }
    if profile >= 2 {
        bits.flag()?;
    }
    if bits.number(3)? == 7 {
        if profile & 1 != 0 {
            bits.flag()?;
        }
    } else {
        bits.skip(if profile & 1 != 0 { 4 } else { 1 })?;
    }
    let (width, height) = (bits.number(16)?, bits.number(16)?);
    Some((u16::try_from(width + 1).ok()?, u16::try_from(height + 1).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::indices::Indices;
    use proptest::prelude::*;

    /// A key frame's uncompressed header, profile 0, 320x180.
    const KEY_FRAME: [u8; 10] = [0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf0, 0x0b, 0x30, 0x00];

    #[test]
    fn a_key_frame_of_chromium_in_three_spatial_layers_is_read() {
        // I, L, B, E, V in flexible mode; picture id 0x1234; TID 0, U, SID 0; three layers with their sizes.
        let sizes = [0, 160, 0, 90, 1, 64, 0, 180, 2, 128, 1, 104];
        let payload = [&[0xbe, 0x92, 0x34, 0x10, 0x50][..], &sizes, &KEY_FRAME].concat();
        let (descriptor, structure) = Descriptor::parse(&payload).unwrap();
        assert_eq!(descriptor.length, 17);
        assert!(descriptor.starts_frame && descriptor.ends_frame && descriptor.sync);
        assert!(!descriptor.predicted && !descriptor.unreferenced);
        assert_eq!((descriptor.spatial, descriptor.temporal), (0, 0));
        assert_eq!(descriptor.key_frame(&payload), Some((320, 180)));
        let structure = structure.unwrap();
        assert_eq!((structure.count, &structure.sizes[..3]), (3, &[(160, 90), (320, 180), (640, 360)][..]));
        assert_eq!(descriptor.counters.picture_id.map(|id| (id.value, id.wide)), Some((0x1234, true)));
        assert_eq!(descriptor.counters.tl0, None);
    }

    #[test]
    fn layers_and_references_of_either_mode_are_read_and_the_counters_rewritten() {
        // Flexible, P, I, L, Z: short picture id, TID 2, SID 1, D; references 1 and 2 pictures back.
        let payload = [0xf1, 0x11, 0x43, 0x03, 0x04, 9];
        let (descriptor, _) = Descriptor::parse(&payload).unwrap();
        assert_eq!((descriptor.length, descriptor.spatial, descriptor.temporal), (5, 1, 2));
        assert!(descriptor.predicted && descriptor.unreferenced && !descriptor.starts_frame);
        assert_eq!(descriptor.key_frame(&payload), None);
        // Not flexible: TL0PICIDX follows the layers.
        let mut payload = [0xe8, 0x80, 0x07, 0x20, 0x55, 9];
        let (descriptor, _) = Descriptor::parse(&payload).unwrap();
        assert_eq!((descriptor.length, descriptor.counters.tl0.map(|tl0| tl0.value)), (5, Some(0x55)));
        descriptor
            .counters
            .rewrite(&mut payload, Indices { picture_id: 0x0102, tl0: 0x66, key_index: 9, ..Indices::default() });
        assert_eq!(payload, [0xe8, 0x81, 0x02, 0x20, 0x66, 9]);
    }

    #[test]
    fn what_is_cut_off_or_refers_too_often_is_refused() {
        let whole = [0xba, 0x80, 0x01, 0x00, 0x38, 0, 160, 0, 90, 1, 64, 0, 180, 2, 0x04, 1, 0x08, 1, 2, 7];
        assert!(Descriptor::parse(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(Descriptor::parse(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(Descriptor::parse(&[0x50, 1, 1, 1, 2, 9]), None, "four references");
        assert!(Descriptor::parse(&[0x50, 1, 1, 2, 9]).is_some());
    }

    #[test]
    fn a_key_frame_that_cannot_be_read_has_no_size() {
        let payload = [0x08, 0xff, 0xff, 0xff];
        assert_eq!(Descriptor::parse(&payload).unwrap().0.key_frame(&payload), Some((0, 0)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some((descriptor, structure)) = Descriptor::parse(&bytes) {
                let _ = descriptor.key_frame(&bytes);
                let before = bytes.clone();
                descriptor.counters.rewrite(&mut bytes, Indices { picture_id: 0x7fff, tl0: 1, key_index: 2, ..Indices::default() });
                prop_assert_eq!(&before[descriptor.length..], &bytes[descriptor.length..]);
                let again = Descriptor::parse(&bytes);
                prop_assert_eq!(again.map(|(d, s)| (d.length, s)), Some((descriptor.length, structure)));
            }
        }
    }
}
