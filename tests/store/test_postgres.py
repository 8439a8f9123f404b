"""A PostgreSQL server goes away and comes back: nothing is lost, and nobody else gets in meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from mautrix.util.async_db import UpgradeTable

from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.store import AwayError, Store, mautrix_database, schema, writer
from mautrix_sfu.store import postgres as postgres_module
from tests.store.conftest import CALL, ROOM, Fatal, KeptByServer, entry, leg, reopened
from tests.support.postgres import PASSWORD, USER, Postgres
from tests.support.synapse import free_port

pytestmark = pytest.mark.postgresql


@pytest.fixture
def kept(served: KeptByServer) -> KeptByServer:
    return served


class Away:
    """Takes what the store says of a server that is away."""

    def __init__(self) -> None:
        self.told: list[str | None] = []

    def __call__(self, why: str | None) -> None:
        self.told.append(why)


@pytest.fixture
def away() -> Away:
    return Away()


@pytest.fixture
async def store(url: str, fatal: Fatal, away: Away, postgres: Postgres) -> AsyncIterator[Store]:
    opened = await Store.open(url, True, fatal, away)
    yield opened
    postgres.start()
    await opened.close()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.3)


async def until(condition: Callable[[], object], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# ---------------------------------------------------------------- away and back


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_what_is_asked_for_while_the_server_is_away_is_kept_when_it_is_back(
    store: Store, kept: KeptByServer, fatal: Fatal, postgres: Postgres, how: signal.Signals
) -> None:
    await store.put_leg(leg())
    await postgres.stop_meanwhile(how)
    waiting = store.put_leg(leg(call="meanwhile"))
    store.delete_leg(leg())
    store.put_fact(ROOM, CALL, "conf", {}, 1)
    store.set_position("s1")
    await until(lambda: store.away)
    assert not waiting.done()
    await postgres.start_again()
    await asyncio.wait_for(waiting, 60)
    assert await kept.rows("SELECT call_id FROM leg") == [("meanwhile",)]
    stored = await store.load()
    assert ([fact.state_key for fact in stored.facts], stored.position) == (["conf"], "s1")
    assert store.away is None
    assert not fatal.messages


async def test_it_is_noticed_without_a_write_and_said_in_one_line_without_the_password(
    store: Store, away: Away, postgres: Postgres, url: str, caplog: pytest.LogCaptureFixture, short_grace: None
) -> None:
    await postgres.stop_meanwhile()
    await until(lambda: store.away)
    assert store.away is not None
    assert store.away.startswith(f"database {url.rpartition('/')[2]} on 127.0.0.1:{postgres.port}: ")
    await until(lambda: away.told)
    await postgres.start_again()
    await until(lambda: store.away is None)
    assert len(away.told) == 2
    assert away.told[0]
    assert away.told[1] is None
    assert "is back after" in caplog.text
    assert PASSWORD not in caplog.text + str(away.told)


async def test_nobody_but_a_leg_waits_for_a_server_that_is_away_for_longer_than_a_restart(
    store: Store, postgres: Postgres, away: Away, short_grace: None
) -> None:
    await postgres.stop_meanwhile()
    store.put_audit(entry(1))
    leg_is_kept = store.put_leg(leg())
    asked = asyncio.gather(*(store.audit(1) for _ in range(3)), return_exceptions=True)
    assert await asyncio.wait_for(store.flush(), 60)  # of transactions: their senders have more to tell
    assert all(isinstance(answer, AwayError) for answer in await asyncio.wait_for(asked, 60))
    assert away.told
    assert not leg_is_kept.done()
    with pytest.raises(AwayError, match="database test_"):
        await store.audit(1)
    await postgres.start_again()
    await until(lambda: store.away is None)
    assert await store.audit(1) == [entry(1)]
    await leg_is_kept


async def test_a_server_that_is_started_again_at_once_is_waited_for(
    store: Store, postgres: Postgres, away: Away
) -> None:
    await postgres.stop_meanwhile()
    store.put_audit(entry(1))
    asked = asyncio.create_task(store.audit(1))
    await until(lambda: store.away)
    await postgres.start_again()
    assert await asyncio.wait_for(asked, 60) == [entry(1)]
    assert not away.told


async def test_a_session_that_the_server_ends_is_begun_again(store: Store, kept: KeptByServer, fatal: Fatal) -> None:
    written = 0

    async def write() -> None:
        nonlocal written
        for number in range(100):
            await asyncio.wait_for(store.put_leg(leg(call=str(number))), 60)
            written += 1

    writing = asyncio.create_task(write())
    while not writing.done():  # in whatever it is doing; but it must get something done in between
        before = written
        await kept.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda before=before: written > before or writing.done(), within=60)  # type: ignore[misc]
        await asyncio.sleep(random.uniform(0, 0.1))
    await writing
    assert len((await store.load()).legs) == 100
    assert not fatal.messages


async def test_a_commit_whose_outcome_is_not_known_is_done_once(
    store: Store, kept: KeptByServer, fatal: Fatal, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = store._writer._execute
    failures = 3

    async def written_and_lost(writes: object) -> None:
        nonlocal failures
        await execute(writes)  # type: ignore[arg-type]
        if failures:
            failures -= 1
            raise ConnectionResetError("after the commit")

    monkeypatch.setattr(store._writer, "_execute", written_and_lost)
    for number in range(3):
        store.put_audit(entry(number))
        store.put_fact(ROOM, CALL, str(number), {}, number)
    store.forget_room(ROOM)
    store.put_fact(ROOM, CALL, "last", {}, 4)
    await asyncio.wait_for(store.put_leg(leg()), 60)
    assert await kept.rows("SELECT count(*) FROM audit") == [(3,)]
    assert await kept.rows("SELECT state_key FROM room_fact") == [("last",)]
    assert failures == 0
    assert not fatal.messages


async def test_a_server_that_no_longer_lets_it_in_counts_as_away(
    kept: KeptByServer, postgres: Postgres, fatal: Fatal
) -> None:
    name = kept.url.rpartition("/")[2]
    role = f"role_{name}"
    await kept.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    await kept.execute(f"ALTER DATABASE {name} OWNER TO {role}")
    store = await Store.open(postgres.url(name, user=role), True, fatal)
    await kept.execute(f"ALTER ROLE {role} NOLOGIN")
    await kept.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
    await until(lambda: "does not let this user in" in (store.away or ""))
    await kept.execute(f"ALTER ROLE {role} LOGIN")
    await asyncio.wait_for(store.put_leg(leg()), 60)
    assert not fatal.messages
    await store.close()


async def test_a_server_that_stays_away_too_long_ends_it(url: str, fatal: Fatal, postgres: Postgres) -> None:
    store = await Store.open(url, True, fatal, patience=0.5)
    await postgres.stop_meanwhile()
    written = store.put_leg(leg())
    with pytest.raises(FatalError, match=r"and has not for 0\.5 s"):
        await asyncio.wait_for(written, 60)
    assert len(fatal.messages) == 1
    assert store.failure is not None
    assert store.failure.exit_code is ExitCode.DATABASE_UNREACHABLE
    await store.close()


async def test_a_server_that_answers_but_never_writes_ends_it_too(
    url: str, fatal: Fatal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise ConnectionResetError("each time")

    store = await Store.open(url, True, fatal, patience=0.5)
    monkeypatch.setattr(store._writer, "_execute", refuse)
    with pytest.raises(FatalError, match=r"and has not for 0\.5 s"):
        await asyncio.wait_for(store.put_leg(leg()), 60)
    await store.close()


async def test_what_the_server_will_never_take_ends_it_at_once(store: Store, fatal: Fatal, kept: KeptByServer) -> None:
    await kept.execute("DROP TABLE leg")
    with pytest.raises(FatalError, match='relation "leg" does not exist'):
        await asyncio.wait_for(store.put_leg(leg()), 60)
    assert len(fatal.messages) == 1
    assert "\n" not in fatal.messages[0]


async def test_what_waits_for_the_server_is_bounded(
    store: Store, fatal: Fatal, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_PENDING", 100)
    await postgres.stop_meanwhile()
    await until(lambda: store.away)
    for number in range(1000):
        store.set_position(str(number))
        store.put_fact(ROOM, CALL, str(number % 90), {}, number)
    assert not fatal.messages
    for number in range(20):
        store.put_leg(leg(call=str(number)))
    assert len(fatal.messages) == 1
    assert fatal.messages[0].endswith("; too much is waiting to be written")
    assert store.failure is not None


async def test_it_ends_in_order_and_soon_while_the_server_is_away(
    store: Store, postgres: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LAST_WRITES", 0.3)
    await postgres.stop_meanwhile()
    await until(lambda: store.away)
    store.set_position("lost")
    await asyncio.wait_for(store.close(), writer.LAST_WRITES + 5)
    assert "1 changes are lost: it is away" in caplog.text


async def test_a_server_that_does_not_answer_counts_as_away(
    store: Store, kept: KeptByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._writer._database, "command_timeout", 0.5)
    other = await asyncpg.connect(kept.url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("LOCK TABLE leg IN ACCESS EXCLUSIVE MODE")
    written = store.put_leg(leg())
    await until(lambda: store.away)
    await transaction.rollback()
    await other.close()
    await asyncio.wait_for(written, 60)
    assert (await store.load()).legs == [leg()]


async def test_mautrixs_connections_fail_while_the_server_is_away_and_come_back_by_themselves(
    store: Store, url: str, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    beside = mautrix_database(url, UpgradeTable())
    await beside.start()
    assert await beside.fetchval("SELECT 1") == 1
    await postgres.stop_meanwhile()
    await until(lambda: store.away)
    with pytest.raises((OSError, asyncpg.InterfaceError, asyncpg.PostgresError)):
        await beside.fetchval("SELECT 1")
    await asyncio.sleep(0.5)
    await postgres.start_again()
    assert await beside.fetchval("SELECT 1") == 1
    await beside.stop()
    assert "Traceback" not in caplog.text


# ---------------------------------------------------------------- one focus at a time


async def test_a_focus_that_got_in_while_the_server_was_away_is_left_alone(
    store: Store, kept: KeptByServer, fatal: Fatal, postgres: Postgres
) -> None:
    await postgres.stop_meanwhile()
    await until(lambda: store.away)
    await postgres.start_again()
    lock = "SELECT pg_try_advisory_lock({}, {})".format(*postgres_module._LOCK)
    other = await asyncpg.connect(kept.url)
    taken = await other.fetchval(lock)
    if not taken:  # the store was faster: take its turn away
        await kept.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        while not await other.fetchval(lock):
            pass
    written = store.put_leg(leg())
    with pytest.raises(FatalError, match="in use by another process: is mautrix-sfu running already"):
        await asyncio.wait_for(written, 60)
    assert store.failure is not None
    assert store.failure.exit_code is ExitCode.DATABASE_LOCKED
    assert await other.fetchval("SELECT count(*) FROM leg") == 0
    await other.close()


async def test_its_own_session_that_the_server_still_believes_in_does_not_keep_it_out(
    store: Store, kept: KeptByServer, fatal: Fatal
) -> None:
    database = store._writer._database
    assert isinstance(database, postgres_module.Postgres)
    gone, database._connection = database._connection, None  # as after a broken network: nobody tells the server
    store._writer._connection = None
    await asyncio.wait_for(store.put_leg(leg()), 60)
    assert gone is not None
    await gone.invalidate()
    await gone.close()
    assert await kept.rows("SELECT count(*) FROM leg") == [(1,)]
    assert not fatal.messages


# ---------------------------------------------------------------- how it is named


async def test_a_socket_and_a_password_of_odd_characters_do_for_both_kinds_of_connections(
    postgres: Postgres, kept: KeptByServer
) -> None:
    name, password = kept.url.rpartition("/")[2], "p@s/s:w?o#r%d ü"
    await kept.execute(f"CREATE ROLE odd_{name} LOGIN PASSWORD '{password}'")
    await kept.execute(f"ALTER DATABASE {name} OWNER TO odd_{name}")
    url = f"postgresql://odd_{name}:{quote(password, safe='')}@/{name}?host={postgres.directory}&port={postgres.port}"
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    beside = mautrix_database(url, UpgradeTable())
    await beside.start()
    await store.put_leg(leg())
    assert await beside.fetchval("SELECT call_id FROM leg") == "call1"
    await beside.stop()
    await store.close()


# ---------------------------------------------------------------- what is refused at start


async def refused(url: str) -> FatalError:
    with pytest.raises(FatalError) as raised:
        await Store.open(url, migrate=True, on_fatal=pytest.fail)
    assert "\n" not in str(raised.value)
    assert PASSWORD not in str(raised.value)
    assert "hush" not in str(raised.value)
    return raised.value


async def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    port = free_port()
    error = await refused(f"postgresql://focus:hush@127.0.0.1:{port}/sfu")
    assert str(error).startswith(f"database sfu on 127.0.0.1:{port}: cannot be reached (")
    assert error.exit_code is ExitCode.DATABASE_UNREACHABLE
    error = await refused("postgresql://focus:hush@/sfu?host=/nowhere")
    assert str(error) == "database sfu on /nowhere: cannot be reached (No such file or directory)"
    error = await refused("postgresql://focus:hush@database.invalid/sfu")
    assert str(error).startswith("database sfu on database.invalid: cannot be reached (")


async def test_something_else_that_listens_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "CONNECT_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        error = await refused(f"postgresql://focus:hush@127.0.0.1:{port}/sfu")
    assert str(error) == f"database sfu on 127.0.0.1:{port}: does not answer"


async def test_a_wrong_password_user_or_name_is_one_clear_line(postgres: Postgres, url: str) -> None:
    name = url.rpartition("/")[2]
    where = f"on 127.0.0.1:{postgres.port}"
    for wrong in (postgres.url(name, password="hush"), postgres.url(name, user="nobody-known")):
        assert str(await refused(wrong)).startswith(f"database {name} {where}: the server refuses the password (")
    error = await refused(postgres.url("missing"))
    assert str(error).startswith(f"database missing {where}: there is no such database: create it (createdb -O")
    assert error.exit_code is ExitCode.DATABASE_UNREACHABLE


async def test_a_user_who_may_not_make_tables_is_told_so(postgres: Postgres, kept: KeptByServer) -> None:
    name = kept.url.rpartition("/")[2]
    await kept.execute(f"CREATE ROLE poor_{name} LOGIN PASSWORD '{PASSWORD}'")
    await kept.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    error = await refused(postgres.url(name, user=f"poor_{name}"))
    assert ": the user lacks a right: make it the database's owner (" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://focus:hush@host/sfu",
        "postgresql://focus:hu/sh@host/sfu",
        "postgresql://focus:hush@host:port/sfu",
        "postgresql://focus:hush@host/sfu?sslmode=hush",
    ],
)
async def test_an_address_that_cannot_be_used_is_one_clear_line(url: str) -> None:
    error = await refused(url)
    assert str(error).startswith("database.url: ")
    assert error.exit_code is ExitCode.CONFIG


async def test_a_connection_that_dies_while_the_schema_is_looked_at_leaves_nothing_behind(
    url: str, kept: KeptByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise ConnectionResetError("now")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "ensure", die)
        assert "cannot be reached (now)" in str(await refused(url))
    await reopened_after_migration(url)
    others = await kept.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert others == [(0,)]


async def reopened_after_migration(url: str) -> None:
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    await store.close()
    await reopened(url)


# ---------------------------------------------------------------- with compose


async def test_what_compose_runs_at_the_first_start_makes_a_database_for_the_focus(postgres: Postgres) -> None:
    postgres.start()
    script = Path(__file__).parents[2] / "contrib/compose/databases.sh"
    server = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGPASSWORD": PASSWORD}
    env = {"PATH": os.environ["PATH"], "POSTGRES_USER": USER, "POSTGRES_PASSWORD": 'it\'s "secret"', **server}
    done = await asyncio.to_thread(subprocess.run, ["bash", str(script)], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        url = postgres.url("mautrix_sfu", "mautrix_sfu", quote('it\'s "secret"'))
        store = await Store.open(url, True, pytest.fail)
        await store.close()
    finally:
        await postgres.execute("postgres", "DROP DATABASE mautrix_sfu", "DROP USER mautrix_sfu")
