"""The Matrix half of a test participant: plain HTTP to any homeserver, no library in between."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp

SYNC_TIMEOUT = 10.0  # seconds that a /sync waits


class HomeserverClient:
    """One device of one user. Made with an access token, or logged in with a password."""

    def __init__(self, homeserver: str, user_id: str, device_id: str, token: str | None = None) -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.token = token
        self._base = homeserver.rstrip("/")
        self._http: aiohttp.ClientSession | None = None
        self._sync: asyncio.Task[None] | None = None

    async def start(self, password: str | None, on_to_device: Callable[[dict[str, Any]], None]) -> None:
        """Log in if need be, and begin to read to-device messages: none that came before is missed."""
        self._http = aiohttp.ClientSession()
        if self.token is None:
            body = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": self.user_id},
                "password": password,
                "device_id": self.device_id,
            }
            self.token = (await self.request("POST", "/_matrix/client/v3/login", body))["access_token"]
        self._sync = asyncio.get_running_loop().create_task(self._read(on_to_device))

    async def stop(self) -> None:
        """Read no more. The device stays."""
        if self._sync is not None:
            self._sync.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sync
        if self._http is not None:
            await self._http.close()

    async def request(self, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """One request, its answer's JSON. Raises aiohttp.ClientResponseError with the homeserver's words."""
        assert self._http is not None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with self._http.request(method, self._base + path, json=body, params=query, headers=headers) as response:
            answer: Any = await response.json(content_type=None)
            if response.status >= 400:
                raise aiohttp.ClientResponseError(
                    response.request_info, response.history, status=response.status, message=str(answer)
                )
            found: dict[str, Any] = answer
            return found

    async def send_state(self, room_id: str, event_type: str, state_key: str, content: dict[str, Any]) -> None:
        """Send a state event."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/state/{event_type}/{quote(state_key, safe='')}"
        await self.request("PUT", path, content)

    async def state(self, room_id: str, event_type: str, state_key: str) -> dict[str, Any] | None:
        """A state event's content; None if there is none or it may not be read."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/state/{event_type}/{quote(state_key, safe='')}"
        with contextlib.suppress(aiohttp.ClientResponseError):
            return await self.request("GET", path)
        return None

    async def send_to_device(self, user_id: str, device_id: str, event_type: str, content: dict[str, Any]) -> None:
        """Send a to-device message."""
        path = f"/_matrix/client/v3/sendToDevice/{event_type}/{secrets.token_hex(8)}"
        await self.request("PUT", path, {"messages": {user_id: {device_id: content}}})

    async def _read(self, on_to_device: Callable[[dict[str, Any]], None]) -> None:
        """Long-poll /sync for to-device messages; a homeserver that is away is tried again."""
        only_to_device = '{"room":{"rooms":[]},"presence":{"types":[]},"account_data":{"types":[]}}'
        since: dict[str, str] = {}
        while True:
            timeout = str(int(SYNC_TIMEOUT * 1000)) if since else "0"
            try:
                answer = await self.request(
                    "GET", "/_matrix/client/v3/sync", filter=only_to_device, timeout=timeout, **since
                )
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.2)
                continue
            since = {"since": answer["next_batch"]}
            for event in answer.get("to_device", {}).get("events", []):
                on_to_device(event)
