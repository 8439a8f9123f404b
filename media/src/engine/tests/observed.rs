//! What the engine shows of itself: by kind, by layer, and nothing that a peer could make grow beyond bounds.

use super::*;
use crate::measure::Histogram;
use crate::proto::rtcp::{Block, write_receiver_report};

fn number(world: &World, name: &str, labels: &[(&str, &str)]) -> u64 {
    let snapshot = world.engine.measure();
    let found: Vec<_> =
        snapshot.numbers.iter().filter(|series| series.name == name && series.labels == labels).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}");
    found[0].value
}

fn histogram(world: &World, name: &str, labels: &[(&str, &str)]) -> Histogram {
    let snapshot = world.engine.measure();
    snapshot.histograms.iter().find(|series| series.name == name && series.labels == labels).unwrap().value
}

fn meeting() -> (World, Camera) {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sv", 1, "v", Some((640, 360)));
    (world, Camera::new(1))
}

#[test]
fn packets_are_counted_by_kind_and_direction() {
    let (mut world, mut camera) = meeting();
    camera.run(&mut world, &[0, 1, 2], 10);
    let into = [("direction", "in"), ("kind", "video")];
    let out = [("direction", "out"), ("kind", "video")];
    assert_eq!(number(&world, "rtp_packets_total", &into), 3 * 3 * 10);
    assert_eq!(number(&world, "rtp_bytes_total", &into), world.engine.counters.rtp_in_bytes);
    assert_eq!(number(&world, "rtp_packets_total", &out), world.peer(2).video().len() as u64);
    assert_eq!(number(&world, "rtp_bytes_total", &out), world.engine.counters.rtp_out_bytes);
    for direction in ["in", "out"] {
        assert_eq!(number(&world, "rtp_packets_total", &[("direction", direction), ("kind", "audio")]), 0);
    }
}

#[test]
fn tracks_layers_and_forwards_are_shown_by_kind_and_layer() {
    let (mut world, mut camera) = meeting();
    let waits = [("kind", "video"), ("layer", "none")];
    assert_eq!(number(&world, "forwards", &waits), 1);
    camera.run(&mut world, &[0, 1, 2], 30);
    assert_eq!(number(&world, "tracks", &[("kind", "video")]), 1);
    assert_eq!(number(&world, "forwards", &waits), 0);
    assert_eq!(number(&world, "forwards", &[("kind", "video"), ("layer", "medium")]), 1);
    for layer in ["high", "medium", "low"] {
        assert_eq!(number(&world, "layers_flowing", &[("kind", "video"), ("layer", layer)]), 1);
    }
    assert_eq!(number(&world, "layers_flowing", &[("kind", "audio"), ("layer", "single")]), 0);
}

#[test]
fn a_layer_that_ceases_is_counted_once_and_a_pause_of_all_is_none() {
    let (mut world, mut camera) = meeting();
    camera.run(&mut world, &[0, 1, 2], 25);
    world.pass(3000);
    let freezes =
        |world: &World| ["high", "medium", "low"].map(|l| number(world, "layer_freezes_total", &[("layer", l)]));
    assert_eq!(freezes(&world), [0; 3]);
    camera.run(&mut world, &[1, 2], 40);
    assert_eq!(freezes(&world), [1, 0, 0]);
    camera.run(&mut world, &[0, 1, 2], 25);
    camera.run(&mut world, &[0, 1], 40);
    assert_eq!(freezes(&world), [1, 0, 1]);
}

#[test]
fn what_publishers_lose_and_their_jitter_are_measured_at_reports() {
    let (mut world, mut camera) = meeting();
    for n in 0..50 {
        let frame = camera.make(world.now, 0, n == 0, 4);
        frame.iter().enumerate().filter(|(place, _)| n == 0 || *place != 1).for_each(|(_, packet)| {
            camera.send(&mut world, 0, packet);
        });
        world.pass(40);
    }
    let into = [("direction", "in"), ("kind", "video")];
    let lost = number(&world, "rtp_lost_packets_total", &into);
    assert!((24..=49).contains(&lost), "one of 49 frames each, as far as reported: {lost}");
    let jitter = histogram(&world, "jitter_microseconds", &into);
    assert!((1..=3).contains(&jitter.count()), "one a second");
    assert_eq!(jitter.count(), jitter.counts()[0], "a steady source");
}

#[test]
fn what_subscribers_report_is_measured_and_cannot_exceed_what_was_sent() {
    let (mut world, mut camera) = meeting();
    camera.run(&mut world, &[0, 1, 2], 30);
    let sent = world.peer(2).video().len() as u64;
    let out = [("direction", "out"), ("kind", "video")];
    let report = |world: &mut World, lost: i32| {
        let block = Block { ssrc: VIDEO_SSRC, lost, jitter: 900, ..Block::default() };
        world.rtcp(2, |to| write_receiver_report(to, 5, &[block]));
        number(world, "rtp_lost_packets_total", &out)
    };
    assert_eq!(report(&mut world, 5), 5);
    assert_eq!(report(&mut world, 3), 5, "late ones came: what was counted stays");
    assert_eq!(report(&mut world, i32::MAX), 5, "nothing was sent meanwhile that could be lost");
    camera.run(&mut world, &[0, 1, 2], 1);
    assert!(report(&mut world, i32::MAX) <= sent);
    let jitter = histogram(&world, "jitter_microseconds", &out);
    assert_eq!((jitter.count(), jitter.sum()), (4, 4 * 10_000));
}
