"""Each limit hit once: refused clearly, counted by its name, and lifted at run time (docs/operations.md, "Limits")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from mautrix_sfu.config import LIMITS, LimitError, limit_named
from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core import orders, rooms
from mautrix_sfu.core.bandwidth import Load, Member, shares
from mautrix_sfu.core.ids import CallId, ConfId, Device, DeviceId, LegId, RoomId, UserId
from mautrix_sfu.core.policy import Limits, Policy
from mautrix_sfu.core.usage import PASSING, PERIOD

from .script import ALICE, BOB, CAROL, FOCUS, OTHER_FOCUS, OTHER_ROOM, ROOM, Script, audio, of, one, video

ALICE2 = Device(ALICE.user_id, DeviceId("ALICE2"))
DAVE = Device(UserId("@dave:hs"), DeviceId("DAVE1"))


def limited(**limits: int) -> Script:
    return Script(Policy(FOCUS, ping_timeout=1e6, limits=Limits(**limits)))


def lift(script: Script, name: str, value: int = 1000) -> list[cmd.Command]:
    policy = script.focus.policy
    return script.say(orders.PolicyChanged(replace(policy, limits=replace(policy.limits, **{name: value}))))


# ---------------------------------------------------------------- how many


def a_second_call(script: Script) -> list[cmd.Command]:
    script.list_device(BOB, room=OTHER_ROOM)
    return script.invite(BOB, f"other-{script.now}", room=OTHER_ROOM)


def a_second_person(script: Script) -> list[cmd.Command]:
    script.list_device(BOB)
    return script.invite(BOB, f"second-{script.now}")


def a_second_device(script: Script) -> list[cmd.Command]:
    script.list_device(ALICE, ALICE2)
    return script.invite(ALICE2, f"device-{script.now}")


def two_who_only_hold_a_place(script: Script) -> list[cmd.Command]:
    script.call()
    for device in (BOB, DAVE):
        script.membership(device, ev.Membership.JOIN)
    script.invite(BOB, f"bob-{script.now}")
    return script.invite(DAVE, f"dave-{script.now}")


def a_user_who_holds_two_places(script: Script) -> list[cmd.Command]:
    script.call()
    script.membership(BOB, ev.Membership.JOIN)
    script.invite(BOB, f"one-{script.now}")
    return script.invite(Device(BOB.user_id, DeviceId("BOB2")), f"two-{script.now}")


@pytest.mark.parametrize(
    ("name", "one_more"),
    [
        ("conferences", a_second_call),
        ("legs", a_second_person),
        ("legs_per_conference", a_second_person),
        ("legs_per_user", a_second_device),
        ("legs_per_homeserver", a_second_person),
        ("held_legs", two_who_only_hold_a_place),
        ("held_legs_per_user", a_user_who_holds_two_places),
    ],
)
def test_one_leg_more_than_a_limit_allows_is_refused_as_busy_until_it_is_raised(
    name: str, one_more: Callable[[Script], list[cmd.Command]]
) -> None:
    script = limited(**{name: 1})
    script.join(ALICE, "a")
    assert one(one_more(script), cmd.SendReject).reason == "user_busy"
    assert script.counts["bounds_hit", name] == script.counts["refusals", name] == 1
    lift(script, name)
    script.wait(1)
    assert of(one_more(script), cmd.SendAnswer)
    assert script.counts["bounds_hit", name] == 1


def test_people_of_another_homeserver_have_places_of_their_own() -> None:
    script = limited(legs_per_homeserver=1)
    script.join(ALICE, "a")
    script.join(CAROL, "c")
    assert len(script.focus.view(script.now).legs) == 2


def test_who_only_changes_legs_is_not_one_more() -> None:
    script = limited(conferences=1, legs=1, legs_per_conference=1, legs_per_user=1, legs_per_homeserver=1)
    script.join(ALICE, "a")
    assert of(script.invite(ALICE, "reload"), cmd.SendAnswer)


def test_lower_limits_end_nobody_who_is_there() -> None:
    script = limited()
    script.join(ALICE, "a")
    script.join(BOB, "b")
    assert not of(lift(script, "legs", 1), cmd.CloseLeg)


def test_invites_beyond_so_many_a_minute_are_refused_as_busy_and_then_not_answered_at_all() -> None:
    script = limited(invites_per_user=6)
    script.list_device(ALICE)
    done = [script.invite(ALICE, f"call-{n}") for n in range(9)]
    assert [bool(of(commands, cmd.SendAnswer)) for commands in done] == [True] * 6 + [False] * 3
    assert [reject.reason for commands in done for reject in of(commands, cmd.SendReject)] == ["user_busy"]
    assert script.counts["bounds_hit", "invites_per_user"] == 3
    assert len(script.focus.view(script.now).legs) == 1  # the sixth, which is live
    script.wait(10)  # a sixth of a minute
    assert of(script.invite(ALICE, "later"), cmd.SendAnswer)


def test_trunks_beyond_the_limit_are_neither_dialled_nor_taken() -> None:
    script = limited(trunks=0)
    script.join(ALICE, "a")
    assert not of(script.list_device(CAROL, active=(OTHER_FOCUS,)), cmd.OpenLeg)
    dial = script.envelope(OTHER_FOCUS, "trunk", room=ROOM)
    assert one(script.say(ev.Invite(dial, "offer", 10, {})), cmd.SendReject).reason == "user_busy"
    assert script.counts["bounds_hit", "trunks"] >= 2
    lift(script, "trunks")
    assert of(script.wait(3), cmd.OpenLeg)


def test_a_trunk_that_found_no_place_is_not_waited_for_where_nobody_is_in_the_call() -> None:
    script = limited(trunks=0)
    script.list_device(CAROL, active=(OTHER_FOCUS,))
    dial = script.envelope(OTHER_FOCUS, "trunk", room=ROOM)
    assert one(script.say(ev.Invite(dial, "offer", 10, {})), cmd.SendReject).reason == "user_busy"
    assert script.focus.links(script.now) == []


def test_of_too_many_rooms_the_one_of_which_nothing_was_heard_for_longest_is_forgotten_unless_it_has_legs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "MAX_ROOMS", 3)
    script = Script()
    script.join(ALICE, "a")
    first, second, third = (RoomId(f"!{n}") for n in range(3))
    for room in (first, second):
        script.call(room)
    script.call(first, ConfId("another"))
    assert one(script.call(third), cmd.ForgetRoom).room_id == second
    assert script.focus.tracks_room(first)
    assert not script.focus.tracks_room(second)
    assert script.focus.view(script.now).tracked_rooms == 3
    assert script.counts["bounds_hit", "tracked_rooms"] == 1
    assert len(script.focus.view(script.now).legs) == 1
    # What is said of it later begins anew, and a call that only it had stands in no room any more.
    assert one(script.call(second), cmd.RequestSnapshot).room_id == second
    assert script.focus.view(script.now).tracked_rooms == 3


# ---------------------------------------------------------------- what one leg publishes and is sent


def test_tracks_beyond_the_limit_are_shown_to_nobody_and_the_publisher_is_told() -> None:
    script = limited(tracks_per_leg=2)
    alice, bob = script.join(ALICE, "a"), script.join(BOB, "b")
    script.publishes[ALICE] = (audio("a", "a-a"), video("a", "a-v"), video("s", "s-v", "2"))
    done = script.offer(alice) + script.wait(0.3)
    error = one(done, cmd.ChannelError)
    assert (error.leg, error.code) == (alice, "limit")
    assert "tracks_per_leg" in error.message
    assert script.counts["bounds_hit", "tracks_per_leg"] == 1
    assert tracks_shown(script, bob) == {"a-a", "a-v"}
    lift(script, "tracks_per_leg", 3)
    script.wait(0.3)
    assert tracks_shown(script, bob) == {"a-a", "a-v", "s-v"}
    script.publishes[ALICE] = (*script.publishes[ALICE], audio("z", "z-a", "3"))
    assert one(script.offer(alice) + script.wait(0.3), cmd.ChannelError).leg == alice  # told again


def tracks_shown(script: Script, viewer: LegId) -> set[str]:
    shown = [c.metadata for c in script.commands if isinstance(c, cmd.ChannelMetadata) and c.leg == viewer][-1]
    return {track for stream in shown.values() for track in stream.tracks}


def test_subscriptions_beyond_the_limit_are_not_granted_and_those_that_flow_stay() -> None:
    script = limited(subscriptions_per_leg=1)
    alice, bob = script.join(ALICE, "a"), script.join(BOB, "b")
    script.wait(0.3)
    script.subscribe(bob, ("a", "a-v"))
    script.wait(0.3)
    flowing = one(script.answer(bob), cmd.Forward)
    done = script.subscribe(bob, ("a", "a-a"), ("a", "a-v")) + script.wait(1)
    assert not of(done, cmd.StopForward)
    assert not of(done, cmd.ChannelOffer)
    assert "subscriptions_per_leg" in one(done, cmd.ChannelError).message
    assert script.counts["bounds_hit", "subscriptions_per_leg"] == 1
    (offer,) = of(lift(script, "subscriptions_per_leg", 2) + script.wait(1), cmd.ChannelOffer)
    assert {send.track_id for send in offer.sends} == {"a-a", "a-v"}
    assert flowing.source == alice


def test_messages_beyond_so_many_a_second_are_not_heard_and_end_the_leg_if_they_do_not_cease() -> None:
    script = limited(messages_per_second=10)
    alice = script.join(ALICE, "a")
    heard = [script.focus.hears(alice, 100, script.now) for _ in range(25)]
    assert heard == [True] * 20 + [False] * 5
    refused = ev.BadMessage(alice, "too_many", "too many messages", None, "messages_per_second")
    assert one(script.say(refused), cmd.ChannelError).code == "too_many"
    assert script.counts["bounds_hit", "messages_per_second"] == 1
    script.wait(1)
    assert [script.focus.hears(alice, 100, script.now) for _ in range(11)] == [True] * 10 + [False]
    done = [command for _ in range(25) for command in script.say(refused)]
    assert one(done, cmd.CloseLeg).leg == alice


# ---------------------------------------------------------------- how close


def used(script: Script) -> dict[str, float]:
    return script.focus.view(script.now).used


def test_each_limit_has_a_figure_of_how_much_of_it_is_used() -> None:
    script = limited()
    assert set(used(script)) == {limit.name for limit in LIMITS}
    script.join(ALICE, "a")
    assert used(script)["legs"] == used(script)["conferences"] == 1


def test_of_what_passes_the_largest_counts_for_some_minutes() -> None:
    script = limited(messages_per_second=10, invites_per_user=10)
    alice = script.join(ALICE, "a")
    envelope = ev.Envelope(ALICE, CallId("call-a"), ConfId("conf"), None, None, None, None, None)
    script.say(ev.Noted(envelope, "m.call.candidates", 7, 90))
    script.say(ev.Noted(envelope, "m.call.candidates", 3, 20))
    script.say(ev.ChannelNegotiate(alice, "answer", "v" * 500, None))
    for size in (10, 300, 20, 20):
        assert script.focus.hears(alice, size, script.now)
    found = used(script)
    assert (found["candidates"], found["candidate_size"], found["channel_sdp"]) == (7, 90, 500)
    assert found["message_size"] == 300
    assert found["messages_per_second"] == 4 / 20 * 10, "of the twenty that are allowed at once"
    assert found["invites_per_user"] == 1
    assert found["invite_sdp"] > 0
    script.wait(PERIOD)
    assert used(script)["candidates"] == 7
    script.wait(PERIOD)
    assert not any(used(script)[name] for name in PASSING)


def test_what_was_refused_counts_as_the_limit_and_not_as_more() -> None:
    script = limited(messages_per_second=10)
    alice = script.join(ALICE, "a")
    for _ in range(25):
        script.focus.hears(alice, 10**9, script.now)
    script.focus.refused("candidates", script.now)
    script.say(ev.BadMessage(alice, "too_large", "channel_sdp", None, "channel_sdp"))
    found, limits = used(script), script.focus.policy.limits
    for name in ("messages_per_second", "message_size", "candidates", "channel_sdp"):
        assert found[name] == getattr(limits, name), name


# ---------------------------------------------------------------- bitrates


class Line:
    """Legs that send and are sent at these rates (kbit/s), in bytes as the media core counts them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bytes: dict[LegId, tuple[int, int]] = {}

    def run(self, rates: dict[LegId, tuple[int, int]], seconds: int = 1) -> list[cmd.Command]:
        done: list[cmd.Command] = []
        for _ in range(seconds):
            for leg, (received, sent) in rates.items():
                before = self.bytes.get(leg, (0, 0))
                self.bytes[leg] = (before[0] + received * 125, before[1] + sent * 125)
            done += self.script.wait(1) + self.script.say(orders.Traffic(dict(self.bytes)))
        return done


