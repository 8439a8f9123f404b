"""Reaching the database: its address, its lock, how SQLite is to behave, and what its errors mean."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ..errors import ExitCode, FatalError

BUSY_TIMEOUT = 5.0  # seconds to wait for another program's transaction
_NEEDED = 65536  # bytes; SQLite's shared-memory file takes 32 KiB at once


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:file.db` (as mautrix writes it), `sqlite:///file.db` or `sqlite:////absolute/file.db`."""
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite" or not rest:
        raise FatalError("database.url: expected sqlite:file.db or sqlite:////absolute/file.db", ExitCode.CONFIG)
    return Path(rest.removeprefix("///"))


def connect_url(url: str) -> str:
    """The address as SQLAlchemy takes it."""
    return f"sqlite+aiosqlite:///{sqlite_path(url)}"


def make_engine(url: str) -> AsyncEngine:
    """An engine whose transactions are SQLite's own, data definition included; nothing is opened yet."""
    engine = create_async_engine(connect_url(url), poolclass=NullPool)
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)
    return engine


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


class FileLock:
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


def _disk_is_full(database: Path) -> bool:
    try:
        disk = os.statvfs(database.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _NEEDED


def fatal(url: str, error: Exception) -> FatalError:
    """One clear line for an error of the database."""
    original: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    code: int = getattr(original, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without what extends it
    if code == sqlite3.SQLITE_IOERR and _disk_is_full(sqlite_path(url)):
        code = sqlite3.SQLITE_FULL  # SQLite does not say so of all its files
    cause, exit_code = _CAUSES.get(code, ("failed", ExitCode.DATABASE_UNREACHABLE))
    detail = str(original).partition("\n")[0]
    return FatalError(f"database {sqlite_path(url)}: {cause} ({detail})", exit_code)
