//! Layers: which one a subscriber gets, and that a decoder cannot tell that it changed.

use super::*;

fn meeting(size: Option<(u32, u32)>) -> (World, Camera) {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sv", 1, "v", size);
    (world, Camera::new(1))
}

/// Layers in the order in which a subscriber got them, repeats merged.
fn layers_seen(got: &[Got]) -> Vec<u8> {
    let mut layers: Vec<u8> = got.iter().map(|got| got.mark().0).collect();
    layers.dedup();
    layers
}

#[test]
fn the_layer_that_covers_the_size_is_forwarded_under_the_subscribers_numbers() {
    let (mut world, mut camera) = meeting(Some((640, 360)));
    camera.run(&mut world, &[0, 1, 2], 50);
    let got = world.peer(2).video();
    assert_eq!(layers_seen(&got).last(), Some(&1));
    assert_continuous(&got);
    assert!(got.len() > 45 * 3);
    assert!(got.iter().all(|got| got.header.pt == 102));
    for (n, packet) in got.iter().enumerate() {
        assert_eq!(packet.element(9), Some(&b"sv"[..]));
        let transport = packet.element(11).unwrap();
        assert_eq!(usize::from(u16::from_be_bytes([transport[0], transport[1]])), n, "a count of its own");
        let fixed = (packet.at.micros() << 18) / SECOND;
        assert_eq!(packet.element(12), Some(&fixed.to_be_bytes()[5..]));
        assert_eq!(packet.elements.len(), 3, "the publisher's rid and transport number stay here");
    }
    assert!(Descriptor::parse(&got[0].payload).unwrap().key_frame(&got[0].payload).is_some());
}

#[test]
fn each_size_gets_the_smallest_layer_that_covers_it() {
    for (size, layer) in [(None, 0), (Some((1280, 720)), 0), (Some((200, 100)), 2), (Some((4000, 3000)), 0)] {
        let (mut world, mut camera) = meeting(size);
        camera.run(&mut world, &[0, 1, 2], 30);
        let got = world.peer(2).video();
        assert_eq!(layers_seen(&got).last(), Some(&layer), "{size:?}");
        assert_continuous(&got);
    }
}

#[test]
fn a_new_size_switches_at_a_key_frame_and_the_old_layer_goes_on_until_then() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25);
    world.forward(2, "sv", 1, "v", Some((320, 180)));
    let before = world.peer(2).video().len();
    for _ in 0..10 {
        for layer in 0..3 {
            camera.frame(&mut world, layer, false, 3);
        }
        world.pass(40);
    }
    let got = world.peer(2).video();
    assert_eq!((got.len(), got.last().unwrap().mark().0), (before + 30, 0), "no key frame came yet");
    assert!(camera.take_requests(&mut world, 2) && !camera.take_requests(&mut world, 1));
    camera.frame(&mut world, 2, true, 3);
    for _ in 0..10 {
        world.pass(40);
        for layer in 0..3 {
            camera.frame(&mut world, layer, false, 3);
        }
    }
    let got = world.peer(2).video();
    assert_eq!(layers_seen(&got), [0, 2]);
    assert_continuous(&got);
}

#[test]
fn a_layer_that_stops_is_left_and_taken_up_again_when_it_comes_back() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25);
    camera.run(&mut world, &[1, 2], 40);
    camera.run(&mut world, &[0, 1, 2], 40);
    let got = world.peer(2).video();
    assert_eq!(layers_seen(&got), [0, 1, 0]);
    assert_continuous(&got);
    let gap = got.windows(2).map(|pair| pair[1].at.since(pair[0].at)).max().unwrap();
    assert!(gap < 900 * MILLISECOND, "a picture stood still for {gap} us");
}

#[test]
fn a_track_that_pauses_as_a_whole_switches_nothing_and_asks_for_nothing() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25);
    let switches = world.engine.counters.layer_switches;
    let asked = world.engine.counters.pli_out;
    world.pass(25_000);
    assert_eq!((world.engine.counters.layer_switches, world.engine.counters.pli_out), (switches, asked));
}

