//! What peers with valid keys may do wrong: anything, at nobody's cost but their own.

use proptest::prelude::*;

use super::*;

/// What a peer may throw at the engine.
#[derive(Clone, Debug)]
enum Throw {
    Raw(Vec<u8>),
    Rtp { ssrc: u32, index: u64, pt: u8, padding: bool, mid: u8, rid: u8, payload: Vec<u8> },
    Rtcp(Vec<u8>),
    Pass(u64),
    Command(u8),
}

fn throws() -> impl Strategy<Value = Throw> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    let pt = prop_oneof![Just(96), Just(97), Just(111), 0..128u8];
    let rtp = (0..6u32, 0..70_000u64, pt, any::<bool>(), 0..3u8, 0..4u8, bytes(40));
    prop_oneof![
        1 => bytes(80).prop_map(Throw::Raw),
        6 => rtp.prop_map(|(ssrc, index, pt, padding, mid, rid, payload)| {
            Throw::Rtp { ssrc, index, pt, padding, mid, rid, payload }
        }),
        2 => (200..207u8, 0..32u8, bytes(60)).prop_map(|(kind, count, mut body)| {
            body.resize(body.len().next_multiple_of(4), 0);
            let words = (body.len() / 4) as u8;
            let mut packet = vec![0x80 | count, kind, 0, words];
            packet.extend_from_slice(&body);
            Throw::Rtcp(packet)
        }),
        2 => (0..3000u64).prop_map(Throw::Pass),
        1 => (0..6u8).prop_map(Throw::Command),
    ]
}

fn throw(world: &mut World, throw: Throw) {
    match throw {
        Throw::Raw(bytes) => world.datagram(path(1), bytes),
        Throw::Rtp { ssrc, index, pt, padding, mid, rid, payload } => {
            let mids: [&[u8]; 3] = [b"v", b"a", b"\xff"];
            let rids: [&[u8]; 4] = [b"q", b"h", b"f", b"x"];
            let header = FixedHeader { marker: false, pt, seq: 0, timestamp: index as u32, ssrc, padding };
            let elements = [(4, mids[usize::from(mid)]), (5, rids[usize::from(rid)]), (6, rids[usize::from(rid)])];
            world.rtp(1, header, index, &elements, &payload);
        }
        Throw::Rtcp(packet) => {
            if packet.len() >= 8 {
                for leg in [1, 2] {
                    world.rtcp(leg, |out| out.extend_from_slice(&packet));
                }
            }
        }
        Throw::Pass(millis) => world.pass(millis),
        Throw::Command(0) => world.command(Command::SetPlan { leg: 1, plan: Plan::default() }),
        Throw::Command(1) => world.command(Command::SetPlan { leg: 1, plan: publisher_plan() }),
        Throw::Command(2) => world.command(Command::SetPlan { leg: 2, plan: subscriber_plan(true) }),
        Throw::Command(3) => world.command(Command::SetPlan { leg: 2, plan: subscriber_plan(false) }),
        Throw::Command(_) => {
            world.forward(2, "sv", 1, "v", Some((10, 10)));
            world.forward(2, "sa", 1, "a", None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Nothing that an authenticated peer sends makes the engine panic, or send one SRTP index twice.
    #[test]
    fn an_authenticated_peer_may_send_what_it_likes(all in proptest::collection::vec(throws(), 1..120)) {
        let mut world = World::new();
        world.publisher(1);
        world.subscriber(2);
        world.forward(2, "sv", 1, "v", None);
        world.forward(2, "sa", 1, "a", None);
        for one in all {
            throw(&mut world, one); // the subscriber's replay window asserts the indices
        }
    }
}
