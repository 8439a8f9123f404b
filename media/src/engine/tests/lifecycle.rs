//! Legs, plans, groups and forwards, and audio from end to end.

use super::*;

fn say(world: &mut World, leg: LegId, index: u64, level: u8) {
    let timestamp = (index * 960) as u32;
    let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp, ssrc: 7000 + leg as u32, padding: false };
    world.rtp(leg, header, index, &[(4, b"a"), (1, &[level])], b"opus");
}

fn audio(world: &World, leg: LegId) -> Vec<Got> {
    world.peer(leg).rtp.iter().filter(|got| got.header.ssrc == AUDIO_SSRC).cloned().collect()
}

#[test]
fn audio_is_forwarded_with_its_level_from_the_first_packet_on() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sa", 1, "a", None);
    for index in 10..60 {
        say(&mut world, 1, index, 0x80 | 40);
        world.pass(20);
    }
    let got = audio(&world, 2);
    assert_eq!(got.len(), 50);
    assert!(got.windows(2).all(|pair| {
        pair[1].index == pair[0].index + 1 && pair[1].header.timestamp.wrapping_sub(pair[0].header.timestamp) == 960
    }));
    assert!(got.iter().all(|got| got.header.pt == 100 && got.element(10) == Some(&[0x80 | 40])));
    assert_eq!(got[0].payload, b"opus");
}

#[test]
fn nothing_crosses_groups_or_leaves_a_leg_without_one() {
    let mut world = World::new();
    world.publisher(1);
    world.add(2);
    world.stun(2, path(2), true);
    world.key(2);
    world.command(Command::SetPlan { leg: 2, plan: subscriber_plan(true) });
    world.forward(2, "sa", 1, "a", None);
    world.forward(2, "sv", 1, "v", None);
    let mut camera = Camera::new(1);
    let mut speak = |world: &mut World, index| {
        say(world, 1, index, 40);
        camera.frame(world, 0, true, 2);
        world.pass(600);
    };
    speak(&mut world, 1);
    world.command(Command::SetGroup { leg: 2, group: GROUP + 1 });
    speak(&mut world, 2);
    assert_eq!(world.peer(2).rtp.len(), 0);
    assert_eq!(world.engine.counters.pli_out, 0, "nor do wishes");
    world.command(Command::SetGroup { leg: 2, group: GROUP });
    world.pass(200);
    speak(&mut world, 3);
    assert_eq!(world.peer(2).rtp.len(), 3);
    world.command(Command::SetGroup { leg: 1, group: GROUP + 1 });
    speak(&mut world, 4);
    assert_eq!(world.peer(2).rtp.len(), 3);
}

#[test]
fn a_removed_leg_gets_nothing_more_and_its_subscribers_neither() {
    let mut world = World::new();
    world.publisher(1);
    for leg in [2, 3] {
        world.subscriber(leg);
        world.forward(leg, "sa", 1, "a", None);
    }
    say(&mut world, 1, 1, 40);
    world.command(Command::RemoveLeg { leg: 2 });
    world.peers.get_mut(&2).unwrap().other.clear();
    say(&mut world, 1, 2, 40);
    world.stun(2, path(2), true);
    world.command(Command::SendDtls { leg: 2, datagram: vec![22] });
    world.pass(3000);
    assert_eq!((audio(&world, 2).len(), audio(&world, 3).len()), (1, 2));
    assert!(world.peer(2).other.is_empty());
    assert_eq!(world.engine.leg_stats(2), None);
    world.command(Command::RemoveLeg { leg: 1 });
    say(&mut world, 1, 3, 40);
    assert_eq!(audio(&world, 3).len(), 2);
    world.command(Command::RemoveLeg { leg: 3 });
    assert_eq!(world.engine.deadline(), None, "nothing is left to do");
    assert!(world.engine.by_ufrag.is_empty() && world.engine.by_path.is_empty() && world.engine.speakers.is_empty());
}

#[test]
fn stopping_a_forward_and_starting_another_goes_on_in_the_same_stream() {
    let mut world = World::new();
    world.publisher(1);
    world.publisher(3);
    world.subscriber(2);
    world.forward(2, "sa", 1, "a", None);
    for index in 1..20 {
        say(&mut world, 1, index, 40);
        say(&mut world, 3, 500 + index, 40);
        world.pass(20);
        match index {
            5 => world.command(Command::StopForward { leg: 2, mid: "sa".into() }),
            10 => world.forward(2, "sa", 3, "a", None),
            _ => {}
        }
    }
    let got = audio(&world, 2);
    assert_eq!(got.len(), 5 + 9);
    assert!(got.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
    let times: Vec<u32> =
        got.windows(2).map(|pair| pair[1].header.timestamp.wrapping_sub(pair[0].header.timestamp)).collect();
    assert_eq!(times[4], 6 * 960, "the pause shows in time, not in numbers");
}

#[test]
fn a_plan_is_taken_whole_and_twice_is_as_good_as_once() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sa", 1, "a", None);
    say(&mut world, 1, 1, 40);
    world.command(Command::SetPlan { leg: 1, plan: publisher_plan() });
    world.command(Command::SetPlan { leg: 2, plan: subscriber_plan(true) });
    say(&mut world, 1, 2, 40);
    assert_eq!(audio(&world, 2).len(), 2);

    let mut without = publisher_plan();
    without.lines.pop();
    world.command(Command::SetPlan { leg: 1, plan: without });
    say(&mut world, 1, 3, 40);
    world.command(Command::SetPlan { leg: 1, plan: publisher_plan() });
    say(&mut world, 1, 4, 40);
    assert_eq!(audio(&world, 2).len(), 2, "another track on a recycled line is nobody's until it is forwarded");
    world.forward(2, "sa", 1, "a", None);
    say(&mut world, 1, 5, 40);
    assert_eq!(audio(&world, 2).len(), 3);

    let mut without = subscriber_plan(true);
    without.lines.pop();
    world.command(Command::SetPlan { leg: 2, plan: without });
    say(&mut world, 1, 6, 40);
    assert_eq!(audio(&world, 2).len(), 3);
}

