//! One conference in several engines: everybody is heard and seen, whichever engine they live in.

use super::*;
use crate::engine::crossing::MAX_WAITING;
use crate::proto::rtcp::{self, write_nack};

/// Ports decide: of three engines leg 2 lives in the first, 3 in the second, 1 and 4 in the third.
const ENGINES: usize = 3;

fn counted(world: &mut World, name: &str) -> u64 {
    let stats: Vec<_> = world.engines().flat_map(|engine| engine.stats()).collect();
    stats.iter().filter(|(known, _)| *known == name).map(|(_, value)| value).sum()
}

/// A publisher, and subscribers in each engine, two of them in that of the publisher.
fn meeting(size: Option<(u32, u32)>) -> (World, Camera) {
    let mut world = World::several(ENGINES);
    world.publisher(1);
    for leg in [2, 3, 4] {
        world.subscriber(leg);
        world.forward(leg, "sv", 1, "v", size);
        world.forward(leg, "sa", 1, "a", None);
    }
    (world, Camera::new(1))
}

/// Paths of a peer that moved: one after the other they are those of all engines.
fn moved(leg: LegId, to: u16) -> Path {
    Path { socket: 1, peer: ([127, 0, 0, 9], 1000 + 100 * leg as u16 + to).into() }
}

fn move_to(world: &mut World, leg: LegId, path: Path) {
    world.peers.get_mut(&leg).unwrap().path = path;
    world.stun(leg, path, true);
}

#[test]
fn subscribers_in_every_engine_see_the_same_and_each_packet_crosses_once_for_each_engine() {
    let (mut world, mut camera) = meeting(None);
    world.subscriber(5); // in the first engine, as 2 is
    world.forward(5, "sv", 1, "v", None);
    camera.run(&mut world, &[0, 1, 2], 25);
    for leg in [2, 3, 4, 5] {
        let got = world.peer(leg).video();
        assert!(got.len() >= 24 * 3, "{leg} got {}", got.len());
        assert_continuous(&got);
    }
    let published = counted(&mut world, "rtp_in_total");
    let crossed = counted(&mut world, "threads_crossed_total");
    assert_eq!(published, 25 * 9);
    // All but what came before the subscription was known: nothing here.
    assert_eq!(crossed, 2 * published, "to two other engines, whoever lives there");
    assert_eq!(counted(&mut world, "legs"), 5, "each counts once");
    assert_eq!(counted(&mut world, "legs_connected"), 5);
    assert_eq!(counted(&mut world, "tracks"), 2);
    assert_eq!(counted(&mut world, "forwards_flowing"), 4);
    let bytes: Vec<_> = world.engines().flat_map(|engine| engine.traffic()).collect();
    assert_eq!(bytes.len(), 5);
    assert_eq!(bytes.iter().filter(|(_, _, sent)| *sent > 0).count(), 4);
}

#[test]
fn what_nobody_elsewhere_wants_stays_where_it_is() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 5);
    for leg in [2, 3] {
        world.command(Command::StopForward { leg, mid: "sv".into() });
    }
    let before = counted(&mut world, "threads_crossed_total");
    camera.run(&mut world, &[0], 5);
    assert_eq!(counted(&mut world, "threads_crossed_total"), before);
    world.forward(2, "sv", 1, "v", None);
    let so_far = world.peer(2).video().len();
    camera.run(&mut world, &[0], 10);
    assert_eq!(counted(&mut world, "threads_crossed_total"), before + 30, "to one engine");
    let got = world.peer(2).video();
    assert!(got.len() > so_far + 20, "a key frame was asked for again");
    assert_continuous(&got);
}

#[test]
fn layers_are_chosen_and_changed_in_each_engine_and_key_frames_asked_of_the_publisher() {
    let (mut world, mut camera) = meeting(Some((640, 360)));
    camera.run(&mut world, &[0, 1, 2], 15);
    for (leg, size, layer) in [(2, Some((1280, 720)), 0), (3, Some((100, 100)), 2)] {
        assert_eq!(world.peer(leg).video().last().unwrap().mark().0, 1);
        world.forward(leg, "sv", 1, "v", size);
        camera.run(&mut world, &[0, 1, 2], 15);
        let got = world.peer(leg).video();
        assert_eq!(got.last().unwrap().mark().0, layer, "{leg}");
        assert_continuous(&got);
    }
    camera.run(&mut world, &[1, 2], 40); // the highest ceases
    let got = world.peer(2).video();
    assert_eq!(got.last().unwrap().mark().0, 1);
    assert_continuous(&got);
}

