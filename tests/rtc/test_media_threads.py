"""One conference on several media threads: participants' WebRTC halves over loopback UDP, and who lives where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from mautrix_sfu.core.ids import LegId
from mautrix_sfu.media import Media
from tests.support.participant_connection import Connection
from tests.support.participant_rtp import Received

from .loopback import LoopbackFocus
from .test_with_media_core import seen, until, watch

CROWD = 24  # that all of them share one of two threads is a case in eight million


@pytest.fixture(params=[2, 3], ids=["2 threads", "3 threads"])
async def focus(request: pytest.FixtureRequest) -> AsyncIterator[LoopbackFocus]:
    media = Media([("127.0.0.1", 0)], request.param)
    made = LoopbackFocus(media)
    media.start(asyncio.get_running_loop(), made)
    yield made
    await made.stop()
    media.shutdown()


def thread_of(focus: LoopbackFocus, leg: LegId) -> int:
    """Where a leg lives."""
    known = focus.media.leg_stats(leg)
    assert known is not None
    return int(known["thread"])


@asynccontextmanager
async def spread(focus: LoopbackFocus) -> AsyncIterator[dict[LegId, Connection]]:
    """Participants, as many as it takes until the last one lives in another thread than the first."""
    async with AsyncExitStack() as stack:
        people: dict[LegId, Connection] = {}
        for number in range(1, CROWD):
            connection = Connection()
            await connection.open()
            stack.push_async_callback(connection.close)
            people[LegId(number)] = connection
            await focus.join(LegId(number), connection)
            if len({thread_of(focus, leg) for leg in people}) > 1:
                break
        yield people


def ends(people: dict[LegId, Connection]) -> tuple[tuple[LegId, Connection], tuple[LegId, Connection]]:
    """The first and the last."""
    first, *_, last = people.items()
    return first, last


def whole(received: Received) -> bool:
    return not (received.missing or received.duplicates or received.timestamp_jumps or received.picture_gaps)


async def test_all_hear_and_see_each_other_across_threads(focus: LoopbackFocus) -> None:
    async with spread(focus) as people:
        for leg, connection in people.items():
            focus.send(leg, connection, *(other for other in people if other != leg))
        expected = 2 * (len(people) - 1)
        for connection in people.values():
            await until(partial(flows, connection, expected), timeout=45)
            assert all(whole(item) for item in connection.received.values())
            assert connection.unknown == connection.undecryptable == 0
        stats = focus.media.stats()
        assert stats["threads_crossed_total"] > 0
        assert stats["threads_dropped_total"] == 0
        assert stats["legs"] == stats["legs_connected"] == len(people), "each counts once"
        assert {leg for leg, received, sent in focus.media.traffic() if received and sent} == set(people)


def flows(connection: Connection, tracks: int) -> bool:
    received = connection.received.values()
    return len(received) == tracks and all(item.packets > 50 for item in received)


def shows(viewer: Connection, mid: str, size: tuple[int, int]) -> bool:
    return seen(viewer, mid).size == size


def has(viewer: Connection, mid: str, packets: int) -> bool:
    return seen(viewer, mid).packets > packets


async def test_layers_switch_and_a_key_frame_is_asked_of_a_publisher_in_another_thread(focus: LoopbackFocus) -> None:
    async with spread(focus) as people:
        (publisher, alice), (viewer, bob) = ends(people)
        mid = watch(focus, viewer, bob, publisher, size=(640, 360))
        await until(lambda: seen(bob, mid).size == (640, 360), timeout=45)
        for size in ((160, 90), (640, 360)):
            watch(focus, viewer, bob, publisher, size=size)
            await until(partial(shows, bob, mid, size), timeout=45)
        before = alice.sender.feedback.get("pli", 0)
        bob.request_key_frame(mid)
        await until(lambda: alice.sender.feedback.get("pli", 0) > before, timeout=45)
        assert whole(seen(bob, mid))


async def test_a_publisher_and_a_subscriber_whose_addresses_change_go_on(focus: LoopbackFocus) -> None:
    """To another port until the kernel gives what comes from there to another thread than where they live."""
    async with spread(focus) as people:
        (publisher, alice), (viewer, bob) = ends(people)
        mid = watch(focus, viewer, bob, publisher)
        await until(lambda: seen(bob, mid).packets > 50, timeout=45)
        homes = thread_of(focus, publisher), thread_of(focus, viewer)
        for mover, leg in ((alice, publisher), (bob, viewer)):
            handed_over = focus.media.stats()["threads_handed_over_total"]
            for _ in range(CROWD):
                await move(focus, mover, leg)
                await until(partial(has, bob, mid, seen(bob, mid).packets + 50), timeout=45)
                if focus.media.stats()["threads_handed_over_total"] > handed_over:
                    break
            else:
                pytest.fail("the kernel gave all ports to one thread")
        assert (thread_of(focus, publisher), thread_of(focus, viewer)) == homes
        bob.send_text('{"type": "m.call.ping"}')
        async with asyncio.timeout(45):
            assert "pong" in str(await bob.peer.messages.get())


async def move(focus: LoopbackFocus, connection: Connection, leg: LegId) -> None:
    """Let a participant go on from another port, as behind a NAT that forgot it, and wait until the focus followed."""
    former = connection.socket._transport
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: connection.socket, local_addr=("127.0.0.1", 0))
    assert former is not None
    former.close()
    connection.send_raw(connection.ice.check())

    def followed() -> bool:
        known = focus.media.leg_stats(leg)
        return known is not None and known["peer_port"] == connection.socket.address[1]

    await until(followed, timeout=45)


async def test_a_leg_that_ends_in_one_thread_is_gone_in_all(focus: LoopbackFocus) -> None:
    async with spread(focus) as people:
        (publisher, _), (viewer, bob) = ends(people)
        mid = watch(focus, viewer, bob, publisher)
        await until(lambda: seen(bob, mid).packets > 20, timeout=45)
        for leg in people:
            focus.rtc.close(leg)
        async with asyncio.timeout(45):  # what was sent before is read late on a busy machine
            counts: dict[str, int] = {}
            while counts != bob.socket.counts:
                counts = dict(bob.socket.counts)
                await asyncio.sleep(0.4)
        stats = focus.media.stats()
        assert stats["legs"] == stats["tracks"] == stats["forwards"] == 0
        assert focus.media.traffic() == []


def shown_threads(media: Media) -> set[str]:
    numbers, _ = media.published()
    return {dict(labels)["thread"] for name, _, labels, _ in numbers if name.startswith("thread_cpu")}


async def test_a_port_shared_among_threads_is_taken_for_others() -> None:
    media = Media([("127.0.0.1", 0)], 2)
    try:
        for threads in (1, 2):
            with pytest.raises(OSError, match="in use"):
                Media(media.local_addresses, threads)
        await until(lambda: shown_threads(media) == {"0", "1"}, timeout=45)  # each its own processor time
    finally:
        media.shutdown()
