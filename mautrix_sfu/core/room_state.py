"""Room state as it comes in: pushed events, redactions, snapshots, what was stored; and whom each concerns."""

from __future__ import annotations

from . import events as ev
from .books import Books
from .commands import ForgetLeg, RequestSnapshot, SendHangup
from .entrance import Entrance
from .grades import Grades
from .ids import ConfId, RoomId
from .leg import address_to
from .membership import Room
from .outbox import Outbox
from .rooms import Rooms

REREAD_SECONDS = 300.0  # rooms with legs are read again now and then, where that is permitted


class RoomState:
    """Keeps the rooms true, and has every leg and invite that a change concerns looked at again."""

    def __init__(self, books: Books, rooms: Rooms, grades: Grades, entrance: Entrance, out: Outbox) -> None:
        self._books = books
        self._rooms = rooms
        self._grades = grades
        self._entrance = entrance
        self._out = out
        self._reread_at = 0.0

    # ------------------------------------------------------------ time

    def next_deadline(self) -> float | None:
        """When rooms are read again; None while nobody is in a call."""
        return self._reread_at if self._books.by_room else None

    def handle_timeout(self, now: float) -> None:
        """Read rooms again, if it is time."""
        if now < self._reread_at:
            return
        self._reread_at = now + REREAD_SECONDS
        for room_id in self._books.by_room:
            room = self._rooms.get(room_id)
            if room is not None and room.readable:
                self._read(room)

    # ------------------------------------------------------------ what counts

    def holds(self, fact: ev.RoomFact) -> bool:
        """Whether this event counts, so that it is worth keeping for after a restart."""
        room = self._rooms.get(fact.room_id)
        return room is not None and room.holds(fact)

    def redacted(self, redaction: ev.Redacted) -> bool:
        """Whether this redaction emptied its sender's own member event."""
        room = self._rooms.get(redaction.room_id)
        return room is not None and room.member_event(redaction.sender) == redaction.event_id

    # ------------------------------------------------------------ what comes in

    def changed(self, fact: ev.RoomFact, now: float) -> None:
        """Take a pushed state event."""
        fresh = self._rooms.get(fact.room_id) is None
        if fresh and isinstance(fact, ev.MembershipChanged):
            return
        room = self._rooms.open(fact.room_id)
        gap = room.apply(fact, now)
        if not isinstance(fact, ev.MembershipChanged):
            self._rooms.index(room, _named(fact))
        if fresh or gap:
            self._read(room)
        self._room_changed(room, now)

    def redaction(self, event: ev.Redacted, now: float) -> None:
        """Take a redaction; what it did is for a snapshot to say."""
        room = self._rooms.get(event.room_id)
        if room is not None and room.redact(event.sender, event.event_id):
            self._read(room)
            self._room_changed(room, now)

    def not_read(self, room_id: RoomId) -> None:
        """A snapshot that was asked for does not come."""
        room = self._rooms.get(room_id)
        if room is not None:
            room.not_read()

    def snapshot(self, event: ev.RoomSnapshot, now: float) -> None:
        """Take the whole state of a room."""
        room = self._rooms.open(event.room_id)
        if room.replace(event.facts, now):
            self._read(room)
        self._rooms.index(room, room.confs())
        self._room_changed(room, now)

    def _read(self, room: Room) -> None:
        if not room.reading:
            room.reading = True
            self._out.put(RequestSnapshot(room.room_id))

    def _room_changed(self, room: Room, now: float) -> None:
        self._grades.evaluate(self._books.of_room(room.room_id), now)
        for key in [key for key in self._books.conferences if key.room_id == room.room_id]:
            self._books.unsettled.add(key)
            self._books.conferences[key].check_trunks(now)
        self._entrance.room_changed(room, now)

    def restored(self, event: ev.Restored, now: float) -> None:
        """Take what the store held, and tell those who were connected that they are not any more."""
        for fact in event.facts:
            room = self._rooms.open(fact.room_id)
            room.apply(fact, now)
            self._rooms.index(room, _named(fact))
        for stored in event.legs:
            envelope = ev.Envelope(
                stored.peer, stored.call_id, stored.conf_id, stored.room_id, stored.remote_session, None, None, None
            )
            self._out.put(SendHangup(address_to(envelope, self._books.policy, None), "signalling_timeout"))
            self._out.put(ForgetLeg(stored))
            self._books.remember_end((stored.peer, stored.call_id))
            known = self._rooms.get(stored.room_id) if stored.room_id is not None else None
            if known is not None:
                self._read(known)


def _named(fact: ev.RoomFact) -> set[ConfId]:
    match fact:
        case ev.CallChanged():
            return {fact.conf_id}
        case ev.CallMemberChanged():
            return {device.conf_id for device in fact.devices}
        case ev.MembershipChanged():
            return set()
