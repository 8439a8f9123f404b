"""The WebRTC edge with a real DTLS, SCTP and data-channel peer."""

from __future__ import annotations

import asyncio
import struct

import pytest
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import AbortChunk, DataChunk, serialize_packet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mautrix_sfu.core.events import ChannelOpened, ConnectionLost
from mautrix_sfu.core.ids import LegId
from mautrix_sfu.rtc import leg as leg_module
from mautrix_sfu.rtc.sctp import MAX_UNSENT
from mautrix_sfu.rtc.sctp_guard import fault

from .harness import LEG, Pair, pair


async def receive(pair: Pair) -> str | bytes:
    async with asyncio.timeout(45):
        return await pair.peer.messages.get()


def raw(found: Pair, *chunks: bytes) -> bytes:
    """An SCTP packet of the peer's association with chunks of our choice."""
    sctp = found.peer.sctp

    class Chunks:
        def __bytes__(self) -> bytes:
            return b"".join(chunks)

    tag = sctp._remote_verification_tag
    return serialize_packet(5000, 5000, tag, Chunks())  # type: ignore[arg-type]


async def test_a_peer_connects_opens_a_channel_and_is_heard_and_answered() -> None:
    async with pair() as found:
        await found.connect()
        assert found.sink.events == [ChannelOpened(LEG)]
        assert found.peer.channel is not None
        found.peer.channel.send("hello ☎")
        await found.sink.until("texts")
        assert found.sink.texts == ["hello ☎"]
        assert found.rtc.send(LEG, "welcome ☎")
        assert await receive(found) == "welcome ☎"


async def test_a_fault_while_a_message_is_heard_ends_the_connection_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair() as found:
        await found.connect()

        def faulty(*_: object) -> None:
            raise KeyError("a fault")

        monkeypatch.setattr(found.sink, "on_channel_text", faulty)
        assert found.peer.channel is not None
        found.peer.channel.send("hello")
        async with asyncio.timeout(10):
            while not found.sink.lost:
                await asyncio.sleep(0.01)
        assert found.sink.lost == [ConnectionLost(LEG, "unknown_error", "a fault of this program")]
        assert "KeyError: 'a fault'" in caplog.text


async def test_both_sides_get_the_same_srtp_keys_and_the_cheapest_profile() -> None:
    async with pair() as found:
        await found.connect()
        profile, material = found.peer.keys()
        keys = found.transport.keys[LEG]
        assert keys.profile == profile == "SRTP_AEAD_AES_128_GCM"
        assert material == keys.remote_key + keys.local_key + keys.remote_salt + keys.local_salt
        assert (len(keys.local_key), len(keys.local_salt)) == (16, 12)


async def test_a_leg_announces_the_shared_certificate_and_its_own_credentials() -> None:
    async with pair() as found:
        other = found.rtc.open(LegId(8))
        assert other.fingerprint == found.local.fingerprint
        assert found.local.fingerprint.startswith("sha-256 ")
        assert (other.ufrag, other.pwd) != (found.local.ufrag, found.local.pwd)
        assert found.transport.legs[LEG] == (found.local.ufrag, found.local.pwd)
        assert found.local.candidates == (("192.0.2.1", 7881),)


async def test_a_certificate_that_is_not_the_offers_gets_no_keys() -> None:
    async with pair() as found:
        found.start(("sha-256", ":".join(["AB"] * 32)))
        await found.peer.connect(found.local.fingerprint)
        await found.sink.until("events")
        (lost,) = found.sink.lost
        assert lost.reason == "unknown_error"
        assert "certificate" in lost.detail
        assert found.transport.keys == {}


async def test_all_fingerprints_of_the_offer_must_match() -> None:
    async with pair() as found:
        strong = [(item.algorithm, item.value) for item in found.peer.certificate.getFingerprints()]
        found.start(strong[0], ("sha-512", ":".join(["AB"] * 64)))
        await found.peer.connect(found.local.fingerprint)
        await found.sink.until("events")
        assert found.transport.keys == {}


async def test_an_offer_with_only_a_weak_hash_gets_no_keys() -> None:
    async with pair() as found:
        found.start(("sha-1", ":".join(["AB"] * 20)))
        await found.peer.connect(found.local.fingerprint)
        await found.sink.until("events")
        assert found.transport.keys == {}


async def test_dtls_waits_for_ice_and_keeps_what_comes_early() -> None:
    async with pair() as found:
        connecting = asyncio.ensure_future(found.peer.connect(found.local.fingerprint))
        await asyncio.sleep(0.05)
        assert found.transport.sent == 0
        found.start()
        assert await connecting


async def test_lost_handshake_datagrams_are_repeated() -> None:
    async with pair() as found:
        found.transport.lose = {1}
        await found.connect()
        assert found.sink.events == [ChannelOpened(LEG)]


