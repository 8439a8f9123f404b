"""The headless participant in real calls: a real homeserver, the focus as a process of its own, real packets."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.focus import Deployment
from tests.support.participant import Mischief, Participant, RefusedError
from tests.support.synapse import Client

pytestmark = pytest.mark.synapse


class Call:
    """A room with a call, and its participants."""

    def __init__(self, deployment: Deployment, stack: AsyncExitStack) -> None:
        self.deployment = deployment
        self.conf_id = secrets.token_hex(6)
        self.room_id = ""
        self.host: Client | None = None
        self._stack = stack

    async def open(self) -> None:
        """Make the room."""
        self.host = await self._user("host")
        self.room_id = await self.deployment.room_with_call(self.conf_id, self.host)

    async def _user(self, name: str) -> Client:
        localpart = f"{name}-{secrets.token_hex(3)}"
        await self.deployment.synapse.register_user(localpart)
        return await self.deployment.synapse.login(localpart)

    async def participant(self, name: str, *, member: bool = True, mischief: Mischief | None = None) -> Participant:
        """A device of a new user, which is a member of the room."""
        client = await self._user(name)
        assert self.host is not None
        if member:
            await self.host.invite(self.room_id, client.user_id)
            await client.join(self.room_id)
        made = Participant(
            self.deployment.synapse.base_url,
            client.user_id,
            client.device_id,
            self.deployment.focus.device,
            token=client.token,
            mischief=mischief,
        )
        return await self._stack.enter_async_context(made)

    async def join(self, *participants: Participant, **options: Any) -> None:
        """Let them join one after the other."""
        for participant in participants:
            await participant.join(self.room_id, self.conf_id, **options)


@pytest.fixture
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with AsyncExitStack() as stack:
        made = Call(shared_deployment, stack)
        await made.open()
        yield made
    await shared_deployment.synapse.close_http()


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


@pytest.mark.parametrize(
    "mischief",
    [Mischief(state_session="another"), Mischief(state_device="OTHER"), Mischief(expires_in_ms=-600_000)],
    ids=["session", "device", "expired"],
)
async def test_a_device_that_the_state_does_not_name_gets_no_packet(call: Call, mischief: Mischief) -> None:
    alice, mallory = await call.participant("alice"), await call.participant("mallory", mischief=mischief)
    await call.join(alice)
    try:
        await call.join(mallory)
    except (RefusedError, TimeoutError):
        return
    stream = next(iter(alice.own_metadata()))
    tracks = [(stream, track.track_id) for track in alice.connection.published]
    mallory.subscribe(*tracks)
    with pytest.raises(AssertionError):
        await mallory.until(lambda: mallory.received or mallory.metadata, timeout=1.5)


async def test_a_wrong_fingerprint_gets_no_packet(call: Call) -> None:
    mischief = Mischief(fingerprint=("sha-256", ":".join(["AB"] * 32)))
    alice, mallory = await call.participant("alice"), await call.participant("mallory", mischief=mischief)
    await call.join(alice)
    with pytest.raises((RefusedError, TimeoutError)):
        await mallory.join(call.room_id, call.conf_id, timeout=3)
    assert mallory.connection.socket.counts["rtp"] == 0


async def test_a_stranger_is_refused_without_a_packet(call: Call) -> None:
    alice, mallory = await call.participant("alice"), await call.participant("mallory", member=False)
    mallory.mischief = Mischief(publish_state=False)
    await call.join(alice)
    with pytest.raises(RefusedError):
        await mallory.join(call.room_id, call.conf_id, create_call=False, timeout=15)
    assert not mallory.connection.socket.counts
