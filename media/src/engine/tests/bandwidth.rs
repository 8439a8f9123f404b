//! A subscriber behind a link that does not carry everything, and one that says what it can take.

use super::*;
use crate::proto::rtcp;
use crate::proto::transport_cc::Recorder;

/// Packets and bytes of a frame by layer: 1.4 Mbit/s, 400 and 110 kbit/s.
const FRAMES: [(usize, usize); 3] = [(6, 1100), (2, 900), (1, 500)];

/// The most that a packet of padding holds.
const PADDING: usize = 255;

/// What lies between the focus and leg 2. Full, it loses what comes.
struct Link {
    bits_per_second: u64,
    free: Time,
    seen: usize,
    arrivals: Vec<(u16, Time)>,
    recorder: Recorder,
    shown: Vec<u8>,
    reports: bool,
}

fn meeting(bits_per_second: u64) -> (World, Camera, Link) {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sv", 1, "v", None);
    let link = Link {
        bits_per_second,
        free: Time::default(),
        seen: 0,
        arrivals: Vec::new(),
        recorder: Recorder::default(),
        shown: Vec::new(),
        reports: true,
    };
    (world, Camera::new(1), link)
}

impl Link {
    fn run(&mut self, world: &mut World, camera: &mut Camera, seconds: u64) {
        self.shown.clear();
        for n in 0..seconds * 25 {
            if n % 100 == 0 {
                [1, 2].into_iter().for_each(|leg| world.stun(leg, path(leg), true)); // consent
            }
            for (layer, (packets, bytes)) in FRAMES.into_iter().enumerate() {
                let asked = camera.take_requests(world, layer) || n % 250 == 0 && !camera.layers[layer].started;
                for (header, index, mut payload) in camera.make(world.now, layer, asked, packets) {
                    let mark = payload.len() - 5;
                    payload.splice(mark..mark, vec![0; bytes - payload.len()]);
                    camera.send(world, layer, &(header, index, payload));
                }
            }
            for _ in 0..4 {
                world.pass(10);
                self.carry(world);
            }
            if self.reports {
                self.report(world);
            }
        }
        self.shown.dedup();
    }

    fn carry(&mut self, world: &World) {
        let got = &world.peer(2).rtp;
        for packet in &got[self.seen..] {
            let Some(seq) = packet.element(11) else { continue };
            let payload = if packet.payload.is_empty() { PADDING } else { packet.payload.len() };
            let bits = 8 * (payload as u64 + 70);
            if self.free.since(packet.at) <= 200 * MILLISECOND {
                self.free = self.free.max(packet.at) + bits * SECOND / self.bits_per_second;
                self.arrivals.push((u16::from_be_bytes([seq[0], seq[1]]), self.free));
            }
            if packet.header.ssrc == VIDEO_SSRC {
                self.shown.push(packet.mark().0);
            }
        }
        self.seen = got.len();
    }

    fn report(&mut self, world: &mut World) {
        let now = world.now;
        for (seq, at) in self.arrivals.extract_if(.., |(_, at)| *at <= now) {
            self.recorder.record(seq, at);
        }
        let mut bodies = Vec::new();
        self.recorder.drain(|body| bodies.push(body.to_vec()));
        for body in bodies {
            world.rtcp(2, |out| {
                rtcp::write_receiver_report(out, 2, &[]);
                rtcp::write_transport_cc(out, 2, VIDEO_SSRC, |out| out.extend_from_slice(&body));
            });
        }
    }
}

/// A number that operators are shown.
fn number(world: &World, name: &str) -> u64 {
    let snapshot = world.engine.measure();
    snapshot.numbers.iter().find(|series| series.name == name).unwrap().value
}

#[test]
fn a_wide_link_gets_the_best_and_no_padding() {
    let (mut world, mut camera, mut link) = meeting(50_000_000);
    link.run(&mut world, &mut camera, 20);
    assert_eq!(link.shown.last(), Some(&0));
    link.run(&mut world, &mut camera, 20);
    assert_eq!(link.shown, [0]);
    assert_eq!(world.engine.counters.probes_out, 0);
    assert_continuous(&world.peer(2).video());
}

#[test]
fn a_link_that_narrows_gets_a_smaller_layer_and_the_best_again_when_it_widens() {
    let (mut world, mut camera, mut link) = meeting(5_000_000);
    link.run(&mut world, &mut camera, 10);
    assert_eq!(link.shown.last(), Some(&0));
    link.bits_per_second = 700_000;
    link.run(&mut world, &mut camera, 2);
    assert!(link.shown.last() > Some(&0), "{:?}", link.shown);
    link.run(&mut world, &mut camera, 15);
    assert!(link.shown.len() <= 4 && !link.shown[1..].contains(&0), "{:?}", link.shown);
    assert_eq!((number(&world, "bandwidth_estimates"), number(&world, "bandwidth_narrow")), (1, 1));
    let estimate = number(&world, "bandwidth_available_bytes_per_second");
    assert!((40_000..100_000).contains(&estimate), "{estimate} bytes of some 87,500 a second");
    link.bits_per_second = 5_000_000;
    link.run(&mut world, &mut camera, 10);
    assert_eq!(link.shown.last(), Some(&0));
    assert!(link.shown.len() <= 3, "{:?}", link.shown);
    assert_eq!(number(&world, "bandwidth_narrow"), 0);
    assert!(world.engine.counters.probes_out > 0);
    assert_continuous(&world.peer(2).video());
}

#[test]
fn a_link_for_nothing_holds_the_picture_back_and_says_so() {
    let (mut world, mut camera, mut link) = meeting(5_000_000);
    link.run(&mut world, &mut camera, 5);
    world.events();
    link.bits_per_second = 60_000;
    link.run(&mut world, &mut camera, 8);
    let told = |events: &[Event], value| events.contains(&Event::Suspended(2, "sv".into(), value));
    assert!(told(&world.events(), true));
    link.bits_per_second = 5_000_000;
    link.run(&mut world, &mut camera, 20);
    assert!(told(&world.events(), false));
    assert_eq!(link.shown.last(), Some(&0));
    assert!(world.peer(2).video().windows(2).all(|pair| pair[1].index == pair[0].index + 1));
}

#[test]
fn a_receiver_that_only_says_what_it_can_take_gets_no_more() {
    let (mut world, mut camera, mut link) = meeting(50_000_000);
    world.rtcp(2, |out| rtcp::write_remb(out, 2, 600_000, &[VIDEO_SSRC]));
    link.reports = false;
    link.run(&mut world, &mut camera, 1);
    link.run(&mut world, &mut camera, 3);
    assert_eq!(link.shown, [1]);
}
