"""Who may be held, full, or out: protocol, section 3."""

from __future__ import annotations

import pytest

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import CallId, ConferenceKey, ConfId, Device, DeviceId, EventId, SessionId, UserId
from mautrix_sfu.core.membership import Freeze, Room
from mautrix_sfu.core.policy import Limits, Policy
from mautrix_sfu.core.room_state import REREAD_SECONDS

from .script import ALICE, BOB, CAROL, CONF, FOCUS, OTHER_FOCUS, OTHER_ROOM, ROOM, Script, of, one

JOIN, LEAVE, BAN, INVITE = ev.Membership.JOIN, ev.Membership.LEAVE, ev.Membership.BAN, ev.Membership.INVITE


def grade(script: Script, device: Device = ALICE) -> str | None:
    return next((leg.grade for leg in script.focus.view(script.now).legs if leg.peer == device), None)


def test_a_listed_device_that_names_this_focus_as_active_becomes_full_at_once() -> None:
    script = Script()
    script.call()
    script.list_device(ALICE)
    done = script.invite(ALICE)
    assert grade(script) == "full"
    assert one(done, cmd.BindLeg).conference == ConferenceKey(ROOM, CONF)
    kinds = [type(command) for command in done]
    assert kinds.index(cmd.StoreLeg) < kinds.index(cmd.SendAnswer)


def test_an_invite_that_outruns_the_state_waits_and_is_answered_when_it_comes() -> None:
    script = Script()
    assert not of(script.invite(ALICE, room=ROOM), cmd.ApplyOffer), "no SDP is parsed before rules 1 to 3 hold"
    script.wait(2)
    assert of(script.list_device(ALICE), cmd.SendAnswer)
    assert grade(script) == "full"


def test_an_invite_whose_state_never_comes_is_refused_after_ten_seconds() -> None:
    script = Script()
    script.invite(ALICE, room=ROOM)
    assert not of(script.wait(9.9), cmd.SendReject)
    reject = one(script.wait(0.2), cmd.SendReject)
    assert reject.address.to == ALICE
    assert reject.address.seq == 0
    assert script.counts["refusals", "unknown_call"] == 1


def test_a_joined_member_who_is_not_listed_is_held_and_becomes_full_when_listed() -> None:
    script = Script()
    script.call()
    script.membership(ALICE, JOIN)
    assert of(script.invite(ALICE), cmd.SendAnswer)
    assert grade(script) == "held"
    script.list_device(ALICE)
    assert grade(script) == "full"


def test_a_held_leg_ends_after_a_minute_unless_its_device_prefers_this_focus() -> None:
    script = Script()
    script.call()
    script.list_device(ALICE, active=(OTHER_FOCUS,))
    script.list_device(BOB, active=(OTHER_FOCUS,), preferred=(FOCUS,))
    for device in (ALICE, BOB):
        script.invite(device)
        leg = next(v.leg for v in script.focus.view(script.now).legs if v.peer == device)
        script.say(ev.IceConnected(leg))
        script.say(ev.ChannelOpened(leg))
    for _ in range(61):
        script.wait(1)
        for view in script.focus.view(script.now).legs:
            script.say(ev.Pong(view.leg))
    assert grade(script, ALICE) is None
    assert grade(script, BOB) == "held"


@pytest.mark.parametrize("how", [LEAVE, BAN])
def test_a_member_who_goes_loses_the_leg_at_once(how: ev.Membership) -> None:
    script = Script()
    leg = script.join(ALICE, "a")
    done = script.membership(ALICE, how)
    assert one(done, cmd.CloseLeg).leg == leg
    assert one(done, cmd.SendHangup).address.to == ALICE
    assert [type(c) for c in done].index(cmd.CloseLeg) == 0, "no packet first, words later"


def test_a_device_that_is_removed_expired_or_in_another_session_loses_its_leg() -> None:
    for change in ("removed", "expired", "session", "terminated"):
        script = Script()
        script.call()
        leg = script.join(ALICE, "a")
        match change:
            case "removed":
                done = script.unlist(ALICE)
            case "session":
                done = script.list_device(ALICE, session="another")
            case "terminated":
                done = script.call(terminated=True)
            case _:
                script.list_device(ALICE, lasts=5)
                script.say(ev.Pong(leg))
                assert not of(script.wait(4.9), cmd.CloseLeg)
                done = script.wait(0.2)
        assert one(done, cmd.CloseLeg).leg == leg, change


def test_a_device_that_lists_another_focus_as_active_is_held_again_and_may_come_back() -> None:
    script = Script()
    leg = script.join(ALICE, "a")
    assert not of(script.list_device(ALICE, active=(OTHER_FOCUS,)), cmd.CloseLeg)
    assert grade(script) == "held"
    script.list_device(ALICE, active=(OTHER_FOCUS, FOCUS))
    assert grade(script) == "full"
    assert not of(script.commands, cmd.CloseLeg), leg


