//! Spatial and temporal layers within one stream: who gets which, and that a decoder cannot tell what is left out.

use super::*;
use crate::proto::dependency::Descriptor as Dependency;
use crate::proto::dependency::samples::{Described, Describer};
use crate::proto::rtcp;
use crate::proto::vp9;

const DEPENDENCY: &str = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
const SSRC: u32 = 0x1234;
/// Packets of one layer's frame.
const PARTS: u8 = 2;
/// Time between pictures.
const PICTURE: u64 = 33;

/// A camera of three spatial and two temporal layers in one stream.
struct Camera {
    codec: &'static str,
    key_only: bool,
    seq: u64,
    picture: u16,
    number: u16,
    /// Spatial layers that it sends now.
    spatial: u8,
    asked: usize,
}

impl Camera {
    fn new(codec: &'static str, key_only: bool) -> Self {
        Self { codec, key_only, seq: 65_500, picture: 0x7ff0, number: 65_530, spatial: 3, asked: 0 }
    }

    /// Sends a picture: a key frame if it was asked for one.
    fn shoot(&mut self, world: &mut World) {
        let asked = world.peer(1).rtcp.iter().flat_map(|it| rtcp::parse(it));
        let asked = asked.filter(|packet| matches!(packet, rtcp::Packet::PictureLoss { .. })).count();
        let key = self.picture == 0x7ff0 || asked > self.asked;
        self.asked = asked;
        self.picture = self.picture.wrapping_add(1);
        let temporal = if key { 0 } else { self.picture as u8 % 2 };
        for spatial in 0..self.spatial {
            self.number = self.number.wrapping_add(1);
            for part in 0..PARTS {
                self.send(world, (spatial, temporal), key, part);
            }
        }
        world.pass(PICTURE);
    }

    fn send(&mut self, world: &mut World, (spatial, temporal): (u8, u8), key: bool, part: u8) {
        let (starts, ends) = (part == 0, part + 1 == PARTS);
        let marker = ends && spatial + 1 == self.spatial;
        let timestamp = u32::from(self.picture) * 3000;
        let fixed = FixedHeader { marker, pt: 98, seq: 0, timestamp, ssrc: SSRC, padding: false };
        let lone = self.key_only && !key && spatial + 1 < self.spatial;
        let (descriptor, payload) = if self.codec == "VP9" {
            let flags = 0xa0 | u8::from(!key) << 6 | u8::from(starts) << 3 | u8::from(ends) << 2 | u8::from(lone);
            let layers = temporal << 5 | u8::from(temporal > 0) << 4 | spatial << 1;
            let [high, low] = (self.picture & 0x7fff | 0x8000).to_be_bytes();
            (Vec::new(), vec![flags, high, low, layers, 7, spatial])
        } else {
            let describer = Describer { spatial: 3, temporal: 2, key_only: self.key_only };
            let described = Described { number: self.number, layer: (spatial, temporal), key, starts, ends };
            (describer.write(described), vec![0x10, spatial])
        };
        let mut elements: Vec<(u8, &[u8])> = vec![(4, b"v")];
        if !descriptor.is_empty() {
            elements.push((8, &descriptor));
        }
        world.rtp(1, fixed, self.seq, &elements, &payload);
        self.seq += 1;
    }
}

fn plan(codec: &str, line: Line) -> Plan {
    Plan {
        payloads: vec![payload(98, codec, 90_000, None), payload(99, "rtx", 90_000, Some(98))],
        extensions: vec![(MID.into(), 4), (DEPENDENCY.into(), 8)],
        lines: vec![line],
    }
}

/// A publisher, 1, and those who show its picture in these sizes, from 2 on.
fn call(codec: &'static str, key_only: bool, sizes: &[(u32, u32)]) -> (World, Camera) {
    let mut world = World::new();
    world.connect(1);
    let line = Line { mid: "v".into(), kind: Kind::Video, receive: Some(Receive::default()), send: Vec::new() };
    world.command(Command::SetPlan { leg: 1, plan: plan(codec, line) });
    world.command(Command::DescribeTrack { leg: 1, mid: "v".into(), size: Some((640, 360)), first: false });
    for (leg, size) in (2..).zip(sizes) {
        world.connect(leg);
        let send =
            Transmit { ssrc: VIDEO_SSRC, rtx: Some((RTX_SSRC, 99)), pt: 98, cname: "c".into(), rid: None, red: None };
        let line = Line { mid: "sv".into(), kind: Kind::Video, receive: None, send: vec![send] };
        world.command(Command::SetPlan { leg, plan: plan(codec, line) });
        world.forward(leg, "sv", 1, "v", Some(*size));
    }
    (world, Camera::new(codec, key_only))
}

