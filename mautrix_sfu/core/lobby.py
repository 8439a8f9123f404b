"""Invites that outran the room state that they need: parked for a short time, within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .events import Invite
from .ids import ConfId, RoomId, UserId
from .sequence import CallKey
from .timers import Timers

MAX_PARKED_PER_SENDER = 4
MAX_PARKED = 256


@dataclass(frozen=True, slots=True)
class Parked:
    """An invite that waits, and what it waited for last."""

    invite: Invite
    cause: str
    deadline: float


class Lobby:
    """The parked invites, oldest first; the oldest gives way to a newer one where there are too many."""

    def __init__(self) -> None:
        self._parked: dict[CallKey, Parked] = {}
        self._by_sender: Counter[UserId] = Counter()
        self._timers: Timers[CallKey] = Timers()

    def __len__(self) -> int:
        return len(self._parked)

    def __contains__(self, call: CallKey) -> bool:
        return call in self._parked

    def park(self, invite: Invite, cause: str, deadline: float) -> Parked | None:
        """Let an invite wait. Returns the one that had to go for it, if any."""
        sender = invite.envelope.sender.user_id
        dropped: Parked | None = None
        if self._by_sender[sender] >= MAX_PARKED_PER_SENDER:
            dropped = self._drop_oldest(sender)
        elif len(self._parked) >= MAX_PARKED:
            dropped = self._drop_oldest(None)
        call = (invite.envelope.sender, invite.envelope.call_id)
        self._parked[call] = Parked(invite, cause, deadline)
        self._by_sender[sender] += 1
        self._timers.set(call, deadline)
        return dropped

    def take(self, call: CallKey) -> Parked | None:
        """Remove an invite from the lobby."""
        parked = self._parked.pop(call, None)
        if parked is not None:
            self._timers.cancel(call)
            sender = call[0].user_id
            self._by_sender[sender] -= 1
            if not self._by_sender[sender]:
                del self._by_sender[sender]
        return parked

    def supersede(self, invite: Invite) -> bool:
        """Remove the older invite of this device for the same call: only its newest counts."""
        newer = invite.envelope
        for call, parked in list(self._parked.items()):
            older = parked.invite.envelope
            if (older.sender, older.conf_id, older.room_id) == (newer.sender, newer.conf_id, newer.room_id):
                self.take(call)
                return True
        return False

    def waiting_for(self, room_id: RoomId, names: Callable[[ConfId], bool]) -> Iterator[Parked]:
        """The invites that a change in this room, of which `names` says which calls it has, may help."""
        for parked in list(self._parked.values()):
            envelope = parked.invite.envelope
            if envelope.room_id == room_id or (envelope.room_id is None and names(envelope.conf_id)):
                yield parked

    def next_deadline(self) -> float | None:
        """When the next one has waited long enough."""
        return self._timers.next_deadline()

    def pop_due(self, now: float) -> Parked | None:
        """Remove one that has waited long enough."""
        while (call := self._timers.pop_due(now)) is not None:
            parked = self.take(call)
            if parked is not None:
                return parked
        return None

    def _drop_oldest(self, sender: UserId | None) -> Parked | None:
        for call in self._parked:
            if sender is None or call[0].user_id == sender:
                return self.take(call)
        return None
