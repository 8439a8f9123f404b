"""PostgreSQL: a server that may be stopped and started, one focus at a time by an advisory lock, and its errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ..errors import ExitCode, FatalError
from .database import AwayError, Database, first_line, original

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds for reaching it and taking the lock
COMMAND_TIMEOUT = 30.0  # seconds for one command; then the server counts as away
HEARTBEAT = 15.0  # seconds without a write after which it is asked whether it is still there
LOCK_PATIENCE = 2.0  # seconds that the session of a focus which has just ended may take to end too
# The server notices within half a minute that this host is gone, and gives the lock to the next.
KEEPALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "4"}

# The lock's two numbers, "msfu" and "lock" in ASCII: another program would have to choose the same.
_LOCK = (0x6D736675, 0x6C6F636B)
_TAKE_LOCK = text(f"SELECT pg_try_advisory_lock({_LOCK[0]}, {_LOCK[1]})")
_SESSION = "SELECT pid, backend_start::text FROM pg_stat_activity"
_OWN_SESSION = text(f"{_SESSION} WHERE pid = pg_backend_pid()")
_LOCKING_SESSION = text(
    f"{_SESSION} WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"  # noqa: S608
    f" AND classid = {_LOCK[0]} AND objid = {_LOCK[1]}"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
_END_SESSION = text("SELECT pg_terminate_backend(:pid)")

# By SQLSTATE (PostgreSQL, appendix A); the message is the server's where nothing is to be added.
_CAUSES = {
    "28000": "the server does not let this user in",
    "28P01": "the server refuses the password",
    "3D000": "there is no such database: create it (createdb -O user name)",
    "42501": "the user lacks a right: make it the database's owner (createdb -O user name)",
    "53100": "the server's disk is full",
}
_EXIT_CODES = {"53100": ExitCode.DISK_FULL}
# What passes: connections, conflicts, resources, the operator, the system; and a server that is a stand-by for now.
_PASSING = ("08", "25006", "40", "53", "57", "58")


def _shown(url: str) -> str:
    """`name on host`: nothing else of the address appears in messages."""
    parts = urlsplit(url)
    if not re.fullmatch(r"postgres(?:ql)?", parts.scheme) or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # An @ there is one of a user name or password that must be written %40, as must / ? # there.
        raise FatalError("database.url: expected postgresql://user:password@host/name", ExitCode.CONFIG)
    hosts = parse_qs(parts.query).get("host") or [parts.netloc.rpartition("@")[2]]
    return f"{unquote(parts.path.removeprefix('/'))} on {unquote(hosts[-1]) or 'this host'}"


class Postgres(Database):
    """A server. The connection that writes is the one that holds the lock: without the lock nothing is written."""

    dialect = "postgresql"
    insert = staticmethod(insert)
    heartbeat = HEARTBEAT
    command_timeout = COMMAND_TIMEOUT

    def __init__(self, url: str) -> None:
        self.name = _shown(url)
        self._url = url
        self._engine = create_async_engine("postgresql+asyncpg://", async_creator=self._open, poolclass=NullPool)
        self._connection: AsyncConnection | None = None
        self._session: tuple[Any, ...] | None = None  # the last that had the lock

    async def _open(self) -> Any:
        return await asyncpg.connect(
            self._url,
            timeout=CONNECT_TIMEOUT,
            server_settings={"application_name": "mautrix-sfu", **KEEPALIVE},
        )

    async def connect(self, on_lost: Callable[[], None] = lambda: None) -> AsyncConnection:
        """Connect and take the lock; FatalError: another focus has it, or the address is wrong."""
        await self.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = self._connection = await self._engine.connect()
                await self._take_lock(connection)
            raw = (await connection.get_raw_connection()).driver_connection
        except BaseException as error:
            await self.close()
            if isinstance(error, FatalError) or not isinstance(error, Exception):
                raise
            cause = original(error)
            if isinstance(cause, ValueError) and not isinstance(cause, OSError):  # as a certificate's fault is both
                what = f"database.url: cannot be used: {first_line(cause)}"
                raise FatalError(what, ExitCode.CONFIG) from error
            # Whatever it is that does not let us in, the server's operator may mend it while calls go on.
            problem = self.explain(error)
            raise AwayError(str(problem), problem.exit_code) from error
        assert raw is not None
        raw.add_termination_listener(lambda _: on_lost())
        return connection

    async def _take_lock(self, connection: AsyncConnection) -> None:
        deadline = asyncio.get_running_loop().time() + LOCK_PATIENCE
        while not await connection.scalar(_TAKE_LOCK):
            holder = (await connection.execute(_LOCKING_SESSION)).first()
            if holder is not None and tuple(holder) == self._session:
                # This process's own, which the server did not notice to be gone
                await connection.execute(_END_SESSION, {"pid": holder.pid})
            elif asyncio.get_running_loop().time() > deadline:
                raise FatalError(
                    f"database {self.name}: in use by another process: is mautrix-sfu running already?",
                    ExitCode.DATABASE_LOCKED,
                )
            await connection.rollback()
            await asyncio.sleep(0.1)
        self._session = tuple((await connection.execute(_OWN_SESSION)).one())
        await connection.rollback()  # which releases nothing: the lock belongs to the session

    async def close(self) -> None:
        """End the session, and with it the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError, OSError, asyncpg.InterfaceError):
                await connection.invalidate()  # does not wait for a server that does not answer, as closing would
            with contextlib.suppress(SQLAlchemyError, OSError):
                await connection.close()

    def explain(self, error: Exception) -> FatalError | AwayError:
        """One clear line, and whether the server may answer again."""
        cause = original(error)
        state: str = getattr(cause, "sqlstate", None) or ""
        detail = first_line(cause)
        exit_code = _EXIT_CODES.get(state, ExitCode.DATABASE_UNREACHABLE)
        if isinstance(cause, TimeoutError):
            return AwayError(f"database {self.name}: does not answer", exit_code)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {cause.verify_message.rstrip('.')}"
            return AwayError(f"database {self.name}: {why} (sslmode, sslrootcert in database.url)", exit_code)
        if isinstance(cause, FileNotFoundError) and cause.filename is None and "sslrootcert" in self._url:
            return AwayError(f"database {self.name}: the file of sslrootcert is not there", exit_code)
        if isinstance(cause, OSError):
            return AwayError(f"database {self.name}: cannot be reached ({cause.strerror or detail})", exit_code)
        line = f"database {self.name}: {_CAUSES.get(state, 'failed')} ({detail})"
        lost = isinstance(cause, asyncpg.InterfaceError | asyncpg.InternalClientError | InvalidRequestError)
        if state.startswith(_PASSING) if state else lost and not isinstance(cause, asyncpg.DataError):
            return AwayError(line, exit_code)
        return FatalError(line, exit_code)
