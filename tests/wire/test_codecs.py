"""Which codecs are agreed on, in which form and order, and what becomes of a peer that lacks one."""

from __future__ import annotations

import random
import re

import pytest

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.ids import Kind, Slot, StreamId, TrackId
from mautrix_sfu.wire.codecs import AV1, H264, H264_BASELINE, VIDEO_CODECS, VP8, VP9, form_of
from mautrix_sfu.wire.negotiation import Negotiation
from mautrix_sfu.wire.sdp import Codec, MediaLine
from mautrix_sfu.wire.sdp_parser import parse
from mautrix_sfu.wire.sdp_profile import DEPENDENCY
from tests.wire.test_negotiation import LOCAL, SIMULCAST, peer_answer


def offer_in(*numbers: int) -> str:
    """The offer with these payload types of its video alone, in this order."""
    wanted = " ".join(str(number) for number in numbers)
    return re.sub(r"(m=video 9 UDP/TLS/RTP/SAVPF) [0-9 ]+", rf"\1 {wanted}", SIMULCAST)


def video(sdp: str, index: int = 1) -> MediaLine:
    return parse(sdp).lines[index]


def number_of(form: str) -> int:
    return next(codec.pt for codec in video(SIMULCAST).codecs if form_of(codec, Kind.VIDEO) == form)


def sent(codec: str | None, slot: int = 1) -> SendTrack:
    return SendTrack(Slot(slot), StreamId("stream"), TrackId(f"track{slot}"), Kind.VIDEO, (), codec)


@pytest.mark.parametrize(
    ("name", "fmtp", "form"),
    [
        ("VP8", (), VP8),
        ("vp9", (), VP9),
        ("VP9", ("profile-id=0",), VP9),
        ("VP9", ("profile-id=2",), None),
        ("AV1", ("level-idx=5", "profile=0", "tier=0"), AV1),
        ("AV1", ("profile=1",), None),
        ("H264", ("packetization-mode=1", "profile-level-id=42e01f"), H264),
        ("H264", ("packetization-mode=1", "profile-level-id=42E034"), H264),
        ("H264", ("packetization-mode=1", "profile-level-id=42001f"), H264_BASELINE),
        ("H264", ("packetization-mode=0", "profile-level-id=42e01f"), None),
        ("H264", ("profile-level-id=42e01f",), None),
        ("H264", ("packetization-mode=1", "profile-level-id=640c1f"), None),
        ("H264", ("packetization-mode=1", "profile-level-id=42"), None),
        ("H265", (), None),
        ("rtx", ("apt=96",), None),
    ],
)
def test_a_codec_is_taken_in_the_forms_that_are_passed_on(name: str, fmtp: tuple[str, ...], form: str | None) -> None:
    assert form_of(Codec(100, name, 90000, 1, fmtp), Kind.VIDEO) == form
    assert form_of(Codec(100, name, 8000, 1, fmtp), Kind.VIDEO) is None


@pytest.mark.parametrize("form", [VP9, H264, H264_BASELINE, AV1])
def test_a_peer_publishes_in_the_first_codec_of_its_offer(form: str) -> None:
    number = number_of(form)
    found = Negotiation(LOCAL, random.Random(1))
    answer, receives = found.accept_offer(offer_in(number, 96, 97))
    codecs = video(answer).codecs
    assert [codec.pt for codec in codecs] == [number, 96, 97]
    assert set(codecs[0].fmtp) == set(
        video(SIMULCAST).codecs[[c.pt for c in video(SIMULCAST).codecs].index(number)].fmtp
    )
    assert {"nack", "nack pli", "ccm fir", "transport-cc"} == set(codecs[0].feedback)
    assert receives[1].codec == form
    assert (DEPENDENCY in {uri for _, uri in video(answer).extensions}) is (form == AV1)
    assert (number, codecs[0].name) in {(payload.pt, payload.codec) for payload in found.plan.payloads}


def test_operators_permit_codecs() -> None:
    found = Negotiation(LOCAL, random.Random(1), video_codecs=("H264",))
    answer, receives = found.accept_offer(SIMULCAST)
    assert {codec.name for codec in video(answer).codecs} == {"H264", "rtx"}
    assert receives[1].codec in (H264, H264_BASELINE)
    answer, receives = Negotiation(LOCAL, video_codecs=()).accept_offer(SIMULCAST)
    assert (video(answer).port, len(receives)) == (0, 1)
    assert "opus" in {codec.name for codec in parse(answer).lines[0].codecs}


@pytest.mark.parametrize("codec", [None, *VIDEO_CODECS[1:], H264_BASELINE])
def test_a_track_is_offered_in_its_own_codec_under_the_peers_number(codec: str | None) -> None:
    found = Negotiation(LOCAL, random.Random(1))
    found.accept_offer(SIMULCAST)
    offer = found.make_offer([sent(codec)])
    line = video(offer, 3)
    assert [form_of(main, Kind.VIDEO) for main in line.codecs if main.name != "rtx"] == [codec or VP8]
    assert line.codecs[0].pt == number_of(codec or VP8)
    assert len(line.fid) == 1, "it is repaired by RTX"
    assert (DEPENDENCY in {uri for _, uri in line.extensions}) is (codec == AV1)
    _, sends = found.accept_answer(peer_answer(offer))
    assert sends == {Slot(1): "s0"}
    (planned,) = [line for line in found.plan.lines if line.send]
    assert planned.send is not None
    assert planned.send.pt == line.codecs[0].pt


def test_a_codec_that_the_peer_never_named_gets_free_numbers() -> None:
    found = Negotiation(LOCAL, random.Random(1))
    found.accept_offer(offer_in(96, 97))
    offer = found.make_offer([sent(VP9), sent(None, 2)])
    lines = parse(offer).lines
    assert [codec.name for codec in lines[3].codecs] == ["VP9", "rtx"]
    assert lines[3].codecs[0].fmtp == ("profile-id=0",)
    assert not {codec.pt for codec in lines[3].codecs} & {codec.pt for codec in lines[4].codecs}


def test_a_peer_that_does_not_take_the_codec_is_sent_nothing_on_the_line() -> None:
    found = Negotiation(LOCAL, random.Random(1))
    found.accept_offer(SIMULCAST)
    offer = found.make_offer([sent(AV1), sent(None, 2)])
    number = number_of(AV1)
    answer = peer_answer(offer).replace(f"a=rtpmap:{number} AV1/90000", f"a=rtpmap:{number} VP7/90000")
    _, sends = found.accept_answer(answer)
    assert sends == {Slot(2): "s1"}
    assert number not in {line.send.pt for line in found.plan.lines if line.send}
    offer = found.make_offer([sent(AV1)])
    _, sends = found.accept_answer(peer_answer(offer, refused=frozenset(("s0", "s1", "s2"))))
    assert sends == {}


def test_a_publisher_that_changes_its_codec_is_offered_on_another_line() -> None:
    found = Negotiation(LOCAL, random.Random(1))
    found.accept_offer(SIMULCAST)
    found.accept_answer(peer_answer(found.make_offer([sent(None)])))
    offer = found.make_offer([sent(VP9)])
    _, sends = found.accept_answer(peer_answer(offer))
    assert sends == {Slot(1): "s1"}
    again = found.make_offer([sent(VP9), sent(H264, 2)])
    assert [codec.name for codec in video(again, 3).codecs] == ["H264", "rtx"], "an idle line takes another codec"
    _, sends = found.accept_answer(peer_answer(again))
    assert sends == {Slot(1): "s1", Slot(2): "s0"}
