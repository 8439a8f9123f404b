"""From a message in one of the bot's rooms to its answer."""

from __future__ import annotations

import difflib

from ..config import Permission
from .commands import COMMANDS, Context, UsageError, find
from .reply import Reply, code, paragraph

PREFIX = "!sfu"  # may be left out


def answer(text: str, level: Permission, context: Context) -> Reply | None:
    """What the bot says to a message of somebody of this level; None: nothing. Only admins are ever answered."""
    if level < Permission.ADMIN:
        return None
    words = text.split()
    if words and words[0].lower() == PREFIX:
        del words[0]
    if not words:
        return None
    command = find(words[0])
    if command is None:
        return _unknown(words[0])
    try:
        return command.run(words[1:], context)
    except UsageError:
        return paragraph("That is not how it is used. Type:") + code(command.usage)


def _unknown(word: str) -> Reply:
    near = difflib.get_close_matches(word[:64].lower(), [command.name for command in COMMANDS], n=1)
    command = find(near[0]) if near else None
    if command is None:
        return paragraph("No such command; `help` lists them.")
    return paragraph("No such command; `help` lists them. Did you mean:") + code(command.usage)