#[test]
fn with_sender_reports_layers_keep_to_one_clock() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 5);
    for layer in 0..3 {
        // The sender's own clock is minutes off, the same for all of its layers.
        let ntp = NTP_AT_ZERO + (300 << 32) + (u128::from(world.now.micros()) * (1 << 32) / 1_000_000) as u64;
        let (ssrc, rtp) = (camera.ssrc(layer), camera.timestamp(layer, world.now));
        world.rtcp(1, |out| crate::proto::rtcp::write_sender_report(out, ssrc, ntp, rtp, 0, 0));
    }
    camera.run(&mut world, &[0, 1, 2], 20);
    let before = world.peer(2).video().last().unwrap().clone();
    let sent = camera.timestamp(0, before.at);
    world.forward(2, "sv", 1, "v", Some((10, 10)));
    // Frames of the low layer come through the network 30 ms late: arrival would tell the wrong time.
    for n in 0..20 {
        let frame = camera.make(world.now, 2, n == 0, 3);
        world.pass(30);
        frame.iter().for_each(|packet| camera.send(&mut world, 2, packet));
        world.pass(10);
    }
    let got = world.peer(2).video();
    let after = got.iter().find(|got| got.mark().0 == 2).unwrap();
    let expected = camera.timestamp(0, Time::from_micros(after.at.micros() - 30 * MILLISECOND)).wrapping_sub(sent);
    let error = after.header.timestamp.wrapping_sub(before.header.timestamp).wrapping_sub(expected) as i32;
    assert!(error.abs() <= 2, "{error} ticks off the sender's clock");
}

#[test]
fn loss_reordering_and_repeats_on_the_way_in_leave_order_in_what_goes_out() {
    let (mut world, mut camera) = meeting(Some((640, 360)));
    camera.run(&mut world, &[1], 3);
    let mut held = Vec::new();
    for n in 0..200usize {
        for packet in camera.make(world.now, 1, false, 3) {
            match packet.1 % 11 {
                3 => held.push(packet), // late by a few packets
                7 => {
                    camera.send(&mut world, 1, &packet);
                    camera.send(&mut world, 1, &packet);
                }
                _ => camera.send(&mut world, 1, &packet),
            }
        }
        if n % 2 == 1 {
            held.drain(..).rev().for_each(|packet| camera.send(&mut world, 1, &packet));
        }
        world.pass(4);
    }
    let got = world.peer(2).video();
    assert_eq!(got.len(), 203 * 3);
    assert_continuous(&got);
    assert!(world.engine.counters.srtp_replayed > 40);
}

#[test]
fn a_key_frame_whose_first_packet_comes_late_is_forwarded_whole() {
    let (mut world, mut camera) = meeting(None);
    let frame = camera.make(world.now, 0, true, 4);
    for n in [1, 0, 3, 2] {
        camera.send(&mut world, 0, &frame[n]);
    }
    let got = world.peer(2).video();
    assert_eq!(got.len(), 4);
    assert_continuous(&got);
}

#[test]
fn padding_only_packets_are_not_forwarded_and_leave_no_gap() {
    let (mut world, mut camera) = meeting(None);
    for n in 0..30 {
        camera.frame(&mut world, 0, n == 0, 2);
        let state = &mut camera.layers[0];
        state.index += 1;
        let (ssrc, index) = (camera.ssrc(0), camera.layers[0].index);
        let header = FixedHeader { marker: false, pt: 96, seq: 0, timestamp: 1, ssrc, padding: true };
        world.rtp(1, header, index, &[], &[0, 0, 0, 4]);
        world.pass(40);
    }
    let got = world.peer(2).video();
    assert_eq!(got.len(), 60);
    assert_continuous(&got);
    assert_eq!(world.engine.counters.padding_in, 30);
}

