//! What is fuzzed: one function for each parser, and one for all of the engine. `tests/corpus.rs` replays them without a fuzzer.

use mautrix_sfu_media::engine::outbox::Path;
use mautrix_sfu_media::engine::plan::{Kind, Line, Payload, Plan, Receive, Transmit};
use mautrix_sfu_media::engine::{Command, Engine};
use mautrix_sfu_media::proto::indices::Indices;
use mautrix_sfu_media::proto::red::Redundancy;
use mautrix_sfu_media::proto::rtcp::{Packet, parse};
use mautrix_sfu_media::proto::rtp::Header;
use mautrix_sfu_media::proto::stun::{Answer, Password, Request, with_fingerprint, write_request};
use mautrix_sfu_media::proto::vp8::Descriptor;
use mautrix_sfu_media::proto::{av1, dependency, h264, vp9};
use mautrix_sfu_media::srtp::{Master, Profile, Protector};
use mautrix_sfu_media::time::{Time, WallClock};

/// Binding requests and answers: parsed, verified, answered. Magic cookie, length and fingerprint are put right, else
/// nothing passes.
pub fn stun(bytes: &[u8]) {
    let repaired = with_fingerprint(bytes);
    for bytes in [bytes, &repaired] {
        let password = Password::new("password");
        if let Ok(answer) = Answer::parse(bytes) {
            answer.verify(&password);
        }
        let Ok(request) = Request::parse(bytes) else { continue };
        let mut out = Vec::new();
        request.verify(&password);
        request.write_success(([127, 0, 0, 1], 1).into(), &password, &mut out);
        request.write_role_conflict(&password, &mut out);
    }
}

/// RTP headers, their extensions and padding.
pub fn rtp(bytes: &[u8]) {
    if let Some(header) = Header::parse(bytes) {
        header.elements(bytes).for_each(drop);
        let _ = header.payload(bytes);
    }
}

/// RTCP compounds with all that hangs on their packets.
pub fn rtcp(bytes: &[u8]) {
    for packet in parse(bytes) {
        match packet {
            Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks } => blocks.for_each(drop),
            Packet::Nack { lost, .. } => lost.for_each(drop),
            Packet::FullIntra { entries } => entries.for_each(drop),
            _ => {}
        }
    }
}

/// VP8's payload descriptor: parsed and rewritten in place.
pub fn vp8(bytes: &[u8]) {
    if let Some(descriptor) = Descriptor::parse(bytes) {
        let mut copy = bytes.to_vec();
        descriptor
            .counters
            .rewrite(&mut copy, Indices { picture_id: 0x7fff, tl0: 255, key_index: 31, ..Indices::default() });
        assert_eq!(copy[descriptor.length..], bytes[descriptor.length..]);
        let _ = descriptor.key_frame(bytes);
    }
}

/// Redundant audio: read, cut down, and renamed in place.
pub fn red(bytes: &[u8]) {
    if let Some(redundancy) = Redundancy::parse(bytes, 111) {
        assert!(!redundancy.primary(bytes).is_empty());
        let mut copy = bytes.to_vec();
        redundancy.rename(&mut copy, 45);
        assert_eq!(Redundancy::parse(&copy, 45), Some(redundancy));
        assert_eq!(redundancy.primary(&copy), redundancy.primary(bytes));
    }
}

/// VP9's payload descriptor: parsed, rewritten in place, and read again.
pub fn vp9(bytes: &[u8]) {
    if let Some((descriptor, structure)) = vp9::Descriptor::parse(bytes) {
        let mut copy = bytes.to_vec();
        descriptor
            .counters
            .rewrite(&mut copy, Indices { picture_id: 0x7fff, tl0: 255, key_index: 31, ..Indices::default() });
        assert_eq!(copy[descriptor.length..], bytes[descriptor.length..]);
        let (again, same) = vp9::Descriptor::parse(&copy).expect("counters do not change the form");
        assert_eq!((again.length, again.spatial, same), (descriptor.length, descriptor.spatial, structure));
        let _ = descriptor.key_frame(bytes);
    }
}

/// H.264's payload: NAL units, aggregates and fragments, and the parameter set.
pub fn h264(bytes: &[u8]) {
    let _ = h264::Content::parse(bytes);
}

/// AV1's aggregation header, and the sequence header in the OBUs.
pub fn av1(bytes: &[u8]) {
    let _ = av1::Content::parse(bytes);
}

