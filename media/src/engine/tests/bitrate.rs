//! What a peer may send: what is beyond is dropped, counted, and told to the peer.

use super::*;
use crate::proto::rtcp::{Packet, parse};

const PAYLOAD: usize = 1000;

fn watched() -> World {
    let mut world = World::new();
    world.publisher(1);
    world.subscriber(2);
    world.forward(2, "sv", 1, "v", None);
    world.forward(2, "sa", 1, "a", None);
    world
}

fn allow(world: &mut World, bits_per_second: Option<u64>) {
    world.command(Command::SetBitrate { leg: 1, bits_per_second });
}

/// Packets of one layer of a kilobyte each, so many a second, and fifty of a voice; for so many seconds.
fn talk(world: &mut World, first: u64, per_second: u64, seconds: u64) {
    for n in 0..per_second * seconds {
        let millis = 1000 / per_second;
        let timestamp = (first + n) as u32 * 90 * millis as u32;
        let header = FixedHeader { marker: true, pt: 96, seq: 0, timestamp, ssrc: 1000, padding: false };
        let mut payload = vec![0x90, 0xe0, 0x80 | (n >> 8) as u8 & 0x7f, n as u8, 0, 0, 0, 0, 0, 0x9d, 0x01, 0x2a];
        payload.resize(PAYLOAD, 0);
        world.rtp(1, header, first + n, &[(4, &b"v"[..]), (5, b"q")], &payload);
        if n * millis % 20 == 0 {
            let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp, ssrc: 2000, padding: false };
            world.rtp(1, header, first + n, &[(4, &b"a"[..])], &[0; 80]);
        }
        world.pass(millis);
    }
}

fn stat(world: &World, name: &str) -> u64 {
    let stats = world.engine.leg_stats(1).unwrap();
    stats.iter().find(|(known, _)| *known == name).unwrap().1
}

fn rembs(world: &World) -> usize {
    let compounds = &world.peer(1).rtcp;
    compounds.iter().flat_map(|compound| parse(compound)).filter(|packet| matches!(packet, Packet::Remb { .. })).count()
}

#[test]
fn no_more_is_taken_than_a_leg_may_send_and_its_voice_goes_through() {
    let mut world = watched();
    allow(&mut world, Some(2_000_000));
    talk(&mut world, 1, 1000, 5); // 8 Mbit/s
    let (taken, refused) = (stat(&world, "bytes_in_total"), stat(&world, "bytes_refused_total"));
    assert!((1_100_000..1_400_000).contains(&taken), "{taken} bytes in five seconds of 2 Mbit/s");
    assert!(refused > 3_500_000);
    assert!(world.engine.counters.dropped_bitrate > 3_500);
    let voices = world.peer(2).rtp.iter().filter(|got| got.header.ssrc == AUDIO_SSRC).count();
    assert_eq!(voices, 250, "fifty a second");
    assert!((4..=6).contains(&rembs(&world)), "told once a second, with transport feedback or not");
    assert_eq!(world.engine.traffic().iter().find(|(leg, ..)| *leg == 1).unwrap().1, taken + refused);
}

#[test]
fn without_a_bound_everything_is_taken_and_with_a_high_one_too() {
    let mut world = watched();
    talk(&mut world, 1, 500, 2);
    allow(&mut world, Some(20_000_000));
    talk(&mut world, 1001, 500, 2);
    allow(&mut world, None);
    assert_eq!(world.engine.counters.dropped_bitrate, 0);
    assert_eq!(rembs(&world), 0);
}

#[test]
fn a_source_that_was_refused_for_long_is_understood_again_afterwards() {
    let mut world = watched();
    talk(&mut world, 1, 500, 1);
    allow(&mut world, Some(8));
    for ten_seconds in 0..7 {
        world.stun(1, path(1), true); // consent
        talk(&mut world, 501 + ten_seconds * 10_000, 1000, 10); // its sequence numbers wrap meanwhile
    }
    allow(&mut world, None);
    let before = stat(&world, "packets_in_total");
    talk(&mut world, 70_501, 500, 1);
    assert_eq!(stat(&world, "packets_in_total") - before, 550);
    assert_eq!(world.engine.counters.srtp_auth_failed, 0);
}
