"""The two ends of a trunk negotiate with each other: a focus dials, another is called."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.events import ReceivedTrack
from mautrix_sfu.core.ids import Kind, Mid, Slot, StreamId, TrackId
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from mautrix_sfu.wire.plan import Line, MediaPlan, Receive, SendLayer
from mautrix_sfu.wire.sdp import Direction, Msid, SdpError, write
from mautrix_sfu.wire.sdp_parser import parse
from mautrix_sfu.wire.sdp_profile import MID, REPAIRED_RID, RID, TRANSPORT_CC

from .recordings import CAPTURES, text_of

DIALLER = LocalTransport("dialler1", "d" * 24, "sha-256 " + ":".join(["DD"] * 32), ())
CALLED = LocalTransport("called12", "c" * 24, "sha-256 " + ":".join(["CC"] * 32), (("192.0.2.1", 7881),))
LAYERS = ("f", "h", "q")


def track(slot: int, kind: Kind = Kind.VIDEO, layers: tuple[str, ...] = LAYERS, stream: str = "") -> SendTrack:
    name = stream or f"stream{slot}"
    return SendTrack(Slot(slot), StreamId(name), TrackId(f"track{slot}"), kind, layers if kind is Kind.VIDEO else ())


@dataclass
class End:
    """A focus as the core drives it: one offer in flight, what it wants to send, what it was told."""

    negotiation: Negotiation
    name: str
    wanted: dict[int, SendTrack] = field(default_factory=dict)
    inbox: deque[tuple[str, str]] = field(default_factory=deque)
    receives: tuple[ReceivedTrack, ...] = ()
    sends: dict[Slot, Mid] = field(default_factory=dict)
    settled: bool = True  # was all that is wanted in the last offer that was answered

    def offer(self, other: End) -> None:
        if self.negotiation.pending_offer() is None:
            other.inbox.append(("offer", self.negotiation.make_offer(list(self.wanted.values()))))
            self.settled = True

    def deliver(self, other: End) -> None:
        kind, sdp = self.inbox.popleft()
        check(sdp)
        in_flight = self.negotiation.pending_offer() is not None
        if kind == "answer":
            self.receives, self.sends = self.negotiation.accept_answer(sdp)
        elif in_flight and self.name == "dialler":
            with pytest.raises(SdpError):
                self.negotiation.accept_offer(sdp)
        else:
            answer, self.receives = self.negotiation.accept_offer(sdp)
            self.settled = self.settled and not in_flight
            other.inbox.append(("answer", answer))


@dataclass
class Trunk:
    dialler: End
    called: End

    def ends(self) -> tuple[tuple[End, End], tuple[End, End]]:
        return (self.dialler, self.called), (self.called, self.dialler)

    def want(self, end: End, *tracks: SendTrack) -> None:
        """All that an end sends from now on, negotiated."""
        end.wanted = {int(item.slot): item for item in tracks}
        end.settled = False
        self.settle()

    def settle(self) -> None:
        """Until nobody has anything to say."""
        for _ in range(20):
            for end, other in self.ends():
                while end.inbox:
                    end.deliver(other)
            unsettled = next(((end, other) for end, other in self.ends() if not end.settled), None)
            if unsettled is not None:
                unsettled[0].offer(unsettled[1])
            elif not any(end.inbox for end, _ in self.ends()):
                return
        raise AssertionError("the ends go on offering")


def connected(seed: int = 7) -> Trunk:
    """As far as the answer to the invite."""
    dialler = Negotiation(DIALLER, random.Random(seed), dials=True)
    called = Negotiation(CALLED, random.Random(seed + 1))
    answer, receives = called.accept_offer(dialler.make_invite())
    assert receives == ()
    assert dialler.accept_answer(answer) == ((), {})
    return Trunk(End(dialler, "dialler"), End(called, "called"))


def check(sdp: str) -> None:
    """What must hold of every description on a trunk."""
    description = parse(sdp)
    for values in (
        [msid for line in description.lines for msid in line.msids],
        [ssrc for line in description.lines for ssrc in line.ssrcs],
        [line.mid for line in description.lines],
    ):
        assert len(set(values)) == len(values)
    ids = {pair for line in description.lines for pair in line.extensions}
    assert len({number for number, _ in ids}) == len(ids) == len({uri for _, uri in ids})
    for line in description.lines:
        assert not (line.ssrcs and line.send_rids)
        assert line.send_rids == line.simulcast_send


def sent_lines(plan: MediaPlan) -> dict[Mid, tuple[Kind, Receive]]:
    """What the other side must be ready to receive."""
    found = {}
    for line in plan.lines:
        if line.send is not None:
            rids = tuple(layer.rid for layer in line.send.layers)
            found[line.mid] = line.kind, Receive(rids, () if rids else ((line.send.ssrc, line.send.rtx_ssrc),))
    return found


def received_lines(plan: MediaPlan) -> dict[Mid, tuple[Kind, Receive]]:
    return {line.mid: (line.kind, line.receive) for line in plan.lines if line.receive is not None}


def assert_agreed(trunk: Trunk) -> None:
    """Both ends plan the same, and it is what each wants to send."""
    one, other = trunk.dialler.negotiation.plan, trunk.called.negotiation.plan
    assert set(one.payloads) == set(other.payloads)
    assert one.extensions == other.extensions
    assert sent_lines(one) == received_lines(other)
    assert sent_lines(other) == received_lines(one)
    for end, peer in trunk.ends():
        assert_sent(end, peer.receives)


def assert_sent(end: End, received: Iterable[ReceivedTrack]) -> None:
    """The peer was told exactly what the end wants to send, on the lines that the end was told."""
    plan = end.negotiation.plan
    by_mid = {item.mid: item for item in received}
    assert len(by_mid) == len(end.wanted)
    assert end.sends.keys() == end.wanted.keys()
    numbers = {payload.pt: payload for payload in plan.payloads}
    lines = {line.mid: line for line in plan.lines}
    for wanted in end.wanted.values():
        mid = end.sends[wanted.slot]
        assert mid.startswith(end.name[0].replace("c", "s").replace("d", "c"))
        assert by_mid[mid] == ReceivedTrack(mid, wanted.kind, wanted.stream_id, wanted.track_id, wanted.layers)
        send = lines[mid].send
        assert send is not None
        assert numbers[send.pt].codec == ("opus" if wanted.kind is Kind.AUDIO else "VP8")
        assert tuple(layer.rid for layer in send.layers) == wanted.layers
        if send.rtx_pt is not None:
            assert numbers[send.rtx_pt].apt == send.pt
        if send.layers:
            assert (send.layers[0].ssrc, send.layers[0].rtx_ssrc) == (send.ssrc, send.rtx_ssrc)
            assert {MID, RID, REPAIRED_RID} <= plan.extensions.keys()


# ---------------------------------------------------------------- the invite


def test_the_invite_opens_nothing_but_the_data_channel() -> None:
    sdp = Negotiation(DIALLER, random.Random(1), dials=True).make_invite()
    invite = parse(sdp)
    assert not invite.ice_lite
    assert "ice-options" not in sdp
    (channel,) = invite.lines
    assert (channel.kind, channel.mid, channel.sctp_port, channel.max_message_size) == (
        "application",
        "0",
        5000,
        262144,
    )
    assert invite.bundles == (("0",),)
    assert channel.candidates == ()
    assert not channel.end_of_candidates
    assert channel.transport is not None
    assert (channel.transport.ufrag, channel.transport.pwd, channel.transport.setup) == (
        "dialler1",
        "d" * 24,
        "actpass",
    )


def test_each_end_knows_the_others_transport_and_the_dialler_its_candidates() -> None:
    trunk = connected()
    called, dialler = trunk.dialler.negotiation.remote, trunk.called.negotiation.remote
    assert called is not None
    assert dialler is not None
    assert (called.ufrag, called.setup, called.sctp_port) == ("called12", "passive", 5000)
    assert called.candidates == ("1 1 udp 2130706431 192.0.2.1 7881 typ host",)
    assert (dialler.ufrag, dialler.setup) == ("dialler1", "actpass")
    assert trunk.dialler.negotiation.plan == trunk.called.negotiation.plan == MediaPlan()


def test_an_invite_is_sent_again_as_it_was() -> None:
    found = Negotiation(DIALLER, random.Random(1), dials=True)
    invite = found.make_invite()
    assert found.pending_offer() == invite


def test_only_the_dialling_side_makes_an_invite_and_only_once() -> None:
    with pytest.raises(RuntimeError):
        Negotiation(CALLED).make_invite()
    with pytest.raises(RuntimeError):
        connected().dialler.negotiation.make_invite()
    with pytest.raises(RuntimeError):
        Negotiation(DIALLER, dials=True).make_offer([])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a=ice-lite\r\n", "", "ICE-lite"),
        ("a=setup:passive", "a=setup:active", "DTLS server"),
        ("a=setup:passive", "a=setup:actpass", "DTLS server"),
        ("m=application 9", "m=application 0", "data channel"),
        ("a=fingerprint:sha-256 CC", "a=fingerprint:sha-1 CC", "SHA-256"),
        ("a=group:BUNDLE 0\r\n", "", "BUNDLE"),
        ("a=ice-pwd", "a=x", "ICE credentials"),
    ],
)
def test_an_answer_that_is_no_use_leaves_the_invite_in_flight(old: str, new: str, message: str) -> None:
    dialler = Negotiation(DIALLER, random.Random(1), dials=True)
    invite = dialler.make_invite()
    answer, _ = Negotiation(CALLED, random.Random(2)).accept_offer(invite)
    assert old in answer
    with pytest.raises(SdpError, match=message):
        dialler.accept_answer(answer.replace(old, new))
    assert dialler.pending_offer() == invite
    assert dialler.remote is None
    assert dialler.accept_answer(answer) == ((), {})


def test_the_called_side_makes_no_offer_before_the_invite_is_answered() -> None:
    trunk = connected()
    offer = trunk.called.negotiation.make_offer([track(1)])
    early = Negotiation(DIALLER, dials=True)
    for _ in range(2):
        with pytest.raises(SdpError, match="comes first"):
            early.accept_offer(offer)
        early.make_invite()


def test_a_browsers_offer_is_answered_with_no_simulcast_of_ours() -> None:
    found = Negotiation(CALLED, random.Random(1))
    found.accept_offer(text_of(CAPTURES / "sdp" / "invite-audio-video-simulcast.sdp"))
    line = parse(found.make_offer([track(1, layers=())])).lines[-1]
    assert (line.send_rids, len(line.ssrcs)) == ((), 2)
    assert RID not in {uri for _, uri in line.extensions}


# ---------------------------------------------------------------- media


@pytest.mark.parametrize("sender", ["dialler", "called"])
def test_video_is_simulcast_by_rid_and_audio_one_stream_by_ssrc(sender: str) -> None:
    trunk = connected()
    end: End = getattr(trunk, sender)
    offer = parse(end.negotiation.make_offer([track(1, Kind.AUDIO), track(2)]))
    audio, video = offer.lines[1:]
    prefix = {"dialler": "c", "called": "s"}[sender]
    assert (audio.mid, video.mid) == (f"{prefix}0", f"{prefix}1")
    assert (audio.direction, video.direction) == (Direction.SENDONLY, Direction.SENDONLY)
    assert (len(audio.ssrcs), audio.send_rids, audio.simulcast_send) == (1, (), ())
    assert (video.ssrcs, video.fid, video.cname) == ((), (), None)
    assert video.send_rids == video.simulcast_send == LAYERS
    assert {MID, RID, REPAIRED_RID} <= {uri for _, uri in video.extensions}
    assert video.msids == (Msid(StreamId("stream2"), TrackId("track2")),)
    for line in offer.lines:
        assert line.transport is not None
        assert line.transport.setup == "actpass"


@pytest.mark.parametrize("sender", ["dialler", "called"])
def test_both_plans_agree_once_the_offer_is_answered(sender: str) -> None:
    trunk = connected()
    end: End = getattr(trunk, sender)
    trunk.want(end, track(1, Kind.AUDIO), track(2), track(3, layers=()))
    assert_agreed(trunk)
    video = end.negotiation.plan.lines[1].send
    assert video is not None
    assert [layer.rid for layer in video.layers] == ["f", "h", "q"]
    ssrcs = [ssrc for layer in video.layers for ssrc in (layer.ssrc, layer.rtx_ssrc)]
    assert len(set(ssrcs)) == 6


@pytest.mark.parametrize("sender", ["dialler", "called"])
def test_either_end_is_told_by_transport_cc_what_its_link_carries_also_of_redundant_voices(sender: str) -> None:
    trunk = connected()
    end: End = getattr(trunk, sender)
    trunk.want(end, track(1, Kind.AUDIO), track(2))
    plans = [side.negotiation.plan for side in (trunk.dialler, trunk.called)]
    assert plans[0].extensions[TRANSPORT_CC] == plans[1].extensions[TRANSPORT_CC]
    voice = end.negotiation.plan.lines[0].send
    assert voice is not None
    assert voice.red_pt in {payload.pt for plan in plans for payload in plan.payloads if payload.codec == "red"}
    for line in parse(end.negotiation.make_offer([track(1, Kind.AUDIO), track(2)])).lines[1:]:
        assert TRANSPORT_CC in {uri for _, uri in line.extensions}
        assert "transport-cc" in line.codecs[0].feedback


def test_the_dialler_answers_active_and_the_called_side_passive() -> None:
    trunk = connected()
    for end, peer, setup, lite in (
        (trunk.dialler, trunk.called, "active", False),
        (trunk.called, trunk.dialler, "passive", True),
    ):
        answer, _ = end.negotiation.accept_offer(peer.negotiation.make_offer([track(1)]))
        description = parse(answer)
        assert description.ice_lite is lite
        for line in description.lines:
            assert line.transport is not None
            assert line.transport.setup == setup
        peer.negotiation.accept_answer(answer)


def test_the_answer_names_the_layers_that_it_takes() -> None:
    trunk = connected()
    answer, receives = trunk.called.negotiation.accept_offer(trunk.dialler.negotiation.make_offer([track(1)]))
    line = parse(answer).lines[1]
    assert (line.receive_rids, line.simulcast_receive) == (LAYERS, LAYERS)
    assert receives[0].rids == LAYERS


def test_layers_that_the_answer_does_not_name_are_never_sent() -> None:
    trunk = connected()
    answer, _ = trunk.called.negotiation.accept_offer(trunk.dialler.negotiation.make_offer([track(1)]))
    fewer = answer.replace("a=rid:f recv\r\n", "").replace("recv f;h;q", "recv h;q")
    assert trunk.dialler.negotiation.accept_answer(fewer)[1] == {1: "c0"}
    send = trunk.dialler.negotiation.plan.lines[0].send
    assert send is not None
    assert [layer.rid for layer in send.layers] == ["h", "q"]
    assert (send.ssrc, send.rtx_ssrc) == (send.layers[0].ssrc, send.layers[0].rtx_ssrc)
    again = parse(trunk.dialler.negotiation.make_offer([track(1)])).lines[1]
    assert again.simulcast_send == ("h", "q")


def test_a_simulcast_of_which_no_layer_is_taken_is_not_sent() -> None:
    trunk = connected()
    answer, _ = trunk.called.negotiation.accept_offer(trunk.dialler.negotiation.make_offer([track(1)]))
    none = "".join(row for row in answer.splitlines(keepends=True) if not row.startswith(("a=rid", "a=simulcast")))
    assert trunk.dialler.negotiation.accept_answer(none)[1] == {}
    assert trunk.dialler.negotiation.plan.lines == ()


def test_without_retransmission_no_layer_has_an_ssrc_for_it() -> None:
    trunk = connected()
    answer, _ = trunk.called.negotiation.accept_offer(trunk.dialler.negotiation.make_offer([track(1)]))
    described = parse(answer)
    video = replace(described.lines[1], codecs=described.lines[1].codecs[:1], formats=described.lines[1].formats[:1])
    trunk.dialler.negotiation.accept_answer(write(replace(described, lines=(described.lines[0], video))))
    send = trunk.dialler.negotiation.plan.lines[0].send
    assert send is not None
    assert send.rtx_ssrc is None
    assert [layer.rtx_ssrc for layer in send.layers] == [None, None, None]


def test_a_line_that_is_free_again_is_used_for_its_kind_with_or_without_layers() -> None:
    trunk = connected()
    end = trunk.called
    for tracks in ([track(1, layers=())], [], [track(2)], [], [track(3, layers=())], [], [track(4, layers=("a", "b"))]):
        trunk.want(end, *tracks)
        assert_agreed(trunk)
        assert set(end.sends.values()) <= {"s0"}


def test_other_layers_of_a_track_go_on_another_line() -> None:
    trunk = connected()
    trunk.want(trunk.dialler, track(1))
    trunk.want(trunk.dialler, track(1, layers=("f", "h")))
    assert trunk.dialler.sends == {1: "c1"}
    assert_agreed(trunk)


def test_a_track_keeps_its_line_and_ssrcs_over_other_offers() -> None:
    trunk = connected()
    trunk.want(trunk.dialler, track(1))
    before = trunk.dialler.negotiation.plan.lines[0]
    trunk.want(trunk.dialler, track(1), track(2, Kind.AUDIO))
    trunk.want(trunk.called, track(3))
    assert trunk.dialler.negotiation.plan.lines[0] == before


def test_the_called_side_may_not_begin_to_send_on_the_diallers_line() -> None:
    trunk = connected()
    answer, _ = trunk.called.negotiation.accept_offer(trunk.dialler.negotiation.make_offer([track(1, layers=())]))
    described = parse(answer)
    late = replace(
        described.lines[1],
        direction=Direction.SENDRECV,
        msids=(Msid(StreamId("late"), TrackId("late")),),
        ssrcs=(5,),
        send_rids=("x",),
        simulcast_send=("x",),
    )
    receives, sends = trunk.dialler.negotiation.accept_answer(
        write(replace(described, lines=(described.lines[0], late)))
    )
    assert (receives, sends) == ((), {1: "c0"})
    assert trunk.dialler.negotiation.plan.lines[0].receive is None
    again = parse(trunk.dialler.negotiation.make_offer([track(1, layers=())])).lines[1]
    assert (again.direction, again.receive_rids) == (Direction.SENDONLY, ())


def test_a_peer_that_takes_all_extension_ids_is_sent_no_simulcast_and_all_else() -> None:
    trunk = connected()
    trunk.want(trunk.called, track(1, layers=()))
    trunk.want(trunk.called)
    offer = trunk.dialler.negotiation.make_offer([track(2, Kind.AUDIO)])
    taken = "".join(f"a=extmap:{number} urn:x:{number}\r\n" for number in range(6, 15))
    trunk.called.negotiation.accept_offer(offer.replace("a=rtpmap", f"{taken}a=rtpmap", 1))
    idle, _, *others = parse(trunk.called.negotiation.make_offer([track(3), track(4, Kind.AUDIO)])).lines[1:]
    assert (idle.mid, idle.direction) == ("s0", Direction.INACTIVE)
    assert [line.kind for line in others] == ["audio"]
    again = parse(trunk.called.negotiation.make_offer([track(3), track(5, layers=())])).lines
    assert [(line.mid, line.msids) for line in again[1:]] == [
        ("s0", (Msid(StreamId("stream5"), TrackId("track5")),)),
        ("c0", ()),
    ]


# ---------------------------------------------------------------- what the called side may not change


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a=ice-ufrag:called12", "a=ice-ufrag:another1", "restart"),
        ("a=ice-pwd:ccc", "a=ice-pwd:xxx", "restart"),
        ("a=fingerprint:sha-256 CC", "a=fingerprint:sha-256 AB", "fingerprint"),
        ("a=setup:actpass", "a=setup:active", "DTLS server"),
        ("a=ice-lite\r\n", "", "ICE-lite"),
    ],
)
def test_a_later_offer_may_not_change_the_transport(old: str, new: str, message: str) -> None:
    trunk = connected()
    offer = trunk.called.negotiation.make_offer([track(1)])
    before = (trunk.dialler.negotiation.plan, trunk.dialler.negotiation.remote, trunk.dialler.negotiation.local)
    with pytest.raises(SdpError, match=message):
        trunk.dialler.negotiation.accept_offer(offer.replace(old, new))
    after = (trunk.dialler.negotiation.plan, trunk.dialler.negotiation.remote, trunk.dialler.negotiation.local)
    assert after == before


def test_the_diallers_credentials_never_change() -> None:
    trunk = connected()
    trunk.want(trunk.called, track(1))
    trunk.want(trunk.dialler, track(2))
    assert trunk.dialler.negotiation.local == DIALLER
    assert trunk.called.negotiation.local == CALLED


# ---------------------------------------------------------------- glare, and any order of things


def test_in_a_glare_the_called_side_rolls_back_and_offers_again() -> None:
    trunk = connected()
    trunk.dialler.wanted = {1: track(1), 2: track(2, Kind.AUDIO)}
    trunk.called.wanted = {3: track(3, Kind.AUDIO), 4: track(4)}
    trunk.dialler.offer(trunk.called)
    trunk.called.offer(trunk.dialler)
    trunk.settle()
    assert_agreed(trunk)
    assert {line.mid for line in trunk.dialler.negotiation.plan.lines} == {"c0", "c1", "s0", "s1"}


KINDS = {0: Kind.AUDIO, 1: Kind.VIDEO, 2: Kind.VIDEO}
RIDS = [LAYERS, ("f", "h"), ("low", "high"), ()]


def some_tracks(numbers: set[int], first: int) -> dict[int, SendTrack]:
    """Slots are never used twice for another thing, so a number always means the same track."""
    return {
        first + number: track(first + number, KINDS[number % 3], RIDS[number % 4], f"s{number // 2}")
        for number in sorted(numbers)
    }


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["dialler", "called"]), st.sets(st.integers(0, 11), max_size=6)),
        st.tuples(st.sampled_from(["dialler hears", "called hears"]), st.just(set())),
    ),
    max_size=30,
)


@given(steps, st.integers(0, 2**32))
def test_in_any_order_of_offers_both_ends_come_to_agree(order: list[tuple[str, set[int]]], seed: int) -> None:
    trunk = connected(seed)
    for step, numbers in order:
        name = step.split()[0]
        end, other = next(pair for pair in trunk.ends() if pair[0].name == name)
        if step != name:
            if end.inbox:
                end.deliver(other)
        else:
            end.wanted = some_tracks(numbers, 0 if name == "dialler" else 100)
            end.settled = False
            end.offer(other)
    trunk.settle()
    assert_agreed(trunk)


@settings(max_examples=40)
@given(steps)
def test_numbers_and_lines_stay_what_they_were(order: list[tuple[str, set[int]]]) -> None:
    trunk = connected()
    numbers: dict[str, int] = {}
    kinds: dict[Mid, Kind] = {}
    for step, wanted in order:
        name = step.split()[0]
        end = trunk.dialler if name == "dialler" else trunk.called
        trunk.want(end, *some_tracks(wanted, 0 if name == "dialler" else 100).values())
        plan = end.negotiation.plan
        for known, value in (
            *((f"{payload.codec} {payload.clock_rate}", payload.pt) for payload in plan.payloads),
            *plan.extensions.items(),
        ):
            assert numbers.setdefault(known, value) == value
        for line in plan.lines:
            assert kinds.setdefault(line.mid, line.kind) is line.kind


@given(st.integers(0, 2000), st.integers(0, 300), st.text(max_size=10), st.sampled_from(["offer", "answer", "invite"]))
def test_a_damaged_description_of_the_called_side_gives_nothing_but_an_error(
    start: int, length: int, instead: str, which: str
) -> None:
    trunk = connected()
    dialler, called = trunk.dialler.negotiation, trunk.called.negotiation
    trunk.want(trunk.dialler, track(1))
    if which == "invite":
        dialler, called = Negotiation(DIALLER, dials=True), Negotiation(CALLED)
        sdp, _ = called.accept_offer(dialler.make_invite())
    elif which == "offer":
        sdp = called.make_offer([track(2), track(3, Kind.AUDIO)])
    else:
        sdp, _ = called.accept_offer(dialler.make_offer([track(1), track(2)]))
    before = dialler.plan
    damaged = sdp[:start] + instead + sdp[start + length :]
    try:
        if which == "offer":
            parse(dialler.accept_offer(damaged)[0])
        else:
            dialler.accept_answer(damaged)
    except SdpError:
        assert dialler.plan == before


def test_a_plan_tells_the_media_core_each_layers_ssrcs() -> None:
    trunk = connected()
    trunk.want(trunk.dialler, track(1, layers=("f", "q")))
    (line,) = trunk.dialler.negotiation.plan.lines
    assert line.send is not None
    assert line.send.layers == (
        SendLayer("f", line.send.ssrc, line.send.rtx_ssrc),
        SendLayer("q", line.send.layers[1].ssrc, line.send.layers[1].rtx_ssrc),
    )
    assert trunk.called.negotiation.plan.lines == (Line(Mid("c0"), Kind.VIDEO, Receive(("f", "q"), ())),)