/// Dependency descriptors, one after the other, each by the newest structure: parsed, rewritten and read again. The first
/// byte of each is its length.
pub fn dependency(bytes: &[u8]) {
    let mut structure = None;
    let mut rest = bytes;
    while let [length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let Some((before, own)) = dependency::Descriptor::parse(bytes, structure.as_ref()) else { continue };
        let mut out = Vec::new();
        before.write(bytes, 77, Some(0x5555_5555), &mut out);
        if out.len() <= dependency::MAX_LENGTH {
            let (after, same) = dependency::Descriptor::parse(&out, structure.as_ref()).expect("it is as before");
            assert_eq!((after.number, after.frame, &same), (77, before.frame, &own));
        }
        structure = own.or(structure);
        if let Some(structure) = &structure {
            let target = structure.target(before.frame.spatial, before.frame.temporal);
            let _ = (before.frame.indications.is_switch(target), structure.mask(1, 1), structure.size(3));
            assert!((1..=dependency::MAX_SPATIAL).contains(&structure.spatial_layers()));
        }
    }
}

const PROFILE: Profile = Profile::AeadAes128Gcm;

fn master() -> Master {
    Master { key: vec![1; 16], salt: vec![2; 12] }
}

fn plan() -> Plan {
    let payload = |pt, codec: &str, clock_rate, apt| Payload { pt, codec: codec.into(), clock_rate, apt };
    let rids = vec!["q".to_owned(), "h".to_owned()];
    let send = Transmit { ssrc: 1, rtx: Some((2, 97)), pt: 96, red: None, cname: "focus".into(), rid: None };
    let uris = [
        "urn:ietf:params:rtp-hdrext:sdes:mid",
        "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
        "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
        "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    ];
    Plan {
        payloads: vec![
            payload(96, "VP8", 90_000, None),
            payload(97, "rtx", 90_000, Some(96)),
            payload(111, "opus", 48_000, None),
            payload(63, "red", 48_000, Some(111)),
        ],
        extensions: uris.iter().zip(1..).map(|(uri, id)| ((*uri).to_owned(), id)).collect(),
        lines: vec![
            Line {
                mid: "v".into(),
                kind: Kind::Video,
                receive: Some(Receive { rids, ssrcs: vec![] }),
                send: vec![send],
            },
            Line { mid: "a".into(), kind: Kind::Audio, receive: Some(Receive::default()), send: vec![] },
        ],
    }
}

/// The engine's datagram entry: raw datagrams, and such as a peer with valid keys protected.
///
/// The input is cut into datagrams by length prefixes; the top bits of a prefix say whether one is protected, and how.
pub fn engine(bytes: &[u8]) {
    let mut engine = Engine::new(WallClock::new(1 << 40), 1);
    let mut now = Time::from_micros(1);
    let path = Path { socket: 0, peer: ([127, 0, 0, 1], 1).into() };
    let leg = 1;
    engine.command(now, Command::AddLeg { leg, ufrag: "leg".into(), pwd: "pwd".into() });
    let mut request = Vec::new();
    write_request([0; 12], "leg:them", &Password::new("pwd"), true, true, &mut request);
    engine.datagram(now, path, &mut request);
    engine.command(now, Command::SetKeys { leg, profile: PROFILE, local: master(), remote: master() });
    engine.command(now, Command::SetGroup { leg, group: 1 });
    engine.command(now, Command::SetPlan { leg, plan: plan() });
    let (mid, source_mid) = ("v".to_owned(), "v".to_owned());
    engine.command(now, Command::Forward { leg, mid, source_leg: leg, source_mid, sizes: vec![None] });

    engine.outbox.clear();
    let mut protector = Protector::new(PROFILE, &master()).expect("the lengths are right");
    let mut rest = bytes;
    while let [prefix, tail @ ..] = rest {
        let (datagram, tail) = tail.split_at(usize::from(prefix & 0x3f).min(tail.len()));
        rest = tail;
        let mut datagram = datagram.to_vec();
        match prefix >> 6 {
            0 => {}
            1 if datagram.len() >= 8 => protector.protect_rtcp(&mut datagram, 0),
            _ => {
                if let Some(header) = Header::parse(&datagram) {
                    protector.protect_rtp(&mut datagram, 0, header.length, header.ssrc, header.seq.into());
                }
            }
        }
        engine.datagram(now, path, &mut datagram);
        engine.finish(now);
        let answered: usize = engine.outbox.iter().map(|(_, answer)| answer.len()).sum();
        assert!(prefix >> 6 != 0 || answered <= datagram.len(), "an answer to nobody is larger than the question");
        now = now + 7_000;
        engine.tick(now);
        engine.outbox.clear();
        engine.take_events();
    }
}
