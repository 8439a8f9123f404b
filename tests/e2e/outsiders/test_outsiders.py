"""Outsiders get nothing, by packets at their socket and words on their channel, beside a talk that goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.focus import CALL_MEMBER
from tests.support.participant import Mischief, Participant, RefusedError

from .support import (
    SOFT_FAILED,
    Talk,
    assert_got_nothing,
    assert_never_shown,
    heard_of,
    pry,
    push,
    sees_and_hears,
    state_event,
    traces,
    tracks,
)

pytestmark = pytest.mark.synapse

SILENT = Mischief(publish_state=False)
WRONG = ("sha-256", ":".join(["AB"] * 32))
HELD = {
    "is not in the call": SILENT,
    "is in the call with another session": Mischief(state_session="another"),
    "is in the call with another device": Mischief(state_device="OTHER"),
    "has expired": Mischief(expires_in_ms=-61_000),
}


async def refused(talk: Talk, outsider: Participant, room_id: str | None = None) -> str:
    """Let an outsider call; it must be refused. Returns the reason."""
    with pytest.raises(RefusedError) as refusal:
        await outsider.join(room_id or talk.call.room_id, talk.call.conf_id, create_call=False)
    assert not outsider.connection.socket.counts
    assert {message.type for message in outsider.messages} == {"m.call.reject"}
    assert_got_nothing(outsider, talk.alice, talk.bob)
    assert_never_shown(outsider, talk.alice, talk.bob)
    return str(refusal.value)


async def test_a_stranger_is_refused_without_a_datagram(talk: Talk) -> None:
    naming = await talk.call.participant("mallory", member=False, mischief=SILENT)
    guessing = await talk.call.participant("mallet", member=False, mischief=Mischief(False, name_room=False))
    reasons = await asyncio.gather(*(refused(talk, stranger) for stranger in (naming, guessing)))
    assert set(reasons) == {"unknown_error"}, "no more is learnt of a call that exists than of one that does not"


async def test_who_was_only_invited_to_the_room_is_refused(talk: Talk) -> None:
    mallory = await talk.call.participant("mallory", member=False, mischief=SILENT)
    await talk.call.host.invite(talk.call.room_id, mallory.device.user_id)
    await refused(talk, mallory)


@pytest.mark.parametrize("mischief", HELD.values(), ids=HELD)
async def test_who_is_joined_to_the_room_but(mischief: Mischief, talk: Talk) -> None:
    """Gets no media, is shown nothing and shown to nobody; once the state is right the same leg gets it all."""
    mallory = await talk.call.participant("mallory", mischief=mischief)
    await talk.call.join(mallory)
    await pry(mallory, talk.alice, talk.bob)
    assert mallory.hung_up is None
    assert mallory.connection.sender.encodings, "it did publish"
    assert_got_nothing(mallory, talk.alice, talk.bob)
    assert_never_shown(mallory, talk.alice, talk.bob)

    mallory.mischief = Mischief()
    await mallory.publish_state()
    await sees_and_hears(mallory, talk.alice, talk.bob)
    await talk.alice.until(lambda: talk.alice.streams_of(mallory))


async def test_a_soft_failed_join_lets_nobody_back_in(talk: Talk) -> None:
    mallory, alice = await talk.call.participant("mallory", mischief=SILENT), talk.alice
    room_id, user = talk.call.room_id, mallory.device.user_id
    await talk.call.host.kick(room_id, user)
    kicked = await event_id(talk, "m.room.member", user)
    join = {"membership": "join"}

    def joining(**unsigned: Any) -> dict[str, Any]:
        return state_event(room_id, "m.room.member", user, user, join) | {"unsigned": unsigned}

    def listing(**unsigned: Any) -> dict[str, Any]:
        content = mallory.membership(talk.call.conf_id)
        return state_event(room_id, CALL_MEMBER, user, user, content) | {"unsigned": unsigned}

    marked = {SOFT_FAILED: True}
    await push(talk.focus, joining(replaces_state=kicked, **marked), listing(**marked))
    await refused(talk, mallory)
    await push(talk.focus, listing())  # shows no membership against a known kick
    await refused(talk, mallory)
    await push(talk.focus, joining(replaces_state="$from-before-the-kick"))  # a fork
    await refused(talk, mallory)

    await push(talk.focus, joining(replaces_state=kicked))
    await talk.call.join(mallory, create_call=False)
    await sees_and_hears(mallory, alice)


async def test_a_soft_failed_member_event_puts_nobody_into_the_call(talk: Talk) -> None:
    mallory = await talk.call.participant("mallory", mischief=SILENT)
    user, content = mallory.device.user_id, mallory.membership(talk.call.conf_id)
    event = state_event(talk.call.room_id, CALL_MEMBER, user, user, content)
    await push(talk.focus, event | {"unsigned": {SOFT_FAILED: True}})
    await talk.call.join(mallory)
    await pry(mallory, talk.alice, talk.bob)
    assert_got_nothing(mallory, talk.alice, talk.bob)
    assert_never_shown(mallory, talk.alice, talk.bob)

    await push(talk.focus, event | {"event_id": "$without-the-mark"})
    await sees_and_hears(mallory, talk.alice)


async def test_a_member_event_in_anothers_name_puts_nobody_into_the_call(talk: Talk) -> None:
    """An event whose sender is not its state key is not read, whoever pushed it."""
    mallory = await talk.call.participant("mallory", mischief=SILENT)
    content = mallory.membership(talk.call.conf_id)
    host, user = talk.call.host.user_id, mallory.device.user_id
    await push(talk.focus, state_event(talk.call.room_id, CALL_MEMBER, host, user, content))
    await talk.call.join(mallory)
    await pry(mallory, talk.alice, talk.bob)
    assert_got_nothing(mallory, talk.alice, talk.bob)


async def test_a_certificate_that_the_offer_does_not_name_gets_no_media_either_way(talk: Talk) -> None:
    """By the room's state she belongs to the call: only the certificate tells that another speaks for her."""
    mallory = await talk.call.participant("mallory", mischief=Mischief(fingerprint=WRONG))
    unused = ("srtp_early_kept", "dropped_unknown_address")  # before her leg ended, and after

    async def seen() -> float:
        return sum([await talk.focus.metric(f"mautrix_sfu_media_{name}_total") for name in unused])

    before, calling = await seen(), asyncio.create_task(talk.call.join(mallory, timeout=2.5))
    await mallory.invited.wait()
    talk.alice.subscribe(*tracks(talk.bob), *tracks(mallory))
    with pytest.raises(TimeoutError):
        await calling
    await mallory.until(lambda: mallory.hung_up == "unknown_error", what="the focus hangs up")
    counts = mallory.connection.socket.counts
    assert counts["dtls"], "the handshake went to its end"
    assert sum(encoding.packets for encoding in mallory.connection.sender.encodings.values()) > 50, "she used her keys"
    assert await seen() - before > 50, "and it came to the focus"

    assert counts["rtp"] == counts["rtcp"] == 0
    assert not [message for message in mallory.messages if message.channel]
    await talk.alice.until(lambda: not talk.alice.streams_of(mallory))
    assert not heard_of(talk.alice, mallory)