def caps(commands: list[cmd.Command]) -> dict[LegId, int | None]:
    return {cap.leg: cap.kbits for cap in of(commands, cmd.CapLeg)}


def test_a_leg_may_send_so_much_from_its_first_packet_on_and_is_counted_when_it_sends_more() -> None:
    script = limited(bitrate_per_leg=2000)
    alice = script.join(ALICE, "a")
    assert caps(script.commands) == {alice: 2000}
    line = Line(script)
    line.run({alice: (0, 0)})
    line.run({alice: (1900, 0)}, 3)
    assert ("bounds_hit", "bitrate_per_leg") not in script.counts
    line.run({alice: (9000, 0)}, 3)
    assert script.counts["bounds_hit", "bitrate_per_leg"] == 1
    assert caps(lift(script, "bitrate_per_leg", 5000)) == {alice: 5000}


@pytest.mark.parametrize("name", ["bitrate_per_conference", "bitrate"])
def test_a_call_that_takes_too_much_is_brought_back_by_its_loudest_and_takes_nobody_more(name: str) -> None:
    script = limited(**{name: 6000})
    alice, bob = script.join(ALICE, "a"), script.join(BOB, "b")
    line = Line(script)
    line.run({alice: (0, 0), bob: (0, 0)})
    assert not caps(line.run({alice: (1000, 500), bob: (500, 1000)}, 3))
    # Alice offers 8000; with what Bob is sent of it the call takes 17 000: each byte received is sent once.
    shared = caps(line.run({alice: (8000, 500), bob: (500, 8000)}))
    assert shared == {alice: 2500, bob: 2500}  # 6000 / 2 received: Bob needs 500 of it
    assert script.counts["bounds_hit", name] == 1
    script.list_device(CAROL)
    assert one(script.invite(CAROL, "c"), cmd.SendReject).reason == "user_busy"
    assert script.counts["bounds_hit", name] == 2
    steady = line.run({alice: (2500, 500), bob: (500, 2500)}, 3)
    assert caps(steady) == {}  # she has come down: her share stays, or she would be back at once
    released = caps(line.run({alice: (1000, 500), bob: (500, 1000)}))
    assert released == {alice: script.policy.limits.bitrate_per_leg, bob: script.policy.limits.bitrate_per_leg}
    assert of(script.invite(CAROL, "c2"), cmd.SendAnswer)


