"""What is written: statements that do the same when they are executed twice, and the rows that go with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Executable, Table, bindparam, delete, or_

from ..core.events import StoredLeg
from .records import AuditEntry, EndedCall, StoredBan, StoredFact
from .tables import audit, ban, ended_call, leg, notify_room, room_fact, sync_position

MAX_KEPT = 10_000  # audit entries and ended calls
MAX_AGE_MS = 365 * 24 * 3_600_000  # of audit entries and ended calls

_LEG_KEY = [column.name for column in leg.primary_key]


@dataclass(frozen=True, slots=True)
class Write:
    """One row, and what is done with it."""

    statement: Executable
    row: dict[str, Any]
    key: Hashable  # of two writes with the same key only the later one has an effect
    size: int = 0  # characters, where they are many


class Statements:
    """All writes there are, in one database's dialect."""

    def __init__(self, insert: Callable[[Table], Any]) -> None:
        self._insert = insert
        self._put_position = self._upsert(sync_position)
        self._put_fact = self._upsert(room_fact)
        self._put_leg = self._upsert(leg)
        self._put_ban = self._upsert(ban)
        self._put_audit = self._upsert(audit)
        self._put_ended_call = self._upsert(ended_call)
        self._put_notify_room = self._upsert(notify_room)
        self._delete_room = delete(room_fact).where(room_fact.c.room_id == bindparam("room"))
        self._delete_leg = delete(leg).where(*(leg.c[name] == bindparam(f"key_{name}") for name in _LEG_KEY))
        self._delete_ban = delete(ban).where(ban.c.who == bindparam("key_who"))
        self._delete_notify_room = delete(notify_room).where(notify_room.c.room_id == bindparam("room"))
        self._trim_audit = _trim(audit, "at_ms")
        self._trim_ended_calls = _trim(ended_call, "ended_ms")

    def _upsert(self, table: Table) -> Executable:
        statement = self._insert(table)
        key = {column.name for column in table.primary_key}
        changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
        made: Executable
        if changed:
            made = statement.on_conflict_do_update(index_elements=sorted(key), set_=changed)
        else:
            made = statement.on_conflict_do_nothing(index_elements=sorted(key))
        return made

    def put_position(self, position: str) -> Write:
        """How far to-device messages were read."""
        return Write(self._put_position, {"id": 1, "position": position}, "position")

    def put_fact(self, fact: StoredFact, event: str, sequence: int) -> Write:
        """A state event, which is given as JSON, in place of the one before under this key."""
        key = {"room_id": fact.room_id, "type": fact.type, "state_key": fact.state_key}
        row = {**key, "event": event, "received_ms": fact.received_ms, "sequence": sequence}
        return Write(self._put_fact, row, ("fact", *key.values()), len(event))

    def delete_room(self, room_id: str) -> Write:
        """All state events of a room."""
        return Write(self._delete_room, {"room": room_id}, ("room", room_id))

    def put_leg(self, stored: StoredLeg) -> Write:
        """A leg in place of the one with this key."""
        return Write(self._put_leg, _leg_row(stored), _leg_key(stored))

    def delete_leg(self, stored: StoredLeg) -> Write:
        """The leg with this key."""
        row = _leg_row(stored)
        return Write(self._delete_leg, {f"key_{name}": row[name] for name in _LEG_KEY}, _leg_key(stored))

    def put_ban(self, stored: StoredBan) -> Write:
        """A ban in place of the one before."""
        return Write(self._put_ban, asdict(stored), ("ban", stored.who))

    def delete_ban(self, who: str) -> Write:
        """A ban."""
        return Write(self._delete_ban, {"key_who": who}, ("ban", who))

    def put_notify_room(self, room_id: str, by: str) -> Write:
        """A room, and who asked."""
        return Write(self._put_notify_room, {"room_id": room_id, "by": by}, ("notify", room_id))

    def delete_notify_room(self, room_id: str) -> Write:
        """A room."""
        return Write(self._delete_notify_room, {"room": room_id}, ("notify", room_id))

    def add_audit(self, entry: AuditEntry, sequence: int) -> tuple[Write, Write]:
        """One entry more, and no more than are kept."""
        put = Write(self._put_audit, {**asdict(entry), "sequence": sequence}, ("audit", sequence))
        return put, Write(self._trim_audit, _outdated(sequence, entry.at_ms), "trim audit")

    def add_ended_call(self, call: EndedCall, sequence: int) -> tuple[Write, Write]:
        """One call more, and no more than are kept."""
        put = Write(self._put_ended_call, {**asdict(call), "sequence": sequence}, ("ended call", sequence))
        return put, Write(self._trim_ended_calls, _outdated(sequence, call.ended_ms), "trim ended calls")


def _trim(table: Table, when: str) -> Executable:
    return delete(table).where(
        or_(table.c.sequence <= bindparam("last_sequence"), table.c[when] < bindparam("earliest_ms"))
    )


def _outdated(sequence: int, now_ms: int) -> dict[str, int]:
    return {"last_sequence": sequence - MAX_KEPT, "earliest_ms": now_ms - MAX_AGE_MS}


def _leg_row(stored: StoredLeg) -> dict[str, Any]:
    return {
        "user_id": stored.peer.user_id,
        "device_id": stored.peer.device_id,
        "call_id": stored.call_id,
        "conf_id": stored.conf_id,
        "room_id": stored.room_id,
        "remote_session": stored.remote_session,
        "local_session": stored.local_session,
        "kind": stored.kind,
    }


def _leg_key(stored: StoredLeg) -> Hashable:
    return ("leg", stored.peer, stored.call_id, stored.conf_id)
