"""Participants' WebRTC halves with the edge, the negotiation and the real media core, over loopback UDP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mautrix_sfu.core.ids import LegId
from mautrix_sfu.media import Media
from tests.support.participant_connection import Connection
from tests.support.participant_rtp import Received

from .loopback import LoopbackFocus

ALICE, BOB, CAROL = LegId(1), LegId(2), LegId(3)


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
async def focus(request: pytest.FixtureRequest) -> AsyncIterator[LoopbackFocus]:
    media = Media([("127.0.0.1", 0)], request.param)
    made = LoopbackFocus(media)
    media.start(asyncio.get_running_loop(), made)
    yield made
    await made.stop()
    media.shutdown()


@asynccontextmanager
async def joined(focus: LoopbackFocus, leg: LegId, **options: bool) -> AsyncIterator[Connection]:
    connection = Connection(**options)  # type: ignore[arg-type]
    await connection.open()
    try:
        await focus.join(leg, connection)
        yield connection
    finally:
        await connection.close()


def watch(focus: LoopbackFocus, leg: LegId, viewer: Connection, source: LegId, **options: tuple[int, int]) -> str:
    """Let a leg be sent all of another's tracks; gives the mid of the video."""
    placed = focus.send(leg, viewer, source, **options)
    return next(str(mid) for mid, (_, track) in placed.items() if track.kind.value == "video")


def seen(viewer: Connection, mid: str) -> Received:
    return viewer.received_on(mid) or Received(mid, 0, "video")


