"""From a message in one of the bot's rooms to its answer: who may ask, what was meant, and what is kept of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..config import Permission
from ..errors import FatalError
from .command import Command, Request, UsageError
from .commands import closest, find
from .message import Message, addressed, read
from .operations import Operations, RefusedError
from .reply import Reply, code, duration, paragraph

log = logging.getLogger(__name__)

MAX_WAITING = 100  # messages
MAX_SLOW = 4  # commands that take their time, at once
TIME_LIMIT = 60.0  # seconds for one command
TOO_OLD = 600.0  # seconds after which nobody expects that it is carried out any more
FAULT = "That met a fault of this program; its log says which."


class Bot:
    """Answers admins, one after the other, and nobody else. `take` never blocks; `work` is for a task."""

    def __init__(
        self,
        user_id: str,
        operations: Operations,
        permission: Callable[[str], Permission],
        send: Callable[[str, dict[str, Any]], None],  # a room and the content of an m.room.message
        has_calls: Callable[[str], bool],  # a room: people talk there, and not to the bot unless they say so
    ) -> None:
        self._user_id = user_id
        self._operations = operations
        self._permission = permission
        self._send = send
        self._has_calls = has_calls
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(MAX_WAITING)
        self._slow = asyncio.Semaphore(MAX_SLOW)
        self._working = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take an `m.room.message` out of one of the bot's rooms."""
        if event["sender"] == self._user_id or not self._is_admin(event["sender"]):
            return
        message = read(event)
        if message is None or not self._is_meant(message):
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("Too many commands wait: one of %s is dropped", message.sender)

    async def work(self) -> None:
        """Answer for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                message = await self._waiting.get()
                command, request = self._parse(message)
                if command is not None and command.slow:
                    tasks.create_task(self._answer_slowly(message, command, request))
                else:
                    await self._answer(message, command, request)

    @property
    def idle(self) -> bool:
        """Whether everything that was taken is answered."""
        return self._waiting.empty() and not self._working

    async def _answer_slowly(self, message: Message, command: Command, request: Request) -> None:
        async with self._slow:
            await self._answer(message, command, request)

    async def _answer(self, message: Message, command: Command | None, request: Request) -> None:
        self._working += 1
        try:
            reply = await self._reply(message, command, request)
            for content in reply.contents() if reply is not None else ():
                self._send(message.room_id, {**content, "m.relates_to": message.relation()})
        finally:
            self._working -= 1

    def _is_admin(self, user_id: str) -> bool:
        return self._permission(user_id) >= Permission.ADMIN

    # ------------------------------------------------------------ what was meant

    def _is_meant(self, message: Message) -> bool:
        return addressed(message.text, self._user_id)[1] or not self._has_calls(message.room_id)

    def _parse(self, message: Message) -> tuple[Command | None, Request]:
        words = addressed(message.text, self._user_id)[0].split()
        command = find(words[0]) if words else None
        return command, Request(message.sender, message.room_id, tuple(words[1:]), message.age)

    async def _reply(self, message: Message, command: Command | None, request: Request) -> Reply | None:
        words = addressed(message.text, self._user_id)[0].split()
        if not words or not self._is_admin(message.sender):  # it may have changed since
            return None
        if command is None:
            near = closest(words[0])
            said = paragraph("No such command; `help` lists them." + (" Did you mean:" if near else ""))
            return said + code(near.usage) if near is not None else said
        acts = command.acts(request.arguments)
        reply, outcome = await self._run(command, request)
        if acts:
            self._operations.put_audit(message.sender, message.room_id, " ".join(words), outcome)
        return reply

    async def _run(self, command: Command, request: Request) -> tuple[Reply, str]:
        """The answer, and how it went in one line."""
        if request.age > TOO_OLD:
            ago = duration(request.age)
            said = f"That was {ago} ago, and I hear it only now: not done. Say it again if it still holds."
            return paragraph(said), "refused: too old"
        try:
            async with asyncio.timeout(TIME_LIMIT):
                reply = await command.run(request, self._operations)
        except UsageError:
            return paragraph("That is not how it is used. Type:") + code(command.usage), "refused: malformed"
        except RefusedError as error:
            return paragraph(str(error)), f"refused: {error}"
        except TimeoutError:
            return paragraph(f"That took longer than {TIME_LIMIT:g} s and was given up."), "failed: took too long"
        except FatalError as error:
            return paragraph(f"That is not possible now: {error}"), f"failed: {error}"
        except Exception:
            log.exception("The command %s failed", command.name)
            return paragraph(FAULT), "failed: a fault of this program"
        return reply, reply.blocks[0].body.partition("\n")[0]
