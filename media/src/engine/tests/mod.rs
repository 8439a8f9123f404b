//! Peers around an engine under a fake clock: what they send goes in, what it makes comes back decrypted.

mod bandwidth;
mod bitrate;
mod crossing;
mod dialling;
mod flow;
mod hostile;
mod ice;
mod layered;
mod lifecycle;
mod observed;
mod passed;
mod people;
mod red;
mod repair;
mod reports;
mod sharing;
mod simulcast;
mod trunk;
mod voices;
mod world;

use std::collections::HashMap;

use super::crossing::{Crossing, Home, Seat};
use super::outbox::Path;
use super::plan::{Kind, LegId, Line, Payload, Plan, Receive, Transmit};
use super::{Command, Engine, Event};
use crate::proto::demux::{Class, classify};
use crate::proto::rtp::{self, FixedHeader, Header};
use crate::proto::stun::{Password, write_request};
use crate::proto::vp8::Descriptor;
use crate::srtp::{Master, PacketIndex, Profile, Protector, Unprotector};
use crate::time::{MILLISECOND, SECOND, Time, WallClock};

const PWD: &str = "a password of some length";
const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
const LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
const NTP_AT_ZERO: u64 = 3_900_000_000 << 32;

/// A publisher's line "v" has rids q (high), h, f (low); its line "a" is audio. A subscriber's are "sv" and "sa".
const GROUP: u64 = 77;
const VIDEO_SSRC: u32 = 0xabcd;
const RTX_SSRC: u32 = 0xabce;
const AUDIO_SSRC: u32 = 0xabcf;

/// An RTP packet as a peer got it.
#[derive(Clone, Debug)]
struct Got {
    header: Header,
    index: u64,
    elements: Vec<(u8, Vec<u8>)>,
    payload: Vec<u8>,
    at: Time,
}

impl Got {
    fn picture_id(&self) -> u16 {
        Descriptor::parse(&self.payload).unwrap().counters.picture_id.unwrap().value
    }

    /// What `Camera` wrote behind the key-frame header: layer, and a number that counts its packets.
    fn mark(&self) -> (u8, u32) {
        let tail = &self.payload[self.payload.len() - 5..];
        (tail[0], u32::from_be_bytes(tail[1..].try_into().unwrap()))
    }

    fn element(&self, id: u8) -> Option<&[u8]> {
        self.elements.iter().find(|(known, _)| *known == id).map(|(_, value)| &value[..])
    }
}

struct Peer {
    path: Path,
    protector: Protector,
    unprotector: Unprotector,
    positions: HashMap<u32, PacketIndex>,
    rtp: Vec<Got>,
    rtcp: Vec<Vec<u8>>,
    other: Vec<Vec<u8>>,
}

impl Peer {
    fn video(&self) -> Vec<Got> {
        self.rtp.iter().filter(|got| got.header.ssrc == VIDEO_SSRC).cloned().collect()
    }
}

struct World {
    engine: Engine,
    /// With several threads: those of the others. Peers' datagrams go to one of them by their port.
    others: Vec<Engine>,
    now: Time,
    peers: HashMap<LegId, Peer>,
    /// Which of the engine's datagrams get lost on their way, by their count.
    lose: fn(usize) -> bool,
    sent: usize,
}

fn path(leg: LegId) -> Path {
    Path { socket: 0, peer: ([127, 0, 0, 1], 1000 + leg as u16).into() }
}

fn ufrag(leg: LegId) -> String {
    format!("leg{leg}")
}

fn master(profile: Profile, seed: u8) -> Master {
    Master { key: vec![seed; 16], salt: vec![seed ^ 0x55; profile.salt_length()] }
}

impl World {
    fn new() -> Self {
        Self::several(std::env::var("ENGINES").map_or(1, |count| count.parse().unwrap()))
    }

