"""Pings: the homeserver is asked to reach the focus, which also makes it deliver at once what it has held back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mautrix.api import ClientPath as Path
from mautrix.api import Method

from .homeserver import As, Backoff, Homeserver, RefusedError, UnavailableError
from .transactions import Listener

log = logging.getLogger(__name__)

QUIET = 1.0  # seconds without a transaction: the backlog is worked off
CAUGHT_UP_WITHIN = 120.0  # seconds after the ping's answer, whatever still comes
POLL = 0.1

# What the ping's errors mean (Matrix client-server API, appservice ping).
PING_ERRORS = {
    "M_URL_NOT_SET": "the registration that the homeserver has read has no url",
    "M_CONNECTION_FAILED": "the homeserver cannot connect to the url in the registration",
    "M_CONNECTION_TIMEOUT": "nothing answers the homeserver at the url in the registration",
    "M_BAD_STATUS": "what answers at the url in the registration is not this focus, or the hs_token differs",
}


def ping_path(appservice_id: str) -> str:
    """Where a homeserver is asked to ping this application service."""
    return str(Path.v1.appservice[appservice_id].ping)


class Pinger:
    """Pings when asked to, until one is answered; the first answer starts the wait for the backlog's end."""

    def __init__(
        self, homeserver: Homeserver, appservice_id: str, listener: Listener, on_caught_up: Callable[[], None]
    ) -> None:
        self._homeserver = homeserver
        self._path = ping_path(appservice_id)
        self._listener = listener
        self._on_caught_up = on_caught_up
        self._wanted = asyncio.Event()
        self._caught_up = False

    def want(self) -> None:
        """Ask for a ping soon."""
        self._wanted.set()

    async def work(self) -> None:
        """Ping for ever, when wanted."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._ping()
            if not self._caught_up:
                await self._catch_up()

    async def _ping(self) -> None:
        backoff = Backoff(first=1.0, ceiling=30.0)
        told = ""
        while True:
            try:
                await self._homeserver.request(Method.POST, self._path, {}, who=As.SERVICE)
            except (RefusedError, UnavailableError) as error:
                if error.errcode == "M_UNRECOGNIZED":
                    log.info("The homeserver knows no ping; its backlog of transactions may come late")
                    return
                meaning = PING_ERRORS.get(error.errcode, str(error))
                if meaning != told:
                    log.warning("No room events come yet, trying again: %s", meaning)
                    told = meaning
            else:
                if told:
                    log.info("The homeserver reaches the focus")
                return
            await backoff.pause()

    async def _catch_up(self) -> None:
        """Wait until nothing old comes any more.

        That is: everything taken in is handed up, and either nothing came for a second, or (on a homeserver that is
        never quiet) what came last was made after the ping's answer: transactions come in order.
        """
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while loop.time() < answered + CAUGHT_UP_WITHIN:
            await asyncio.sleep(POLL)
            last = self._listener.last_transaction
            quiet = loop.time() - max(last, answered) >= QUIET
            age = self._listener.last_age
            fresh = age is not None and last - age > answered
            if self._listener.idle and (quiet or fresh):
                break
        else:
            log.warning("The homeserver still delivers old events; going on without waiting for their end")
        self._caught_up = True
        self._on_caught_up()