#[test]
fn a_subscriber_that_comes_later_gets_a_key_frame_asked_for_once() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25);
    let asked = world.engine.counters.pli_out;
    for leg in 3..20 {
        world.subscriber(leg);
        world.forward(leg, "sv", 1, "v", None);
    }
    world.pass(100);
    assert_eq!(world.engine.counters.pli_out, asked + 1);
    camera.run(&mut world, &[0, 1, 2], 5);
    assert!((3..20).all(|leg| world.peer(leg).video().len() >= 12));
}

#[test]
fn a_publisher_that_sends_nothing_is_not_asked_for_ever() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25);
    let asked = world.engine.counters.pli_out;
    world.subscriber(3);
    world.forward(3, "sv", 1, "v", None);
    world.pass(25_000);
    let more = world.engine.counters.pli_out - asked;
    assert!((1..=11).contains(&more), "{more} requests in five seconds and never again");
    camera.run(&mut world, &[0, 1, 2], 10);
    assert!(world.peer(3).video().len() > 20, "asked again once it sends");
}

#[test]
fn a_subscribers_picture_loss_reaches_the_publisher_but_not_more_often_than_is_sane() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25);
    let asked = world.engine.counters.pli_out;
    for _ in 0..200 {
        world.rtcp(2, |out| crate::proto::rtcp::write_picture_loss(out, 1, VIDEO_SSRC));
        world.pass(10);
    }
    let more = world.engine.counters.pli_out - asked;
    assert!((3..=5).contains(&more), "{more} in two seconds");
    assert!(camera.take_requests(&mut world, 0) && !camera.take_requests(&mut world, 1));
}

#[test]
fn a_layer_that_gets_another_source_starts_anew_at_a_key_frame() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 10);
    let mut other = Camera::new(1);
    other.layers[0].index = 7;
    for n in 0..10 {
        for (header, index, payload) in other.make(world.now, 0, n == 5, 3) {
            let header = FixedHeader { ssrc: 4444, ..header };
            world.rtp(1, header, index, &[(4, b"v"), (5, b"q")], &payload);
        }
        world.pass(40);
    }
    let got = world.peer(2).video();
    assert_eq!(got.len(), 15 * 3);
    let mut sorted = got.clone();
    sorted.sort_by_key(|got| got.index);
    assert!(sorted.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
    assert!(sorted.windows(2).all(|pair| pair[1].header.timestamp.wrapping_sub(pair[0].header.timestamp) < 90_000));
}

#[test]
fn described_sizes_count_until_key_frames_tell() {
    let (mut world, mut camera) = meeting(Some((320, 180)));
    camera.run(&mut world, &[0, 1, 2], 25);
    assert_eq!(world.peer(2).video().last().unwrap().mark().0, 2);
    // The publisher claims more than it sends: what was measured counts.
    world.command(Command::DescribeTrack { leg: 1, mid: "v".into(), size: Some((640, 360)), first: false });
    camera.run(&mut world, &[0, 1, 2], 25);
    assert_eq!(world.peer(2).video().last().unwrap().mark().0, 2);
}

#[test]
fn a_line_that_is_used_again_needs_not_be_named_again() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0, 1, 2], 25); // past the sequence number's wrap, and the last mid and rid
    let mut without = publisher_plan();
    without.lines.remove(0);
    world.command(Command::SetPlan { leg: 1, plan: without });
    camera.run(&mut world, &[0, 1, 2], 5);
    let before = world.peer(2).video().len();
    world.command(Command::SetPlan { leg: 1, plan: publisher_plan() });
    world.forward(2, "sv", 1, "v", None);
    camera.run(&mut world, &[0, 1, 2], 25);
    let got = world.peer(2).video();
    assert!(got.len() > before + 20 * 3, "{} more", got.len() - before);
    assert_eq!(layers_seen(&got[before..]).last(), Some(&0));
    assert_eq!(world.engine.counters.srtp_auth_failed, 0);
}
