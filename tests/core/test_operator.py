"""What an operator does to running calls: protocol, section 3, rule 3, and docs/operations.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mautrix_sfu.config import Permission
from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core import orders
from mautrix_sfu.core.doors import REMEMBERED_SESSIONS, Doors
from mautrix_sfu.core.ids import ConferenceKey, Device, DeviceId, Kind, LegId, Mid, SessionId, UserId
from mautrix_sfu.core.policy import Limits, Policy

from .script import ALICE, BOB, CAROL, CONF, FOCUS, OTHER_FOCUS, OTHER_ROOM, ROOM, Script, of, one

KEY = ConferenceKey(ROOM, CONF)
AUDIO = Mid("0")  # of everybody's microphone
ALICE2 = Device(ALICE.user_id, DeviceId("ALICE2"))


def call_of_two(policy: Policy | None = None) -> tuple[Script, LegId, LegId]:
    script = Script(policy)
    alice, bob = script.join(ALICE, "a"), script.join(BOB, "b")
    script.wait(0.3)
    return script, alice, bob


def second_device(script: Script) -> LegId:
    """Another device of Alice's joins the call."""
    script.list_device(ALICE, ALICE2)
    leg = one(script.invite(ALICE2, "call-a2"), cmd.OpenLeg).leg
    script.say(ev.IceConnected(leg))
    return leg


def watched(script: Script, viewer: LegId, name: str) -> list[cmd.Command]:
    """The viewer subscribes to both tracks of somebody, and they flow."""
    script.subscribe(viewer, (name, f"{name}-a"), (name, f"{name}-v"))
    script.wait(0.3)
    return script.answer(viewer)


def seen(script: Script, viewer: LegId) -> cmd.Advertised:
    """The metadata that a leg was sent last."""
    return next(c.metadata for c in reversed(script.commands) if isinstance(c, cmd.ChannelMetadata) and c.leg == viewer)


# ---------------------------------------------------------------- kick, end


def test_a_kick_ends_all_legs_of_a_user_packets_first_and_nobody_elses() -> None:
    script, alice, bob = call_of_two()
    second = second_device(script)
    done = script.say(orders.Kick(ALICE.user_id, None, "rude"))
    assert {close.leg for close in of(done, cmd.CloseLeg)} == {alice, second}
    assert {hangup.reason for hangup in of(done, cmd.SendHangup)} == {"user_hangup"}
    assert {hangup.removed for hangup in of(done, cmd.SendHangup)} == {cmd.Removed("kicked", "rude")}
    assert [leg.leg for leg in script.focus.view(script.now).legs] == [bob]


def test_a_kick_of_one_device_leaves_the_users_others() -> None:
    script, alice, _ = call_of_two()
    second_device(script)
    assert one(script.say(orders.Kick(ALICE.user_id, ALICE.device_id, "")), cmd.CloseLeg).leg == alice


def test_who_was_kicked_is_refused_for_a_time_and_in_the_same_session_for_good() -> None:
    script, _, _ = call_of_two()
    script.say(orders.Kick(ALICE.user_id, None, ""))
    script.list_device(ALICE, session="fresh")
    refused = one(script.invite(ALICE, "fresh-1", session="fresh"), cmd.SendReject)
    assert (refused.reason, refused.removed) == ("unknown_error", cmd.Removed("kicked"))
    script.wait(script.policy.kick_time)
    script.list_device(ALICE)
    assert of(script.invite(ALICE, "old-session"), cmd.SendReject)
    script.list_device(ALICE, session="fresh")
    assert of(script.invite(ALICE, "fresh-2", session="fresh"), cmd.SendAnswer)
    assert script.counts["refusals", "kicked"] == 2


def test_an_ended_call_is_over_for_everybody_and_may_begin_again_later() -> None:
    script, alice, bob = call_of_two()
    done = script.say(orders.EndConference(KEY))
    assert {close.leg for close in of(done, cmd.CloseLeg)} == {alice, bob}
    assert {hangup.removed for hangup in of(done, cmd.SendHangup)} == {cmd.Removed("call_ended")}
    assert one(script.invite(ALICE, "again"), cmd.SendReject).removed == cmd.Removed("call_ended")
    assert script.counts["refusals", "call_ended"] == 1
    assert of(script.invite(ALICE, "elsewhere", room=OTHER_ROOM), cmd.SendReject) == []
    script.wait(script.policy.kick_time)
    assert of(script.invite(ALICE, "later"), cmd.SendAnswer)


