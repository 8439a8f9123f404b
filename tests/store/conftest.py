"""The databases on which the store's tests run: each test has one of its own, and runs once on each kind."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mautrix_sfu.core.events import StoredLeg
from mautrix_sfu.core.ids import CallId, ConfId, Device, DeviceId, RoomId, SessionId, UserId
from mautrix_sfu.store import AuditEntry, Store, Stored
from tests.support.postgres import Postgres


class Kept(ABC):
    """A database, as a program beside the focus sees it."""

    url: str

    @abstractmethod
    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query gives."""

    @abstractmethod
    async def execute(self, statement: str) -> None:
        """Change something."""

    @abstractmethod
    async def tables(self) -> set[str]:
        """The names of all tables."""


class KeptInFile(Kept):
    """SQLite."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as database:
            return [tuple(row) for row in database.execute(query)]

    async def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute(statement)

    async def tables(self) -> set[str]:
        return {name for (name,) in await self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}


class KeptByServer(Kept):
    """PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def execute(self, statement: str) -> None:
        await self.rows(statement)

    async def tables(self) -> set[str]:
        return {name for (name,) in await self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> KeptInFile:
    return KeptInFile(tmp_path / "sfu.db")


@pytest.fixture
async def served(postgres: Postgres) -> KeptByServer:
    postgres.start()
    return KeptByServer(await postgres.create())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def kept(request: pytest.FixtureRequest) -> Kept:
    """A database of each kind."""
    found: Kept = request.getfixturevalue("file" if request.param == "sqlite" else "served")
    return found


@pytest.fixture
def url(kept: Kept) -> str:
    return kept.url


# ---------------------------------------------------------------- what is kept in tests

ROOM = "!room:example.org"
CALL = "org.matrix.msc3401.call"


def leg(user: str = "@a:example.org", call: str = "call1", room: str | None = ROOM) -> StoredLeg:
    return StoredLeg(
        room_id=None if room is None else RoomId(room),
        conf_id=ConfId("conf"),
        peer=Device(UserId(user), DeviceId("DEV")),
        call_id=CallId(call),
        remote_session=SessionId("theirs"),
        local_session=SessionId("sfu"),
    )


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


class Fatal:
    """Takes what the store reports."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.told = asyncio.Event()

    def __call__(self, message: str) -> None:
        self.messages.append(message)
        self.told.set()


@pytest.fixture
def fatal() -> Fatal:
    return Fatal()


@pytest.fixture
async def store(url: str, fatal: Fatal) -> AsyncIterator[Store]:
    opened = await Store.open(url, migrate=True, on_fatal=fatal)
    yield opened
    await opened.close()


async def reopened(url: str) -> Stored:
    store = await Store.open(url, migrate=False, on_fatal=pytest.fail)
    try:
        return await store.load()
    finally:
        await store.close()


def entry(number: int, **changes: Any) -> AuditEntry:
    return replace(AuditEntry(number, "@admin:example.org", ROOM, "end conf", "ended"), **changes)
