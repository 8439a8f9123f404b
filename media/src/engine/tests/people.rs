//! Participants: a camera in three layers that obeys RTCP, and an ear that decrypts and remembers.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::world::{RTX, VP8, is_rtp, is_stun, master};
use crate::engine::plan::LegId;
use crate::proto::extensions::{Extension, ExtensionIds};
use crate::proto::rtcp::{self, Packet};
use crate::proto::rtp::{FixedHeader, Header, write_extension};
use crate::proto::stun::{Check, Password};
use crate::proto::vp8::Descriptor;
use crate::srtp::{Master, PacketIndex, Profile, Protector, Unprotector};
use crate::time::{MILLISECOND, SECOND, Time};

pub const RIDS: [&str; 3] = ["f", "h", "q"];
pub const SIZES: [(u16, u16); 3] = [(1280, 720), (640, 360), (320, 180)];
/// Packets of one frame.
pub const PARTS: u8 = 3;
const FRAMES: u64 = 33 * MILLISECOND;
const BODY: usize = 30;

/// One packet of the camera, by what it shows.
pub type Piece = (usize, u32, u8); // layer, frame, part

/// A packet that somebody got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    pub at: Time,
    pub ssrc: u32,
    pub repair: bool,
    pub index: u64,
    pub timestamp: u32,
    pub mid: Option<String>,
    pub rid: Option<String>,
    pub repaired_rid: Option<String>,
    pub piece: Piece,
    pub key_frame: Option<(u16, u16)>,
}

/// Decrypts what one side of a leg sends.
pub struct Ear {
    unprotector: Unprotector,
    positions: HashMap<u32, PacketIndex>,
    pub got: Vec<Got>,
}

impl Ear {
    pub fn new(master: &Master) -> Self {
        let unprotector = Unprotector::new(Profile::AeadAes128Gcm, master).unwrap();
        Self { unprotector, positions: HashMap::new(), got: Vec::new() }
    }

    pub fn hear(&mut self, at: Time, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let header = Header::parse(&bytes).unwrap();
        let position = self.positions.entry(header.ssrc).or_default();
        let opened = self.unprotector.unprotect_rtp(&mut bytes, header.length, header.ssrc, header.seq, position);
        let (length, index) = opened.expect("made with the leg's key, and new");
        position.accept(index);
        let names =
            ExtensionIds::new(super::world::plan(Vec::new()).extensions.iter().map(|(uri, id)| (&uri[..], *id)));
        let named = |wanted| {
            let mut elements = header.elements(&bytes).filter(|(id, _)| names.extension(*id) == Some(wanted));
            elements.next().map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
        };
        let repair = header.pt == RTX;
        let payload = &header.payload(&bytes[..length]).unwrap()[if repair { 2 } else { 0 }..];
        let descriptor = Descriptor::parse(payload).unwrap();
        let tail = &payload[payload.len() - 6..];
        let frame = u32::from_be_bytes(tail[1..5].try_into().unwrap());
        self.got.push(Got {
            at,
            ssrc: header.ssrc,
            repair,
            index,
            timestamp: header.timestamp,
            mid: named(Extension::Mid),
            rid: named(Extension::Rid),
            repaired_rid: named(Extension::RepairedRid),
            piece: (usize::from(tail[0]), frame, tail[5]),
            key_frame: descriptor.key_frame(payload),
        });
    }

    /// Which layers it got since.
    pub fn layers(&self, since: Time) -> Vec<usize> {
        let mut layers: Vec<_> = self.got.iter().filter(|got| got.at >= since).map(|got| got.piece.0).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    pub fn of_layer(&self, layer: usize) -> Vec<&Got> {
        self.got.iter().filter(|got| got.piece.0 == layer).collect()
    }
}

struct Lens {
    ssrc: u32,
    on: bool,
    next: u64,
    key_frame: bool,
}

/// A publisher in three layers; each frame is `PARTS` packets.
pub struct Camera {
    mid: String,
    lenses: Vec<Lens>,
    next: Time,
    reports: Time,
    pub frame: u32,
    /// Key frames asked for, by layer.
    pub asked: [usize; 3],
}

pub struct Person {
    pub side: usize,
    pub leg: LegId,
    pub address: SocketAddr,
    pub ear: Ear,
    pub camera: Option<Camera>,
    /// RTCP to send.
    pub complaints: Vec<Vec<u8>>,
    protector: Protector,
    checks: Time,
}

impl Person {
    pub fn new(side: usize, leg: LegId) -> Self {
        Self {
            side,
            leg,
            address: ([10, 1, side as u8, leg as u8], 4000).into(),
            ear: Ear::new(&master(leg, true)),
            camera: None,
            complaints: Vec::new(),
            protector: Protector::new(Profile::AeadAes128Gcm, &master(leg, false)).unwrap(),
            checks: Time::default(),
        }
    }

    /// Publishes from now on.
    pub fn film(&mut self, mid: &str, now: Time) {
        let lens =
            |place: u32| Lens { ssrc: 1000 + place, on: true, next: 32_000 + 100 * u64::from(place), key_frame: true };
        let lenses = (0..3).map(lens).collect();
        let next = now + FRAMES;
        self.camera = Some(Camera { mid: mid.into(), lenses, next, reports: next, frame: 0, asked: [0; 3] });
    }

