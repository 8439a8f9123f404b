"""A leg's offers and answers: the focus receives on the peer's m-lines and sends on its own."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.events import ReceivedTrack
from mautrix_sfu.core.ids import Kind, Mid, Slot, StreamId, TrackId
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from mautrix_sfu.wire.plan import Line, Payload, Receive
from mautrix_sfu.wire.sdp import Description, Direction, MediaLine, Msid, SdpError, write
from mautrix_sfu.wire.sdp_parser import MAX_MEDIA_LINES, parse
from mautrix_sfu.wire.sdp_profile import MID, PLAYOUT_DELAY, RID, VIDEO_ORIENTATION

from .recordings import CAPTURES, text_of

LOCAL = LocalTransport(
    "ufrag123", "p" * 24, "sha-256 " + ":".join(["AA"] * 32), (("192.0.2.1", 7881), ("198.51.100.1", 7881))
)
SIMULCAST = text_of(CAPTURES / "sdp" / "invite-audio-video-simulcast.sdp")
AUDIO_ONLY = text_of(CAPTURES / "sdp" / "invite-audio-only.sdp")


def track(slot: int, kind: Kind = Kind.VIDEO, stream: str = "") -> SendTrack:
    return SendTrack(Slot(slot), StreamId(stream or f"stream{slot}"), TrackId(f"track{slot}"), kind)


def negotiation(offer: str = SIMULCAST) -> Negotiation:
    found = Negotiation(LOCAL, random.Random(7))
    found.accept_offer(offer)
    return found


def peer_answer(offer: str, refused: frozenset[str] = frozenset(), inactive: frozenset[str] = frozenset()) -> str:
    """What a browser answers: it receives what is offered, and goes on sending what the focus receives."""
    description = parse(offer)
    lines = []
    for line in description.lines:
        if line.mid in refused or line.port == 0:
            lines.append(MediaLine(line.kind, 0, line.protocol, line.formats, line.mid, Direction.INACTIVE))
            continue
        receives = line.direction.sends and line.mid not in inactive
        assert line.transport is not None
        lines.append(
            replace(
                line,
                direction=Direction.of(sends=line.direction.receives, receives=receives),
                transport=peer_transport(line),
                msids=(Msid(StreamId("theirs"), TrackId(f"their-{line.mid}")),) if line.direction.receives else (),
                ssrcs=(),
                fid=(),
                send_rids=line.receive_rids,
                simulcast_send=line.simulcast_receive,
                receive_rids=(),
                simulcast_receive=(),
            )
        )
    bundle = tuple(line.mid for line in lines if line.port)
    return write(Description(tuple(lines), (bundle,), 99, 1))


def peer_transport(line: MediaLine, ufrag: str = "ucWP"):  # type: ignore[no-untyped-def]
    original = parse(SIMULCAST).lines[0].transport
    assert original is not None
    return replace(original, ufrag=ufrag, setup="active")


def peer_offer(negotiated: Negotiation, offer: str, **changes: dict[str, object]) -> str:
    """A later offer of the peer: all m-lines of the session as `offer` has them from the focus's side, then changed."""
    answer = parse(peer_answer(offer))
    lines = tuple(replace(line, **changes.get(line.mid, {})) for line in answer.lines)  # type: ignore[arg-type]
    lines = tuple(
        replace(line, transport=line.transport and replace(line.transport, setup="actpass")) for line in lines
    )
    return write(replace(answer, lines=lines))


# ---------------------------------------------------------------- the first answer