# ---------------------------------------------------------------- mute


def test_a_mute_stops_what_flows_and_shows_in_the_metadata_and_unmuting_brings_it_back() -> None:
    script, alice, bob = call_of_two()
    flowing = {forward.source_mid: forward for forward in of(watched(script, bob, "a"), cmd.Forward)}
    done = script.say(orders.SetMuted(ALICE.user_id, Kind.AUDIO, True))
    assert one(done, cmd.StopForward) == cmd.StopForward(bob, flowing[AUDIO].mid)
    (shown,) = seen(script, bob).values()
    assert (shown.audio_muted, shown.video_muted) == (True, False)
    (view,) = (leg for leg in script.focus.view(script.now).legs if leg.leg == alice)
    assert view.muted == ("audio",)
    done = script.say(orders.SetMuted(ALICE.user_id, Kind.AUDIO, False))
    assert flowing[AUDIO] in of(done, cmd.Forward)
    (shown,) = seen(script, bob).values()
    assert not shown.audio_muted


def test_what_is_muted_does_not_begin_to_flow_either() -> None:
    script, _, bob = call_of_two()
    script.say(orders.SetMuted(ALICE.user_id, None, True))
    assert not of(watched(script, bob, "a"), cmd.Forward)
    assert not of(script.subscribe(bob, ("a", "a-v", 320, 180)), cmd.Forward)


def test_a_muted_user_is_not_lifted_by_calling_again_but_by_leaving_for_a_minute() -> None:
    script, alice, bob = call_of_two(Policy(FOCUS, ping_timeout=1e6))
    script.say(orders.SetMuted(ALICE.user_id, None, True))
    script.say(ev.ConnectionLost(alice, "ice_failed", "test"))
    script.wait(50)
    alice = script.join(ALICE, "again")
    script.wait(0.3)
    assert not of(watched(script, bob, "again"), cmd.Forward)
    script.say(ev.ConnectionLost(alice, "ice_failed", "test"))
    script.wait(0.3)
    script.answer(bob)  # her m-lines are gone
    script.wait(61)
    assert not script.focus.view(script.now).muted
    script.join(ALICE, "third")
    script.wait(0.3)
    assert of(watched(script, bob, "third"), cmd.Forward)


def test_a_mute_of_somebody_who_is_in_no_call_is_forgotten() -> None:
    script, _, _ = call_of_two(Policy(FOCUS, ping_timeout=1e6))
    script.say(orders.SetMuted(UserId("@nobody:hs"), None, True))
    script.wait(61)
    assert not script.focus.view(script.now).muted


def test_a_muted_speaker_is_nobodys_dominant_speaker() -> None:
    script, alice, _ = call_of_two()
    assert of(script.say(ev.SpeakerChanged(alice, AUDIO)), cmd.ChannelSpeaker)
    script.say(orders.SetMuted(ALICE.user_id, Kind.AUDIO, True))
    assert not of(script.say(ev.SpeakerChanged(alice, AUDIO)), cmd.ChannelSpeaker)


# ---------------------------------------------------------------- policy


@pytest.mark.parametrize(
    "changed",
    [
        {"banned": frozenset((CAROL.user_id,))},
        {"banned": frozenset(("far",))},
        {"permissions": {"*": Permission.USE, "far": Permission.NONE}},
        {"permissions": {"hs": Permission.USE}},
        {"guests": False},
    ],
)
def test_another_policy_ends_the_legs_of_those_whom_it_keeps_out_and_no_others(changed: dict[str, object]) -> None:
    script, _, _ = call_of_two()
    carol = script.join(CAROL, "c")
    policy = replace(script.policy, **changed)  # type: ignore[arg-type]
    done = script.say(orders.PolicyChanged(policy))
    assert one(done, cmd.CloseLeg).leg == carol
    told = one(done, cmd.SendHangup).removed
    assert told is not None
    assert one(script.invite(CAROL, "again"), cmd.SendReject).removed == told
    assert len(script.focus.view(script.now).legs) == 2