def test_another_call_is_not_touched_by_one_that_is_full() -> None:
    script = limited(bitrate_per_conference=4000)
    alice = script.join(ALICE, "a")
    bob = script.join(BOB, "b", room=OTHER_ROOM)
    line = Line(script)
    line.run({alice: (0, 0), bob: (0, 0)})
    assert caps(line.run({alice: (9000, 0), bob: (3000, 0)})) == {alice: 4000}
    script.list_device(CAROL, room=OTHER_ROOM)
    assert of(script.invite(CAROL, "c", room=OTHER_ROOM), cmd.SendAnswer)


def test_a_trunk_has_no_limit_of_one_person_but_the_share_of_those_whom_it_brings() -> None:
    def member(leg: int, offered: int, weight: int = 1) -> Member:
        return Member(LegId(leg), Load(offered, offered, 0), weight)

    script = limited(bitrate_per_leg=500)
    script.join(ALICE, "a")
    dial = one(script.list_device(CAROL, active=(OTHER_FOCUS,)), cmd.OpenLeg)
    assert dial.leg not in caps(script.commands)
    found = shares([member(1, 4000), member(2, 9000, weight=3)], 8000, limited=False)
    assert found == {LegId(1): 2000, LegId(2): 6000}
    found = shares([member(1, 100), member(2, 9000), member(3, 9000)], 8100, limited=False)
    assert found == {LegId(1): 4000, LegId(2): 4000, LegId(3): 4000}
    assert shares([member(1, 0)], 100, limited=True) is None


