"""Writes behind, in order, by one task, in as few transactions as the disk allows; waits for a server that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import ExitCode, FatalError
from . import schema
from .database import AwayError, Database
from .statements import Write

log = logging.getLogger(__name__)

MAX_PENDING = 100_000  # writes that the database is behind by, before that is taken for a failure
MAX_PENDING_SIZE = 256 * 1024 * 1024  # characters of them
PAUSES = (0.1, 5.0)  # seconds between attempts to reach it again: at first, and at most; each is twice the one before
GRACE = 5.0  # seconds that a server may take to start again before anybody is told no
LAST_WRITES = 5.0  # seconds that it may be away when everything ends


@dataclass(slots=True)
class _Outage:
    """What the database is away for."""

    since: float
    timer: asyncio.TimerHandle  # until it is taken for gone
    pause: float = PAUSES[0]


class Writer:
    """Owns the connection. What is asked for stays in memory until it is on disk; what may be written twice, may be.

    A write that fails for good ends it all: `failure` says what failed, `on_fatal` is told once, and from then on
    nothing is written. A server that is away does not: `away` says so at once, for up to `patience` seconds. When it
    has been away for longer than a restart takes, `on_away` is told why, and None when it is back.
    """

    def __init__(
        self,
        database: Database,
        on_fatal: Callable[[str], None],
        on_away: Callable[[str | None], None],
        patience: float,
    ) -> None:
        self.failure: FatalError | None = None
        self.away: str | None = None
        self._database = database
        self._on_fatal = on_fatal
        self._on_away = on_away
        self._patience = patience
        self._connection: AsyncConnection | None = None
        self._turn = asyncio.Lock()  # one transaction at a time on the connection
        self._pending: dict[Hashable, Write] = {}  # in the order in which they were last asked for
        self._pending_size = 0
        self._waiting: list[asyncio.Future[None]] = []  # for everything that is pending
        self._impatient: list[asyncio.Future[None]] = []  # the same, but not for a server that is gone
        self._outage: _Outage | None = None
        self._gone = False  # away for longer than a restart takes
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def open(self, migrate: bool) -> None:
        """Reach the database and see to its schema; raises FatalError."""
        try:
            await self._connect(migrate)
        except BaseException as error:
            await self._database.close()
            if not isinstance(error, Exception):
                raise
            problem = self._explained(error)
            raise problem if isinstance(problem, FatalError) else problem.fatal() from error

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._work(), name="store")

    async def close(self) -> None:
        """Write what is pending and let go of the database."""
        self._closing = True
        self._wake.set()
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=LAST_WRITES)
            if self.away is not None and not self._task.done():
                self._task.cancel()
                log.error("database %s: %d changes are lost: it is away", self._database.name, len(self._pending))
        if self._outage is not None:
            self._outage.timer.cancel()
        await self._database.close()

    @property
    def pending(self) -> int:
        """How many rows are still to be written."""
        return len(self._pending)

    # ------------------------------------------------------------ what is asked for

    def write(self, *writes: Write) -> None:
        """Write these, some time soon and in order."""
        if self.failure is not None:
            return
        for write in writes:
            superseded = self._pending.pop(write.key, None)
            self._pending_size += write.size - (superseded.size if superseded is not None else 0)
            self._pending[write.key] = write
        self._wake.set()
        if len(self._pending) > MAX_PENDING or self._pending_size > MAX_PENDING_SIZE:
            why = self.away or f"database {self._database.name}: too slow"
            self._fail(FatalError(f"{why}; too much is waiting to be written", ExitCode.DATABASE_UNREACHABLE))

    def written(self) -> asyncio.Future[None]:
        """Done when all that was asked for before is on disk; raises FatalError where it never will be."""
        return self._until_written(self._waiting)

    async def settled(self) -> None:
        """Wait until all that was asked for before is on disk, or will not be soon."""
        if not self._gone and self.failure is None and self._task is not None and not self._task.done():
            await asyncio.wait([self._until_written(self._impatient)])

    async def read(self, *queries: Select[Any]) -> list[Sequence[Row[Any]]]:
        """The rows of each query, all that was asked for before included; raises FatalError or AwayError."""
        await self.settled()
        if self.failure is not None:
            raise self.failure
        if self.away is not None:
            raise AwayError(self.away, ExitCode.DATABASE_UNREACHABLE)
        try:
            async with asyncio.timeout(self._database.command_timeout), self._transaction() as connection:
                return [(await connection.execute(query)).all() for query in queries]
        except Exception as error:
            self._wake.set()  # the task sees to what is wrong
            raise self._explained(error) from error

    def _until_written(self, futures: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        futures.append(future)
        self._wake.set()
        if self.failure is not None:
            _settle(futures, self.failure)
        return future

    # ------------------------------------------------------------ the task

    async def _work(self) -> None:
        while self.failure is None:
            await self._until_asked()
            writes, self._pending, self._pending_size = self._pending, {}, 0
            waiting, self._waiting = self._waiting, []
            impatient, self._impatient = self._impatient, []
            try:
                async with asyncio.timeout(self._database.command_timeout):
                    if self._connection is None:
                        await self._connect(migrate=False)
                    await self._execute(writes.values())
            except Exception as error:  # whatever it is: what is not written now is written later, or never
                self._take_back(writes)
                self._waiting, self._impatient = waiting + self._waiting, impatient + self._impatient
                await self._bear(self._explained(error))
                continue
            self._end_outage()
            _settle(waiting)
            _settle(impatient)
            if self._closing and not self._pending:
                return

    async def _until_asked(self) -> None:
        """Until there is something to write, or it is time to see whether the database is still there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._database.heartbeat):
                await self._wake.wait()
        self._wake.clear()

    async def _execute(self, writes: Collection[Write]) -> None:
        if not writes and self._database.heartbeat is None:
            return
        async with self._transaction() as connection:
            if not writes:
                await connection.execute(select(1))
            for statement, group in groupby(writes, key=lambda write: write.statement):
                await connection.execute(statement, [write.row for write in group])

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._turn:
            connection = self._connection
            if connection is None or connection.invalidated:
                # SQLAlchemy would connect again by itself, and then no lock would keep others out.
                raise AwayError(
                    f"database {self._database.name}: the connection was lost", ExitCode.DATABASE_UNREACHABLE
                )
            async with connection.begin():
                yield connection

    def _take_back(self, writes: dict[Hashable, Write]) -> None:
        """Write these again, before what was asked for since; whether they were written is not known."""
        for key in self._pending:
            writes.pop(key, None)
        self._pending = writes | self._pending
        self._pending_size = sum(write.size for write in self._pending.values())

    # ------------------------------------------------------------ a database that fails

    async def _connect(self, migrate: bool) -> None:
        async with self._turn:
            connection = await self._database.connect(self._wake.set)
            await connection.run_sync(schema.ensure, self._database.name, migrate)
            self._connection = connection

    async def _bear(self, problem: FatalError | AwayError) -> None:
        """Pause before the next attempt, or end it all."""
        if self.failure is not None:  # meanwhile; who waited for what was being written is not told yet
            _settle(self._waiting, self.failure)
            _settle(self._impatient, self.failure)
            return
        if isinstance(problem, FatalError):
            self._fail(problem)
            return
        loop = asyncio.get_running_loop()
        if self._outage is None:
            self._outage = _Outage(loop.time(), loop.call_later(GRACE, self._set_gone))
        outage = self._outage
        if loop.time() - outage.since > self._patience:
            self._fail(FatalError(f"{problem}, and has not for {self._patience:g} s", problem.exit_code))
            return
        if str(problem) != self.away:
            log.warning("%s; what is to be written waits", problem)
            self.away = str(problem)
        self._connection = None
        await asyncio.sleep(outage.pause)
        outage.pause = min(outage.pause * 2, PAUSES[1])
        self._wake.set()

    def _set_gone(self) -> None:
        self._gone = True
        _settle(self._impatient)
        self._on_away(self.away)

    def _end_outage(self) -> None:
        if self._outage is None:
            return
        lasted = asyncio.get_running_loop().time() - self._outage.since
        log.warning("database %s: is back after %.1f s", self._database.name, lasted)
        self._outage.timer.cancel()
        self._outage = self.away = None
        if self._gone:
            self._gone = False
            self._on_away(None)

    def _fail(self, failure: FatalError) -> None:
        self.failure = failure
        self._pending.clear()
        _settle(self._waiting, failure)
        _settle(self._impatient, failure)
        self._wake.set()
        self._on_fatal(str(failure))

    def _explained(self, error: Exception) -> FatalError | AwayError:
        return error if isinstance(error, FatalError | AwayError) else self._database.explain(error)


def _settle(futures: list[asyncio.Future[None]], failure: FatalError | None = None) -> None:
    """Let nobody wait any longer."""
    for future in futures:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
            future.exception()  # whoever does not wait for it need not hear of it
    futures.clear()