#[test]
fn a_key_frame_is_asked_for_as_soon_as_it_is_wished_elsewhere() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 25);
    camera.take_requests(&mut world, 0);
    world.rtcp(2, |out| rtcp::write_picture_loss(out, 1, VIDEO_SSRC));
    world.pass(20);
    assert!(camera.take_requests(&mut world, 0));
    for leg in [2, 3, 4] {
        world.rtcp(leg, |out| rtcp::write_picture_loss(out, 1, VIDEO_SSRC));
    }
    world.pass(700);
    let asked = world.peer(1).rtcp.iter().filter(|compound| plis(compound).contains(&camera.ssrc(0))).count();
    assert!((1..=2).contains(&asked), "wishes of all engines are merged and spaced out: {asked}");
}

#[test]
fn what_subscribers_elsewhere_lost_is_repeated_there() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 20);
    let some: Vec<_> = world.peer(2).video().iter().map(|got| got.index as u16).skip(10).take(5).collect();
    let asked = counted(&mut world, "nack_out_total");
    world.rtcp(2, |out| write_nack(out, 1, VIDEO_SSRC, &some));
    let repairs = world.peer(2).rtp.iter().filter(|got| got.header.ssrc == RTX_SSRC);
    assert_eq!(repairs.count(), some.len());
    assert_eq!(counted(&mut world, "nack_out_total"), asked, "nothing is asked of the publisher");
}

#[test]
fn sender_reports_tell_the_publishers_time_in_every_engine() {
    let (mut world, mut camera) = meeting(None);
    let clock = 1_000_000_000u64 << 32; // the publisher's clock has nothing to do with ours
    let camera_now = camera.timestamp(0, world.now).wrapping_sub(9000);
    world.rtcp(1, |out| {
        rtcp::write_sender_report(out, camera.ssrc(0), clock, camera_now, 0, 0);
    });
    camera.run(&mut world, &[0], 50);
    world.rtcp(1, |out| {
        rtcp::write_sender_report(out, camera.ssrc(0), clock + (2 << 32), camera_now.wrapping_add(180_000), 0, 0);
    });
    camera.run(&mut world, &[0], 50);
    let reports = |leg: LegId| {
        let compounds = world.peer(leg).rtcp.iter();
        let packets = compounds.flat_map(|compound| crate::proto::rtcp::parse(compound).collect::<Vec<_>>());
        let mapped = packets.filter_map(|packet| match packet {
            crate::proto::rtcp::Packet::SenderReport { ssrc: VIDEO_SSRC, ntp, rtp, .. } => {
                let newest = world.peer(leg).video()[0].header.timestamp;
                Some((ntp, rtp.wrapping_sub(newest)))
            }
            _ => None,
        });
        mapped.collect::<Vec<_>>()
    };
    let (near, far) = (reports(4), reports(2));
    assert!(near.len() >= 3 && far.len() >= 3);
    let at = |reports: &[(u64, u32)]| {
        let (ntp, rtp) = *reports.last().unwrap();
        i64::from(rtp) - ((((ntp - NTP_AT_ZERO) as i128) * 90_000) >> 32) as i64
    };
    assert!((at(&near) - at(&far)).abs() < 200, "{} and {}", at(&near), at(&far));
}

