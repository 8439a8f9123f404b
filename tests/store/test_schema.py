"""The schema comes up to date at start or is refused with what to do, and the alembic command does the same."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.store import Store, migrate

ROOT = Path(__file__).parent.parent.parent
TABLES = {"alembic_version", "audit", "ban", "ended_call", "leg", "notify_room", "room_fact", "sync_position"}


def alembic(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alembic", "-x", f"url={url}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sfu.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def open_and_close(url: str, migrate: bool) -> None:
    store = await Store.open(url, migrate, on_fatal=pytest.fail)
    await store.close()


async def test_without_migration_an_old_schema_is_refused_with_the_command_to_run(path: Path, url: str) -> None:
    with pytest.raises(FatalError, match=r"run `mautrix-sfu --migrate -c config\.yaml`") as raised:
        await open_and_close(url, migrate=False)
    assert raised.value.exit_code is ExitCode.DATABASE_SCHEMA
    assert tables(path) == set()
    await migrate(url)
    await open_and_close(url, migrate=False)


async def test_a_schema_of_a_newer_version_is_refused_either_way(path: Path, url: str) -> None:
    await migrate(url)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for migrating in (True, False):
        with pytest.raises(FatalError, match=r"its schema \(9999\) comes from a newer version"):
            await open_and_close(url, migrating)


async def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path, url: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE sync_position (x)")
    with pytest.raises(FatalError, match="table sync_position already exists"):
        await open_and_close(url, migrate=True)
    assert tables(path) <= {"sync_position", "alembic_version"}


def test_the_alembic_command_upgrades_and_downgrades(path: Path, url: str) -> None:
    assert alembic("upgrade", "head", url=url).returncode == 0
    assert tables(path) == TABLES
    assert "(head)" in alembic("current", url=url).stdout
    assert alembic("downgrade", "base", url=url).returncode == 0
    assert tables(path) == {"alembic_version"}
    assert alembic("upgrade", "head", url=url).returncode == 0
    assert tables(path) == TABLES


async def test_the_migrations_give_exactly_the_tables_of_the_code(url: str) -> None:
    await migrate(url)
    check = alembic("check", url=url)
    assert check.returncode == 0, check.stdout + check.stderr


async def test_other_tables_in_the_database_are_left_alone(path: Path, url: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mx_user_profile (x)")
    await migrate(url)
    assert tables(path) == TABLES | {"mx_user_profile"}
    assert alembic("check", url=url).returncode == 0


async def test_a_database_in_use_is_not_migrated_from_outside(url: str) -> None:
    store = await Store.open(url, True, on_fatal=pytest.fail)
    refused = alembic("downgrade", "base", url=url)
    await store.close()
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("in use by another process: is mautrix-sfu running already?")


def test_alembic_reads_the_database_from_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"homeserver: {{address: 'https://m.example.org', domain: example.org}}\n"
        f"database: {{url: 'sqlite:///{tmp_path}/from-config.db'}}\n"
    )
    command = [sys.executable, "-m", "alembic", "-x", f"config={config}", "upgrade", "head"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path / "from-config.db") == TABLES


def test_the_migrations_folder_does_not_hide_the_library() -> None:
    assert (ROOT / "alembic" / "env.py").exists()
    assert not (ROOT / "alembic" / "__init__.py").exists()
