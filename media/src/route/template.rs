//! The RTP header of one sent stream, made once: what differs from packet to packet is filled in at known places.

use super::packet::Packet;
use super::rewrite::Rewritten;
use crate::proto::extensions::{Extension, ExtensionIds};
use crate::time::{SECOND, Time};

/// Bytes of an RTP header without extension, and of an extension's own header.
const FIXED: usize = 12;
const EXTENSION: usize = 4;
/// Longest values of the one-byte form, and its highest id (RFC 8285, section 4.2).
const MAX_SHORT: usize = 16;
const MAX_SHORT_ID: u8 = 14;
/// A longer mid is not sent in packets: it would not fit the one-byte form. The ssrc is signalled anyway.
const MAX_MID: usize = MAX_SHORT;

/// A header with the extensions that every packet of the stream has.
#[derive(Debug, Default)]
pub struct Template {
    bytes: Vec<u8>, // fixed header, then the extension's, then its elements without padding at the end
    long: bool,     // elements in the two-byte form
    send_time: Option<usize>,
    transport_seq: Option<usize>,
    level: Option<u8>,
    orientation: Option<u8>,
}

impl Template {
    /// For a stream of this source and payload type; with the extensions that the leg negotiated.
    pub fn new(ssrc: u32, pt: u8, mid: &str, rid: Option<&str>, ids: &ExtensionIds) -> Self {
        let id = |extension| ids.id(extension);
        let mid = Some(mid.as_bytes()).filter(|mid| (1..=MAX_MID).contains(&mid.len()));
        let constant: [(Extension, Option<&[u8]>); 4] = [
            (Extension::Mid, mid),
            (Extension::Rid, rid.map(str::as_bytes)),
            (Extension::AbsSendTime, Some(&[0; 3])),
            (Extension::TransportCc, Some(&[0; 2])),
        ];
        let (level, orientation) = (id(Extension::AudioLevel), id(Extension::VideoOrientation));
        let all = constant.iter().filter_map(|(extension, value)| Some((id(*extension)?, (*value)?.len())));
        let varying = level.iter().chain(&orientation).map(|id| (*id, 1));
        let long = all.chain(varying).any(|(id, length)| id > MAX_SHORT_ID || length > MAX_SHORT);
        let profile: u16 = if long { 0x1000 } else { 0xBEDE };
        let mut bytes = vec![0; FIXED + EXTENSION];
        bytes[0] = 0x80;
        bytes[1] = pt;
        bytes[8..FIXED].copy_from_slice(&ssrc.to_be_bytes());
        bytes[FIXED..FIXED + 2].copy_from_slice(&profile.to_be_bytes());
        let mut template = Self { bytes, long, send_time: None, transport_seq: None, level, orientation };
        for (extension, value) in constant {
            let (Some(id), Some(value)) = (id(extension), value) else { continue };
            let at = template.bytes.len() + template.head();
            element(&mut template.bytes, long, id, value);
            match extension {
                Extension::AbsSendTime => template.send_time = Some(at),
                Extension::TransportCc => template.transport_seq = Some(at),
                _ => {}
            }
        }
        template
    }

    fn head(&self) -> usize {
        if self.long { 2 } else { 1 }
    }

    /// What this packet has besides.
    fn varying(&self, packet: &Packet) -> [Option<(u8, u8)>; 2] {
        [self.level.zip(packet.audio_level), self.orientation.zip(packet.orientation)]
    }

    /// Bytes of the header of this packet.
    pub fn length(&self, packet: &Packet) -> usize {
        let more = self.varying(packet).iter().flatten().count() * (self.head() + 1);
        let elements = self.bytes.len() - FIXED - EXTENSION + more;
        if elements == 0 { FIXED } else { FIXED + EXTENSION + elements.next_multiple_of(4) }
    }

