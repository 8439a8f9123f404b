"""The databases on which the store's tests run: each test has one of its own, and runs once on each kind."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

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
