"""The whole focus as one pure machine: events in, commands out, and when it wants to be asked again.

room state ─► room_state ──┐
invites ─► sequence ─► entrance ─► grades ─► leg ─► conference ─► what flows to whom
connections, data channels ──► dialogue ─────┘          │
other foci ◄──────────────────────── cascade, trunks ◄──┘
"""

from __future__ import annotations

from typing import assert_never

from . import events as ev
from . import orders
from .books import Books
from .cascade import Cascade
from .commands import ChannelPong, Command, Counter, Level
from .conference import Conference
from .dialogue import Dialogue
from .entrance import Entrance
from .grades import REASON_REFUSED, Grades
from .ids import LegId, RoomId
from .leg import Leg, State, Timer, Via
from .operator import Operator
from .outbox import Outbox
from .overview import Overview
from .policy import Policy
from .room_state import RoomState
from .rooms import Rooms
from .sequence import Sequencer
from .shares import Shares
from .trunks import Trunks
from .usage import sizes
from .view import CallView, FocusView, LinkView, TrackView

MAX_ROUNDS = 4  # of settling trunks after one event


class Focus:
    """Feed it events with the time of a monotonic clock; carry out what it returns, in order."""

    def __init__(self, policy: Policy) -> None:
        self._out = Outbox()
        self._books = Books(policy)
        self._rooms = Rooms(policy, lambda room_id: room_id in self._books.by_room, self._out)
        self._sequencer = Sequencer()
        self._cascade = Cascade(policy.focus)
        self._grades = Grades(self._books, self._rooms, self._cascade, self._out)
        self._trunks = Trunks(self._books, self._rooms, self._cascade, self._grades, self._out)
        self._shares = Shares(self._books, self._out)
        self._entrance = Entrance(self._books, self._rooms, self._grades, self._trunks, self._shares, self._out)
        self._dialogue = Dialogue(self._books, self._grades, self._out)
        self._operator = Operator(self._books, self._rooms, self._grades, self._out)
        self._room_state = RoomState(self._books, self._rooms, self._grades, self._entrance, self._out)
        self._overview = Overview(self._books, self._rooms, self._entrance, self._shares)

    # ------------------------------------------------------------ the machine

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take in one event; returns what has to be done, in order."""
        for limit, amount in sizes(event, self._books.policy.limits):
            self._books.peaks.note(limit, amount, now)
        self._dispatch(event, now)
        self._settle(now)
        return self._out.take()

    def next_deadline(self) -> float | None:
        """When `handle_timeout` wants to be called next; None if nothing is waited for."""
        deadlines = (
            self._books.timers.next_deadline(),
            self._entrance.next_deadline(),
            self._sequencer.next_deadline(),
            self._room_state.next_deadline(),
            self._cascade.next_deadline(),
            self._operator.next_deadline(),
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> list[Command]:
        """Do what is due."""
        for message in self._sequencer.handle_timeout(now):
            self._signal(message, now)
        self._entrance.handle_timeout(now)
        self._operator.handle_timeout(now)
        while (due := self._books.timers.pop_due(now)) is not None:
            leg = self._books.legs.get(due[0])
            if leg is not None:
                self._leg_timeout(leg, due[1], now)
        self._room_state.handle_timeout(now)
        while (key := self._cascade.pop_due(now)) is not None:
            self._books.unsettled.add(key)
        self._settle(now)
        return self._out.take()

    def _settle(self, now: float) -> None:
        """Let the trunks follow what has changed; that may change more."""
        self._operator.settle(now)
        for _ in range(MAX_ROUNDS):
            if not self._books.unsettled:
                return
            unsettled, self._books.unsettled = sorted(self._books.unsettled), set()
            for key in unsettled:
                self._trunks.settle(key, now)

    # ------------------------------------------------------------ what others ask

    @property
    def caught_up(self) -> bool:
        """Whether the homeserver's backlog from before the start is worked off."""
        return self._books.caught_up

    def tracks_room(self, room_id: str) -> bool:
        """Whether membership events of this room are of interest."""
        return self._rooms.get(RoomId(room_id)) is not None

    def holds(self, fact: ev.RoomFact) -> bool:
        """Whether this event counts, so that it is worth keeping for after a restart."""
        return self._room_state.holds(fact)

    def redacted(self, redaction: ev.Redacted) -> bool:
        """Whether this redaction emptied its sender's own member event."""
        return self._room_state.redacted(redaction)

    def calls(self, now: float) -> tuple[CallView, ...]:
        """The calls that go on."""
        return tuple(conference.view(now) for conference in self._books.conferences.values())

    def hears(self, leg_id: LegId, size: int, now: float) -> bool:
        """Whether this leg may say so many bytes more on its data channel now; that counts as said."""
        leg, limits, peaks = self._books.legs.get(leg_id), self._books.policy.limits, self._books.peaks
        if leg is None:
            return True
        heard = leg.hears(now)
        peaks.note("messages_per_second", leg.talk * limits.messages_per_second, now)
        peaks.note("message_size", min(size, limits.message_size), now)
        return heard

    def refused(self, bound: str, now: float) -> None:
        """Something was beyond a limit and never came here."""
        self._books.peaks.note(bound, getattr(self._books.policy.limits, bound), now)

    @property
    def draining(self) -> bool:
        """Whether no new calls are taken."""
        return self._books.doors.draining

    @property
    def busy(self) -> bool:
        """Whether anybody is in a call: a drain waits for that."""
        return any(conference.participants for conference in self._books.conferences.values())

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._books.policy

    def view(self, now: float) -> FocusView:
        """What an operator may see."""
        return self._overview.view(now)

    def tracks(self, leg_id: LegId) -> tuple[TrackView, ...]:
        """What an operator may see of what one leg publishes, or another focus shows."""
        return self._overview.tracks(leg_id)

    def links(self, now: float) -> list[LinkView]:
        """What an operator may see of the trunks that there are or should be."""
        return self._cascade.view(now)

    # ------------------------------------------------------------ what is said to it

    def _dispatch(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.CallChanged() | ev.CallMemberChanged() | ev.MembershipChanged():
                self._room_state.changed(event, now)
            case ev.Redacted():
                self._room_state.redaction(event, now)
            case ev.RoomSnapshot():
                self._room_state.snapshot(event, now)
            case ev.SnapshotRefused():
                self._room_state.not_read(event.room_id)
            case ev.HomeserverLost():
                self._rooms.freeze.lost(now)
                self._grades.evaluate(self._books.legs.values(), now)
            case ev.HomeserverBack():
                self._rooms.freeze.back(now)
                self._grades.evaluate(self._books.legs.values(), now)
            case ev.Restored():
                self._room_state.restored(event, now)
            case ev.CaughtUp():
                self._books.caught_up = True
                self._grades.evaluate(self._books.legs.values(), now)
            case ev.Stopping():
                for leg in list(self._books.legs.values()):
                    self._grades.end(leg, "signalling_timeout", now)
            case (
                orders.Kick()
                | orders.EndConference()
                | orders.SetMuted()
                | orders.PolicyChanged()
                | orders.DrainChanged()
                | orders.OverloadChanged()
            ):
                self._operator.handle(event, now)
                self._entrance.policy_changed()
                self._shares.policy_changed()
            case orders.Traffic():
                self._shares.measured(event.legs, now)
            case ev.Invite() | ev.Answer() | ev.Hangup() | ev.DeviceNegotiate() | ev.Noted():
                for message in self._sequencer.accept(event, now):
                    self._signal(message, now)
                if self._sequencer.overflowed:
                    self._sequencer.overflowed = 0
                    self._out.count(Counter.BOUNDS_HIT, "reordered_messages")
            case _:
                self._leg_event(event, now)

    def _leg_event(
        self,
        event: ev.InviteMade
        | ev.OfferApplied
        | ev.AnswerApplied
        | ev.DescriptionFailed
        | ev.IceConnected
        | ev.ConnectionLost
        | ev.ChannelOpened
        | ev.SpeakerChanged
        | ev.FlowChanged
        | ev.SuspensionChanged
        | ev.ChannelMessage,
        now: float,
    ) -> None:
        leg = self._books.legs.get(event.leg)
        if leg is None:
            return  # it ended while this was on its way
        conference = self._books.conference_of(leg)
        match event:
            case ev.InviteMade():
                self._trunks.invite_made(leg, event, now)
            case ev.OfferApplied():
                self._dialogue.offer_applied(leg, event, now)
            case ev.AnswerApplied():
                self._dialogue.answer_applied(leg, conference, event, now)
            case ev.DescriptionFailed():
                self._dialogue.description_failed(leg, event, now)
            case ev.IceConnected():
                leg.connected(now)
                if leg.trunk:
                    self._trunks.connected(leg, now)
            case ev.ConnectionLost():
                self._out.log(Level.INFO, f"connection lost: {event.detail}", leg.about)
                self._grades.end(leg, event.reason, now)
            case ev.ChannelOpened():
                if conference is not None:
                    conference.refresh(leg, now)
                leg.opened(now)
            case ev.SpeakerChanged():
                if conference is not None:
                    conference.speaker_changed(event)
            case ev.SuspensionChanged():
                if conference is not None:
                    conference.suspension_changed(leg, event)
            case ev.FlowChanged():
                if conference is not None:
                    conference.flow_changed(event, now)
            case _:
                self._channel_message(leg, conference, event, now)

    def _channel_message(self, leg: Leg, conference: Conference | None, event: ev.ChannelMessage, now: float) -> None:
        if leg.liveness is not None:
            leg.liveness.heard(now)
        match event:
            case ev.ChannelNegotiate():
                self._dialogue.negotiate(leg, event.description_type, event.sdp, event.metadata, Via.CHANNEL, now)
            case ev.MetadataChanged():
                self._dialogue.set_metadata(leg, event.metadata, now)
            case ev.TrackSubscription():
                if conference is not None:
                    conference.subscribe(leg, event, now)
                else:
                    leg.keep_subscriptions(event)
            case ev.Ping():
                self._out.put(ChannelPong(leg.id))
            case ev.Pong():
                if leg.liveness is not None:
                    leg.liveness.pong(now)
            case ev.ConnectToFocus():
                self._connect_to_focus(leg, event, now)
            case ev.BadMessage():
                if event.bound is not None:
                    self._out.count(Counter.BOUNDS_HIT, event.bound)
                if not leg.complain(event.code, event.message, event.in_reply_to, now):
                    self._grades.end(leg, REASON_REFUSED, now)
            case _:
                assert_never(event)

    def _connect_to_focus(self, leg: Leg, event: ev.ConnectToFocus, now: float) -> None:
        """A participant names a focus: in the set it has a trunk anyway, outside of it it gets none (section 6)."""
        key = leg.conference
        room = self._rooms.get(key.room_id) if key is not None else None
        if key is not None and event.focus in self._trunks.foci(room, key, now):
            self._books.unsettled.add(key)
        elif not leg.complain("focus_not_in_set", "no member's active foci name it", "m.call.connect_to_focus", now):
            self._grades.end(leg, REASON_REFUSED, now)

    def _leg_timeout(self, leg: Leg, timer: Timer, now: float) -> None:
        match timer:
            case Timer.CONNECT:
                self._grades.end(leg, "invite_timeout" if leg.state is State.INVITING else "ice_timeout", now)
            case Timer.CHANNEL | Timer.HELD:
                self._grades.end(leg, "signalling_timeout", now)
            case Timer.EXPIRY:
                self._grades.evaluate((leg,), now)
            case Timer.LIVENESS:
                if not leg.check_liveness(now):
                    self._grades.end(leg, "keep_alive_timeout", now)
            case Timer.VIEW:
                conference = self._books.conference_of(leg)
                if conference is not None:
                    conference.refresh(leg, now)
            case Timer.OFFER:
                if leg.trunk and leg.offers.lost(now):
                    self._grades.end(leg, "signalling_timeout", now)  # dialled again, both begin anew
                else:
                    leg.poll_offers(now)
            case Timer.WANTS:
                if (conference := self._books.conference_of(leg)) is not None:
                    conference.ask(leg)
            case Timer.LAYERS:
                if (conference := self._books.conference_of(leg)) is not None:
                    conference.review_layers(leg, now)
            case Timer.HELD_BACK:
                if (conference := self._books.conference_of(leg)) is not None:
                    conference.check_trunk(leg, now)
            case _:
                assert_never(timer)

    # ------------------------------------------------------------ signalling

    def _signal(self, message: ev.ToDevice, now: float) -> None:
        envelope = message.envelope
        if envelope.dest_session_id not in (None, self._books.policy.session_id, self._books.policy.trunk_session):
            self._out.count(Counter.BAD_MESSAGES, "other_session")
            return
        call = (envelope.sender, envelope.call_id)
        leg = self._books.by_address(call)
        if leg is not None and leg.envelope.proven and not envelope.proven:
            self._out.count(Counter.BAD_MESSAGES, "not_encrypted")
            return
        match message:
            case ev.Invite():
                self._entrance.invited(message, leg, now)
            case ev.Answer():
                if leg is not None:
                    self._trunks.answered(leg, message, now)
            case ev.Hangup():
                self._entrance.withdrawn(call)
                if leg is not None:
                    if leg.trunk:
                        self._cascade.answered(leg.peer)
                    self._grades.end(leg, message.reason, now, tell=False)
            case ev.DeviceNegotiate():
                if leg is not None and leg.state not in (State.ANSWERING, State.INVITING):
                    kind = message.description_type
                    self._dialogue.negotiate(leg, kind, message.sdp, message.metadata, Via.TO_DEVICE, now)
            case ev.Noted():
                pass
            case _:
                assert_never(message)
