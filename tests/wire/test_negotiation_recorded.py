"""The deployed client's recorded sessions, with Negotiation in the place of the focus that was recorded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.events import ReceivedTrack
from mautrix_sfu.core.ids import Kind, Slot
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from mautrix_sfu.wire.sdp import Direction, Msid
from mautrix_sfu.wire.sdp_parser import parse

from .recordings import CAPTURES, DESCRIPTIONS, SEQUENCES, Recorded, descriptions, text_of

LOCAL = LocalTransport("ufrag123", "p" * 24, "sha-256 " + ":".join(["AA"] * 32), (("192.0.2.1", 7881),))


class Replay:
    """One leg of a recording: the client's messages as recorded, the focus's answers and offers by Negotiation."""

    def __init__(self) -> None:
        self.negotiation = Negotiation(LOCAL, random.Random(3))
        self.receives: tuple[ReceivedTrack, ...] = ()
        self.answers: list[str] = []
        self.sends: dict[Slot, str] = {}
        self.glares = 0
        self._offered: str | None = None  # takes effect when it is answered: in glare after an own offer
        self._slots: dict[Msid, Slot] = {}
        self._next = 0

    def step(self, recorded: Recorded) -> None:
        if recorded.from_client and recorded.type == "offer":
            self._offered = recorded.sdp
        elif recorded.type == "answer" and not recorded.from_client:
            self.answer()
        elif recorded.type == "offer":
            self.offer_as(recorded.sdp)
        elif self.negotiation.pending_offer() is not None:
            self.receives, sends = self.negotiation.accept_answer(recorded.sdp)
            self.sends = {slot: str(mid) for slot, mid in sends.items()}

    def answer(self) -> None:
        assert self._offered is not None
        self.glares += self.negotiation.pending_offer() is not None
        answer, self.receives = self.negotiation.accept_offer(self._offered)
        self.check_answer(self._offered, answer)
        self.answers.append(answer)

    def offer_as(self, sdp: str) -> None:
        """Offer the tracks that the recorded focus offered."""
        wanted = [(line.msids[0], Kind(line.kind)) for line in parse(sdp).lines if line.msids and line.mid[0] == "s"]
        slots: dict[Msid, Slot] = {}
        for msid, _ in wanted:
            slots[msid] = self._slots.get(msid) or Slot(self._next + 1)
            self._next = max(self._next, slots[msid])
        self._slots = slots
        offer = self.negotiation.make_offer([SendTrack(slots[msid], *msid, kind) for msid, kind in wanted])
        ours, recorded = parse(offer), parse(sdp)
        assert [(line.mid, line.kind) for line in ours.lines] == [(line.mid, line.kind) for line in recorded.lines]
        assert [line.direction for line in ours.lines] == [line.direction for line in recorded.lines]
        for mine, theirs in zip(ours.lines, recorded.lines, strict=True):
            assert {codec.pt for codec in mine.codecs} >= {codec.pt for codec in theirs.codecs}  # it knew no red

    def check_answer(self, offer: str, answer: str) -> None:
        for offered, answered in zip(parse(offer).lines, parse(answer).lines, strict=True):
            assert (offered.mid, offered.kind) == (answered.mid, answered.kind)
            assert answered.port == 9
            assert set(answered.extensions) <= set(offered.extensions)
            assert {codec.pt for codec in answered.codecs} <= {codec.pt for codec in offered.codecs}
            assert answered.receive_rids == offered.send_rids
            if offered.mid[0] != "s" and offered.kind != "application":
                expected = Direction.RECVONLY if offered.direction.sends else Direction.INACTIVE
                assert answered.direction is expected


def replay(path: Path) -> dict[str, list[Replay]]:
    """All legs of a recording by client."""
    legs: dict[str, Replay] = {}
    by_client: dict[str, list[Replay]] = {}
    for recorded in descriptions(path):
        if recorded.leg not in legs:
            legs[recorded.leg] = Replay()
            by_client.setdefault(recorded.client, []).append(legs[recorded.leg])
        legs[recorded.leg].step(recorded)
    return by_client


@pytest.mark.parametrize("path", SEQUENCES, ids=lambda path: path.stem)
def test_a_recorded_session_is_understood_to_its_end(path: Path) -> None:
    legs = replay(path)
    assert legs
    assert any(leg.answers for replays in legs.values() for leg in replays) or "silent" in path.stem


@pytest.mark.parametrize(
    "path", [path for path in DESCRIPTIONS if "sfu" not in path.stem[:4]], ids=lambda path: path.stem
)
def test_every_recorded_description_of_a_client_is_answered(path: Path) -> None:
    if parse(text_of(path)).ice_lite:
        return
    sdp = text_of(path).replace("a=setup:active", "a=setup:actpass")
    answer, _ = Negotiation(LOCAL).accept_offer(sdp)
    assert len(parse(answer).lines) == len(parse(sdp).lines)


def test_the_late_camera_is_received_where_the_focus_sends() -> None:
    (bob,) = replay(CAPTURES / "late-camera.jsonl")["bob"]
    late = next(track for track in bob.receives if track.mid == "s1")
    assert (late.kind, late.track_id) == (Kind.VIDEO, "82c4fa61-fbce-4484-8aba-80f4968fa9b5")
    both = parse(bob.answers[-1]).lines[3]
    assert (both.mid, both.direction) == ("s1", Direction.SENDRECV)
    line = next(line for line in bob.negotiation.plan.lines if line.mid == "s1")
    assert line.receive is not None
    assert line.receive.ssrcs
    assert line.send is None  # alice has left: the line went recvonly
    assert bob.sends == {}


def test_screen_shares_come_on_new_m_lines_and_stay_when_they_stop() -> None:
    (alice,) = replay(CAPTURES / "screenshare.jsonl")["alice"]
    screens = [track for track in alice.receives if track.mid in ("3", "4")]
    assert [(track.mid, track.rids) for track in screens] == [("4", ("f", "h", "q"))]
    stopped = next(line for line in parse(alice.answers[-1]).lines if line.mid == "3")
    assert (stopped.direction, stopped.receive_rids, stopped.port) == (Direction.INACTIVE, ("f", "h", "q"), 9)


def test_in_glare_the_client_is_answered_and_offered_again() -> None:
    legs = [leg for replays in replay(CAPTURES / "glare.jsonl").values() for leg in replays]
    assert sum(leg.glares for leg in legs) > 0
    assert any(leg.sends for leg in legs)


def test_a_stream_id_that_flips_leaves_the_track_the_same() -> None:
    paths = sorted((CAPTURES / "sdp").glob("client-offer-video-unmute-*.sdp"))
    found = [Negotiation(LOCAL).accept_offer(text_of(path))[1] for path in paths]
    first, second = ([track for track in tracks if track.kind is Kind.VIDEO] for tracks in found)
    assert [track.track_id for track in first] == [track.track_id for track in second]
    assert [track.stream_id for track in first] != [track.stream_id for track in second]


def test_two_devices_of_one_user_are_two_sessions() -> None:
    legs = replay(CAPTURES / "two-devices.jsonl")
    assert len([leg for replays in legs.values() for leg in replays]) >= 3


def test_the_recorded_ice_restart_gets_new_credentials() -> None:
    legs = replay(CAPTURES / "ice-restart.jsonl")
    changed = [leg for leg in legs["alice"] if leg.negotiation.local.ufrag != LOCAL.ufrag]
    assert len(changed) == 1
    assert f"a=ice-ufrag:{changed[0].negotiation.local.ufrag}\r\n" in changed[0].answers[-1]
    assert len(parse(changed[0].answers[-1]).lines) == 5
