"""Bringing the schema up to date, or saying that it is not."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from ..errors import ExitCode, FatalError


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def ensure(connection: Connection, name: str, migrate: bool) -> None:
    """Migrate the database `name` to the newest schema, or refuse one that is not; raises FatalError."""
    config = _config()
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    foreign = current is None and inspect(connection).has_table("state_groups_state")
    connection.rollback()
    if foreign:
        raise FatalError(f"database {name}: belongs to Synapse: give the focus one of its own", ExitCode.CONFIG)
    if current == head:
        return
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise FatalError(
            f"database {name}: its schema ({current}) comes from a newer version of mautrix-sfu: install that version, "
            f"or restore a backup",
            ExitCode.DATABASE_SCHEMA,
        )
    if not migrate:
        raise FatalError(
            f"database {name}: its schema is at {current or 'nothing'}, this version needs {head}: run "
            f"`mautrix-sfu --migrate -c config.yaml`, or set database.migrate to true",
            ExitCode.DATABASE_SCHEMA,
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
