"""Who is in: the rules held against every leg, again whenever something changes, and how a leg ends."""

from __future__ import annotations

from collections.abc import Iterable

from . import events as ev
from .admission import newest
from .books import Books
from .cascade import Cascade
from .commands import About, BindLeg, CloseLeg, Counter, ForgetLeg, Level, Removed, SendHangup, SendReject
from .conference import Conference
from .doors import CALL_ENDED, KICKED
from .ids import ConferenceKey
from .leg import Leg, State, Timer, address_to
from .membership import Grade, Standing
from .outbox import Outbox
from .rooms import Rooms

REASON_BUSY = "user_busy"
REASON_REFUSED = "unknown_error"
REASON_PLAIN = "encryption_required"
BY_THE_OPERATOR = frozenset(("banned", "not_allowed", "guest"))  # no room state that is on its way changes these


class Grades:
    """Raises legs to full, lowers them to held, ends them; refuses those who come to nothing."""

    def __init__(self, books: Books, rooms: Rooms, cascade: Cascade, out: Outbox) -> None:
        self._books = books
        self._rooms = rooms
        self._cascade = cascade
        self._out = out

    def evaluate(self, legs: Iterable[Leg], now: float) -> None:
        """Hold the rules against these legs again."""
        for leg in list(legs):
            if leg.state in (State.ANSWERING, State.INVITING, State.ENDED):
                continue
            if leg.trunk:
                self._evaluate_trunk(leg, now)
                continue
            standing = self.standing(leg, now)
            if standing.out:
                removed = Removed(standing.cause) if standing.cause in BY_THE_OPERATOR else None
                self.end(leg, "user_hangup", now, removed=removed)
            elif leg.listed and not standing.listed:
                self.end(leg, "new_session" if standing.cause == "other_session" else "user_hangup", now)
            else:
                self._grade(leg, standing, now)

    def standing(self, leg: Leg, now: float) -> Standing:
        """What the rules make of a live leg now."""
        conf_id = leg.envelope.conf_id
        freeze = self._rooms.freeze
        if leg.conference is None:
            room_id = leg.envelope.room_id
            named = self._rooms.get(room_id) if room_id is not None else None
            candidates = self._rooms.of_call(conf_id) if room_id is None else [named] if named is not None else []
            standings = [
                (room, leg.peer, room.standing(conf_id, leg.peer, leg.session, self._books.policy, now, freeze))
                for room in candidates
            ]
            allowed = [each for each in standings if not each[2].out]
            if not allowed:
                return Standing(Grade.OUT, "no_room_qualifies")
            chosen = newest(allowed, conf_id)
            if chosen is None:
                return Standing(Grade.HELD, "ambiguous")
            self._books.bind(leg, ConferenceKey(chosen[0].room_id, conf_id))
            return chosen[1]
        room = self._rooms.open(leg.conference.room_id)
        return room.standing(conf_id, leg.peer, leg.session, self._books.policy, now, freeze)

    def _evaluate_trunk(self, leg: Leg, now: float) -> None:
        """A trunk has one grade: full, as soon as the focus has caught up, or none."""
        key = leg.conference
        room = self._rooms.get(key.room_id) if key is not None else None
        if key is None or room is None or room.takes_trunks(key.conf_id, leg.peer, self._books.policy, now) is not None:
            self.end(leg, "user_hangup", now)
        elif leg.grade is Grade.HELD and self._books.caught_up:
            self._join(leg, now)

    def _join(self, leg: Leg, now: float) -> None:
        if leg.conference is None:
            return
        leg.grade = Grade.FULL
        conference = self._books.conferences.get(leg.conference)
        if conference is None:
            conference = Conference(leg.conference, self._out, self._books.mutes, now)
            self._books.conferences[leg.conference] = conference
        self._out.put(BindLeg(leg.id, leg.conference))
        self._out.count(Counter.JOINS, "trunk" if leg.trunk else "full")
        what = "trunk is up" if leg.trunk else "leg is full"
        self._out.log(Level.INFO, what, leg.about)
        self._books.mutes.stale = True
        conference.join(leg, now)
        conference.check_trunks(now)
        self._books.unsettled.add(leg.conference)

    def _grade(self, leg: Leg, standing: Standing, now: float) -> None:
        leg.listed = leg.listed or standing.listed
        self._watch_expiry(leg, standing)
        full = standing.grade is Grade.FULL and self._books.caught_up
        if full and leg.grade is Grade.HELD and leg.conference is not None:
            leg.cancel_timer(Timer.HELD)
            self._join(leg, now)
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
        elif (leg.id, Timer.HELD) not in self._books.timers:
            leg.set_timer(Timer.HELD, now + self._books.policy.held_timeout)

    def _watch_expiry(self, leg: Leg, standing: Standing) -> None:
        if leg.conference is None:
            return
        entry = self._rooms.open(leg.conference.room_id).entry(leg.envelope.conf_id, leg.peer)
        if entry is None or not standing.listed:
            leg.cancel_timer(Timer.EXPIRY)
        else:
            leg.set_timer(Timer.EXPIRY, self._rooms.freeze.extend(entry.deadline))

    def _leave_conference(self, leg: Leg, now: float) -> None:
        conference = self._books.conference_of(leg)
        if conference is None:
            return
        conference.leave(leg, now)
        self._books.unsettled.add(conference.key)
        if not conference.legs:
            conference.ended(now)
            del self._books.conferences[conference.key]

    def end(self, leg: Leg, reason: str, now: float, *, tell: bool = True, removed: Removed | None = None) -> None:
        """End a leg: no packet first, then word to its peer, the store, and the others."""
        if leg.state is State.ENDED:
            return
        address = leg.address() if tell else None
        stored = leg.stored()
        self.remove(leg, now, silent=leg.state is State.INVITING and tell)
        self._books.remember_end((leg.peer, leg.envelope.call_id))
        if address is not None:
            self._out.put(SendHangup(address, reason, removed))
        self._out.put(ForgetLeg(stored))
        self._out.count(Counter.LEGS_ENDED, reason)
        self._out.log(Level.INFO, f"leg ended: {reason}", leg.about)

    def remove(self, leg: Leg, now: float, *, silent: bool = False) -> None:
        """Close a leg and forget it, without a word; `silent`: a focus that was dialled never answered."""
        self._out.put(CloseLeg(leg.id))
        self._leave_conference(leg, now)
        self._books.mutes.stale = True
        leg.set_state(State.ENDED)
        for timer in Timer:
            leg.cancel_timer(timer)
        self._books.remove(leg)
        if leg.trunk and leg.conference is not None:
            self._cascade.ended(leg.conference, leg.peer, leg.id, now, silent=silent)

    def refuse(self, envelope: ev.Envelope, reason: str, cause: str) -> None:
        """Refuse an invite: a word to its sender, which says no more than that, but where the operator wants it so."""
        self._out.count(Counter.REFUSALS, cause, envelope.sender)
        about = About(None, envelope.sender, envelope.room_id, envelope.conf_id)
        self._out.log(Level.INFO, f"invite refused: {cause}", about)
        self._books.remember_end((envelope.sender, envelope.call_id))
        removed = Removed(cause) if cause in BY_THE_OPERATOR or cause in (KICKED, CALL_ENDED) else None
        self._out.put(SendReject(address_to(envelope, self._books.policy, 0), reason, removed))