    fn several(count: usize) -> Self {
        let engine = |index| Engine::new(WallClock::new(NTP_AT_ZERO), 42 + index as u64).seated(Seat { index, count });
        let (engine, others) = (engine(0), (1..count).map(engine).collect());
        Self { engine, others, now: Time::from_micros(SECOND), peers: HashMap::new(), lose: |_| false, sent: 0 }
    }

    fn command(&mut self, command: Command) {
        let now = self.now;
        if let Command::AddLeg { leg, ufrag, pwd } = &command {
            let home = Home::default();
            self.engines().for_each(|engine| engine.add_leg(now, *leg, ufrag.clone(), pwd, home.clone()));
        } else {
            self.engines().for_each(|engine| engine.command(now, command.clone()));
        }
        self.collect();
    }

    fn engines(&mut self) -> impl Iterator<Item = &mut Engine> {
        std::iter::once(&mut self.engine).chain(&mut self.others)
    }

    /// The engine that peers at this address get.
    fn engine_at(&mut self, path: Path) -> &mut Engine {
        let place = usize::from(path.peer.port()) % (1 + self.others.len());
        if place == 0 { &mut self.engine } else { &mut self.others[place - 1] }
    }

    /// Carries what the engines have for each other until they have nothing more.
    fn carry(&mut self) {
        let (now, count) = (self.now, 1 + self.others.len());
        let mut waiting: Vec<_> = std::iter::repeat_with(Crossing::default).take(count).collect();
        loop {
            for from in 0..count {
                for (to, waiting) in waiting.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                    let engine = if from == 0 { &mut self.engine } else { &mut self.others[from - 1] };
                    assert_eq!(waiting.append(engine.crossing(to)), 0, "nothing is dropped");
                }
            }
            if waiting.iter().all(Crossing::is_empty) {
                break;
            }
            for (engine, crossing) in self.engines().zip(&mut waiting) {
                engine.arrive(now, crossing, |_, _| {});
            }
        }
    }

    fn datagram(&mut self, path: Path, mut datagram: Vec<u8>) {
        let now = self.now;
        self.engine_at(path).datagram(now, path, &mut datagram);
        self.collect();
    }

    fn stun(&mut self, leg: LegId, path: Path, nominate: bool) {
        let mut request = Vec::new();
        write_request([7; 12], &format!("{}:them", ufrag(leg)), &Password::new(PWD), nominate, true, &mut request);
        self.datagram(path, request);
    }

    fn add(&mut self, leg: LegId) {
        self.command(Command::AddLeg { leg, ufrag: ufrag(leg), pwd: PWD.into() });
        let profile = Profile::AeadAes128Gcm;
        let peer = Peer {
            path: path(leg),
            protector: Protector::new(profile, &master(profile, leg as u8)).unwrap(),
            unprotector: Unprotector::new(profile, &master(profile, 100 + leg as u8)).unwrap(),
            positions: HashMap::new(),
            rtp: Vec::new(),
            rtcp: Vec::new(),
            other: Vec::new(),
        };
        self.peers.insert(leg, peer);
    }

    fn key(&mut self, leg: LegId) {
        let profile = Profile::AeadAes128Gcm;
        let (local, remote) = (master(profile, 100 + leg as u8), master(profile, leg as u8));
        self.command(Command::SetKeys { leg, profile, local, remote });
    }

    /// A leg with address, keys and group.
    fn connect(&mut self, leg: LegId) {
        self.add(leg);
        self.stun(leg, path(leg), true);
        self.key(leg);
        self.command(Command::SetGroup { leg, group: GROUP });
    }

    fn publisher(&mut self, leg: LegId) {
        self.connect(leg);
        self.command(Command::SetPlan { leg, plan: publisher_plan() });
    }

    fn subscriber(&mut self, leg: LegId) {
        self.connect(leg);
        self.command(Command::SetPlan { leg, plan: subscriber_plan(true) });
    }

    fn forward(&mut self, leg: LegId, mid: &str, source_leg: LegId, source_mid: &str, size: Option<(u32, u32)>) {
        let (mid, source_mid) = (mid.into(), source_mid.into());
        self.command(Command::Forward { leg, mid, source_leg, source_mid, sizes: vec![size] });
    }

    /// Protects a packet as the peer does and hands it to the engine.
    fn rtp(&mut self, leg: LegId, header: FixedHeader, index: u64, elements: &[(u8, &[u8])], payload: &[u8]) {
        let packet = self.protect(leg, header, index, elements, payload);
        self.datagram(self.peers[&leg].path, packet);
    }

    fn protect(
        &self,
        leg: LegId,
        header: FixedHeader,
        index: u64,
        elements: &[(u8, &[u8])],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut packet = Vec::new();
        FixedHeader { seq: index as u16, ..header }.write(&mut packet, !elements.is_empty());
        if !elements.is_empty() {
            rtp::write_extension(&mut packet, elements);
        }
        let length = packet.len();
        packet.extend_from_slice(payload);
        self.peers[&leg].protector.protect_rtp(&mut packet, 0, length, header.ssrc, index);
        packet
    }

    fn rtcp(&mut self, leg: LegId, write: impl FnOnce(&mut Vec<u8>)) {
        let peer = self.peers.get_mut(&leg).unwrap();
        let mut compound = Vec::new();
        write(&mut compound);
        peer.protector.protect_rtcp(&mut compound, 0);
        let path = peer.path;
        self.datagram(path, compound);
    }

    /// Lets time pass, with the engine's deadlines.
    fn pass(&mut self, millis: u64) {
        let end = self.now + millis * MILLISECOND;
        while let Some(deadline) = self.engines().filter_map(|engine| engine.deadline()).min().filter(|it| *it <= end) {
            self.now = self.now.max(deadline);
            let now = self.now;
            self.engines()
                .filter(|engine| engine.deadline().is_some_and(|it| it <= now))
                .for_each(|engine| engine.tick(now));
            self.collect();
        }
        self.now = end;
    }

    /// Delivers what the engine made.
    fn collect(&mut self) {
        let now = self.now;
        if !self.others.is_empty() {
            self.carry();
        }
        self.engines().for_each(|engine| engine.finish(now));
        let mut datagrams = Vec::new();
        for engine in self.engines() {
            datagrams.extend(engine.outbox.iter().map(|(path, datagram)| (path, datagram.to_vec())));
            engine.outbox.clear();
        }
        for (path, mut datagram) in datagrams {
            self.sent += 1;
            let Some(peer) = self.peers.values_mut().find(|peer| peer.path == path) else { continue };
            match classify(&datagram) {
                Class::Rtp if (self.lose)(self.sent) => {}
                Class::Rtp => {
                    let header = Header::parse(&datagram).unwrap();
                    let position = peer.positions.entry(header.ssrc).or_default();
                    let opened =
                        peer.unprotector.unprotect_rtp(&mut datagram, header.length, header.ssrc, header.seq, position);
                    let (length, index) = opened.expect("the subscriber can decrypt what it gets, and gets it once");
                    position.accept(index);
                    let packet = &datagram[..length];
                    let elements = header.elements(packet).map(|(id, value)| (id, value.to_vec())).collect();
                    let payload = header.payload(packet).unwrap().to_vec();
                    peer.rtp.push(Got { header, index, elements, payload, at: now });
                }
                Class::Rtcp => {
                    let length = peer.unprotector.unprotect_rtcp(&mut datagram).expect("RTCP decrypts");
                    peer.rtcp.push(datagram[..length].to_vec());
                }
                _ => peer.other.push(datagram),
            }
        }
    }

    fn peer(&self, leg: LegId) -> &Peer {
        &self.peers[&leg]
    }

    fn events(&mut self) -> Vec<Event> {
        self.engines().flat_map(|engine| engine.take_events()).collect()
    }
}