def test_the_answer_receives_simulcast_with_opus_red_and_the_codecs_that_are_passed_on() -> None:
    answer, receives = Negotiation(LOCAL, random.Random(1)).accept_offer(SIMULCAST)
    description = parse(answer)
    assert description.ice_lite
    assert description.extmap_allow_mixed
    assert description.bundles == (("0", "1", "2"),)
    audio, video, channel = description.lines
    for line in description.lines:
        assert line.transport is not None
        assert (line.transport.ufrag, line.transport.pwd, line.transport.setup) == ("ufrag123", "p" * 24, "passive")
        assert line.transport.fingerprints == (("sha-256", ":".join(["AA"] * 32)),)
    assert audio.candidates == (
        "1 1 udp 2130706431 192.0.2.1 7881 typ host",
        "2 1 udp 2130706175 198.51.100.1 7881 typ host",
    )
    assert audio.end_of_candidates
    assert (audio.direction, video.direction) == (Direction.RECVONLY, Direction.RECVONLY)
    assert [(codec.pt, codec.name) for codec in audio.codecs] == [(111, "opus"), (63, "red")]
    assert set(audio.codecs[0].fmtp) == {"minptime=10", "useinbandfec=1", "usedtx=1"}
    assert video.codecs[0].name == "VP8", "in the order of the offer"
    main = {codec.pt: codec.name for codec in video.codecs if codec.name != "rtx"}
    assert set(main.values()) == {"VP8", "H264", "AV1", "VP9"}
    assert [codec.apt for codec in video.codecs if codec.name == "rtx"] == list(main), "each with its repeats"
    assert set(video.codecs[0].feedback) == {"nack", "nack pli", "ccm fir", "transport-cc"}
    assert (video.receive_rids, video.simulcast_receive) == (("f", "h", "q"), ("f", "h", "q"))
    assert {MID, RID, VIDEO_ORIENTATION, PLAYOUT_DELAY} <= {uri for _, uri in video.extensions}
    assert set(video.extensions) <= set(parse(SIMULCAST).lines[1].extensions)
    assert (channel.sctp_port, channel.max_message_size) == (5000, 262144)
    stream = StreamId("3607de3a-159e-43bc-9fa9-ede5dfb350c3")
    assert receives == (
        ReceivedTrack(Mid("0"), Kind.AUDIO, stream, TrackId("92cd07be-3f34-46fa-8e36-2aaccf3ee2c8")),
        ReceivedTrack(Mid("1"), Kind.VIDEO, stream, TrackId("8ae2824b-f000-4ebc-8951-825f9a6090da"), ("f", "h", "q")),
    )


def test_the_plan_tells_the_media_core_what_was_agreed() -> None:
    found = negotiation()
    assert found.plan.payloads[:4] == (
        Payload(111, "opus", 48000),
        Payload(63, "red", 48000, 111),
        Payload(96, "VP8", 90000),
        Payload(97, "rtx", 90000, 96),
    )
    assert found.plan.extensions[MID] == 4
    assert found.plan.lines == (
        Line(Mid("0"), Kind.AUDIO, Receive((), ((198870963, None),))),
        Line(Mid("1"), Kind.VIDEO, Receive(("f", "h", "q"), ())),
    )


def test_redundant_audio_is_agreed_in_the_peers_order_and_sent_where_the_peer_takes_it() -> None:
    answer, _ = Negotiation(LOCAL, random.Random(1)).accept_offer(SIMULCAST)
    assert parse(answer).lines[0].formats == ("111", "63")
    answer, _ = Negotiation(LOCAL, random.Random(1)).accept_offer(SIMULCAST.replace("SAVPF 111 63", "SAVPF 63 111"))
    audio = parse(answer).lines[0]
    assert audio.formats == ("63", "111"), "who prefers it is told to send it"
    assert next(codec for codec in audio.codecs if codec.name == "red").fmtp == ("111/111",)
    found = negotiation()
    offer = found.make_offer([track(1, Kind.AUDIO), track(2, Kind.AUDIO)])
    assert parse(offer).lines[3].formats == ("111", "63")
    answered = parse(peer_answer(offer))
    without = replace(answered.lines[4], formats=("111",), codecs=answered.lines[4].codecs[:1])
    found.accept_answer(write(replace(answered, lines=(*answered.lines[:4], without))))
    sent = [line.send for line in found.plan.lines if line.send is not None]
    assert [(send.pt, send.red_pt, send.rtx_ssrc) for send in sent] == [(111, 63, None), (111, None, None)]


