//! H.264's RTP payload (RFC 6184) as far as an SFU looks into it: where a picture can be entered, and how large it is.

use super::bits::Bits;
use super::u16_at;

// NAL unit types: H.264, table 7-1; RFC 6184, section 5.2.
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Bytes of a sequence parameter set that are looked at: the picture's size comes early.
const MAX_SPS: usize = 96;
/// More NAL units than this are in no packet that a browser makes.
const MAX_UNITS: usize = 32;

/// What one packet has in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// A sequence parameter set: the very beginning of a key frame.
    pub parameters: bool,
    /// An IDR picture begins.
    pub idr: bool,
    /// Width and height, if the parameter set tells.
    pub size: Option<(u16, u16)>,
}

impl Content {
    /// Looks through a payload of packetization mode 0 or 1; `None` if it is neither, or ends too early.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut content = Self::default();
        let first = *payload.first()?;
        match first & 0x1f {
            1..=23 => content.note(payload),
            STAP_A => {
                let mut rest = &payload[1..];
                let mut units = 0;
                while !rest.is_empty() {
                    let length = usize::from(u16_at(rest, 0)?);
                    let (unit, more) = rest[2..].split_at_checked(length)?;
                    content.note(unit);
                    rest = more;
                    units += 1;
                    if units > MAX_UNITS {
                        return None;
                    }
                }
                if units == 0 {
                    return None;
                }
            }
            FU_A => {
                let header = *payload.get(1)?;
                content.idr = header & 0x80 != 0 && header & 0x1f == IDR;
            }
            _ => return None,
        }
        Some(content)
    }

    fn note(&mut self, unit: &[u8]) {
        match unit.first().map(|header| header & 0x1f) {
            Some(SPS) => {
                self.parameters = true;
                self.size = picture_size(&unit[1..]);
            }
            Some(IDR) => self.idr = true,
            _ => {}
        }
    }
}

/// Width and height by a sequence parameter set without its NAL header (H.264, section 7.3.2.1.1).
fn picture_size(sps: &[u8]) -> Option<(u16, u16)> {
    let mut plain = [0; MAX_SPS];
    let length = unescape(sps, &mut plain);
    let mut bits = Bits::new(&plain[..length]);
    let profile = bits.number(8)?;
    bits.skip(16)?; // constraints and level
    bits.golomb()?; // its id
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.golomb()?;
        if chroma == 3 {
            bits.flag()?;
        }
        bits.golomb()?;
        bits.golomb()?;
        bits.flag()?;
        if bits.flag()? {
            return None; // scaling lists: no browser sends them
        }
    }
    bits.golomb()?; // frame numbers
    match bits.golomb()? {
        0 => {
            bits.golomb()?;
        }
        1 => {
            bits.flag()?;
            bits.golomb()?;
            bits.golomb()?;
            for _ in 0..bits.golomb()?.min(255) {
                bits.golomb()?;
            }
        }
        _ => {}
    }
    bits.golomb()?; // reference frames
    bits.flag()?;
    let width = bits.golomb()?.checked_add(1)?;
    let height = bits.golomb()?.checked_add(1)?;
    let whole = bits.flag()?; // no fields
    if !whole {
        bits.flag()?;
    }
    bits.flag()?;
    let mut cropped = (0, 0);
    if bits.flag()? {
        let (left, right, top, bottom) = (bits.golomb()?, bits.golomb()?, bits.golomb()?, bits.golomb()?);
        cropped = (left.checked_add(right)?, top.checked_add(bottom)?);
    }
    let fields = if whole { 1 } else { 2 };
    let (unit_x, unit_y) = match chroma {
        1 => (2, 2 * fields),
        2 => (2, fields),
        _ => (1, fields),
    };
    let width = width.checked_mul(16)?.checked_sub(cropped.0.checked_mul(unit_x)?)?;
    let height = height.checked_mul(16)?.checked_mul(fields)?.checked_sub(cropped.1.checked_mul(unit_y)?)?;
    Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?))
}

