"""The WebRTC edge at both ends of a trunk: one dials, the other is called."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters

from mautrix_sfu.core.events import ChannelOpened, ConnectionLost
from mautrix_sfu.rtc import leg as leg_module
from mautrix_sfu.rtc.sctp import CHANNEL_LABEL, Association
from mautrix_sfu.wire.plan import RemoteTransport

from .harness import LEG, Focus, Trunk, trunk


def association(focus: Focus) -> Association:
    found = focus.rtc._legs[LEG]._association
    assert found is not None
    return found


async def test_the_channel_opens_and_carries_text_both_ways() -> None:
    async with trunk() as found:
        await found.connect()
        for focus in (found.dialler, found.called):
            assert focus.sink.events == [ChannelOpened(LEG)]
        assert found.dialler.rtc.send(LEG, "from the dialler ☎")
        assert found.called.rtc.send(LEG, "from the called side ☎")
        await found.called.sink.until("texts")
        await found.dialler.sink.until("texts")
        assert found.called.sink.texts == ["from the dialler ☎"]
        assert found.dialler.sink.texts == ["from the called side ☎"]
        assert found.dialler.sink.garbage == found.called.sink.garbage == []
        signalling = association(found.called)._signalling
        assert signalling is not None
        assert signalling.label == CHANNEL_LABEL


async def test_each_end_sends_with_the_keys_that_the_other_receives_with() -> None:
    async with trunk() as found:
        await found.connect()
        dialler, called = found.dialler.transport.keys[LEG], found.called.transport.keys[LEG]
        assert dialler.profile == called.profile == "SRTP_AEAD_AES_128_GCM"
        assert (dialler.local_key, dialler.local_salt) == (called.remote_key, called.remote_salt)
        assert (dialler.remote_key, dialler.remote_salt) == (called.local_key, called.local_salt)
        assert dialler.local_key != dialler.remote_key
        assert (len(dialler.local_key), len(dialler.local_salt)) == (16, 12)


async def test_the_dialling_end_names_no_candidates() -> None:
    async with trunk() as found:
        assert found.dialler.negotiation.local.candidates == ()
        assert found.called.negotiation.local.candidates == (("192.0.2.1", 7881),)


@pytest.mark.parametrize("wrong", ["dialler", "called"])
async def test_a_certificate_that_is_not_the_one_in_the_sdp_gets_no_keys(wrong: str) -> None:
    async with trunk() as found:
        found.negotiate()
        for name, focus in (("called", found.called), ("dialler", found.dialler)):
            remote = focus.negotiation.remote
            assert remote is not None
            if name == wrong:
                remote = replace(remote, fingerprints=(("sha-256", ":".join(["AB"] * 32)),))
            focus.rtc.start(LEG, remote)
            focus.rtc.ice_connected(LEG)
        deceived: Focus = getattr(found, wrong)
        await deceived.sink.until("events")
        (lost,) = deceived.sink.lost
        assert lost.reason == "unknown_error"
        assert "certificate" in lost.detail
        assert deceived.transport.keys == {}
        assert not deceived.rtc.send(LEG, "secret")


async def test_nothing_is_sent_before_ice_is_connected_and_all_that_is_known() -> None:
    async with trunk() as found:
        found.dialler.rtc.ice_connected(LEG)
        await asyncio.sleep(0.02)
        assert found.dialler.transport.sent == 0
        found.negotiate()
        found.start()
        await found.dialler.sink.until("events")
        assert found.dialler.sink.events == [ChannelOpened(LEG)]


@pytest.mark.parametrize("lost", [{1}, {2}, {3}])
async def test_lost_handshake_datagrams_of_the_dialling_end_are_repeated(lost: set[int]) -> None:
    async with trunk() as found:
        found.dialler.transport.lose = lost
        await found.connect()
        assert found.called.sink.events == [ChannelOpened(LEG)]


async def test_a_called_side_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "HANDSHAKE_TIMEOUT", 0.1)
    async with trunk() as found:
        found.called.rtc.close(LEG)
        found.dialler.rtc.start(LEG, RemoteTransport("u", "p" * 24, "passive", (("sha-256", "AB"),), 5000, 262144))
        found.dialler.rtc.ice_connected(LEG)
        await found.dialler.sink.until("events")
        assert [lost.reason for lost in found.dialler.sink.lost] == ["ice_timeout"]


@pytest.mark.parametrize("datagram", [b"\x16", b"\x16\xfe\xff" + b"\x00" * 60, b"\x17" + b"\xff" * 1400, b"\x80" * 40])
async def test_garbage_from_the_called_side_disturbs_neither_handshake_nor_connection(datagram: bytes) -> None:
    async with trunk() as found:
        for _ in range(20):
            found.dialler.rtc.feed_dtls(LEG, datagram)
        await found.connect()
        for _ in range(100):
            found.dialler.rtc.feed_dtls(LEG, datagram)
        await asyncio.sleep(0)
        assert found.called.rtc.send(LEG, "still here")
        await found.dialler.sink.until("texts")


async def hear_garbage(found: Trunk) -> list[str]:
    await found.dialler.sink.until("garbage")
    return found.dialler.sink.garbage


async def test_a_channel_that_the_called_side_opens_is_closed() -> None:
    async with trunk() as found:
        await found.connect()
        RTCDataChannel(association(found.called), RTCDataChannelParameters(label=CHANNEL_LABEL))
        assert await hear_garbage(found) == ["a second channel"]
        assert found.called.rtc.send(LEG, "still here")
        await found.dialler.sink.until("texts")


async def test_what_comes_before_the_channel_is_open_is_no_message() -> None:
    async with trunk() as found:
        found.negotiate()
        found.start()
        while found.dialler.rtc._legs[LEG]._association is None:
            await asyncio.sleep(0)
        dialler = association(found.dialler)
        while dialler._signalling is None or dialler._signalling.id is None:
            await asyncio.sleep(0)
        await dialler._data_channel_receive(dialler._signalling.id, 51, b"early")
        assert await hear_garbage(found) == ["a message on a channel that is not open yet"]
        await found.dialler.sink.until("events")
        assert found.dialler.sink.texts == []


async def test_an_end_that_closes_its_channel_ends_the_trunk_at_the_other() -> None:
    async with trunk() as found:
        await found.connect()
        found.dialler.sink.events.clear()
        signalling = association(found.called)._signalling
        assert signalling is not None
        signalling.close()
        await found.dialler.sink.until("events")
        assert found.dialler.sink.events == [ConnectionLost(LEG, "user_hangup", "the signalling channel was closed")]
