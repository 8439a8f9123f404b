"""An admin in one of the bot's rooms, by mautrix's client library: says commands, and hears the answers to each."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from mautrix.client import Client as MautrixClient
from mautrix.types import EventType, MessageEvent, RoomID, UserID

from tests.support.synapse import Client

ANSWER_TIMEOUT = 60.0


class Operator:
    """Who commands the bot in one room. With an Olm machine on `client` the same goes on encrypted."""

    def __init__(self, user: Client, room_id: str, bot: str, client: MautrixClient | None = None) -> None:
        self.room_id = room_id
        self.bot = bot
        self.client = client or MautrixClient(
            mxid=UserID(user.user_id), device_id=user.device_id, base_url=user.server.base_url, token=user.token
        )
        self.heard: list[tuple[str | None, dict[str, Any]]] = []  # what the bot's messages answer, and their contents
        self._changed = asyncio.Event()
        self._syncing: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Self:
        self.client.add_event_handler(EventType.ROOM_MESSAGE, self._hear)
        self._syncing = self.client.start(None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.stop()
        if self._syncing is not None:
            await asyncio.gather(self._syncing, return_exceptions=True)
        await self.client.api.session.close()

    async def _hear(self, event: MessageEvent) -> None:
        if event.sender == self.bot and event.room_id == self.room_id:
            content: dict[str, Any] = event.content.serialize()
            reply = content.get("m.relates_to", {}).get("m.in_reply_to", {})
            self.heard.append((reply.get("event_id"), content))
            self._changed.set()

    async def say(self, text: str) -> str:
        """Say something; its event's id."""
        return str(await self.client.send_text(RoomID(self.room_id), text))

    async def answer(self, text: str) -> dict[str, Any]:
        """Say something and have the content of the (first) answer; TimeoutError without one."""
        asked = await self.say(text)
        return await self._next(lambda to, _: to == asked)

    async def ask(self, text: str) -> str:
        """The same as plain text."""
        return str((await self.answer(text))["body"])

    async def told(self, words: str, after: int = 0) -> str:
        """What the bot says unasked with these words in it, from the `after`th thing that it said on."""
        body = (await self._next(lambda to, content: to is None and words in content["body"], after))["body"]
        return str(body)

    async def _next(self, fits: Any, after: int = 0) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while True:
                for to, content in self.heard[after:]:
                    if fits(to, content):
                        return content
                self._changed.clear()
                await self._changed.wait()