#[test]
fn the_dominant_speaker_of_all_engines_is_told_once() {
    let mut world = World::several(ENGINES);
    for leg in 1..=6 {
        world.publisher(leg);
    }
    world.events();
    let talk = |world: &mut World, loud: LegId, from: u64| {
        for n in from..from + 100 {
            for leg in 1..=6 {
                let level = if leg == loud { 10 } else { 120 };
                let header = FixedHeader {
                    marker: false,
                    pt: 111,
                    seq: 0,
                    timestamp: n as u32 * 960,
                    ssrc: leg as u32 * 10,
                    padding: false,
                };
                world.rtp(leg, header, n, &[(4, b"a"), (1, &[level])], b"voice");
            }
            world.pass(20);
        }
        let events = world.events().into_iter();
        events.filter(|event| matches!(event, Event::Speaker(..))).collect::<Vec<_>>()
    };
    assert_eq!(talk(&mut world, 2, 0), [Event::Speaker(2, "a".into())]);
    assert_eq!(talk(&mut world, 3, 100), [Event::Speaker(3, "a".into())]);
    assert_eq!(talk(&mut world, 1, 200), [Event::Speaker(1, "a".into())]);
    assert_eq!(counted(&mut world, "speaker_changes_total"), 3);
}

#[test]
fn a_leg_that_moves_to_an_address_of_another_engine_goes_on_both_ways() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 10);
    world.events();
    for by in 0..3 {
        for leg in [1, 2] {
            move_to(&mut world, leg, moved(leg, by));
        }
        let before = world.peer(2).video().len();
        camera.run(&mut world, &[0], 10);
        assert_eq!(world.peer(2).video().len() - before, 30, "moved by {by}");
        assert_eq!(world.peer(3).video().len(), world.peer(2).video().len());
    }
    assert_continuous(&world.peer(2).video());
    assert_continuous(&world.peer(3).video());
    assert!(counted(&mut world, "threads_handed_over_total") > 40);
    assert!(!world.events().iter().any(|event| matches!(event, Event::IceConnected(_))), "it was connected");
    world.pass(31_000);
    let lost = world.events().into_iter().filter(|event| matches!(event, Event::IceLost(_)));
    assert_eq!(lost.count(), 4, "consent of all of them runs out, wherever they are");
    let before = counted(&mut world, "threads_handed_over_total");
    world.datagram(moved(1, 1), vec![22]);
    assert_eq!(counted(&mut world, "threads_handed_over_total"), before, "the address is forgotten");
}

#[test]
fn a_leg_that_moved_keeps_its_address_against_others_while_it_is_heard() {
    let mut world = World::several(ENGINES);
    world.connect(1);
    world.connect(2);
    let there = moved(1, 1);
    move_to(&mut world, 1, there);
    world.add(5);
    world.events();
    world.stun(5, there, true);
    assert_eq!(world.events(), []);
    assert_eq!(counted(&mut world, "latch_refused_total"), 1);
    move_to(&mut world, 1, path(2));
    assert_eq!(counted(&mut world, "latch_refused_total"), 2, "nor does it take the address of one who lives there");
    world.pass(6000);
    world.stun(5, there, true);
    assert_eq!(world.events(), [Event::IceConnected(5)], "the first was silent for long enough");
    world.datagram(there, vec![22]);
    assert_eq!(world.events(), [Event::Dtls(5, vec![22])]);
    move_to(&mut world, 1, path(2));
    world.datagram(path(2), vec![22]);
    assert_eq!(world.events(), [Event::IceConnected(1), Event::Dtls(1, vec![22])], "as another was");
}

#[test]
fn checks_before_the_nomination_are_answered_anywhere_and_decide_nothing() {
    let mut world = World::several(ENGINES);
    world.add(1);
    for port in 0..6 {
        let mut request = Vec::new();
        write_request([7; 12], "leg1:them", &Password::new(PWD), false, true, &mut request);
        world.datagram(Path { socket: 0, peer: ([127, 0, 0, 1], 3000 + port).into() }, request);
    }
    assert_eq!(counted(&mut world, "stun_in_total"), 6);
    assert_eq!(counted(&mut world, "threads_handed_over_total"), 0);
    world.stun(1, path(1), true);
    assert_eq!(world.events(), [Event::IceConnected(1)]);
    world.stun(1, Path { socket: 0, peer: ([127, 0, 0, 1], 3000).into() }, false);
    assert_eq!(counted(&mut world, "stun_in_total"), 8, "answered by the engine where it lives");
}

