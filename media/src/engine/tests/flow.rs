//! What the control plane is told of a published track: that it flows, and that it paused.

use super::people::RIDS;
use super::world::{NEAR, World, receives};
use crate::engine::Event;

fn flows(world: &World) -> Vec<bool> {
    let flow = |event: &Event| match event {
        Event::Flow(1, mid, flows) if mid == "camera" => Some(*flows),
        _ => None,
    };
    world.events[NEAR].iter().filter_map(flow).collect()
}

#[test]
fn a_track_is_told_to_flow_once_it_does_to_pause_after_half_a_second_and_to_flow_again() {
    let mut world = World::new();
    let alice = world.join(NEAR, 1, vec![receives("camera", &RIDS)]);
    world.run(1000);
    assert_eq!(flows(&world), []);
    let now = world.now;
    world.people[alice].film("camera", now);
    world.run(100);
    assert_eq!(flows(&world), [true]);
    world.run(3000);
    assert_eq!(flows(&world), [true]);
    (0..3).for_each(|layer| world.people[alice].camera().switch(layer, false));
    world.run(450);
    assert_eq!(flows(&world), [true]);
    world.run(100);
    assert_eq!(flows(&world), [true, false]);
    world.run(5000);
    world.people[alice].camera().switch(2, true);
    world.run(100);
    assert_eq!(flows(&world), [true, false, true], "one layer is enough");
}

#[test]
fn a_track_that_begins_anew_under_other_layers_pauses_between() {
    let mut world = World::new();
    let alice = world.join(NEAR, 1, vec![receives("camera", &RIDS)]);
    let now = world.now;
    world.people[alice].film("camera", now);
    world.run(500);
    world.set_plan(NEAR, 1, vec![receives("camera", &["q"])]);
    world.run(500);
    assert_eq!(flows(&world), [true, false, true]);
}
