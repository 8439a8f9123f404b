//! The RTP header of one sent stream, made once: what differs from packet to packet is filled in at known places.

use super::frame::Dependency;
use super::packet::Packet;
use super::rewrite::Rewritten;
use crate::proto::extensions::{Extension, ExtensionIds, LONGEST, PASSED, Passed};
use crate::time::{SECOND, Time};

/// Bytes of an RTP header without extension, and of an extension's own header.
const FIXED: usize = 12;
const EXTENSION: usize = 4;
/// Longest values of the one-byte form, and its highest id (RFC 8285, section 4.2).
const MAX_SHORT: usize = 16;
const _: () = assert!(LONGEST <= MAX_SHORT, "what is passed fits either form");
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
    passed: [Option<u8>; PASSED.len()], // ids of what is passed, in that table's order
    dependency: Option<u8>,             // id of the dependency descriptor
    longer: Option<Box<Self>>,          // the same in the two-byte form, for descriptors that need it
}

/// A dependency descriptor as it is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Depends<'a> {
    /// The publisher's.
    pub dependency: &'a Dependency,
    /// Its frame number.
    pub number: u16,
    /// The decode targets that are named as active.
    pub active: Option<u32>,
}

/// What of a packet is to be found in its header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// RTP marker.
    pub marker: bool,
    /// Another payload type than the stream's own.
    pub pt: Option<u8>,
    /// The payload will end with padding.
    pub padding: bool,
    /// Sequence number.
    pub seq: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// What its publisher says to all.
    pub passed: Passed,
    /// Its dependency descriptor.
    pub depends: Option<Depends<'a>>,
}

impl<'a> Fields<'a> {
    /// Those of a publisher's packet in its place in a subscriber's stream.
    pub fn of(packet: &'a Packet, rewritten: Rewritten, padding: bool) -> Self {
        let number = rewritten.indices.frame_number;
        Self {
            marker: rewritten.marker,
            pt: None,
            padding,
            seq: rewritten.index as u16,
            timestamp: rewritten.timestamp,
            passed: packet.passed,
            depends: packet.dependency.as_ref().filter(|_| !rewritten.blank).map(|dependency| {
                let active = dependency.nameable(rewritten.active);
                Depends { dependency, number, active }
            }),
        }
    }
}

impl Template {
    /// For a stream of this source and payload type; with the extensions that the leg negotiated.
    ///
    /// The layer of a simulcast is named by one of RFC 8852's two extensions.
    pub fn new(ssrc: u32, pt: u8, mid: &str, rid: Option<(Extension, &str)>, ids: &ExtensionIds) -> Self {
        let mut template = Self::in_form(ssrc, pt, mid, rid, ids, false);
        if template.dependency.is_some() && !template.long {
            template.longer = Some(Box::new(Self::in_form(ssrc, pt, mid, rid, ids, true)));
        }
        template
    }

    fn in_form(ssrc: u32, pt: u8, mid: &str, rid: Option<(Extension, &str)>, ids: &ExtensionIds, long: bool) -> Self {
        let id = |extension| ids.id(extension);
        let mid = Some(mid.as_bytes()).filter(|mid| (1..=MAX_MID).contains(&mid.len()));
        let (rid_extension, rid) = rid.unzip();
        let constant: [(Extension, Option<&[u8]>); 4] = [
            (Extension::Mid, mid),
            (rid_extension.unwrap_or(Extension::Rid), rid.map(str::as_bytes)),
            (Extension::AbsSendTime, Some(&[0; 3])),
            (Extension::TransportCc, Some(&[0; 2])),
        ];
        let passed = PASSED.map(|(extension, _)| id(extension));
        let all = constant.iter().filter_map(|(extension, value)| Some((id(*extension)?, (*value)?.len())));
        let varying = passed.iter().zip(PASSED).filter_map(|(id, (_, length))| Some(((*id)?, length)));
        let dependency = id(Extension::Dependency);
        let varying = varying.chain(dependency.map(|id| (id, 1)));
        let long = long || all.chain(varying).any(|(id, length)| id > MAX_SHORT_ID || length > MAX_SHORT);
        let profile: u16 = if long { 0x1000 } else { 0xBEDE };
        let mut bytes = vec![0; FIXED + EXTENSION];
        bytes[0] = 0x80;
        bytes[1] = pt;
        bytes[8..FIXED].copy_from_slice(&ssrc.to_be_bytes());
        bytes[FIXED..FIXED + 2].copy_from_slice(&profile.to_be_bytes());
        let mut template = Self { bytes, long, send_time: None, transport_seq: None, passed, dependency, longer: None };
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

    /// What this packet has besides: id and value.
    fn varying<'a>(&'a self, passed: &'a Passed) -> impl Iterator<Item = (u8, &'a [u8])> {
        passed.iter().filter_map(|(place, value)| Some((self.passed[place]?, value)))
    }

