"""The registration: what a homeserver's operator adds under `app_service_config_files`."""

from __future__ import annotations

import io
import re
import secrets
from typing import Any

from ruamel.yaml import YAML

from .model import Config


def new_token() -> str:
    """A secret of 384 bits, as mautrix bridges make them."""
    return secrets.token_urlsafe(48)


def generate(config: Config) -> str:
    """The registration file for this configuration, as YAML."""
    rooms = [{"regex": "!.*", "exclusive": False}] if config.appservice.all_rooms else []
    registration: dict[str, Any] = {
        "id": config.appservice.id,
        "url": config.appservice.address,
        "as_token": config.appservice.as_token,
        "hs_token": config.appservice.hs_token,
        # Not the focus's user: the registration's own sender gets no to-device messages from Synapse.
        "sender_localpart": secrets.token_hex(16),
        "rate_limited": False,
        "namespaces": {
            "users": [{"regex": re.escape(config.bot_user_id), "exclusive": True}],
            "rooms": rooms,
        },
    }
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1000
    out = io.StringIO()
    yaml.dump(registration, out)
    return out.getvalue()
