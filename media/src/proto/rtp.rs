//! RTP headers (RFC 3550, section 5.1) and the elements of their extensions (RFC 8285).

use super::{u16_at, u32_at};

/// Bytes of an RTP header without CSRCs and extension.
const FIXED_HEADER: usize = 12;

const ONE_BYTE: u16 = 0xBEDE;
const TWO_BYTE: u16 = 0x1000;

/// An RTP header; the payload begins at `length`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The payload ends with padding, whose last byte counts it.
    pub padding: bool,
    /// Last packet of a video frame; first of an audio talk spurt.
    pub marker: bool,
    /// Payload type, 0 to 127.
    pub pt: u8,
    /// Sequence number.
    pub seq: u16,
    /// Timestamp in ticks of the payload's clock.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Bytes of the whole header: fixed part, CSRCs and extension.
    pub length: usize,
    extension: Option<(u16, usize)>, // profile, offset of the elements
}

impl Header {
    /// Parses the header; `None` if it is no RTP version 2 or runs past the end.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        if first >> 6 != 2 {
            return None;
        }
        let second = *packet.get(1)?;
        let mut header = Self {
            padding: first & 0x20 != 0,
            marker: second & 0x80 != 0,
            pt: second & 0x7f,
            seq: u16_at(packet, 2)?,
            timestamp: u32_at(packet, 4)?,
            ssrc: u32_at(packet, 8)?,
            length: FIXED_HEADER + 4 * usize::from(first & 0x0f),
            extension: None,
        };
        if first & 0x10 != 0 {
            let profile = u16_at(packet, header.length)?;
            let words = u16_at(packet, header.length + 2)?;
            header.extension = Some((profile, header.length + 4));
            header.length += 4 + 4 * usize::from(words);
        }
        (header.length <= packet.len()).then_some(header)
    }

    /// The header extension's elements. `packet` is the one that the header was parsed from.
    pub fn elements<'a>(&self, packet: &'a [u8]) -> Elements<'a> {
        let (form, bytes) = match self.extension {
            Some((ONE_BYTE, at)) => (Form::OneByte, packet.get(at..self.length)),
            Some((profile, at)) if profile & 0xfff0 == TWO_BYTE => (Form::TwoByte, packet.get(at..self.length)),
            _ => (Form::OneByte, None),
        };
        Elements { form, rest: bytes.unwrap_or_default() }
    }

    /// The payload of the decrypted packet without its padding; `None` if the padding's count is impossible.
    pub fn payload<'a>(&self, packet: &'a [u8]) -> Option<&'a [u8]> {
        let payload = packet.get(self.length..)?;
        if !self.padding {
            return Some(payload);
        }
        let count = usize::from(*payload.last()?);
        if count == 0 { None } else { payload.get(..payload.len().checked_sub(count)?) }
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
}

/// Walks the (id, value) elements of a header extension; ends early at anything malformed.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let [0, rest @ ..] = self.rest {
            self.rest = rest; // padding between elements
        }
        let (id, length, rest) = match (self.form, self.rest) {
            (Form::OneByte, [head, rest @ ..]) if head >> 4 != 15 => (head >> 4, usize::from(head & 0x0f) + 1, rest),
            (Form::TwoByte, [id, length, rest @ ..]) => (*id, usize::from(*length), rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((id, value))
    }
}

/// The fixed header of a packet to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FixedHeader {
    /// RTP marker.
    pub marker: bool,
    /// Payload type, 0 to 127.
    pub pt: u8,
    /// Sequence number.
    pub seq: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// The payload will end with padding.
    pub padding: bool,
}

impl FixedHeader {
    /// Appends it, with the X bit if an extension will follow.
    pub fn write(&self, out: &mut Vec<u8>, extension: bool) {
        out.push(0x80 | u8::from(self.padding) << 5 | u8::from(extension) << 4);
        out.push(u8::from(self.marker) << 7 | self.pt);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.ssrc.to_be_bytes());
    }
}

/// Appends a header extension of these (id, value) elements, in the one-byte form if it can hold them.
pub fn write_extension(out: &mut Vec<u8>, elements: &[(u8, &[u8])]) {
    let one_byte = elements.iter().all(|(id, value)| *id <= 14 && (1..=16).contains(&value.len()));
    let profile = if one_byte { ONE_BYTE } else { TWO_BYTE };
    out.extend_from_slice(&profile.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    for (id, value) in elements {
        if one_byte {
            out.push(id << 4 | (value.len() as u8 - 1));
        } else {
            out.extend_from_slice(&[*id, value.len() as u8]);
        }
        out.extend_from_slice(value);
    }
    while (out.len() - length_at - 2) % 4 != 0 {
        out.push(0);
    }
    let words = ((out.len() - length_at - 2) / 4) as u16;
    out[length_at..length_at + 2].copy_from_slice(&words.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(elements: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let fixed = FixedHeader { marker: true, pt: 96, seq: 7, timestamp: 8, ssrc: 9, padding: false };
        fixed.write(&mut out, true);
        write_extension(&mut out, elements);
        out.extend_from_slice(b"payload");
        out
    }

    #[test]
    fn what_is_written_is_read_back_in_both_forms() {
        let long = [7; 20];
        for elements in [vec![(1, &b"ab"[..]), (14, &b"c"[..])], vec![(15, &b""[..]), (200, &long[..])]] {
            let bytes = packet(&elements);
            let header = Header::parse(&bytes).unwrap();
            assert_eq!((header.pt, header.seq, header.timestamp, header.ssrc), (96, 7, 8, 9));
            assert!(header.marker);
            assert_eq!(header.elements(&bytes).collect::<Vec<_>>(), elements);
            assert_eq!(header.payload(&bytes), Some(&b"payload"[..]));
        }
    }

    #[test]
    fn padding_is_taken_off_and_an_impossible_count_refused() {
        let bytes = [0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 5, 0, 2];
        assert_eq!(Header::parse(&bytes).unwrap().payload(&bytes), Some(&[5][..]));
        for count in [0, 4, 255] {
            let mut bytes = bytes;
            bytes[14] = count;
            assert_eq!(Header::parse(&bytes).unwrap().payload(&bytes), None);
        }
    }

    #[test]
    fn a_header_that_runs_past_the_end_is_refused() {
        let bytes = packet(&[(1, b"ab")]);
        for length in 0..20 {
            assert_eq!(Header::parse(&bytes[..length]), None);
        }
        assert_eq!(Header::parse(&[0x8f; 12]), None, "15 CSRCs that are not there");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(header.elements(&bytes).count() < 120);
                let _ = header.payload(&bytes);
            }
        }
    }
}
