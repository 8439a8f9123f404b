//! The full ICE agent of a leg that dials, towards the lite agent of this very crate.

use std::net::SocketAddr;

use super::world::{DIALLED, FAR, Flying, NEAR, TRUNK, World, address, is_stun};
use crate::engine::outbox::Path;
use crate::engine::{Command, Event};
use crate::proto::stun::{Check, Password, Request};
use crate::time::{MILLISECOND, SECOND};

fn nobody(host: u8) -> SocketAddr {
    ([192, 0, 2, host], 7000).into()
}

fn checks(world: &World) -> Vec<&Flying> {
    world.sent.iter().filter(|flying| flying.from == world.dialled_from && is_stun(&flying.bytes)).collect()
}

fn stat(world: &World, side: usize, name: &str) -> u64 {
    let stats = world.foci[side].leg_stats(TRUNK).unwrap();
    stats.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Both ends of the trunk, not yet dialled.
fn world() -> World {
    let mut world = World::new();
    world.add_leg(NEAR, TRUNK);
    world.add_leg(FAR, TRUNK);
    world
}

#[test]
fn a_dialler_and_a_lite_agent_connect_speak_dtls_and_stay_connected() {
    let mut world = world();
    world.connect(vec![nobody(1), address(FAR, 0)]);
    world.run(200);
    assert_eq!(world.events, [vec![Event::IceConnected(TRUNK)], vec![Event::IceConnected(TRUNK)]]);
    for (side, datagram) in [(NEAR, vec![22, 1]), (FAR, vec![22, 2])] {
        world.command(side, Command::SendDtls { leg: TRUNK, datagram });
    }
    world.run(100);
    assert_eq!(world.dtls, [vec![vec![22, 2]], vec![vec![22, 1]]]);
    let before = checks(&world).len();
    world.run(120_000);
    assert_eq!([world.events[0].len(), world.events[1].len()], [1, 1], "consent goes on");
    let asked = checks(&world).len() - before;
    assert!((24..=30).contains(&asked), "asked every 4 to 5 seconds: {asked} times in two minutes");
    let last = checks(&world).last().unwrap().at;
    assert!(world.now.since(last) <= 5 * SECOND);
    assert_eq!(stat(&world, NEAR, "round_trip_microseconds"), 10_000, "known without any media");
    assert_eq!(stat(&world, NEAR, "connected"), 1);
}

#[test]
fn candidates_that_never_answer_get_paced_checks_for_ten_seconds() {
    let mut world = world();
    world.connect((1..=30).map(nobody).collect());
    world.run(30_000);
    assert_eq!(world.events[NEAR], [Event::IceFailed(TRUNK)]);
    let sent = checks(&world);
    assert!(sent.windows(2).all(|pair| pair[1].at.since(pair[0].at) >= 50 * MILLISECOND));
    assert!(sent.last().unwrap().at.since(sent[0].at) <= 10 * SECOND);
    assert!(sent.iter().all(|check| (1..=8).any(|host| check.to == nobody(host))), "eight at most");
    assert!(sent.len() <= 120, "{} checks", sent.len());
    assert_eq!(world.foci[NEAR].counters.ice_checks_out, sent.len() as u64);
    assert_eq!(world.foci[NEAR].counters.ice_failed, 1);
}

#[test]
fn without_a_candidate_it_fails_at_once() {
    let mut world = world();
    world.connect(Vec::new());
    world.run(20);
    assert_eq!(world.events[NEAR], [Event::IceFailed(TRUNK)]);
}

#[test]
fn lost_checks_and_lost_answers_are_made_up_for() {
    let mut world = world();
    let mut random = 1u32;
    world.loses = Box::new(move |_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 31 == 0
    });
    world.connect(vec![address(FAR, 0)]);
    world.run(9000);
    assert_eq!(world.events[NEAR], [Event::IceConnected(TRUNK)]);
}

#[test]
fn forged_answers_are_ignored() {
    let mut world = world();
    world.loses = Box::new(|flying| flying.from == address(FAR, 0)); // the true answers never come
    world.connect(vec![address(FAR, 0)]);
    let right = Password::new(&format!("password{TRUNK}"));
    for _ in 0..40 {
        world.run(50);
        let Some(asked) = checks(&world).last().map(|check| check.bytes.clone()) else { continue };
        let answer = |password: &Password| {
            let mut bytes = Vec::new();
            Request::parse(&asked).unwrap().write_success(address(NEAR, 0), password, &mut bytes);
            bytes
        };
        let mut other_question = asked.clone();
        other_question[8] ^= 1;
        let forgeries = [
            (address(FAR, 0), answer(&Password::new("guessed"))),
            (nobody(1), answer(&right)), // somebody who overhears and repeats cannot take the trunk over
            (address(FAR, 0), asked.clone()),
            (address(FAR, 0), vec![1, 1, 0, 0]),
        ];
        for (peer, mut bytes) in forgeries {
            world.foci[NEAR].datagram(world.now, Path { socket: DIALLED, peer }, &mut bytes);
        }
    }
    world.run(9000);
    assert_eq!(world.events[NEAR], [Event::IceFailed(TRUNK)]);
    assert_eq!(world.foci[NEAR].counters.ice_answers_in, 0);
    assert!(world.foci[NEAR].counters.stun_rejected >= 100);
}

