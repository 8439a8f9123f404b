"""Nobody speaks in another's name, and nobody takes more places than there are for him."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.focus import CALL_MEMBER
from tests.support.participant import METADATA, Mischief, Participant, RefusedError

from .conftest import HELD_LEGS_PER_USER, LEGS_PER_CONFERENCE, LEGS_PER_USER
from .support import Talk, sees_and_hears, tracks

pytestmark = pytest.mark.synapse


def in_the_name_of(victim: Participant, liar: Participant) -> dict[str, Any]:
    """Metadata that says: the victim's stream is mine, and my stream is the victim's."""
    owner = {"user_id": victim.device.user_id, "device_id": victim.device.device_id}
    own, others = ({track_id: {"kind": "video"} for _, track_id in tracks(each)} for each in (liar, victim))
    stolen = {"purpose": "m.screenshare", "audio_muted": True, "video_muted": True, **owner}
    return {
        victim.connection.stream_id: {**stolen, "tracks": {**own, **others}},
        liar.connection.stream_id: {**stolen, "tracks": others},
    }


async def test_metadata_in_anothers_name_is_never_seen_by_others(talk: Talk) -> None:
    alice, bob = talk.alice, talk.bob
    mallory = await talk.call.participant("mallory")
    await talk.call.join(mallory)
    await bob.until(lambda: bob.streams_of(mallory))
    mallory.tell("m.call.sdp_stream_metadata_changed", **{METADATA: in_the_name_of(alice, mallory)})
    told = bob.metadata
    await bob.until(lambda: bob.metadata is not told, what="the lie was heard")
    carol = await talk.call.participant("carol")  # who comes after the lie
    await talk.call.join(carol)
    await sees_and_hears(carol, alice, mallory)
    mallory.connection.sender.paused = {track_id for _, track_id in tracks(mallory)}
    await sees_and_hears(carol, alice)  # it is alice herself that she hears

    for viewer in (bob, carol):
        told_of_streams = [message.content[METADATA] for message in viewer.messages if METADATA in message.content]
        assert told_of_streams
        for streams in told_of_streams:
            for stream_id, stream in streams.items():
                shown = set(stream["tracks"])
                if stream["user_id"] == alice.device.user_id:
                    assert (stream_id, stream["device_id"]) == (alice.connection.stream_id, alice.device.device_id)
                    assert shown == {track_id for _, track_id in tracks(alice)}
                    assert (stream["purpose"], stream["video_muted"]) == ("m.usermedia", False)
                elif stream["user_id"] == mallory.device.user_id:
                    assert stream_id != alice.connection.stream_id
                    assert shown <= {track_id for _, track_id in tracks(mallory)}


async def test_a_hangup_or_negotiate_for_anothers_leg_changes_nothing(talk: Talk) -> None:
    """The homeserver vouches for the sender; the rest of the message is a claim."""
    mallory = await talk.call.participant("mallory")
    await talk.call.join(mallory)
    alice = talk.alice
    (invite_id,) = {message.content["call_id"] for message in alice.messages if not message.channel}
    claims = {
        "call_id": invite_id,
        "party_id": alice.device.device_id,
        "device_id": alice.device.device_id,
        "sender_session_id": alice.session_id,
        "seq": None,  # taken at once
    }
    await mallory.say("m.call.hangup", reason="user_hangup", **claims)
    await mallory.say("m.call.negotiate", description={"type": "offer", "sdp": mallory.connection.offer()}, **claims)
    await mallory.say("m.call.hangup", reason="user_hangup", seq=None)  # her own, after which both are worked off
    await alice.until(lambda: not alice.streams_of(mallory) and not talk.bob.streams_of(mallory))
    assert alice.hung_up is None
    assert talk.bob.streams_of(alice)


async def places_refused(talk: Talk, limit: str) -> tuple[float, float]:
    """How often a limit was hit, and how often somebody was refused for it."""
    return (
        await talk.focus.metric("mautrix_sfu_bounds_hit_total", cause=limit),
        await talk.focus.metric("mautrix_sfu_refusals_total", cause=limit),
    )


async def assert_busy(talk: Talk, participant: Participant, limit: str) -> None:
    """Let somebody call for whom there is no place: he is told so, and it is counted."""
    hit, refused = await places_refused(talk, limit)
    with pytest.raises(RefusedError, match=r"^user_busy$"):
        await talk.call.join(participant)
    assert [message.type for message in participant.messages] == ["m.call.reject"]
    assert not participant.connection.socket.counts
    assert not talk.alice.streams_of(participant)
    assert await places_refused(talk, limit) == (hit + 1, refused + 1)


async def devices(talk: Talk, count: int) -> list[Participant]:
    """Devices of one new member."""
    client = await talk.call.member("many")
    localpart = client.user_id[1:].partition(":")[0]
    logins = [client, *[await talk.call.deployment.synapse.login(localpart) for _ in range(count - 1)]]
    return [await talk.call.device(login, mischief=Mischief(publish_state=False)) for login in logins]


async def test_more_connections_of_a_user_or_in_a_call_than_there_may_be_are_refused_as_busy(talk: Talk) -> None:
    assert LEGS_PER_CONFERENCE == 2 + LEGS_PER_USER + 1
    many = await devices(talk, LEGS_PER_USER + 1)
    listed = [device.membership(talk.call.conf_id)["m.calls"][0]["m.devices"][0] for device in many]
    content = {"m.calls": [{"m.call_id": talk.call.conf_id, "m.devices": listed}]}
    await many[0].matrix.send_state(talk.call.room_id, CALL_MEMBER, many[0].device.user_id, content)
    *first, one_too_many = many
    await talk.call.join(*first, audio=False, video=False)
    await assert_busy(talk, one_too_many, "legs_per_user")

    carol, dave = await talk.call.participant("carol"), await talk.call.participant("dave")
    await talk.call.join(carol, video=False)
    await assert_busy(talk, dave, "legs_per_conference")

    await talk.alice.until(lambda: talk.alice.streams_of(carol))
    await carol.leave()
    await talk.alice.until(lambda: not talk.alice.streams_of(carol))
    await talk.call.join(dave)
    await sees_and_hears(dave, talk.alice)


async def test_more_places_held_by_one_user_than_there_may_be_are_refused_as_busy(talk: Talk) -> None:
    *first, one_too_many = await devices(talk, HELD_LEGS_PER_USER + 1)
    await asyncio.gather(*(talk.call.join(device) for device in first))
    await assert_busy(talk, one_too_many, "held_legs_per_user")