def test_the_same_call_id_in_a_second_room_lets_nobody_into_the_first() -> None:
    script = Script()
    script.join(ALICE, "a")
    mallory = Device(UserId("@mallory:hs"), DeviceId("M"))
    script.call(OTHER_ROOM)
    leg = script.join(mallory, "m", room=OTHER_ROOM)
    keys = {view.peer: view.conference for view in script.focus.view(script.now).legs}
    assert keys[ALICE] == ConferenceKey(ROOM, CONF)
    assert keys[mallory] == ConferenceKey(OTHER_ROOM, CONF)
    script.wait(1)
    told = [c.metadata for c in script.commands if isinstance(c, cmd.ChannelMetadata) and c.leg == leg]
    assert told
    assert not any(told)


def test_naming_a_room_in_which_one_is_not_joined_does_not_help() -> None:
    script = Script()
    script.join(ALICE, "a")
    mallory = Device(UserId("@mallory:hs"), DeviceId("M"))
    script.list_device(mallory, room=OTHER_ROOM)
    assert not of(script.invite(mallory, room=ROOM), cmd.SendAnswer)
    assert of(script.wait(11), cmd.SendReject)


def test_the_newest_member_event_decides_between_two_rooms_that_qualify() -> None:
    script = Script()
    script.list_device(ALICE, room=ROOM)
    script.list_device(ALICE, room=OTHER_ROOM)
    script.invite(ALICE)
    assert next(v.conference for v in script.focus.view(script.now).legs) == ConferenceKey(OTHER_ROOM, CONF)


def test_a_leg_that_two_rooms_qualify_is_held_until_one_lists_it() -> None:
    script = Script()
    for room in (ROOM, OTHER_ROOM):
        script.call(room)
        script.membership(ALICE, JOIN, room)
    script.invite(ALICE)
    view = script.focus.view(script.now).legs[0]
    assert (view.grade, view.conference) == ("held", None)
    script.list_device(ALICE, room=OTHER_ROOM)
    view = script.focus.view(script.now).legs[0]
    assert (view.grade, view.conference) == ("full", ConferenceKey(OTHER_ROOM, CONF))


def test_a_known_leave_does_not_end_by_a_member_event() -> None:
    script = Script()
    script.list_device(ALICE)
    script.membership(ALICE, LEAVE)
    script.list_device(ALICE)
    assert not of(script.invite(ALICE), cmd.SendAnswer)
    script.membership(ALICE, JOIN)
    assert grade(script) == "full"


def test_a_join_that_does_not_replace_the_known_ban_is_a_fork_and_does_not_count() -> None:
    script = Script()
    script.list_device(ALICE)
    script.membership(ALICE, BAN)
    script.say(ev.SnapshotRefused(ROOM))
    forked = ev.MembershipChanged(ROOM, ALICE.user_id, JOIN, EventId("$forked"), EventId("$before-the-ban"))
    assert one(script.say(forked), cmd.RequestSnapshot).room_id == ROOM
    assert not of(script.invite(ALICE), cmd.SendAnswer)


def test_a_join_after_an_invite_counts_without_saying_what_it_replaces() -> None:
    script = Script()
    script.call()
    script.membership(ALICE, ev.Membership.INVITE)
    # What Synapse pushes after an invite that came over federation.
    script.say(ev.MembershipChanged(ROOM, ALICE.user_id, JOIN, EventId("$join"), None))
    script.list_device(ALICE)
    script.invite(ALICE)
    assert grade(script) == "full"


def test_a_terminated_call_stays_so_when_a_fork_says_otherwise() -> None:
    script = Script()
    script.call()
    script.call(terminated=True)
    script.say(ev.CallChanged(ROOM, CONF, False, EventId("$forked"), EventId("$older")))
    script.list_device(ALICE)
    assert not of(script.invite(ALICE), cmd.SendAnswer)


def test_the_two_names_of_a_type_are_two_state_events_and_no_fork() -> None:
    script = Script()
    first = ev.CallMemberChanged(ROOM, ALICE.user_id, (), EventId("$1"), None, 1, stable=True)
    second = ev.CallMemberChanged(ROOM, ALICE.user_id, (), EventId("$2"), None, 2, stable=False)
    assert of(script.say(first), cmd.RequestSnapshot)
    script.say(ev.SnapshotRefused(ROOM))
    assert not of(script.say(second), cmd.RequestSnapshot)