    pub fn camera(&mut self) -> &mut Camera {
        self.camera.as_mut().unwrap()
    }

    /// What it sends now.
    pub fn act(&mut self, now: Time) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if now >= self.checks {
            self.checks = now + 5 * SECOND;
            let (username, password) = (format!("ufrag{}:me", self.leg), format!("password{}", self.leg));
            let check = Check { id: [1; 12], username: &username, nominates: true, controlling: true, tie_breaker: 1 };
            let mut bytes = Vec::new();
            check.write(&Password::new(&password), &mut bytes);
            out.push(bytes);
        }
        if let Some(camera) = &mut self.camera {
            camera.shoot(now, &mut self.protector, &mut out);
        }
        for mut complaint in self.complaints.drain(..) {
            self.protector.protect_rtcp(&mut complaint, 0);
            out.push(complaint);
        }
        out
    }

    /// A key frame of this ssrc is missing.
    pub fn complain(&mut self, ssrc: u32) {
        let mut compound = Vec::new();
        rtcp::write_receiver_report(&mut compound, 1, &[]);
        rtcp::write_picture_loss(&mut compound, 1, ssrc);
        self.complaints.push(compound);
    }

    pub fn take(&mut self, now: Time, bytes: &mut [u8]) {
        if is_rtp(bytes) {
            self.ear.hear(now, bytes);
        } else if !is_stun(bytes) {
            let length = self.ear.unprotector.unprotect_rtcp(bytes).unwrap();
            if let Some(camera) = &mut self.camera {
                camera.obey(&bytes[..length]);
            }
        }
    }
}

impl Camera {
    /// Stops or starts a layer.
    pub fn switch(&mut self, layer: usize, on: bool) {
        self.lenses[layer].on = on;
        self.lenses[layer].key_frame = true;
    }

    fn shoot(&mut self, now: Time, protector: &mut Protector, out: &mut Vec<Vec<u8>>) {
        if now < self.next {
            return;
        }
        self.next = self.next + FRAMES;
        self.frame += 1;
        for (layer, lens) in self.lenses.iter_mut().enumerate().filter(|(_, lens)| lens.on) {
            let key_frame = std::mem::take(&mut lens.key_frame);
            let timestamp = self.frame.wrapping_mul(3000).wrapping_add(77 * layer as u32);
            for part in 0..PARTS {
                let payload = payload(layer, self.frame, part, key_frame);
                let (seq, marker) = (lens.next, part + 1 == PARTS);
                out.push(packet(
                    protector,
                    &self.mid,
                    (2, RIDS[layer]),
                    (lens.ssrc, VP8),
                    seq,
                    timestamp,
                    marker,
                    &payload,
                ));
                lens.next += 1;
            }
        }
        if now >= self.reports {
            self.reports = now + SECOND;
            let mut compound = Vec::new();
            for (layer, lens) in self.lenses.iter().enumerate() {
                let ntp = (now.micros() << 32) / SECOND;
                let timestamp = self.frame.wrapping_mul(3000).wrapping_add(77 * layer as u32);
                rtcp::write_sender_report(&mut compound, lens.ssrc, ntp, timestamp, 1, 1);
            }
            protector.protect_rtcp(&mut compound, 0);
            out.push(compound);
        }
    }

    fn obey(&mut self, compound: &[u8]) {
        for packet in rtcp::parse(compound) {
            match packet {
                Packet::PictureLoss { media } => {
                    let place =
                        self.lenses.iter().position(|lens| lens.ssrc == media).expect("a source of this camera");
                    self.asked[place] += 1;
                    self.lenses[place].key_frame = true;
                }
                Packet::Nack { .. } => panic!("nothing is lost between a camera and its focus"),
                _ => {}
            }
        }
    }
}

fn payload(layer: usize, frame: u32, part: u8, key_frame: bool) -> Vec<u8> {
    let start = if part == 0 { 0x10 } else { 0 };
    let id = (frame as u16 & 0x7fff | 0x8000).to_be_bytes();
    let mut payload = vec![0x80 | start, 0xe0, id[0], id[1], frame as u8, 0];
    if part == 0 && key_frame {
        let (width, height) = SIZES[layer];
        payload.extend_from_slice(&[0, 0, 0, 0x9d, 0x01, 0x2a]);
        payload.extend_from_slice(&width.to_le_bytes());
        payload.extend_from_slice(&height.to_le_bytes());
    } else {
        payload.extend_from_slice(&[1; 10]);
    }
    payload.resize(BODY, 3);
    payload.push(layer as u8);
    payload.extend_from_slice(&frame.to_be_bytes());
    payload.push(part);
    payload
}

#[allow(clippy::too_many_arguments)]
fn packet(
    protector: &Protector,
    mid: &str,
    rid: (u8, &str),
    (ssrc, pt): (u32, u8),
    index: u64,
    timestamp: u32,
    marker: bool,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    FixedHeader { marker, pt, seq: index as u16, timestamp, ssrc, padding: false }.write(&mut bytes, true);
    write_extension(&mut bytes, &[(1, mid.as_bytes()), (rid.0, rid.1.as_bytes())]);
    let header = bytes.len();
    bytes.extend_from_slice(payload);
    protector.protect_rtp(&mut bytes, 0, header, ssrc, index);
    bytes
}