def test_permissions_go_by_the_most_exact_entry() -> None:
    policy = Policy(FOCUS, permissions={"*": Permission.NONE, "hs": Permission.USE, BOB.user_id: Permission.NONE})
    assert [policy.lets_use(who) for who in (ALICE, BOB, CAROL)] == [True, False, False]


def test_without_the_permission_to_use_it_nobody_is_served() -> None:
    script = Script(Policy(FOCUS, permissions={"*": Permission.NONE}))
    script.list_device(ALICE)
    assert of(script.invite(ALICE), cmd.SendReject)
    assert script.counts["refusals", "not_allowed"] == 1


def test_new_limits_and_times_count_at_once() -> None:
    script, _, _ = call_of_two()
    script.list_device(CAROL)
    script.say(orders.PolicyChanged(replace(script.policy, limits=Limits(legs_per_conference=2))))
    assert one(script.invite(CAROL, "c"), cmd.SendReject).reason == "user_busy"
    script.say(orders.PolicyChanged(replace(script.policy, ping_interval=1.0, ping_timeout=4.0)))
    assert len(of(script.wait(3.5), cmd.ChannelPing)) >= 6
    assert {hangup.reason for hangup in of(script.wait(4), cmd.SendHangup)} == {"keep_alive_timeout"}


def test_another_number_of_invites_counts_at_once() -> None:
    script = Script()
    script.list_device(ALICE)
    script.say(orders.PolicyChanged(replace(script.policy, limits=Limits(invites_per_user=2))))
    answers = [len(of(script.invite(ALICE, f"call-{number}"), cmd.SendAnswer)) for number in range(4)]
    assert answers == [1, 1, 0, 0]


def test_who_the_focus_is_does_not_change() -> None:
    script, _, _ = call_of_two()
    stranger = Device(UserId("@x:hs"), DeviceId("X"))
    script.say(orders.PolicyChanged(replace(script.policy, focus=stranger, session_id=SessionId("other"))))
    assert script.focus.policy.focus == FOCUS
    assert script.focus.policy.session_id == "sfu"
    assert len(script.focus.view(script.now).legs) == 2


def test_a_forbidden_cascade_ends_the_trunks() -> None:
    script = Script()
    script.join(ALICE, "a")
    dial = one(script.list_device(CAROL, active=(OTHER_FOCUS,)), cmd.OpenLeg)
    assert dial.peer == OTHER_FOCUS
    done = script.say(orders.PolicyChanged(replace(script.policy, cascade=False)))
    assert one(done, cmd.CloseLeg).leg == dial.leg


def test_a_kicked_focus_is_not_dialled_again_for_a_time() -> None:
    script = Script(Policy(FOCUS, ping_timeout=1e6))
    script.join(ALICE, "a")
    assert of(script.list_device(CAROL, active=(OTHER_FOCUS,)), cmd.OpenLeg)
    assert of(script.say(orders.Kick(OTHER_FOCUS.user_id, None, "")), cmd.CloseLeg)
    assert not of(script.wait(59), cmd.OpenLeg)
    assert one(script.wait(12), cmd.OpenLeg).peer == OTHER_FOCUS


# ---------------------------------------------------------------- drain


def test_while_draining_no_call_begins_and_those_that_run_go_on_with_their_people() -> None:
    script, alice, _ = call_of_two()
    script.say(orders.DrainChanged(True, None))
    assert script.focus.view(script.now).draining
    script.list_device(CAROL, room=OTHER_ROOM)
    refused = script.invite(CAROL, "new-call", room=OTHER_ROOM)
    assert one(refused, cmd.SendReject).reason == "user_busy"
    assert script.counts["bounds_hit", "draining"] == 1
    script.say(ev.ConnectionLost(alice, "ice_failed", "test"))
    assert of(script.invite(ALICE, "back"), cmd.SendAnswer)
    script.say(orders.DrainChanged(False, None))
    assert of(script.invite(CAROL, "second", room=OTHER_ROOM), cmd.SendAnswer)


