"""What is written: statements that do the same when they are executed twice, and the rows that go with them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Executable, Table, bindparam, delete, or_
from sqlalchemy.dialects.sqlite import insert

from ..core.events import StoredLeg
from .tables import audit, ban, ended_call, leg, notify_room, room_fact, sync_position

Row = dict[str, Any]


def _upsert(table: Table) -> Executable:
    statement = insert(table)
    key = {column.name for column in table.primary_key}
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=sorted(key))
    return statement.on_conflict_do_update(index_elements=sorted(key), set_=changed)


def _trim(table: Table, when: str) -> Executable:
    """Forget what is older than both its number and its age allow."""
    return delete(table).where(
        or_(table.c.sequence <= bindparam("last_sequence"), table.c[when] < bindparam("earliest_ms"))
    )


PUT_POSITION = _upsert(sync_position)
PUT_FACT = _upsert(room_fact)
PUT_LEG = _upsert(leg)
PUT_BAN = _upsert(ban)
PUT_AUDIT = _upsert(audit)
PUT_ENDED_CALL = _upsert(ended_call)
PUT_NOTIFY_ROOM = _upsert(notify_room)

_LEG_KEY = [column.name for column in leg.primary_key]
DELETE_ROOM = delete(room_fact).where(room_fact.c.room_id == bindparam("room"))
DELETE_LEG = delete(leg).where(*(leg.c[name] == bindparam(f"key_{name}") for name in _LEG_KEY))
DELETE_BAN = delete(ban).where(ban.c.who == bindparam("key_who"))
DELETE_NOTIFY_ROOM = delete(notify_room).where(notify_room.c.room_id == bindparam("room"))
TRIM_AUDIT = _trim(audit, "at_ms")
TRIM_ENDED_CALLS = _trim(ended_call, "ended_ms")


def leg_row(stored: StoredLeg) -> Row:
    """A leg as its table has it."""
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


def leg_key(stored: StoredLeg) -> Row:
    """Which leg to delete."""
    row = leg_row(stored)
    return {f"key_{name}": row[name] for name in _LEG_KEY}
