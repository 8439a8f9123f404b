"""To-device messages by `/sync` of the focus's own device: the push to application services loses them."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from mautrix.api import Method

from .health import Health
from .homeserver import Backoff, Homeserver, RefusedError, UnavailableError
from .interface import Count, Counted, Message

log = logging.getLogger(__name__)

LONG_POLL = 20.0  # seconds
ANSWER_WITHIN = 15.0  # seconds beyond the long poll
CEILING = 5.0  # seconds between tries: nobody can call while a homeserver that is back goes unnoticed
MAX_BACKLOG_PAGES = 100  # of 100 messages each, gathered before they are handed up together
MAX_BACKLOG_SIZE = 16 * 1024 * 1024  # characters of them, about: a message may have 64 KiB

_NOTHING = {"not_types": ["*"]}
FILTER = json.dumps({"presence": _NOTHING, "account_data": _NOTHING, "room": {"rooms": []}}, separators=(",", ":"))


class Inbox:
    """The loop that reads the device's inbox, a page at a time, each handed up once and in order.

    After the start and after an outage the pages that wait are gathered and handed up in one batch, so that whoever
    reads it sees which invites are stale. The homeserver keeps a page until the next one is asked for.
    """

    def __init__(
        self,
        homeserver: Homeserver,
        health: Health,
        deliver: Callable[[list[Message], str], None],
        restore_device: Callable[[], Awaitable[None]],
        count: Count,
        position: str | None,
    ) -> None:
        self.on_back: Callable[[], None] = lambda: None  # the homeserver answers again after a failure
        self.on_answer: Callable[[dict[str, Any]], None] = lambda _answer: None  # what `/sync` says beside messages
        self._homeserver = homeserver
        self._health = health
        self._deliver = deliver
        self._restore_device = restore_device
        self._count = count
        self._position = position
        self._failed = False

    @property
    def position(self) -> str:
        """Where the page after the last one begins."""
        return self._position or ""

    async def work(self) -> None:
        """Read for ever. Raises RefusedError when the homeserver refuses the token or the user."""
        backoff = Backoff(ceiling=CEILING)
        gather = True
        while True:
            try:
                if gather:
                    gather = await self._gather()
                else:
                    messages, position = await self._page(LONG_POLL)
                    self._hand_up(messages, position)
            except UnavailableError as error:
                self._problem(error)
                gather = True
                await backoff.pause()
            except RefusedError as error:
                await self._settle(error)
                gather = True
                await backoff.pause()
            else:
                backoff.reset()

    async def _gather(self) -> bool:
        """Read all pages that wait, then hand them up together; what was read before a failure is not lost.

        True if there may be more: they were too many, or too large.
        """
        backlog: list[Message] = []
        position, size = self._position or "", 0
        try:
            for _ in range(MAX_BACKLOG_PAGES):
                messages, position = await self._page(0.0)
                self._position = position
                backlog += messages
                size += sum(len(str(message.content)) for message in messages)
                if not messages or size > MAX_BACKLOG_SIZE:
                    break
        except (UnavailableError, RefusedError):
            if backlog:
                self._hand_up(backlog, position)
            raise
        self._hand_up(backlog, position)
        return bool(messages)

    def _hand_up(self, messages: list[Message], position: str) -> None:
        self._position = position
        if not messages:
            return
        self._count(Counted.TO_DEVICE_RECEIVED, len(messages))
        try:
            self._deliver(messages, position)
        except Exception:
            self._count(Counted.HANDLER_FAILED, 1)
            log.exception("To-device messages could not be handled; going on with the next ones")

    async def _page(self, wait: float) -> tuple[list[Message], str]:
        query = {"filter": FILTER, "timeout": str(int(wait * 1000)), "set_presence": "offline"}
        if self._position is not None:
            query["since"] = self._position
        answer = await self._homeserver.request(
            Method.GET, "/_matrix/client/v3/sync", query=query, limit=wait + ANSWER_WITHIN
        )
        position = answer.get("next_batch")
        if not isinstance(position, str):
            raise UnavailableError("/sync answered without next_batch")
        self._health.answered()
        if self._failed:
            self._failed = False
            self.on_back()
        self.on_answer(answer)
        messages = self._messages(answer)
        if messages and position == self._position:
            self._count(Counted.TO_DEVICE_REPEATED, len(messages))
            return [], position
        return messages, position

    def _messages(self, answer: dict[str, Any]) -> list[Message]:
        to_device = answer.get("to_device")
        events = to_device.get("events") if isinstance(to_device, dict) else None
        found: list[Message] = []
        for event in events if isinstance(events, list) else ():
            match event:
                case {"sender": str(sender), "type": str(kind), "content": dict(content)}:
                    found.append(Message(sender, kind, content))
                case _:
                    self._count(Counted.MALFORMED, 1)
        return found

    def _problem(self, error: Exception) -> None:
        self._count(Counted.HOMESERVER_ERRORS, 1)
        self._health.failed()
        if not self._failed:
            self._failed = True
            log.warning("/sync fails, trying again: %s", error)

    async def _settle(self, error: RefusedError) -> None:
        """Repair what can be repaired; raise what cannot."""
        if error.errcode == "M_UNKNOWN_DEVICE":
            log.warning("Somebody removed the focus's device; making it again")
            try:
                await self._restore_device()
            except UnavailableError as unavailable:
                self._problem(unavailable)
        elif error.status == 400 and self._position is not None:
            # A homeserver whose database was replaced does not know the position.
            log.warning("The homeserver does not take the stored position (%s); starting without one", error)
            self._position = None
        elif error.is_token or error.status in (401, 403):
            raise error
        else:
            self._problem(error)
