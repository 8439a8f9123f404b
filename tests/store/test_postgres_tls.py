"""A PostgreSQL server over TLS: its certificate is checked as `database.url` asks, and a fault is said clearly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mautrix.client.state_store.asyncpg import PgStateStore

from mautrix_sfu.check.database import database
from mautrix_sfu.config import DatabaseConfig
from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.store import Store, mautrix_database
from tests.support.certificates import make_certificate
from tests.support.postgres import PASSWORD, Postgres

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres("127.0.0.1") as made:
        yield made


@pytest.fixture
async def url(server: Postgres) -> str:
    return await server.create()


async def refused(url: str) -> str:
    """What is said of it at a start, and the same by the installation's test."""
    with pytest.raises(FatalError) as caught:
        await Store.open(url, True, pytest.fail, patience=0.0)
    assert caught.value.exit_code is ExitCode.DATABASE_UNREACHABLE
    finding = await database(DatabaseConfig(url, migrate=True, away_timeout=1.0), running=False)
    assert finding.level == "fail"
    assert finding.what.lower() == str(caught.value).lower()
    assert PASSWORD not in finding.what
    return str(caught.value)


async def test_each_connection_is_encrypted_to_the_server_whose_certificate_is_asked_for(
    server: Postgres, url: str
) -> None:
    checked = f"{url}?sslmode=verify-full&sslrootcert={server.certificate}"
    store = await Store.open(checked, True, pytest.fail)
    beside = mautrix_database(checked, PgStateStore.upgrade_table)
    try:
        await beside.start()
        sessions = await beside.fetch(
            "SELECT application_name, ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE datname = current_database()"
        )
        assert {(row["application_name"], row["ssl"]) for row in sessions} == {
            ("mautrix-sfu", True),
            ("mautrix-sfu (mautrix)", True),
        }
    finally:
        await beside.stop()
        await store.close()


async def test_a_certificate_of_another_authority_is_refused(url: str, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path, "127.0.0.1")
    said = await refused(f"{url}?sslmode=verify-full&sslrootcert={other}")
    assert "its certificate is not trusted: self-signed certificate" in said


async def test_a_certificate_for_another_name_is_refused_where_the_name_counts(server: Postgres, url: str) -> None:
    elsewhere = f"{url.replace('127.0.0.1', 'localhost')}?sslrootcert={server.certificate}&sslmode="
    assert "certificate is not valid for 'localhost'" in await refused(elsewhere + "verify-full")
    store = await Store.open(elsewhere + "verify-ca", True, pytest.fail)
    await store.close()


async def test_a_file_of_authorities_that_is_not_there_is_named(url: str) -> None:
    assert "sslrootcert" in await refused(f"{url}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem")


async def test_a_server_without_tls_is_refused_where_it_is_demanded(postgres: Postgres) -> None:
    postgres.start()
    said = await refused(f"{await postgres.create()}?sslmode=require")
    assert "rejected SSL upgrade" in said
