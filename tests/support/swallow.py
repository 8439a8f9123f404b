"""Stands before a homeserver and swallows to-device messages of one type, which it says it has sent."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from .synapse import free_port

_HOP = {"host", "content-length", "transfer-encoding", "connection", "content-encoding"}  # not carried on


class Swallow:
    """Everything else goes through."""

    def __init__(self, homeserver: str, event_type: str, at_most: int | None = None) -> None:
        self.swallowed = 0
        self.at_most = at_most  # None: all; whoever changes it begins to swallow then
        self._homeserver = homeserver
        self._lost = f"/sendToDevice/{event_type}/"
        self._port = free_port()
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """Where to take it for the homeserver."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    async def _handle(self, request: web.Request) -> web.Response:
        if self._lost in request.path and (self.at_most is None or self.swallowed < self.at_most):
            self.swallowed += 1
            return web.json_response({})
        assert self._http is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = self._homeserver + request.raw_path
        try:
            async with self._http.request(request.method, url, headers=headers, data=await request.read()) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except aiohttp.ClientError:
            return web.Response(status=502)
