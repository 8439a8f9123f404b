"""What a restart must not lose, and what operators look up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, Table, func, select

from ..core.events import StoredLeg
from ..core.ids import CallId, ConfId, Device, DeviceId, RoomId, SessionId, UserId
from ..errors import FatalError
from .database import AwayError, Database
from .postgres import Postgres
from .records import AuditEntry, EndedCall, Stored, StoredBan, StoredFact
from .sqlite import Sqlite
from .statements import Statements
from .tables import audit, ban, ended_call, fits_a_key, leg, notify_room, room_fact, sync_position
from .writer import Writer

log = logging.getLogger(__name__)

MAX_TEXT = 2000  # characters of what an admin wrote or was answered
PATIENCE = 3600.0  # seconds that a server may be away


def database_of(url: str) -> Database:
    """The database that `database.url` names; nothing is opened yet. Raises FatalError."""
    return Sqlite(url) if url.startswith("sqlite:") else Postgres(url)


class Store:
    """The database of one process. Writing never blocks; what fails for good is told once, through `on_fatal`.

    `failure` then says what failed, with its exit code, and nothing is written any more. A server that is away is
    waited for; `on_away` is told why if it takes longer than a restart, and None when it is back.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._writer = writer
        self._statements = Statements(database.insert)
        self._running: set[int] = set()  # numbers of calls that go on
        self._sequences: Counter[Table] = Counter()  # the last number that each table's rows were given

    @classmethod
    async def open(
        cls,
        url: str,
        migrate: bool,
        on_fatal: Callable[[str], None],
        on_away: Callable[[str | None], None] = lambda _: None,
        patience: float = PATIENCE,
    ) -> Store:
        """Open the database that `database.url` names, alone; raises FatalError."""
        database = database_of(url)
        writer = Writer(database, on_fatal, on_away, patience)
        await writer.open(migrate)
        store = cls(database, writer)
        numbered = (room_fact, audit, ended_call)
        try:
            counted = await writer.read(*(select(func.max(table.c.sequence)) for table in numbered))
        except BaseException as error:
            await writer.close()
            if isinstance(error, AwayError):
                raise error.fatal() from error
            raise
        for table, rows in zip(numbered, counted, strict=True):
            store._sequences[table] = rows[0][0] or 0
        writer.start()
        return store

    @property
    def failure(self) -> FatalError | None:
        """What failed for good."""
        return self._writer.failure

    @property
    def away(self) -> str | None:
        """Why the database does not answer; None: it does."""
        return self._writer.away

    @property
    def pending(self) -> int:
        """How many rows are still to be written."""
        return self._writer.pending

    # ------------------------------------------------------------ reading

    async def load(self) -> Stored:
        """Everything that a start needs, what is still being written included; raises FatalError, or AwayError."""
        position, facts, legs, bans, rooms = await self._writer.read(
            select(sync_position.c.position),
            select(room_fact).order_by(room_fact.c.sequence),
            select(leg),
            select(ban).order_by(ban.c.since_ms),
            select(notify_room),
        )
        return Stored(
            position[0].position if position else None,
            [StoredFact(row.room_id, row.type, row.state_key, json.loads(row.event), row.received_ms) for row in facts],
            [
                StoredLeg(
                    room_id=None if row.room_id is None else RoomId(row.room_id),
                    conf_id=ConfId(row.conf_id),
                    peer=Device(UserId(row.user_id), DeviceId(row.device_id)),
                    call_id=CallId(row.call_id),
                    remote_session=None if row.remote_session is None else SessionId(row.remote_session),
                    local_session=SessionId(row.local_session),
                    kind=row.kind,
                )
                for row in legs
            ],
            [StoredBan(**row._mapping) for row in bans],
            {row.room_id: row.by for row in rooms},
        )

    async def audit(self, limit: int) -> list[AuditEntry]:
        """What admins did last, the newest first; raises FatalError, or AwayError."""
        (rows,) = await self._writer.read(_newest(audit, limit))
        return [AuditEntry(**row._mapping) for row in rows]

    async def ended_calls(self, limit: int) -> list[EndedCall]:
        """The calls that ended last, the newest first; raises FatalError, or AwayError."""
        (rows,) = await self._writer.read(_newest(ended_call, limit, "ended_ms", self._running))
        return [EndedCall(**row._mapping) for row in rows]

    # ------------------------------------------------------------ writing

    def set_position(self, position: str) -> None:
        """Keep how far to-device messages were read."""
        self._writer.write(self._statements.put_position(position))

    def put_fact(self, room_id: str, event_type: str, state_key: str, event: dict[str, Any], received_ms: int) -> None:
        """Keep a state event in place of the one before under this key."""
        self._put_fact(StoredFact(room_id, event_type, state_key, event, received_ms))

    def replace_room(self, room_id: str, facts: Sequence[StoredFact]) -> None:
        """Keep exactly these events of a room, in this order."""
        self.forget_room(room_id)
        for fact in facts:
            self._put_fact(fact)

    def forget_room(self, room_id: str) -> None:
        """Keep nothing of a room's state."""
        self._writer.write(self._statements.delete_room(room_id))

    def put_leg(self, leg: StoredLeg) -> asyncio.Future[None]:
        """Keep a leg; the future is done when it is on disk, and raises FatalError where it never will be."""
        if fits_a_key(leg.peer.user_id, leg.peer.device_id, leg.call_id, leg.conf_id):
            self._writer.write(self._statements.put_leg(leg))
        else:
            log.warning("a leg of %.60r has longer ids than can be kept: it is not told of a restart", leg.peer.user_id)
        return self._writer.written()

    def delete_leg(self, leg: StoredLeg) -> None:
        """Forget a leg: the one of this peer with this call id and conference, whatever its sessions and room."""
        self._writer.write(self._statements.delete_leg(leg))

    def put_ban(self, ban: StoredBan) -> None:
        """Keep a ban in place of the one before of the same user or homeserver."""
        self._writer.write(self._statements.put_ban(replace(ban, reason=ban.reason[:MAX_TEXT])))

    def delete_ban(self, who: str) -> None:
        """Forget a ban."""
        self._writer.write(self._statements.delete_ban(who))

    def put_audit(self, entry: AuditEntry) -> None:
        """Keep what an admin did; so old or so many entries as nobody needs are forgotten."""
        clipped = replace(entry, command=entry.command[:MAX_TEXT], outcome=entry.outcome[:MAX_TEXT])
        self._writer.write(*self._statements.add_audit(clipped, self._next(audit)))

    def put_running_call(self, call: EndedCall, number: int | None = None) -> int:
        """Keep what a call is so far, under its number: if this process is killed, it was over then."""
        number = self._next(ended_call) if number is None else number
        self._running.add(number)
        self._writer.write(*self._statements.add_ended_call(call, number))
        return number

    def put_ended_call(self, call: EndedCall, number: int | None = None) -> None:
        """Keep that a call is over, in place of what it was so far; the oldest are forgotten."""
        if number is not None:
            self._running.discard(number)
        number = self._next(ended_call) if number is None else number
        self._writer.write(*self._statements.add_ended_call(call, number))

    def put_notify_room(self, room_id: str, by: str) -> None:
        """Keep that a room wants to be told what happens, by this admin's word."""
        self._writer.write(self._statements.put_notify_room(room_id, by))

    def delete_notify_room(self, room_id: str) -> None:
        """Keep that a room wants to be told nothing any more."""
        self._writer.write(self._statements.delete_notify_room(room_id))

    async def flush(self) -> bool:
        """Wait until everything asked for so far is on disk; False if the store has failed.

        A server that is away is waited for as long as a restart takes, no longer: what waits here is the homeserver,
        which has the next events to tell.
        """
        await self._writer.settled()
        return self.failure is None

    async def close(self) -> None:
        """Write what is pending and let go of the database."""
        await self._writer.close()

    def _put_fact(self, fact: StoredFact) -> None:
        if not fits_a_key(fact.room_id, fact.type, fact.state_key):
            log.warning("an event of type %.60r in %.60r cannot be kept: its ids are too long", fact.type, fact.room_id)
            return
        try:
            event = json.dumps(fact.event)
        except (ValueError, RecursionError):
            log.warning("an event of type %s in %s cannot be kept: nested too deeply", fact.type, fact.room_id)
            return
        self._writer.write(self._statements.put_fact(fact, event, self._next(room_fact)))

    def _next(self, table: Table) -> int:
        self._sequences[table] += 1
        return self._sequences[table]


def _newest(table: Table, limit: int, when: str = "sequence", without: Collection[int] = ()) -> Select[Any]:
    told = [column for column in table.columns if column is not table.c.sequence]
    wanted = select(*told).order_by(table.c[when].desc(), table.c.sequence.desc()).limit(limit)
    return wanted.where(table.c.sequence.not_in(without)) if without else wanted


async def migrate(url: str) -> str:
    """Bring the schema of the database that `database.url` names up to date; gives its name. Raises FatalError."""
    database = database_of(url)
    writer = Writer(database, lambda _: None, lambda _: None, 0.0)
    await writer.open(migrate=True)
    await writer.close()
    return database.name
