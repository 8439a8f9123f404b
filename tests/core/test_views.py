"""What operators are shown of calls, now and when they are over."""

from __future__ import annotations

import pytest

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.cascade import Cascade
from mautrix_sfu.core.ids import ConferenceKey, Kind, LegId
from mautrix_sfu.core.view import CallView

from .script import ALICE, BOB, CAROL, CONF, FOCUS, OTHER_FOCUS, OTHER_ROOM, ROOM, Script, camera, of, one

KEY = ConferenceKey(ROOM, CONF)


def test_a_call_that_is_over_is_told_once_with_its_length_its_people_and_how_many_at_a_time() -> None:
    script = Script()
    script.join(ALICE, "a")
    script.wait(10)
    script.join(BOB, "b")
    script.wait(20)
    script.unlist(ALICE)
    script.join(CAROL, "c")
    script.wait(5)
    script.unlist(BOB)
    assert not of(script.commands, cmd.ConferenceEnded)
    assert script.focus.calls(script.now) == (CallView(KEY, 35.0, 3, 2),)
    people = (ALICE.user_id, BOB.user_id, CAROL.user_id)
    assert one(script.unlist(CAROL), cmd.ConferenceEnded) == cmd.ConferenceEnded(KEY, 35.0, people, 2)
    assert script.focus.calls(script.now) == ()
    script.join(ALICE, "again")
    script.wait(1)
    assert one(script.unlist(ALICE), cmd.ConferenceEnded).seconds == pytest.approx(1), "the next one is another"


def test_calls_of_one_name_in_two_rooms_end_apart() -> None:
    script = Script()
    script.join(ALICE, "a")
    script.join(BOB, "b", room=OTHER_ROOM)
    assert one(script.unlist(ALICE), cmd.ConferenceEnded).conference == KEY
    assert one(script.unlist(BOB, room=OTHER_ROOM), cmd.ConferenceEnded).conference == ConferenceKey(OTHER_ROOM, CONF)


def test_a_legs_tracks_are_shown_with_size_layers_mutes_and_how_many_look() -> None:
    script = Script()
    alice = script.join(ALICE, "a")
    bob = script.join(BOB, "b")
    script.wait(0.2)
    script.subscribe(bob, ("a", "a-v"))
    script.answer(bob)
    script.say(ev.MetadataChanged(alice, camera("a", "a-a", "a-v", muted=True)))
    sound, picture = sorted(script.focus.tracks(alice), key=lambda track: track.kind.value)
    assert (sound.kind, sound.muted, sound.layers, sound.viewers) == (Kind.AUDIO, False, (), 0)
    assert (picture.owner, picture.muted, picture.layers, picture.viewers) == (ALICE, True, ("f", "h", "q"), 1)
    assert (picture.width, picture.height, picture.purpose) == (1280, 720, "m.usermedia")
    assert script.focus.tracks(LegId(99)) == ()


def test_a_trunk_is_shown_as_down_from_when_it_was_wanted_or_broke_until_it_is_up() -> None:
    cascade = Cascade(FOCUS)
    cascade.settle(KEY, [OTHER_FOCUS], True, 0.0)
    (link,) = cascade.view(3.0)
    assert (link.conference, link.peer, link.up, link.down_for, link.failures) == (KEY, OTHER_FOCUS, None, 3.0, 0)
    cascade.dialled(KEY, OTHER_FOCUS, LegId(1), 0.0)
    assert cascade.view(3.0)[0].dials_in is None
    cascade.connected(KEY, OTHER_FOCUS, LegId(1))
    assert (cascade.view(4.0)[0].up, cascade.view(4.0)[0].down_for) == (1, None)
    cascade.ended(KEY, OTHER_FOCUS, LegId(1), 100.0, silent=False)
    cascade.settle(KEY, [OTHER_FOCUS], True, 100.5)
    cascade.dialled(KEY, OTHER_FOCUS, LegId(2), 100.5)
    cascade.ended(KEY, OTHER_FOCUS, LegId(2), 110.0, silent=True)
    (link,) = cascade.view(160.0)
    assert link.down_for == 60.0, "dials that come to nothing do not begin it anew"
    assert link.dials_in == 0.0
    cascade.settle(KEY, [], True, 161.0)
    assert cascade.view(162.0) == [], "nobody wants it any more"