@pytest.mark.parametrize("red", ["red/8000/2", "red/48000", "rad/48000/2"])
def test_redundancy_of_another_codec_is_not_agreed(red: str) -> None:
    for offer in (SIMULCAST.replace("red/48000/2", red), SIMULCAST.replace("a=fmtp:63 111/111", "a=fmtp:63 111/0")):
        found = negotiation(offer)
        assert [payload.codec for payload in found.plan.payloads][:3] == ["opus", "VP8", "rtx"]


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ("minptime=10;useinbandfec=1", {"minptime": "10", "useinbandfec": "1"}),
        ("stereo=1;sprop-stereo=1;maxaveragebitrate=128000", {"stereo": "1", "maxaveragebitrate": "128000"}),
        ("usedtx=1;cbr=1;maxplaybackrate=16000", {"usedtx": "1", "cbr": "1", "maxplaybackrate": "16000"}),
        ("useinbandfec=0", {"useinbandfec": "0"}),
        ("stereo=2;maxaveragebitrate=9999999;usedtx;cbr=x;maxplaybackrate=-8000", {}),
    ],
)
def test_a_peer_is_asked_to_encode_opus_as_it_likes_it_itself(offered: str, answered: dict[str, str]) -> None:
    offer = re.sub("a=fmtp:111 .*", f"a=fmtp:111 {offered}\r", SIMULCAST)
    answer, _ = Negotiation(LOCAL, random.Random(1)).accept_offer(offer)
    assert parse(answer).lines[0].codecs[0].parameters == {"minptime": "10", "useinbandfec": "1"} | answered


def test_the_peers_transport_is_read_from_its_offer() -> None:
    remote = negotiation().remote
    assert remote is not None
    assert (remote.ufrag, remote.pwd, remote.setup) == ("ucWP", "g7AUAmCWaxVUqoPjxLacBvsH", "actpass")
    assert (remote.sctp_port, remote.max_message_size) == (5000, 262144)
    assert [algorithm for algorithm, _ in remote.fingerprints] == ["sha-256"]


def test_layers_listed_smallest_first_are_reported_highest_first() -> None:
    offer = SIMULCAST.replace("a=simulcast:send f;h;q", "a=simulcast:send q;h;f")
    answer, receives = Negotiation(LOCAL).accept_offer(offer)
    assert receives[1].rids == ("f", "h", "q")
    assert parse(answer).lines[1].simulcast_receive == ("q", "h", "f")


def test_remb_is_agreed_only_where_transport_cc_is_not_offered() -> None:
    answer, _ = Negotiation(LOCAL).accept_offer(SIMULCAST.replace("a=rtcp-fb:96 transport-cc\r\n", ""))
    assert "goog-remb" in parse(answer).lines[1].codecs[0].feedback


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/90000", "/8000"),
        ("m=video 9 UDP/TLS/RTP/SAVPF", "m=video 9 RTP/AVP"),
        ("m=video 9 ", "m=text 9 "),
        ("m=video 9 ", "m=video 0 "),
        ("BUNDLE 0 1 2", "BUNDLE 0 2"),
    ],
)
def test_an_m_line_that_is_not_understood_is_refused_and_the_session_stands(old: str, new: str) -> None:
    found = Negotiation(LOCAL, random.Random(1))
    answer, receives = found.accept_offer(SIMULCAST.replace(old, new))
    refused = parse(answer).lines[1]
    assert (refused.port, refused.mid) == (0, "1")
    assert parse(answer).bundles == (("0", "2"),)
    assert [received.mid for received in receives] == ["0"]
    assert parse(found.make_offer([])).lines[1].port == 0


def test_a_bundle_only_m_line_is_no_refused_one() -> None:
    offer = SIMULCAST.replace("m=video 9 ", "m=video 0 ").replace("a=mid:1\r\n", "a=mid:1\r\na=bundle-only\r\n")
    answer, receives = Negotiation(LOCAL).accept_offer(offer)
    assert parse(answer).lines[1].port == 9
    assert len(receives) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a=group:BUNDLE 0 1 2\r\n", "", "BUNDLE"),
        ("BUNDLE 0 1 2", "BUNDLE 0 1", "data channel"),
        ("a=fingerprint:sha-256", "a=fingerprint:sha-1", "SHA-256"),
        ("a=setup:actpass", "a=setup:passive", "DTLS client"),
        ("a=ice-ufrag:ucWP\r\n", "", "ICE credentials"),
        ("a=extmap-allow-mixed", "a=ice-lite", "ICE-lite"),
        ("a=sctp-port:5000\r\n", "", "data channel"),
        ("a=rid:f send\r\n", f"a=rid:f send\r\na=ssrc:{198870963} cname:x\r\n", None),
    ],
)
def test_an_offer_that_is_no_use_is_refused_with_its_reason(old: str, new: str, message: str | None) -> None:
    offer = SIMULCAST.replace(old, new)
    if message is None:  # an ssrc on two m-lines counts only where no rids tell the packets apart
        assert Negotiation(LOCAL).accept_offer(offer)
        return
    with pytest.raises(SdpError, match=message):
        Negotiation(LOCAL).accept_offer(offer)


