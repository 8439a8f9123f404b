"""A backup that is made while the focus runs holds what was kept, and a focus starts from it (docs/operations.md)."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mautrix_sfu.store import Store, StoredBan
from tests.store.conftest import CALL, ROOM, KeptByServer, KeptInFile, leg
from tests.support.postgres import Postgres, binaries

BAN = StoredBan("evil.example", None, "@admin:example.org", "spam", 1)


async def running(url: str) -> Store:
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    store.put_ban(BAN)
    store.put_fact(ROOM, CALL, "conf", {}, 1)
    await store.put_leg(leg())
    return store


async def assert_holds_bans_and_forgets_calls(restored: KeptInFile | KeptByServer) -> None:
    for table in ("room_fact", "leg"):
        assert await restored.rows(f"SELECT count(*) FROM {table}") == [(1,)]
        await restored.execute(f"DELETE FROM {table}")
    store = await Store.open(restored.url, migrate=False, on_fatal=pytest.fail)
    stored = await store.load()
    assert (stored.bans, stored.facts, stored.legs) == ([BAN], [], [])
    await store.close()


async def test_of_a_file(file: KeptInFile, tmp_path: Path) -> None:
    store = await running(file.url)
    copy = tmp_path / "backup.db"
    with closing(sqlite3.connect(file.path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)  # what `.backup` of the sqlite3 program does
    await store.close()
    await assert_holds_bans_and_forgets_calls(KeptInFile(copy))


@pytest.mark.postgresql
async def test_of_a_server(served: KeptByServer, postgres: Postgres, tmp_path: Path) -> None:
    store = await running(served.url)
    dump = tmp_path / "sfu.dump"
    url = await postgres.create()
    for command in (
        ("pg_dump", "--format=custom", f"--file={dump}", served.url),
        ("pg_restore", f"--dbname={url}", str(dump)),
    ):
        process = await asyncio.create_subprocess_exec(binaries() / command[0], *command[1:])
        assert await process.wait() == 0
    await store.close()
    await assert_holds_bans_and_forgets_calls(KeptByServer(url))
