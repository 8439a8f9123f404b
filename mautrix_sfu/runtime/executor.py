"""Carries out what the core asks for, each command at the edge that it concerns."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from ..core import commands as cmd
from ..core import events as ev
from ..core.ids import ConferenceKey, LegId
from ..core.policy import Policy
from ..logs import Concern, concerning
from ..metrics import Metrics
from ..wire import channel, to_device
from ..wire.dialling import usable_candidates
from ..wire.negotiation import Negotiation
from ..wire.plan import RemoteTransport
from ..wire.sdp import SdpError
from .garbage import Garbage
from .journeys import Journeys, Stage
from .ports import MatrixPort, MediaPort, Owner, RtcPort, StorePort

log = logging.getLogger("mautrix_sfu.call")

METADATA_RETRY = 0.2  # how often a full channel is tried with the newest metadata

_LEVELS = {cmd.Level.DEBUG: logging.DEBUG, cmd.Level.INFO: logging.INFO, cmd.Level.WARNING: logging.WARNING}


@dataclass(frozen=True, slots=True)
class Edges:
    """Where commands are carried out."""

    matrix: MatrixPort
    media: MediaPort
    rtc: RtcPort
    store: StorePort
    owner: Owner


@dataclass(slots=True)
class _Connection:
    """A leg as the edges know it."""

    negotiation: Negotiation
    ufrag: str  # the local one that the media core knows
    concern: Concern  # what its lines in the log are about
    dials: bool = False
    started: bool = False
    stored: asyncio.Future[None] | None = None
    conference: ConferenceKey | None = None
    unsent_metadata: str | None = None  # the channel was full: only the newest is kept


class Executor:
    """One leg's connection is one negotiation; what comes of a command is fed back as an event."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        metrics: Metrics,
        allow_private: bool,
        edges: Edges,
        feed: Callable[[ev.Event], None],
        journeys: Journeys,
        garbage: Garbage,
    ) -> None:
        self._policy = policy  # the one in force
        self._metrics = metrics
        self.allow_private = allow_private  # whether trunks may be dialled to addresses that are not public
        self._matrix, self._media, self._rtc, self._store = edges.matrix, edges.media, edges.rtc, edges.store
        self._owner = edges.owner
        self._feed = feed
        self._journeys = journeys
        self._garbage = garbage
        self._connections: dict[LegId, _Connection] = {}
        self._writer = channel.MetadataWriter()
        self._groups: dict[ConferenceKey, int] = {}
        self._group_size: Tally[ConferenceKey] = Tally()
        self._bytes: dict[ConferenceKey, tuple[int, int]] = {}  # in and out, of each one's legs that are closed
        self._next_group = 0
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False

    def knows(self, leg: LegId) -> bool:
        """Whether this leg has a connection."""
        return leg in self._connections

    def stop(self) -> None:
        """Try nothing again."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()

    def concern(self, leg: LegId | None) -> Concern | None:
        """What lines about this leg are to say."""
        connection = self._connections.get(leg) if leg is not None else None
        return connection.concern if connection is not None else None

    def about(self, command: cmd.Command) -> Concern | None:
        """What lines that come of this command are to say."""
        match command:
            case cmd.OpenLeg():
                return _concern(command)
            case cmd.SendInvite() | cmd.SendAnswer() | cmd.SendReject() | cmd.SendHangup() | cmd.SendNegotiate():
                address = command.address
                return Concern(address.leg, str(address.to), address.room_id, address.conf_id)
            case cmd.Log():
                about = command.about
                peer = None if about.peer is None else str(about.peer)
                return Concern(about.leg, peer, about.room_id, about.conf_id)
            case cmd.ConferenceEnded():
                return Concern(room=command.conference.room_id, call=command.conference.conf_id)
            case _:
                return self.concern(getattr(command, "leg", None))

    def do(self, command: cmd.Command) -> None:
        """Carry out one command."""
        match command:
            case cmd.OpenLeg() | cmd.BindLeg() | cmd.CloseLeg():
                self._do_connection(command)
            case cmd.MakeInvite():
                connection = self._connections.get(command.leg)
                if connection is not None:
                    self._feed(ev.InviteMade(command.leg, connection.negotiation.make_invite()))
            case cmd.ApplyOffer() | cmd.ApplyAnswer():
                self._do_description(command)
            case cmd.SendInvite() | cmd.SendAnswer() | cmd.SendReject() | cmd.SendHangup() | cmd.SendNegotiate():
                self._do_to_device(command)
            case cmd.Forward():
                self._media.forward(
                    command.leg, command.mid, command.source, command.source_mid, command.width, command.height
                )
            case cmd.ForwardLayers():
                self._media.forward_layers(command.leg, command.mid, command.source, command.source_mid, command.sizes)
            case cmd.StopForward():
                self._media.stop_forward(command.leg, command.mid)
            case cmd.CapLeg():
                self._media.set_bitrate(command.leg, None if command.kbits is None else command.kbits * 1000)
            case cmd.DescribeTrack():
                self._media.describe_track(command.leg, command.mid, command.width, command.height, command.first)
            case cmd.StoreLeg():
                connection = self._connections.get(command.leg)
                stored = self._store.put_leg(command.stored)
                if connection is not None:
                    connection.stored = stored
            case cmd.ForgetLeg():
                self._store.delete_leg(command.stored)
            case cmd.ForgetRoom():
                self._store.forget_room(command.room_id)
            case cmd.RequestSnapshot():
                self._matrix.request_snapshot(command.room_id)
            case cmd.Log():
                log.log(_LEVELS[command.level], "%s", command.message)
            case cmd.Count():
                self._metrics.count(command.counter.value, command.cause)
                self._owner.counted(command)
            case cmd.ConferenceEnded():
                self._owner.conference_ended(command, *self._bytes.pop(command.conference, (0, 0)))
            case _:
                self._do_channel(command)

    def _do_connection(self, command: cmd.OpenLeg | cmd.BindLeg | cmd.CloseLeg) -> None:
        match command:
            case cmd.OpenLeg():
                self._journeys.opened(command.leg, command.peer, command.dials)
                local = self._rtc.open(command.leg, command.dials)
                negotiation = Negotiation(local, dials=command.dials, video_codecs=self._policy().video_codecs)
                concern = _concern(command)
                self._connections[command.leg] = _Connection(negotiation, local.ufrag, concern, command.dials)
            case cmd.BindLeg():
                connection = self._connections.get(command.leg)
                self._journeys.bound(command.leg, command.conference)
                self._bytes.setdefault(command.conference, (0, 0))
                if connection is not None and connection.conference != command.conference:
                    self._leave_group(connection)
                    connection.conference = command.conference
                    connection.concern.room = command.conference.room_id
                    self._media.set_group(command.leg, self._group(command.conference))
            case cmd.CloseLeg():
                self._journeys.ended(command.leg)
                self._add_up(command.leg)
                self._rtc.close(command.leg)
                closed = self._connections.pop(command.leg, None)
                if closed is not None:
                    self._leave_group(closed)
                    self._garbage.leg_ended(len(self._connections))
            case _:
                assert_never(command)

    def bytes_of(self, conference: ConferenceKey, traffic: Mapping[LegId, tuple[int, int]]) -> tuple[int, int]:
        """How much came and went in a conference so far; `traffic`: of each leg that is up."""
        came, went = self._bytes.get(conference, (0, 0))
        live = [traffic.get(leg, (0, 0)) for leg, each in self._connections.items() if each.conference == conference]
        return came + sum(each[0] for each in live), went + sum(each[1] for each in live)

    def _add_up(self, leg: LegId) -> None:
        """Keep how much a leg that ends has sent and received, until its conference is over."""
        connection = self._connections.get(leg)
        conference = connection.conference if connection is not None else None
        if conference is None or conference not in self._bytes:
            return
        try:
            stats = self._media.leg_stats(leg) or {}
        except RuntimeError:  # the media core has failed, and the process ends
            return
        came, went = self._bytes[conference]
        self._bytes[conference] = came + stats.get("bytes_in_total", 0), went + stats.get("bytes_out_total", 0)

    def _group(self, conference: ConferenceKey) -> int:
        if conference not in self._groups:
            self._next_group += 1
            self._groups[conference] = self._next_group
        self._group_size[conference] += 1
        return self._groups[conference]

    def _leave_group(self, connection: _Connection) -> None:
        conference = connection.conference
        if conference is not None:
            self._group_size[conference] -= 1
            if self._group_size[conference] <= 0:
                del self._group_size[conference], self._groups[conference]

    def _do_description(self, command: cmd.ApplyOffer | cmd.ApplyAnswer) -> None:
        connection = self._connections.get(command.leg)
        if connection is None:
            return
        negotiation = connection.negotiation
        result: ev.OfferApplied | ev.AnswerApplied
        try:
            match command:
                case cmd.ApplyOffer():
                    answer, receives = negotiation.accept_offer(command.sdp)
                    result = ev.OfferApplied(command.leg, answer, receives, negotiation.agreed)
                case cmd.ApplyAnswer():
                    result = ev.AnswerApplied(command.leg, *negotiation.accept_answer(command.sdp))
                case _:
                    assert_never(command)
        except SdpError as error:
            kind = "offer" if isinstance(command, cmd.ApplyOffer) else "answer"
            self._feed(ev.DescriptionFailed(command.leg, kind, str(error)))
            return
        self._settle(command.leg, connection)
        self._feed(result)

    def _settle(self, leg: LegId, connection: _Connection) -> None:
        """Tell the edges what a description settled, before the core acts on it."""
        negotiation, media = connection.negotiation, self._media
        media.set_plan(leg, negotiation.plan)
        if negotiation.remote is not None and not connection.started:
            connection.started = True
            if connection.dials:
                self._journeys.reach(leg, Stage.ANSWER)
            self._rtc.start(leg, negotiation.remote)
            if connection.dials:
                self._connect(leg, negotiation.remote)
        if negotiation.local.ufrag != connection.ufrag:  # the peer restarted ICE (RFC 8839, section 4.4.1)
            connection.ufrag = negotiation.local.ufrag
            media.set_credentials(leg, negotiation.local.ufrag, negotiation.local.pwd)

    def _connect(self, leg: LegId, remote: RemoteTransport) -> None:
        """Begin checks towards another focus, at the addresses that it named and that may be asked."""
        candidates = usable_candidates(remote, self.allow_private)
        if not candidates:
            self._feed(ev.ConnectionLost(leg, "ice_failed", "the focus names no address that may be asked"))
            return
        try:
            self._media.connect(leg, remote.ufrag, remote.pwd, candidates)
        except OSError as error:
            self._feed(ev.ConnectionLost(leg, "ice_failed", f"no socket for a trunk: {error.strerror or error}"))

    def _do_to_device(
        self, command: cmd.SendInvite | cmd.SendAnswer | cmd.SendReject | cmd.SendHangup | cmd.SendNegotiate
    ) -> None:
        event_type, content = to_device.encode(command, self._policy().focus)
        stored = None
        if isinstance(command, cmd.SendInvite | cmd.SendAnswer):
            connection = self._connections.get(command.leg)
            stored = connection.stored if connection is not None else None
        self._matrix.send_to_device(command.address.to, event_type, content, stored)
        if isinstance(command, cmd.SendAnswer):
            self._journeys.reach(command.leg, Stage.ANSWER)

    def _do_channel(
        self,
        command: cmd.ChannelOffer
        | cmd.ChannelAnswer
        | cmd.ChannelMetadata
        | cmd.ChannelSubscription
        | cmd.ChannelPing
        | cmd.ChannelPong
        | cmd.ChannelSpeaker
        | cmd.ChannelSuspension
        | cmd.ChannelLayers
        | cmd.ChannelError,
    ) -> None:
        connection = self._connections.get(command.leg)
        if connection is None:
            return
        rtc = self._rtc
        match command:
            case cmd.ChannelOffer():
                offer = connection.negotiation.pending_offer() if command.again else None
                sdp = offer or connection.negotiation.make_offer(command.sends)
                rtc.send(command.leg, self._writer.description("offer", sdp, command.metadata))
            case cmd.ChannelAnswer():
                rtc.send(command.leg, self._writer.description("answer", command.sdp, command.metadata))
            case cmd.ChannelMetadata():
                connection.unsent_metadata = self._writer.changed(command.metadata)
                self._send_metadata(command.leg, connection)
            case (
                cmd.ChannelSubscription()
                | cmd.ChannelPing()
                | cmd.ChannelPong()
                | cmd.ChannelSpeaker()
                | cmd.ChannelSuspension()
                | cmd.ChannelLayers()
                | cmd.ChannelError()
            ):
                rtc.send(command.leg, channel.encode(command))
            case _:
                assert_never(command)

    def _send_metadata(self, leg: LegId, connection: _Connection) -> None:
        if connection.unsent_metadata is None:
            return
        if self._rtc.send(leg, connection.unsent_metadata):
            connection.unsent_metadata = None
        elif self._retry is None and not self._stopped:
            self._retry = asyncio.get_running_loop().call_later(METADATA_RETRY, self._retry_metadata)

    def _retry_metadata(self) -> None:
        self._retry = None
        for leg, connection in list(self._connections.items()):
            with concerning(connection.concern):
                self._send_metadata(leg, connection)


def _concern(opened: cmd.OpenLeg) -> Concern:
    return Concern(opened.leg, str(opened.peer), opened.room_id, opened.conf_id)