def test_an_offer_without_media_holds_a_slot() -> None:
    channel = SIMULCAST[SIMULCAST.index("m=application") :]
    head = SIMULCAST[: SIMULCAST.index("m=audio")].replace("BUNDLE 0 1 2", "BUNDLE 2")
    found = negotiation(head + channel)
    assert found.plan.lines == ()
    offer = parse(found.make_offer([track(1, Kind.AUDIO), track(2, Kind.VIDEO)]))
    numbers = [codec.pt for line in offer.lines for codec in line.codecs]
    assert len(set(numbers)) == len(numbers) == 4
    assert dict(offer.lines[1].extensions).keys() & dict(offer.lines[2].extensions).keys()


# ---------------------------------------------------------------- own offers


def test_an_offer_opens_one_m_line_for_each_track() -> None:
    found = negotiation()
    offer = parse(found.make_offer([track(1, Kind.AUDIO), track(2, Kind.VIDEO)]))
    assert [line.mid for line in offer.lines] == ["0", "1", "2", "s0", "s1"]
    assert offer.bundles == (("0", "1", "2", "s0", "s1"),)
    own, other = parse(SIMULCAST), offer
    assert [line.direction for line in other.lines[:2]] == [Direction.RECVONLY, Direction.RECVONLY]
    assert other.lines[1].simulcast_receive == ("f", "h", "q")
    for line in offer.lines:
        assert line.transport is not None
        assert (line.transport.ufrag, line.transport.setup) == ("ufrag123", "actpass")
    audio, video = offer.lines[3:]
    assert (audio.direction, audio.msids, len(audio.ssrcs)) == (
        Direction.SENDONLY,
        (Msid(StreamId("stream1"), TrackId("track1")),),
        1,
    )
    assert [(codec.pt, codec.name) for codec in video.codecs] == [(96, "VP8"), (97, "rtx")]
    assert video.fid == ((video.ssrcs[0], video.ssrcs[1]),)
    assert set(video.extensions) <= set(own.lines[1].extensions)
    assert {VIDEO_ORIENTATION, PLAYOUT_DELAY} <= {uri for _, uri in video.extensions}


def test_nothing_is_sent_before_the_peer_has_answered() -> None:
    found = negotiation()
    before = found.plan
    offer = found.make_offer([track(1)])
    assert found.plan == before
    assert found.pending_offer() == offer
    receives, sends = found.accept_answer(peer_answer(offer))
    assert sends == {1: "s0"}
    assert [received.mid for received in receives] == ["0", "1"]
    assert found.pending_offer() is None
    send = found.plan.lines[2].send
    line = parse(offer).lines[3]
    assert send is not None
    assert (send.ssrc, send.rtx_ssrc) == line.ssrcs
    assert (send.pt, send.rtx_pt, send.cname) == (96, 97, line.cname)


def test_a_slot_that_the_peer_refuses_is_missing() -> None:
    found = negotiation()
    offer = found.make_offer([track(1), track(2), track(3)])
    _, sends = found.accept_answer(peer_answer(offer, refused=frozenset({"s0"}), inactive=frozenset({"s1"})))
    assert sends == {3: "s2"}
    assert [line.mid for line in found.plan.lines if line.send] == ["s2"]
    again = parse(found.make_offer([track(1), track(2), track(3)]))
    assert [(line.mid, line.port) for line in again.lines[3:]] == [("s0", 0), ("s1", 9), ("s2", 9), ("s3", 9)]


def test_an_inactive_m_line_is_used_again_for_its_kind_with_new_ssrcs() -> None:
    found = negotiation()
    first = found.make_offer([track(1, Kind.AUDIO), track(2, Kind.VIDEO)])
    found.accept_answer(peer_answer(first))
    removed = found.make_offer([track(1, Kind.AUDIO)])
    line = parse(removed).lines[4]
    assert (line.direction, line.msids, line.ssrcs) == (Direction.INACTIVE, (), ())
    found.accept_answer(peer_answer(removed))
    again = parse(found.make_offer([track(1, Kind.AUDIO), track(3, Kind.AUDIO), track(4, Kind.VIDEO)]))
    assert [(line.mid, line.kind) for line in again.lines[3:]] == [("s0", "audio"), ("s1", "video"), ("s2", "audio")]
    assert again.lines[4].msids == (Msid(StreamId("stream4"), TrackId("track4")),)
    assert not set(again.lines[4].ssrcs) & set(parse(first).lines[4].ssrcs)