#[test]
fn an_ice_restart_is_known_to_all_engines() {
    let mut world = World::several(ENGINES);
    world.connect(1);
    for (n, ufrag) in ["leg7", "leg8", "leg9"].into_iter().enumerate() {
        world.command(Command::SetCredentials { leg: 1, ufrag: ufrag.into(), pwd: PWD.into() });
        let leg = 7 + n as LegId;
        world.stun(leg, moved(1, 1 + n as u16), true);
        world.events();
        world.datagram(moved(1, 1 + n as u16), vec![22]);
        assert_eq!(world.events(), [Event::Dtls(1, vec![22])], "{ufrag}");
    }
    for engine in world.engines() {
        let mut known: Vec<_> = engine.by_ufrag.keys().cloned().collect();
        known.sort();
        assert_eq!(known, ["leg9"], "what ended is known nowhere");
    }
}

#[test]
fn keys_and_sends_are_kept_only_where_a_leg_lives() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 3);
    let keyed: Vec<usize> =
        world.engines().map(|engine| engine.legs.iter().filter(|(_, leg)| leg.keys.is_some()).count()).collect();
    assert_eq!(keyed, [1, 1, 2]);
    let sent: Vec<usize> = world
        .engines()
        .map(|engine| engine.legs.iter().flat_map(|(_, leg)| leg.outgoing.iter().flatten()).count())
        .collect();
    assert_eq!(sent, [2, 2, 2]);
    world.command(Command::RemoveLeg { leg: 1 });
    world.command(Command::RemoveLeg { leg: 2 });
    for engine in world.engines() {
        assert_eq!(engine.legs.len(), 2);
        assert!(engine.legs.iter().all(|(_, leg)| leg.tracks.is_empty()));
    }
    camera.run(&mut world, &[0], 3); // nobody knows it any more
    world.pass(1000);
}

#[test]
fn a_track_that_is_replaced_goes_on_elsewhere_with_the_new_one() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 5);
    let mut plan = publisher_plan();
    plan.lines.retain(|line| line.mid != "v");
    world.command(Command::SetPlan { leg: 1, plan });
    camera.run(&mut world, &[0], 3);
    let before = world.peer(2).video().len();
    world.command(Command::SetPlan { leg: 1, plan: publisher_plan() });
    camera.run(&mut world, &[0], 5);
    assert_eq!(world.peer(2).video().len(), before, "the line ended, and what was sent of it");
    for leg in [2, 3] {
        world.forward(leg, "sv", 1, "v", None);
    }
    let mut again = Camera::new(1);
    again.layers[0].index = 70_000;
    again.run(&mut world, &[0], 20);
    assert!(world.peer(2).video().len() > before + 40);
    assert_eq!(world.peer(2).video().len(), world.peer(3).video().len());
}

#[test]
fn other_conferences_get_nothing_wherever_they_live() {
    let (mut world, mut camera) = meeting(None);
    camera.run(&mut world, &[0], 5);
    world.command(Command::SetGroup { leg: 2, group: GROUP + 1 });
    let before = world.peer(2).video().len();
    camera.run(&mut world, &[0], 5);
    assert_eq!(world.peer(2).video().len(), before);
    assert!(counted(&mut world, "dropped_group_total") >= 15);
}

#[test]
fn an_engine_that_takes_nothing_costs_bounded_memory_and_misses_only_packets() {
    let mut waiting = Crossing::default();
    let mut dropped = 0;
    for n in 0..10_000u16 {
        let mut more = Crossing::default();
        more.stray(path(1), &[0; 1000]);
        if n % 1000 == 0 {
            more.note(crate::engine::crossing::Note::Used { leg: 1, ufrag: n.to_string() });
        }
        dropped += waiting.append(&mut more);
        assert!(more.is_empty());
    }
    let kept = waiting.strays().count();
    assert_eq!(kept + dropped, 10_000);
    assert!((MAX_WAITING / 1000..MAX_WAITING / 1000 + 3).contains(&kept));
    assert_eq!(waiting.take_notes().len(), 10);
}
