"""SQLite: a file, its lock, how it is to behave, and what its errors mean."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ..errors import ExitCode, FatalError
from .database import Database, first_line, original

BUSY_TIMEOUT = 5.0  # seconds to wait for another program's transaction
_NEEDED = 65536  # bytes; SQLite's shared-memory file takes 32 KiB at once

_CAUSES = {
    sqlite3.SQLITE_FULL: ("the disk is full", ExitCode.DISK_FULL),
    sqlite3.SQLITE_BUSY: ("locked by another program", ExitCode.DATABASE_LOCKED),
    sqlite3.SQLITE_LOCKED: ("locked by another program", ExitCode.DATABASE_LOCKED),
    sqlite3.SQLITE_IOERR: ("reading or writing failed", ExitCode.DATABASE_UNREACHABLE),
    sqlite3.SQLITE_READONLY: ("may not be written to", ExitCode.DATABASE_UNREACHABLE),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", ExitCode.DATABASE_UNREACHABLE),
    sqlite3.SQLITE_CORRUPT: ("is damaged: restore a backup or move it away", ExitCode.DATABASE_UNREACHABLE),
    sqlite3.SQLITE_NOTADB: ("is not an SQLite database", ExitCode.DATABASE_UNREACHABLE),
}


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:file.db` (as mautrix writes it), `sqlite:///file.db` or `sqlite:////absolute/file.db`."""
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite" or not rest:
        raise FatalError("database.url: expected sqlite:file.db or sqlite:////absolute/file.db", ExitCode.CONFIG)
    return Path(rest.removeprefix("///"))


class Sqlite(Database):
    """A file. Its transactions are SQLite's own, data definition included. What fails does not mend itself."""

    dialect = "sqlite"
    insert = staticmethod(insert)

    def __init__(self, url: str) -> None:
        self._path = sqlite_path(url)
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{self._path}", poolclass=NullPool)
        event.listen(self._engine.sync_engine, "connect", _on_connect)
        event.listen(self._engine.sync_engine, "begin", _on_begin)
        self._lock: _FileLock | None = None
        self._connection: AsyncConnection | None = None
        self.name = str(self._path)

    async def connect(self, on_lost: Callable[[], None] = lambda: None) -> AsyncConnection:
        """Open the file, alone; raises FatalError."""
        await self.close()
        self._lock = _FileLock(self._path)
        try:
            self._connection = await self._engine.connect()
        except (SQLAlchemyError, OSError) as error:
            await self.close()
            raise self.explain(error) from error
        return self._connection

    async def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # after a failure there may be nothing left to roll back
                await self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def explain(self, error: Exception) -> FatalError:
        """One clear line."""
        cause = original(error)
        code: int = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without what extends it
        if code == sqlite3.SQLITE_IOERR and self._disk_is_full():
            code = sqlite3.SQLITE_FULL  # SQLite does not say so of all its files
        what, exit_code = _CAUSES.get(code, ("failed", ExitCode.DATABASE_UNREACHABLE))
        return FatalError(f"database {self.name}: {what} ({first_line(cause)})", exit_code)

    def _disk_is_full(self) -> bool:
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < _NEEDED


def _on_connect(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver must not begin or commit by itself
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {int(BUSY_TIMEOUT * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",  # what is reported as kept survives a power failure
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class _FileLock:
    """Keeps a second process from the same database. The kernel releases it however the process ends."""

    def __init__(self, database: Path) -> None:
        """Take it, or raise FatalError. The database file is made here if it is missing, readable by its owner only."""
        try:
            os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            # A file of its own: closing a descriptor of the database would release SQLite's own locks on it.
            self._descriptor = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FatalError(
                f"database {database}: cannot be opened: {error.strerror}", ExitCode.DATABASE_UNREACHABLE
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise FatalError(
                f"database {database}: in use by another process: is mautrix-sfu running already?",
                ExitCode.DATABASE_LOCKED,
            ) from error

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)