def test_legs_that_ended_take_nothing_any_more() -> None:
    script = limited(bitrate=2000)
    alice = script.join(ALICE, "a")
    line = Line(script)
    line.run({alice: (0, 0)})
    line.run({alice: (9000, 0)}, 2)
    script.say(ev.ConnectionLost(alice, "ice_failed", "test"))
    line.bytes.clear()
    line.run({}, 1)
    assert of(script.invite(ALICE, "again"), cmd.SendAnswer)


# ---------------------------------------------------------------- the table


def test_every_limit_has_a_row_a_range_that_holds_its_default_and_is_parsed_from_words() -> None:
    assert [limit.name for limit in LIMITS] == [field.name for field in fields(Limits)]
    for limit in LIMITS:
        assert limit.lowest <= getattr(Limits(), limit.name) <= limit.highest
        assert limit.parse(str(limit.lowest)) == limit.lowest
        for wrong in (str(limit.highest + 1), str(limit.lowest - 1), "many", ""):
            with pytest.raises(LimitError, match=limit.name):
                limit.parse(wrong)
    assert limit_named("cascade.trunks") is limit_named("trunks")
    assert limit_named("conferences.limits.bitrate").parse("1,000") == 1000
    with pytest.raises(LimitError, match="no limit 'leg'"):
        limit_named("leg")
