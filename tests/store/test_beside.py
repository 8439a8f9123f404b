"""mautrix's tables are in the same database as the focus's own, and neither's writes make the other's fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mautrix.client.state_store.asyncpg import PgStateStore
from mautrix.types import Membership, RoomID, UserID
from mautrix.util.async_db import Connection, Database, Scheme, UpgradeTable

from mautrix_sfu.store import Store, mautrix_database
from tests.store.conftest import ROOM, Kept, leg
from tests.store.test_schema import TABLES, alembic

counters = UpgradeTable(version_table_name="counter_version")


async def _create(connection: Connection, _: Scheme) -> None:
    await connection.execute("CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
    await connection.execute("INSERT INTO counter (name, value) VALUES ('a', 0)")


counters.upgrades.append(_create)


@contextlib.asynccontextmanager
async def both(url: str, upgrades: UpgradeTable) -> AsyncIterator[tuple[Store, Database]]:
    async with contextlib.AsyncExitStack() as stack:
        store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
        stack.push_async_callback(store.close)
        beside = mautrix_database(url, upgrades)
        await beside.start()
        stack.push_async_callback(beside.stop)
        yield store, beside


async def test_mautrixs_tables_live_beside_ours_and_alembic_leaves_them_alone(kept: Kept, url: str) -> None:
    async with both(url, PgStateStore.upgrade_table) as (store, beside):
        state = PgStateStore(beside)
        await state.set_membership(RoomID(ROOM), UserID("@a:example.org"), Membership.JOIN)
        await store.put_leg(leg())
        assert await state.get_membership(RoomID(ROOM), UserID("@a:example.org")) is Membership.JOIN
    tables = await kept.tables()
    assert {"mx_version", "mx_user_profile", "mx_room_state"} <= tables
    assert tables > TABLES
    assert (await alembic("check", url=url)).returncode == 0
    assert (await alembic("downgrade", "base", url=url)).returncode == 0
    assert await kept.tables() == tables - TABLES | {"alembic_version"}


async def test_transactions_that_read_and_then_write_do_not_fail_while_the_store_writes(url: str) -> None:
    async def count(beside: Database) -> None:
        for _ in range(50):
            async with beside.acquire_direct() as connection:
                transaction: Any = connection.transaction()
                async with transaction:
                    value = await connection.fetchval("SELECT value FROM counter")
                    await asyncio.sleep(0.002)  # as another's code does between the two
                    await connection.execute("UPDATE counter SET value = $1", value + 1)

    async def write(store: Store) -> None:
        for number in range(200):
            await store.put_leg(leg(call=str(number)))

    async with both(url, counters) as (store, beside):
        async with asyncio.TaskGroup() as group:
            group.create_task(count(beside))
            group.create_task(write(store))
        assert await beside.fetchval("SELECT value FROM counter") == 50
        assert len((await store.load()).legs) == 200
