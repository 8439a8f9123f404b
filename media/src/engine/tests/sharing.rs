//! What is for one subscriber leaves in few sends: batches, levelled sizes, and repeats of packets that were levelled.

use super::*;
use crate::proto::rtcp::write_nack;

/// Hands a batch in, and gives the sizes of the datagrams of each message that came of it, with who it is for.
fn batch(world: &mut World, datagrams: Vec<(LegId, Vec<u8>)>) -> Vec<(u16, Vec<usize>)> {
    for (leg, mut datagram) in datagrams {
        let path = world.peers[&leg].path;
        world.engine.datagram(world.now, path, &mut datagram);
    }
    world.engine.finish(world.now);
    let outbox = &world.engine.outbox;
    let sizes = |message: &_| outbox.bytes_of(message).chunks(message.segment).map(<[u8]>::len).collect();
    let found = outbox.messages().iter().map(|message| (message.path.peer.port(), sizes(message))).collect();
    world.collect();
    found
}

fn voice(world: &World, leg: LegId, index: u64, length: usize) -> (LegId, Vec<u8>) {
    let ssrc = 1000 * leg as u32 + 9;
    let header = FixedHeader { marker: false, pt: 111, seq: 0, timestamp: index as u32 * 960, ssrc, padding: false };
    (leg, world.protect(leg, header, index, &[(4, b"a"), (1, &[30])], &vec![leg as u8; length]))
}

/// A frame of one layer whose packets have these lengths.
fn frame(world: &World, camera: &mut Camera, key: bool, lengths: &[usize]) -> Vec<(LegId, Vec<u8>)> {
    let packets = camera.make(world.now, 0, key, lengths.len());
    let protect = |((header, index, mut payload), length): ((FixedHeader, u64, Vec<u8>), &usize)| {
        let tail = payload.split_off(payload.len() - 5);
        payload.resize(*length - 5, 7);
        payload.extend(tail);
        (camera.leg, world.protect(camera.leg, header, index, &[(4, b"v"), (5, b"q")], &payload))
    };
    packets.into_iter().zip(lengths).map(protect).collect()
}

fn meeting(rtx: bool) -> (World, Camera) {
    let mut world = World::new();
    for leg in [1, 3, 4] {
        world.publisher(leg);
    }
    world.connect(2);
    let mut plan = subscriber_plan(rtx);
    let mut second = plan.lines[1].clone();
    second.mid = "sb".into();
    second.send[0].ssrc += 1;
    plan.lines.push(second);
    world.command(Command::SetPlan { leg: 2, plan });
    world.forward(2, "sv", 1, "v", None);
    world.forward(2, "sa", 3, "a", None);
    world.forward(2, "sb", 4, "a", None);
    let mut camera = Camera::new(1);
    let datagrams = frame(&world, &mut camera, true, &[60]);
    batch(&mut world, datagrams);
    world.pass(40);
    (world, camera)
}

#[test]
fn a_frame_and_the_voices_of_others_share_one_send() {
    let (mut world, mut camera) = meeting(true);
    let mut datagrams = vec![voice(&world, 3, 1, 80)];
    datagrams.extend(frame(&world, &mut camera, false, &[1000, 1001, 1000, 1001]));
    let sent = batch(&mut world, datagrams);
    let [(1002, sizes)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(sizes.len(), 5);
    assert!(sizes[..4].iter().all(|size| *size == sizes[0]) && sizes[4] < sizes[0]);
    let got = &world.peer(2).rtp;
    let lengths: Vec<_> = got.iter().skip(1).map(|got| got.payload.len()).collect();
    assert_eq!(lengths, [1000, 1001, 1000, 1001, 80], "padding is no part of the payload");
    assert_continuous(&world.peer(2).video());
}

#[test]
fn voices_of_about_one_size_share_a_send_and_others_do_not() {
    let (mut world, _) = meeting(true);
    let datagrams = vec![voice(&world, 3, 1, 80), voice(&world, 4, 1, 100), voice(&world, 3, 2, 70)];
    let sent = batch(&mut world, datagrams);
    assert_eq!(sent.iter().map(|(_, sizes)| sizes.len()).collect::<Vec<_>>(), [3]);
    let datagrams = vec![voice(&world, 3, 3, 80), voice(&world, 4, 2, 300)];
    let sent = batch(&mut world, datagrams);
    assert_eq!(sent.iter().map(|(_, sizes)| sizes.len()).collect::<Vec<_>>(), [1, 1]);
    let of = |ssrc: u32| world.peer(2).rtp.iter().filter(move |got| got.header.ssrc == ssrc);
    assert_eq!(of(AUDIO_SSRC).map(|got| got.payload.len()).collect::<Vec<_>>(), [80, 70, 80]);
    assert_eq!(of(AUDIO_SSRC + 1).map(|got| got.payload.len()).collect::<Vec<_>>(), [100, 300]);
}

#[test]
fn nothing_is_padded_for_a_send_of_its_own() {
    let (mut world, mut camera) = meeting(true);
    for lengths in [&[500][..], &[900, 400]] {
        let datagrams = frame(&world, &mut camera, false, lengths);
        batch(&mut world, datagrams);
    }
    assert!(world.peer(2).rtp.iter().all(|got| !got.header.padding));
}

#[test]
fn without_rtx_a_levelled_packet_is_repeated_bit_by_bit() {
    let (mut world, mut camera) = meeting(false);
    let datagrams = frame(&world, &mut camera, false, &[500, 510]);
    let mut first = Vec::new();
    for (leg, mut datagram) in datagrams {
        let path = world.peers[&leg].path;
        world.engine.datagram(world.now, path, &mut datagram);
    }
    world.engine.finish(world.now);
    first.extend(world.engine.outbox.iter().map(|(_, datagram)| datagram.to_vec()));
    world.collect();
    let padded = world.peer(2).video()[1].clone();
    assert!(padded.header.padding);
    world.now = world.now + 50 * MILLISECOND;
    let mut compound = Vec::new();
    write_nack(&mut compound, 1, VIDEO_SSRC, &[padded.index as u16]);
    let path = world.peers[&2].path;
    world.peers.get_mut(&2).unwrap().protector.protect_rtcp(&mut compound, 0);
    world.engine.datagram(world.now, path, &mut compound);
    let repeated: Vec<_> = world.engine.outbox.iter().map(|(_, datagram)| datagram.to_vec()).collect();
    assert_eq!(repeated, [first[0].clone()]);
    world.engine.outbox.clear();
}
