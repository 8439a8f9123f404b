"""Foci that find each other: bookkeeping of dials, and whole foci that talk over a lossy homeserver."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.cascade import SILENT_BACKOFF, TAKE_OVER, Cascade, Dial, Drop, Verdict
from mautrix_sfu.core.ids import (
    CallId,
    ConferenceKey,
    Device,
    DeviceId,
    EventId,
    LegId,
    Mid,
    RoomId,
    SessionId,
    StreamId,
    UserId,
)
from mautrix_sfu.core.membership import MAX_FOCI, Freeze, Room

from .world import CONF, KEY, ROOM, World, described, focus, person

LOW, HIGH = focus(1), focus(2)


# ---------------------------------------------------------------- bookkeeping


def test_the_lower_focus_dials_at_once_and_the_higher_after_five_seconds() -> None:
    low, high = Cascade(LOW), Cascade(HIGH)
    assert low.settle(KEY, [HIGH], True, 0.0) == [Dial(HIGH)]
    assert high.settle(KEY, [LOW], True, 0.0) == []
    assert high.settle(KEY, [LOW], True, TAKE_OVER) == [Dial(LOW)]


def test_nobody_local_means_no_trunk_and_a_reason_that_ends_drops_it() -> None:
    low = Cascade(LOW)
    assert low.settle(KEY, [HIGH], False, 0.0) == []
    low.settle(KEY, [HIGH], True, 0.0)
    low.dialled(KEY, HIGH, LegId(1), 0.0)
    assert low.settle(KEY, [], True, 1.0) == [Drop(LegId(1))]


def test_both_dialled_the_higher_gives_way_and_the_lower_insists() -> None:
    low, high = Cascade(LOW), Cascade(HIGH)
    for side, peer in ((low, HIGH), (high, LOW)):
        side.settle(KEY, [peer], True, 0.0)
        side.settle(KEY, [peer], True, TAKE_OVER)
        side.dialled(KEY, peer, LegId(1), TAKE_OVER)
    assert high.invited(KEY, LOW, TAKE_OVER) == (Verdict.ACCEPT, LegId(1))
    assert low.invited(KEY, HIGH, TAKE_OVER + 1) == (Verdict.REJECT, None)
    assert low.invited(KEY, HIGH, 2 * TAKE_OVER) == (Verdict.ACCEPT, None), "after that the first to connect stays"
    low.accepted(KEY, HIGH, LegId(2), 2 * TAKE_OVER)
    assert low.connected(KEY, HIGH, LegId(2)) == LegId(1)


def test_a_focus_that_never_answers_is_asked_ever_more_rarely_for_all_conferences_together() -> None:
    low = Cascade(LOW)
    other = ConferenceKey(RoomId("!other"), CONF)
    now, dials = 0.0, []
    for key in (KEY, other):
        low.settle(key, [HIGH], True, now)
    while now < 800:
        for key in (KEY, other):
            for _ in low.settle(key, [HIGH], True, now):
                dials.append(now)
                low.dialled(key, HIGH, LegId(len(dials)), now)
                low.ended(key, HIGH, LegId(len(dials)), now + 0.5, silent=True)
        now += 1.0
    assert len(dials) <= 2 + len(SILENT_BACKOFF) + 2
    low.answered(HIGH)
    assert low.settle(KEY, [HIGH], True, now) == [Dial(HIGH)], "heard of, it is asked again at once"


def test_a_thousand_foci_are_dialled_one_a_second_at_most() -> None:
    low = Cascade(Device(UserId("@a:a"), DeviceId("A")))
    many = [focus(n) for n in range(16)]
    dials = [len(low.settle(KEY, many, True, n / 10)) for n in range(100)]
    assert sum(dials) <= 11


def test_a_trunk_whose_place_a_younger_one_took_is_not_kept_in_mind_as_the_one_that_is_up() -> None:
    cascade = Cascade(focus(2))
    cascade.settle(KEY, [focus(1)], local=True, now=0.0)
    for leg in (LegId(1), LegId(2)):
        cascade.accepted(KEY, focus(1), leg, 1.0)
        if leg == LegId(1):
            cascade.connected(KEY, focus(1), leg)
    cascade.ended(KEY, focus(1), LegId(1), 2.0, silent=False)
    assert cascade.connected(KEY, focus(1), LegId(2)) is None
    assert [link.up for link in cascade.view(2.0)] == [LegId(2)]


def test_whoever_lists_many_foci_keeps_nobody_elses_out() -> None:
    room = Room(ROOM, "hs", UserId("@sfu:hs"), Freeze())
    bogus = [focus(n) for n in range(100, 1100)]

    def lists(user: str, *foci: Device) -> None:
        devices = tuple(
            ev.CallDevice(CONF, DeviceId(f"D{n}"), SessionId("s"), 3600.0, foci[n : n + 2])
            for n in range(0, len(foci), 2)
        )
        member = UserId(f"@{user}:hs")
        room.apply(ev.CallMemberChanged(ROOM, member, devices, EventId(f"${user}{len(foci)}"), None, 0), 0.0)

    lists("mallory", *bogus)
    assert room.foci(CONF, 1.0) == tuple(bogus[:MAX_FOCI])
    for n in range(MAX_FOCI - 1):
        lists(f"user{n}", focus(n))
    assert set(room.foci(CONF, 1.0)) == {bogus[0], *(focus(n) for n in range(MAX_FOCI - 1))}
    lists("late", focus(MAX_FOCI), focus(0))
    assert focus(MAX_FOCI) not in room.foci(CONF, 1.0), "the set is full: who has a share keeps it"
    lists("mallory")
    assert focus(MAX_FOCI) in room.foci(CONF, 1.0)


# ---------------------------------------------------------------- whole foci


def test_people_on_two_foci_see_each_other_over_one_trunk() -> None:
    world = World(2, seed=1)
    for n in range(4):
        world.move(person(n), focus(n % 2))
    world.run(10)
    world.check()


def test_people_on_three_foci_see_each_other_in_full_mesh() -> None:
    world = World(3, seed=2)
    for n in range(6):
        world.move(person(n), focus(n % 3))
    world.run(15)
    world.check()


def test_who_moves_is_one_track_to_everybody_all_along() -> None:
    world = World(2, seed=3)
    for n in range(3):
        world.move(person(n), focus(n % 2))
    world.run(10)
    world.move(person(0), focus(0), focus(1))
    world.run(10)
    world.check()
    world.move(person(0), focus(1))
    world.run(10)
    world.check()


def test_who_is_on_two_foci_comes_from_the_other_one_when_the_first_falls_silent() -> None:
    world = World(3, seed=11)
    both, viewer = person(0), person(1)
    world.move(viewer, focus(2))
    world.move(both, focus(1))
    world.run(10)

    def sources() -> set[Device]:
        return {world.nodes[focus(2)].open[leg] for leg, _ in world.sources(focus(2), viewer)}

    def fall_silent(places: list[tuple[LegId, Mid]]) -> None:
        for leg, mid in places:
            world.feed(focus(2), ev.FlowChanged(leg, mid, False))

    first = world.sources(focus(2), viewer)
    assert sources() == {focus(1)}
    world.move(both, focus(0), focus(1))
    for _ in range(100):
        world.run(0.05)
        if sources() == {focus(0)}:
            fall_silent(first)  # it is asked for nothing any more
    assert sources() == {focus(0)}
    fall_silent(world.sources(focus(2), viewer))
    world.run(1)
    assert sources() == {focus(1)}
    world.run(30)
    assert sources() == {focus(1)}, "who fell silent is not asked again for nothing"


def test_the_last_one_out_takes_the_trunk_along() -> None:
    world = World(2, seed=4)
    world.move(person(0), focus(0))
    world.move(person(1), focus(1))
    world.run(10)
    world.move(person(1))
    world.run(10)
    world.check()


def test_an_operator_sees_who_is_at_which_focus_over_which_trunk_and_how_far_it_is() -> None:
    world = World(3, seed=12)
    for n in range(5):
        world.move(person(n), focus(n % 3))
    world.run(15)
    node = world.nodes[focus(0)]
    for view in node.core.view(world.now).legs:
        if view.kind == "trunk":
            world.now += 0.004
            world.feed(focus(0), ev.Pong(view.leg))
    legs = node.core.view(world.now).conferences[KEY]
    assert {(leg.peer, leg.carries) for leg in legs if leg.kind == "trunk"} == {
        (focus(1), (person(1), person(4))),
        (focus(2), (person(2),)),
    }
    assert [leg.peer for leg in legs if leg.kind == "participant"] == [person(0), person(3)]
    assert all((leg.round_trip or 0) > 0 for leg in legs if leg.kind == "trunk")


def test_when_all_leave_at_once_nobody_dials_once_more() -> None:
    world = World(3, seed=9)
    for n in range(6):
        world.move(person(n), focus(n % 3))
    world.run(15)
    world.check()
    for n in range(6):
        world.list_foci(person(n))
    dials = world.dials
    world.run(60)
    world.check()
    assert world.dials == dials


def test_a_trunk_on_which_an_offer_is_never_answered_is_dialled_anew() -> None:
    world = World(2, seed=10)
    for n in range(2):
        world.move(person(n), focus(n))
    world.run(10)
    world.check()
    world.deaf.add(focus(1))
    world.move(person(2), focus(0))
    world.run(50)
    assert world.dials == 1, "there is time for a late answer"
    world.run(22)
    world.deaf.clear()
    world.run(10)
    world.check()
    assert world.dials == 2


def test_a_focus_that_is_not_in_the_set_gets_no_trunk() -> None:
    world = World(2, seed=5)
    world.move(person(0), focus(0))
    world.run(5)
    envelope = ev.Envelope(focus(1), CallId("x"), CONF, ROOM, SessionId("s"), SessionId("sfu"), 0, None)
    world.feed(focus(0), ev.Invite(envelope, "invite", 10, {}))
    world.run(15)
    assert [v.peer for v in world.nodes[focus(0)].core.view(world.now).legs] == [person(0)]


def test_a_focus_speaks_only_for_its_own_participants() -> None:
    world = World(2, seed=6)
    for n in range(3):
        world.move(person(n), focus(n % 2))
    world.run(10)
    node = world.nodes[focus(0)]
    trunk = next(v.leg for v in node.core.view(world.now).legs if v.kind == "trunk")
    liar = {**described(person(1)), **described(person(2)), **described(Device(UserId("@ghost:x"), DeviceId("G")))}
    lies = {
        stream: ev.StreamMetadata(s.purpose, True, True, s.tracks, Device(UserId(stream), DeviceId("D")))
        for stream, s in liar.items()
    }
    counts: Counter[str] = Counter()
    for event in (ev.MetadataChanged(trunk, lies),):
        world.carry_out(node, node.core.handle(event, world.now))
    for _ in range(30):
        world.now += 0.5
        commands = node.core.handle_timeout(world.now)
        counts.update(c.cause for c in commands if isinstance(c, cmd.Count))
        told = [c for c in commands if isinstance(c, cmd.ChannelMetadata) and node.open[c.leg] == person(0)]
        for command in told:
            assert not command.metadata[StreamId(person(2).user_id)].video_muted, "own participants are not spoken for"
            assert "@ghost:x" not in command.metadata
        world.carry_out(node, commands)
    assert counts["stream_of_a_stranger"] == 2, "the ghost and the participant who is not of that focus"


def test_who_is_in_the_call_stays_a_participant_though_a_member_lists_the_device_as_a_focus() -> None:
    world = World(1, seed=7)
    world.move(person(0), focus(0))
    world.list_foci(person(1), person(0), focus(0))
    world.run(1)
    world.move(person(0), focus(0))
    world.call(person(0), focus(0))
    world.run(30)
    views = world.nodes[focus(0)].core.view(world.now).legs
    assert [(view.peer, view.kind) for view in views] == [(person(0), "participant")]


@given(
    count=st.integers(2, 6),
    seed=st.integers(0, 10_000),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    steps=st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5), max_size=2, unique=True)), max_size=12),
)
@example(  # a trunk that is up gives way to a younger invite of the same focus
    count=6,
    seed=6687,
    loss=0.1,
    steps=[(0, []), (1, []), (4, [1]), (1, [2]), (2, [3]), (5, [2, 3]), (1, []), (2, [4, 2]), (1, [5, 1]), (1, []),
           (1, [5]), (3, [0, 5])],
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_the_end_the_trunks_are_those_wanted_and_everybody_sees_everybody_once(
    count: int, seed: int, loss: float, steps: list[tuple[int, list[int]]]
) -> None:
    world = World(count, seed, loss)
    for who, foci in steps:
        world.move(person(who), *(focus(n % count) for n in dict.fromkeys(f % count for f in foci)))
        world.run(world.random.uniform(0, 3))
    world.loss = 0.0
    world.run(2000)  # the longest back-off after losses is 600 s
    world.check()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_broken_trunk_heals_without_anybody_joining_again(lost: int) -> None:
    world = World(2, seed=8)
    for n in range(4):
        world.move(person(n), focus(n % 2))
    world.run(10)
    node = world.nodes[focus(lost)]
    trunk = next(v.leg for v in node.core.view(world.now).legs if v.kind == "trunk")
    world.feed(focus(lost), ev.ConnectionLost(trunk, "ice_failed", "no consent"))
    world.run(10)
    world.check()
