//! The engine's datagram entry: raw datagrams, and such as a peer with valid keys protected.
//!
//! The input is cut into datagrams by length prefixes; the top bits of a prefix say whether one is protected, and how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mautrix_sfu_media::engine::outbox::Path;
use mautrix_sfu_media::engine::plan::{Kind, Line, Payload, Plan, Receive, Transmit};
use mautrix_sfu_media::engine::{Command, Engine};
use mautrix_sfu_media::proto::rtp::Header;
use mautrix_sfu_media::proto::stun::{Password, write_request};
use mautrix_sfu_media::srtp::{Master, Profile, Protector};
use mautrix_sfu_media::time::{Time, WallClock};

const PROFILE: Profile = Profile::AeadAes128Gcm;

fn master() -> Master {
    Master { key: vec![1; 16], salt: vec![2; 12] }
}

fn plan() -> Plan {
    let payload = |pt, codec: &str, clock_rate, apt| Payload { pt, codec: codec.into(), clock_rate, apt };
    let rids = vec!["q".to_owned(), "h".to_owned()];
    let send = Transmit { ssrc: 1, rtx: Some((2, 97)), pt: 96, cname: "focus".into(), rid: None };
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

fuzz_target!(|bytes: &[u8]| {
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
        now = now + 7_000;
        engine.tick(now);
        engine.outbox.clear();
        engine.take_events();
    }
});
