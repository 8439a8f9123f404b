"""The schema comes up to date at start or is refused with what to do, and the alembic command does the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.store import AuditEntry, Store, Stored, StoredFact, migrate
from tests.store.conftest import CALL, ROOM, Kept, leg
from tests.support.postgres import PASSWORD

ROOT = Path(__file__).parent.parent.parent
FIRST = {"alembic_version", "leg", "room_fact", "sync_position"}
TABLES = FIRST | {"audit", "ban", "ended_call", "notify_room"}


async def alembic(*arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    which = () if url is None else ("-x", f"url={url}")
    command = [sys.executable, "-m", "alembic", *which, *arguments]
    return await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)


async def open_and_close(url: str, migrate: bool) -> None:
    store = await Store.open(url, migrate, on_fatal=pytest.fail)
    await store.close()


async def test_without_migration_an_old_schema_is_refused_with_the_command_to_run(kept: Kept, url: str) -> None:
    with pytest.raises(FatalError, match=r"run `mautrix-sfu --migrate -c config\.yaml`") as raised:
        await open_and_close(url, migrate=False)
    assert raised.value.exit_code is ExitCode.DATABASE_SCHEMA
    assert await kept.tables() == set()
    await migrate(url)
    await open_and_close(url, migrate=False)


async def test_a_schema_of_a_newer_version_is_refused_either_way(kept: Kept, url: str) -> None:
    await migrate(url)
    await kept.execute("UPDATE alembic_version SET version_num = '9999'")
    for migrating in (True, False):
        with pytest.raises(FatalError, match=r"its schema \(9999\) comes from a newer version"):
            await open_and_close(url, migrating)


async def test_a_migration_that_fails_leaves_the_database_as_it_was(kept: Kept, url: str) -> None:
    await kept.execute("CREATE TABLE sync_position (x INTEGER)")
    with pytest.raises(FatalError, match=r'(table|relation) "?sync_position"? already exists') as raised:
        await open_and_close(url, migrate=True)
    assert "\n" not in str(raised.value)
    assert await kept.tables() <= {"sync_position", "alembic_version"}


async def test_the_homeservers_own_database_is_refused(kept: Kept, url: str) -> None:
    await kept.execute("CREATE TABLE state_groups_state (x INTEGER)")
    with pytest.raises(FatalError, match="belongs to Synapse") as raised:
        await open_and_close(url, migrate=True)
    assert raised.value.exit_code is ExitCode.CONFIG
    assert await kept.tables() == {"state_groups_state"}


async def test_the_alembic_command_upgrades_and_downgrades_step_by_step(kept: Kept, url: str) -> None:
    for revision, tables in (("0001", FIRST), ("head", TABLES)):
        done = await alembic("upgrade", revision, url=url)
        assert done.returncode == 0, done.stderr
        assert await kept.tables() == tables
    assert "(head)" in (await alembic("current", url=url)).stdout
    for revision, tables in (("-1", TABLES), ("0001", FIRST), ("base", {"alembic_version"})):
        done = await alembic("downgrade", revision, url=url)
        assert done.returncode == 0, done.stderr
        assert await kept.tables() == tables
    assert PASSWORD not in done.stdout + done.stderr
    assert (await alembic("upgrade", "head", url=url)).returncode == 0
    await open_and_close(url, migrate=False)


async def test_what_the_older_schema_has_room_for_survives_a_downgrade_and_an_upgrade(url: str) -> None:
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    store.set_position("s1")
    store.put_fact(ROOM, CALL, "conf", {"ü": 1}, 5)
    store.put_leg(leg())
    store.put_audit(AuditEntry(1, "@admin:example.org", ROOM, "status", "answered"))
    await store.close()
    assert (await alembic("downgrade", "0001", url=url)).returncode == 0
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    assert await store.load() == Stored("s1", [StoredFact(ROOM, CALL, "conf", {"ü": 1}, 5)], [leg()])
    assert await store.audit(10) == []
    await store.close()


async def test_alembic_can_print_the_sql_instead(kept: Kept, url: str) -> None:
    printed = await alembic("upgrade", "head", "--sql", url=url)
    assert printed.returncode == 0, printed.stderr
    assert all(f"CREATE TABLE {table} " in printed.stdout for table in TABLES)


async def test_the_migrations_give_exactly_the_tables_of_the_code(url: str) -> None:
    await migrate(url)
    check = await alembic("check", url=url)
    assert check.returncode == 0, check.stdout + check.stderr


async def test_other_tables_in_the_database_are_left_alone(kept: Kept, url: str) -> None:
    await kept.execute("CREATE TABLE mx_user_profile (x INTEGER)")
    await migrate(url)
    assert await kept.tables() == TABLES | {"mx_user_profile"}
    assert (await alembic("check", url=url)).returncode == 0


async def test_a_database_in_use_is_not_migrated_from_outside(url: str) -> None:
    store = await Store.open(url, True, on_fatal=pytest.fail)
    refused = await alembic("downgrade", "base", url=url)
    await store.close()
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("in use by another process: is mautrix-sfu running already?")


async def test_alembic_reads_the_database_from_the_configuration(kept: Kept, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    homeserver = {"address": "https://m.example.org", "domain": "example.org"}
    with config.open("w") as file:
        YAML().dump({"homeserver": homeserver, "database": {"url": kept.url}}, file)
    done = await alembic("-x", f"config={config}", "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert await kept.tables() == TABLES


async def test_alembic_says_in_one_line_what_is_wrong_with_the_database(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/sfu.db", "postgresql://u:hush@127.0.0.1:1/sfu", "mysql://u:hush@h/sfu"):
        done = await alembic("upgrade", "head", url=url)
        assert done.returncode == 1
        assert done.stderr.startswith("database")
        assert done.stderr.count("\n") == 1
        assert "hush" not in done.stderr


def test_the_migrations_folder_does_not_hide_the_library() -> None:
    assert (ROOT / "alembic" / "env.py").exists()
    assert not (ROOT / "alembic" / "__init__.py").exists()
