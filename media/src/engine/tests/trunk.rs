//! Layers over a trunk: each that somebody beyond wants crosses once, and nothing else does.

use std::collections::{BTreeSet, HashSet};

use super::people::{Ear, Got, PARTS, Piece, RIDS};
use super::world::{FAR, FIRST_SSRC, NEAR, RTX, TRUNK, VP8, World, is_rtp, receives, sends};
use crate::engine::plan::LegId;
use crate::route::layers::Size;
use crate::time::{MILLISECOND, Time};

const ALICE: LegId = 1;
const BOB: LegId = 2;
const CAROL: LegId = 3;
const LARGE: Option<Size> = Some((1280, 720));
const MIDDLE: Option<Size> = Some((640, 360));
const SMALL: Option<Size> = Some((320, 180));

/// Alice films at the near focus; Bob and Carol sit at the far one and show her large and small.
struct Call {
    world: World,
    alice: usize,
    bob: usize,
    carol: usize,
}

impl Call {
    fn new(sizes: &[Option<Size>]) -> Self {
        let mut world = World::new();
        world.dial();
        let alice = world.join(NEAR, ALICE, vec![receives("camera", &RIDS)]);
        let bob = world.join(FAR, BOB, vec![sends("s0", 10, &[])]);
        let carol = world.join(FAR, CAROL, vec![sends("s0", 20, &[])]);
        world.set_plan(NEAR, TRUNK, vec![sends("c0", FIRST_SSRC, &RIDS)]);
        world.set_plan(FAR, TRUNK, vec![receives("c0", &RIDS)]);
        let now = world.now;
        world.people[alice].film("camera", now);
        world.run(300); // her layers flow
        world.forward(NEAR, (TRUNK, "c0"), (ALICE, "camera"), sizes);
        world.forward(FAR, (BOB, "s0"), (TRUNK, "c0"), &[LARGE]);
        world.forward(FAR, (CAROL, "s0"), (TRUNK, "c0"), &[SMALL]);
        Self { world, alice, bob, carol }
    }

    fn wants(&mut self, sizes: &[Option<Size>]) {
        self.world.forward(NEAR, (TRUNK, "c0"), (ALICE, "camera"), sizes);
    }

    fn ear(&self, person: usize) -> &Ear {
        &self.world.people[person].ear
    }

    /// What crossed so far, decrypted.
    fn crossed(&self) -> Vec<Got> {
        let mut ear = World::ear();
        for (flying, _) in self.world.crossings(0) {
            ear.hear(flying.at, &flying.bytes);
        }
        ear.got
    }

    fn crossed_of(&self, layer: usize) -> Vec<Got> {
        self.crossed().into_iter().filter(|got| got.piece.0 == layer && !got.repair).collect()
    }

    fn rtp_crossings_since(&self, place: usize) -> usize {
        self.world.crossings(place).len()
    }
}

/// No gap longer than this while somebody watches.
fn longest_gap(got: &[&Got], since: Time) -> u64 {
    let times: Vec<_> = got.iter().map(|got| got.at).filter(|at| *at >= since).collect();
    times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or(u64::MAX)
}