fn payload(pt: u8, codec: &str, clock_rate: u32, apt: Option<u8>) -> Payload {
    Payload { pt, codec: codec.into(), clock_rate, apt }
}

fn publisher_plan() -> Plan {
    let extensions = [(MID, 4), (RID, 5), (REPAIRED_RID, 6), (LEVEL, 1), (TRANSPORT_CC, 3)];
    let rids = ["q", "h", "f"].map(String::from).to_vec();
    Plan {
        payloads: vec![
            payload(96, "VP8", 90_000, None),
            payload(97, "rtx", 90_000, Some(96)),
            payload(111, "opus", 48_000, None),
        ],
        extensions: extensions.map(|(uri, id)| (uri.to_owned(), id)).to_vec(),
        lines: vec![
            Line { mid: "v".into(), kind: Kind::Video, receive: Some(Receive { rids, ssrcs: vec![] }), send: vec![] },
            Line { mid: "a".into(), kind: Kind::Audio, receive: Some(Receive::default()), send: vec![] },
        ],
    }
}

/// Another's payload types and extension ids than the publisher's, as happens.
fn subscriber_plan(rtx: bool) -> Plan {
    let extensions = [(MID, 9), (LEVEL, 10), (TRANSPORT_CC, 11), (SEND_TIME, 12)];
    let video = Transmit {
        ssrc: VIDEO_SSRC,
        rtx: rtx.then_some((RTX_SSRC, 103)),
        pt: 102,
        red: None,
        cname: "focus".into(),
        rid: None,
    };
    let audio = Transmit { ssrc: AUDIO_SSRC, rtx: None, pt: 100, red: None, cname: "focus".into(), rid: None };
    Plan {
        payloads: vec![
            payload(102, "VP8", 90_000, None),
            payload(103, "rtx", 90_000, Some(102)),
            payload(100, "opus", 48_000, None),
        ],
        extensions: extensions.map(|(uri, id)| (uri.to_owned(), id)).to_vec(),
        lines: vec![
            Line { mid: "sv".into(), kind: Kind::Video, receive: None, send: vec![video] },
            Line { mid: "sa".into(), kind: Kind::Audio, receive: None, send: vec![audio] },
        ],
    }
}

