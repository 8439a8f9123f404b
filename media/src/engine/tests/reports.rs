//! Reports and bandwidth feedback, both ways.

use super::*;
use crate::proto::rtcp::{Block, Packet, parse, write_receiver_report, write_sender_report};
use crate::proto::transport_cc::Feedback;
use crate::time::ntp_span_in_ticks;

fn ntp(now: Time) -> u64 {
    WallClock::new(NTP_AT_ZERO).ntp(now)
}

#[test]
fn publishers_get_receiver_reports_and_transport_feedback() {
    let mut world = World::new();
    world.publisher(1);
    let mut camera = Camera::new(1);
    for n in 0..50 {
        let frame = camera.make(world.now, 0, n == 0, 4);
        frame.iter().enumerate().filter(|(place, _)| n == 0 || *place != 1).for_each(|(_, packet)| {
            camera.send(&mut world, 0, packet);
        });
        world.pass(40);
    }
    let mut reported = Vec::new();
    let mut blocks = Vec::new();
    for compound in &world.peer(1).rtcp {
        for packet in parse(compound) {
            match packet {
                Packet::ReceiverReport { blocks: these } => blocks.extend(these),
                Packet::TransportCc { body } => reported.extend(Feedback::parse(body).unwrap()),
                _ => {}
            }
        }
    }
    let last: &Block = blocks.last().unwrap();
    assert_eq!(last.ssrc, camera.ssrc(0));
    assert!((60..=67).contains(&last.fraction_lost), "a quarter, not {}", last.fraction_lost);
    assert!(last.lost > 20);
    let sent = usize::from(camera.transport_seq.wrapping_sub(65_530));
    assert!(reported.len() > sent - 15, "{} of {sent}", reported.len());
    assert!(reported.iter().all(|(_, arrival)| arrival.is_some()));
    assert!(reported.windows(2).all(|pair| pair[1].0 == pair[0].0.wrapping_add(1)));
}

#[test]
fn without_transport_feedback_a_publisher_gets_remb() {
    let mut world = World::new();
    world.connect(1);
    let mut plan = publisher_plan();
    plan.extensions.retain(|(uri, _)| uri != TRANSPORT_CC);
    world.command(Command::SetPlan { leg: 1, plan });
    Camera::new(1).run(&mut world, &[0, 1], 50);
    let compounds = &world.peer(1).rtcp;
    let rembs = compounds
        .iter()
        .flat_map(|compound| parse(compound))
        .filter(|packet| matches!(packet, Packet::Remb { .. }))
        .count();
    let feedback = compounds.iter().flat_map(|compound| parse(compound));
    assert_eq!(feedback.filter(|packet| matches!(packet, Packet::TransportCc { .. })).count(), 0);
    assert!((2..=3).contains(&rembs), "{rembs} in two seconds");
}

#[test]
fn subscribers_get_sender_reports_on_the_publishers_time() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sv", 1, "v", None);
    let mut camera = Camera::new(1);
    camera.run(&mut world, &[0], 10);
    let (ssrc, rtp) = (camera.ssrc(0), camera.timestamp(0, world.now));
    let theirs = ntp(world.now) + (77 << 32);
    world.rtcp(1, |out| write_sender_report(out, ssrc, theirs, rtp, 0, 0));
    camera.run(&mut world, &[0], 10);
    world.peers.get_mut(&2).unwrap().rtcp.clear();
    // The last frame is held up by the network: the report is to tell when it was made, not when it came.
    let made = world.now;
    let frame = camera.make(made, 0, false, 3);
    world.pass(30);
    frame.iter().for_each(|packet| camera.send(&mut world, 0, packet));
    world.pass(2500);
    let got = world.peer(2).video();
    let last = got.last().unwrap();
    let mut reports = 0;
    for compound in &world.peer(2).rtcp {
        for packet in parse(compound) {
            if let Packet::SenderReport { ssrc, ntp: at, rtp, .. } = packet {
                assert_eq!(ssrc, VIDEO_SSRC);
                reports += 1;
                let since = ntp_span_in_ticks(ntp(made).wrapping_sub(at) as i64, 90_000) as i32;
                let error = last.header.timestamp.wrapping_sub(rtp) as i32 - since;
                assert!(error.abs() < 50, "{error} ticks off");
            }
        }
    }
    assert!(reports >= 2);
    let cname = world.peer(2).rtcp.iter().any(|compound| compound.windows(5).any(|window| window == b"focus"));
    assert!(cname);
}

#[test]
fn a_receivers_report_tells_loss_and_round_trip() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sv", 1, "v", None);
    Camera::new(1).run(&mut world, &[0], 60);
    let last_sr = (ntp(world.now) >> 16) as u32;
    world.pass(250);
    let block = Block { ssrc: VIDEO_SSRC, lost: 9, fraction_lost: 8, last_sr, delay: 65_536 / 10, ..Block::default() };
    world.rtcp(2, |out| write_receiver_report(out, 5, &[block]));
    let stats: HashMap<_, _> = world.engine.leg_stats(2).unwrap().into_iter().collect();
    assert_eq!((stats["lost_total"], stats["fraction_lost_max"]), (9, 8));
    let round_trip = stats["round_trip_microseconds"];
    assert!((149_000..=151_000).contains(&round_trip), "{round_trip}");
}

#[test]
fn reports_cost_little_without_media() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.sent = 0;
    world.pass(10_000);
    assert_eq!(world.sent, 0);
}