#[test]
fn a_sent_source_that_comes_back_never_uses_a_number_twice() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    for round in 0..3 {
        world.command(Command::SetPlan { leg: 2, plan: subscriber_plan(true) });
        world.forward(2, "sa", 1, "a", None);
        for index in 0..10 {
            say(&mut world, 1, 100 * round + index, 40);
        }
        world.command(Command::SetPlan { leg: 2, plan: Plan::default() });
    }
    let got = audio(&world, 2); // the peer's replay window would have refused a number used twice
    assert_eq!(got.len(), 30);
    assert!(got.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
}

#[test]
fn another_ssrc_on_a_line_restarts_the_rewriting() {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sa", 1, "a", None);
    say(&mut world, 1, 1, 40);
    let mut plan = subscriber_plan(true);
    plan.lines[1].send[0].ssrc = 99;
    world.command(Command::SetPlan { leg: 2, plan });
    say(&mut world, 1, 2, 40);
    let last = world.peer(2).rtp.last().unwrap();
    assert_eq!(last.header.ssrc, 99, "the forward goes on");
}

#[test]
fn srtp_that_comes_before_the_keys_waits_for_them() {
    let mut world = World::new();
    world.add(1);
    world.stun(1, path(1), true);
    world.command(Command::SetGroup { leg: 1, group: GROUP });
    world.command(Command::SetPlan { leg: 1, plan: publisher_plan() });
    world.subscriber(2);
    world.forward(2, "sa", 1, "a", None);
    for index in 0..100 {
        say(&mut world, 1, index, 40);
    }
    assert_eq!(audio(&world, 2).len(), 0);
    world.key(1);
    assert_eq!(audio(&world, 2).len(), leg_early_limit());
    assert_eq!(world.engine.counters.srtp_early_dropped as usize, 100 - leg_early_limit());
}

fn leg_early_limit() -> usize {
    crate::engine::leg::MAX_EARLY
}

#[test]
fn the_dominant_speaker_is_told_on_change_and_only_within_a_group() {
    let mut world = World::new();
    for leg in [1, 2, 3] {
        world.publisher(leg);
    }
    world.command(Command::SetGroup { leg: 3, group: GROUP + 1 });
    world.events();
    let mut told = Vec::new();
    for index in 0..300 {
        let loud = if index < 150 { 1 } else { 2 };
        for leg in [1, 2] {
            say(&mut world, leg, index, if leg == loud { 20 } else { 127 });
        }
        say(&mut world, 3, index, 120);
        world.pass(20);
        told.extend(world.events().into_iter().filter(|event| matches!(event, Event::Speaker(..))));
    }
    assert_eq!(told, [Event::Speaker(1, "a".into()), Event::Speaker(2, "a".into())]);
}

#[test]
fn signalled_sources_need_no_extensions() {
    let mut world = World::new();
    world.connect(1);
    let mut plan = publisher_plan();
    plan.extensions.clear();
    plan.lines[1].receive = Some(Receive { rids: vec![], ssrcs: vec![(7001, None)] });
    world.command(Command::SetPlan { leg: 1, plan });
    world.subscriber(2);
    world.forward(2, "sa", 1, "a", None);
    say(&mut world, 1, 1, 40);
    let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp: 0, ssrc: 1, padding: false };
    world.rtp(1, header, 1, &[], b"unknown");
    assert_eq!(audio(&world, 2).len(), 1);
    assert_eq!(world.engine.counters.dropped_unknown_source, 1);
}

#[test]
fn sources_of_one_leg_are_bounded() {
    let mut world = World::new();
    world.publisher(1);
    for ssrc in 0..1000 {
        let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp: 0, ssrc, padding: false };
        world.rtp(1, header, 1, &[(4, b"a")], b"opus");
    }
    assert_eq!(world.engine.legs[0].streams.len(), 1, "each took the line over from the one before");
    let lines = (0..500).map(|n| Line {
        mid: format!("{n}"),
        kind: Kind::Audio,
        receive: Some(Receive::default()),
        send: vec![],
    });
    world.command(Command::SetPlan { leg: 1, plan: Plan { lines: lines.collect(), ..publisher_plan() } });
    for ssrc in 0..500 {
        let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp: 0, ssrc, padding: false };
        world.rtp(1, header, 2, &[(4, format!("{ssrc}").as_bytes())], b"opus");
    }
    assert_eq!(world.engine.legs[0].streams.len(), 256);
    world.command(Command::SetPlan { leg: 1, plan: Plan::default() });
    assert_eq!(world.engine.legs[0].streams.len(), 0);
    assert_eq!(world.engine.legs[0].former.len(), crate::engine::leg::MAX_FORMER);
}