    /// The form that holds this packet's values.
    fn form(&self, depends: Option<Depends<'_>>) -> &Self {
        let needs = |depends: Depends<'_>| depends.dependency.written(depends.active) > MAX_SHORT;
        self.longer.as_deref().filter(|_| depends.is_some_and(needs)).unwrap_or(self)
    }

    /// Bytes of the header of a packet with these values.
    pub fn length(&self, fields: &Fields<'_>) -> usize {
        let form = self.form(fields.depends);
        if !std::ptr::eq(form, self) {
            return form.length(fields);
        }
        let depends = fields.depends.filter(|_| self.dependency.is_some());
        let more: usize = self.varying(&fields.passed).map(|(_, value)| self.head() + value.len()).sum();
        let more = more + depends.map_or(0, |it| self.head() + it.dependency.written(it.active));
        let elements = self.bytes.len() - FIXED - EXTENSION + more;
        if elements == 0 { FIXED } else { FIXED + EXTENSION + elements.next_multiple_of(4) }
    }

    /// Appends the header of a packet; `transport_seq` is counted up if it is sent.
    pub fn write(&self, out: &mut Vec<u8>, fields: &Fields<'_>, now: Time, transport_seq: &mut u16) {
        let form = self.form(fields.depends);
        if !std::ptr::eq(form, self) {
            return form.write(out, fields, now, transport_seq);
        }
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for (id, value) in self.varying(&fields.passed) {
            element(out, self.long, id, value);
        }
        if let (Some(id), Some(depends)) = (self.dependency, fields.depends) {
            head(out, self.long, id, depends.dependency.written(depends.active));
            depends.dependency.write(depends.number, depends.active, out);
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
        header[0] |= u8::from(fields.padding) << 5 | u8::from(elements > 0) << 4;
        header[1] = u8::from(fields.marker) << 7 | fields.pt.unwrap_or(header[1]);
        header[2..4].copy_from_slice(&fields.seq.to_be_bytes());
        header[4..8].copy_from_slice(&fields.timestamp.to_be_bytes());
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
    head(out, long, id, value.len());
    out.extend_from_slice(value);
}

/// What stands before a value.
fn head(out: &mut Vec<u8>, long: bool, id: u8, length: usize) {
    if long {
        out.extend_from_slice(&[id, length as u8]);
    } else {
        out.push(id << 4 | (length as u8 - 1));
    }
}

/// Seconds in 6.18 fixed point, modulo 64 s.
fn abs_send_time(now: Time) -> [u8; 3] {
    let fixed = (u128::from(now.micros()) << 18) / u128::from(SECOND);
    let [.., a, b, c] = (fixed as u32).to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings)] // by the fields of the formats
mod tests {
    use super::*;
    use crate::proto::dependency::samples::{Described, Describer};
    use crate::proto::rtp::Header;
    use crate::route::frame::Reader;
    use crate::route::packet::Codec;

    fn passed(values: &[(Extension, &[u8])]) -> Passed {
        let mut passed = Passed::default();
        values.iter().for_each(|(extension, value)| passed.note(*extension, value));
        passed
    }

    fn written(template: &Template, passed: Passed) -> (Header, Vec<(u8, Vec<u8>)>) {
        written_with(template, Fields { passed, ..Fields::default() })
    }

