"""Alembic's entry: at start the store hands in its connection, on the command line the database is looked up."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from mautrix_sfu.config import ConfigError, ConfigFile
from mautrix_sfu.errors import FatalError
from mautrix_sfu.store.database import AwayError
from mautrix_sfu.store.store import database_of
from mautrix_sfu.store.tables import Name, metadata


def database_url() -> str:
    """The database that the command line names: `-x url=…`, else the one in `-x config=…` (default config.yaml)."""
    given = context.get_x_argument(as_dictionary=True)
    if "url" in given:
        return given["url"]
    return ConfigFile.read(Path(given.get("config", "config.yaml"))).parse(tokens=False).database.url


def render_item(kind: str, item: Any, _: object) -> str | Literal[False]:
    """How autogenerate writes a type: a migration must not hang on what the code's types become later."""
    return "sa.Text()" if kind == "type" and isinstance(item, Name) else False


def run(connection: Connection) -> None:
    """Migrate over this connection; each migration is one transaction, so that a crash leaves a whole schema."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        transaction_per_migration=True,
        render_as_batch=True,
        render_item=render_item,
        # mautrix keeps tables of its own in the same database
        include_name=lambda name, type_, _: type_ != "table" or name in metadata.tables,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online(url: str) -> None:
    """Migrate a database that no focus is using."""
    database = database_of(url)
    try:
        connection = await database.connect()
        await connection.run_sync(run)
    finally:
        await database.close()


def run_offline(url: str) -> None:
    """Print the SQL instead of executing it."""
    context.configure(dialect_name=database_of(url).dialect, target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_from_command_line() -> None:
    """What the `alembic` command asks for; errors of the operator are one line."""
    try:
        if context.is_offline_mode():
            run_offline(database_url())
        else:
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
            asyncio.run(run_online(database_url()))
    except (AwayError, ConfigError, FatalError) as error:
        sys.exit(str(error))


given_connection = context.config.attributes.get("connection")
if given_connection is not None:
    run(given_connection)
else:
    run_from_command_line()
