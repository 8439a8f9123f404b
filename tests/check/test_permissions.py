"""What the installation test says of `bot.permissions`: who is shut out, in plain words."""

from __future__ import annotations

import pytest

from mautrix_sfu.check.permissions import permissions
from mautrix_sfu.config import Permission, parse

NONE, USE, ADMIN = Permission.NONE, Permission.USE, Permission.ADMIN
BOSS = "@boss:home.example"


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({"*": USE, BOSS: ADMIN}, "ok", "let people use"),
        ({"home.example": USE, BOSS: ADMIN}, "ok", "let people use"),
        ({}, "fail", "Nobody may use"),
        ({"*": NONE, "home.example": NONE}, "fail", "Nobody may use"),
        ({BOSS: ADMIN}, "warn", "Of home.example only those"),
        ({"far.example": USE, "@boss:far.example": ADMIN}, "warn", "Nobody of home.example may use"),
        ({"*": USE, "home.example": NONE, BOSS: ADMIN}, "warn", "Of home.example only those"),
        ({"*": USE}, "warn", "Nobody may command the bot"),
    ],
)
def test_who_is_shut_out_is_said(given: dict[str, Permission], level: str, words: str) -> None:
    config = parse(
        {
            "homeserver": {"address": "https://matrix.home.example", "domain": "home.example"},
            "appservice": {"as_token": "as-secret-1", "hs_token": "hs-secret-1"},
            "bot": {"permissions": {who: level.name.lower() for who, level in given.items()}},
        }
    )
    (finding,) = permissions(config)
    assert (finding.level, words in finding.what) == (level, True), finding
    assert bool(finding.remedy) == (level != "ok")