#[test]
fn people_beyond_get_different_layers_and_each_crosses_once() {
    let mut call = Call::new(&[LARGE, SMALL]);
    let dave = call.world.join(FAR, 4, vec![sends("s0", 30, &[])]);
    call.world.forward(FAR, (4, "s0"), (TRUNK, "c0"), &[SMALL]);
    call.world.run(1000);
    let settled = call.world.now;
    call.world.run(3000);

    assert_eq!(call.ear(call.bob).layers(settled), [0]);
    assert_eq!(call.ear(call.carol).layers(settled), [2]);
    assert_eq!(call.ear(dave).layers(settled), [2]);
    let crossed = call.crossed();
    let mut pieces = HashSet::new();
    assert!(crossed.iter().all(|got| pieces.insert(got.piece)), "each packet crosses once");
    assert!(pieces.iter().all(|(layer, ..)| *layer != 1), "nobody watches the middle layer");
    for (layer, rid) in [(0, "f"), (2, "q")] {
        let got = call.crossed_of(layer);
        assert!(got[0].key_frame.is_some(), "a layer begins at a key frame");
        assert!(got.windows(2).all(|pair| pair[1].index == pair[0].index + 1), "its numbers have no gap");
        assert!(got.iter().all(|got| got.ssrc == FIRST_SSRC + layer as u32));
        assert!(got.iter().all(|got| got.mid.as_deref() == Some("c0") && got.rid.as_deref() == Some(rid)));
        let frames = call.world.people[call.alice].camera().frame as usize;
        assert!(got.len() >= (frames - 20) * usize::from(PARTS), "all of it crosses: {} of {frames} frames", got.len());
    }
    let counters = call.world.foci[NEAR].counters;
    assert_eq!(counters.trunk_out, crossed.len() as u64);
    assert_eq!(counters.trunk_out_distinct, counters.trunk_out);
    assert_eq!(call.world.foci[FAR].counters.trunk_out, 0, "participants are no trunk");
}

#[test]
fn layers_start_and_stop_with_the_sizes_and_nobody_sees_a_gap() {
    let mut call = Call::new(&[SMALL]);
    call.world.run(2000);
    assert!(call.crossed().iter().all(|got| got.piece.0 == 2));
    let (before, place) = (call.world.now, call.world.sent.len());
    call.wants(&[LARGE]);
    call.world.run(2000);

    let first_large = call.crossed_of(0)[0].clone();
    let last_small = call.crossed_of(2).last().unwrap().clone();
    assert!(first_large.key_frame.is_some() && first_large.at > before);
    assert!(last_small.at >= first_large.at, "the small layer goes on until the large one has begun");
    assert!(last_small.at.since(first_large.at) <= 150 * MILLISECOND, "and then ends");
    assert!(longest_gap(&call.ear(call.bob).got.iter().collect::<Vec<_>>(), before) < 150 * MILLISECOND);
    assert_eq!(call.ear(call.bob).got.last().unwrap().piece.0, 0);
    assert!(call.rtp_crossings_since(place) > 0);

    call.wants(&[]);
    call.world.run(100);
    let place = call.world.sent.len();
    call.world.run(3000);
    assert_eq!(call.rtp_crossings_since(place), 0, "nobody wants it any more: it stops");

    let again = call.world.now;
    call.wants(&[LARGE, LARGE]);
    call.world.run(1000);
    let crossed = call.crossed_of(0);
    let resumed = crossed.iter().position(|got| got.at > again).unwrap();
    assert!(crossed[resumed].key_frame.is_some());
    assert_eq!(crossed[resumed].index, crossed[resumed - 1].index + 1, "numbers go on where they stopped");
    let passed = crossed[resumed].timestamp.wrapping_sub(crossed[resumed - 1].timestamp);
    assert!((200_000..400_000).contains(&passed), "about three seconds of 90 kHz: {passed}");
    assert_eq!(call.ear(call.bob).got.last().unwrap().piece.0, 0);
}