/// A publisher's camera in three layers, whose numbers have nothing to do with each other.
struct Camera {
    leg: LegId,
    layers: [CameraLayer; 3],
    transport_seq: u16,
}

#[derive(Clone, Copy)]
struct CameraLayer {
    index: u64,
    picture: u16,
    timestamp_offset: u32,
    count: u32,
    started: bool,
}

const RIDS: [&[u8]; 3] = [b"q", b"h", b"f"];
const SIZES: [(u16, u16); 3] = [(1280, 720), (640, 360), (320, 180)];

impl Camera {
    fn new(leg: LegId) -> Self {
        let layer = |index, picture, timestamp_offset| CameraLayer {
            index,
            picture,
            timestamp_offset,
            count: 0,
            started: false,
        };
        let layers = [layer(65_500, 0x7ff0, 0xffff_ff00), layer(200, 90, 1_234_567), layer(30_000, 5000, 9)];
        Self { leg, layers, transport_seq: 65_530 }
    }

    fn ssrc(&self, layer: usize) -> u32 {
        self.leg as u32 * 1000 + layer as u32
    }

    fn timestamp(&self, layer: usize, now: Time) -> u32 {
        self.layers[layer].timestamp_offset.wrapping_add(now.ticks_since(Time::default(), 90_000))
    }

