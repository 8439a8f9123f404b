"""A stand-in for a homeserver that costs nearly nothing: what a focus asks of one, and devices in the same process.

It keeps the state of one room, pushes its changes in transactions (one at a time, up to 100 events each, as Synapse
does), and hands to-device messages over, to the focus by `/sync`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from ruamel.yaml import YAML

from tests.support.participant_matrix import HomeserverClient

DOMAIN = "localhost"
VERSION = "1.140.0"  # what it says that it is: any Synapse that marks soft-failed events
PER_TRANSACTION = 100
RETRY = 0.2  # seconds until a transaction that was not taken comes again
LONG_POLL = 20.0

Handler = Callable[[dict[str, Any]], None]


class StandIn:
    """A homeserver with one room and one application service."""

    def __init__(self, registration: Path) -> None:
        self.room_id = f"!call:{DOMAIN}"
        self._registration = registration  # written later, by the focus
        self._state: dict[tuple[str, str], dict[str, Any]] = {}
        self._events: deque[dict[str, Any]] = deque()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._inbox: list[dict[str, Any]] = []  # of the focus; kept until it asks for what follows
        self._first = 0  # number of the first message in it
        self._arrived = asyncio.Event()
        self._devices: dict[tuple[str, str], Handler] = {}
        self._numbers = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._pusher: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self, port: int) -> None:
        """Listen, and push what happens from now on."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self._pusher = asyncio.get_running_loop().create_task(self._push())

    async def stop(self) -> None:
        """End it."""
        self._closing = True
        self._arrived.set()
        if self._pusher is not None:
            self._pusher.cancel()
            await asyncio.wait([self._pusher])
        if self._runner is not None:
            await self._runner.cleanup()

    # ------------------------------------------------------------ what devices do

    def attach(self, user_id: str, device_id: str, handler: Handler) -> None:
        """Have to-device messages for this device handled."""
        self._devices[user_id, device_id] = handler

    def put_state(self, sender: str, event_type: str, state_key: str, content: dict[str, Any]) -> None:
        """Change the room's state."""
        event = {
            "type": event_type,
            "state_key": state_key,
            "sender": sender,
            "content": content,
            "room_id": self.room_id,
            "event_id": f"$event{next(self._numbers)}",
            "origin_server_ts": int(time.time() * 1000),
            "unsigned": {"age": 1},
        }
        self._state[event_type, state_key] = event
        self._events.append(event)
        self._idle.clear()
        self._changed.set()

    async def pushed(self) -> None:
        """Until the focus has taken all that the room's state has become."""
        await self._idle.wait()

    def state_of(self, event_type: str, state_key: str) -> dict[str, Any] | None:
        """The content of a state event."""
        event = self._state.get((event_type, state_key))
        return None if event is None else event["content"]

    def to_focus(self, sender: str, event_type: str, content: dict[str, Any]) -> None:
        """Hand a to-device message to the focus."""
        self._inbox.append({"sender": sender, "type": event_type, "content": content})
        self._arrived.set()

    # ------------------------------------------------------------ what the focus asks

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path
        if path.endswith("/sync"):
            return web.json_response(await self._sync(request.query))
        if "/sendToDevice/" in path:
            self._deliver(path.split("/")[5], json.loads(await request.read())["messages"])
            return web.json_response({})
        if path.endswith("/state"):
            return web.json_response({"state": list(self._state.values())})
        return web.json_response(
            {
                "user_id": request.query.get("user_id", ""),  # of whoever asks who it is
                "server_version": VERSION,
                "joined_rooms": [],
                "device_keys": {},
                "duration_ms": 1,
            }
        )

    async def _sync(self, query: Any) -> dict[str, Any]:
        since = int(query.get("since", 0))
        del self._inbox[: max(0, since - self._first)]
        self._first = max(self._first, since)
        if not self._inbox and int(query["timeout"]):
            self._arrived.clear()
            try:
                async with asyncio.timeout(min(LONG_POLL, int(query["timeout"]) / 1000)):
                    await self._arrived.wait()
            except TimeoutError:
                pass
        page = self._inbox[:PER_TRANSACTION]
        return {"next_batch": str(self._first + len(page)), "to_device": {"events": page}}

    def _deliver(self, event_type: str, messages: dict[str, dict[str, Any]]) -> None:
        for user_id, devices in messages.items():
            for device_id, content in devices.items():
                if (handler := self._devices.get((user_id, device_id))) is not None:
                    handler({"type": event_type, "sender": f"@sfu:{DOMAIN}", "content": content})

    async def _push(self) -> None:
        registration = YAML(typ="safe").load(self._registration)
        headers = {"Authorization": f"Bearer {registration['hs_token']}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            for number in itertools.count(1):
                await self._changed.wait()
                events = [self._events.popleft() for _ in range(min(PER_TRANSACTION, len(self._events)))]
                if not self._events:
                    self._changed.clear()
                url = f"{registration['url']}/_matrix/app/v1/transactions/{number}"
                while not await self._take(http, url, {"events": events}):  # noqa: ASYNC110 (what is there to wait for)
                    await asyncio.sleep(RETRY)
                if not self._events:
                    self._idle.set()

    async def _take(self, http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> bool:
        try:
            async with http.put(url, json=body) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


class LocalDevice(HomeserverClient):
    """A device of a user, without HTTP between it and the stand-in."""

    def __init__(self, server: StandIn, user_id: str, device_id: str) -> None:
        super().__init__("", user_id, device_id, "none")
        self._server = server

    async def start(self, password: str | None, on_to_device: Handler) -> None:
        """Read to-device messages from now on."""
        self._server.attach(self.user_id, self.device_id, on_to_device)

    async def stop(self) -> None:
        """Nothing runs."""

    async def send_state(self, room_id: str, event_type: str, state_key: str, content: dict[str, Any]) -> None:
        """Send a state event to the one room that there is."""
        self._server.put_state(self.user_id, event_type, state_key, content)

    async def state(self, room_id: str, event_type: str, state_key: str) -> dict[str, Any] | None:
        """A state event's content."""
        return self._server.state_of(event_type, state_key)

    async def send_to_device(self, user_id: str, device_id: str, event_type: str, content: dict[str, Any]) -> None:
        """Send a to-device message to the focus."""
        self._server.to_focus(self.user_id, event_type, content)
