//! VP8's RTP payload descriptor and key-frame header (RFC 7741), read and rewritten in place.

/// Most bytes that a payload descriptor can have.
pub const MAX_DESCRIPTOR: usize = 6;

/// A payload descriptor (RFC 7741, section 4.2); offsets count from the payload's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Bytes of the descriptor.
    pub length: usize,
    /// The packet begins the frame: start of partition 0.
    pub starts_frame: bool,
    /// The picture id, if there is one.
    pub picture_id: Option<PictureId>,
    tl0_at: Option<usize>,
    key_index_at: Option<usize>,
    /// TL0PICIDX, if there is one.
    pub tl0: Option<u8>,
    /// KEYIDX (5 bits), if there is one.
    pub key_index: Option<u8>,
}

/// A picture id in its 7- or 15-bit form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PictureId {
    /// Its value.
    pub value: u16,
    /// It has 15 bits, not 7.
    pub wide: bool,
    at: usize,
}

/// The fields of a descriptor that are rewritten per subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Indices {
    /// Picture id; a 7-bit field takes its low bits.
    pub picture_id: u16,
    /// TL0PICIDX.
    pub tl0: u8,
    /// KEYIDX; the field takes its low 5 bits.
    pub key_index: u8,
}

impl Descriptor {
    /// Parses the descriptor; `None` if the payload ends within it or has nothing after it.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut descriptor = Self {
            length: 1,
            starts_frame: first & 0x10 != 0 && first & 0x07 == 0,
            picture_id: None,
            tl0_at: None,
            key_index_at: None,
            tl0: None,
            key_index: None,
        };
        if first & 0x80 != 0 {
            let flags = *payload.get(1)?;
            let mut at = 2;
            if flags & 0x80 != 0 {
                let high = *payload.get(at)?;
                let wide = high & 0x80 != 0;
                let value =
                    if wide { u16::from(high & 0x7f) << 8 | u16::from(*payload.get(at + 1)?) } else { u16::from(high) };
                descriptor.picture_id = Some(PictureId { value, wide, at });
                at += if wide { 2 } else { 1 };
            }
            if flags & 0x40 != 0 {
                descriptor.tl0 = Some(*payload.get(at)?);
                descriptor.tl0_at = Some(at);
                at += 1;
            }
            if flags & 0x30 != 0 {
                if flags & 0x10 != 0 {
                    descriptor.key_index = Some(*payload.get(at)? & 0x1f);
                    descriptor.key_index_at = Some(at);
                }
                at += 1;
            }
            descriptor.length = at;
        }
        (payload.len() > descriptor.length).then_some(descriptor)
    }

    /// Writes these indices into the fields that the descriptor has. `payload` begins with this descriptor.
    pub fn rewrite(&self, payload: &mut [u8], indices: Indices) {
        if let Some(id) = self.picture_id {
            if id.wide {
                payload[id.at..id.at + 2].copy_from_slice(&(indices.picture_id | 0x8000).to_be_bytes());
            } else {
                payload[id.at] = indices.picture_id as u8 & 0x7f;
            }
        }
        if let Some(at) = self.tl0_at {
            payload[at] = indices.tl0;
        }
        if let Some(at) = self.key_index_at {
            payload[at] = payload[at] & 0xe0 | indices.key_index & 0x1f;
        }
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
        assert_eq!(descriptor.picture_id.map(|id| (id.value, id.wide)), Some((0x102, true)));
        assert_eq!((descriptor.tl0, descriptor.key_index), (Some(0x33), Some(4)));
        assert_eq!(descriptor.key_frame(&payload), Some((320, 240)));
        descriptor.rewrite(&mut payload, Indices { picture_id: 0x7ffe, tl0: 9, key_index: 31 });
        assert_eq!(payload[..6], [0x90, 0xf0, 0xff, 0xfe, 9, 0x7f]);
    }

    #[test]
    fn a_short_picture_id_keeps_its_width() {
        let mut payload = payload(&[0x90, 0x80, 0x7f]);
        let descriptor = Descriptor::parse(&payload).unwrap();
        assert_eq!(descriptor.picture_id.map(|id| (id.value, id.wide)), Some((127, false)));
        descriptor.rewrite(&mut payload, Indices { picture_id: 0x180, ..Indices::default() });
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
                descriptor.rewrite(&mut bytes, Indices { picture_id: 0x7fff, tl0: 1, key_index: 2 });
                prop_assert_eq!(&before[descriptor.length..], &bytes[descriptor.length..]);
                prop_assert_eq!(Descriptor::parse(&bytes).map(|d| d.length), Some(descriptor.length));
            }
        }
    }
}