    /// A frame's packets, made but not sent: (header, index, payload).
    fn make(&mut self, now: Time, layer: usize, key_frame: bool, packets: usize) -> Vec<(FixedHeader, u64, Vec<u8>)> {
        let (ssrc, timestamp) = (self.ssrc(layer), self.timestamp(layer, now));
        let state = &mut self.layers[layer];
        let (width, height) = SIZES[layer];
        let made = (0..packets).map(|n| {
            let start = if n == 0 { 0x10 } else { 0 };
            let [high, low] = (state.picture | 0x8000).to_be_bytes();
            let mut payload = vec![0x80 | start, 0xe0, high, low, state.picture as u8, 0];
            payload.extend_from_slice(&[u8::from(!key_frame), 0, 0, 0x9d, 0x01, 0x2a]);
            payload.extend_from_slice(&width.to_le_bytes());
            payload.extend_from_slice(&height.to_le_bytes());
            payload.push(layer as u8);
            payload.extend_from_slice(&state.count.to_be_bytes());
            state.count += 1;
            state.index += 1;
            let marker = n + 1 == packets;
            let header = FixedHeader { marker, pt: 96, seq: 0, timestamp, ssrc, padding: false };
            (header, state.index, payload)
        });
        let made = made.collect();
        state.picture = (state.picture + 1) & 0x7fff;
        made
    }

    fn send(&mut self, world: &mut World, layer: usize, (header, index, payload): &(FixedHeader, u64, Vec<u8>)) {
        let transport = self.transport_seq.to_be_bytes();
        self.transport_seq = self.transport_seq.wrapping_add(1);
        let mut elements: Vec<(u8, &[u8])> = vec![(3, &transport)];
        if !self.layers[layer].started {
            elements.extend([(4, &b"v"[..]), (5, RIDS[layer])]); // Chromium stops sending them once they are known
        }
        self.layers[layer].started = true;
        world.rtp(self.leg, *header, *index, &elements, payload);
    }

    fn frame(&mut self, world: &mut World, layer: usize, key_frame: bool, packets: usize) {
        for packet in self.make(world.now, layer, key_frame, packets) {
            self.send(world, layer, &packet);
        }
    }

    /// Frames of these layers at 25 a second; a layer that was asked for a key frame gives one.
    fn run(&mut self, world: &mut World, layers: &[usize], frames: usize) {
        for _ in 0..frames {
            for &layer in layers {
                let asked = self.take_requests(world, layer) || !self.layers[layer].started;
                self.frame(world, layer, asked, 3);
            }
            world.pass(40);
        }
    }

    /// Whether a PLI for this layer came since the last call.
    fn take_requests(&self, world: &mut World, layer: usize) -> bool {
        let ssrc = self.ssrc(layer);
        let peer = world.peers.get_mut(&self.leg).unwrap();
        let before = peer.rtcp.len();
        peer.rtcp.retain(|compound| !plis(compound).contains(&ssrc));
        peer.rtcp.len() < before
    }
}

fn plis(compound: &[u8]) -> Vec<u32> {
    use crate::proto::rtcp::{Packet, parse};
    let media = |packet| match packet {
        Packet::PictureLoss { media } => Some(media),
        _ => None,
    };
    parse(compound).filter_map(media).collect()
}

/// What a decoder needs: numbers without gaps or repeats, time that goes on, pictures in order.
fn assert_continuous(got: &[Got]) {
    let mut sorted: Vec<_> = got.iter().collect();
    sorted.sort_by_key(|got| got.index);
    for pair in sorted.windows(2) {
        let [a, b] = pair else { unreachable!() };
        assert_eq!(b.index, a.index + 1, "sequence numbers");
        let ahead = b.header.timestamp.wrapping_sub(a.header.timestamp);
        let same_frame = ahead == 0;
        assert!(ahead < 90_000 * 3, "timestamps: {} then {}", a.header.timestamp, b.header.timestamp);
        let pictures = b.picture_id().wrapping_sub(a.picture_id()) & 0x7fff;
        assert_eq!(pictures, u16::from(!same_frame), "pictures");
        assert_eq!(!same_frame, a.header.marker, "frames end with a marker");
    }
}
