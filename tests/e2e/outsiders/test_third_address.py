"""Datagrams from any other address than a participant's own inject nothing and get no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.dtls_client import DtlsClient
from tests.support.participant import Participant
from tests.support.participant_ice import Socket, binding_request, classify
from tests.support.participant_rtp import RtpPacket

from .support import Talk

pytestmark = pytest.mark.synapse

Address = tuple[str, int]


@pytest.fixture
async def third(talk: Talk) -> AsyncIterator[Callable[[bytes], None]]:
    """A socket of somebody who knows the focus's address; in the end it must not have got one datagram."""
    socket = Socket(lambda _: None)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: socket, local_addr=("127.0.0.1", 0))
    yield lambda datagram: socket.send(datagram, address_of(talk))
    await asyncio.sleep(0.2)
    socket.close()
    assert not socket.counts


def address_of(talk: Talk) -> Address:
    """Where the focus takes datagrams."""
    return "127.0.0.1", talk.focus.udp_port


async def media(talk: Talk, name: str) -> float:
    """One of the media core's counters."""
    return await talk.focus.metric(f"mautrix_sfu_media_{name}_total")


async def capture(sender: Participant, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5) -> dict[str, list[bytes]]:
    """What a participant sends, as somebody on the way sees it, by kind."""
    captured: dict[str, list[bytes]] = {}
    send = sender.connection.socket.send

    def tap(datagram: bytes, address: Address) -> None:
        captured.setdefault(classify(datagram), []).append(datagram)
        send(datagram, address)

    with monkeypatch.context() as patch:
        patch.setattr(sender.connection.socket, "send", tap)
        sender.tell("m.call.ping")
        await asyncio.sleep(seconds)
    return captured


def assert_whole(talk: Talk) -> None:
    """Bob has of Alice what she sent, each packet once, and nothing that he could not decrypt."""
    for received in (talk.bob.video_of(talk.alice), talk.bob.audio_of(talk.alice)):
        assert received.packets
        assert received.duplicates == received.timestamp_jumps == 0
    assert talk.bob.connection.undecryptable == talk.bob.connection.unknown == 0


async def test_media_from_another_address_is_dropped_captured_or_forged(
    talk: Talk, third: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = await capture(talk.alice, monkeypatch)
    dropped, let_in = await media(talk, "dropped_unknown_address"), await media(talk, "srtp_replayed")
    encodings = talk.alice.connection.sender.encodings.values()
    forged = [bytes(RtpPacket(96, e.sequence + 1, 0, e.ssrc, b"injected")) for e in encodings]
    sent = captured["rtp"] + captured.get("rtcp", []) + forged
    assert len(sent) > 20
    for datagram in sent:
        third(datagram)
    await talk.alice.until(lambda: True)
    async with asyncio.timeout(45):
        while await media(talk, "dropped_unknown_address") < dropped + len(sent):
            await asyncio.sleep(0.05)
    assert await media(talk, "srtp_replayed") == let_in, "they were not even looked at"
    assert_whole(talk)


async def test_a_packet_sent_again_is_dropped_whoever_sends_it(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    mallory = await talk.call.participant("mallory")
    await talk.call.join(mallory)
    packets = (await capture(talk.alice, monkeypatch))["rtp"]
    replayed, failed = await media(talk, "srtp_replayed"), await media(talk, "srtp_auth_failed")
    for packet in packets:
        talk.alice.connection.send_raw(packet)
        mallory.connection.send_raw(packet)
        mallory.connection.send_raw(packet[:-1] + bytes([packet[-1] ^ 1]))
    async with asyncio.timeout(45):
        while await media(talk, "srtp_replayed") < replayed + len(packets) or await media(
            talk, "srtp_auth_failed"
        ) < failed + 2 * len(packets):
            await asyncio.sleep(0.05)
    assert_whole(talk)


async def test_dtls_from_another_address_gets_no_handshake(
    talk: Talk, third: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = await capture(talk.alice, monkeypatch)
    dropped, handed_up = await media(talk, "dropped_unknown_address"), await media(talk, "dtls_in")
    for datagram in captured["dtls"]:
        third(datagram)  # the talkers' pings, sent again
    client = DtlsClient(third)
    with pytest.raises(TimeoutError):
        await client.connect(" ".join(client.fingerprint), timeout=1)
    await client.close()
    assert await media(talk, "dropped_unknown_address") > dropped + len(captured["dtls"])
    assert await media(talk, "dtls_in") > handed_up, "the talkers' own goes on"
    assert_whole(talk)


async def test_stun_with_a_wrong_password_or_name_gets_no_answer_and_moves_nobody(
    talk: Talk, third: Callable[[bytes], None]
) -> None:
    ice = talk.alice.connection.ice
    ufrag, pwd = ice.remote_credentials
    rejected, latched = await media(talk, "stun_rejected"), await media(talk, "latched")
    wrong = [
        binding_request(f"{ufrag}:{ice.ufrag}", "0" * len(pwd)),
        binding_request(f"{ufrag}:{ice.ufrag}", ice.pwd),  # her own password instead of the focus's
        binding_request(f"{ice.ufrag}:{ufrag}", pwd),
        binding_request(f"{ufrag}x:{ice.ufrag}", pwd),
        ice.check()[:-1],
    ]
    for request in wrong:
        third(request)
    async with asyncio.timeout(45):
        while await media(talk, "stun_rejected") < rejected + len(wrong):
            await asyncio.sleep(0.05)
    assert await media(talk, "latched") == latched
    assert_whole(talk)


async def test_who_knows_the_password_but_is_not_nominated_is_answered_and_injects_nothing(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same socket does get an answer when it deserves one."""
    socket = Socket(lambda _: None)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: socket, local_addr=("127.0.0.1", 0))
    ice = talk.alice.connection.ice
    ufrag, pwd = ice.remote_credentials
    captured = await capture(talk.alice, monkeypatch)
    dropped = await media(talk, "dropped_unknown_address")
    socket.send(binding_request(f"{ufrag}:{ice.ufrag}", pwd, nominate=False), address_of(talk))
    await talk.alice.until(lambda: socket.counts["stun"])
    for packet in captured["rtp"]:
        socket.send(packet, address_of(talk))
    async with asyncio.timeout(45):
        while await media(talk, "dropped_unknown_address") < dropped + len(captured["rtp"]):
            await asyncio.sleep(0.05)
    socket.close()
    assert socket.counts == {"stun": 1}
    assert_whole(talk)
