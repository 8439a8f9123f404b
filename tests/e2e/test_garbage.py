"""Garbage in every form hurts nobody but its sender: two others talk all the while, and must not notice."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pylibsrtp
import pytest
import pytest_asyncio
from aioice import stun
from aiortc.rtcsctptransport import WEBRTC_STRING, RTCSctpTransport

from tests.support import garbage
from tests.support.calls import Call, Raw, Talkers
from tests.support.focus import Deployment
from tests.support.participant import Participant
from tests.support.participant_rtp import RtpPacket, picture_loss
from tests.support.synapse import MatrixError

pytestmark = [pytest.mark.synapse, pytest.mark.asyncio(loop_scope="module")]

SEED = 3898
BREATH = 20  # messages or datagrams between two looks at everything else in this process


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(shared_deployment) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def talkers(call: Call) -> AsyncIterator[Talkers]:
    async with Talkers(call) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nobody_notices(call: Call, talkers: Talkers) -> AsyncIterator[None]:
    focus = call.deployment.focus
    async with talkers.undisturbed():
        yield
    assert await focus.total("mautrix_sfu_internal_errors_total") == 0
    assert await focus.metric("mautrix_sfu_matrix_handler_failed_total") == 0


@pytest.fixture
def source() -> random.Random:
    return random.Random(SEED)


async def raw(call: Call) -> Raw:
    return Raw(call, await call.member("mallory"))


async def trickle(work: Iterable[Any]) -> AsyncIterator[Any]:
    """The items, with a pause now and then: what is measured runs in this process too."""
    for number, item in enumerate(work):
        if number % BREATH == 0:
            await asyncio.sleep(0.005)
        yield item


# ---------------------------------------------------------------- SDP


async def test_an_invite_without_a_description_is_rejected(call: Call, source: random.Random) -> None:
    mallory = await raw(call)
    await mallory.list_itself()
    focus = call.deployment.focus
    refused = await focus.total("mautrix_sfu_refusals_total") + await focus.total("mautrix_sfu_bad_messages_total")
    sent = 0
    for sdp in garbage.bad_sdps(source):
        content = mallory.invite(sdp)
        await mallory.send("m.call.invite", content)
        replies = await mallory.replies(content["call_id"])
        assert [event["type"] for event in replies] == ["m.call.reject"], sdp
        sent += 1
    now = await focus.total("mautrix_sfu_refusals_total") + await focus.total("mautrix_sfu_bad_messages_total")
    assert now - refused == sent


async def test_an_invite_with_a_mutated_description_is_answered_or_rejected(call: Call, source: random.Random) -> None:
    offers = [sdp for sdp in garbage.captures() if "a=setup:actpass" in sdp]
    outcomes = set()
    for number in range(60):
        if number % 30 == 0:  # nobody gets more answers than that in so short a time
            mallory = await raw(call)
            await mallory.list_itself()
        content = mallory.invite(garbage.mutated_sdp(source, source.choice(offers)))
        await mallory.send("m.call.invite", content)
        outcomes.add((await mallory.replies(content["call_id"]))[0]["type"])
    assert outcomes == {"m.call.answer", "m.call.reject"}


async def test_a_mutated_description_on_the_channel_gets_an_answer_or_an_error(
    call: Call, source: random.Random
) -> None:
    mallory = await call.participant("mallory")
    await call.join(mallory)
    errors = 0
    for number in range(80):
        sdp = garbage.mutated_sdp(source, source.choice(garbage.captures()))
        before = len(mallory.messages)
        mallory.tell("m.call.negotiate", description={"type": "offer", "sdp": sdp})
        await mallory.until(lambda before=before: replies(mallory, before), what=f"an answer to {sdp!r}")  # type: ignore[misc]
        errors += any(message.type == "org.matrix.msc3898.error" for message in replies(mallory, before))
        mallory.tell("m.call.negotiate", description={"type": "answer", "sdp": sdp})  # to nothing, or to our own offer
        if mallory.hung_up is not None or number % 15 == 14:
            await call.join(mallory)  # too much of it ends the leg
    assert errors


def replies(mallory: Participant, before: int) -> list[Any]:
    kinds = ("m.call.negotiate", "org.matrix.msc3898.error", "m.call.hangup")
    return [message for message in mallory.messages[before:] if message.type in kinds]


# ---------------------------------------------------------------- data channel


async def test_every_bad_message_on_the_channel_gets_an_error_and_too_many_end_the_leg(
    call: Call, source: random.Random
) -> None:
    focus = call.deployment.focus
    counted = await focus.total("mautrix_sfu_bad_messages_total")
    mallory = await call.participant("mallory")
    await call.join(mallory)
    errors = hangups = 0
    async for text in trickle(garbage.channel_messages(source)):
        before = len(mallory.messages)
        mallory.connection.send_text(text)
        mallory.tell("m.call.ping")
        await mallory.until(lambda before=before: settled(mallory, before), what=f"a reply to {text[:200]!r}")  # type: ignore[misc]
        errors += sum(message.type == "org.matrix.msc3898.error" for message in mallory.messages[before:])
        if mallory.hung_up is not None:
            hangups += 1
            await call.join(mallory)
    assert errors > 50
    assert hangups >= 2
    assert await focus.total("mautrix_sfu_bad_messages_total") - counted >= errors


def settled(mallory: Participant, before: int) -> bool:
    """The focus has worked off what was sent before the ping, or ended the leg."""
    return any(message.type in ("m.call.pong", "m.call.hangup") for message in mallory.messages[before:])


async def test_what_is_no_text_on_the_channel_gets_an_error(call: Call, source: random.Random) -> None:
    mallory = await call.participant("mallory")
    await call.join(mallory)
    channel, sctp = mallory.connection.peer.channel, cast("Any", mallory.connection.peer.sctp)
    assert channel is not None
    assert channel.id is not None
    channel.send(b"")
    channel.send(source.randbytes(100_000))
    for data in (b"\xff\xfe", b'{"type": "m.call.p\xc3"}', b"\xed\xa0\x80", source.randbytes(5000)):
        await cast("RTCSctpTransport", sctp)._send(channel.id, WEBRTC_STRING, data)
    await cast("RTCSctpTransport", sctp)._send(channel.id, 99, b"{}")  # a payload protocol that nobody knows
    await mallory.until(lambda: len(mallory.said("org.matrix.msc3898.error")) == 7, what="seven errors")
    mallory.tell("m.call.ping")
    await mallory.until(lambda: mallory.said("m.call.pong"), what="a pong")
    assert mallory.hung_up is None


async def test_thousands_of_messages_end_only_the_leg_of_their_sender(call: Call) -> None:
    mallory = await call.participant("mallory")
    await call.join(mallory)
    async for number in trickle(range(3000)):
        mallory.tell(f"org.example.unknown.{number}", padding="x" * 200)
    await mallory.until(lambda: mallory.hung_up is not None, timeout=45, what="a hangup")
    assert len(mallory.said("org.matrix.msc3898.error")) <= 25


async def test_packets_that_are_no_sctp_end_only_the_leg_of_their_sender(call: Call, source: random.Random) -> None:
    mallory = await call.participant("mallory")
    await call.join(mallory)
    dtls = mallory.connection.peer.dtls
    async for _ in trickle(range(400)):
        if mallory.hung_up is not None or dtls.state != "connected":
            break
        await dtls._send_data(garbage.random_bytes(source, 1, 1100))
    await mallory.until(lambda: mallory.hung_up is not None, timeout=45, what="a hangup")


# ---------------------------------------------------------------- to-device


async def test_to_device_garbage_is_counted_and_a_refusal_goes_where_one_is_due(
    call: Call, source: random.Random
) -> None:
    mallory = await raw(call)
    await mallory.list_itself()
    focus = call.deployment.focus
    name = "mautrix_sfu_matrix_to_device_received_total"
    counted, received = await focus.total("mautrix_sfu_bad_messages_total"), await focus.metric(name)
    offer = next(sdp for sdp in garbage.captures() if "a=setup:actpass" in sdp)
    sent = 0  # the homeserver itself does not take all of it
    things = list(to_device_garbage(mallory, offer, source))
    for start in range(0, len(things), BREATH):
        outcomes = await asyncio.gather(
            *(mallory.send(*each) for each in things[start : start + BREATH]), return_exceptions=True
        )
        refused = [error for error in outcomes if error is not None]
        assert all(isinstance(error, MatrixError) and error.status in (400, 413) for error in refused), refused
        sent += len(outcomes) - len(refused)
    assert sent > 150
    async with asyncio.timeout(45):
        while await focus.metric(name) - received < sent:
            await asyncio.sleep(0.1)
    assert await focus.total("mautrix_sfu_bad_messages_total") - counted > 50
    carol = await call.participant("carol")
    await call.join(carol)  # and the focus takes calls as ever


def to_device_garbage(mallory: Raw, offer: str, source: random.Random) -> Iterable[tuple[str, Any]]:
    types = ("m.call.invite", "m.call.candidates", "m.call.negotiate", "m.call.hangup", "m.call.select_answer")
    keys = [*mallory.invite(offer), "candidates", "description", "reason", "org.matrix.msc3077.sdp_stream_metadata"]
    for event_type in types:
        yield event_type, {}
        for key in keys:
            yield event_type, mallory.invite(offer) | {key: source.choice(garbage.wrong_values())}
            without = mallory.invite(offer)
            without.pop(key, None)
            yield event_type, without
    yield "m.call.candidates", mallory.fields(candidates=[{"candidate": "x", "sdpMid": "0"}] * 2000)
    yield "m.call.candidates", mallory.fields(candidates="x" * 60_000)
    yield "m.call.answer", mallory.fields(answer={"type": "answer", "sdp": offer})
    yield "m.room.encrypted", {"algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": {}}
    yield "m.call." + "x" * 200, mallory.fields()
    repeated = mallory.invite(offer)
    for seq in (0, 0, 5, 2**53, -1, 3, 1, 10**9, 1, 0.5, "1"):
        yield "m.call.candidates", repeated | {"seq": seq, "candidates": []}
    yield "m.call.invite", mallory.invite(offer, invitee=garbage.nested(90))


# ---------------------------------------------------------------- UDP


def stun_from_a_stranger(source: random.Random, ufrag: str) -> bytes:
    """A binding request with the right ufrag whose integrity nobody could have made."""
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = f"{ufrag}:{secrets.token_hex(4)}"
    request.attributes["PRIORITY"] = 1
    request.attributes["ICE-CONTROLLING"] = 1
    request.attributes["USE-CANDIDATE"] = None
    request.add_message_integrity(source.randbytes(16))
    request.add_fingerprint()
    return bytes(request)


async def test_datagrams_of_strangers_are_counted_and_never_answered(
    call: Call, talkers: Talkers, source: random.Random
) -> None:
    focus = call.deployment.focus
    names = ("stun_rejected", "dropped_unknown_address", "dropped_unknown_protocol")
    before = [await focus.metric(f"mautrix_sfu_media_{name}_total") for name in names]
    answered = 0
    target = ("127.0.0.1", focus.udp_port)
    samples = [*(stun_from_a_stranger(source, ufrag) for ufrag in talkers.ufrags), dtls_hello(source), srtp(source)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.setblocking(False)
        async for number in trickle(range(8000)):
            data = garbage.random_bytes(source) if number % 2 else garbage.mutated_bytes(source, source.choice(samples))
            if number % 10 == 0:
                data = source.choice(samples)
            stranger.sendto(data, target)
        await asyncio.sleep(0.3)
        with pytest.raises(BlockingIOError):
            answered = len(stranger.recv(2000))
    assert not answered
    after = [await focus.metric(f"mautrix_sfu_media_{name}_total") for name in names]
    assert all(late > early for early, late in zip(before, after, strict=True)), (names, before, after)


def dtls_hello(source: random.Random) -> bytes:
    """The first record of a handshake, such as anybody can make (RFC 6347)."""
    body = source.randbytes(120)
    return b"\x16\xfe\xff" + bytes(8) + struct.pack("!H", len(body)) + body


def srtp(source: random.Random) -> bytes:
    return bytes(RtpPacket(96, 1, 1, source.getrandbits(32), source.randbytes(900)))


async def test_datagrams_of_an_attacker_with_a_leg_of_his_own_hurt_nobody(call: Call, source: random.Random) -> None:
    focus = call.deployment.focus
    names = ("srtp_auth_failed", "srtp_replayed", "dropped_unknown_source", "stun_rejected", "dropped_unknown_protocol")
    before = [await focus.metric(f"mautrix_sfu_media_{name}_total") for name in names]
    mallory = await call.participant("mallory")
    await call.join(mallory)
    connection = mallory.connection
    seen: list[bytes] = []
    send = connection.socket.send

    def record(data: bytes, address: tuple[str, int]) -> None:
        if len(seen) < 200:
            seen.append(data)
        send(data, address)

    connection.socket.send = record  # type: ignore[method-assign]
    await mallory.until(lambda: len(seen) == 200, what="packets to mutate")
    async for number in trickle(range(8000)):
        match number % 4:
            case 0:
                connection.send_raw(garbage.random_bytes(source))
            case 1:
                connection.send_raw(source.choice(seen))
            case _:
                connection.send_raw(garbage.mutated_bytes(source, source.choice(seen)))
    after = [await focus.metric(f"mautrix_sfu_media_{name}_total") for name in names[:2]]
    assert all(late > early for early, late in zip(before[:2], after, strict=True)), (names, before, after)


async def test_well_protected_nonsense_of_an_attacker_is_dropped(
    call: Call, talkers: Talkers, source: random.Random
) -> None:
    """RTP and RTCP with the right keys and the wrong content; feedback about what is not his."""
    focus = call.deployment.focus
    mallory = await call.participant("mallory")
    await call.join(mallory)
    connection = mallory.connection
    await connection.sender.stop()
    names = ("rtp_packets", "rtcp_in", "dropped_unknown_source", "dropped_payload_type")
    before = [await focus.total(f"mautrix_sfu_media_{name}_total") for name in names]
    async for number in trickle(range(5000)):
        own = source.choice(list(connection.sender.encodings.values()))
        own.sequence = (own.sequence + 1) % 2**16
        mine = RtpPacket(96, own.sequence, number, own.ssrc, source.randbytes(source.randint(0, 60)))
        match number % 5:
            case 0:  # another's source, or nobody's
                ssrc = source.choice([*talkers.ssrcs, source.getrandbits(32)])
                packet = bytes(replace(mine, ssrc=ssrc, sequence=number, extensions={4: b"zz"}))
            case 1:  # his own source, and nothing in it that a codec made
                packet = bytes(replace(mine, pt=source.choice((96, 97, 111, 0, 127))))
            case 2:
                packet = picture_loss(1, source.choice(talkers.ssrcs))
            case 3:  # RTCP of all types and wrong lengths
                header = struct.pack(
                    "!BBH", 0x80 | source.randrange(32), source.randint(200, 207), source.randrange(60)
                )
                packet = header + source.randbytes(source.randint(4, 200))
            case _:
                packet = garbage.mutated_bytes(source, bytes(replace(mine, payload=b"x" * 40)))
        with suppress(pylibsrtp.Error):  # libsrtp refuses some of it
            connection._send_rtp(packet)
    after = [await focus.total(f"mautrix_sfu_media_{name}_total") for name in names]
    assert all(late > early + 100 for early, late in zip(before, after, strict=True)), (names, before, after)