def test_a_snapshot_settles_who_is_in_and_out() -> None:
    script = Script()
    script.list_device(ALICE)
    leg = one(script.invite(ALICE), cmd.OpenLeg).leg
    left = ev.MembershipChanged(ROOM, ALICE.user_id, LEAVE, EventId("$left"), None)
    done = script.say(ev.RoomSnapshot(ROOM, (left, ev.MembershipChanged(ROOM, BOB.user_id, JOIN, EventId("$b"), None))))
    assert one(done, cmd.CloseLeg).leg == leg


def test_a_push_that_overtakes_a_snapshot_is_not_undone_by_it() -> None:
    script = Script()
    assert of(script.list_device(ALICE), cmd.RequestSnapshot), "a new room is read"
    script.membership(ALICE, LEAVE)
    joined = ev.MembershipChanged(ROOM, ALICE.user_id, JOIN, EventId("$joined-before"), None)
    done = script.say(ev.RoomSnapshot(ROOM, (joined,)))
    assert of(done, cmd.RequestSnapshot), "and is read once more"
    assert not of(script.invite(ALICE, room=ROOM), cmd.SendAnswer)


def test_a_readable_room_without_the_call_refuses_it() -> None:
    script = Script()
    script.list_device(ALICE)
    joined = ev.MembershipChanged(ROOM, ALICE.user_id, JOIN, EventId("$j"), None)
    device = ev.CallDevice(CONF, ALICE.device_id, SessionId("s"), 3600, (FOCUS,))
    member = ev.CallMemberChanged(ROOM, ALICE.user_id, (device,), EventId("$m"), None, 5)
    script.say(ev.RoomSnapshot(ROOM, (joined, member)))
    script.say(ev.RoomSnapshot(ROOM, (joined, member)))
    assert not of(script.invite(ALICE), cmd.SendAnswer)
    script.call()
    assert grade(script) == "full"


def test_guests_are_served_while_a_local_member_is_joined_and_not_when_forbidden() -> None:
    script = Script()
    script.list_device(ALICE)
    script.list_device(CAROL)
    script.invite(CAROL)
    assert grade(script, CAROL) == "full"
    script.membership(ALICE, LEAVE)
    assert grade(script, CAROL) is None, "the last local user left: no more events would come"

    strict = Script(Policy(FOCUS, guests=False))
    strict.list_device(ALICE)
    strict.list_device(CAROL)
    assert of(strict.invite(CAROL), cmd.SendReject)


def test_the_focus_itself_is_not_the_local_member_that_a_conference_needs() -> None:
    script = Script()
    script.list_device(CAROL)
    script.membership(FOCUS, JOIN)
    snapshot = tuple(
        ev.MembershipChanged(ROOM, user, JOIN, EventId(f"${user}"), None) for user in (FOCUS.user_id, CAROL.user_id)
    )
    script.say(ev.RoomSnapshot(ROOM, (ev.CallChanged(ROOM, CONF, False, EventId("$c"), None), *snapshot)))
    script.say(ev.RoomSnapshot(ROOM, (ev.CallChanged(ROOM, CONF, False, EventId("$c"), None), *snapshot)))
    script.invite(CAROL)
    assert grade(script, CAROL) is None


def test_banned_users_and_servers_are_refused() -> None:
    for banned in (CAROL.user_id, "far"):
        script = Script(Policy(FOCUS, banned=frozenset((banned,))))
        script.list_device(ALICE)
        script.list_device(CAROL)
        script.invite(CAROL)
        assert grade(script, CAROL) is None
        script.wait(11)
        assert script.counts["refusals", "banned"] == 1


def test_expiries_freeze_while_the_homeserver_is_away() -> None:
    script = Script(Policy(FOCUS, ping_timeout=1e6))
    leg = script.join(ALICE, "a")
    script.list_device(ALICE, lasts=30)
    script.wait(10)
    script.say(ev.HomeserverLost())
    assert not of(script.wait(3600), cmd.CloseLeg)
    script.say(ev.HomeserverBack())
    assert not of(script.wait(59), cmd.CloseLeg)
    assert one(script.wait(2), cmd.CloseLeg).leg == leg


def test_the_freeze_lasts_two_hours_at_most() -> None:
    script = Script(Policy(FOCUS, ping_timeout=1e6))
    script.join(ALICE, "a")
    script.list_device(ALICE, lasts=30)
    script.say(ev.HomeserverLost())
    assert not of(script.wait(2 * 3600 + 59), cmd.CloseLeg)
    assert of(script.wait(2), cmd.CloseLeg)


def test_a_redaction_of_ones_own_member_event_ends_the_leg_and_one_of_anothers_does_not() -> None:
    script = Script()
    script.join(ALICE, "a")
    event_id = script._last["call_member", ROOM, ALICE.user_id]
    assert not of(script.say(ev.Redacted(ROOM, BOB.user_id, event_id)), cmd.CloseLeg)
    assert of(script.say(ev.Redacted(ROOM, ALICE.user_id, event_id)), cmd.CloseLeg)


