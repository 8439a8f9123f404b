"""A focus without rules: Rtc, Negotiation and a media core, put together as the runtime does, over loopback UDP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.events import ChannelOpened, ConnectionLost, ReceivedTrack
from mautrix_sfu.core.ids import LegId, Mid, Slot
from mautrix_sfu.logs import Concern
from mautrix_sfu.rtc import Rtc
from mautrix_sfu.wire.dialling import usable_candidates
from mautrix_sfu.wire.negotiation import Negotiation
from tests.support.participant_connection import Connection

GROUP = 1

Sizes = tuple[tuple[int | None, int | None], ...]


@dataclass
class FocusLeg:
    """What the focus knows of a leg."""

    negotiation: Negotiation
    receives: tuple[ReceivedTrack, ...] = ()
    sends: dict[Slot, Mid] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    lost: ConnectionLost | None = None
    opened: bool = False


class LoopbackFocus:
    """Everybody who joins may be sent what everybody else publishes."""

    def __init__(self, media: Any) -> None:
        self.media = media
        self.legs: dict[LegId, FocusLeg] = {}
        self.rtc = Rtc(media, self, tuple(media.local_addresses))
        self._slots: dict[tuple[LegId, Mid], Slot] = {}

    async def join(self, leg: LegId, connection: Connection) -> None:
        """As far as an open data channel."""
        self.answer(leg, connection)
        await connection.connect()

    def answer(self, leg: LegId, connection: Connection, offer: str | None = None) -> None:
        """Take an offer of the connection and give it the answer."""
        if leg not in self.legs:
            local = self.rtc.open(leg)
            self.media.set_group(leg, GROUP)
            self.legs[leg] = FocusLeg(Negotiation(local))
        found = self.legs[leg]
        before = found.negotiation.local
        sdp, found.receives = found.negotiation.accept_offer(offer or connection.offer())
        self.media.set_plan(leg, found.negotiation.plan)
        assert found.negotiation.remote is not None
        self.rtc.start(leg, found.negotiation.remote)
        if found.negotiation.local != before:
            self.media.set_credentials(leg, found.negotiation.local.ufrag, found.negotiation.local.pwd)
        connection.take_answer(sdp)

    def send(
        self, leg: LegId, connection: Connection, *sources: LegId, size: tuple[int, int] | None = None
    ) -> dict[Mid, tuple[LegId, ReceivedTrack]]:
        """Send the tracks of other legs: offer, answer, forward. Gives what goes where."""
        found = self.legs[leg]
        wanted = self._wanted(sources)
        offer = found.negotiation.make_offer(
            [SendTrack(slot, track.stream_id, track.track_id, track.kind) for slot, (_, track) in wanted.items()]
        )
        answer = connection.take_offer(offer)
        assert answer is not None
        before = set(found.sends.values())
        found.receives, found.sends = found.negotiation.accept_answer(answer)
        self.media.set_plan(leg, found.negotiation.plan)
        for mid in before - set(found.sends.values()):
            self.media.stop_forward(leg, mid)
        width, height = size or (None, None)
        for slot, mid in found.sends.items():
            source, track = wanted[slot]
            self.media.forward(leg, mid, source, track.mid, width, height)
        return {mid: wanted[slot] for slot, mid in found.sends.items()}

    def _wanted(self, sources: tuple[LegId, ...]) -> dict[Slot, tuple[LegId, ReceivedTrack]]:
        tracks = [(source, track) for source in sources for track in self.legs[source].receives]
        return {
            self._slots.setdefault((source, track.mid), Slot(len(self._slots))): (source, track)
            for source, track in tracks
        }

    # ------------------------------------------------------------ trunks

    def dial(self, leg: LegId, other: LoopbackFocus, candidates: tuple[tuple[str, int], ...] | None = None) -> None:
        """Open a trunk: `leg` is its name at both ends. ICE begins, with the candidates of the answer or others."""
        for focus, dials in ((self, True), (other, False)):
            focus.legs[leg] = FocusLeg(Negotiation(focus.rtc.open(leg, dials), dials=dials))
            focus.media.set_group(leg, GROUP)
        own, theirs = self.legs[leg].negotiation, other.legs[leg].negotiation
        answer, _ = theirs.accept_offer(own.make_invite())
        own.accept_answer(answer)
        for focus in (self, other):
            remote = focus.legs[leg].negotiation.remote
            assert remote is not None
            focus.rtc.start(leg, remote)
        assert own.remote is not None
        found = usable_candidates(own.remote, allow_private=True) if candidates is None else candidates
        self.media.connect(leg, own.remote.ufrag, own.remote.pwd, found)

    def send_over(
        self, leg: LegId, other: LoopbackFocus, *sources: LegId, sizes: Sizes | Mapping[LegId, Sizes]
    ) -> dict[Slot, Mid]:
        """Send the tracks of other legs over a trunk, in the layers that these sizes (of each leg) choose."""
        found, peer = self.legs[leg], other.legs[leg]
        wanted = self._wanted(sources)
        sends = [
            SendTrack(slot, track.stream_id, track.track_id, track.kind, track.rids)
            for slot, (_, track) in wanted.items()
        ]
        answer, peer.receives = peer.negotiation.accept_offer(found.negotiation.make_offer(sends))
        found.receives, found.sends = found.negotiation.accept_answer(answer)
        for focus in (self, other):
            focus.media.set_plan(leg, focus.legs[leg].negotiation.plan)
        for slot, mid in found.sends.items():
            source, track = wanted[slot]
            if track.rids:
                chosen = sizes if isinstance(sizes, tuple) else sizes[source]
                self.media.forward_layers(leg, mid, source, track.mid, chosen)
            else:
                self.media.forward(leg, mid, source, track.mid, None, None)
        return found.sends

    async def stop(self) -> None:
        """End everything."""
        await self.rtc.stop()

    # ------------------------------------------------------------ from the media core

    def concern(self, leg: LegId) -> Concern | None:
        return Concern(leg)

    def on_ice_connected(self, leg: LegId) -> None:
        self.rtc.ice_connected(leg)

    def on_ice_failed(self, leg: LegId) -> None:
        self.legs[leg].lost = ConnectionLost(leg, "ice_failed", "nothing answered")

    def on_ice_lost(self, leg: LegId) -> None:
        self.legs[leg].lost = ConnectionLost(leg, "ice_failed", "no consent")

    def on_dtls(self, leg: LegId, datagram: bytes) -> None:
        self.rtc.feed_dtls(leg, datagram)

    def on_suspended(self, leg: LegId, mid: Mid, suspended: bool) -> None:
        pass

    def on_speaker(self, leg: LegId, mid: Mid) -> None:
        pass

    def on_flow(self, leg: LegId, mid: Mid, flowing: bool) -> None:
        pass

    def on_media_failed(self, message: str) -> None:
        raise AssertionError(message)

    # ------------------------------------------------------------ from the WebRTC edge

    def on_rtc(self, event: ConnectionLost | ChannelOpened) -> None:
        if isinstance(event, ConnectionLost):
            self.legs[event.leg].lost = event
        else:
            self.legs[event.leg].opened = True

    def on_secured(self, leg: LegId) -> None:
        """DTLS is up."""

    def on_channel_text(self, leg: LegId, text: str) -> None:
        self.legs[leg].texts.append(text)
        if json.loads(text).get("type") == "m.call.ping":
            self.rtc.send(leg, json.dumps({"type": "m.call.pong", "content": {}}))

    def on_channel_garbage(self, leg: LegId, why: str) -> None:
        self.legs[leg].garbage.append(why)
