//! Where only the loudest voices are passed on.

use super::*;
use crate::proto::rtcp::{Packet as Rtcp, parse};

const QUIET: u8 = 127;
const LOUD: u8 = 30;

/// Three speakers, 1 to 3, to whom 9 listens on one line each, and 1 also to 2.
fn meeting(loudest: usize) -> World {
    let mut world = World::new();
    world.command(Command::SetLoudest { voices: loudest });
    for leg in 1..=3 {
        world.publisher(leg);
    }
    world.connect(9);
    let line = |leg: u32| {
        let send = Transmit { ssrc: 90 + leg, rtx: None, pt: 100, red: None, cname: "focus".into(), rid: None };
        Line { mid: format!("s{leg}"), kind: Kind::Audio, receive: None, send: vec![send] }
    };
    let plan = Plan { lines: (1..=3).map(line).collect(), ..subscriber_plan(true) };
    world.command(Command::SetPlan { leg: 9, plan });
    for leg in 1..=3 {
        world.forward(9, &format!("s{leg}"), leg, "a", None);
    }
    world
}

/// For so long each speaks at its level; gives what 9 got meanwhile of each.
fn speak(world: &mut World, from: u64, millis: u64, levels: [u8; 3]) -> [Vec<Got>; 3] {
    let before = world.peer(9).rtp.len();
    for index in from..from + millis / 20 {
        for (leg, level) in (1..).zip(levels) {
            let timestamp = index as u32 * 960;
            let ssrc = 7000 + leg as u32;
            let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp, ssrc, padding: false };
            world.rtp(leg, header, index, &[(4, b"a"), (1, &[level])], b"opus");
        }
        world.pass(20);
    }
    let got = &world.peer(9).rtp[before..];
    [91, 92, 93].map(|ssrc| got.iter().filter(|got| got.header.ssrc == ssrc).cloned().collect())
}

#[test]
fn who_is_not_among_the_loudest_is_not_sent_and_comes_back_without_a_gap_and_in_time() {
    let mut world = meeting(1);
    let counts = |got: &[Vec<Got>; 3]| got.each_ref().map(Vec::len);
    let first = speak(&mut world, 100, 1000, [LOUD, QUIET, QUIET]);
    assert_eq!(counts(&first), [50, 0, 0]);
    let second = speak(&mut world, 150, 2000, [QUIET, QUIET, LOUD]);
    assert_eq!(
        second[2].len() + second[0].len(),
        101,
        "one is heard all the time, and both when the place changes hands"
    );
    assert!((20..=30).contains(&second[0].len()), "until the pause has been long: {}", second[0].len());
    let third = speak(&mut world, 250, 2000, [LOUD, QUIET, QUIET]);
    let (last, next) = (second[0].last().unwrap(), &third[0][0]);
    assert_eq!(next.index, last.index + 1, "no packet is missed that was never sent");
    let elapsed = next.at.since(last.at) / (20 * MILLISECOND);
    assert_eq!(u64::from(next.header.timestamp.wrapping_sub(last.header.timestamp)), elapsed * 960);
    assert_eq!(world.engine.counters.voices_withheld as usize, 3 * 250 - world.peer(9).rtp.len());
    let asked = world.peer(1).rtcp.iter().flat_map(|compound| parse(compound));
    assert_eq!(asked.filter(|packet| matches!(packet, Rtcp::PictureLoss { .. })).count(), 0);
}

#[test]
fn all_are_sent_again_once_the_bound_is_lifted_and_a_voice_without_level_always_is() {
    let mut world = meeting(1);
    speak(&mut world, 100, 500, [LOUD, LOUD, LOUD]);
    world.command(Command::SetLoudest { voices: 0 });
    assert!(speak(&mut world, 125, 500, [LOUD, QUIET, QUIET]).iter().all(|got| got.len() == 25));
    world.command(Command::SetLoudest { voices: 1 });
    speak(&mut world, 150, 500, [LOUD, QUIET, QUIET]);
    let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp: 175 * 960, ssrc: 7002, padding: false };
    let before = world.peer(9).rtp.len();
    world.rtp(2, header, 175, &[(4, b"a")], b"opus");
    assert_eq!(world.peer(9).rtp.len(), before + 1);
}
