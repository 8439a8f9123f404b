//! AV1's RTP payload (RTP Payload Format for AV1, section 4): where a coded video sequence begins, and how large it is.

use super::bits::Bits;

// OBU types (AV1 bitstream, section 6.2.2).
const SEQUENCE_HEADER: u8 = 1;

/// OBU elements of one packet that are looked at: a sequence header comes first.
const MAX_ELEMENTS: usize = 8;

/// What the aggregation header and the first OBUs tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// A coded video sequence begins: a key frame (N).
    pub begins: bool,
    /// The first OBU continues one of the packet before (Z).
    pub continues: bool,
    /// Width and height by the sequence header in it.
    pub size: Option<(u16, u16)>,
}

impl Content {
    /// Parses the aggregation header; `None` if the payload is nothing else. OBUs that cannot be read tell nothing.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&head, mut rest) = payload.split_first()?;
        let begins = head & 0x08 != 0;
        let continues = head & 0x80 != 0;
        if rest.is_empty() || (begins && continues) {
            return None;
        }
        let mut content = Self { begins, continues, size: None };
        let count = usize::from(head >> 4 & 0x03); // 0: each element has its length
        if !begins {
            return Some(content);
        }
        for number in 1..=MAX_ELEMENTS {
            let element = if number == count {
                rest
            } else {
                let Some((element, after)) = sized(rest) else { break };
                rest = after;
                element
            };
            content.size = content.size.or_else(|| sequence_size(element));
            if number == count || rest.is_empty() {
                break;
            }
        }
        Some(content)
    }
}

/// An element with its length before it (leb128), and what follows.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0usize;
    for (number, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * number);
        if byte & 0x80 == 0 {
            return bytes[number + 1..].split_at_checked(length);
        }
    }
    None
}

/// Width and height, if this OBU is a sequence header (AV1 bitstream, section 5.5.1).
fn sequence_size(obu: &[u8]) -> Option<(u16, u16)> {
    let head = *obu.first()?;
    if head >> 3 & 0x0f != SEQUENCE_HEADER {
        return None;
    }
    let mut body = obu.get(if head & 0x04 != 0 { 2 } else { 1 }..)?;
    if head & 0x02 != 0 {
        body = sized(body)?.0;
    }
    let mut bits = Bits::new(body);
    bits.skip(4)?; // profile, still picture
    if bits.flag()? {
        bits.skip(5)?; // a reduced header: its level
    } else {
        operating_points(&mut bits)?;
    }
    let (width, height) = (bits.number(4)? + 1, bits.number(4)? + 1);
    let (width, height) = (bits.number(width)? + 1, bits.number(height)? + 1);
    Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?))
}

/// Passes over the times and operating points.
fn operating_points(bits: &mut Bits<'_>) -> Option<()> {
    let mut delays = None; // bits of a decoder's delay
    if bits.flag()? {
        bits.skip(64)?;
        if bits.flag()? {
            bits.golomb()?;
        }
        if bits.flag()? {
            delays = Some(bits.number(5)? as usize + 1);
            bits.skip(42)?;
        }
    }
    let displayed = bits.flag()?;
    for _ in 0..=bits.number(5)? {
        bits.skip(12)?;
        if bits.number(5)? > 7 {
            bits.flag()?;
        }
        if let Some(delay) = delays
            && bits.flag()?
        {
            bits.skip(2 * delay + 1)?;
        }
        if displayed && bits.flag()? {
            bits.skip(4)?;
        }
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings)] // by the fields of the formats
mod tests {
    use super::super::bits::BitWriter;
    use super::*;
    use proptest::prelude::*;

    /// A sequence header OBU of two operating points, with times, delays and everything else that comes before the size.
    fn sequence(width: u32, height: u32) -> Vec<u8> {
        let mut obu = vec![SEQUENCE_HEADER << 3];
        let mut bits = BitWriter::new(&mut obu);
        bits.number(0, 5); // profile 0, no still picture, not reduced
        bits.number(1, 1);
        bits.number(1, 32);
        bits.number(1, 32);
        bits.number(0b1_010, 4); // equal intervals of two ticks
        bits.number(1, 1);
        bits.number(9, 5);
        bits.number(0, 32);
        bits.number(0, 10);
        bits.number(1, 1);
        bits.number(1, 5);
        bits.number(0x301, 12);
        bits.number(8, 5);
        bits.number(0, 1);
        bits.number(1, 1);
        bits.number(0, 21);
        bits.number(0b1_0101, 5);
        bits.number(0x101, 12);
        bits.number(7, 5);
        bits.number(0, 2);
        bits.number(15, 4);
        bits.number(10, 4);
        bits.number(width - 1, 16);
        bits.number(height - 1, 11);
        bits.number(0, 9);
        obu
    }

    fn with_length(obu: &[u8]) -> Vec<u8> {
        [&[obu.len() as u8][..], obu].concat()
    }

    #[test]
    fn a_sequence_that_begins_tells_its_size_however_its_elements_are_counted() {
        let header = sequence(640, 360);
        let counted = [&[0x28][..], &with_length(&header), &[0x32, 7, 7]].concat();
        let alone = [&[0x18][..], &header].concat();
        let all_sized = [&[0x08, 2, 0x12, 0][..], &with_length(&header), &with_length(&[0x32, 7])].concat();
        for payload in [counted, alone, all_sized] {
            let content = Content::parse(&payload).unwrap();
            assert_eq!(content, Content { begins: true, continues: false, size: Some((640, 360)) });
        }
    }

    #[test]
    fn a_header_in_its_short_form_and_with_an_extension_is_read() {
        let mut obu = vec![SEQUENCE_HEADER << 3 | 0x06, 0x20, 6];
        let mut bits = BitWriter::new(&mut obu);
        bits.number(0b000_1_1, 5);
        bits.number(3, 5);
        bits.number(7, 4);
        bits.number(7, 4);
        bits.number(175, 8);
        bits.number(143, 8);
        bits.number(0, 14);
        assert_eq!(Content::parse(&[&[0x18][..], &obu].concat()).unwrap().size, Some((176, 144)));
    }

    #[test]
    fn packets_in_between_tell_nothing_and_what_is_impossible_is_refused() {
        assert_eq!(Content::parse(&[0x90, 1]), Some(Content { continues: true, ..Content::default() }));
        assert_eq!(Content::parse(&[0x08, 0xff, 0xff, 0xff, 0xff]).unwrap().size, None);
        for payload in [&[][..], &[0x10], &[0x98, 1]] {
            assert_eq!(Content::parse(payload), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            let _ = Content::parse(&bytes);
            bytes[0] = bytes[0] & 0x30 | 0x08;
            if let Some(second) = bytes.get_mut(1) {
                *second = SEQUENCE_HEADER << 3;
            }
            let _ = Content::parse(&bytes);
        }
    }
}
