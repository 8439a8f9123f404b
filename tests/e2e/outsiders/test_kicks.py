"""Who loses the right to be in a call gets no packet a second later, whatever the way; the others never notice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tests.support.calls import Call
from tests.support.focus import CALL, CALL_MEMBER
from tests.support.participant import Mischief, Participant, RefusedError

from .support import Talk, assert_got_nothing, sees_and_hears, traces

pytestmark = pytest.mark.synapse

IN_TIME = 1.0  # second from the sending of the kick to the last packet
AFTERWARDS = 1.0  # seconds more in which nothing may come

Act = Callable[[Call, Participant], Awaitable[object]]


async def leave(call: Call, mallory: Participant) -> None:
    """Leave the room and say nothing to the focus."""
    await mallory.matrix.request("POST", f"/_matrix/client/v3/rooms/{call.room_id}/leave", {})


async def empty(call: Call, mallory: Participant) -> None:
    """Empty the member event, as redacted ones are."""
    await mallory.matrix.send_state(call.room_id, CALL_MEMBER, mallory.device.user_id, {})


async def expire(call: Call, mallory: Participant) -> None:
    """Publish a device whose time is up."""
    mallory.mischief = Mischief(expires_in_ms=-61_000)
    await mallory.publish_state()


async def change_session(call: Call, mallory: Participant) -> None:
    """Publish the device in another session."""
    mallory.mischief = Mischief(state_session="another")
    await mallory.publish_state()


WAYS: dict[str, Act] = {
    "is kicked": lambda call, mallory: call.host.kick(call.room_id, mallory.device.user_id),
    "is banned": lambda call, mallory: call.host.ban(call.room_id, mallory.device.user_id),
    "leaves the room": leave,
    "leaves the call": lambda _, mallory: mallory.publish_state(in_call=False),
    "has an empty member event": empty,
    "has expired": expire,
    "is listed with another session": change_session,
}


async def assert_silence_from(since: float, *participants: Participant) -> None:
    """After IN_TIME nothing comes any more: no media, no DTLS, not even an answer to STUN."""
    before = [participant.connection.socket.last["rtp"] for participant in participants]
    assert all(last > since - 0.5 for last in before), "media flowed until then"
    await asyncio.sleep(max(0.0, since + IN_TIME - time.monotonic()))
    counts = [participant.connection.socket.counts.copy() for participant in participants]
    await asyncio.sleep(AFTERWARDS)
    for participant, counted in zip(participants, counts, strict=True):
        assert participant.connection.socket.counts == counted
        assert max(participant.connection.socket.last.values()) < since + IN_TIME


@pytest.mark.parametrize("act", WAYS.values(), ids=WAYS)
async def test_no_packet_a_second_after_one(act: Act, talk: Talk) -> None:
    """And what the other goes on sending reaches nobody."""
    alice, call = talk.alice, talk.call
    mallory = await call.participant("mallory")
    await call.join(mallory)
    await sees_and_hears(mallory, alice, talk.bob)
    await sees_and_hears(alice, mallory, talk.bob)
    of_mallory = alice.video_of(mallory), alice.audio_of(mallory)
    since = time.monotonic()
    await act(call, mallory)
    await assert_silence_from(since, mallory)
    assert mallory.hung_up in ("user_hangup", "new_session")
    assert sum(encoding.packets for encoding in mallory.connection.sender.encodings.values()) > 50
    assert all(0 < source.last_at < since + IN_TIME for source in of_mallory)
    assert not alice.streams_of(mallory)
    assert not talk.bob.streams_of(mallory)


async def test_whose_time_runs_out_in_the_call_gets_no_packet_a_second_later(talk: Talk) -> None:
    """A device counts for a minute more than it says; here that minute is nearly over."""
    left = 5.0
    mallory = await talk.call.participant("mallory", mischief=Mischief(expires_in_ms=int(left * 1000) - 60_000))
    published = time.monotonic()
    await talk.call.join(mallory)
    await sees_and_hears(mallory, talk.alice)
    await asyncio.sleep(max(0.0, published + left - 0.2 - time.monotonic()))
    assert mallory.hung_up is None
    listed = time.monotonic()
    await mallory.until(lambda: mallory.hung_up, what="the focus hangs up")
    assert time.monotonic() < listed + 1.5
    await assert_silence_from(listed + 0.5, mallory)


async def test_who_lists_another_focus_is_held_and_gets_media_again_when_back(talk: Talk) -> None:
    mallory = await talk.call.participant("mallory")
    await talk.call.join(mallory)
    await sees_and_hears(mallory, talk.alice)
    since = time.monotonic()
    await mallory.publish_state(active=False)
    await asyncio.sleep(max(0.0, since + IN_TIME - time.monotonic()))
    packets = mallory.connection.socket.counts["rtp"]
    await asyncio.sleep(AFTERWARDS)
    assert mallory.connection.socket.counts["rtp"] == packets
    assert mallory.connection.socket.last["rtp"] < since + IN_TIME
    assert not mallory.metadata
    assert not talk.bob.streams_of(mallory)
    assert mallory.hung_up is None
    await mallory.publish_state()
    await sees_and_hears(mallory, talk.alice)


async def test_who_was_kicked_is_refused_until_invited_back(talk: Talk) -> None:
    call = talk.call
    mallory = await call.participant("mallory")
    await call.join(mallory)
    await sees_and_hears(mallory, talk.alice)
    await call.host.kick(call.room_id, mallory.device.user_id)
    await mallory.until(lambda: mallory.hung_up, what="the focus hangs up")
    mallory.mischief = Mischief(publish_state=False)
    mallory.messages.clear()
    with pytest.raises(RefusedError):
        await call.join(mallory, create_call=False)
    assert not mallory.connection.socket.counts
    assert not traces(mallory, talk.alice)

    await call.host.invite(call.room_id, mallory.device.user_id)
    await mallory.matrix.request("POST", f"/_matrix/client/v3/join/{call.room_id}", {})
    await call.join(mallory)  # the member event from before the kick still lists the device
    await sees_and_hears(mallory, talk.alice)


async def test_when_the_call_is_terminated_everybodys_packets_stop(call: Call) -> None:
    alice, bob = await call.joined("alice", "bob")
    since = time.monotonic()
    await call.host.send_state(call.room_id, CALL, call.conf_id, {"m.intent": "m.room", "m.terminated": "call_ended"})
    await assert_silence_from(since, alice, bob)
    assert alice.hung_up == bob.hung_up == "user_hangup"
    latecomer = await call.participant("mallory")
    with pytest.raises(RefusedError):
        await call.join(latecomer, create_call=False)


async def test_who_is_kicked_while_the_focus_is_down_gets_nothing_after_its_restart(call: Call) -> None:
    """He calls again before the focus runs, in the session that the state from before the kick still names."""
    focus = call.deployment.focus
    alice, bob, mallory = await call.joined("alice", "bob", "mallory")
    focus.kill()
    await call.host.kick(call.room_id, mallory.device.user_id)
    await mallory.matrix.stop()
    assert mallory.matrix.token is not None
    again = Participant(
        call.deployment.synapse.base_url,
        mallory.device.user_id,
        mallory.device.device_id,
        focus.device,
        token=mallory.matrix.token,
        mischief=Mischief(publish_state=False),
    )
    again.session_id = mallory.session_id
    before = mallory.connection.socket.counts.copy()
    async with again:
        calling = asyncio.create_task(call.join(again, create_call=False))
        await again.invited.wait()
        await focus.start()
        await asyncio.gather(call.join(alice), call.join(bob))
        await sees_and_hears(alice, bob)
        await sees_and_hears(bob, alice)
        await again.until(lambda: again.hung_up, what="he is refused, or was held until the kick was known")
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await asyncio.sleep(AFTERWARDS)
        assert_got_nothing(again, alice, bob)
        assert not alice.streams_of(mallory)
        assert not bob.streams_of(mallory)
    assert sum(encoding.packets for encoding in mallory.connection.sender.encodings.values()) > 50
    errors = mallory.connection.socket.counts["errors"]  # nobody listened for a while
    assert mallory.connection.socket.counts == before | Counter(errors=errors)
