"""Session descriptions are read whole, within bounds, and fail with nothing but SdpError."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mautrix_sfu.wire.sdp import Codec, Description, Direction, MediaLine, Msid, SdpError, Transport, write
from mautrix_sfu.wire.sdp_parser import MAX_ATTRIBUTES, MAX_BYTES, MAX_MEDIA_LINES, parse

from .recordings import CAPTURES, DESCRIPTIONS, SEQUENCES, descriptions, text_of

INVITE = text_of(CAPTURES / "sdp" / "invite-audio-video-simulcast.sdp")
SHORT = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"


def line(*attributes: str, media: str = "m=audio 9 UDP/TLS/RTP/SAVPF 111") -> MediaLine:
    rows = [media, *(f"a={attribute}" for attribute in attributes)]
    return parse(SHORT + "".join(f"{row}\r\n" for row in rows)).lines[0]


@pytest.mark.parametrize("path", DESCRIPTIONS, ids=lambda path: path.stem)
def test_a_recorded_description_survives_being_written_and_read(path: Path) -> None:
    description = parse(text_of(path))
    assert description.lines
    assert parse(write(description)) == description


@pytest.mark.parametrize("path", SEQUENCES, ids=lambda path: path.stem)
def test_every_description_of_a_recording_is_read(path: Path) -> None:
    for recorded in descriptions(path):
        description = parse(recorded.sdp)
        assert parse(write(description)) == description


def test_what_an_invite_says_is_found() -> None:
    audio, video, channel = parse(INVITE).lines
    assert (audio.mid, audio.kind, audio.direction, audio.rtcp_mux) == ("0", "audio", Direction.SENDRECV, True)
    assert audio.transport is not None
    assert (audio.transport.ufrag, audio.transport.pwd) == ("ucWP", "g7AUAmCWaxVUqoPjxLacBvsH")
    assert audio.transport.fingerprints[0][0] == "sha-256"
    assert audio.transport.setup == "actpass"
    assert audio.codecs[0].name == "opus"
    assert audio.codecs[0].parameters == {"minptime": "10", "usedtx": "1", "useinbandfec": "1"}
    assert audio.ssrcs == (198870963,)
    assert audio.msids == (Msid("3607de3a-159e-43bc-9fa9-ede5dfb350c3", "92cd07be-3f34-46fa-8e36-2aaccf3ee2c8"),)  # type: ignore[arg-type]
    assert (4, "urn:ietf:params:rtp-hdrext:sdes:mid") in audio.extensions
    assert video.simulcast_send == ("f", "h", "q")
    assert video.codecs[0].feedback == ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")
    assert video.codecs[1].apt == 96
    assert (channel.sctp_port, channel.max_message_size) == (5000, 262144)
    assert parse(INVITE).bundles == (("0", "1", "2"),)
    assert parse(INVITE).extmap_allow_mixed


def test_a_repeated_format_parameter_counts_once() -> None:
    found = line("rtpmap:111 opus/48000/2", "fmtp:111 minptime=10;usedtx=1;useinbandfec=1;usedtx=1")
    assert found.codecs[0].fmtp == ("minptime=10", "usedtx=1", "useinbandfec=1")


def test_attributes_of_the_session_part_hold_for_every_m_line() -> None:
    digest = ":".join(["AB"] * 32)
    head = SHORT + f"a=ice-ufrag:abcd\r\na=ice-pwd:{'x' * 22}\r\na=fingerprint:sha-256 {digest}\r\na=sendonly\r\n"
    found = parse(head + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=setup:active\r\n").lines[0]
    assert found.transport == Transport("abcd", "x" * 22, (("sha-256", digest),), "active")
    assert found.direction is Direction.SENDONLY


def test_weak_fingerprints_are_not_looked_at() -> None:
    credentials = ("ice-ufrag:abcd", f"ice-pwd:{'x' * 22}")
    weak = line(*credentials, f"fingerprint:sha-1 {':'.join(['AB'] * 20)}")
    assert weak.transport is not None
    assert weak.transport.fingerprints == ()
    both = line(
        *credentials, f"fingerprint:md5 {':'.join(['AB'] * 16)}", f"fingerprint:SHA-512 {':'.join(['ab'] * 64)}"
    )
    assert both.transport is not None
    assert both.transport.fingerprints == (("sha-512", ":".join(["AB"] * 64)),)


def test_a_simulcast_line_keeps_the_first_alternative_and_only_known_rids() -> None:
    found = line("rid:f send pt=96;max-width=1280", "rid:h send", "rid:q recv", "simulcast:send ~f,x;h;z recv q")
    assert found.simulcast_send == ("f", "h")
    assert found.simulcast_receive == ("q",)


def test_an_extension_may_name_a_direction() -> None:
    assert line("extmap:3/sendonly urn:x attribute").extensions == ((3, "urn:x"),)


def test_the_msid_of_an_old_client_is_read_from_its_ssrc_lines() -> None:
    assert line("ssrc:5 cname:c", "ssrc:5 msid:stream track").msids == (Msid("stream", "track"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "attribute",
    [
        "mid:",
        "mid:a b",
        "mid:seventeen-letters",
        "ice-ufrag:a\x00bc",
        "ice-pwd:short",
        "fingerprint:sha-256 AB",
        "fingerprint:sha-256",
        "setup:whatever",
        "rtpmap:128 opus/48000/2",
        "rtpmap:\u0661\u0661 opus/48000",
        "extmap:1",
        "ssrc:4294967296 cname:x",
        "ssrc:x cname:y",
        "ssrc-group:FID 1 2",
        "rid:f sideways",
        "rid:seventeen-letters send",
        "simulcast:send",
        "sctp-port:65536",
        "max-message-size:-1",
        f"msid:{'s' * 129} t",
    ],
)
def test_a_malformed_attribute_is_named(attribute: str) -> None:
    with pytest.raises(SdpError, match="m-line 0"):
        line(attribute)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=1\r\n",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n",
        SHORT + "m=audio 99999 UDP/TLS/RTP/SAVPF 111\r\n",
        SHORT + "m=audio\r\n",
        SHORT + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n" * 2,
        SHORT + "a=group:BUNDLE 7\r\n",
        SHORT + "a=group:BUNDLE 0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n",
        SHORT + "x" * 5000,
        SHORT + "\n" * 30000,
        SHORT + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * (MAX_MEDIA_LINES + 1),
        SHORT + "a=x\r\n" * (MAX_ATTRIBUTES + 1),
        "v=0\r\n" + "x" * MAX_BYTES,
    ],
    ids=range(13),
)
def test_a_description_that_is_no_use_is_refused(text: str) -> None:
    with pytest.raises(SdpError):
        parse(text)


def test_the_largest_description_is_read_in_linear_time() -> None:
    mids = [f"m{number}" for number in range(MAX_MEDIA_LINES)]
    rows = [SHORT.rstrip("\r\n"), "a=group:BUNDLE " + " ".join(mids)]
    for number, mid in enumerate(mids):
        rows += ["m=video 9 UDP/TLS/RTP/SAVPF " + " ".join(map(str, range(96, 128))), f"a=mid:{mid}"]
        rows += [f"a=ssrc:{number * 100 + offset} cname:x" for offset in range(40)]
    text = "\r\n".join(rows)
    assert len(text) < MAX_BYTES
    started = time.process_time()
    assert len(parse(text).lines) == MAX_MEDIA_LINES
    assert time.process_time() - started < 2


words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
media_lines = st.builds(
    MediaLine,
    kind=st.sampled_from(["audio", "video"]),
    port=st.sampled_from([0, 9]),
    protocol=st.just("UDP/TLS/RTP/SAVPF"),
    formats=st.just(("96", "97")),
    direction=st.sampled_from(Direction),
    rtcp_mux=st.booleans(),
    bundle_only=st.booleans(),
    codecs=st.just((Codec(96, "VP8", 90000, feedback=("nack", "nack pli")), Codec(97, "rtx", 90000, fmtp=("apt=96",)))),
    extensions=st.dictionaries(st.integers(1, 14), words, max_size=4).map(lambda found: tuple(found.items())),
    msids=st.lists(st.builds(Msid, words, words), max_size=2, unique=True).map(tuple),
    candidates=st.lists(words, max_size=2).map(tuple),
    end_of_candidates=st.booleans(),
)


@given(st.lists(media_lines, max_size=4))
def test_what_is_written_is_read_again(lines: list[MediaLine]) -> None:
    description = Description(tuple(lines), session_id=5, version=1)
    assert parse(write(description)) == description


names = "mid group msid ssrc ssrc-group rid simulcast rtpmap fmtp rtcp-fb extmap fingerprint setup candidate sctp-port"
attributes = st.sampled_from(names.split())
rows = st.one_of(
    st.builds(lambda name, value: f"a={name}:{value}", attributes, st.text(max_size=30)),
    st.builds(lambda value: f"m={value}", st.text(max_size=30)),
    st.sampled_from(INVITE.split("\r\n")),
    st.text(max_size=30),
)


@given(st.lists(rows, max_size=40))
def test_garbage_gives_nothing_but_an_error(lines: list[str]) -> None:
    try:
        description = parse("v=0\r\n" + "\r\n".join(lines))
    except SdpError:
        return
    assert parse(write(description)).lines == description.lines


@given(st.integers(0, len(INVITE)), st.integers(0, 200), st.text(max_size=10))
def test_a_damaged_invite_gives_nothing_but_an_error(start: int, length: int, instead: str) -> None:
    with contextlib.suppress(SdpError):
        parse(INVITE[:start] + instead + INVITE[start + length :])
