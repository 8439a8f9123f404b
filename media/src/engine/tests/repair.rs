//! Loss on either side: NACK, RTX and the packet cache.

use super::*;
use crate::proto::rtcp::{Packet, parse, write_nack};
use crate::proto::u16_at;

fn nacks(peer: &Peer) -> Vec<(u32, u16)> {
    let mut all = Vec::new();
    for compound in &peer.rtcp {
        for packet in parse(compound) {
            if let Packet::Nack { media, lost } = packet {
                all.extend(lost.map(|seq| (media, seq)));
            }
        }
    }
    all
}

fn meeting(rtx: bool) -> (World, Camera) {
    let mut world = World::new();
    world.publisher(1);
    world.connect(2);
    world.command(Command::SetPlan { leg: 2, plan: subscriber_plan(rtx) });
    world.forward(2, "sv", 1, "v", None);
    (world, Camera::new(1))
}

#[test]
fn what_a_publisher_lost_is_asked_for_and_its_repair_takes_the_place() {
    let (mut world, mut camera) = meeting(true);
    camera.run(&mut world, &[0], 3);
    let frame = camera.make(world.now, 0, false, 5);
    for n in [0, 1, 3, 4] {
        camera.send(&mut world, 0, &frame[n]);
    }
    world.pass(30);
    assert_eq!(nacks(world.peer(1)), [(camera.ssrc(0), frame[2].1 as u16)]);
    let repair = [&(frame[2].1 as u16).to_be_bytes()[..], &frame[2].2].concat();
    let header = FixedHeader { pt: 97, ssrc: 5555, ..frame[2].0 };
    for index in [900, 901] {
        world.rtp(1, header, index, &[(4, b"v"), (6, b"q")], &repair); // sent twice: taken once
    }
    camera.run(&mut world, &[0], 3);
    let got = world.peer(2).video();
    assert_eq!(got.len(), 3 * 3 + 5 + 3 * 3);
    assert_continuous(&got);
    assert_eq!((world.engine.counters.rtx_in, world.engine.counters.dropped_repeated), (2, 1));
}

#[test]
fn what_never_comes_is_asked_for_a_few_times_and_then_let_go() {
    let (mut world, mut camera) = meeting(true);
    camera.run(&mut world, &[0], 2);
    camera.make(world.now, 0, false, 3);
    camera.run(&mut world, &[0], 200);
    let asked = nacks(world.peer(1)).len();
    assert!((3..=30).contains(&asked), "{asked} requests for 3 packets");
}

#[test]
fn a_subscribers_losses_are_repeated_by_rtx() {
    let (mut world, mut camera) = meeting(true);
    world.lose = |count| count % 10 == 3;
    camera.run(&mut world, &[0], 30);
    world.lose = |_| false;
    let got = world.peer(2).video();
    let (first, last) = (got[0].index, got.last().unwrap().index);
    let missing: Vec<u16> =
        (first..=last).filter(|index| !got.iter().any(|got| got.index == *index)).map(|index| index as u16).collect();
    assert!(missing.len() >= 5, "{}", missing.len());
    for _ in 0..3 {
        world.rtcp(2, |out| write_nack(out, 1, VIDEO_SSRC, &missing)); // at once three times: answered once
    }
    let repairs: Vec<Got> = world.peer(2).rtp.iter().filter(|got| got.header.ssrc == RTX_SSRC).cloned().collect();
    assert_eq!(repairs.len(), missing.len());
    assert!(repairs.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
    let mut whole = got;
    for mut repair in repairs {
        assert_eq!(repair.header.pt, 103);
        assert_eq!(repair.element(9), Some(&b"sv"[..]));
        let seq = u16_at(&repair.payload, 0).unwrap();
        repair.index = (first..=last).find(|index| *index as u16 == seq).unwrap();
        repair.payload.drain(..2);
        whole.push(repair);
    }
    assert_continuous(&whole);
    assert_eq!(world.engine.counters.nack_unanswered as usize, 2 * missing.len());
}

#[test]
fn without_rtx_the_very_same_packet_is_sent_again() {
    let (mut world, mut camera) = meeting(false);
    camera.run(&mut world, &[0], 3);
    let peer = world.peers.get_mut(&2).unwrap();
    let sent = peer.rtp.iter().find(|got| got.header.ssrc == VIDEO_SSRC).cloned().unwrap();
    peer.positions.clear(); // this peer takes replays
    world.pass(500);
    world.rtcp(2, |out| write_nack(out, 1, VIDEO_SSRC, &[sent.index as u16]));
    let again = world.peer(2).rtp.last().unwrap();
    assert!(again.at > sent.at);
    assert_eq!((again.header, &again.elements, &again.payload), (sent.header, &sent.elements, &sent.payload));
}

#[test]
fn nacks_for_what_was_never_sent_cost_nothing() {
    let (mut world, mut camera) = meeting(true);
    camera.run(&mut world, &[0], 3);
    let all: Vec<u16> = (0..2000).map(|n| n * 32).collect();
    let before = world.engine.counters.rtx_out;
    world.rtcp(2, |out| write_nack(out, 1, VIDEO_SSRC, &all));
    world.rtcp(2, |out| write_nack(out, 1, 0xdead, &all));
    assert!(world.engine.counters.rtx_out - before <= 1);
}
