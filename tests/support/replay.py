"""A homeserver's transactions: recorded on their way to the focus, and replayed under its token, many times as fast.

As a program of its own (`python -m tests.support.replay`) it replays, so that a test measures the focus and not itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Self

import aiohttp
from aiohttp import web

CALL = "org.matrix.msc3401.call"
PER_TRANSACTION = 100  # events that Synapse sends in one at most


class Recorder:
    """Stands between the homeserver and the focus: passes everything on, and keeps the events of transactions."""

    def __init__(self, port: int, focus_port: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._port = port
        self._focus = f"http://127.0.0.1:{focus_port}"
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        app = web.Application(client_max_size=32 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._http is not None
        await self._runner.cleanup()
        await self._http.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        assert self._http is not None
        body = await request.read()
        if "/transactions/" in request.path:
            self.events += json.loads(body)["events"]
        headers = {name: value for name, value in request.headers.items() if name in ("Authorization", "Content-Type")}
        try:
            async with self._http.request(
                request.method, self._focus + request.path_qs, data=body, headers=headers
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        except aiohttp.ClientError:  # the focus is not up
            return web.Response(status=502)


async def _main() -> None:
    """Replay as told by a line of JSON; write what came of it as another."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    recorded: list[dict[str, Any]] = told["events"]
    templates = [_template(event) for event in recorded]
    relevant_every = max(1, told["per_second"] // told["relevant_per_second"])
    headers = {"Authorization": f"Bearer {told['token']}", "Content-Type": "application/json"}
    sent = relevant = number = 0
    slowest, statuses = 0.0, set()
    began = time.monotonic()
    async with aiohttp.ClientSession(headers=headers) as http:
        while (now := time.monotonic()) - began < told["seconds"]:
            events = []
            for _ in range(PER_TRANSACTION):
                sent += 1
                if sent % relevant_every == 0:
                    relevant += 1
                    events.append(_call(told["mark"], relevant))
                else:
                    before, after = templates[sent % len(templates)]
                    events.append(f"{before}${told['mark']}{sent}{after}")
            number += 1
            url = f"{told['focus']}/_matrix/app/v1/transactions/{told['mark']}{number}"
            while True:
                asked = time.monotonic()
                async with http.put(url, data='{"events":[' + ",".join(events) + "]}") as answer:
                    statuses.add(answer.status)
                    slowest = max(slowest, time.monotonic() - asked)
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.05)  # as a homeserver does, if sooner: nothing is given up
            await asyncio.sleep(max(0.0, began + sent / told["per_second"] - time.monotonic()))
    took = now - began
    result = {"sent": sent, "relevant": relevant, "took": took, "slowest": slowest, "statuses": sorted(statuses)}
    print(json.dumps(result), flush=True)


def _template(event: dict[str, Any]) -> tuple[str, str]:
    """The event in JSON, before and after its id."""
    before, after = json.dumps({**event, "event_id": "\0"}).split("\\u0000")
    return before, after


def _call(mark: str, number: int) -> str:
    """A call begins in some room."""
    return json.dumps(
        {
            "type": CALL,
            "room_id": f"!{mark}-{number}:localhost",
            "sender": "@somebody:localhost",
            "state_key": "call",
            "event_id": f"${mark}-call-{number}",
            "origin_server_ts": time.time_ns() // 1_000_000,
            "content": {"m.intent": "m.room"},
            "unsigned": {"age": 10},
        }
    )


if __name__ == "__main__":
    asyncio.run(_main())
