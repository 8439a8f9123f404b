"""mautrix's own tables (its stores of keys and rooms) in the same database, over connections of their own.

Their names do not meet: mautrix's begin with `crypto_`, `mx_` or `mau_`, and each of its stores keeps its version in a
table that its `UpgradeTable` names; give one of your own a `version_table_name`, as `version` says nothing. Alembic
leaves alone what the store does not know. Open these connections after `Store.open`, which makes a missing file and
keeps every other focus out; a second focus never gets as far as opening its own.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from mautrix.util.async_db import Database, UpgradeTable
from yarl import URL

from .postgres import COMMAND_TIMEOUT, CONNECT_TIMEOUT, KEEPALIVE
from .sqlite import sqlite_path

CONNECTIONS = 2  # at a time, to a server


class _ImmediateConnection(sqlite3.Connection):
    """Begins each transaction as one that writes.

    One that first reads and then writes cannot wait for another connection's: SQLite refuses it at once when the
    database has changed in between (SQLITE_BUSY_SNAPSHOT), and mautrix's transactions do just that.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As it is, but for BEGIN."""
        return super().execute("BEGIN IMMEDIATE" if sql == "BEGIN TRANSACTION" else sql, parameters)


def mautrix_database(url: str, upgrades: UpgradeTable) -> Database:
    """A database of mautrix's in what `database.url` names; `start()` reaches it and makes its tables.

    A server that is away makes its methods raise OSError, asyncpg.InterfaceError or asyncpg.PostgresError; it connects
    again by itself.
    """
    if url.startswith("sqlite:"):
        where = URL.build(scheme="sqlite", path=str(sqlite_path(url).absolute()))  # mautrix reads sqlite:/// so
        return Database.create(where, upgrade_table=upgrades, db_args={"factory": _ImmediateConnection})
    server: dict[str, Any] = {
        "min_size": 0,  # none is kept up for its own sake: asyncpg logs a traceback for each attempt that fails
        "max_size": CONNECTIONS,
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": COMMAND_TIMEOUT,
        "server_settings": {"application_name": "mautrix-sfu (mautrix)", **KEEPALIVE},
        "meow_exit_on_ice": False,  # what ends the process is not for a library to say
    }
    return Database.create(url, upgrade_table=upgrades, db_args=server)