def test_at_the_drains_deadline_everybody_is_told_to_move_and_nobody_comes_back() -> None:
    script, alice, bob = call_of_two(Policy(FOCUS, ping_timeout=1e6))
    script.say(orders.DrainChanged(True, 100.0))
    assert not of(script.wait(99), cmd.CloseLeg)
    assert script.focus.busy
    done = script.wait(2)
    assert {close.leg for close in of(done, cmd.CloseLeg)} == {alice, bob}
    assert {hangup.reason for hangup in of(done, cmd.SendHangup)} == {"user_busy"}
    assert not script.focus.view(script.now).legs
    assert of(script.invite(ALICE, "back"), cmd.SendReject)
    script.say(orders.DrainChanged(False, None))
    assert of(script.invite(ALICE, "again"), cmd.SendAnswer)


def test_at_the_drains_deadline_other_foci_are_told_as_well() -> None:
    script = Script(Policy(FOCUS, ping_timeout=1e6))
    script.join(ALICE, "a")
    assert of(script.list_device(CAROL, active=(OTHER_FOCUS,)), cmd.OpenLeg)
    told = of(script.say(orders.DrainChanged(True, 5.0)) + script.wait(6), cmd.SendHangup)
    assert {(hangup.address.to, hangup.reason) for hangup in told} == {(ALICE, "user_busy"), (OTHER_FOCUS, "user_busy")}
    assert not of(script.wait(60), cmd.OpenLeg)


def test_a_drain_that_is_over_before_its_deadline_tells_nobody_to_move() -> None:
    script, _, _ = call_of_two(Policy(FOCUS, ping_timeout=1e6))
    script.say(orders.DrainChanged(True, 10.0))
    script.say(orders.DrainChanged(False, None))
    assert not of(script.wait(20), cmd.CloseLeg)


# ---------------------------------------------------------------- overload


def test_overload_refuses_new_legs_and_touches_none_that_is_up() -> None:
    script, _, _ = call_of_two()
    script.list_device(CAROL)
    script.say(orders.OverloadChanged("loop_lag"))
    assert script.focus.view(script.now).overload == "loop_lag"
    assert one(script.invite(CAROL, "c"), cmd.SendReject).reason == "user_busy"
    assert script.counts["bounds_hit", "overload_loop_lag"] == 1
    assert of(script.invite(ALICE, "reload"), cmd.SendAnswer)  # takes its own leg's place
    script.say(orders.OverloadChanged(None))
    assert of(script.invite(CAROL, "c2"), cmd.SendAnswer)


def test_an_overloaded_focus_dials_and_takes_no_trunks() -> None:
    script = Script(Policy(FOCUS, ping_timeout=1e6))
    script.join(ALICE, "a")
    script.say(orders.OverloadChanged("media_cpu"))
    script.list_device(CAROL, active=(OTHER_FOCUS,))
    assert not of(script.wait(10), cmd.OpenLeg)
    dial = script.envelope(OTHER_FOCUS, "trunk", room=ROOM)
    assert of(script.say(ev.Invite(dial, "offer", 10, {})), cmd.SendReject)
    script.say(orders.OverloadChanged(None))
    assert of(script.wait(10), cmd.OpenLeg)


def test_who_waited_outside_when_the_door_was_closed_is_refused_as_well() -> None:
    script = Script()
    script.invite(ALICE)  # waits for the state
    script.say(orders.Kick(ALICE.user_id, None, ""))
    assert of(script.list_device(ALICE), cmd.SendReject)
    assert script.focus.view(script.now).parked_invites == 0


def test_kicked_sessions_are_not_remembered_without_end() -> None:
    doors = Doors()
    for number in range(REMEMBERED_SESSIONS + 1):
        doors.kick_session(ALICE, SessionId(str(number)))
    assert doors.keep_out(ALICE, None, SessionId("0")) is None
    assert doors.keep_out(ALICE, None, SessionId("1")) == "kicked"
