"""Publishers are told which of their layers nobody watches: docs/protocol.md, section 4."""

from __future__ import annotations

import pytest

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.events import Size
from mautrix_sfu.core.ids import Kind, LegId, Mid, StreamId, TrackId, TrackKey
from mautrix_sfu.core.tracks import PublishedTrack
from mautrix_sfu.core.watched import UNWATCHED, unneeded

from .script import ALICE, BOB, CAROL, Script, of, one

ALL = ("f", "h", "q")


@pytest.mark.parametrize(
    ("sizes", "left_out"),
    [
        ([], 3),
        ([(320, 180)], 2),
        ([(321, 180)], 1),
        ([(100, 400)], 0),
        ([(320, 180), (640, 360)], 1),
        ([(1, 1), (None, None)], 0),
        ([(4000, 4000)], 0),
    ],
)
def test_layers_above_the_largest_size_asked_for_are_not_needed(sizes: list[Size], left_out: int) -> None:
    key = TrackKey(BOB, TrackId("b-v"))
    track = PublishedTrack(key, LegId(1), Mid("1"), Kind.VIDEO, StreamId("b"), 1280, 720, ALL)
    assert unneeded(track, sizes) == left_out


def watched_by_alice(*size: int) -> tuple[Script, LegId, LegId]:
    script = Script()
    alice, bob = script.join(ALICE, "a"), script.join(BOB, "b")
    script.wait(0.2)
    script.subscribe(alice, ("b", "b-v", *size))  # type: ignore[arg-type]
    script.answer(alice)
    return script, alice, bob


def told(commands: list[cmd.Command], leg: LegId) -> list[tuple[str, ...]]:
    return [command.layers for command in of(commands, cmd.ChannelLayers) if command.leg == leg]


def test_a_publisher_is_told_once_of_what_nobody_has_watched_for_a_while() -> None:
    script, alice, bob = watched_by_alice(640, 360)
    assert not told(script.wait(UNWATCHED - 0.3), bob)
    done = script.wait(1)
    assert told(done, bob) == [("h", "q")]
    assert told(done, alice) == [()], "nobody looks at her"
    assert one([c for c in of(done, cmd.ChannelLayers) if c.leg == bob], cmd.ChannelLayers).track_id == "b-v"
    assert not of(script.wait(60), cmd.ChannelLayers)


def test_a_layer_that_is_wanted_again_is_asked_for_at_once_and_by_whoever_wants_it() -> None:
    script, alice, bob = watched_by_alice(320, 180)
    script.wait(UNWATCHED + 1)
    assert told(script.subscribe(alice, ("b", "b-v", 640, 360)), bob) == [("h", "q")]
    carol = script.join(CAROL, "c")
    script.wait(0.2)
    assert told(script.subscribe(carol, ("b", "b-v")), bob) == [ALL], "before her m-line is agreed"
    script.answer(carol)
    script.unsubscribe(carol, ("b", "b-v"))
    assert told(script.wait(UNWATCHED + 1), bob) == [("h", "q")]


def test_a_size_that_changes_to_and_fro_leaves_the_layers_alone() -> None:
    script, alice, bob = watched_by_alice(1280, 720)
    for _ in range(10):
        for size in ((320, 180), (1280, 720)):
            script.subscribe(alice, ("b", "b-v", *size))
            assert not told(script.wait(UNWATCHED * 0.6), bob)


def test_who_left_watches_nothing_and_who_comes_does_at_once() -> None:
    script, alice, bob = watched_by_alice()
    assert not told(script.wait(UNWATCHED + 1), bob)
    script.say(ev.ConnectionLost(alice, "user_hangup", "closed"))
    assert told(script.wait(UNWATCHED + 1), bob) == [()]
    carol = script.join(CAROL, "c")
    script.wait(0.2)
    assert told(script.subscribe(carol, ("b", "b-v")), bob) == [ALL]
