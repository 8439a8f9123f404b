"""The bot's rooms: it joins where a permitted admin invites it, hears their messages there, and answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from mautrix.api import Method, Path

from .homeserver import As, Backoff, Homeserver, RefusedError, UnavailableError
from .interface import RawEvent

log = logging.getLogger(__name__)

MAX_JOBS = 256  # joins and replies that wait
TRIES = 6
SOFT_FAILED = "io.element.synapse.soft_failed"
ENCRYPTED = "I cannot read encrypted messages yet. Please talk to me in a room without encryption."


class BotRooms:
    """Which rooms the bot is in, whose invites it takes, and whose messages it hears."""

    def __init__(
        self,
        homeserver: Homeserver,
        may_invite: Callable[[str], bool],
        may_command: Callable[[str], bool],
        hand_up: Callable[[RawEvent], None],
        joined: Callable[[str], None],
    ) -> None:
        self._homeserver = homeserver
        self._user = homeserver.focus.user_id
        self._may_invite = may_invite
        self._may_command = may_command
        self._hand_up = hand_up
        self._joined = joined
        self._rooms: set[str] = set()
        self._told: set[str] = set()  # encrypted rooms in which it has said that it cannot read
        self._jobs: asyncio.Queue[tuple[Method, str, dict[str, str]]] = asyncio.Queue(MAX_JOBS)
        self._prefix = secrets.token_hex(8)
        self._number = 0

    # ------------------------------------------------------------ what comes in

    def concerns(self, event: RawEvent) -> bool:
        """Whether a message is one that the bot reads: in a room of its own, from somebody who may command it."""
        return event["room_id"] in self._rooms and event["sender"] != self._user and self._may_command(event["sender"])

    def handle(self, event: RawEvent) -> None:
        """Take the bot's own `m.room.member`, or a message that concerns it."""
        unsigned = event.get("unsigned")
        if isinstance(unsigned, dict) and unsigned.get(SOFT_FAILED):
            return
        match event["type"]:
            case "m.room.member":
                self._member(event)
            case "m.room.encrypted":
                if event["room_id"] not in self._told:
                    self._told.add(event["room_id"])
                    self.send_message(event["room_id"], ENCRYPTED, None)
            case _:
                if event["content"].get("msgtype") == "m.text" and isinstance(event["content"].get("body"), str):
                    self._hand_up(event)

    def _member(self, event: RawEvent) -> None:
        room_id, sender = event["room_id"], event["sender"]
        match event["content"].get("membership"):
            case "invite" if self._may_invite(sender):
                log.info("%s invites the bot to %s", sender, room_id)
                self.join(room_id)
            case "invite":
                log.info("An invite of the bot to %s by %s is ignored: not permitted", room_id, sender)
                return
            case "join":
                self._rooms.add(room_id)
                self._joined(room_id)
            case "leave" | "ban":
                self._rooms.discard(room_id)
                self._told.discard(room_id)
        self._hand_up(event)

    # ------------------------------------------------------------ what goes out

    def send_message(self, room_id: str, body: str, html: str | None) -> None:
        """Queue a notice to a room."""
        content = {"msgtype": "m.notice", "body": body}
        if html is not None:
            content |= {"format": "org.matrix.custom.html", "formatted_body": html}
        self._number += 1
        path = Path.v3.rooms[room_id].send["m.room.message"][f"{self._prefix}-{self._number}"]
        self._queue(Method.PUT, str(path), content)

    def join(self, room_id: str) -> None:
        """Queue joining a room."""
        self._queue(Method.POST, str(Path.v3.rooms[room_id].join), {})

    def leave(self, room_id: str) -> None:
        """Queue leaving a room."""
        self._queue(Method.POST, str(Path.v3.rooms[room_id].leave), {})

    async def load(self) -> None:
        """Ask which rooms the bot is in. Raises RefusedError or UnavailableError."""
        answer = await self._homeserver.request(Method.GET, str(Path.v3.joined_rooms), who=As.USER)
        rooms = answer.get("joined_rooms")
        self._rooms = {room for room in rooms if isinstance(room, str)} if isinstance(rooms, list) else set()

    async def work(self) -> None:
        """Carry out joins and replies in order, for ever."""
        while True:
            method, path, content = await self._jobs.get()
            backoff = Backoff()
            for _ in range(TRIES):
                try:
                    await self._homeserver.request(method, path, dict(content), who=As.USER)
                    break
                except RefusedError as error:
                    log.warning("The bot may not do what it was asked to (%s %s): %s", method.value, path, error)
                    break
                except UnavailableError:
                    await backoff.pause()

    def _queue(self, method: Method, path: str, content: dict[str, str]) -> None:
        try:
            self._jobs.put_nowait((method, path, content))
        except asyncio.QueueFull:
            log.warning("The bot has too much to say: %s is dropped", path)