def test_a_snapshot_that_never_came_leaves_nothing_behind_for_the_next_one() -> None:
    room = Room(ROOM, "hs", FOCUS.user_id, Freeze())
    room.reading = True
    room.apply(ev.CallChanged(ROOM, CONF, False, EventId("$1"), None), 0.0)
    room.not_read()
    room.reading = True
    later = ev.CallChanged(ROOM, CONF, True, EventId("$2"), EventId("$1"))
    assert not room.replace((later,), 0.0), "nothing overtook it"
    assert room.holds(later)


def test_limits_refuse_with_busy_and_are_counted() -> None:
    script = Script(Policy(FOCUS, limits=Limits(legs_per_conference=1)))
    script.join(ALICE, "a")
    script.list_device(BOB)
    reject = one(script.invite(BOB), cmd.SendReject)
    assert reject.reason == "user_busy"
    assert script.counts["bounds_hit", "legs_per_conference"] == 1


def test_four_invites_of_a_sender_are_parked_and_the_oldest_gives_way() -> None:
    script = Script()
    for n in range(6):
        script.invite(ALICE, f"c{n}", conf=ConfId(f"x{n}"))
    assert script.focus.view(script.now).parked_invites == 4
    assert script.counts["bounds_hit", "parked_invites"] == 2


def test_no_more_than_256_invites_are_parked() -> None:
    script = Script()
    for n in range(300):
        script.invite(Device(UserId(f"@u{n}:hs"), DeviceId("D")), f"c{n}")
    assert script.focus.view(script.now).parked_invites == 256


def test_nobody_is_full_on_stored_state_before_the_focus_has_caught_up() -> None:
    script = Script(caught_up=False)
    stored = ev.StoredLeg(ROOM, CONF, ALICE, CallId("old"), SessionId("s"), SessionId("sfu"))
    device = ev.CallDevice(CONF, ALICE.device_id, SessionId("s"), 3600, (FOCUS,))
    member = ev.CallMemberChanged(ROOM, ALICE.user_id, (device,), EventId("$m"), None, 5)
    done = script.say(ev.Restored((member,), (stored,)))
    hangup = one(done, cmd.SendHangup)
    assert hangup.address.seq is None, "a client takes a hangup without seq at once"
    assert one(done, cmd.ForgetLeg).stored == stored
    assert one(done, cmd.RequestSnapshot).room_id == ROOM
    script.invite(ALICE, "new")
    assert grade(script) == "held"
    script.say(ev.CaughtUp())
    assert grade(script) == "full"


def test_who_was_kicked_while_the_focus_was_down_never_becomes_full_again() -> None:
    script = Script(caught_up=False)
    device = ev.CallDevice(CONF, ALICE.device_id, SessionId("s"), 3600, (FOCUS,))
    script.say(ev.Restored((ev.CallMemberChanged(ROOM, ALICE.user_id, (device,), EventId("$m"), None, 5),), ()))
    script.invite(ALICE, "new")
    script.say(ev.MembershipChanged(ROOM, ALICE.user_id, LEAVE, EventId("$kick"), EventId("$join")))
    script.say(ev.CaughtUp())
    assert grade(script) is None
    assert script.counts["joins", "full"] == 0


def test_rooms_with_legs_that_may_be_read_are_read_again_now_and_then_and_what_no_push_told_is_found() -> None:
    script = Script(Policy(FOCUS, ping_timeout=1e6))
    alice = script.join(ALICE, "a")
    one(script.commands, cmd.RequestSnapshot)
    members = (
        ev.MembershipChanged(ROOM, ALICE.user_id, ev.Membership.JOIN, EventId("$join"), None),
        ev.CallMemberChanged(ROOM, ALICE.user_id, listing(), EventId("$listed"), None, 1),
        ev.CallChanged(ROOM, CONF, False, EventId("$call"), None),
    )
    script.say(ev.RoomSnapshot(ROOM, members))
    assert one(script.wait(REREAD_SECONDS + 1), cmd.RequestSnapshot).room_id == ROOM
    kicked = ev.MembershipChanged(ROOM, ALICE.user_id, ev.Membership.LEAVE, EventId("$kick"), EventId("$join"))
    assert one(script.say(ev.RoomSnapshot(ROOM, (kicked, *members[1:]))), cmd.CloseLeg).leg == alice
    assert not of(script.wait(REREAD_SECONDS + 1), cmd.RequestSnapshot)  # nobody is there any more


def listing() -> tuple[ev.CallDevice, ...]:
    return (ev.CallDevice(CONF, ALICE.device_id, SessionId("s"), 1e5, (FOCUS,)),)
