"""A trunk between two foci, each with the edge, the negotiation and the real media core, over loopback UDP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from mautrix_sfu.core.ids import LegId
from mautrix_sfu.media import Media
from tests.support.participant_connection import Connection

from .loopback import LoopbackFocus
from .test_with_media_core import ALICE, BOB, CAROL, joined, seen, until, watch

TRUNK = LegId(50)
BEST = (None, None)
SMALL = (160, 90)


@dataclass
class Foci:
    """Two foci; the first one dials."""

    one: LoopbackFocus
    two: LoopbackFocus

    async def connect(self) -> None:
        self.one.dial(TRUNK, self.two)
        await until(lambda: self.one.legs[TRUNK].opened and self.two.legs[TRUNK].opened)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
async def foci(request: pytest.FixtureRequest) -> AsyncIterator[Foci]:
    made = []
    for _ in range(2):
        media = Media([("127.0.0.1", 0)], request.param)
        made.append(LoopbackFocus(media))
        media.start(asyncio.get_running_loop(), made[-1])
    yield Foci(*made)
    for focus in made:
        await focus.stop()
        focus.media.shutdown()


async def test_a_trunk_connects_and_its_channel_carries_text_both_ways(foci: Foci) -> None:
    await foci.connect()
    assert foci.one.rtc.send(TRUNK, '{"type": "m.call.ping"}')
    await until(lambda: any("pong" in text for text in foci.one.legs[TRUNK].texts))
    assert foci.two.rtc.send(TRUNK, '{"type": "m.call.ping"}')
    await until(lambda: any("pong" in text for text in foci.two.legs[TRUNK].texts))


@pytest.mark.parametrize("sender", ["one", "two"])
async def test_what_is_published_at_one_focus_is_heard_and_seen_at_the_other(foci: Foci, sender: str) -> None:
    near, far = (foci.one, foci.two) if sender == "one" else (foci.two, foci.one)
    await foci.connect()
    async with joined(near, ALICE), joined(far, BOB, audio=False, video=False) as bob:
        near.send_over(TRUNK, far, ALICE, sizes=(BEST,))
        far.send(BOB, bob, TRUNK)
        await until(lambda: len(bob.received) == 2 and all(item.packets > 50 for item in bob.received.values()))
        assert {item.kind for item in bob.received.values()} == {"audio", "video"}
        for item in bob.received.values():
            assert item.missing == item.duplicates == item.timestamp_jumps == item.picture_gaps == 0
        assert bob.unknown == bob.undecryptable == 0


async def test_two_at_the_far_side_are_shown_different_layers_of_one_track(foci: Foci) -> None:
    await foci.connect()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(joined(foci.one, ALICE))
        bob, carol = [
            await stack.enter_async_context(joined(foci.two, leg, audio=False, video=False)) for leg in (BOB, CAROL)
        ]
        foci.one.send_over(TRUNK, foci.two, ALICE, sizes=(BEST, SMALL))
        large = watch(foci.two, BOB, bob, TRUNK, size=(640, 360))
        small = watch(foci.two, CAROL, carol, TRUNK, size=SMALL)
        await until(lambda: seen(bob, large).size == (640, 360) and seen(carol, small).size == SMALL)
        for viewer, mid in ((bob, large), (carol, small)):
            before = seen(viewer, mid).packets
            await until(lambda viewer=viewer, mid=mid, before=before: seen(viewer, mid).packets > before + 20)  # type: ignore[misc]
            assert seen(viewer, mid).missing == seen(viewer, mid).picture_gaps == 0


async def test_a_layer_that_nobody_asked_for_does_not_cross(foci: Foci) -> None:
    await foci.connect()
    async with joined(foci.one, ALICE), joined(foci.two, BOB, audio=False, video=False) as bob:
        foci.one.send_over(TRUNK, foci.two, ALICE, sizes=(SMALL,))
        mid = watch(foci.two, BOB, bob, TRUNK, size=(640, 360))
        await until(lambda: seen(bob, mid).packets > 30)
        assert seen(bob, mid).size == SMALL


async def test_both_ends_send_at_once_and_stop(foci: Foci) -> None:
    await foci.connect()
    async with joined(foci.one, ALICE) as alice, joined(foci.two, BOB) as bob:
        for near, far, own, viewer in ((foci.one, foci.two, ALICE, bob), (foci.two, foci.one, BOB, alice)):
            near.send_over(TRUNK, far, own, sizes=(BEST,))
            far.send(BOB if viewer is bob else ALICE, viewer, TRUNK)
        both: tuple[Connection, Connection] = (alice, bob)
        await until(lambda: all(len(viewer.received) == 2 for viewer in both))
        foci.one.send_over(TRUNK, foci.two, sizes=())
        await asyncio.sleep(0.1)
        before = sum(item.packets for item in bob.received.values())
        heard = sum(item.packets for item in alice.received.values())
        await until(lambda: sum(item.packets for item in alice.received.values()) > heard + 30)
        assert sum(item.packets for item in bob.received.values()) == before


async def test_an_answer_without_anybody_to_reach_fails(foci: Foci) -> None:
    foci.one.dial(TRUNK, foci.two, candidates=())
    await until(lambda: foci.one.legs[TRUNK].lost)
    assert not foci.one.legs[TRUNK].opened