#[test]
fn a_size_that_no_layer_covers_takes_the_best_and_no_size_does_too() {
    let mut call = Call::new(&[None, Some((4000, 3000)), SMALL, MIDDLE]);
    call.world.run(2000);
    let layers: BTreeSet<_> = call.crossed().iter().map(|got| got.piece.0).collect();
    assert_eq!(layers.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    let counters = call.world.foci[NEAR].counters;
    assert_eq!(counters.trunk_out, counters.trunk_out_distinct);
}

#[test]
fn loss_on_the_trunk_is_repaired_over_the_trunk() {
    let mut call = Call::new(&[LARGE, SMALL]);
    call.world.run(1000);
    let mut count = 0;
    let trunk = call.world.dialled_from;
    call.world.loses = Box::new(move |flying| {
        let media = flying.from == trunk && is_rtp(&flying.bytes) && flying.bytes[1] & 0x7f == VP8;
        count += u32::from(media);
        media && count % 10 == 3
    });
    let asked = call.world.people[call.alice].camera().asked;
    let (since, frame) = (call.world.now, call.world.people[call.alice].camera().frame + 2);
    call.world.run(5000);
    call.world.loses = Box::new(|_| false);
    let last = call.world.people[call.alice].camera().frame;
    call.world.run(500);

    for (person, layer) in [(call.bob, 0), (call.carol, 2)] {
        let got: HashSet<Piece> = call.ear(person).got.iter().map(|got| got.piece).collect();
        for frame in frame..=last {
            for part in 0..PARTS {
                assert!(got.contains(&(layer, frame, part)), "layer {layer}, frame {frame}, part {part}");
            }
        }
        assert_eq!(call.ear(person).layers(since), [layer]);
    }
    let near = call.world.foci[NEAR].counters;
    assert!(near.rtx_out >= 50 && near.nack_in >= near.rtx_out, "{near:?}");
    assert_eq!(call.world.people[call.alice].camera().asked, asked, "no key frame was needed");
    let repairs: Vec<_> = call.world.crossings(0).into_iter().filter(|(_, header)| header.pt == RTX).collect();
    assert_eq!(repairs.len() as u64, near.rtx_out);
    let repairs = call.crossed().into_iter().filter(|got| got.repair);
    for got in repairs {
        assert_eq!(got.ssrc, FIRST_SSRC + 100 + got.piece.0 as u32);
        assert_eq!((got.rid, got.repaired_rid.as_deref()), (None, Some(RIDS[got.piece.0])));
    }
    assert_eq!(near.trunk_out, near.trunk_out_distinct, "repeats are no crossings");
}

#[test]
fn a_layer_waits_for_its_own_key_frame_and_takes_no_other_meanwhile() {
    let mut call = Call::new(&[]);
    let alice = call.alice;
    call.world.loses = Box::new(|flying| flying.to.ip().to_string() == "10.1.0.1"); // she hears no request
    call.wants(&[LARGE]);
    call.world.people[alice].camera().switch(1, true);
    call.world.people[alice].camera().switch(2, true);
    call.world.run(1000);
    assert_eq!(call.crossed(), []);
    call.world.loses = Box::new(|_| false);
    call.world.run(1000);
    assert!(!call.crossed().is_empty());
    assert!(call.crossed().iter().all(|got| got.piece.0 == 0));
}

#[test]
fn a_request_for_a_key_frame_reaches_the_layer_that_it_means() {
    let mut call = Call::new(&[LARGE, SMALL]);
    call.world.run(2000);
    let before = call.world.people[call.alice].camera().asked;
    let carol = call.carol;
    call.world.people[carol].complain(20);
    call.world.run(300);
    let asked = call.world.people[call.alice].camera().asked;
    assert_eq!([asked[0] - before[0], asked[1] - before[1], asked[2] - before[2]], [0, 0, 1]);
    assert_eq!(call.world.foci[FAR].counters.pli_out, call.world.foci[NEAR].counters.pli_in);
    let keys = |layer| call.crossed_of(layer).iter().filter(|got| got.key_frame.is_some()).count();
    assert_eq!(keys(2), keys(0) + 1);
}

#[test]
fn a_layer_that_begins_costs_no_second_key_frame() {
    let mut call = Call::new(&[LARGE, SMALL]);
    call.world.run(2000);
    let asked = call.world.people[call.alice].camera().asked;
    assert!(asked.iter().all(|asked| *asked <= 1), "{asked:?}");
    assert_eq!(call.world.foci[FAR].counters.pli_out, 0, "what begins at a key frame needs no other");
}

#[test]
fn a_layer_that_its_publisher_stops_gives_way_to_the_next() {
    let mut call = Call::new(&[LARGE]);
    call.world.run(2000);
    let alice = call.alice;
    call.world.people[alice].camera().switch(0, false);
    call.world.run(2000);
    let since = call.world.now;
    call.world.run(500);
    assert_eq!(call.ear(call.bob).layers(since), [1]);
    call.world.people[alice].camera().switch(0, true);
    call.world.run(1500);
    let since = call.world.now;
    call.world.run(500);
    assert_eq!(call.ear(call.bob).layers(since), [0]);
    let crossing: HashSet<_> = call.crossed().iter().filter(|got| got.at > since).map(|got| got.piece.0).collect();
    assert_eq!(crossing, HashSet::from([0]));
}

#[test]
fn layers_that_the_peer_did_not_agree_to_are_told_by_name_and_not_by_place() {
    let mut call = Call::new(&[LARGE]);
    call.world.set_plan(NEAR, TRUNK, vec![sends("c0", FIRST_SSRC, &["h", "q"])]);
    call.wants(&[MIDDLE, SMALL, LARGE]);
    call.world.run(2000);
    let crossed = call.crossed();
    assert!(!crossed.is_empty());
    assert!(crossed.iter().all(|got| got.rid.as_deref() == Some(RIDS[got.piece.0]) && got.piece.0 > 0));
}

#[test]
fn two_lines_that_carry_the_same_layer_are_counted_as_what_they_are() {
    let mut call = Call::new(&[SMALL]);
    let lines = vec![sends("c0", FIRST_SSRC, &RIDS), sends("c1", FIRST_SSRC + 10, &RIDS)];
    call.world.set_plan(NEAR, TRUNK, lines);
    call.world.forward(NEAR, (TRUNK, "c1"), (ALICE, "camera"), &[SMALL]);
    call.world.run(2000);
    let counters = call.world.foci[NEAR].counters;
    assert_eq!(counters.trunk_out, 2 * counters.trunk_out_distinct);
}

#[test]
fn a_line_that_ends_or_is_stopped_ends_all_its_layers() {
    for ends in [false, true] {
        let mut call = Call::new(&[LARGE, SMALL, MIDDLE]);
        call.world.run(1000);
        if ends {
            call.world.set_plan(NEAR, TRUNK, Vec::new());
        } else {
            call.world.command(NEAR, crate::engine::Command::StopForward { leg: TRUNK, mid: "c0".into() });
        }
        let place = call.world.sent.len();
        call.world.run(1000);
        assert_eq!(call.rtp_crossings_since(place), 0);
        call.world.set_plan(NEAR, TRUNK, vec![sends("c0", FIRST_SSRC, &RIDS)]);
        call.wants(&[SMALL]);
        call.world.run(1000);
        let crossed = call.crossed_of(2); // decrypting it at all shows that no index was used twice
        assert!(crossed.last().unwrap().at > call.world.sent[place].at);
        assert!(crossed.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
    }
}

#[test]
fn people_at_the_near_focus_are_not_touched_by_the_trunk() {
    let mut call = Call::new(&[SMALL]);
    let erin = call.world.join(NEAR, 5, vec![sends("s0", 40, &[])]);
    call.world.forward(NEAR, (5, "s0"), (ALICE, "camera"), &[LARGE]);
    call.world.run(1000);
    let since = call.world.now;
    call.world.run(1000);
    assert_eq!(call.ear(erin).layers(since), [0]);
    assert!(call.ear(erin).got.iter().all(|got| got.rid.is_none() && got.mid.as_deref() == Some("s0")));
    assert!(call.crossed().iter().all(|got| got.piece.0 == 2));
    assert_eq!(call.ear(erin).of_layer(0).windows(2).filter(|pair| pair[1].index != pair[0].index + 1).count(), 0);
}

#[test]
fn on_a_line_without_layers_the_highest_that_is_wanted_is_sent() {
    let mut call = Call::new(&[SMALL]);
    call.world.set_plan(NEAR, TRUNK, vec![sends("c0", FIRST_SSRC + 50, &[])]);
    call.world.set_plan(FAR, TRUNK, vec![receives("c0", &[])]);
    call.wants(&[SMALL, MIDDLE]);
    call.world.run(2000);
    let since = call.world.now;
    call.world.run(500);
    assert_eq!(call.ear(call.bob).layers(since), [1]);
    assert_eq!(call.ear(call.carol).layers(since), [1]);
}
