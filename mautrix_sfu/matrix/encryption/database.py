"""What encryption keeps over restarts: mautrix's tables of Olm and Megolm keys, and which calls are encrypted."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import asyncpg
from mautrix.crypto import InboundGroupSession, Session
from mautrix.crypto.account import OlmAccount
from mautrix.crypto.store import PgCryptoStore
from mautrix.types import EventID, IdentityKey, RoomID, SessionID
from mautrix.util.async_db import Connection, Database, UpgradeTable
from mautrix.util.logging import TraceLogger
from olm.account import OlmAccountError

from ...core.ids import Device
from ...errors import ExitCode, FatalError

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_SESSIONS = 5  # with one device; the one that was used longest ago gives way
MAX_ROOM_KEYS = 2000  # of others' sessions in rooms; the oldest give way
MAX_CACHED = 4096  # devices whose sessions are kept in memory
UNUSED_FOR = timedelta(days=90)  # sessions and room keys that nobody used for so long are forgotten
DEFAULT_PICKLE_KEY = "mautrix-sfu"
RETRY_FIRST, RETRY_CEILING = 0.25, 5.0  # seconds between tries while the database does not answer

DATABASE_ERRORS: tuple[type[Exception], ...] = (
    sqlite3.OperationalError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    OSError,
)

upgrade_table = UpgradeTable(
    version_table_name="crypto_sealed_version",
    database_name="encrypted calls",
    log=cast("TraceLogger", logging.getLogger(f"{__name__}.upgrade")),
)


@upgrade_table.register(description="Calls that are signalled encrypted")  # type: ignore[untyped-decorator, call-arg, arg-type]
async def _upgrade_v1(connection: Connection) -> None:
    await connection.execute(
        """CREATE TABLE crypto_sealed_call (
            user_id   TEXT   NOT NULL,
            device_id TEXT   NOT NULL,
            conf_id   TEXT   NOT NULL,
            used_ms   BIGINT NOT NULL,
            PRIMARY KEY (user_id, device_id, conf_id)
        )"""
    )


class KeyStore(PgCryptoStore):
    """mautrix's store with bounds: on sessions with one device, on what is in memory, on what nobody uses any more."""

    def __init__(self, focus: Device, pickle_key: str, database: Database) -> None:
        super().__init__(str(focus), pickle_key, database)
        self._olm_cache = _Bounded()
        self._account_lock = asyncio.Lock()

    async def put_account(self, account: OlmAccount) -> None:
        """Store the account; the newest one last."""
        async with self._account_lock:
            await self._patiently(super().put_account, account)

    async def get_sessions(self, key: IdentityKey) -> list[Session]:
        """The sessions with a device, the one that was used last first."""
        return await self._patiently(super().get_sessions, key)

    async def get_latest_session(self, key: IdentityKey) -> Session | None:
        """The session with a device that it used last."""
        return await self._patiently(super().get_latest_session, key)

    async def update_session(self, key: IdentityKey, session: Session) -> None:
        """Store how far a session has gone."""
        await self._patiently(super().update_session, key, session)

    async def add_session(self, key: IdentityKey, session: Session) -> None:
        """Store a new session; of too many with this device the one that was used longest ago goes."""
        await self._patiently(super().add_session, key, session)
        rows = await self._patiently(
            self.db.fetch,
            "SELECT session_id FROM crypto_olm_session WHERE sender_key=$1 AND account_id=$2"
            " ORDER BY last_decrypted DESC, created_at DESC",
            key,
            self.account_id,
        )
        for row in rows[MAX_SESSIONS:]:
            self._olm_cache[key].pop(SessionID(row["session_id"]), None)
            await self.execute(
                "DELETE FROM crypto_olm_session WHERE session_id=$1 AND account_id=$2",
                row["session_id"],
                self.account_id,
            )

    async def get_group_session(self, room_id: RoomID, session_id: SessionID) -> InboundGroupSession | None:
        """Somebody's session in a room."""
        return await self._patiently(super().get_group_session, room_id, session_id)

    async def put_group_session(
        self, room_id: RoomID, sender_key: IdentityKey, session_id: SessionID, session: InboundGroupSession
    ) -> None:
        """Store somebody's session in a room; of too many the oldest go."""
        await self._patiently(super().put_group_session, room_id, sender_key, session_id, session)
        await self.execute(
            "DELETE FROM crypto_megolm_inbound_session WHERE account_id=$1 AND session_id NOT IN (SELECT session_id"
            " FROM crypto_megolm_inbound_session WHERE account_id=$1 ORDER BY received_at DESC LIMIT $2)",
            self.account_id,
            MAX_ROOM_KEYS,
        )

    async def validate_message_index(
        self, sender_key: IdentityKey, session_id: SessionID, event_id: EventID, index: int, timestamp: int
    ) -> bool:
        """Whether this place in a session was not used by another event."""
        check = super().validate_message_index
        return await self._patiently(check, sender_key, session_id, event_id, index, timestamp)

    async def execute(self, query: str, *values: Any) -> None:
        """Run a statement, when the database answers."""
        await self._patiently(self.db.execute, query, *values)

    async def _patiently(self, do: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do it when the database answers: a session that has gone on must not be stored as it was before."""
        pause, told = RETRY_FIRST, False
        while True:
            try:
                return await do(*arguments)
            except DATABASE_ERRORS as error:
                if not told:
                    log.warning("The database does not answer; encrypted messages wait: %s", error)
                    told = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_CEILING)

    async def forget_unused(self) -> None:
        """Delete what was not used for a long time."""
        before = datetime.now() - UNUSED_FOR  # noqa: DTZ005 (as mautrix writes it)
        await self.db.execute(
            "DELETE FROM crypto_olm_session WHERE account_id=$1 AND last_decrypted<$2 AND last_encrypted<$2",
            self.account_id,
            before,
        )
        await self.db.execute(
            "DELETE FROM crypto_megolm_inbound_session WHERE account_id=$1 AND received_at<$2", self.account_id, before
        )
        await self.db.execute("DELETE FROM crypto_message_index WHERE timestamp<$1", int(before.timestamp() * 1000))


class _Bounded(OrderedDict[IdentityKey, dict[SessionID, Session]]):
    """The sessions in memory, by the other device's key; the oldest entry gives way."""

    def __missing__(self, key: IdentityKey) -> dict[SessionID, Session]:
        made: dict[SessionID, Session] = {}
        self[key] = made
        if len(self) > MAX_CACHED:
            self.popitem(last=False)
        return made


async def open_store(
    make_database: Callable[[UpgradeTable], Database], focus: Device, pickle_key: str | None
) -> tuple[KeyStore, OlmAccount]:
    """Open the database (the one of the focus), bring the tables up to date and load the account, or make it.

    Raises FatalError with one line.
    """
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # it would log keys at level DEBUG
    database = make_database(KeyStore.upgrade_table)
    store = KeyStore(focus, pickle_key or DEFAULT_PICKLE_KEY, database)
    try:
        await database.start()
        await upgrade_table.upgrade(database)
        account = cast("OlmAccount | None", await store.get_account())
        if account is None:
            log.info("New encryption keys are made for %s", focus)
            account = OlmAccount()
            await store.put_account(account)
        await store.forget_unused()
    except OlmAccountError as error:
        await database.stop()
        raise FatalError(
            f"encryption.pickle_key: the keys in the database were stored with another one ({error}); set it as it "
            "was, or delete the table crypto_account to make new keys",
            ExitCode.CONFIG,
        ) from error
    except (*DATABASE_ERRORS, asyncpg.PostgresError, sqlite3.Error) as error:
        await database.stop()
        raise FatalError(f"the database's encryption tables: {error}", ExitCode.DATABASE_UNREACHABLE) from error
    return store, account