async def test_a_handshake_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "HANDSHAKE_TIMEOUT", 0.1)
    async with pair() as found:
        found.start()
        await found.sink.until("events")
        assert [(lost.leg, lost.reason) for lost in found.sink.lost] == [(LEG, "ice_timeout")]


async def test_a_peer_that_closes_is_reported_once() -> None:
    async with pair() as found:
        await found.connect()
        found.sink.events.clear()
        await found.peer.close()
        await found.sink.until("events")
        await asyncio.sleep(0.05)
        assert [lost.reason for lost in found.sink.lost] == ["user_hangup"]


async def test_a_closed_channel_ends_the_leg() -> None:
    async with pair() as found:
        await found.connect()
        found.sink.events.clear()
        assert found.peer.channel is not None
        found.peer.channel.close()
        await found.sink.until("events")
        assert found.sink.events == [ConnectionLost(LEG, "user_hangup", "the signalling channel was closed")]


async def test_an_aborted_association_ends_the_leg() -> None:
    async with pair() as found:
        await found.connect()
        found.sink.events.clear()
        await found.peer.sctp._send_chunk(AbortChunk())
        await found.sink.until("events")
        assert [lost.reason for lost in found.sink.lost] == ["user_hangup"]


async def test_closing_is_at_once_and_the_sink_hears_no_more() -> None:
    async with pair() as found:
        await found.connect()
        found.sink.events.clear()
        found.rtc.close(LEG)
        assert LEG not in found.transport.legs
        assert not found.rtc.send(LEG, "late")
        sent = found.transport.sent
        assert found.peer.channel is not None
        found.peer.channel.send("late")
        await asyncio.sleep(0.05)
        assert found.sink.events == []
        assert found.sink.texts == []
        assert found.transport.sent == sent


async def test_a_leg_may_be_closed_while_it_is_told_something() -> None:
    async with pair() as found:
        found.sink.on_channel_text = lambda leg, text: found.rtc.close(leg)  # type: ignore[method-assign]
        await found.connect()
        assert found.peer.channel is not None
        found.peer.channel.send("one")
        found.peer.channel.send("two")
        await asyncio.sleep(0.05)
        assert LEG not in found.transport.legs


async def test_a_leg_may_be_closed_when_its_loss_is_told() -> None:
    async with pair() as found:
        await found.connect()
        found.sink.on_rtc = lambda event: found.rtc.close(event.leg)  # type: ignore[method-assign]
        await found.peer.close()
        await asyncio.sleep(0.05)
        assert LEG not in found.transport.legs


async def test_unknown_legs_are_ignored() -> None:
    async with pair() as found:
        nobody = LegId(99)
        found.rtc.ice_connected(nobody)
        found.rtc.feed_dtls(nobody, b"\x16")
        found.rtc.close(nobody)
        assert not found.rtc.send(nobody, "x")
        assert found.rtc.buffered(nobody) == 0


async def test_what_waits_to_be_sent_has_a_bound() -> None:
    async with pair() as found:
        assert not found.rtc.send(LEG, "no channel yet")
        await found.connect()
        text = "x" * 100_000
        accepted = 0
        while found.rtc.send(LEG, text):
            accepted += 1
            assert accepted < 100
        assert MAX_UNSENT - len(text) < found.rtc.buffered(LEG) <= MAX_UNSENT
        for _ in range(accepted):
            assert await receive(found) == text
        assert found.rtc.send(LEG, "again")
        assert not found.rtc.send(LEG, "x" * 262_145)


@pytest.mark.parametrize(
    "datagram", [b"", b"\x16", b"\x16\xfe\xff" + b"\x00" * 60, b"\x17" + b"\xff" * 1400, b"\x80" * 40, b"\x00" * 20]
)
async def test_datagram_garbage_disturbs_neither_handshake_nor_connection(datagram: bytes) -> None:
    async with pair() as found:
        for _ in range(20):
            found.rtc.feed_dtls(LEG, datagram)
        await found.connect()
        for _ in range(200):
            found.rtc.feed_dtls(LEG, datagram)
        assert found.peer.channel is not None
        await asyncio.sleep(0)
        found.peer.channel.send("still here")
        await found.sink.until("texts")


async def send_raw(found: Pair, *chunks: bytes) -> None:
    await found.peer.dtls._send_data(raw(found, *chunks))


def chunk(kind: int, body: bytes, flags: int = 0, length: int | None = None) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack("!BBH", kind, flags, 4 + len(body) if length is None else length) + padded