async def test_the_same_call_id_in_a_second_room_opens_nothing_of_the_first(talk: Talk) -> None:
    host = await talk.call.user("owner")
    own_room = await talk.call.deployment.room_with_call(talk.call.conf_id, host)
    naming, guessing, climber = [
        await talk.call.participant(name, member=False, mischief=mischief)
        for name, mischief in (
            ("mallory", Mischief()),
            ("mallet", Mischief(name_room=False)),
            ("malvolio", SILENT),
        )
    ]
    for outsider in (naming, guessing, climber):
        await host.invite(own_room, outsider.device.user_id)
        await outsider.matrix.request("POST", f"/_matrix/client/v3/join/{own_room}", {})
    await naming.join(own_room, talk.call.conf_id)
    await guessing.join(own_room, talk.call.conf_id)
    # Listed in the own room, the third names the first one in the invite.
    listing = climber.membership(talk.call.conf_id)
    await climber.matrix.send_state(own_room, CALL_MEMBER, climber.device.user_id, listing)
    await refused(talk, climber, talk.call.room_id)

    await sees_and_hears(naming, guessing)  # in their own room they are served
    await asyncio.gather(*(pry(each, talk.alice, talk.bob) for each in (naming, guessing)))
    for outsider, other in ((naming, guessing), (guessing, naming)):
        for talker in (talk.alice, talk.bob):
            assert not traces(outsider, talker)
            assert not traces(talker, outsider)
        assert set(outsider.metadata) == {
            stream for stream, _ in ((t.stream_id, t) for t in other.connection.published)
        }
    heard = {mid for mid, _ in naming.received}
    shown = {line.msids[0].stream_id for line in naming.connection.offered if line.mid in heard and line.msids}
    assert shown <= {guessing.connection.stream_id}
    assert not guessing.received, "who asks only for what another room has gets nothing"


async def event_id(talk: Talk, event_type: str, state_key: str) -> str:
    """The id of a state event of the room."""
    state = await talk.call.host.get_state(talk.call.room_id)
    return next(str(e["event_id"]) for e in state if (e["type"], e["state_key"]) == (event_type, state_key))
