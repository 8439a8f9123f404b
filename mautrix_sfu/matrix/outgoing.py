"""To-device messages to others: in order per recipient, sent again until they are taken, bounded."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mautrix.api import Method, Path

from ..core.ids import Device, UserId
from ..logs import Concern, concerning, current
from .homeserver import Backoff, Homeserver, RefusedError, UnavailableError
from .interface import Count, Counted, Time, Timed

log = logging.getLogger(__name__)

MAX_PER_USER = 256  # messages that wait for one user's devices
MAX_WAITING = 8192  # in all
MAX_PARALLEL = 32  # requests at a time
SEAL_TRIES = 6  # half a minute; a call does not wait longer for its keys

Content = dict[str, Any]
Seal = Callable[[Device, str, Content], Awaitable[tuple[str, Content] | None]]


async def in_plain_text(_to: Device, event_type: str, content: Content) -> tuple[str, Content]:
    """How messages go out where nothing is encrypted."""
    return event_type, content


@dataclass(frozen=True, slots=True)
class _Message:
    to: Device
    type: str
    content: dict[str, Any]
    after: Awaitable[None] | None
    since: float  # loop time of its queueing
    concern: Concern | None  # the leg that it is about


class Outgoing:
    """One queue per user, worked off by a task that lives as long as there is something in it."""

    def __init__(
        self,
        homeserver: Homeserver,
        count: Count,
        seal: Seal = in_plain_text,
        time: Time = lambda _what, _seconds: None,
    ) -> None:
        """`seal` gives what to send instead, None to drop it; it raises UnavailableError to be asked again."""
        self._homeserver = homeserver
        self._count = count
        self._seal = seal
        self._time = time
        self._queues: dict[UserId, deque[_Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._open = asyncio.Event()
        self._parallel = asyncio.Semaphore(MAX_PARALLEL)
        self._prefix = secrets.token_hex(8)  # transaction ids must differ from those of earlier runs
        self._number = 0

    def send(self, message_to: Device, event_type: str, content: dict[str, Any], after: Awaitable[None] | None) -> None:
        """Queue a message; it goes out when those before it have, and `after` is done. Never blocks or raises."""
        queue = self._queues.get(message_to.user_id)
        if self._waiting >= MAX_WAITING or (queue is not None and len(queue) >= MAX_PER_USER):
            self._count(Counted.TO_DEVICE_DROPPED, 1)
            return
        self._waiting += 1
        message = _Message(message_to, event_type, content, after, asyncio.get_running_loop().time(), current())
        if queue is not None:
            queue.append(message)
            return
        self._queues[message_to.user_id] = queue = deque((message,))
        task = asyncio.get_running_loop().create_task(self._work(message_to.user_id, queue))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def waiting(self) -> int:
        """How many messages the homeserver has not taken yet."""
        return self._waiting

    @property
    def age(self) -> float:
        """How long the oldest of them waits, in seconds; 0 if none does."""
        heads = [queue[0].since for queue in self._queues.values() if queue]
        return asyncio.get_running_loop().time() - min(heads) if heads else 0.0

    def open(self) -> None:
        """Let the messages go: the homeserver knows the focus now."""
        self._open.set()

    async def stop(self, within: float) -> None:
        """Send what waits for up to `within` seconds, then give up on the rest."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, user: UserId, queue: deque[_Message]) -> None:
        try:
            await self._open.wait()
            while queue:
                with concerning(queue[0].concern):
                    await self._try(queue[0])
                queue.popleft()
                self._waiting -= 1
        finally:
            self._waiting -= len(queue)
            del self._queues[user]

    async def _try(self, message: _Message) -> None:
        try:
            await self._deliver(message)
        except Exception as error:  # the next one goes on
            self._count(Counted.HANDLER_FAILED, 1)
            log.exception("A to-device message met a fault")
            self._drop(message, f"a fault ({type(error).__name__})")

    async def _deliver(self, message: _Message) -> None:
        if message.after is not None:
            try:
                await message.after
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                self._drop(message, f"what it waited for failed ({type(error).__name__})")
                return
        sealed = await self._sealed(message)
        if sealed is None:
            self._count(Counted.TO_DEVICE_DROPPED, 1)
            return
        event_type, content = sealed
        self._number += 1
        path = str(Path.v3.sendToDevice[event_type][f"{self._prefix}-{self._number}"])
        body = {"messages": {message.to.user_id: {message.to.device_id: content}}}
        backoff = Backoff()
        while True:
            try:
                async with self._parallel:
                    await self._homeserver.request(Method.PUT, path, body)
            except UnavailableError as error:
                log.debug("A to-device message is tried again: %s", error)
            except RefusedError as error:
                # The device is made again by whoever reads the inbox, and a refused token ends the process.
                if error.errcode != "M_UNKNOWN_DEVICE" and not error.is_token:
                    self._drop(message, str(error))
                    return
            else:
                self._count(Counted.TO_DEVICE_SENT, 1)
                self._time(Timed.TO_DEVICE_DELAY, asyncio.get_running_loop().time() - message.since)
                return
            self._count(Counted.TO_DEVICE_RETRIED, 1)
            await backoff.pause()

    async def _sealed(self, message: _Message) -> tuple[str, Content] | None:
        backoff = Backoff()
        for _ in range(SEAL_TRIES):
            try:
                return await self._seal(message.to, message.type, message.content)
            except UnavailableError as error:
                log.debug("A to-device message cannot be encrypted yet: %s", error)
            self._count(Counted.TO_DEVICE_RETRIED, 1)
            await backoff.pause()
        log.warning("A to-device message (%s) to %s is dropped: it could not be encrypted", message.type, message.to)
        return None

    def _drop(self, message: _Message, why: str) -> None:
        self._count(Counted.TO_DEVICE_DROPPED, 1)
        log.warning("A to-device message (%s) to %s is dropped: %s", message.type, message.to, why)