fn layers(got: &[Got]) -> Vec<u8> {
    let mut layers: Vec<_> = got.iter().map(|got| got.payload[got.payload.len() - 1]).collect();
    layers.dedup();
    layers
}

/// No gap in numbers, and a marker where a picture ends and nowhere else.
fn assert_whole(got: &[Got]) {
    for pair in got.windows(2) {
        assert_eq!(pair[1].index, pair[0].index + 1);
        let ends = pair[0].header.timestamp != pair[1].header.timestamp;
        assert_eq!(pair[0].header.marker, ends, "after {}", pair[0].index);
    }
}

#[test]
fn each_size_gets_its_spatial_layers_and_no_gap() {
    for codec in ["VP9", "AV1"] {
        for key_only in [false, true] {
            let (mut world, mut camera) = call(codec, key_only, &[(160, 90), (320, 180), (640, 360)]);
            for _ in 0..20 {
                camera.shoot(&mut world);
            }
            let since = world.now;
            for _ in 0..20 {
                camera.shoot(&mut world);
            }
            for (leg, highest) in (2..).zip(0..3u8) {
                let got = world.peer(leg).video();
                assert_whole(&got);
                let late: Vec<_> = got.into_iter().filter(|got| got.at >= since).collect();
                let wanted: Vec<u8> = if key_only { vec![highest] } else { (0..=highest).collect() };
                let mut seen = layers(&late);
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen, wanted, "{codec}, {highest}");
                assert_eq!(late.len(), 20 * wanted.len() * usize::from(PARTS));
            }
        }
    }
}

#[test]
fn a_larger_tile_waits_for_a_key_frame_that_is_asked_for() {
    for codec in ["VP9", "AV1"] {
        let (mut world, mut camera) = call(codec, true, &[(160, 90)]);
        for _ in 0..20 {
            camera.shoot(&mut world);
        }
        let asked = camera.asked;
        world.forward(2, "sv", 1, "v", Some((640, 360)));
        for _ in 0..20 {
            camera.shoot(&mut world);
        }
        assert_eq!(camera.asked, asked + 1, "{codec}");
        let got = world.peer(2).video();
        assert_eq!(layers(&got).last(), Some(&2));
        assert_whole(&got);
    }
}

#[test]
fn a_spatial_layer_that_ceases_is_left_within_half_a_second_and_used_again() {
    for codec in ["VP9", "AV1"] {
        let (mut world, mut camera) = call(codec, true, &[(640, 360)]);
        for _ in 0..30 {
            camera.shoot(&mut world);
        }
        assert_eq!(layers(&world.peer(2).video()).last(), Some(&2));
        camera.spatial = 2;
        let (since, before) = (world.now, world.peer(2).video().len());
        for _ in 0..30 {
            camera.shoot(&mut world);
        }
        let after = world.peer(2).video()[before..].to_vec();
        assert!(!after.is_empty() && after[0].at.since(since) <= 500 * MILLISECOND + 2 * PICTURE * MILLISECOND);
        assert_eq!(layers(&after).last(), Some(&1), "{codec}");
        camera.spatial = 3;
        for _ in 0..40 {
            camera.shoot(&mut world);
        }
        let got = world.peer(2).video();
        assert_eq!(layers(&got).last(), Some(&2), "{codec}");
        assert!(got.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
    }
}

#[test]
fn vp9s_picture_ids_go_on_as_they_came_and_av1s_frames_are_told_who_gets_them() {
    let (mut world, mut camera) = call("VP9", false, &[(160, 90)]);
    for _ in 0..40 {
        camera.shoot(&mut world);
    }
    let ids = world.peer(2).video();
    let ids: Vec<_> = ids.iter().map(|got| vp9::Descriptor::parse(&got.payload).unwrap().0).collect();
    let ids: Vec<_> = ids.iter().map(|descriptor| descriptor.counters.picture_id.unwrap().value).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0].wrapping_add(1) & 0x7fff));

    let (mut world, mut camera) = call("AV1", false, &[(160, 90)]);
    for _ in 0..40 {
        camera.shoot(&mut world);
    }
    let got = world.peer(2).video();
    let mut structure = None;
    let mut active = Vec::new();
    for (place, got) in got.iter().enumerate() {
        let (descriptor, own) = Dependency::parse(got.element(8).unwrap(), structure.as_ref()).unwrap();
        structure = own.or(structure);
        assert_eq!(descriptor.starts_frame, place % usize::from(PARTS) == 0);
        active.extend(descriptor.active);
    }
    assert_eq!(active.last(), Some(&0b11), "of six decode targets those of the lowest picture");
}
