"""The event loop's side of the core: edges' news in, the core's commands out, timers, fairness among senders."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core import commands as cmd
from ..core import events as ev
from ..core import orders
from ..core.fair_queue import FairQueue
from ..core.focus import Focus
from ..core.ids import LegId, Mid, RoomId
from ..core.policy import Policy
from ..core.rate import Rate
from ..core.sequence import without_stale_invites
from ..core.view import CallView, FocusView, LinkView, TrackView
from ..logs import Concern, concerning
from ..matrix import Message
from ..metrics import Metrics
from ..store import StoredFact
from ..tracing import Trace, no_trace
from ..wire import channel, room_events, to_device
from ..wire.fields import MalformedError
from .executor import Edges, Executor
from .garbage import Garbage
from .journeys import Journeys, Stage
from .ports import MatrixPort, MediaPort, Owner, RtcPort, StorePort

log = logging.getLogger("mautrix_sfu.call")

INTAKE_SECONDS = 0.02  # that a page of to-device messages may take for making room in a full queue
REFUSALS = (16.0, 1.0)  # of invites that cannot be read: at once, and then per second, to one user
SLICE_SECONDS = 0.005  # of working off messages before the event loop has its turn
FAULT_PAUSE = 1.0  # seconds without timers after one that met a fault of this program: it may be due again at once

_SETTING_UP = cmd.OpenLeg | cmd.MakeInvite | cmd.ApplyOffer | cmd.ApplyAnswer


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
        allow_private: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        trace: Callable[[Trace], None] = no_trace,
    ) -> None:
        self.garbage = Garbage()
        self._policy = policy
        self._focus = Focus(policy)
        self._metrics = metrics
        self._owner = owner
        self._allow_private = allow_private  # whether trunks may be dialled to addresses that are not public
        self._clock = clock
        self._wall_ms = wall_ms
        self._journeys = Journeys(metrics, clock, wall_ms, trace)
        self._rtc: RtcPort | None = None
        self._store: StorePort | None = None
        self._executor: Executor | None = None
        self._commands: deque[cmd.Command] = deque()
        self._working = False
        self._inbox: FairQueue[_Received] = FairQueue()
        self._refusals = Rate(*REFUSALS)
        self._inbox_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._no_timer_before = 0.0
        self._stopped = False
        self._idle: asyncio.Event | None = None  # set when nobody is in a call any more
        self.homeserver_up = True
        self._traffic: Mapping[LegId, tuple[int, int]] = {}  # bytes from and to each leg, as measured last
        self._load: str | None = None  # why no new legs are taken: too much to do
        self._database: str | None = None  # or nowhere to keep them

    def connect(self, matrix: MatrixPort, media: MediaPort, rtc: RtcPort, store: StorePort) -> None:
        """Give the runtime its edges, before anything else."""
        self._rtc, self._store = rtc, store
        edges = Edges(matrix, media, rtc, store, self._owner)
        self._executor = Executor(
            lambda: self.policy,
            self._metrics,
            self._allow_private,
            edges,
            self._feed,
            self._journeys,
            self.garbage,
        )

    def restore(self, facts: Iterable[tuple[dict[str, Any], int]], legs: tuple[ev.StoredLeg, ...]) -> None:
        """Take what the store held: raw events with the time they were received (ms, wall clock), and legs."""
        now_ms = self._wall_ms()
        parsed = (self._parsed(event, received_ms, now_ms) for event, received_ms in facts)
        known = tuple(fact for fact in parsed if not isinstance(fact, room_events.Ignored))
        self._feed(ev.Restored(known, legs))

    def view(self) -> FocusView:
        """What an operator may see of the calls."""
        return self._focus.view(self._clock())

    def calls(self) -> list[tuple[CallView, int, int]]:
        """The calls that go on, and the bytes that came and went in each so far."""
        found = self._focus.calls(self._clock())
        executor = self._executor
        if executor is None:
            return []
        return [(call, *executor.bytes_of(call.conference, self._traffic)) for call in found]

    def tracks(self, leg: LegId) -> tuple[TrackView, ...]:
        """What an operator may see of what a leg publishes."""
        return self._focus.tracks(leg)

    def links(self) -> list[LinkView]:
        """What an operator may see of the trunks that there are or should be."""
        return self._focus.links(self._clock())

    @property
    def incoming(self) -> tuple[int, float]:
        """How many to-device messages wait to be worked off, and how long the oldest does in seconds."""
        oldest = min((received.at for received in self._inbox.heads()), default=None)
        return len(self._inbox), 0.0 if oldest is None else self._clock() - oldest

    @property
    def caught_up(self) -> bool:
        """Whether the backlog from before the start is worked off."""
        return self._focus.caught_up

    def operate(self, event: orders.OperatorEvent | orders.Traffic) -> None:
        """Carry out the operator's word, or take notice of the load."""
        if isinstance(event, orders.OverloadChanged):
            self._load = event.cause
            event = orders.OverloadChanged(self._load or self._database)
        elif isinstance(event, orders.Traffic):
            self._traffic = event.legs
        self._feed(event)

    def on_database(self, up: bool) -> None:
        """Learn that nothing can be kept for now, or again: legs that nobody could tell of a restart are not opened."""
        self._database = None if up else "database"
        self._feed(orders.OverloadChanged(self._load or self._database))

    def allow_private(self, allowed: bool) -> None:
        """Whether trunks may be dialled to addresses that are not public, from now on."""
        if self._executor is not None:
            self._executor.allow_private = allowed

    @property
    def closed(self) -> list[str]:
        """Why no new calls are taken, by the operator's word or the load, in words for an operator."""
        said = ["draining: no new calls are taken"] if self._focus.draining else []
        return said if self._load is None else [*said, f"overload: no new connections are taken ({self._load})"]

    @property
    def busy(self) -> bool:
        """Whether anybody is in a call."""
        return self._focus.busy

    async def wait_idle(self) -> None:
        """Wait until nobody is in a call."""
        self._idle = asyncio.Event()
        if self.busy:
            await self._idle.wait()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._focus.policy

    def say_goodbye(self) -> None:
        """End all legs and tell their peers."""
        self._feed(ev.Stopping())

    def stop(self) -> None:
        """Work off nothing more."""
        self._stopped = True
        for handle in (self._inbox_handle, self._timer):
            if handle is not None:
                handle.cancel()
        if self._executor is not None:
            self._executor.stop()
        self.garbage.stop()

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
        fact = self._parsed(event, now_ms, now_ms)
        if isinstance(fact, room_events.Ignored):
            self._metrics.count("room_events_ignored", fact.value)
            return
        self._feed(fact)
        if self._store is not None and self._focus.holds(fact):
            kept = room_events.worth_storing(event)
            self._store.put_fact(fact.room_id, kept["type"], kept["state_key"], kept, now_ms)

    def _parsed(self, event: dict[str, Any], received_ms: int, now_ms: int) -> ev.RoomFact | room_events.Ignored:
        """What an event says: one that meets a fault says nothing, and costs neither the room's others nor a start."""
        try:
            return room_events.parse(event, received_ms, now_ms)
        except Exception:
            self._met_a_fault("room event")
            return room_events.Ignored.MALFORMED

    async def kept(self) -> bool:
        """Wait until what came of the room events so far is on disk; False if that failed."""
        return self._store is None or await self._store.flush()

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
            received_ms = max(0, min(now_ms, sent_ms)) if isinstance(sent_ms, int) else now_ms
            fact = self._parsed(event, received_ms, now_ms)
            if not isinstance(fact, room_events.Ignored):
                facts.append(fact)
                worth = room_events.worth_storing(event)
                kept.append(StoredFact(room_id, worth["type"], worth["state_key"], worth, received_ms))
        self._feed(ev.RoomSnapshot(room_id, tuple(facts)))
        if self._store is not None:
            self._store.replace_room(room_id, kept)

    def on_to_device(self, batch: list[Message], position: str) -> None:
        """Take a page of to-device messages; they are worked off in turns among their senders."""
        messages: list[ev.ToDevice] = []
        for sender, event_type, content, proven in batch:
            if event_type not in to_device.TYPES:
                continue
            try:
                messages.append(to_device.decode(sender, event_type, content, self.policy.limits, proven))
            except MalformedError as error:
                self._metrics.count("bad_messages", error.code)
                if error.bound is not None:
                    self._metrics.count("bounds_hit", error.bound)
                    self._focus.refused(error.bound, self._clock())
                refusal = to_device.refusal(sender, event_type, content, self._policy.session_id)
                if refusal is not None and self._refusals.allow(sender, self._clock()):
                    self._carry_out([refusal])
            except Exception:  # it must not cost the others of its page
                self._met_a_fault(event_type)
        now = self._clock()
        budget = now + INTAKE_SECONDS
        for message in without_stale_invites(messages):
            sender_id = message.envelope.sender.user_id
            while self._inbox.full(sender_id) and self._clock() < budget:
                self._take_one()
            if not self._inbox.push(sender_id, _Received(message, now)):
                self._metrics.count("bounds_hit", "queued_messages")
                self._owner.counted(cmd.Count(cmd.Counter.BOUNDS_HIT, "queued_messages"))
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
        if isinstance(received.message, ev.Invite):
            self._journeys.invited(received.message.envelope.sender, received.at)
        self._feed(received.message)
        if isinstance(received.message, ev.Invite):
            self._metrics.observe_invite(self._clock() - received.at)

    # ------------------------------------------------------------ from the media core

    def concern(self, leg: LegId | None) -> Concern | None:
        """What lines about this leg are to say."""
        return self._executor.concern(leg) if self._executor is not None else None

    def on_ice_connected(self, leg: LegId) -> None:
        """Learn that a leg's address is latched."""
        if self._rtc is not None and self._executor is not None and self._executor.knows(leg):
            self._journeys.reach(leg, Stage.ICE)
            with concerning(self._executor.concern(leg)):
                self._rtc.ice_connected(leg)
            self._feed(ev.IceConnected(leg))

    def on_ice_lost(self, leg: LegId) -> None:
        """Learn that consent ran out."""
        self._feed(ev.ConnectionLost(leg, "ice_failed", "no consent"))

    def on_dtls(self, leg: LegId, datagram: bytes) -> None:
        """Pass a DTLS datagram on."""
        if self._rtc is not None and self._executor is not None and self._executor.knows(leg):
            self._rtc.feed_dtls(leg, datagram)

    def on_ice_failed(self, leg: LegId) -> None:
        """Learn that no address of a dialled focus answered."""
        self._feed(ev.ConnectionLost(leg, "ice_failed", "no address of the focus answers"))

    def on_flow(self, leg: LegId, mid: Mid, flowing: bool) -> None:
        """Learn that a published track fell silent, or sends again."""
        if flowing:
            self._journeys.reach(leg, Stage.MEDIA)
        self._feed(ev.FlowChanged(leg, mid, flowing))

    def on_suspended(self, leg: LegId, mid: Mid, suspended: bool) -> None:
        """Learn that a leg's link is too narrow for what it is sent on an m-line, or wide enough again."""
        self._feed(ev.SuspensionChanged(leg, mid, suspended))

    def on_speaker(self, leg: LegId, mid: Mid) -> None:
        """Learn of another dominant speaker."""
        self._feed(ev.SpeakerChanged(leg, mid))

    def on_media_failed(self, message: str) -> None:
        """Without its media core the focus is half dead: end it."""
        self._owner.media_failed(message)

    # ------------------------------------------------------------ from the WebRTC edge

    def on_rtc(self, event: ev.ConnectionLost | ev.ChannelOpened) -> None:
        """Take the fate of a connection."""
        if isinstance(event, ev.ChannelOpened):
            self._journeys.reach(event.leg, Stage.CHANNEL)
        self._feed(event)

    def on_secured(self, leg: LegId) -> None:
        """Learn that a leg's DTLS handshake is done."""
        self._journeys.reach(leg, Stage.DTLS)

    def on_channel_text(self, leg: LegId, text: str) -> None:
        """Take a data-channel message."""
        if self._focus.hears(leg, channel.size_of(text), self._clock()):
            self._feed(channel.decode(leg, text, self.policy.limits))
        else:
            bound = "messages_per_second"
            self._feed(ev.BadMessage(leg, "too_many", f"too many messages: {bound}", None, bound))

    def on_channel_garbage(self, leg: LegId, why: str) -> None:
        """Take word of a data-channel message that is not even text."""
        self._feed(ev.BadMessage(leg, "not_text", why, None))

    # ------------------------------------------------------------ the core

    def _feed(self, event: ev.Event) -> None:
        if self._stopped:
            return
        commands: list[cmd.Command] = []
        try:
            commands = self._focus.handle(event, self._clock())
        except Exception:  # a fault in what one peer brought about must not stop the others
            with concerning(self.concern(getattr(event, "leg", None))):
                self._met_a_fault(type(event).__name__)
        self._carry_out(commands)

    def _timeout(self) -> None:
        self._timer = None
        if self._stopped:
            return
        commands: list[cmd.Command] = []
        try:
            commands = self._focus.handle_timeout(self._clock())
        except Exception:
            self._met_a_fault("timeout")
            self._no_timer_before = self._clock() + FAULT_PAUSE
        self._carry_out(commands)

    def _carry_out(self, commands: list[cmd.Command]) -> None:
        """Carry out commands, and those that follow from their results, in order."""
        self._commands.extend(commands)
        if self._working:
            return  # an edge called back: whoever works already goes on with these
        executor = self._executor
        if executor is None:
            raise AssertionError("the runtime was not connected to its edges")
        self._working = True
        try:
            while self._commands:
                command = self._commands.popleft()
                with concerning(executor.about(command)):
                    try:
                        executor.do(command)
                    except Exception:  # a fault in what one leg asked for must not stop the others
                        self._met_a_fault(type(command).__name__)
                        if isinstance(command, _SETTING_UP):  # without it the leg comes to nothing, and waits for ever
                            self._feed(ev.ConnectionLost(command.leg, "unknown_error", "a fault of this program"))
        finally:
            self._working = False
        if self._idle is not None and not self.busy:
            self._idle.set()
        self._set_timer()

    def _met_a_fault(self, what: str) -> None:
        """Log and count the exception that is being handled."""
        log.exception("internal error while carrying out %s", what)
        self._metrics.count("internal_errors", what)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._focus.next_deadline()
        if deadline is not None and not self._stopped:
            delay = max(0.0, max(deadline, self._no_timer_before) - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._timeout)
