"""From a message in one of the bot's rooms to its answer."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..config import BotConfig, Permission
from ..core.view import FocusView
from .commands import COMMANDS, Context, UsageError, find
from .reply import Reply, code, paragraph

log = logging.getLogger(__name__)

PREFIX = "!sfu"  # may be left out


class Room(Protocol):
    """Where the bot speaks; the Matrix edge is one."""

    def send_message(self, room_id: str, body: str, html: str | None) -> None:
        """Queue a notice."""


class Bot:
    """Answers the messages of its rooms."""

    def __init__(
        self,
        config: BotConfig,
        room: Room,
        view: Callable[[], FocusView],
        media: Callable[[], Mapping[str, int]],
        version: str,
        not_ready: Callable[[], Sequence[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._room = room
        self._view = view
        self._media = media
        self._version = version
        self._not_ready = not_ready
        self._clock = clock
        self._started = clock()

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take a room event in one of the bot's rooms, and answer it if it is a command of an admin."""
        content = event.get("content")
        if event.get("type") != "m.room.message" or not isinstance(content, Mapping):
            return
        text, sender, room_id = content.get("body"), event.get("sender"), event.get("room_id")
        if not (isinstance(text, str) and isinstance(sender, str) and isinstance(room_id, str)):
            return
        level = self._config.permission(sender)
        if level < Permission.ADMIN:
            return
        reply = answer(text, level, self._context())
        if reply is not None:
            log.info("%s asks %r", sender, text[:64])
            self._room.send_message(room_id, reply.body, reply.html)

    def _context(self) -> Context:
        try:
            media = self._media()
        except RuntimeError:  # it has failed, and with it soon the process
            media = {}
        return Context(self._view(), self._version, self._clock() - self._started, self._not_ready(), media)


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
