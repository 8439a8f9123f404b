"""Stands in for a focus that does not run: hears whether the homeserver's pushes come, and takes none but its own."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from ..matrix import MAX_BODY, has_token


class Receiver:
    """Listens where the focus would. What others sent gets a 503, so that the homeserver keeps it for the focus."""

    def __init__(self, hs_token: str, user_id: str) -> None:
        self.pings: set[str] = set()  # the transaction ids of those that came with the right token
        self.unauthorized = 0  # requests with another token
        self.transactions = 0  # with events, and the right token
        self._token = hs_token.encode()
        self._user_id = user_id
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError."""
        app = web.Application(client_max_size=MAX_BODY)
        for prefix in ("/_matrix/app/v1", ""):
            app.router.add_put(prefix + "/transactions/{id}", self._transaction)
        app.router.add_post("/_matrix/app/v1/ping", self._ping)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def count(self) -> int:
        """How many transactions came so far."""
        return self.transactions

    def _authorized(self, request: web.Request) -> bool:
        if has_token(request, self._token):
            return True
        self.unauthorized += 1
        return False

    async def _ping(self, request: web.Request) -> web.Response:
        if not self._authorized(request):
            return _answer(401, "M_UNKNOWN_TOKEN")
        self.pings.add(str((await _body(request)).get("transaction_id")))
        return _done()

    async def _transaction(self, request: web.Request) -> web.Response:
        if not self._authorized(request):
            return _answer(401, "M_UNKNOWN_TOKEN")
        events = (await _body(request)).get("events")
        if not isinstance(events, list) or not events:
            return _done()
        self.transactions += 1
        if all(isinstance(event, dict) and event.get("sender") == self._user_id for event in events):
            return _done()
        return _answer(503, "M_LIMIT_EXCEEDED")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.read())
    except (ValueError, RecursionError, web.HTTPRequestEntityTooLarge):
        return {}
    return found if isinstance(found, dict) else {}


def _done() -> web.Response:
    return _last(web.json_response({}))


def _answer(status: int, errcode: str) -> web.Response:
    error = {"errcode": errcode, "error": "the installation is being tested"}
    return _last(web.json_response(error, status=status))


def _last(response: web.Response) -> web.Response:
    """Nothing more on this connection: the homeserver would try it again when nobody listens any more."""
    response.force_close()
    return response
