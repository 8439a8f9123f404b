"""A participant's WebRTC half with the WebRTC edge and the negotiation, over loopback UDP, without the Rust core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mautrix_sfu.core.ids import LegId
from tests.support.participant_connection import Connection

from .loopback import LoopbackFocus
from .python_media import PythonMedia

ALICE, BOB = LegId(1), LegId(2)


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def focus() -> AsyncIterator[LoopbackFocus]:
    media = PythonMedia()
    held: list[LoopbackFocus] = []

    class Sink:
        def __getattr__(self, name: str) -> object:
            return getattr(held[0], name)

    await media.open(Sink())
    held.append(LoopbackFocus(media))
    yield held[0]
    await held[0].stop()
    media.shutdown()
    await asyncio.sleep(0)


@asynccontextmanager
async def joined(focus: LoopbackFocus, leg: LegId, **options: bool) -> AsyncIterator[Connection]:
    connection = Connection(**options)  # type: ignore[arg-type]
    await connection.open()
    try:
        await focus.join(leg, connection)
        yield connection
    finally:
        await connection.close()


async def test_a_participant_connects_publishes_and_talks(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice:
        await until(lambda: focus.legs[ALICE].opened)
        alice.send_text('{"type": "m.call.ping"}')
        async with asyncio.timeout(5):
            assert "pong" in str(await alice.peer.messages.get())
        await until(lambda: focus.media.counts["received audio"] > 10 and focus.media.counts["received video"] > 10)
        assert focus.media.counts["undecryptable"] == focus.media.counts["unrouted"] == 0
    await until(lambda: focus.legs[ALICE].lost)


async def test_one_hears_and_sees_another(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice, joined(focus, BOB) as bob:
        placed = focus.send(BOB, bob, ALICE)
        mids = {track.kind.value: mid for mid, (_, track) in placed.items()}
        await until(lambda: len(bob.received) == 2 and all(item.packets > 30 for item in bob.received.values()))
        audio, video = bob.received_on(mids["audio"]), bob.received_on(mids["video"])
        assert audio is not None
        assert video is not None
        await until(lambda: video.key_frames)
        assert video.size == (160, 90)
        assert audio.missing == audio.duplicates == video.missing == 0
        assert bob.unknown == bob.undecryptable == 0
        assert alice.sender.feedback.get("pli", 0) >= 1
        assert not alice.received


async def test_a_listener_publishes_nothing(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice, joined(focus, BOB, audio=False, video=False) as bob:
        assert focus.legs[BOB].receives == ()
        focus.send(BOB, bob, ALICE)
        await until(lambda: len(bob.received) == 2)
        assert bob.socket.counts["rtp"] > 0
        assert not alice.received


async def test_a_shared_screen_is_published_on_an_m_line_of_its_own(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice:
        alice.share_screen()
        focus.answer(ALICE, alice)
        assert [track.mid for track in focus.legs[ALICE].receives] == ["0", "1", "3"]
        before = focus.media.counts["unrouted"]
        await until(lambda: focus.media.counts["received video"] > 40)
        assert focus.media.counts["unrouted"] == before


async def test_an_ice_restart_keeps_the_connection(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice:
        answered = alice.ice.answered
        focus.answer(ALICE, alice, alice.offer(restart_ice=True))
        await until(lambda: alice.ice.answered > answered)
        alice.send_text('{"type": "m.call.ping"}')
        async with asyncio.timeout(5):
            assert "pong" in str(await alice.peer.messages.get())


async def test_a_certificate_that_the_offer_does_not_name_gets_no_media(focus: LoopbackFocus) -> None:
    alice = Connection(fingerprint=("sha-256", ":".join(["AB"] * 32)))
    await alice.open()
    focus.answer(ALICE, alice)
    with pytest.raises(TimeoutError):
        await alice.connect(timeout=2)
    assert focus.media.counts["received audio"] == 0
    lost = focus.legs[ALICE].lost
    assert lost is not None
    assert "certificate" in lost.detail
    await alice.close()


async def test_a_participant_that_vanishes_says_nothing(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice:
        await until(lambda: focus.media.counts["rtp"] > 10)
        await alice.vanish()
        before = dict(focus.media.counts)
        await asyncio.sleep(0.3)
        assert dict(focus.media.counts) == before
        assert focus.legs[ALICE].lost is None
