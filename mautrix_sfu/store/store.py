"""What a restart must not lose, written behind in order by one task, in as few transactions as the disk allows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from sqlalchemy import Executable, bindparam, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.events import StoredLeg
from ..core.ids import CallId, ConfId, Device, DeviceId, RoomId, SessionId, UserId
from ..errors import ExitCode, FatalError
from . import schema
from .database import FileLock, fatal, make_engine, sqlite_path
from .tables import leg, room_fact, sync_position

log = logging.getLogger(__name__)

MAX_PENDING = 100_000  # writes that the disk is behind by, before that is taken for a failure


@dataclass(frozen=True, slots=True)
class StoredFact:
    """A state event as it was received."""

    room_id: str
    type: str
    state_key: str
    event: dict[str, Any]
    received_ms: int  # wall clock


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that the store holds."""

    position: str | None  # `since` of /sync
    facts: list[StoredFact]  # in order of receipt
    legs: list[StoredLeg]


_Row = dict[str, Any]


def _upsert(table: Any) -> Executable:
    statement = insert(table)
    key = {column.name for column in table.primary_key}
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    return statement.on_conflict_do_update(index_elements=sorted(key), set_=changed)


_PUT_POSITION = _upsert(sync_position)
_PUT_FACT = _upsert(room_fact)
_PUT_LEG = _upsert(leg)
_DELETE_ROOM = delete(room_fact).where(room_fact.c.room_id == bindparam("room"))
_LEG_KEY = [column.name for column in leg.primary_key]
_DELETE_LEG = delete(leg).where(*(leg.c[name] == bindparam(f"key_{name}") for name in _LEG_KEY))


def _leg_row(stored: StoredLeg) -> _Row:
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
        self._pending: list[tuple[Executable, _Row]] = []  # in the order in which they were asked for
        self._waiting: list[asyncio.Future[None]] = []  # for everything that is pending
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # one transaction at a time on the connection
        self._closing = False
        self._sequence = 0
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
                store._sequence = await store._last_sequence()
            except SQLAlchemyError as error:
                raise fatal(url, error) from error
            store._resources = resources.pop_all()
        store._task = asyncio.create_task(store._write_behind(), name="store")
        return store

    async def _last_sequence(self) -> int:
        async with self._connection.begin():
            found = await self._connection.scalar(select(func.max(room_fact.c.sequence)))
        return int(found or 0)

    # ------------------------------------------------------------ reading

    async def load(self) -> Stored:
        """Everything that is kept, what is still being written included; raises FatalError."""
        await self.flush()
        if self.failure is not None:
            raise self.failure
        try:
            async with self._turn, self._connection.begin():
                position = await self._connection.scalar(select(sync_position.c.position))
                facts = (await self._connection.execute(select(room_fact).order_by(room_fact.c.sequence))).all()
                legs = (await self._connection.execute(select(leg))).all()
        except SQLAlchemyError as error:
            raise fatal(self._url, error) from error
        return Stored(
            position,
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
        )

    # ------------------------------------------------------------ writing

    def set_position(self, position: str) -> None:
        """Keep how far to-device messages were read."""
        self._write(_PUT_POSITION, {"id": 1, "position": position})

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
        self._write(_DELETE_ROOM, {"room": room_id})

    def put_leg(self, leg: StoredLeg) -> asyncio.Future[None]:
        """Keep a leg; the future is done when it is on disk, and raises FatalError where it never will be."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        self._write(_PUT_LEG, _leg_row(leg))
        return written

    def delete_leg(self, leg: StoredLeg) -> None:
        """Forget a leg: the one of this peer with this call id and conference, whatever its sessions and room."""
        row = _leg_row(leg)
        self._write(_DELETE_LEG, {f"key_{name}": row[name] for name in _LEG_KEY})

    async def flush(self) -> None:
        """Wait until everything asked for so far is on disk, or the store has failed."""
        if self.failure is None and self._task is not None and not self._task.done():
            written = asyncio.get_running_loop().create_future()
            self._waiting.append(written)
            self._wake.set()
            await asyncio.wait([written])
            written.exception()

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
        self._sequence += 1
        row = {field.name: getattr(fact, field.name) for field in fields(StoredFact)}
        self._write(_PUT_FACT, {**row, "event": event, "sequence": self._sequence})

    def _write(self, statement: Executable, row: _Row) -> None:
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

    async def _transaction(self, writes: Sequence[tuple[Executable, _Row]]) -> None:
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


async def migrate(url: str) -> None:
    """Bring the schema of the database that `database.url` names up to date; raises FatalError."""
    store = await Store.open(url, migrate=True, on_fatal=lambda _: None)
    await store.close()
