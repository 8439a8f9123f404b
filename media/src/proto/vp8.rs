//! VP8's RTP payload descriptor and key-frame header (RFC 7741), read and rewritten in place.

use super::indices::{Counter, Counters, PictureId};

/// Most bytes that a payload descriptor can have.
pub const MAX_DESCRIPTOR: usize = 6;

/// A payload descriptor (RFC 7741, section 4.2); offsets count from the payload's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Bytes of the descriptor.
    pub length: usize,
    /// The packet begins the frame: start of partition 0.
    pub starts_frame: bool,
    /// What is counted in it.
    pub counters: Counters,
    /// The temporal layer (TID), if it says so.
    pub temporal: Option<u8>,
    /// The frame depends on the lowest temporal layer only (Y).
    pub sync: bool,
}

impl Descriptor {
    /// Parses the descriptor; `None` if the payload ends within it or has nothing after it.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut descriptor = Self {
            length: 1,
            starts_frame: first & 0x10 != 0 && first & 0x07 == 0,
            counters: Counters::default(),
            temporal: None,
            sync: false,
        };
        if first & 0x80 != 0 {
            let flags = *payload.get(1)?;
            let mut at = 2;
            let counters = &mut descriptor.counters;
            if flags & 0x80 != 0 {
                let (id, after) = PictureId::parse(payload, at)?;
                counters.picture_id = Some(id);
                at = after;
            }
            if flags & 0x40 != 0 {
                counters.tl0 = Some(Counter { value: *payload.get(at)?, at: at as u8 });
                at += 1;
            }
            if flags & 0x30 != 0 {
                let field = *payload.get(at)?;
                if flags & 0x20 != 0 {
                    descriptor.temporal = Some(field >> 6);
                    descriptor.sync = field & 0x20 != 0;
                }
                if flags & 0x10 != 0 {
                    counters.key_index = Some(Counter { value: field & 0x1f, at: at as u8 });
                }
                at += 1;
            }
            descriptor.length = at;
        }
        (payload.len() > descriptor.length).then_some(descriptor)
    }

    /// Width and height if a key frame begins in this packet (RFC 6386, section 9.1).
    pub fn key_frame(&self, payload: &[u8]) -> Option<(u16, u16)> {
        let frame = payload.get(self.length..)?;
        match frame {
            [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] if self.starts_frame && tag & 1 == 0 => {
                let width = u16::from_le_bytes([*w0, *w1]) & 0x3fff;
                let height = u16::from_le_bytes([*h0, *h1]) & 0x3fff;
                Some((width, height))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::indices::Indices;
    use proptest::prelude::*;

    const KEY_FRAME: [u8; 10] = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x40];

    fn payload(descriptor: &[u8]) -> Vec<u8> {
        [descriptor, &KEY_FRAME].concat()
    }

    #[test]
    fn chromiums_descriptor_is_read_and_rewritten() {
        let mut payload = payload(&[0x90, 0xf0, 0x81, 0x02, 0x33, 0x64]);
        let descriptor = Descriptor::parse(&payload).unwrap();
        assert_eq!(descriptor.length, 6);
        assert_eq!(descriptor.counters.picture_id.map(|id| (id.value, id.wide)), Some((0x102, true)));
        let values = (descriptor.counters.tl0.unwrap().value, descriptor.counters.key_index.unwrap().value);
        assert_eq!(values, (0x33, 4));
        assert_eq!((descriptor.temporal, descriptor.sync), (Some(1), true));
        assert_eq!(descriptor.key_frame(&payload), Some((320, 240)));
        descriptor
            .counters
            .rewrite(&mut payload, Indices { picture_id: 0x7ffe, tl0: 9, key_index: 31, ..Indices::default() });
        assert_eq!(payload[..6], [0x90, 0xf0, 0xff, 0xfe, 9, 0x7f]);
    }

    #[test]
    fn a_short_picture_id_keeps_its_width() {
        let mut payload = payload(&[0x90, 0x80, 0x7f]);
        let descriptor = Descriptor::parse(&payload).unwrap();
        assert_eq!(descriptor.counters.picture_id.map(|id| (id.value, id.wide)), Some((127, false)));
        descriptor.counters.rewrite(&mut payload, Indices { picture_id: 0x180, ..Indices::default() });
        assert_eq!(payload[2], 0);
    }

    #[test]
    fn only_the_first_packet_of_a_key_frame_is_one() {
        let continuation = payload(&[0x80, 0x80, 0x01]);
        assert_eq!(Descriptor::parse(&continuation).unwrap().key_frame(&continuation), None);
        let mut delta = payload(&[0x10]);
        delta[1] |= 1;
        assert_eq!(Descriptor::parse(&delta).unwrap().key_frame(&delta), None);
        assert!(Descriptor::parse(&delta).unwrap().starts_frame);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(descriptor) = Descriptor::parse(&bytes) {
                prop_assert!(descriptor.length <= MAX_DESCRIPTOR);
                let _ = descriptor.key_frame(&bytes);
                let before = bytes.clone();
                descriptor.counters.rewrite(&mut bytes, Indices { picture_id: 0x7fff, tl0: 1, key_index: 2, ..Indices::default() });
                prop_assert_eq!(&before[descriptor.length..], &bytes[descriptor.length..]);
                prop_assert_eq!(Descriptor::parse(&bytes).map(|d| d.length), Some(descriptor.length));
            }
        }
    }
}
