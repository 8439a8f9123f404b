"""The headless participant in real calls: a real homeserver, the focus as a process of its own, real packets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.support.calls import Call
from tests.support.focus import Deployment

pytestmark = pytest.mark.synapse


@pytest.fixture
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(shared_deployment) as made:
        yield made


async def test_two_participants_hear_and_see_each_other(call: Call) -> None:
    alice, bob = await call.participant("alice"), await call.participant("bob")
    await call.join(alice, bob)
    for one, other in ((alice, bob), (bob, alice)):
        await one.subscribe_to(other)
    for one, other in ((alice, bob), (bob, alice)):
        await one.until(lambda one=one, other=other: one.video_of(other).packets > 50, what="video")  # type: ignore[misc]
        await one.until(lambda one=one, other=other: one.audio_of(other).packets > 50, what="audio")  # type: ignore[misc]
        assert one.video_of(other).key_frames
        assert one.video_of(other).missing == one.audio_of(other).missing == 0
        assert one.connection.undecryptable == 0
    assert not alice.streams_of(alice)


async def test_the_subscribed_size_chooses_the_layer(call: Call) -> None:
    alice, bob = await call.participant("alice"), await call.participant("bob")
    await call.join(alice, bob)
    await bob.subscribe_to(alice, size=(160, 90))
    await bob.until(lambda: bob.video_of(alice).size == (160, 90), what="the small layer")
    await bob.subscribe_to(alice, size=(640, 360))
    await bob.until(lambda: bob.video_of(alice).size == (640, 360), what="the large layer")
    assert bob.video_of(alice).picture_gaps == bob.video_of(alice).missing == 0


async def test_mute_is_told_and_who_leaves_is_gone_and_may_come_back(call: Call) -> None:
    alice, bob = await call.participant("alice"), await call.participant("bob")
    await call.join(alice, bob)
    await bob.subscribe_to(alice)
    alice.mute(audio=True, video=False)
    await bob.until(lambda: all(stream["audio_muted"] for stream in bob.streams_of(alice).values()), what="mute")
    await alice.leave()
    await bob.until(lambda: not bob.streams_of(alice), what="alice is gone")
    await call.join(alice)
    await bob.subscribe_to(alice)
    await bob.until(lambda: bob.video_of(alice).packets > 20, what="alice is back")


async def test_a_shared_screen_is_a_second_stream(call: Call) -> None:
    alice, bob = await call.participant("alice"), await call.participant("bob")
    await call.join(alice, bob)
    await bob.subscribe_to(alice)
    screen = alice.share_screen()
    await bob.until(lambda: len(bob.streams_of(alice)) == 2, what="the screen is advertised")
    assert bob.streams_of(alice)[screen.stream_id]["purpose"] == "m.screenshare"
    bob.subscribe((screen.stream_id, screen.track_id))

    def shown() -> list[str]:
        msid = (screen.stream_id, screen.track_id)
        return [line.mid for line in bob.connection.offered if msid in line.msids]

    await bob.until(lambda: any(bob.connection.received_on(mid) for mid in shown()), what="the screen is received")


async def test_an_ice_restart_keeps_the_call(call: Call) -> None:
    alice, bob = await call.participant("alice"), await call.participant("bob")
    await call.join(alice, bob)
    await bob.subscribe_to(alice)
    await bob.until(lambda: bob.video_of(alice).packets > 20)
    alice.negotiate(restart_ice=True)
    await alice.until(lambda: not alice.connection.own_offer and alice.connection.ice.connected.is_set())
    before = bob.video_of(alice).packets
    await bob.until(lambda: bob.video_of(alice).packets > before + 50)
    assert alice.hung_up is None


async def test_garbage_on_the_channel_is_answered_with_an_error(call: Call) -> None:
    alice = await call.participant("alice")
    await call.join(alice)
    for text in ("no json", "[]", json.dumps({"type": "what", "content": {}}), '{"type": "m.call.negotiate"}'):
        alice.connection.send_text(text)
    await alice.until(lambda: len(alice.said("org.matrix.msc3898.error")) >= 3, what="errors")
    alice.tell("m.call.ping")
    await alice.until(lambda: alice.said("m.call.pong"), what="a pong")
