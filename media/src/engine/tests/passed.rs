//! What a publisher says in header extensions to whoever gets its packets.

use super::*;
use crate::proto::rtcp::write_nack;

const ORIENTATION: &str = "urn:3gpp:video-orientation";
const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";

fn with(mut plan: Plan, orientation: u8, playout_delay: u8) -> Plan {
    plan.extensions.extend([(ORIENTATION.to_owned(), orientation), (PLAYOUT_DELAY.to_owned(), playout_delay)]);
    plan
}

#[test]
fn orientation_and_playout_delay_reach_each_subscriber_under_its_own_ids_also_in_repairs() {
    let mut world = World::new();
    world.connect(1);
    world.command(Command::SetPlan { leg: 1, plan: with(publisher_plan(), 13, 7) });
    for (leg, rtx) in [(2, true), (3, false)] {
        world.connect(leg);
        world.command(Command::SetPlan { leg, plan: with(subscriber_plan(rtx), 2, 3 + leg as u8) });
        world.forward(leg, "sv", 1, "v", None);
    }
    world.subscriber(4); // has not negotiated either
    world.forward(4, "sv", 1, "v", None);
    let mut camera = Camera::new(1);
    let frame = camera.make(world.now, 0, true, 2);
    for ((header, index, payload), turned) in frame.iter().zip([3, 0]) {
        let elements: [(u8, &[u8]); 4] = [(4, b"v"), (5, RIDS[0]), (13, &[turned]), (7, &[0, 0x10, turned])];
        world.rtp(1, *header, *index, &elements, payload);
    }
    for (leg, repairs) in [(2, RTX_SSRC), (3, VIDEO_SSRC)] {
        let got = world.peer(leg).video();
        assert_eq!(got.len(), 2);
        for (packet, turned) in got.iter().zip([3, 0]) {
            assert_eq!(packet.element(2), Some(&[turned][..]));
            assert_eq!(packet.element(3 + leg as u8), Some(&[0, 0x10, turned][..]));
        }
        world.pass(100);
        world.peers.get_mut(&leg).unwrap().positions.clear(); // takes the very packet again
        world.rtcp(leg, |out| write_nack(out, 1, VIDEO_SSRC, &[got[0].header.seq]));
        let repair = world.peer(leg).rtp.last().unwrap();
        assert_eq!(repair.header.ssrc, repairs);
        assert_eq!(repair.element(3 + leg as u8), Some(&[0, 0x10, 3][..]));
    }
    let got = world.peer(4).video();
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|got| got.elements.iter().all(|(id, _)| [9, 11, 12].contains(id))));
}
