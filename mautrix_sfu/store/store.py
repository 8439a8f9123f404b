"""What a restart must not lose, written behind in order by one task, in as few transactions as the disk allows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from sqlalchemy import Executable, Row, Select, Table, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.events import StoredLeg
from ..core.ids import CallId, ConfId, Device, DeviceId, RoomId, SessionId, UserId
from ..errors import ExitCode, FatalError
from . import schema
from . import statements as sql
from .database import FileLock, fatal, make_engine, sqlite_path
from .records import AuditEntry, EndedCall, Stored, StoredBan, StoredFact
from .tables import audit, ban, ended_call, leg, notify_room, room_fact, sync_position

log = logging.getLogger(__name__)

MAX_PENDING = 100_000  # writes that the disk is behind by, before that is taken for a failure


MAX_KEPT = 10_000  # audit entries and ended calls
MAX_AGE_MS = 365 * 24 * 3_600_000  # of audit entries and ended calls
MAX_TEXT = 2000  # characters of what an admin wrote or was answered


class Store:
    """The database of one process. Writing never blocks; what fails is told once, through `on_fatal`.

    `failure` says what failed, with its exit code; from then on nothing is written any more.
    """

    def __init__(
        self,
        url: str,
        connection: AsyncConnection,
        resources: contextlib.AsyncExitStack,  # what close() lets go of
        on_fatal: Callable[[str], None],
    ) -> None:
        self.failure: FatalError | None = None
        self._url = url
        self._connection = connection
        self._resources = resources
        self._on_fatal = on_fatal
        self._pending: list[tuple[Executable, sql.Row]] = []  # in the order in which they were asked for
        self._waiting: list[asyncio.Future[None]] = []  # for everything that is pending
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # one transaction at a time on the connection
        self._closing = False
        self._sequences: Counter[Table] = Counter()  # the last number that each table's rows were given
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, migrate: bool, on_fatal: Callable[[str], None]) -> Store:
        """Open the database that `database.url` names, alone; raises FatalError."""
        async with contextlib.AsyncExitStack() as resources:
            resources.callback(FileLock(sqlite_path(url)).release)
            engine = make_engine(url)
            resources.push_async_callback(engine.dispose)
            try:
                connection = await resources.enter_async_context(engine.connect())
                await connection.run_sync(schema.ensure, str(sqlite_path(url)), migrate)
                store = cls(url, connection, resources, on_fatal)
                await store._count()
            except SQLAlchemyError as error:
                raise fatal(url, error) from error
            store._resources = resources.pop_all()
        store._task = asyncio.create_task(store._write_behind(), name="store")
        return store

    async def _count(self) -> None:
        async with self._connection.begin():
            for table in (room_fact, audit, ended_call):
                self._sequences[table] = await self._connection.scalar(select(func.max(table.c.sequence))) or 0

    # ------------------------------------------------------------ reading

    async def load(self) -> Stored:
        """Everything that a start needs, what is still being written included; raises FatalError."""
        position, facts, legs, bans, rooms = await self._read(
            select(sync_position.c.position),
            select(room_fact).order_by(room_fact.c.sequence),
            select(leg),
            select(ban).order_by(ban.c.since_ms),
            select(notify_room.c.room_id),
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
            [row.room_id for row in rooms],
        )

    async def audit(self, limit: int) -> list[AuditEntry]:
        """What admins did last, the newest first; raises FatalError."""
        (rows,) = await self._read(_newest(audit, limit))
        return [AuditEntry(**row._mapping) for row in rows]

    async def ended_calls(self, limit: int) -> list[EndedCall]:
        """The calls that ended last, the newest first; raises FatalError."""
        (rows,) = await self._read(_newest(ended_call, limit))
        return [EndedCall(**row._mapping) for row in rows]

    async def _read(self, *queries: Select[Any]) -> list[Sequence[Row[Any]]]:
        """The rows of each query, out of one transaction; what was asked to be written before is written."""
        await self.flush()
        if self.failure is not None:
            raise self.failure
        try:
            async with self._turn, self._connection.begin():
                return [(await self._connection.execute(query)).all() for query in queries]
        except SQLAlchemyError as error:
            raise fatal(self._url, error) from error

    # ------------------------------------------------------------ writing

    def set_position(self, position: str) -> None:
        """Keep how far to-device messages were read."""
        self._write(sql.PUT_POSITION, {"id": 1, "position": position})

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
        self._write(sql.DELETE_ROOM, {"room": room_id})

    def put_leg(self, leg: StoredLeg) -> asyncio.Future[None]:
        """Keep a leg; the future is done when it is on disk, and raises FatalError where it never will be."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        self._write(sql.PUT_LEG, sql.leg_row(leg))
        return written

    def delete_leg(self, leg: StoredLeg) -> None:
        """Forget a leg: the one of this peer with this call id and conference, whatever its sessions and room."""
        self._write(sql.DELETE_LEG, sql.leg_key(leg))

    def put_ban(self, ban: StoredBan) -> None:
        """Keep a ban in place of the one before of the same user or homeserver."""
        self._write(sql.PUT_BAN, asdict(replace(ban, reason=ban.reason[:MAX_TEXT])))

    def delete_ban(self, who: str) -> None:
        """Forget a ban."""
        self._write(sql.DELETE_BAN, {"key_who": who})

    def put_audit(self, entry: AuditEntry) -> None:
        """Keep what an admin did; so old or so many entries as nobody needs are forgotten."""
        clipped = replace(entry, command=entry.command[:MAX_TEXT], outcome=entry.outcome[:MAX_TEXT])
        self._append(audit, sql.PUT_AUDIT, asdict(clipped), sql.TRIM_AUDIT, entry.at_ms)

    def put_ended_call(self, call: EndedCall) -> None:
        """Keep that a call is over; so old or so many as nobody needs are forgotten."""
        self._append(ended_call, sql.PUT_ENDED_CALL, asdict(call), sql.TRIM_ENDED_CALLS, call.ended_ms)

    def put_notify_room(self, room_id: str) -> None:
        """Keep that a room wants to be told what happens."""
        self._write(sql.PUT_NOTIFY_ROOM, {"room_id": room_id})

    def delete_notify_room(self, room_id: str) -> None:
        """Keep that a room wants to be told nothing any more."""
        self._write(sql.DELETE_NOTIFY_ROOM, {"room": room_id})

    async def flush(self) -> bool:
        """Wait until everything asked for so far is on disk; False if the store has failed."""
        if self.failure is None and self._task is not None and not self._task.done():
            written = asyncio.get_running_loop().create_future()
            self._waiting.append(written)
            self._wake.set()
            await asyncio.wait([written])
            written.exception()
        return self.failure is None

    async def close(self) -> None:
        """Write what is pending and let go of the database."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        with contextlib.suppress(SQLAlchemyError):  # after a failure there may be nothing left to roll back
            await self._resources.aclose()

    def _put_fact(self, fact: StoredFact) -> None:
        try:
            event = json.dumps(fact.event)
        except (ValueError, RecursionError):
            log.warning("an event of type %s in %s cannot be kept: nested too deeply", fact.type, fact.room_id)
            return
        row = {
            "room_id": fact.room_id,
            "type": fact.type,
            "state_key": fact.state_key,
            "event": event,
            "received_ms": fact.received_ms,
            "sequence": self._next(room_fact),
        }
        self._write(sql.PUT_FACT, row)

    def _append(self, table: Table, put: Executable, row: sql.Row, trim: Executable, now_ms: int) -> None:
        sequence = self._next(table)
        self._write(put, {**row, "sequence": sequence})
        self._write(trim, {"last_sequence": sequence - MAX_KEPT, "earliest_ms": now_ms - MAX_AGE_MS})

    def _next(self, table: Table) -> int:
        self._sequences[table] += 1
        return self._sequences[table]

    def _write(self, statement: Executable, row: sql.Row) -> None:
        if self.failure is not None:
            self._settle(self._waiting)
            return
        self._pending.append((statement, row))
        self._wake.set()
        if len(self._pending) > MAX_PENDING:
            name = sqlite_path(self._url)
            self._fail(FatalError(f"database {name}: the disk is too slow", ExitCode.DATABASE_UNREACHABLE))

    # ------------------------------------------------------------ the writer

    async def _write_behind(self) -> None:
        while self.failure is None:
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, []
            waiting, self._waiting = self._waiting, []
            try:
                if pending:
                    await self._transaction(pending)
            except Exception as error:  # whatever it is: a store that does not write is the end
                self._waiting = waiting + self._waiting
                self._fail(fatal(self._url, error))
                return
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            if self._closing and not self._pending:
                return

    async def _transaction(self, writes: Sequence[tuple[Executable, sql.Row]]) -> None:
        async with self._turn, self._connection.begin():
            for statement, group in groupby(writes, key=lambda write: write[0]):
                await self._connection.execute(statement, [row for _, row in group])

    def _fail(self, failure: FatalError) -> None:
        self.failure = failure
        self._pending.clear()
        self._settle(self._waiting)
        self._wake.set()
        self._on_fatal(str(failure))

    def _settle(self, waiting: list[asyncio.Future[None]]) -> None:
        """Nobody waits for ever for what is not written any more."""
        assert self.failure is not None
        for future in waiting:
            if not future.done():
                future.set_exception(self.failure)
                future.exception()  # whoever does not wait for it need not hear of it
        waiting.clear()


def _newest(table: Table, limit: int) -> Select[Any]:
    told = [column for column in table.columns if column is not table.c.sequence]
    return select(*told).order_by(table.c.sequence.desc()).limit(limit)


async def migrate(url: str) -> None:
    """Bring the schema of the database that `database.url` names up to date; raises FatalError."""
    store = await Store.open(url, migrate=True, on_fatal=lambda _: None)
    await store.close()
