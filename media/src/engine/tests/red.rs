//! Redundant audio: passed to who negotiated it, without its copies to who did not.

use super::*;
use crate::proto::rtcp;

const PUBLISHED: u8 = 63;
const SUBSCRIBED: u8 = 45;

/// One copy of "earlier", then "now", under these payload types.
fn redundant(pt: u8) -> Vec<u8> {
    let mut bytes = (1 << 31 | u32::from(pt) << 24 | 960 << 10 | 7u32).to_be_bytes().to_vec();
    bytes.push(pt);
    bytes.extend(b"earliernow");
    bytes
}

fn meeting() -> World {
    let mut world = World::new();
    world.connect(1);
    let mut plan = publisher_plan();
    plan.payloads.push(payload(PUBLISHED, "red", 48_000, Some(111)));
    world.command(Command::SetPlan { leg: 1, plan });
    world.connect(2);
    let mut plan = subscriber_plan(true);
    plan.payloads.push(payload(SUBSCRIBED, "red", 48_000, Some(100)));
    plan.lines[1].send[0].red = Some(SUBSCRIBED);
    world.command(Command::SetPlan { leg: 2, plan });
    world.subscriber(3);
    for leg in [2, 3] {
        world.forward(leg, "sa", 1, "a", None);
    }
    world
}

fn say(world: &mut World, index: u64, pt: u8, payload: &[u8]) {
    let timestamp = (index * 960) as u32;
    let header = FixedHeader { marker: false, pt, seq: 0, timestamp, ssrc: 7001, padding: false };
    world.rtp(1, header, index, &[(4, b"a"), (1, &[40])], payload);
}

#[test]
fn redundancy_reaches_who_negotiated_it_and_is_stripped_for_who_did_not() {
    let mut world = meeting();
    say(&mut world, 10, PUBLISHED, &redundant(111));
    say(&mut world, 11, 111, b"plain"); // a publisher may leave it out at any packet
    say(&mut world, 12, PUBLISHED, &redundant(111));
    let got = |leg| world.peer(leg).rtp.iter().map(|got| (got.header.pt, got.payload.clone())).collect::<Vec<_>>();
    let (with, plain) = ((SUBSCRIBED, redundant(100)), (100, b"plain".to_vec()));
    assert_eq!(got(2), [with.clone(), plain.clone(), with]);
    let without = (100, b"now".to_vec());
    assert_eq!(got(3), [without.clone(), plain, without]);
    for leg in [2, 3] {
        let got = &world.peer(leg).rtp;
        assert!(got.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
        assert!(got.iter().all(|got| got.element(10) == Some(&[40])), "the level goes with it");
    }
}

#[test]
fn redundancy_that_holds_something_else_is_dropped_and_counted() {
    let mut world = meeting();
    for (index, payload) in
        [redundant(96), redundant(PUBLISHED), vec![0x80 | 111, 0, 0, 4], vec![111]].iter().enumerate()
    {
        say(&mut world, index as u64, PUBLISHED, payload);
    }
    assert_eq!(world.engine.counters.dropped_malformed, 4);
    assert_eq!((world.peer(2).rtp.len(), world.peer(3).rtp.len()), (0, 0));
}

#[test]
fn a_narrow_link_is_spared_the_copies_until_it_carries_more() {
    let mut world = meeting();
    let mut index = 10;
    let mut last = |world: &mut World, bits_per_second| {
        world.rtcp(2, |out| rtcp::write_remb(out, 2, bits_per_second, &[1]));
        for _ in 0..100 {
            index += 1;
            say(world, index, PUBLISHED, &redundant(111));
            world.pass(20);
        }
        world.peer(2).rtp.last().unwrap().payload.clone()
    };
    assert_eq!(last(&mut world, 1_000_000), redundant(100));
    assert_eq!(last(&mut world, 60_000), b"now", "voices with copies take some 40 kbit/s");
    assert_eq!(last(&mut world, 100_000), b"now");
    assert_eq!(last(&mut world, 1_000_000), redundant(100));
    assert!(world.peer(2).rtp.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
}