def test_a_track_never_takes_the_m_line_that_another_leaves_in_the_same_offer() -> None:
    found = negotiation()
    found.accept_answer(peer_answer(found.make_offer([track(1)])))
    offer = parse(found.make_offer([track(2)]))
    assert [(line.mid, line.direction) for line in offer.lines[3:]] == [
        ("s0", Direction.INACTIVE),
        ("s1", Direction.SENDONLY),
    ]


def test_payload_types_and_extension_ids_never_change() -> None:
    found = negotiation()
    offers = [parse(found.make_offer([track(number) for number in range(count)])) for count in (1, 3, 2)]
    for offer in offers:
        for line in offer.lines:
            first = next(other for other in offers[0].lines if (other.kind, other.mid[:1]) == (line.kind, line.mid[:1]))
            assert [codec.pt for codec in line.codecs] == [codec.pt for codec in first.codecs]
            assert set(line.extensions) <= set(parse(SIMULCAST).lines[1 if line.kind == "video" else 0].extensions)


def test_kinds_that_the_peer_never_offered_get_free_numbers() -> None:
    found = negotiation(AUDIO_ONLY)
    video = parse(found.make_offer([track(1, Kind.VIDEO)])).lines[2]
    taken = {int(item) for item in parse(AUDIO_ONLY).lines[0].formats}
    assert not taken & {codec.pt for codec in video.codecs}
    offered = dict(parse(AUDIO_ONLY).lines[0].extensions)
    for number, uri in video.extensions:
        assert offered.get(number, uri) == uri


def test_one_msid_is_sent_once_and_an_impossible_one_never() -> None:
    found = negotiation()
    tracks = [track(1), replace(track(1), slot=Slot(2)), track(3, stream="a b"), track(4, stream="x\r\na=evil:1")]
    offer = found.make_offer(tracks)
    assert "evil" not in offer
    assert found.accept_answer(peer_answer(offer))[1] == {1: "s0"}


def test_there_is_a_bound_on_m_lines() -> None:
    found = negotiation()
    offer = found.make_offer([track(number) for number in range(300)])
    assert len(parse(offer).lines) == MAX_MEDIA_LINES
    assert len(offer) < 240_000
    _, sends = found.accept_answer(peer_answer(offer))
    assert len(sends) == MAX_MEDIA_LINES - 3


def test_no_offer_is_made_before_the_peers_first() -> None:
    with pytest.raises(RuntimeError):
        Negotiation(LOCAL).make_offer([])


# ---------------------------------------------------------------- refusals change nothing


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: "garbage",
        lambda answer: answer.replace("a=mid:s0", "a=mid:s9").replace("2 s0", "2 s9"),
        lambda answer: answer[: answer.index("m=application")],
        lambda answer: answer.replace("a=setup:active", "a=setup:passive"),
        lambda answer: answer.replace("a=fingerprint:sha-256 BA", "a=fingerprint:sha-256 AB"),
        lambda answer: answer.replace("m=application 9", "m=application 0"),
        lambda answer: answer.replace(" s0\r\n", "\r\n", 1),
    ],
)
def test_a_refused_answer_leaves_the_offer_in_flight(spoil) -> None:  # type: ignore[no-untyped-def]
    found = negotiation()
    offer = found.make_offer([track(1)])
    before = (found.plan, found.remote, found.local)
    with pytest.raises(SdpError):
        found.accept_answer(spoil(peer_answer(offer)))
    assert (found.plan, found.remote, found.local) == before
    assert found.pending_offer() == offer
    assert found.accept_answer(peer_answer(offer))[1] == {1: "s0"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda offer: offer[: offer.index("m=application")],
        lambda offer: offer.replace("a=mid:1\r\n", "a=mid:7\r\n").replace("BUNDLE 0 1", "BUNDLE 0 7"),
        lambda offer: offer.replace("m=audio", "m=video"),
        lambda offer: offer.replace("a=fingerprint:sha-256 BA", "a=fingerprint:sha-256 AB"),
    ],
)
def test_a_refused_offer_leaves_everything_as_it_was(spoil) -> None:  # type: ignore[no-untyped-def]
    found = negotiation()
    offer = found.make_offer([track(1)])
    before = (found.plan, found.remote, found.local)
    with pytest.raises(SdpError):
        found.accept_offer(spoil(SIMULCAST))
    assert (found.plan, found.remote, found.local) == before
    assert found.pending_offer() == offer