/// Takes the emulation prevention bytes out (H.264, section 7.4.1). Gives how many bytes are left, at most all of `plain`.
fn unescape(escaped: &[u8], plain: &mut [u8]) -> usize {
    let (mut length, mut zeros) = (0, 0);
    for &byte in escaped {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        let Some(place) = plain.get_mut(length) else { break };
        *place = byte;
        length += 1;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::super::bits::BitWriter;
    use super::*;
    use proptest::prelude::*;

    /// Constrained baseline, level 3.1, 640x360 (cropped from 640x368).
    fn sps() -> Vec<u8> {
        let mut unit = vec![0x67, 0x42, 0xc0, 0x1f];
        let mut bits = BitWriter::new(&mut unit);
        let golomb = |bits: &mut BitWriter<'_>, value: u32| {
            let width = u32::BITS - (value + 1).leading_zeros();
            bits.number(value + 1, 2 * width - 1);
        };
        for value in [0, 0, 2, 1] {
            golomb(&mut bits, value); // id, frame numbers, order of pictures, references
        }
        bits.flag(false);
        golomb(&mut bits, 39);
        golomb(&mut bits, 22);
        bits.number(0b111, 3);
        for value in [0, 0, 0, 4] {
            golomb(&mut bits, value);
        }
        bits.number(0b01, 2);
        unit
    }

    const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];

    fn aggregate(units: &[&[u8]]) -> Vec<u8> {
        let mut payload = vec![0x78];
        for unit in units {
            payload.extend_from_slice(&(unit.len() as u16).to_be_bytes());
            payload.extend_from_slice(unit);
        }
        payload
    }

    #[test]
    fn a_key_frame_begins_with_its_parameters_alone_or_in_an_aggregate() {
        let sps = sps();
        let alone = Content::parse(&sps).unwrap();
        assert!(alone.parameters && !alone.idr);
        let size = alone.size;
        assert_eq!(size, Some((640, 360)));
        let together = Content::parse(&aggregate(&[&sps, &PPS, &[0x65, 1, 2]])).unwrap();
        assert_eq!(together, Content { parameters: true, idr: true, size });
        assert_eq!(Content::parse(&PPS), Some(Content::default()));
    }

    #[test]
    fn an_idr_picture_begins_in_the_first_fragment_only() {
        assert!(Content::parse(&[0x7c, 0x85, 9]).unwrap().idr);
        for payload in [[0x7c, 0x05, 9], [0x7c, 0x45, 9], [0x7c, 0x81, 9], [0x61, 0x85, 9]] {
            assert_eq!(Content::parse(&payload), Some(Content::default()));
        }
        assert!(Content::parse(&[0x65]).unwrap().idr);
    }

    #[test]
    fn what_no_browser_sends_and_what_is_cut_off_is_refused() {
        let whole = aggregate(&[&sps(), &PPS]);
        for length in [0, 1, 2, 3, 12, whole.len() - 1] {
            assert_eq!(Content::parse(&whole[..length]), None, "{length} bytes");
        }
        for kind in [0, 25, 26, 27, 29, 30, 31] {
            assert_eq!(Content::parse(&[kind, 0, 0, 0]), None);
        }
        assert_eq!(Content::parse(&[0x7c]), None);
        assert_eq!(Content::parse(&aggregate(&[&PPS[..]; MAX_UNITS + 1])), None);
    }

    #[test]
    fn escaped_bytes_do_not_shift_the_picture_size() {
        let mut plain = [0; 8];
        assert_eq!(unescape(&[0, 0, 3, 1, 0, 0, 0, 3], &mut plain), 6);
        assert_eq!(plain[..6], [0, 0, 1, 0, 0, 0]);
        assert_eq!(unescape(&[7; 100], &mut plain), 8);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in any::<prop::sample::Index>()) {
            let _ = Content::parse(&bytes);
            let begun = [[0x67, 0x58, 0x78, 0x7c][start.index(4)]].into_iter().chain(bytes).collect::<Vec<_>>();
            let _ = Content::parse(&begun);
        }
    }
}
