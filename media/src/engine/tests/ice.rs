//! Addresses: who may latch one, keep it, move, and lose it.

use super::*;
use crate::proto::u16_at;

#[test]
fn a_nomination_latches_the_address_and_is_answered_where_it_came_from() {
    let mut world = World::new();
    world.add(1);
    world.stun(1, path(1), false);
    assert_eq!(world.events(), []);
    assert_eq!(world.peer(1).other.len(), 1, "a check without nomination is answered too");
    world.stun(1, path(1), true);
    assert_eq!(world.events(), [Event::IceConnected(1)]);
    world.stun(1, path(1), true);
    assert_eq!(world.events(), []);
    assert!(world.peer(1).other.iter().all(|answer| u16_at(answer, 0) == Some(0x0101)));
}

#[test]
fn strangers_get_no_answer_and_change_nothing() {
    let mut world = World::new();
    world.add(1);
    let good = |name: &str, pwd: &str| {
        let mut request = Vec::new();
        write_request([7; 12], name, &Password::new(pwd), true, true, &mut request);
        request
    };
    let mut damaged = good("leg1:them", PWD);
    damaged[25] ^= 1;
    for request in [good("leg2:them", PWD), good("leg1:them", "another"), good("leg1", PWD), damaged, vec![0; 28]] {
        world.datagram(path(1), request);
    }
    assert_eq!(world.events(), []);
    assert_eq!((world.sent, world.engine.counters.stun_rejected), (0, 5));
}

#[test]
fn a_peer_that_believes_itself_controlled_is_told() {
    let mut world = World::new();
    world.add(1);
    let mut request = Vec::new();
    write_request([7; 12], "leg1:them", &Password::new(PWD), true, false, &mut request);
    world.datagram(path(1), request);
    assert_eq!(u16_at(&world.peer(1).other[0], 0), Some(0x0111));
    assert_eq!(world.events(), []);
}

#[test]
fn a_peer_may_move_and_its_old_address_is_then_a_strangers() {
    let mut world = World::new();
    world.connect(1);
    world.events();
    let elsewhere = Path { socket: 1, ..path(1) };
    world.stun(1, elsewhere, true);
    world.datagram(path(1), vec![22, 1]);
    assert_eq!(world.events(), []);
    world.datagram(elsewhere, vec![22, 1]);
    assert_eq!(world.events(), [Event::Dtls(1, vec![22, 1])]);
    world.command(Command::SendDtls { leg: 1, datagram: vec![23] });
    assert_eq!(world.peer(1).other.iter().filter(|other| other[0] == 23).count(), 0, "not to the old address");
}

#[test]
fn no_leg_takes_over_the_address_of_another_that_lives() {
    let mut world = World::new();
    world.connect(1);
    world.add(2);
    world.events();
    world.stun(2, path(1), true);
    assert_eq!(world.events(), []);
    assert_eq!(world.engine.counters.latch_refused, 1);
    world.pass(6000);
    world.stun(2, path(1), true);
    assert_eq!(world.events(), [Event::IceConnected(2)], "the first was silent for long enough");
    world.datagram(path(1), vec![22]);
    assert_eq!(world.events(), [Event::Dtls(2, vec![22])]);
}

#[test]
fn consent_runs_out_after_30_seconds_of_silence() {
    let mut world = World::new();
    world.connect(1);
    world.events();
    world.pass(20_000);
    world.stun(1, path(1), false);
    world.pass(29_900);
    assert_eq!(world.events(), []);
    world.pass(200);
    assert_eq!(world.events(), [Event::IceLost(1)]);
    world.datagram(path(1), vec![22]);
    assert_eq!(world.events(), [], "the address is nobody's any more");
}

#[test]
fn an_ice_restart_keeps_the_old_credentials_until_the_new_ones_are_used() {
    let mut world = World::new();
    world.connect(1);
    world.command(Command::SetCredentials { leg: 1, ufrag: "leg9".into(), pwd: PWD.into() });
    world.stun(1, path(1), false);
    assert_eq!(world.engine.counters.stun_in, 2);
    world.stun(9, path(5), true);
    assert_eq!(world.engine.counters.stun_in, 3);
    world.stun(1, path(1), false);
    assert_eq!(world.engine.counters.stun_rejected, 1, "the old ones ended");
    world.events();
    world.datagram(path(5), vec![22]);
    assert_eq!(world.events(), [Event::Dtls(1, vec![22])]);
}

#[test]
fn dtls_is_bounded_per_leg_and_time() {
    let mut world = World::new();
    world.connect(1);
    world.events();
    for _ in 0..2000 {
        world.datagram(path(1), vec![22]);
    }
    let passed = world.events().len();
    assert!((500..600).contains(&passed), "{passed}");
    world.pass(1000);
    for _ in 0..100 {
        world.datagram(path(1), vec![22]);
    }
    assert_eq!(world.events().len(), 100);
}
