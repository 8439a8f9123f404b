"""The whole focus as one pure machine: events in, commands out, and when it wants to be asked again.

room state ─► membership ─┐
invites ─► sequence ─► lobby ─► admission ─► leg ─► conference ─► what flows to whom
connections, data channels ──────────────────┘
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import assert_never

from . import events as ev
from .admission import Place, find_place, limit_hit, newest
from .commands import (
    ApplyAnswer,
    ApplyOffer,
    BindLeg,
    ChannelAnswer,
    ChannelPong,
    CloseLeg,
    Command,
    Counter,
    DropOffer,
    ForgetLeg,
    Level,
    OpenLeg,
    RequestSnapshot,
    SendAnswer,
    SendHangup,
    SendNegotiate,
    SendReject,
    StoreLeg,
)
from .conference import Conference
from .ids import ConferenceKey, ConfId, LegId, RoomId
from .leg import CONNECT_TIMEOUT, Leg, PendingOffer, State, Timer, Via, address_to
from .lobby import Lobby
from .membership import Grade, Room, Rooms, Standing
from .outbox import Outbox
from .policy import Policy
from .sequence import CallKey, Sequencer
from .timers import Timers
from .view import FocusView, LegView

REMEMBERED_ENDS = 4096  # calls that ended: their invites, delivered again, open nothing
REREAD_SECONDS = 300.0  # rooms with legs are read again now and then, where that is permitted
REASON_BUSY = "user_busy"
REASON_REFUSED = "unknown_error"


class Focus:
    """Feed it events with the time of a monotonic clock; carry out what it returns, in order."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._out = Outbox()
        self._rooms = Rooms(policy)
        self._sequencer = Sequencer()
        self._lobby = Lobby()
        self._timers: Timers[tuple[LegId, Timer]] = Timers()
        self._legs: dict[LegId, Leg] = {}
        self._by_call: dict[CallKey, LegId] = {}
        self._by_room: dict[RoomId, set[LegId]] = {}
        self._unbound: set[LegId] = set()
        self._ended: OrderedDict[CallKey, None] = OrderedDict()
        self._conferences: dict[ConferenceKey, Conference] = {}
        self.caught_up = False
        self._next_leg = 0
        self._reread_at: float | None = None

    # ------------------------------------------------------------ the machine

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take in one event; returns what has to be done, in order."""
        self._dispatch(event, now)
        return self._out.take()

    def next_deadline(self) -> float | None:
        """When `handle_timeout` wants to be called next; None if nothing is waited for."""
        deadlines = (
            self._timers.next_deadline(),
            self._lobby.next_deadline(),
            self._sequencer.next_deadline(),
            self._reread_at,
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timeout(self, now: float) -> list[Command]:
        """Do what is due."""
        for message in self._sequencer.handle_timeout(now):
            self._signal(message, now)
        while (parked := self._lobby.pop_due(now)) is not None:
            self._reject(parked.invite.envelope, REASON_REFUSED, parked.cause)
        while (due := self._timers.pop_due(now)) is not None:
            leg = self._legs.get(due[0])
            if leg is not None:
                self._leg_timeout(leg, due[1], now)
        if self._reread_at is not None and now >= self._reread_at:
            self._reread(now)
        return self._out.take()

    def tracks_room(self, room_id: str) -> bool:
        """Whether membership events of this room are of interest."""
        return self._rooms.get(RoomId(room_id)) is not None

    def holds(self, fact: ev.RoomFact) -> bool:
        """Whether this event counts, so that it is worth keeping for after a restart."""
        room = self._rooms.get(fact.room_id)
        return room is not None and room.holds(fact)

    def redacted(self, redaction: ev.Redacted) -> bool:
        """Whether this redaction emptied its sender's own member event."""
        room = self._rooms.get(redaction.room_id)
        return room is not None and room.member_event(redaction.sender) == redaction.event_id

    def view(self, now: float) -> FocusView:
        """What an operator may see."""
        legs = tuple(
            LegView(
                leg.id,
                leg.peer,
                leg.conference,
                leg.grade.value,
                leg.state.value,
                now - leg.since,
                len(leg.published.tracks),
                sum(grant.mid is not None for grant in leg.subscriptions.granted.values()),
            )
            for leg in self._legs.values()
        )
        return FocusView(legs, len(self._lobby), len(self._rooms), self.caught_up)

    def _dispatch(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.CallChanged() | ev.CallMemberChanged() | ev.MembershipChanged():
                self._room_fact(event, now)
            case ev.Redacted():
                redacted = self._rooms.get(event.room_id)
                if redacted is not None and redacted.redact(event.sender, event.event_id):
                    self._read(redacted)
                    self._room_changed(redacted, now)
            case ev.RoomSnapshot():
                self._snapshot(event, now)
            case ev.SnapshotRefused():
                room = self._rooms.get(event.room_id)
                if room is not None:
                    room.reading = False
            case ev.HomeserverLost():
                self._rooms.freeze.lost(now)
                self._evaluate(self._legs.values(), now)
            case ev.HomeserverBack():
                self._rooms.freeze.back(now)
                self._evaluate(self._legs.values(), now)
            case ev.Restored():
                self._restored(event, now)
            case ev.CaughtUp():
                self.caught_up = True
                self._evaluate(self._legs.values(), now)
            case ev.Stopping():
                for leg in list(self._legs.values()):
                    self._end(leg, "signalling_timeout", now)
            case ev.Invite() | ev.Hangup() | ev.DeviceNegotiate() | ev.Noted():
                for message in self._sequencer.accept(event, now):
                    self._signal(message, now)
                if self._sequencer.overflowed:
                    self._sequencer.overflowed = 0
                    self._out.count(Counter.BOUNDS_HIT, "reordered_messages")
            case _:
                self._leg_event(event, now)

    def _leg_event(
        self,
        event: ev.OfferApplied
        | ev.AnswerApplied
        | ev.DescriptionFailed
        | ev.IceConnected
        | ev.ConnectionLost
        | ev.ChannelOpened
        | ev.SpeakerChanged
        | ev.ChannelMessage,
        now: float,
    ) -> None:
        leg = self._legs.get(event.leg)
        if leg is None:
            return  # it ended while this was on its way
        conference = self._conference_of(leg)
        match event:
            case ev.OfferApplied():
                self._offer_applied(leg, event, now)
            case ev.AnswerApplied():
                if leg.published.set_received(event.receives) and conference is not None:
                    conference.publications_changed(leg, now)
                if conference is not None:
                    conference.answer_applied(leg, event, now)
                else:
                    leg.answer_applied(event, now)
                    leg.poll_offers(now)
            case ev.DescriptionFailed():
                self._description_failed(leg, event, now)
            case ev.IceConnected():
                leg.connected(now)
            case ev.ConnectionLost():
                self._out.log(Level.INFO, f"connection lost: {event.detail}", leg=leg.id, peer=leg.peer)
                self._end(leg, event.reason, now)
            case ev.ChannelOpened():
                if conference is not None:
                    conference.refresh(leg, now)
                leg.opened(now)
            case ev.SpeakerChanged():
                if conference is not None:
                    conference.speaker_changed(event)
            case _:
                self._channel_message(leg, conference, event, now)

    def _channel_message(self, leg: Leg, conference: Conference | None, event: ev.ChannelMessage, now: float) -> None:
        if leg.liveness is not None:
            leg.liveness.heard(now)
        match event:
            case ev.ChannelNegotiate():
                self._negotiate(leg, event.description_type, event.sdp, event.metadata, Via.CHANNEL, now)
            case ev.MetadataChanged():
                self._set_metadata(leg, event.metadata, now)
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
                self._complain(leg, "not_in_conference", "this focus is not part of the call", event, now)
            case ev.BadMessage():
                if not leg.complain(event.code, event.message, event.in_reply_to, now):
                    self._end(leg, REASON_REFUSED, now)
            case _:
                assert_never(event)

    def _complain(self, leg: Leg, code: str, message: str, event: ev.ConnectToFocus, now: float) -> None:
        if not leg.complain(code, message, "m.call.connect_to_focus", now):
            self._end(leg, REASON_REFUSED, now)

    def _leg_timeout(self, leg: Leg, timer: Timer, now: float) -> None:
        match timer:
            case Timer.CONNECT:
                self._end(leg, "ice_timeout", now)
            case Timer.CHANNEL | Timer.HELD:
                self._end(leg, "signalling_timeout", now)
            case Timer.EXPIRY:
                self._evaluate((leg,), now)
            case Timer.LIVENESS:
                if not leg.check_liveness(now):
                    self._end(leg, "keep_alive_timeout", now)
            case Timer.VIEW:
                conference = self._conference_of(leg)
                if conference is not None:
                    conference.refresh(leg, now)
            case Timer.OFFER:
                leg.poll_offers(now)
            case _:
                assert_never(timer)

    # ------------------------------------------------------------ room state

    def _room_fact(self, fact: ev.RoomFact, now: float) -> None:
        room = self._rooms.get(fact.room_id)
        fresh = room is None
        if room is None:
            if isinstance(fact, ev.MembershipChanged):
                return
            room = self._rooms.open(fact.room_id)
        gap = room.apply(fact, now)
        if not isinstance(fact, ev.MembershipChanged):
            self._rooms.index(room, _named(fact))
        if fresh or gap:
            self._read(room)
        self._room_changed(room, now)

    def _snapshot(self, event: ev.RoomSnapshot, now: float) -> None:
        room = self._rooms.open(event.room_id)
        if room.replace(event.facts, now):
            self._read(room)
        self._rooms.index(room, room.confs())
        self._room_changed(room, now)

    def _read(self, room: Room) -> None:
        if not room.reading:
            room.reading = True
            self._out.put(RequestSnapshot(room.room_id))

    def _reread(self, now: float) -> None:
        self._reread_at = now + REREAD_SECONDS if self._by_room else None
        for room_id in self._by_room:
            room = self._rooms.get(room_id)
            if room is not None and room.readable:
                self._read(room)

    def _room_changed(self, room: Room, now: float) -> None:
        ids = self._by_room.get(room.room_id, set()) | self._unbound
        self._evaluate([self._legs[leg_id] for leg_id in sorted(ids)], now)
        for parked in self._lobby.waiting_for(room.room_id, room.confs()):
            self._admit(parked.invite, parked.deadline, now)

    def _restored(self, event: ev.Restored, now: float) -> None:
        for fact in event.facts:
            room = self._rooms.open(fact.room_id)
            room.apply(fact, now)
            self._rooms.index(room, _named(fact))
        for stored in event.legs:
            envelope = ev.Envelope(
                stored.peer, stored.call_id, stored.conf_id, stored.room_id, stored.remote_session, None, None, None
            )
            self._out.put(SendHangup(address_to(envelope, self._policy, None), "signalling_timeout"))
            self._out.put(ForgetLeg(stored))
            self._remember_end((stored.peer, stored.call_id))
            known = self._rooms.get(stored.room_id) if stored.room_id is not None else None
            if known is not None:
                self._read(known)

    # ------------------------------------------------------------ signalling

    def _signal(self, message: ev.ToDevice, now: float) -> None:
        envelope = message.envelope
        if envelope.dest_session_id not in (None, self._policy.session_id):
            self._out.count(Counter.BAD_MESSAGES, "other_session")
            return
        call = (envelope.sender, envelope.call_id)
        leg_id = self._by_call.get(call)
        leg = self._legs.get(leg_id) if leg_id is not None else None
        match message:
            case ev.Invite():
                self._invited(message, leg, now)
            case ev.Hangup():
                self._lobby.take(call)
                if leg is not None:
                    self._end(leg, message.reason, now, tell=False)
            case ev.DeviceNegotiate():
                if leg is not None and leg.state is not State.ANSWERING:
                    self._negotiate(leg, message.description_type, message.sdp, message.metadata, Via.TO_DEVICE, now)
            case ev.Noted():
                pass
            case _:
                assert_never(message)

    def _invited(self, invite: ev.Invite, leg: Leg | None, now: float) -> None:
        call = (invite.envelope.sender, invite.envelope.call_id)
        if leg is not None:
            if leg.answer is not None:
                self._out.put(leg.answer)
        elif call in self._ended:
            self._out.count(Counter.BAD_MESSAGES, "invite_of_ended_call")
        elif call not in self._lobby:
            if self._lobby.supersede(invite):
                self._out.count(Counter.REFUSALS, "superseded")
            self._admit(invite, now + min(invite.lifetime, self._policy.invite_wait), now)

    def _admit(self, invite: ev.Invite, deadline: float, now: float) -> None:
        """Open a leg for an invite, or let it wait, or refuse it."""
        place = find_place(invite, self._rooms, self._policy, now)
        if isinstance(place, str):
            self._park(invite, place, deadline)
            return
        envelope = invite.envelope
        live = self._same_device(envelope, place.key)
        if any(leg.session != envelope.session_id and self._standing(leg, now).listed for leg in live):
            self._park(invite, "other_session_is_live", deadline)
            return
        self._lobby.take((envelope.sender, envelope.call_id))
        limit = limit_hit(envelope.sender, place, self._legs.values(), live, self._policy)
        if limit is not None:
            self._out.count(Counter.BOUNDS_HIT, limit)
            self._reject(envelope, REASON_BUSY, limit)
            return
        self._open(invite, place, now)

    def _park(self, invite: ev.Invite, cause: str, deadline: float) -> None:
        call = (invite.envelope.sender, invite.envelope.call_id)
        self._lobby.take(call)
        dropped = self._lobby.park(invite, cause, deadline)
        if dropped is not None:
            self._out.count(Counter.BOUNDS_HIT, "parked_invites")

    def _same_device(self, envelope: ev.Envelope, key: ConferenceKey | None) -> list[Leg]:
        """The legs that an invite of this device replaces, if it is answered."""
        return [
            leg
            for leg in self._legs.values()
            if leg.peer == envelope.sender
            and leg.envelope.conf_id == envelope.conf_id
            and (leg.conference is None or key is None or leg.conference == key)
        ]

    def _reject(self, envelope: ev.Envelope, reason: str, cause: str) -> None:
        self._out.count(Counter.REFUSALS, cause)
        self._out.log(Level.INFO, f"invite refused: {cause}", peer=envelope.sender)
        self._remember_end((envelope.sender, envelope.call_id))
        self._out.put(SendReject(address_to(envelope, self._policy, 0), reason))

    # ------------------------------------------------------------ a leg's life

    def _open(self, invite: ev.Invite, place: Place, now: float) -> None:
        self._next_leg += 1
        leg = Leg(LegId(self._next_leg), invite.envelope, self._policy, self._out, self._timers)
        leg.since = now
        leg.pending = PendingOffer(invite.metadata, Via.INVITE)
        self._legs[leg.id] = leg
        self._by_call[leg.peer, invite.envelope.call_id] = leg.id
        self._unbound.add(leg.id)
        self._bind(leg, place.key)
        self._out.put(OpenLeg(leg.id, leg.peer))
        self._out.put(ApplyOffer(leg.id, invite.sdp))

    def _bind(self, leg: Leg, key: ConferenceKey | None) -> None:
        if key is not None and leg.conference is None:
            leg.conference = key
            self._unbound.discard(leg.id)
            self._by_room.setdefault(key.room_id, set()).add(leg.id)

    def _offer_applied(self, leg: Leg, event: ev.OfferApplied, now: float) -> None:
        pending, leg.pending = leg.pending, None
        if pending is None:
            return
        if pending.metadata is not None:
            leg.published.set_metadata(pending.metadata)
        leg.published.set_received(event.receives)
        if pending.via is Via.INVITE:
            self._answer_invite(leg, event.answer, now)
            return
        conference = self._conference_of(leg)
        if conference is not None:
            conference.publications_changed(leg, now)
        self._out.count(Counter.NEGOTIATIONS, "answered")
        if pending.via is Via.CHANNEL:
            self._out.put(ChannelAnswer(leg.id, event.answer, leg.taken_along()))
        else:
            self._out.put(SendNegotiate(leg.address(), event.answer, leg.taken_along()))
        leg.offers.gave_answer(now)
        leg.poll_offers(now)

    def _answer_invite(self, leg: Leg, answer: str, now: float) -> None:
        for old in self._same_device(leg.envelope, leg.conference):
            if old is not leg:
                self._end(old, "replaced" if old.session == leg.session else "new_session", now)
        leg.set_state(State.CONNECTING)
        leg.set_timer(Timer.CONNECT, now + CONNECT_TIMEOUT)
        if self._reread_at is None:
            self._reread_at = now + REREAD_SECONDS
        self._out.count(Counter.JOINS, "answered")
        self._evaluate((leg,), now)
        if leg.state is State.ENDED:
            return
        self._out.put(StoreLeg(leg.id, leg.stored()))
        leg.answer = SendAnswer(leg.id, leg.address(), answer, leg.shown)
        self._out.put(leg.answer)

    def _negotiate(
        self, leg: Leg, description_type: str, sdp: str, metadata: ev.Metadata | None, via: Via, now: float
    ) -> None:
        if description_type == "offer":
            leg.pending = PendingOffer(metadata, via)
            self._out.put(ApplyOffer(leg.id, sdp))
            return
        if metadata is not None:
            self._set_metadata(leg, metadata, now)
        if leg.offers.in_flight:
            self._out.put(ApplyAnswer(leg.id, sdp))
        else:
            self._out.count(Counter.NEGOTIATIONS, "answer_to_nothing")

    def _description_failed(self, leg: Leg, event: ev.DescriptionFailed, now: float) -> None:
        self._out.count(Counter.NEGOTIATIONS, f"bad_{event.description_type}")
        leg.pending = None
        if leg.state is State.ANSWERING:
            self._out.log(Level.INFO, f"offer refused: {event.message}", leg=leg.id, peer=leg.peer)
            self._remove(leg, now)
            self._reject(leg.envelope, REASON_REFUSED, "bad_sdp")
            return
        if event.description_type == "answer":
            self._out.put(DropOffer(leg.id))
            leg.offers.answer_failed(now)
            leg.poll_offers(now)
        if not leg.complain("bad_sdp", event.message, "m.call.negotiate", now):
            self._end(leg, REASON_REFUSED, now)

    def _set_metadata(self, leg: Leg, metadata: ev.Metadata, now: float) -> None:
        conference = self._conference_of(leg)
        if leg.published.set_metadata(metadata) and conference is not None:
            conference.publications_changed(leg, now)

    def _end(self, leg: Leg, reason: str, now: float, *, tell: bool = True) -> None:
        """End a leg: no packet first, then word to its peer, the store, and the others."""
        if leg.state is State.ENDED:
            return
        address = leg.address() if tell else None
        stored = leg.stored()
        self._remove(leg, now)
        self._remember_end((leg.peer, leg.envelope.call_id))
        if address is not None:
            self._out.put(SendHangup(address, reason))
        self._out.put(ForgetLeg(stored))
        self._out.count(Counter.LEGS_ENDED, reason)
        self._out.log(Level.INFO, f"leg ended: {reason}", leg=leg.id, conference=leg.conference, peer=leg.peer)

    def _remove(self, leg: Leg, now: float) -> None:
        self._out.put(CloseLeg(leg.id))
        self._leave_conference(leg, now)
        leg.set_state(State.ENDED)
        for timer in Timer:
            leg.cancel_timer(timer)
        del self._legs[leg.id]
        self._by_call.pop((leg.peer, leg.envelope.call_id), None)
        self._unbound.discard(leg.id)
        if leg.conference is not None:
            in_room = self._by_room[leg.conference.room_id]
            in_room.discard(leg.id)
            if not in_room:
                del self._by_room[leg.conference.room_id]

    def _remember_end(self, call: CallKey) -> None:
        self._ended[call] = None
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    # ------------------------------------------------------------ grades

    def _evaluate(self, legs: Iterable[Leg], now: float) -> None:
        """Hold the rules against these legs again."""
        for leg in list(legs):
            if leg.state in (State.ANSWERING, State.ENDED):
                continue
            standing = self._standing(leg, now)
            if standing.out:
                self._end(leg, "user_hangup", now)
            elif leg.listed and not standing.listed:
                self._end(leg, "new_session" if standing.cause == "other_session" else "user_hangup", now)
            else:
                self._grade(leg, standing, now)

    def _standing(self, leg: Leg, now: float) -> Standing:
        conf_id = leg.envelope.conf_id
        freeze = self._rooms.freeze
        if leg.conference is None:
            room_id = leg.envelope.room_id
            named = self._rooms.get(room_id) if room_id is not None else None
            candidates = self._rooms.of_call(conf_id) if room_id is None else [named] if named is not None else []
            standings = [
                (room, leg.peer, room.standing(conf_id, leg.peer, leg.session, self._policy, now, freeze))
                for room in candidates
            ]
            allowed = [each for each in standings if not each[2].out]
            if not allowed:
                return Standing(Grade.OUT, "no_room_qualifies")
            chosen = newest(allowed, conf_id)
            if chosen is None:
                return Standing(Grade.HELD, "ambiguous")
            self._bind(leg, ConferenceKey(chosen[0].room_id, conf_id))
            return chosen[1]
        room = self._rooms.open(leg.conference.room_id)
        return room.standing(conf_id, leg.peer, leg.session, self._policy, now, freeze)

    def _grade(self, leg: Leg, standing: Standing, now: float) -> None:
        leg.listed = leg.listed or standing.listed
        self._watch_expiry(leg, standing)
        full = standing.grade is Grade.FULL and self.caught_up
        if full and leg.grade is Grade.HELD and leg.conference is not None:
            leg.grade = Grade.FULL
            leg.cancel_timer(Timer.HELD)
            conference = self._conferences.get(leg.conference)
            if conference is None:
                conference = self._conferences[leg.conference] = Conference(leg.conference, self._out)
            self._out.put(BindLeg(leg.id, leg.conference))
            self._out.count(Counter.JOINS, "full")
            self._out.log(Level.INFO, "leg is full", leg=leg.id, conference=leg.conference, peer=leg.peer)
            conference.join(leg, now)
        elif not full and leg.grade is Grade.FULL:
            self._leave_conference(leg, now)
            leg.grade = Grade.HELD
            leg.tell()
            leg.poll_offers(now)
        if not full:
            self._watch_held(leg, standing, now)

    def _watch_held(self, leg: Leg, standing: Standing, now: float) -> None:
        """A held leg ends after a time, unless its device says that it may come back to this focus."""
        if standing.preferred:
            leg.cancel_timer(Timer.HELD)
        elif (leg.id, Timer.HELD) not in self._timers:
            leg.set_timer(Timer.HELD, now + self._policy.held_timeout)

    def _watch_expiry(self, leg: Leg, standing: Standing) -> None:
        if leg.conference is None:
            return
        entry = self._rooms.open(leg.conference.room_id).entry(leg.envelope.conf_id, leg.peer)
        if entry is None or not standing.listed:
            leg.cancel_timer(Timer.EXPIRY)
        else:
            leg.set_timer(Timer.EXPIRY, self._rooms.freeze.extend(entry.deadline))

    def _leave_conference(self, leg: Leg, now: float) -> None:
        conference = self._conference_of(leg)
        if conference is None:
            return
        conference.leave(leg, now)
        if not conference.legs:
            del self._conferences[conference.key]

    def _conference_of(self, leg: Leg) -> Conference | None:
        """The conference in which this leg is full."""
        conference = self._conferences.get(leg.conference) if leg.conference is not None else None
        return conference if conference is not None and leg.id in conference.legs else None


def _named(fact: ev.RoomFact) -> set[ConfId]:
    match fact:
        case ev.CallChanged():
            return {fact.conf_id}
        case ev.CallMemberChanged():
            return {device.conf_id for device in fact.devices}
        case ev.MembershipChanged():
            return set()
