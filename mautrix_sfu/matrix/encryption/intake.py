"""To-device messages on their way up: what is encrypted is opened, in turns among senders, each sender's in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..interface import Count, Counted, Message

log = logging.getLogger(__name__)

MAX_PER_SENDER = 256  # messages of one sender that wait
MAX_WAITING = 8192  # in all
WORKERS = 8  # senders at a time: a homeserver that is slow to tell keys holds up only its own users

Open = Callable[[Message], Awaitable[Message | None]]


@dataclass(slots=True)
class _Bundle:
    """What one page of `/sync` brought from one sender; it goes up together."""

    waiting: deque[Message]
    opened: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class _Sender:
    """Whose messages wait."""

    bundles: deque[_Bundle] = field(default_factory=deque)
    waiting: int = 0


class Intake:
    """Senders without anything encrypted on the way are not held up at all."""

    def __init__(self, open_one: Open, deliver: Callable[[list[Message]], None], count: Count) -> None:
        self._open = open_one
        self._deliver = deliver
        self._count = count
        self._senders: dict[str, _Sender] = {}
        self._turns: asyncio.Queue[str] = asyncio.Queue()  # each of the senders once, unless a worker has it
        self._total = 0

    def take(self, messages: list[Message]) -> list[Message]:
        """Queue what has to be opened, and what its senders sent after; returns what need not wait."""
        by_sender: dict[str, list[Message]] = {}
        for message in messages:
            by_sender.setdefault(message.sender, []).append(message)
        queued = {
            sender
            for sender, theirs in by_sender.items()
            if sender in self._senders or any(message.type == "m.room.encrypted" for message in theirs)
        }
        for sender in queued:
            self._queue(sender, by_sender[sender])
        return [message for message in messages if message.sender not in queued] if queued else messages

    async def work(self) -> None:
        """Open messages, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    def _queue(self, name: str, messages: list[Message]) -> None:
        sender = self._senders.get(name)
        room = min(MAX_PER_SENDER - (sender.waiting if sender is not None else 0), MAX_WAITING - self._total)
        if len(messages) > room:
            self._count(Counted.ENCRYPTED_DROPPED, len(messages) - max(room, 0))
            messages = messages[-room:] if room > 0 else []
        if not messages:
            return
        if sender is None:
            sender = self._senders[name] = _Sender()
            self._turns.put_nowait(name)
        sender.bundles.append(_Bundle(deque(messages)))
        sender.waiting += len(messages)
        self._total += len(messages)

    async def _work(self) -> None:
        while True:
            name = await self._turns.get()
            sender = self._senders[name]
            bundle = sender.bundles[0]
            opened = await self._open(bundle.waiting.popleft())
            sender.waiting -= 1
            self._total -= 1
            if opened is not None:
                bundle.opened.append(opened)
            if not bundle.waiting:
                sender.bundles.popleft()
                self._hand_up(bundle.opened)
            if sender.bundles:
                self._turns.put_nowait(name)
            else:
                del self._senders[name]

    def _hand_up(self, messages: list[Message]) -> None:
        if not messages:
            return
        try:
            self._deliver(messages)
        except Exception:
            self._count(Counted.HANDLER_FAILED, 1)
            log.exception("To-device messages could not be handled; going on with the next ones")