def test_an_answer_to_no_offer_is_refused() -> None:
    found = negotiation()
    offer = found.make_offer([track(1)])
    found.accept_answer(peer_answer(offer))
    with pytest.raises(SdpError, match="no offer"):
        found.accept_answer(peer_answer(offer))


# ---------------------------------------------------------------- later offers of the peer


def test_glare_drops_the_own_offer_and_the_next_one_works() -> None:
    found = negotiation()
    found.make_offer([track(1)])
    answer, _ = found.accept_offer(SIMULCAST)
    assert found.pending_offer() is None
    assert len(parse(answer).lines) == 3
    offer = found.make_offer([track(1)])
    assert found.accept_answer(peer_answer(offer))[1] == {1: "s0"}


def test_a_camera_switched_on_late_comes_on_the_focuss_m_line() -> None:
    found = negotiation(AUDIO_ONLY)
    original = parse(AUDIO_ONLY).lines[0].transport
    assert original is not None
    first = found.make_offer([track(1, Kind.VIDEO)])
    with_original = replace(original, setup="active")
    answered = parse(peer_answer(first))
    answered = replace(answered, lines=tuple(replace(line, transport=with_original) for line in answered.lines))
    found.accept_answer(write(answered))
    msid = Msid(StreamId("late"), TrackId("camera"))
    offered = replace(
        answered,
        lines=tuple(
            replace(line, transport=original)
            if line.mid != "s0"
            else replace(
                line,
                transport=original,
                direction=Direction.SENDRECV,
                msids=(msid,),
                ssrcs=(11, 12),
                cname="c",
                fid=((11, 12),),
            )
            for line in answered.lines
        ),
    )
    answer, receives = found.accept_offer(write(offered))
    line = parse(answer).lines[2]
    assert (line.mid, line.direction) == ("s0", Direction.SENDRECV)
    assert line.msids == (Msid(StreamId("stream1"), TrackId("track1")),)
    assert receives[1] == ReceivedTrack(Mid("s0"), Kind.VIDEO, msid.stream_id, msid.track_id)
    planned = found.plan.lines[1]
    assert planned.receive == Receive((), ((11, 12),))
    assert planned.send is not None
    gone = parse(found.make_offer([])).lines[2]
    assert (gone.mid, gone.direction, gone.msids) == ("s0", Direction.RECVONLY, ())


def test_a_recycled_m_line_is_a_new_one() -> None:
    found = negotiation()
    offer = found.make_offer([track(1)])
    found.accept_answer(peer_answer(offer))
    base = parse(peer_offer(found, offer))
    stopped = replace(base.lines[1], port=0, direction=Direction.INACTIVE)
    closing = replace(base, lines=(base.lines[0], stopped, *base.lines[2:]), bundles=(("0", "2", "s0"),))
    answer, receives = found.accept_offer(write(closing))
    assert parse(answer).lines[1].port == 0
    assert [received.mid for received in receives] == ["0"]
    reused = replace(base.lines[1], mid="5", msids=(Msid(StreamId("new"), TrackId("new")),))
    opening = replace(base, lines=(base.lines[0], reused, *base.lines[2:]), bundles=(("0", "5", "2", "s0"),))
    answer, receives = found.accept_offer(write(opening))
    assert (parse(answer).lines[1].mid, parse(answer).lines[1].port) == ("5", 9)
    assert receives[1] == ReceivedTrack(Mid("5"), Kind.VIDEO, StreamId("new"), TrackId("new"), ("f", "h", "q"))
    assert [line.mid for line in found.plan.lines] == ["0", "5", "s0"]