    fn written_with(template: &Template, fields: Fields<'_>) -> (Header, Vec<(u8, Vec<u8>)>) {
        let mut out = vec![7; 3];
        let fields = Fields { marker: true, padding: true, seq: 5, timestamp: 9, ..fields };
        let mut seq = 300;
        template.write(&mut out, &fields, Time::from_micros(SECOND / 2), &mut seq);
        let header = Header::parse(&out[3..]).unwrap();
        assert_eq!((header.length, out.len() - 3), (template.length(&fields), template.length(&fields)));
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
            let (_, elements) = written(&template, passed(&[(Extension::AudioLevel, &[40])]));
            let wanted = vec![
                (first, b"mid".to_vec()),
                (first + 1, vec![2, 0, 0]),
                (first + 2, vec![1, 44]),
                (first + 3, vec![40]),
            ];
            assert_eq!(elements, wanted);
            assert_eq!(written(&template, Passed::default()).1, wanted[..3]);
        }
    }

    #[test]
    fn a_layer_is_named_however_long_its_rid_and_without_extensions_there_is_no_extension() {
        let ids = ExtensionIds::new([("urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", 2)]);
        let rid = "r".repeat(40);
        let template = Template::new(0xdead_beef, 111, "mid", Some((Extension::Rid, &rid)), &ids);
        assert_eq!(written(&template, Passed::default()).1, [(2, rid.into_bytes())]);
        let template = Template::new(0xdead_beef, 111, "mid", None, &ExtensionIds::default());
        let (header, elements) = written(&template, passed(&[(Extension::AudioLevel, &[1])]));
        assert_eq!((header.length, elements.len()), (FIXED, 0));
    }

    #[test]
    fn what_a_publisher_says_is_passed_under_the_subscribers_ids_and_only_where_it_has_one() {
        let playout = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
        let ids = ExtensionIds::new([(playout, 9), ("urn:3gpp:video-orientation", 4)]);
        let template = Template::new(0xdead_beef, 111, "mid", None, &ids);
        let orientation = (Extension::VideoOrientation, &[2][..]);
        let said = passed(&[(Extension::AudioLevel, &[1]), orientation, (Extension::PlayoutDelay, &[0, 16, 5])]);
        assert_eq!(written(&template, said).1, [(4, vec![2]), (9, vec![0, 16, 5])]);
        assert_eq!(written(&template, passed(&[orientation])).1, [(4, vec![2])]);
    }

    #[test]
    fn a_dependency_descriptor_is_numbered_anew_and_a_long_one_takes_the_longer_form() {
        let uri = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
        let ids = ExtensionIds::new([(uri, 9), ("urn:ietf:params:rtp-hdrext:sdes:mid", 3)]);
        let template = Template::new(0xdead_beef, 111, "mid", None, &ids);
        let describer = Describer { spatial: 3, temporal: 3, key_only: false };
        let key = Described { number: 7, key: true, starts: true, ..Described::default() };
        let mut reader = Reader::default();
        let mut sent = |described, active| {
            let bytes = describer.write(described);
            let dependency = reader.read(Codec::Av1, 0, &[0x10, 1], Some(&bytes)).unwrap().dependency.unwrap();
            let depends = Some(Depends { dependency: &dependency, number: 0x0102, active });
            let (header, elements) = written_with(&template, Fields { depends, ..Fields::default() });
            assert_eq!(header.length % 4, 0);
            assert_eq!((elements.len(), &elements[0]), (2, &(3, b"mid".to_vec())));
            (bytes, elements[1].1.clone())
        };
        let (before, after) = sent(key, None);
        assert!(before.len() > MAX_SHORT);
        assert_eq!((&after[..1], &after[1..3], &after[3..]), (&before[..1], &[1, 2][..], &before[3..]));
        let (before, after) = sent(Described { number: 8, starts: true, ..Described::default() }, None);
        assert_eq!(after, [before[0], 1, 2]);
        let (_, after) = sent(Described { number: 9, starts: true, ..Described::default() }, Some(0b1001));
        assert_eq!((after.len(), after[3]), (5, 0b0_1000_000), "the flag for active targets, and nine bits");
    }
}