#[test]
fn a_trunk_that_is_cut_for_five_seconds_heals_and_one_for_good_is_lost_after_thirty() {
    let mut world = world();
    world.connect(vec![address(FAR, 0)]);
    world.run(20_000);
    world.loses = Box::new(|_| true);
    world.run(5000);
    world.loses = Box::new(|_| false);
    world.run(60_000);
    assert_eq!([world.events[0].len(), world.events[1].len()], [1, 1]);
    world.loses = Box::new(|_| true);
    world.run(25_000);
    assert_eq!([world.events[0].len(), world.events[1].len()], [1, 1]);
    world.run(10_000);
    assert_eq!(world.events.each_ref().map(|events| events.last()), [Some(&Event::IceLost(TRUNK)); 2]);
    world.loses = Box::new(|_| false);
    let place = world.sent.len();
    world.run(10_000);
    assert_eq!(world.sent.len(), place, "what is lost stays so until it is dialled anew");
    world.connect(vec![address(FAR, 0)]);
    world.run(300);
    assert_eq!(world.events.each_ref().map(|events| events.last()), [Some(&Event::IceConnected(TRUNK)); 2]);
}

#[test]
fn a_dialler_whose_nat_forgets_it_is_followed_to_its_new_address() {
    let mut world = world();
    world.connect(vec![address(FAR, 0)]);
    world.run(1000);
    world.dialled_from = ([10, 0, 0, 99], 5555).into();
    world.run(6000);
    world.command(FAR, Command::SendDtls { leg: TRUNK, datagram: vec![22, 9] });
    world.run(50);
    assert_eq!(world.dtls[NEAR], [[22, 9]]);
}

#[test]
fn a_socket_is_released_with_its_leg_with_the_next_dial_or_without_a_leg() {
    let mut world = world();
    world.connect(vec![nobody(1)]);
    assert_eq!(world.foci[NEAR].take_released(), []);
    let (ufrag, pwd) = ("u".to_owned(), "p".to_owned());
    world.command(NEAR, Command::Connect { leg: TRUNK, socket: 8, ufrag, pwd, candidates: vec![nobody(1)] });
    assert_eq!(world.foci[NEAR].take_released(), [DIALLED]);
    world.command(NEAR, Command::RemoveLeg { leg: TRUNK });
    assert_eq!(world.foci[NEAR].take_released(), [8]);
    world.connect(vec![nobody(1)]);
    assert_eq!(world.foci[NEAR].take_released(), [DIALLED], "the leg had ended before");
    world.run(1000);
    assert_eq!(checks(&world).len(), 0);
}

/// The leg's own ufrag and password, which the called focus knows from the invite.
fn request(leg: u64) -> Vec<u8> {
    let (username, password) = (format!("ufrag{leg}:x"), format!("password{leg}"));
    let check = Check { id: [5; 12], username: &username, nominates: true, controlling: true, tie_breaker: 1 };
    let mut bytes = Vec::new();
    check.write(&Password::new(&password), &mut bytes);
    bytes
}

#[test]
fn nobody_latches_a_leg_that_dials_nor_another_one_over_its_socket() {
    let mut world = world();
    world.add_leg(NEAR, 5);
    world.connect(vec![nobody(1)]);
    for (socket, leg) in [(0, TRUNK), (DIALLED, TRUNK), (DIALLED, 5)] {
        world.foci[NEAR].datagram(world.now, Path { socket, peer: nobody(1) }, &mut request(leg));
        assert!(world.foci[NEAR].outbox.is_empty(), "not even answered");
    }
    world.run(100);
    assert_eq!(world.events[NEAR], []);
    assert_eq!(world.foci[NEAR].counters.stun_rejected, 3);
}

#[test]
fn what_latched_a_leg_before_it_dials_is_forgotten() {
    let mut world = world();
    world.foci[NEAR].datagram(world.now, Path { socket: 0, peer: nobody(3) }, &mut request(TRUNK));
    assert_eq!(stat(&world, NEAR, "connected"), 1);
    world.connect(vec![address(FAR, 0)]);
    assert_eq!(stat(&world, NEAR, "connected"), 0);
    world.foci[NEAR].datagram(world.now, Path { socket: 0, peer: nobody(3) }, &mut [22; 20]);
    assert_eq!(world.foci[NEAR].counters.dropped_unknown_address, 1);
    world.run(300);
    assert_eq!(stat(&world, NEAR, "connected"), 1);
}
