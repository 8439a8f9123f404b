"""Encryption's keys in the focus's database, on each kind of it: kept, bounded, and waited for."""

from __future__ import annotations

import asyncio
import functools
import secrets

import pytest

pytest.importorskip("olm")

from mautrix.crypto.account import OlmAccount
from mautrix.types import IdentityKey

from mautrix_sfu.core.ids import Device, DeviceId, UserId
from mautrix_sfu.matrix.encryption.database import MAX_SESSIONS, KeyStore, open_store
from mautrix_sfu.matrix.encryption.seals import MAX_PER_USER, Seals
from mautrix_sfu.store import Store, mautrix_database
from tests.store.test_schema import alembic
from tests.support.postgres import Postgres

FOCUS = Device(UserId("@sfu:example.org"), DeviceId("SFU1"))


def alice(device_id: str = "A") -> Device:
    return Device(UserId("@alice:example.org"), DeviceId(device_id))


async def opened(url: str) -> tuple[KeyStore, OlmAccount]:
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    await store.close()
    return await open_store(functools.partial(mautrix_database, url), FOCUS, None)


def one_time_key(account: OlmAccount) -> IdentityKey:
    account.generate_one_time_keys(1)
    key = next(iter(account.one_time_keys["curve25519"].values()))
    account.mark_keys_as_published()
    return IdentityKey(key)


async def test_the_account_and_the_sessions_are_as_they_were(url: str) -> None:
    keys, account = await opened(url)
    other = OlmAccount()
    for _ in range(MAX_SESSIONS + 3):
        session = account.new_outbound_session(other.identity_key, one_time_key(other))
        await keys.add_session(other.identity_key, session)
    newest = await keys.get_latest_session(other.identity_key)
    assert newest is not None
    newest.encrypt("one step")
    await keys.update_session(other.identity_key, newest)
    await keys.db.stop()
    again, same = await open_store(functools.partial(mautrix_database, url), FOCUS, None)
    assert same.identity_keys == account.identity_keys
    found = await again.get_sessions(other.identity_key)
    assert len(found) == MAX_SESSIONS
    kept = next(session for session in found if session.id == newest.id)
    assert kept.pickle("x") == newest.pickle("x")
    await again.db.stop()
    assert (await alembic("check", url=url)).returncode == 0


async def test_which_calls_are_encrypted_is_kept_for_the_newest_of_each_user(url: str) -> None:
    keys, _ = await opened(url)
    seals = Seals(keys)
    await seals.load()
    await seals.put(alice("first"), "conf")
    for number in range(MAX_PER_USER):
        await seals.put(alice("many"), f"conf-{number}")
    await seals.put(Device(UserId("@bob:example.org"), DeviceId("B")), "conf")
    await keys.db.stop()
    keys, _ = await open_store(functools.partial(mautrix_database, url), FOCUS, None)
    again = Seals(keys)
    await again.load()
    for found in (seals, again):
        assert not found.holds(alice("first"), "conf")
        assert found.holds(alice("many"), "conf-0")
        assert not found.holds(alice("many"), "conf")
        assert found.holds(Device(UserId("@bob:example.org"), DeviceId("B")), "conf")
    await keys.db.stop()


async def test_keys_of_another_database_are_others(url: str) -> None:
    keys, account = await opened(url)
    other = await open_store(
        functools.partial(mautrix_database, url), Device(FOCUS.user_id, DeviceId(secrets.token_hex(3))), None
    )
    assert other[1].identity_keys != account.identity_keys
    await asyncio.gather(keys.db.stop(), other[0].db.stop())


@pytest.mark.postgresql
async def test_a_session_goes_on_when_a_server_that_went_away_is_back(postgres: Postgres) -> None:
    keys, account = await opened(await postgres.create())
    other = OlmAccount()
    session = account.new_outbound_session(other.identity_key, one_time_key(other))
    await keys.add_session(other.identity_key, session)
    await asyncio.to_thread(postgres.stop)
    session.encrypt("one step")
    waiting = asyncio.create_task(keys.update_session(other.identity_key, session))
    await asyncio.sleep(1)
    assert not waiting.done()
    await asyncio.to_thread(postgres.start)
    async with asyncio.timeout(45):
        await waiting
    rows = await keys.db.fetch("SELECT session FROM crypto_olm_session")
    assert [row["session"] for row in rows] == [session.pickle(keys.pickle_key)]
    await keys.db.stop()