def test_a_peer_that_stops_receiving_gets_nothing_and_is_offered_again() -> None:
    found = negotiation()
    offer = found.make_offer([track(1)])
    found.accept_answer(peer_answer(offer))
    answer, _ = found.accept_offer(peer_offer(found, offer, s0={"direction": Direction.INACTIVE}))
    line = parse(answer).lines[3]
    assert (line.direction, line.msids, line.ssrcs) == (Direction.INACTIVE, (), ())
    assert [line.mid for line in found.plan.lines] == ["0", "1"]
    again = found.make_offer([track(1)])
    assert parse(again).lines[3].direction is Direction.SENDONLY
    assert found.accept_answer(peer_answer(again))[1] == {1: "s0"}


def test_an_ice_restart_gets_new_credentials_and_no_other_offer_does() -> None:
    found = negotiation()
    found.accept_offer(SIMULCAST)
    assert found.local == LOCAL
    answer, _ = found.accept_offer(SIMULCAST.replace("ice-ufrag:ucWP", "ice-ufrag:NEWU").replace("g7AU", "NEWP"))
    assert found.local.ufrag != LOCAL.ufrag
    assert len(found.local.pwd) >= 22
    transport = parse(answer).lines[0].transport
    assert transport is not None
    assert (transport.ufrag, transport.pwd) == (found.local.ufrag, found.local.pwd)
    assert found.remote is not None
    assert found.remote.ufrag == "NEWU"
    kept = parse(found.make_offer([])).lines[2].transport
    assert kept is not None
    assert kept.ufrag == found.local.ufrag


# ---------------------------------------------------------------- any order of things

steps = st.lists(
    st.tuples(
        st.sampled_from(["offer", "answer", "their offer", "garbage"]),
        st.sets(st.integers(0, 6), max_size=5),
    ),
    max_size=25,
)


@given(steps)
def test_in_any_order_of_things_numbers_stay_and_ids_are_unique(order: list[tuple[str, set[int]]]) -> None:
    found = negotiation()
    agreed = found.make_offer([])
    found.accept_answer(peer_answer(agreed))
    for step, numbers in order:
        pending = found.pending_offer()
        if step == "offer":
            kinds = {number: Kind.VIDEO if number % 2 else Kind.AUDIO for number in sorted(numbers)}
            check(found.make_offer([track(number, kind) for number, kind in kinds.items()]))
        elif step == "answer" and pending is not None:
            refused = frozenset(f"s{number}" for number in numbers if number > 4)
            _, sends = found.accept_answer(peer_answer(pending, refused=refused))
            assert set(sends.values()) == {line.mid for line in found.plan.lines if line.send}
            agreed = pending
        elif step == "their offer":
            check(found.accept_offer(peer_offer(found, agreed))[0])
        elif step == "garbage":
            with pytest.raises(SdpError):
                found.accept_offer("v=0\r\nm=")
    assert found.plan.lines[0].receive is not None


def check(sdp: str) -> None:
    lines = parse(sdp).lines
    msids = [msid for line in lines for msid in line.msids]
    assert len(set(msids)) == len(msids)
    ssrcs = [ssrc for line in lines for ssrc in line.ssrcs]
    assert len(set(ssrcs)) == len(ssrcs)
    numbers = {(codec.pt, codec.name) for line in lines for codec in line.codecs}
    assert numbers <= {(codec.pt, codec.name) for line in parse(SIMULCAST).lines for codec in line.codecs}
    ids = {pair for line in lines for pair in line.extensions}
    assert len({number for number, _ in ids}) == len(ids)


@given(st.integers(0, len(SIMULCAST)), st.integers(0, 400), st.text(max_size=10))
def test_a_damaged_offer_gives_nothing_but_an_error(start: int, length: int, instead: str) -> None:
    found = negotiation()
    before = found.plan
    try:
        answer, _ = found.accept_offer(SIMULCAST[:start] + instead + SIMULCAST[start + length :])
    except SdpError:
        assert found.plan == before
        return
    parse(answer)


def test_a_peer_that_uses_up_all_payload_types_is_sent_nothing() -> None:
    numbers = " ".join(str(number) for number in (*range(96, 111), *range(112, 128), *range(35, 64)))
    found = negotiation(
        AUDIO_ONLY.replace("SAVPF 111 ", f"SAVPF 111 {numbers} ")
        .replace("a=rtpmap:110 t", "a=x:")
        .replace("a=rtpmap:126 t", "a=x:")
    )
    offer = found.make_offer([track(1, Kind.VIDEO)])
    assert [line.kind for line in parse(offer).lines] == ["audio", "application"]