@pytest.mark.parametrize(
    "hostile",
    [
        chunk(1, b"\x00" * 16 + b"\xc0\x00\x00\x00"),  # INIT with a parameter of length 0: aiortc never returns
        chunk(130, b"\x00\x0d\x00\x00"),
        chunk(4, b"\x00\x01\x00\x00"),
        chunk(3, struct.pack("!LLHH", 0, 0, 300, 0) + struct.pack("!HH", 0, 65535) * 300),  # costs seconds
        chunk(3, b"\x00"),
        chunk(192, b"\x00" * 8),
        chunk(0, b"\x00" * 12),
        chunk(0, b"\x00\x00", length=4096),
        chunk(1, b"\x00" * 16) + chunk(1, b"\x00" * 16),
        chunk(130, b"\x00\x0d\x00\x05\x00"),
        chunk(10, b""),
        chunk(14, b"\xff" * 20),
    ],
)
async def test_hostile_sctp_chunks_cost_nothing(hostile: bytes) -> None:
    async with pair() as found:
        await found.connect()
        async with asyncio.timeout(15):
            for _ in range(5):
                await send_raw(found, hostile)
            assert found.peer.channel is not None
            found.peer.channel.send("still here")
            await found.sink.until("texts")


def data(found: Pair, user_data: bytes, ppid: int = 51, stream: int = 0, flags: int = 3) -> bytes:
    """A DATA chunk with the peer's next number."""
    sctp = found.peer.sctp
    made = DataChunk(flags=flags)
    made.tsn, made.stream_id, made.protocol, made.user_data = sctp._local_tsn, stream, ppid, user_data
    made.stream_seq = sctp._outbound_stream_seq.get(stream, 0)
    sctp._outbound_stream_seq[stream] = made.stream_seq + 1
    sctp._local_tsn += 1
    return bytes(made)


async def settled(found: Pair) -> None:
    """Wait until everything that was sent is acknowledged."""
    while found.peer.sctp._sent_queue or found.peer.sctp._outbound_queue:
        await asyncio.sleep(0.01)


async def test_messages_that_are_none_are_reported_and_the_channel_goes_on() -> None:
    async with pair() as found:
        await found.connect()
        await settled(found)
        assert found.peer.channel is not None
        stream = found.peer.channel.id
        assert stream is not None
        again = struct.pack("!BBHLHH", 3, 0, 0, 0, 1, 0) + b"x"
        await send_raw(found, data(found, b"\xff\xfe", stream=stream))
        await send_raw(found, data(found, b"\x00\x01", ppid=53, stream=stream))
        await send_raw(found, data(found, b"what", ppid=99, stream=stream))
        await send_raw(found, data(found, again, ppid=50, stream=stream))
        await send_raw(found, data(found, b"elsewhere", stream=8))
        await send_raw(found, data(found, b"still here", stream=stream))
        await found.sink.until("texts")
        assert found.sink.texts == ["still here"]
        assert found.sink.garbage == [
            "a message that is not UTF-8",
            "a binary message",
            "a message of an unknown kind",
            "a channel was opened twice",
            "a message on a channel that is not the signalling channel",
        ]


async def test_a_second_channel_is_closed() -> None:
    async with pair() as found:
        await found.connect()
        closed = asyncio.Event()
        second = RTCDataChannel(found.peer.sctp, RTCDataChannelParameters(label="other"))
        second.on("close", lambda: closed.set())
        async with asyncio.timeout(45):
            await closed.wait()
        assert found.peer.channel is not None
        found.peer.channel.send("still here")
        await found.sink.until("texts")


async def test_a_message_without_end_ends_the_leg() -> None:
    async with pair() as found:
        await found.connect()
        await settled(found)
        found.sink.events.clear()
        for number in range(3000):
            await send_raw(found, data(found, b"x" * 4, flags=2 if number == 0 else 0))
            if number % 50 == 0:
                await asyncio.sleep(0)
            if found.sink.events:
                break
        await found.sink.until("events")
        assert [(lost.reason, lost.detail) for lost in found.sink.lost] == [("unknown_error", "a message without end")]


async def test_a_peer_that_sends_no_sctp_is_given_up() -> None:
    async with pair() as found:
        await found.connect()
        found.sink.events.clear()
        for _ in range(40):
            await send_raw(found, chunk(192, b"\x00" * 8))
        await found.sink.until("events")
        assert found.sink.lost[0].reason == "unknown_error"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_the_guard_reads_any_packet(packet: bytes) -> None:
    fault(packet)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_an_association_survives_any_chunks(made: list[tuple[int, bytes]]) -> None:
    async def run() -> None:
        async with pair() as found:
            await found.connect()
            for kind, body in made:
                await send_raw(found, chunk(kind, body))
            await asyncio.sleep(0)
            if not any(kind in (1, 2, 6, 7, 8, 9, 14, 130) for kind, _ in made):  # else the peer ended it itself
                assert found.peer.channel is not None
                found.peer.channel.send("still here")
                await found.sink.until("texts")

    asyncio.run(run())
