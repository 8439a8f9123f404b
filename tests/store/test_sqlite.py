"""What SQLite's files bring with them: locks, full disks, files that are something else."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.store import Store
from tests.store.conftest import CALL, ROOM, Fatal, KeptInFile, leg, python, reopened


@pytest.fixture
def kept(file: KeptInFile) -> KeptInFile:
    return file


async def pragma(store: Store, text: str) -> Any:
    async with store._writer._transaction() as connection:
        return (await connection.exec_driver_sql(f"PRAGMA {text}")).scalar()


async def test_a_full_disk_is_told_once_and_nobody_waits_for_ever(store: Store, fatal: Fatal) -> None:
    pages = await pragma(store, "page_count")
    await pragma(store, f"max_page_count = {pages + 2}")
    for number in range(100):
        store.put_fact(ROOM, CALL, str(number), {"padding": "x" * 1000}, number)
    written = store.put_leg(leg())
    with pytest.raises(FatalError, match="the disk is full"):
        await written
    assert len(fatal.messages) == 1
    assert fatal.messages[0].endswith("sfu.db: the disk is full (database or disk is full)")
    assert store.failure is not None
    assert store.failure.exit_code is ExitCode.DISK_FULL
    with pytest.raises(FatalError):
        await store.put_leg(leg())
    await store.flush()
    assert len(fatal.messages) == 1


FULL = """
import asyncio, resource, sys
from tests.store.conftest import Store, ROOM, CALL
async def main():
    told = asyncio.get_running_loop().create_future()
    store = await Store.open(sys.argv[1], True, told.set_result)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    for number in range(1000):
        store.put_fact(ROOM, CALL, str(number), {"padding": "x" * 1000}, number)
    print(await told)
    await store.close()
    sys.exit(store.failure.exit_code)
asyncio.run(main())
"""


async def test_a_file_that_cannot_grow_is_one_clear_line_and_loses_nothing_older(url: str) -> None:
    before = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    before.set_position("kept")
    await before.close()
    writer = python(FULL, url)
    assert writer.returncode == ExitCode.DATABASE_UNREACHABLE, writer.stderr
    assert "sfu.db: reading or writing failed (disk I/O error)" in writer.stdout
    assert not writer.stderr
    assert (await reopened(url)).position == "kept"


async def test_another_programs_transaction_that_does_not_end_is_a_clear_line(
    store: Store, fatal: Fatal, tmp_path: Path
) -> None:
    await pragma(store, "busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "sfu.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.set_position("x")
    await asyncio.wait_for(fatal.told.wait(), 10)
    other.close()
    assert fatal.messages[0].endswith("sfu.db: locked by another program (database is locked)")
    assert store.failure is not None
    assert store.failure.exit_code is ExitCode.DATABASE_LOCKED


@pytest.mark.parametrize(
    ("prepare", "message", "code"),
    [
        (lambda path: path.mkdir(), "cannot be opened: Is a directory", ExitCode.DATABASE_UNREACHABLE),
        (lambda path: path.write_text("x" * 5000), "is not an SQLite database", ExitCode.DATABASE_UNREACHABLE),
        (lambda path: path.parent.rmdir(), "cannot be opened: No such file", ExitCode.DATABASE_UNREACHABLE),
    ],
)
async def test_a_database_that_cannot_be_used_is_refused_at_start(
    tmp_path: Path, prepare: Any, message: str, code: ExitCode
) -> None:
    path = tmp_path / "folder" / "sfu.db"
    path.parent.mkdir()
    prepare(path)
    with pytest.raises(FatalError, match=message) as raised:
        await Store.open(f"sqlite:///{path}", migrate=True, on_fatal=pytest.fail)
    assert raised.value.exit_code is code
    assert "\n" not in str(raised.value)


async def test_the_database_is_readable_by_its_owner_only(store: Store, tmp_path: Path) -> None:
    store.set_position("x")
    await store.flush()
    with os.scandir(tmp_path) as found:
        assert {entry.name: entry.stat().st_mode & 0o077 for entry in found} == {
            "sfu.db": 0,
            "sfu.db-shm": 0,
            "sfu.db-wal": 0,
            "sfu.db.lock": 0,
        }