    /// Appends the header of this packet; `transport_seq` is counted up if it is sent.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        packet: &Packet,
        rewritten: Rewritten,
        padding: bool,
        now: Time,
        transport_seq: &mut u16,
    ) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for (id, value) in self.varying(packet).into_iter().flatten() {
            element(out, self.long, id, &[value]);
        }
        let elements = out.len() - start - FIXED - EXTENSION;
        if elements == 0 {
            out.truncate(start + FIXED);
        } else {
            let words = elements.div_ceil(4);
            out.resize(start + FIXED + EXTENSION + 4 * words, 0);
            out[start + FIXED + 2..start + FIXED + EXTENSION].copy_from_slice(&(words as u16).to_be_bytes());
        }
        let header = &mut out[start..];
        header[0] |= u8::from(padding) << 5 | u8::from(elements > 0) << 4;
        header[1] |= u8::from(packet.marker) << 7;
        header[2..4].copy_from_slice(&(rewritten.index as u16).to_be_bytes());
        header[4..8].copy_from_slice(&rewritten.timestamp.to_be_bytes());
        if let Some(at) = self.send_time {
            header[at..at + 3].copy_from_slice(&abs_send_time(now));
        }
        if let Some(at) = self.transport_seq {
            header[at..at + 2].copy_from_slice(&transport_seq.to_be_bytes());
            *transport_seq = transport_seq.wrapping_add(1);
        }
    }
}

fn element(out: &mut Vec<u8>, long: bool, id: u8, value: &[u8]) {
    if long {
        out.extend_from_slice(&[id, value.len() as u8]);
    } else {
        out.push(id << 4 | (value.len() as u8 - 1));
    }
    out.extend_from_slice(value);
}

/// Seconds in 6.18 fixed point, modulo 64 s.
pub fn abs_send_time(now: Time) -> [u8; 3] {
    let fixed = (u128::from(now.micros()) << 18) / u128::from(SECOND);
    let [.., a, b, c] = (fixed as u32).to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rtp::Header;
    use crate::proto::vp8::Indices;
    use crate::route::packet::Codec;

    fn packet(audio_level: Option<u8>) -> Packet {
        Packet {
            index: 0,
            timestamp: 0,
            marker: true,
            codec: Codec::Opus,
            arrival: Time::default(),
            payload: vec![1],
            descriptor: None,
            key_frame: None,
            audio_level,
            orientation: None,
        }
    }

    fn written(template: &Template, packet: &Packet) -> (Header, Vec<(u8, Vec<u8>)>) {
        let mut out = vec![7; 3];
        let rewritten = Rewritten { index: 0x1_0005, timestamp: 9, indices: Indices::default() };
        let mut seq = 300;
        template.write(&mut out, packet, rewritten, true, Time::from_micros(SECOND / 2), &mut seq);
        let header = Header::parse(&out[3..]).unwrap();
        assert_eq!((header.length, out.len() - 3), (template.length(packet), template.length(packet)));
        assert!(header.marker && header.padding);
        assert_eq!((header.seq, header.timestamp, header.ssrc, header.pt), (5, 9, 0xdead_beef, 111));
        let elements = header.elements(&out[3..]).map(|(id, value)| (id, value.to_vec())).collect();
        (header, elements)
    }

    #[test]
    fn headers_have_what_was_negotiated_in_the_form_that_holds_it() {
        let uris = [
            "urn:ietf:params:rtp-hdrext:sdes:mid",
            "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
            "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        ];
        for first in [3, 12] {
            let ids = ExtensionIds::new(uris.into_iter().zip(first..));
            let template = Template::new(0xdead_beef, 111, "mid", None, &ids);
            let (_, elements) = written(&template, &packet(Some(40)));
            let wanted = vec![
                (first, b"mid".to_vec()),
                (first + 1, vec![2, 0, 0]),
                (first + 2, vec![1, 44]),
                (first + 3, vec![40]),
            ];
            assert_eq!(elements, wanted);
            assert_eq!(written(&template, &packet(None)).1, wanted[..3]);
        }
    }

    #[test]
    fn a_layer_is_named_however_long_its_rid_and_without_extensions_there_is_no_extension() {
        let ids = ExtensionIds::new([("urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", 2)]);
        let rid = "r".repeat(40);
        let template = Template::new(0xdead_beef, 111, "mid", Some(&rid), &ids);
        assert_eq!(written(&template, &packet(None)).1, [(2, rid.into_bytes())]);
        let template = Template::new(0xdead_beef, 111, "mid", None, &ExtensionIds::default());
        let (header, elements) = written(&template, &packet(Some(1)));
        assert_eq!((header.length, elements.len()), (FIXED, 0));
    }
}