async def test_a_participant_connects_and_talks(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice:
        await until(lambda: focus.legs[ALICE].opened)
        alice.send_text('{"type": "m.call.ping"}')
        async with asyncio.timeout(45):
            assert "pong" in str(await alice.peer.messages.get())


async def test_one_hears_and_sees_another_without_a_gap(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE), joined(focus, BOB) as bob:
        placed = focus.send(BOB, bob, ALICE)
        await until(lambda: len(bob.received) == 2 and all(item.packets > 50 for item in bob.received.values()))
        assert {(item.mid, item.kind) for item in bob.received.values()} == {
            (str(mid), track.kind.value) for mid, (_, track) in placed.items()
        }
        for item in bob.received.values():
            assert item.missing == item.duplicates == item.timestamp_jumps == item.picture_gaps == 0
        assert bob.unknown == bob.undecryptable == 0


async def test_the_asked_size_chooses_the_layer(focus: LoopbackFocus) -> None:
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(joined(focus, ALICE))
        bob, carol = [await stack.enter_async_context(joined(focus, leg)) for leg in (BOB, CAROL)]
        large = watch(focus, BOB, bob, ALICE, size=(640, 360))
        small = watch(focus, CAROL, carol, ALICE, size=(160, 90))
        await until(lambda: seen(bob, large).size == (640, 360))
        await until(lambda: seen(carol, small).size == (160, 90))
        watch(focus, CAROL, carol, ALICE, size=(640, 360))
        await until(lambda: seen(carol, small).size == (640, 360))
        await asyncio.sleep(0.5)
        for item in (seen(bob, large), seen(carol, small)):
            assert item.missing == item.duplicates == item.timestamp_jumps == item.picture_gaps == 0
        assert alice.undecryptable == 0


async def test_a_subscriber_starts_with_a_key_frame_at_once(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice, joined(focus, BOB) as bob:
        await asyncio.sleep(1)
        mid = watch(focus, BOB, bob, ALICE)
        await until(lambda: seen(bob, mid).key_frames, timeout=45)
        assert seen(bob, mid).frames >= seen(bob, mid).key_frames
        assert alice.sender.feedback.get("pli", 0) + alice.sender.feedback.get("fir", 0) >= 1


async def test_the_publisher_is_told_of_its_bandwidth(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice:
        await until(lambda: alice.sender.feedback.get("remb") or alice.sender.feedback.get("transport-cc"))
        await until(lambda: alice.sender.feedback.get("rtcp-201"), timeout=45)


async def test_nothing_is_sent_after_a_subscription_ends_or_a_leg_is_removed(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE), joined(focus, BOB) as bob:
        watch(focus, BOB, bob, ALICE)
        await until(lambda: len(bob.received) == 2)
        focus.send(BOB, bob)
        await asyncio.sleep(0.1)
        before = sum(item.packets for item in bob.received.values())
        await asyncio.sleep(0.4)
        assert sum(item.packets for item in bob.received.values()) == before
        focus.rtc.close(BOB)
        await asyncio.sleep(0.1)
        counts = dict(bob.socket.counts)
        await asyncio.sleep(0.4)
        assert dict(bob.socket.counts) == counts


async def test_a_reused_m_line_carries_the_other_track(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE), joined(focus, BOB) as bob, joined(focus, CAROL):
        first = watch(focus, BOB, bob, ALICE)
        await until(lambda: seen(bob, first).packets > 10)
        focus.send(BOB, bob)
        second = watch(focus, BOB, bob, CAROL)
        assert second == first
        old = seen(bob, first).ssrc
        await until(lambda: seen(bob, first).ssrc != old and seen(bob, first).packets > 10)


async def test_legs_of_other_groups_are_not_heard(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE), joined(focus, BOB) as bob:
        focus.media.set_group(ALICE, 2)
        focus.send(BOB, bob, ALICE)
        await asyncio.sleep(0.5)
        assert bob.received == {}


async def test_an_ice_restart_keeps_the_media_flowing(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice, joined(focus, BOB) as bob:
        mid = watch(focus, BOB, bob, ALICE)
        focus.answer(ALICE, alice, alice.offer(restart_ice=True))
        await until(alice.ice.connected.is_set)
        before = seen(bob, mid).packets
        await until(lambda: seen(bob, mid).packets > before + 20)


async def test_a_certificate_that_the_offer_does_not_name_gets_no_media(focus: LoopbackFocus) -> None:
    async with joined(focus, BOB) as bob:
        mallory = Connection(fingerprint=("sha-256", ":".join(["AB"] * 32)))
        await mallory.open()
        focus.answer(ALICE, mallory)
        with pytest.raises(TimeoutError):
            await mallory.connect(timeout=2)
        focus.send(BOB, bob, ALICE)
        focus.media.forward(ALICE, "s0", BOB, "0", None, None)
        await asyncio.sleep(0.3)
        assert bob.received == {}
        assert mallory.socket.counts["rtp"] == 0
        assert focus.legs[ALICE].lost is not None
        await mallory.close()


async def test_garbage_from_one_disturbs_nobody(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE), joined(focus, BOB) as bob, joined(focus, CAROL) as carol:
        mid = watch(focus, BOB, bob, ALICE)
        await until(lambda: seen(bob, mid).packets > 10)
        for size in (0, 1, 11, 20, 100, 1400):
            for first in (0, 1, 20, 22, 63, 64, 128, 144, 200):
                carol.send_raw(bytes([first]) + secrets.token_bytes(size))
        for size in (12, 40, 200):
            carol._send_rtp(bytes([0x80, 96]) + secrets.token_bytes(size))
            carol._send_rtp(
                bytes([0x90, 111]) + secrets.token_bytes(10) + b"\xbe\xde\x00\x01" + secrets.token_bytes(size)
            )
            carol._send_rtp(bytes([0x81, 206]) + secrets.token_bytes(size + 2))
        before = seen(bob, mid).packets
        await until(lambda: seen(bob, mid).packets > before + 30)
        assert seen(bob, mid).missing == 0
        carol.send_text("still here")
        await until(lambda: focus.legs[CAROL].texts)


async def test_a_listener_publishes_nothing_and_hears(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice, joined(focus, BOB, audio=False, video=False) as bob:
        assert focus.legs[BOB].receives == ()
        focus.send(BOB, bob, ALICE)
        await until(lambda: len(bob.received) == 2)
        assert alice.received == {}


async def test_a_shared_screen_is_published_on_an_m_line_of_its_own(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE) as alice, joined(focus, BOB) as bob:
        screen = alice.share_screen()
        focus.answer(ALICE, alice)
        assert [track.mid for track in focus.legs[ALICE].receives] == ["0", "1", screen.mid]
        focus.send(BOB, bob, ALICE)
        await until(lambda: len({mid for mid, _ in bob.received}) == 3)


async def test_a_peer_that_closes_is_noticed_and_one_that_vanishes_is_not(focus: LoopbackFocus) -> None:
    async with joined(focus, ALICE), joined(focus, BOB) as bob:
        await bob.vanish()
    await until(lambda: focus.legs[ALICE].lost)
    assert focus.legs[BOB].lost is None


async def heard(viewer: Connection, mid: str) -> None:
    """Half a second more of a voice."""
    before = seen(viewer, mid).packets
    await until(lambda: seen(viewer, mid).packets > before + 25)


async def test_of_two_voices_the_louder_is_passed_on_where_one_is_and_they_take_turns_without_a_gap(
    focus: LoopbackFocus,
) -> None:
    focus.media.set_loudest(1)
    async with joined(focus, ALICE) as alice, joined(focus, BOB) as bob, joined(focus, CAROL) as carol:
        bob.sender.audio_level = 127
        placed = focus.send(CAROL, carol, ALICE, BOB)
        voices = {source: str(mid) for mid, (source, track) in placed.items() if track.kind.value == "audio"}
        assert len(voices) == 2
        for speaker, other in ((ALICE, BOB), (BOB, ALICE)):
            alice.sender.audio_level, bob.sender.audio_level = (20, 127) if speaker is ALICE else (127, 20)
            await heard(carol, voices[speaker])
            quiet = seen(carol, voices[other]).packets
            await heard(carol, voices[speaker])
            assert seen(carol, voices[other]).packets == quiet
        assert all(seen(carol, mid).missing == seen(carol, mid).duplicates == 0 for mid in voices.values())
        focus.media.set_loudest(0)
        for mid in voices.values():
            await heard(carol, mid)
