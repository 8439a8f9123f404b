"""The listeners: one for the public and the reverse proxy, and where wanted one of its own for metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from ..config import HttpConfig, MetricsConfig
from ..errors import cannot_listen
from .call_page import FOLDER, Page

Render = Callable[[], tuple[bytes, str]]  # an exposition, and its content type

_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, OPTIONS"}
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_MAX_HEADER = 8190  # bytes of a header or of the request line
_MAX_BODY = 1024  # bytes; nothing here takes a body


@dataclass(frozen=True, slots=True)
class FocusInfo:
    """What the focus says of itself in public (protocol, section 5)."""

    user_id: str
    device_id: str
    version: str


class Status(Protocol):
    """How the focus is, asked at each request."""

    def not_ready(self) -> Sequence[str]:
        """Why it cannot carry calls now, in words for an operator; empty: it can."""

    def accepting(self) -> bool:
        """Whether it takes new calls."""


class HttpServer:
    """Health, readiness, focus information, metrics and the call page."""

    def __init__(
        self,
        http: HttpConfig,
        metrics: MetricsConfig,
        info: FocusInfo,
        status: Status,
        render: Render,
        page_folder: Path = FOLDER,
    ) -> None:
        self._http = http
        self._metrics = metrics
        self._info = info
        self._status = status
        self._render = render
        self._page_folder = page_folder
        self._runners: list[web.AppRunner] = []
        self.addresses: list[tuple[str, int]] = []  # what is listened on, once started

    async def start(self) -> None:
        """Listen; raises FatalError where an address is not to be had."""
        metrics_apart = self._metrics.enabled and self._metrics.port != 0
        metrics_here = self._metrics.enabled and self._metrics.port == 0
        try:
            await self._listen(self._public(metrics_here), "http", self._http.hostname, self._http.port)
            if metrics_apart:
                routes = [*self._signs_of_life(), web.get("/metrics", self._get_metrics)]
                await self._listen(routes, "metrics", self._metrics.hostname, self._metrics.port)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening; connections are closed."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, routes: Sequence[web.RouteDef], section: str, host: str, port: int) -> None:
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes(routes)
        runner = web.AppRunner(
            app, access_log=None, max_line_size=_MAX_HEADER, max_field_size=_MAX_HEADER, shutdown_timeout=1.0
        )
        self._runners.append(runner)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise cannot_listen(f"{section}.hostname and {section}.port", f"{host}, TCP port {port}", error) from error
        self.addresses += [(str(address[0]), int(address[1])) for address in runner.addresses]

    def _signs_of_life(self) -> list[web.RouteDef]:
        return [web.get("/health", self._get_health), web.get("/ready", self._get_ready)]

    def _public(self, metrics_here: bool) -> list[web.RouteDef]:
        routes = [
            *self._signs_of_life(),
            web.get("/_matrix/focus/v1/info", self._get_info),
            web.options("/_matrix/focus/v1/info", self._options),
        ]
        if metrics_here:
            routes.append(web.get("/metrics", self._get_metrics))
        if self._http.page:
            page = Page(self._page_folder)
            routes += [
                web.get("/config.json", self._get_page_config),
                web.get("/", page.serve),
                web.get("/{path:.+}", page.serve),
            ]
        return routes

    # ------------------------------------------------------------ answers

    async def _get_health(self, _: web.Request) -> web.Response:
        """The process lives and its event loop answers."""
        return web.json_response({"status": "ok"}, headers=_NO_STORE)

    async def _get_ready(self, _: web.Request) -> web.Response:
        """Whether calls can be carried now; 503 with the reasons if not."""
        reasons = list(self._status.not_ready())
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200, headers=_NO_STORE
        )

    async def _get_metrics(self, _: web.Request) -> web.Response:
        body, content_type = self._render()
        return web.Response(body=body, headers={"Content-Type": content_type, **_NO_STORE})

    async def _get_info(self, _: web.Request) -> web.Response:
        """The focus as clients discover it (protocol, section 5)."""
        info: dict[str, Any] = {
            "type": "org.matrix.msc3898",
            "user_id": self._info.user_id,
            "device_id": self._info.device_id,
            "version": self._info.version,
            "accepting": self._status.accepting(),
        }
        if self._http.public_url is not None:
            info["url"] = self._http.public_url
        return web.json_response(info, headers={**_CORS, **_NO_STORE})

    async def _options(self, _: web.Request) -> web.Response:
        return web.Response(status=204, headers=_CORS)

    async def _get_page_config(self, _: web.Request) -> web.Response:
        """What the call page must know: the homeserver for browsers (null: found from the domain), and the focus."""
        focus = {"user_id": self._info.user_id, "device_id": self._info.device_id}
        return web.json_response({"homeserver": self._http.page_homeserver, "focus": focus}, headers=_NO_STORE)
