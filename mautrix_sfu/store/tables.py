"""The tables: what a restart must not lose (protocol, section 3), and what an operator looks up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Dialect, Integer, MetaData, Table, Text
from sqlalchemy.types import TypeDecorator

MAX_KEY = 2500  # bytes of a primary key: an index of PostgreSQL takes 2704, a third of a page, with what goes around


class Name(TypeDecorator[str]):
    """Any Python string, also one that is not valid Unicode: ids are their sender's choice and must never fail.

    Kept in Python's escapes, so that plain ASCII reads as it is.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else _escaped(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """From the database."""
        return None if value is None else str(value).encode("ascii").decode("unicode_escape")


def _escaped(name: str) -> str:
    return name.encode("unicode_escape").decode("ascii")


def fits_a_key(*names: str) -> bool:
    """Whether a row with this primary key can be kept. Ids as clients make them do; a hostile one's may not."""
    return sum(len(_escaped(name)) for name in names) <= MAX_KEY


metadata = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_name)s"},
)

sync_position = Table(
    "sync_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("position", Name, nullable=False),
    comment="How far the focus's device has read its to-device messages (`since` of /sync)",
)

room_fact = Table(
    "room_fact",
    metadata,
    Column("room_id", Name, primary_key=True),
    Column("type", Name, primary_key=True),
    Column("state_key", Name, primary_key=True),
    Column("event", Text, nullable=False),  # JSON in ASCII
    Column("received_ms", BigInteger, nullable=False),  # wall clock
    Column("sequence", BigInteger, nullable=False),  # order of receipt, whatever the clock does
    comment="The state events that the focus goes by",
)

leg = Table(
    "leg",
    metadata,
    Column("user_id", Name, primary_key=True),
    Column("device_id", Name, primary_key=True),
    Column("call_id", Name, primary_key=True),
    Column("conf_id", Name, primary_key=True),
    Column("room_id", Name),  # null: not yet bound to a room
    Column("remote_session", Name),
    Column("local_session", Name, nullable=False),
    Column("kind", Text, nullable=False),
    comment="The connections, whose peers are told after a restart",
)

ban = Table(
    "ban",
    metadata,
    Column("who", Name, primary_key=True),
    Column("until_ms", BigInteger),  # null: until it is lifted
    Column("by", Name, nullable=False),
    Column("reason", Name, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    comment="Users and homeservers that admins banned",
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("by", Name, nullable=False),
    Column("room_id", Name, nullable=False),
    Column("command", Name, nullable=False),
    Column("outcome", Name, nullable=False),
    comment="What admins did",
)

ended_call = Table(
    "ended_call",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("room_id", Name, nullable=False),
    Column("conf_id", Name, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("people", BigInteger, nullable=False),
    Column("peak", BigInteger, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    comment="Calls that are over",
)

notify_room = Table(
    "notify_room",
    metadata,
    Column("room_id", Name, primary_key=True),
    Column("by", Name),  # null: asked before this was kept
    comment="Rooms that asked to be told what happens",
)
