"""Whether the database is reachable and has this version's schema; nothing is made or changed."""

from __future__ import annotations

import os

from ..config import DatabaseConfig
from ..errors import ExitCode, FatalError
from ..findings import Finding, fail, ok, sentence, warn
from ..store import Store, sqlite_path

_REMEDIES = {
    ExitCode.CONFIG: "mend database.url",
    ExitCode.DATABASE_LOCKED: "end the other process: one focus at a time can use a database",
    ExitCode.DATABASE_SCHEMA: "mautrix-sfu --migrate -c config.yaml",
    ExitCode.DISK_FULL: "make room",
}


async def database(config: DatabaseConfig, running: bool) -> Finding:
    """Open it as a start would, but for the migration."""
    unopened = _sqlite(config.url) if config.url.startswith("sqlite:") else None
    if unopened is not None:
        return unopened
    try:
        store = await Store.open(config.url, False, lambda _: None, patience=0.0)
        await store.close()
    except FatalError as error:
        what = sentence(str(error))
        if error.exit_code is ExitCode.DATABASE_LOCKED and running:
            return ok("The running focus uses the database")
        if error.exit_code is ExitCode.DATABASE_SCHEMA and config.migrate and "newer version" not in what:
            return ok("The database is reachable; its schema will be brought up to date at start")
        return fail(what, _REMEDIES.get(error.exit_code, "mend what it says, or change database.url"))
    return ok("The database is reachable, and its schema is this version's")


def _sqlite(url: str) -> Finding | None:
    """What is to be said of a file that is not there yet, or that is somebody else's; None: it can be opened."""
    path = sqlite_path(url)
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        folder = path.absolute().parent
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return ok(f"The database {path} will be made at start")
        return fail(f"The database {path} cannot be made", f"make the folder {folder}, writable for the focus's user")
    except OSError as error:
        return fail(f"The database {path} cannot be read: {error.strerror}", "let the focus's user read its folder")
    if owner == os.geteuid():
        return None
    return warn(
        f"The database {path} belongs to user {owner} and was not opened: its files would get a second owner",
        "run this test as the user that the focus runs as",
    )
