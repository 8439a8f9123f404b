"""The event loop's side of the core: edges' news in, the core's commands out, timers, fairness among senders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

from ..core import commands as cmd
from ..core import events as ev
from ..core.fair_queue import FairQueue
from ..core.focus import Focus
from ..core.ids import ConferenceKey, LegId, Mid, RoomId
from ..core.policy import Policy
from ..core.sequence import without_stale_invites
from ..core.view import FocusView
from ..metrics import Metrics
from ..store.store import StoredFact
from ..wire import channel, room_events, to_device
from ..wire.fields import MalformedError
from ..wire.negotiation import Negotiation
from ..wire.sdp import SdpError
from .ports import MatrixPort, MediaPort, Owner, RtcPort, StorePort

log = logging.getLogger("mautrix_sfu.call")
T = TypeVar("T")

INTAKE_SECONDS = 0.02  # that a page of to-device messages may take for making room in a full queue
SLICE_SECONDS = 0.005  # of working off messages before the event loop has its turn
METADATA_RETRY = 0.2  # how often a full channel is tried with the newest metadata

_LEVELS = {cmd.Level.DEBUG: logging.DEBUG, cmd.Level.INFO: logging.INFO, cmd.Level.WARNING: logging.WARNING}


@dataclass(slots=True)
class _Connection:
    """A leg as the edges know it."""

    negotiation: Negotiation
    ufrag: str  # the local one that the media core knows
    started: bool = False
    stored: asyncio.Future[None] | None = None
    conference: ConferenceKey | None = None
    unsent_metadata: str | None = None  # the channel was full: only the newest is kept


@dataclass(frozen=True, slots=True)
class _Received:
    """A to-device message, and when it came."""

    message: ev.ToDevice
    at: float


class Runtime:
    """Owns the core. All methods run on the event loop and none of them blocks."""

    def __init__(
        self,
        policy: Policy,
        metrics: Metrics,
        owner: Owner,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._policy = policy
        self._focus = Focus(policy)
        self._metrics = metrics
        self._owner = owner
        self._clock = clock
        self._wall_ms = wall_ms
        self._matrix: MatrixPort | None = None
        self._media: MediaPort | None = None
        self._rtc: RtcPort | None = None
        self._store: StorePort | None = None
        self._commands: deque[cmd.Command] = deque()
        self._working = False
        self._connections: dict[LegId, _Connection] = {}
        self._groups: dict[ConferenceKey, int] = {}
        self._group_size: Tally[ConferenceKey] = Tally()
        self._next_group = 0
        self._inbox: FairQueue[_Received] = FairQueue()
        self._inbox_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False
        self.homeserver_up = True

    def connect(self, matrix: MatrixPort, media: MediaPort, rtc: RtcPort, store: StorePort) -> None:
        """Give the runtime its edges, before anything else."""
        self._matrix, self._media, self._rtc, self._store = matrix, media, rtc, store

    def restore(self, facts: Iterable[tuple[dict[str, Any], int]], legs: tuple[ev.StoredLeg, ...]) -> None:
        """Take what the store held: raw events with the time they were received (ms, wall clock), and legs."""
        now_ms = self._wall_ms()
        parsed = (room_events.parse(event, received_ms, now_ms) for event, received_ms in facts)
        known = tuple(fact for fact in parsed if not isinstance(fact, room_events.Ignored))
        self._feed(ev.Restored(known, legs))

    def view(self) -> FocusView:
        """What an operator may see of the calls."""
        return self._focus.view(self._clock())

    @property
    def caught_up(self) -> bool:
        """Whether the backlog from before the start is worked off."""
        return self._focus.caught_up

    def say_goodbye(self) -> None:
        """End all legs and tell their peers."""
        self._feed(ev.Stopping())

    def stop(self) -> None:
        """Work off nothing more."""
        self._stopped = True
        for handle in (self._inbox_handle, self._timer, self._retry):
            if handle is not None:
                handle.cancel()

    # ------------------------------------------------------------ from the Matrix edge

    def wants_room(self, room_id: str) -> bool:
        """Whether membership events of this room are of interest."""
        return self._focus.tracks_room(room_id)

    def on_room_event(self, event: dict[str, Any]) -> None:
        """Take a raw room event, in order of receipt."""
        if event.get("type") == "m.room.redaction":
            redaction = room_events.parse_redaction(event)
            if redaction is not None:
                self._feed(redaction)
                self._store_redaction(redaction)
            return
        now_ms = self._wall_ms()
        fact = room_events.parse(event, now_ms, now_ms)
        if isinstance(fact, room_events.Ignored):
            self._metrics.count("room_events_ignored", fact.value)
            return
        self._feed(fact)
        if self._store is not None and self._focus.holds(fact):
            kept = room_events.worth_storing(event)
            self._store.put_fact(fact.room_id, kept["type"], kept["state_key"], kept, now_ms)

    def _store_redaction(self, redaction: ev.Redacted) -> None:
        """Let a member event that its own sender redacted say nothing after a restart either."""
        if self._store is None or not self._focus.redacted(redaction):
            return
        for event_type in room_events.CALL_MEMBER_TYPES:
            room_id, user_id = redaction.room_id, redaction.sender
            event = {"type": event_type, "room_id": room_id, "sender": user_id, "state_key": user_id}
            empty = {**event, "event_id": redaction.event_id, "content": {}}
            self._store.put_fact(room_id, event_type, user_id, empty, self._wall_ms())

    def on_snapshot(self, room_id: RoomId, events: list[dict[str, Any]] | None) -> None:
        """Take a room's state, or learn that it may not be read."""
        if events is None:
            self._feed(ev.SnapshotRefused(room_id))
            return
        now_ms = self._wall_ms()
        facts: list[ev.RoomFact] = []
        kept: list[StoredFact] = []
        for raw in events:
            event = {**raw, "room_id": room_id}
            sent_ms = event.get("origin_server_ts")
            received_ms = min(now_ms, sent_ms) if isinstance(sent_ms, int) else now_ms
            fact = room_events.parse(event, received_ms, now_ms)
            if not isinstance(fact, room_events.Ignored):
                facts.append(fact)
                worth = room_events.worth_storing(event)
                kept.append(StoredFact(room_id, worth["type"], worth["state_key"], worth, received_ms))
        self._feed(ev.RoomSnapshot(room_id, tuple(facts)))
        if self._store is not None:
            self._store.replace_room(room_id, kept)

    def on_to_device(self, batch: list[tuple[str, str, dict[str, Any]]], position: str) -> None:
        """Take a page of to-device messages; they are worked off in turns among their senders."""
        messages: list[ev.ToDevice] = []
        for sender, event_type, content in batch:
            if event_type not in to_device.TYPES:
                continue
            try:
                messages.append(to_device.decode(sender, event_type, content))
            except MalformedError as error:
                self._metrics.count("bad_messages", error.code)
                refusal = to_device.refusal(sender, event_type, content, self._policy.session_id)
                if refusal is not None:
                    self._carry_out([refusal])
        now = self._clock()
        budget = now + INTAKE_SECONDS
        for message in without_stale_invites(messages):
            sender_id = message.envelope.sender.user_id
            while self._inbox.full(sender_id) and self._clock() < budget:
                self._take_one()
            if not self._inbox.push(sender_id, _Received(message, now)):
                self._metrics.count("bounds_hit", "queued_messages")
        if self._store is not None:
            self._store.set_position(position)
        self._schedule_inbox()

    def on_homeserver(self, up: bool) -> None:
        """Learn that the homeserver is away, or back."""
        self.homeserver_up = up
        self._owner.homeserver_changed(up)
        self._feed(ev.HomeserverBack() if up else ev.HomeserverLost())

    def on_caught_up(self) -> None:
        """Learn that nothing from before the start is missing any more."""
        self._feed(ev.CaughtUp())

    def on_bot_event(self, event: dict[str, Any]) -> None:
        """Pass on what was said to the bot."""
        self._owner.bot_event(event)

    def on_fatal(self, message: str) -> None:
        """Without its homeserver the focus is half dead: end it."""
        self._owner.matrix_failed(message)

    def _schedule_inbox(self) -> None:
        if self._inbox and self._inbox_handle is None and not self._stopped:
            self._inbox_handle = asyncio.get_running_loop().call_soon(self._work_inbox)

    def _work_inbox(self) -> None:
        self._inbox_handle = None
        until = self._clock() + SLICE_SECONDS
        while self._inbox:
            self._take_one()
            if self._clock() >= until:
                break
        self._schedule_inbox()

    def _take_one(self) -> None:
        received = self._inbox.pop()
        self._feed(received.message)
        if isinstance(received.message, ev.Invite):
            self._metrics.observe_invite(self._clock() - received.at)

    # ------------------------------------------------------------ from the media core

    def on_ice_connected(self, leg: LegId) -> None:
        """Learn that a leg's address is latched."""
        if self._rtc is not None and leg in self._connections:
            self._rtc.ice_connected(leg)
            self._feed(ev.IceConnected(leg))

    def on_ice_lost(self, leg: LegId) -> None:
        """Learn that consent ran out."""
        self._feed(ev.ConnectionLost(leg, "ice_failed", "no consent"))

    def on_dtls(self, leg: LegId, datagram: bytes) -> None:
        """Pass a DTLS datagram on."""
        if self._rtc is not None and leg in self._connections:
            self._rtc.feed_dtls(leg, datagram)

    def on_speaker(self, leg: LegId, mid: Mid) -> None:
        """Learn of another dominant speaker."""
        self._feed(ev.SpeakerChanged(leg, mid))

    def on_media_failed(self, message: str) -> None:
        """Without its media core the focus is half dead: end it."""
        self._owner.media_failed(message)

    # ------------------------------------------------------------ from the WebRTC edge

    def on_rtc(self, event: ev.ConnectionLost | ev.ChannelOpened) -> None:
        """Take the fate of a connection."""
        self._feed(event)

    def on_channel_text(self, leg: LegId, text: str) -> None:
        """Take a data-channel message."""
        self._feed(channel.decode(leg, text))

    def on_channel_garbage(self, leg: LegId, why: str) -> None:
        """Take word of a data-channel message that is not even text."""
        self._feed(ev.BadMessage(leg, "not_text", why, None))

    # ------------------------------------------------------------ the core

    def _feed(self, event: ev.Event) -> None:
        if not self._stopped:
            self._carry_out(self._focus.handle(event, self._clock()))

    def _timeout(self) -> None:
        self._timer = None
        if not self._stopped:
            self._carry_out(self._focus.handle_timeout(self._clock()))

    def _carry_out(self, commands: list[cmd.Command]) -> None:
        """Carry out commands, and those that follow from their results, in order."""
        self._commands.extend(commands)
        if self._working:
            return  # an edge called back: whoever works already goes on with these
        self._working = True
        try:
            while self._commands:
                command = self._commands.popleft()
                try:
                    self._do(command)
                except Exception:  # a fault in what one leg asked for must not stop the others
                    log.exception("internal error while carrying out %s", type(command).__name__)
                    self._metrics.count("internal_errors", type(command).__name__)
        finally:
            self._working = False
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._focus.next_deadline()
        if deadline is not None and not self._stopped:
            delay = max(0.0, deadline - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._timeout)

    def _do(self, command: cmd.Command) -> None:
        match command:
            case cmd.OpenLeg() | cmd.BindLeg() | cmd.CloseLeg():
                self._do_connection(command)
            case cmd.ApplyOffer() | cmd.ApplyAnswer() | cmd.DropOffer():
                self._do_description(command)
            case cmd.SendAnswer() | cmd.SendReject() | cmd.SendHangup() | cmd.SendNegotiate():
                self._do_to_device(command)
            case cmd.Forward():
                self._edge(self._media).forward(
                    command.leg, command.mid, command.source, command.source_mid, command.width, command.height
                )
            case cmd.StopForward():
                self._edge(self._media).stop_forward(command.leg, command.mid)
            case cmd.DescribeTrack():
                self._edge(self._media).describe_track(command.leg, command.mid, command.width, command.height)
            case cmd.StoreLeg():
                connection = self._connections.get(command.leg)
                stored = self._edge(self._store).put_leg(command.stored)
                if connection is not None:
                    connection.stored = stored
            case cmd.ForgetLeg():
                self._edge(self._store).delete_leg(command.stored)
            case cmd.RequestSnapshot():
                self._edge(self._matrix).request_snapshot(command.room_id)
            case cmd.Log():
                self._do_log(command)
            case cmd.Count():
                self._metrics.count(command.counter.value, command.cause)
            case _:
                self._do_channel(command)

    def _do_connection(self, command: cmd.OpenLeg | cmd.BindLeg | cmd.CloseLeg) -> None:
        match command:
            case cmd.OpenLeg():
                local = self._edge(self._rtc).open(command.leg)
                self._connections[command.leg] = _Connection(Negotiation(local), local.ufrag)
            case cmd.BindLeg():
                connection = self._connections.get(command.leg)
                if connection is not None and connection.conference != command.conference:
                    self._leave_group(connection)
                    connection.conference = command.conference
                    self._edge(self._media).set_group(command.leg, self._group(command.conference))
            case cmd.CloseLeg():
                self._edge(self._rtc).close(command.leg)
                closed = self._connections.pop(command.leg, None)
                if closed is not None:
                    self._leave_group(closed)
            case _:
                assert_never(command)

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

    def _do_description(self, command: cmd.ApplyOffer | cmd.ApplyAnswer | cmd.DropOffer) -> None:
        connection = self._connections.get(command.leg)
        if connection is None:
            return
        negotiation = connection.negotiation
        result: ev.OfferApplied | ev.AnswerApplied
        try:
            match command:
                case cmd.ApplyOffer():
                    result = ev.OfferApplied(command.leg, *negotiation.accept_offer(command.sdp))
                case cmd.ApplyAnswer():
                    result = ev.AnswerApplied(command.leg, *negotiation.accept_answer(command.sdp))
                case cmd.DropOffer():
                    negotiation.drop_offer()
                    return
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
        negotiation, media = connection.negotiation, self._edge(self._media)
        media.set_plan(leg, negotiation.plan)
        if negotiation.remote is not None and not connection.started:
            connection.started = True
            self._edge(self._rtc).start(leg, negotiation.remote)
        if negotiation.local.ufrag != connection.ufrag:  # the peer restarted ICE (RFC 8839, section 4.4.1)
            connection.ufrag = negotiation.local.ufrag
            media.set_credentials(leg, negotiation.local.ufrag, negotiation.local.pwd)

    def _do_to_device(self, command: cmd.SendAnswer | cmd.SendReject | cmd.SendHangup | cmd.SendNegotiate) -> None:
        event_type, content = to_device.encode(command, self._policy.focus)
        stored = None
        if isinstance(command, cmd.SendAnswer):
            connection = self._connections.get(command.leg)
            stored = connection.stored if connection is not None else None
        self._edge(self._matrix).send_to_device(command.address.to, event_type, content, stored)

    def _do_channel(
        self,
        command: cmd.ChannelOffer
        | cmd.ChannelAnswer
        | cmd.ChannelMetadata
        | cmd.ChannelPing
        | cmd.ChannelPong
        | cmd.ChannelSpeaker
        | cmd.ChannelError,
    ) -> None:
        connection = self._connections.get(command.leg)
        if connection is None:
            return
        rtc = self._edge(self._rtc)
        match command:
            case cmd.ChannelOffer():
                offer = connection.negotiation.pending_offer() if command.again else None
                sdp = offer or connection.negotiation.make_offer(command.sends)
                rtc.send(command.leg, channel.encode_description("offer", sdp, command.metadata))
            case cmd.ChannelAnswer():
                rtc.send(command.leg, channel.encode_description("answer", command.sdp, command.metadata))
            case cmd.ChannelMetadata():
                connection.unsent_metadata = channel.encode_metadata(command.metadata)
                self._send_metadata(command.leg, connection)
            case cmd.ChannelPing() | cmd.ChannelPong() | cmd.ChannelSpeaker() | cmd.ChannelError():
                rtc.send(command.leg, channel.encode(command))
            case _:
                assert_never(command)

    def _send_metadata(self, leg: LegId, connection: _Connection) -> None:
        if connection.unsent_metadata is None:
            return
        if self._edge(self._rtc).send(leg, connection.unsent_metadata):
            connection.unsent_metadata = None
        elif self._retry is None and not self._stopped:
            self._retry = asyncio.get_running_loop().call_later(METADATA_RETRY, self._retry_metadata)

    def _retry_metadata(self) -> None:
        self._retry = None
        for leg, connection in list(self._connections.items()):
            self._send_metadata(leg, connection)

    def _do_log(self, line: cmd.Log) -> None:
        parts = [line.message]
        if line.leg is not None:
            parts.append(f"leg={line.leg}")
        if line.peer is not None:
            parts.append(f"peer={line.peer}")
        if line.conference is not None:
            parts.append(f"room={line.conference.room_id} call={line.conference.conf_id}")
        log.log(_LEVELS[line.level], "%s", " ".join(parts))

    @staticmethod
    def _edge(edge: T | None) -> T:
        if edge is None:
            raise AssertionError("the runtime was not connected to its edges")
        return edge
