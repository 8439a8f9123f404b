"""What an operator does to calls that run: kick, end, mute, another policy, drain; and what overload does."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from .books import Books
from .commands import About, Level, Removed
from .doors import CALL_ENDED, KICKED
from .grades import REASON_BUSY, Grades
from .ids import Kind, UserId
from .leg import Leg
from .orders import DrainChanged, EndConference, Kick, OperatorEvent, OverloadChanged, PolicyChanged, SetMuted
from .outbox import Outbox
from .rooms import Rooms
from .tracks import Publications

REASON_ENDED = "user_hangup"  # of a leg that an operator ends


class Operator:
    """Carries the operator's word out, for all legs that it concerns and no others."""

    def __init__(self, books: Books, rooms: Rooms, grades: Grades, out: Outbox) -> None:
        self._books = books
        self._rooms = rooms
        self._grades = grades
        self._out = out

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When a door opens, a mute is forgotten, or a drain is over."""
        times = (self._books.doors.next_deadline(), self._books.mutes.next_deadline())
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return
        self._books.mutes.handle_timeout(now)
        if self._books.doors.handle_timeout(now):
            self._move_all(now)
        self._books.unsettled.update(self._books.conferences)  # a focus may have trunks again

    def settle(self, now: float) -> None:
        """Notice which of the muted are gone."""
        if not self._books.mutes.stale:
            return
        present: set[UserId] = set()
        if self._books.mutes.users:
            for leg in self._books.legs.values():
                present.add(leg.peer.user_id)
                if leg.trunk:
                    present.update(stream.owner.user_id for stream in leg.published.streams.values())
        self._books.mutes.look(present, now)

    # ------------------------------------------------------------ what is said

    def handle(self, event: OperatorEvent, now: float) -> None:
        """Carry one of them out."""
        match event:
            case Kick():
                self._kick(event, now)
            case EndConference():
                self._books.doors.end(event.key, now + self._books.policy.kick_time)
                self._out.log(Level.INFO, "call ended by an operator", About.call(event.key))
                for leg in [leg for leg in self._books.legs.values() if leg.conference == event.key]:
                    self._grades.end(leg, REASON_ENDED, now, removed=Removed(CALL_ENDED))
            case SetMuted():
                self._mute(event, now)
            case PolicyChanged():
                self._adopt(event, now)
            case DrainChanged():
                deadline = None if event.deadline is None else now + event.deadline
                self._books.doors.drain(event.on, deadline)
                self._out.log(Level.INFO, "draining: no new calls" if event.on else "not draining any more")
            case OverloadChanged():
                self._books.doors.overload = event.cause
                self._books.unsettled.update(self._books.conferences)
                said = (
                    "no overload any more" if event.cause is None else f"overload ({event.cause}): no new connections"
                )
                self._out.log(Level.WARNING if event.cause else Level.INFO, said)
            case _:
                assert_never(event)

    def _kick(self, event: Kick, now: float) -> None:
        """End the legs of a user or device. Its client tries again by itself, so the door stays shut for a while."""
        doors = self._books.doors
        doors.kick(event.user_id, event.device_id, now + self._books.policy.kick_time)
        for leg in list(self._books.legs.values()):
            if leg.peer.user_id == event.user_id and event.device_id in (None, leg.peer.device_id):
                self._out.log(Level.INFO, f"kicked: {event.reason or 'without a reason'}", leg.about)
                if not leg.trunk:
                    doors.kick_session(leg.peer, leg.session)
                self._grades.end(leg, REASON_ENDED, now, removed=Removed(KICKED, event.reason))

    def _mute(self, event: SetMuted, now: float) -> None:
        kinds = tuple(Kind) if event.kind is None else (event.kind,)
        self._books.mutes.change(event.user_id, kinds, event.muted)
        for conference in self._books.conferences.values():
            conference.mutes_changed(event.user_id, now)

    def _adopt(self, event: PolicyChanged, now: float) -> None:
        """Take another policy. Who this focus is does not change: peers know it by that."""
        old = self._books.policy
        policy = replace(event.policy, focus=old.focus, session_id=old.session_id, trunk_session=old.trunk_session)
        self._books.policy = policy
        for leg in self._books.legs.values():
            leg.policy_changed(policy, now)
            self._republish(leg, now)
        self._grades.evaluate(self._books.legs.values(), now)
        self._books.unsettled.update(self._books.conferences)

    def _republish(self, leg: Leg, now: float) -> None:
        conference = self._books.conference_of(leg)
        changed = isinstance(leg.published, Publications) and leg.published.set_limit(
            self._books.policy.limits.tracks_per_leg
        )
        if conference is not None:
            if changed:
                conference.publications_changed(leg, now)
            conference.refresh(leg, now)

    def _move_all(self, now: float) -> None:
        """The drain's deadline: who is left is told that this focus takes nobody, and so to take another."""
        self._out.log(Level.INFO, "the drain's deadline has come: everybody is told to move")
        for leg in list(self._books.legs.values()):
            self._grades.end(leg, REASON_BUSY, now)
