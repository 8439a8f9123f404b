//! Redundant audio (RFC 2198): the encoding of this packet's time behind copies of earlier ones, each with a header of its own.

use super::u32_at;

/// Bytes of a copy's header; the last block's has one.
const HEADER: usize = 4;
/// Most copies in one packet: browsers send up to nine.
const MAX_COPIES: usize = 16;

/// Where in a payload its blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redundancy {
    copies: usize,
    primary: usize, // where the last block begins
}

impl Redundancy {
    /// Reads the headers; `None` if they run past the end, leave nothing for the last block, or one names another
    /// payload type than `pt`.
    pub fn parse(payload: &[u8], pt: u8) -> Option<Self> {
        let mut length = 0;
        for copies in 0..=MAX_COPIES {
            let at = copies * HEADER;
            let head = *payload.get(at)?;
            if head & 0x7f != pt {
                return None;
            }
            if head & 0x80 == 0 {
                let primary = at + 1 + length;
                return (primary < payload.len()).then_some(Self { copies, primary });
            }
            length += (u32_at(payload, at)? & 0x3ff) as usize;
        }
        None
    }

    /// The last block: what a receiver gets that knows nothing of redundancy.
    pub fn primary<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        payload.get(self.primary..).unwrap_or_default()
    }

    /// Puts another payload type into all headers.
    pub fn rename(&self, payload: &mut [u8], pt: u8) {
        for head in payload.iter_mut().step_by(HEADER).take(self.copies + 1) {
            *head = *head & 0x80 | pt;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Copies of these lengths, and what follows them.
    fn payload(pt: u8, copies: &[u16], primary: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (n, length) in copies.iter().rev().enumerate() {
            let offset = 960 * (n as u32 + 1);
            bytes.extend((1 << 31 | u32::from(pt) << 24 | offset << 10 | u32::from(*length)).to_be_bytes());
        }
        bytes.push(pt);
        for length in copies {
            bytes.resize(bytes.len() + usize::from(*length), 0xcc);
        }
        bytes.extend(primary);
        bytes
    }

    #[test]
    fn the_last_block_is_found_behind_its_copies() {
        for copies in [&[][..], &[40], &[40, 0, 7]] {
            let bytes = payload(111, copies, b"primary");
            let found = Redundancy::parse(&bytes, 111).unwrap();
            assert_eq!(found.primary(&bytes), b"primary");
        }
    }

    #[test]
    fn renamed_it_is_the_same_under_another_payload_type() {
        for copies in [&[][..], &[40], &[40, 0, 7]] {
            let mut bytes = payload(111, copies, b"primary");
            Redundancy::parse(&bytes, 111).unwrap().rename(&mut bytes, 96);
            assert_eq!(bytes, payload(96, copies, b"primary"));
        }
    }

    #[test]
    fn what_is_cut_off_empty_or_of_another_codec_is_refused() {
        let bytes = payload(111, &[4, 5], b"p");
        assert!(Redundancy::parse(&bytes, 111).is_some());
        for length in 0..bytes.len() {
            assert_eq!(Redundancy::parse(&bytes[..length], 111), None, "{length}");
        }
        assert_eq!(Redundancy::parse(&bytes, 110), None);
        let mut other = bytes.clone();
        other[4] = 0x80 | 9; // one copy is something else
        assert_eq!(Redundancy::parse(&other, 111), None);
        assert_eq!(Redundancy::parse(&[0x80 | 111; 400], 111), None, "headers without end");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(prop_oneof![Just(111), Just(239), any::<u8>()], 0..80)) {
            if let Some(found) = Redundancy::parse(&bytes, 111) {
                prop_assert!(!found.primary(&bytes).is_empty());
                let primary = found.primary(&bytes).to_vec();
                found.rename(&mut bytes, 5);
                prop_assert_eq!(Redundancy::parse(&bytes, 5), Some(found));
                prop_assert_eq!(found.primary(&bytes), primary);
            }
        }
    }
}
