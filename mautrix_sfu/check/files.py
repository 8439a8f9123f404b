"""Whether the files on this machine fit together: the configuration, and the registration beside it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..config import Config
from ..findings import Finding, fail, ok, warn

AGAIN = "write it again with -g, copy it to the homeserver, and restart the homeserver"


def secret(path: Path) -> list[Finding]:
    """Whether others on this machine can read the configuration's tokens."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return []
    if mode & stat.S_IROTH:
        return [warn(f"Everybody on this machine can read the tokens in {path}", f"chmod o-r {path}")]
    return []


def registration(config: Config, path: Path) -> list[Finding]:
    """Whether the registration file, if it lies where it was written, is this configuration's."""
    try:
        found: Any = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        return []  # it went to the homeserver
    except (OSError, ValueError, YAMLError) as error:
        return [warn(f"{path} cannot be read: {str(error).partition(chr(10))[0]}", AGAIN)]
    if not isinstance(found, dict):
        return [fail(f"{path} is not a registration", AGAIN)]
    service = config.appservice
    wanted = {
        "id": service.id,
        "url": service.address,
        "as_token": service.as_token,
        "hs_token": service.hs_token,
    }
    differs = [name for name, value in wanted.items() if found.get(name) != value]
    if differs:
        return [fail(f"{path} differs from the configuration in {', '.join(differs)}", AGAIN)]
    if f"@{found.get('sender_localpart')}:{config.homeserver.domain}" == config.bot_user_id:
        return [fail(f"{path} has the focus's own user as sender_localpart: it would get no messages", AGAIN)]
    return [ok(f"{path} fits the configuration")]
