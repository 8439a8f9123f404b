"""The bot's rooms: it joins where a permitted admin invites it, hears their messages there, and answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mautrix.api import Method, Path

from .homeserver import As, Backoff, Homeserver, RefusedError, UnavailableError
from .interface import Count, Counted, RawEvent

log = logging.getLogger(__name__)

MAX_JOBS = 256  # joins and messages that wait
TRIES = 6
SOFT_FAILED = "io.element.synapse.soft_failed"
ENCRYPTED = "I cannot read encrypted messages: encryption is off here. Please talk to me in a room without it."

Content = dict[str, Any]
Seal = Callable[[str, Content], Awaitable[tuple[str, Content]]]  # room and content → event type and content to send


@dataclass(frozen=True, slots=True)
class _Post:
    """A join."""

    path: str

    @property
    def where(self) -> str:
        """For the log."""
        return self.path


@dataclass(frozen=True, slots=True)
class _Message:
    """An `m.room.message`, before it is sealed."""

    room_id: str
    content: Content
    txn_id: str

    @property
    def where(self) -> str:
        """For the log."""
        return f"send to {self.room_id}"


async def _plain(_room_id: str, content: Content) -> tuple[str, Content]:
    return "m.room.message", content


class BotRooms:
    """Which rooms the bot is in, whose invites it takes, and whose messages it hears.

    Encryption has three places here: `unseal` is given each `m.room.encrypted` that concerns the bot, and hands what it
    decrypts to `hear`; `listen` is given what is in plain text, and hands it to `hear` where the room is not encrypted;
    `seal` makes what is sent to a room out of a message's content.
    """

    def __init__(
        self,
        homeserver: Homeserver,
        may_command: Callable[[str], bool],
        hand_up: Callable[[RawEvent], None],
        joined: Callable[[str], None],
        count: Count,
    ) -> None:
        self.unseal: Callable[[RawEvent], None] = self._cannot_read
        self.seal: Seal = _plain
        self.listen: Callable[[RawEvent], None] = self.hear
        self._homeserver = homeserver
        self._user = homeserver.focus.user_id
        self._may_command = may_command
        self._hand_up = hand_up
        self._joined = joined
        self._count = count
        self._rooms: set[str] = set()
        self._loaded = False  # whether these are all
        self._told: set[str] = set()  # encrypted rooms in which it has said that it cannot read
        self._jobs: asyncio.Queue[_Post | _Message] = asyncio.Queue(MAX_JOBS)
        self._prefix = secrets.token_hex(8)
        self._number = 0

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that the bot is in."""
        return frozenset(self._rooms)

    # ------------------------------------------------------------ what comes in

    def concerns(self, event: RawEvent) -> bool:
        """Whether a message is one that the bot reads: in a room of its own, from somebody who may command it."""
        here = event["room_id"] in self._rooms or not self._loaded
        return here and event["sender"] != self._user and self._may_command(event["sender"])

    def handle(self, event: RawEvent) -> None:
        """Take the bot's own `m.room.member`, or a message that concerns it."""
        unsigned = event.get("unsigned")
        if isinstance(unsigned, dict) and unsigned.get(SOFT_FAILED):
            return
        match event["type"]:
            case "m.room.member":
                self._member(event)
            case _ if not self.concerns(event):  # it came when the bot's rooms were not known yet
                pass
            case "m.room.encrypted":
                self.unseal(event)
            case _:
                self.listen(event)

    def hear(self, event: RawEvent) -> None:
        """Take an `m.room.message` in the clear; what it is worth is for who reads it to say."""
        if event["type"] == "m.room.message" and self.concerns(event):
            self._hand_up(event)

    def _cannot_read(self, event: RawEvent) -> None:
        if event["room_id"] not in self._told:
            self._told.add(event["room_id"])
            self.send(event["room_id"], {"msgtype": "m.notice", "body": ENCRYPTED})

    def _member(self, event: RawEvent) -> None:
        room_id, sender = event["room_id"], event["sender"]
        match event["content"].get("membership"):
            case "invite" if self._may_command(sender):
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

    def send(self, room_id: str, content: Content) -> None:
        """Queue a message to a room; each is sent once, whatever its tries."""
        self._number += 1
        self._queue(_Message(room_id, content, f"{self._prefix}-{self._number}"))

    def join(self, room_id: str) -> None:
        """Queue joining a room."""
        self._queue(_Post(str(Path.v3.rooms[room_id].join)))

    async def load(self) -> None:
        """Ask which rooms the bot is in. Raises RefusedError or UnavailableError."""
        self._loaded = True
        answer = await self._homeserver.request(Method.GET, str(Path.v3.joined_rooms), who=As.USER)
        rooms = answer.get("joined_rooms")
        self._rooms = {room for room in rooms if isinstance(room, str)} if isinstance(rooms, list) else set()

    async def work(self) -> None:
        """Carry out joins and messages in order, for ever."""
        while True:
            job = await self._jobs.get()
            try:
                await self._try(job)
            except Exception:  # what one room's members and their homeservers say must not end all else
                self._count(Counted.HANDLER_FAILED, 1)
                log.exception("The bot could not do what it was asked to (%s); going on", job.where)
            finally:
                self._jobs.task_done()

    async def finish(self, within: float) -> None:
        """Wait until everything queued was tried, but not longer than that."""
        try:
            async with asyncio.timeout(within):
                await self._jobs.join()
        except TimeoutError:
            log.warning("The bot has %d things left to say at the end", self._jobs.qsize())

    async def _try(self, job: _Post | _Message) -> None:
        backoff = Backoff()
        for _ in range(TRIES):
            try:
                await self._do(job)
                return
            except RefusedError as error:
                log.warning("The bot may not do what it was asked to (%s): %s", job.where, error)
                return
            except UnavailableError:
                await backoff.pause()
        log.warning("The bot could not do what it was asked to (%s): the homeserver does not answer", job.where)

    async def _do(self, job: _Post | _Message) -> None:
        match job:
            case _Post():
                await self._homeserver.request(Method.POST, job.path, {}, who=As.USER)
            case _Message():
                kind, content = await self.seal(job.room_id, job.content)
                path = Path.v3.rooms[job.room_id].send[kind][job.txn_id]
                await self._homeserver.request(Method.PUT, str(path), content, who=As.USER)

    def _queue(self, job: _Post | _Message) -> None:
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            log.warning("The bot has too much to say: %s is dropped", type(job).__name__)
