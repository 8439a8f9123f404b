"""A client for encrypted rooms: matrix-nio, whose Olm and Megolm are vodozemac's and not the focus's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast

from nio import (
    AsyncClient,
    AsyncClientConfig,
    JoinError,
    MatrixRoom,
    MegolmEvent,
    RoomCreateError,
    RoomMessageNotice,
    RoomMessageText,
    RoomSendError,
)

from .operator import Operator
from .synapse import Client

ENCRYPTION = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}


class NioClient:
    """A user's device that syncs while the `async with` lasts; what others say is in `heard`."""

    def __init__(self, client: Client, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        self.nio = AsyncClient(
            client.server.base_url, client.user_id, client.device_id, store_path=str(directory), config=config
        )
        self.nio.restore_login(client.user_id, client.device_id, client.token)
        self.user_id = client.user_id
        self.heard: list[RoomMessageText | RoomMessageNotice] = []
        self.unreadable: list[str] = []  # the rooms of events that could not be decrypted
        self.nio.add_event_callback(self._on_message, (RoomMessageText, RoomMessageNotice))
        self.nio.add_event_callback(self._on_unreadable, (MegolmEvent,))
        self._syncing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.nio.sync(timeout=0, full_state=True)
        if self.nio.should_upload_keys:
            await self.nio.keys_upload()
        self._syncing = asyncio.get_running_loop().create_task(self._sync())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        await self.nio.close()
        self.nio.store.database.close()

    async def _sync(self) -> None:
        while True:
            await self.nio.sync(timeout=5000)
            if self.nio.should_upload_keys:
                await self.nio.keys_upload()
            if self.nio.should_query_keys:
                await self.nio.keys_query()

    async def create_room(self, *invited: str) -> str:
        """An encrypted room."""
        made = await self.nio.room_create(invite=list(invited), initial_state=[ENCRYPTION])
        assert not isinstance(made, RoomCreateError), made
        async with asyncio.timeout(45):
            while made.room_id not in self.nio.rooms:
                await asyncio.sleep(0.02)
        return str(made.room_id)

    async def join(self, room_id: str) -> None:
        """Join a room."""
        joined = await self.nio.join(room_id)
        assert not isinstance(joined, JoinError), joined
        async with asyncio.timeout(45):
            while room_id not in self.nio.rooms:
                await asyncio.sleep(0.02)

    async def together_with(self, room_id: str, user_id: str) -> None:
        """Wait until somebody has joined the room, and his devices' keys are known."""
        async with asyncio.timeout(45):
            while not (user_id in self.nio.rooms[room_id].users and self.nio.device_store[user_id]):
                await asyncio.sleep(0.05)

    async def say(self, room_id: str, body: str) -> str:
        """Say something, encrypted; the event's id."""
        content = {"msgtype": "m.text", "body": body}
        sent = await self.nio.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True)
        assert not isinstance(sent, RoomSendError), sent
        return str(sent.event_id)

    async def answer(self, room_id: str, body: str, within: float = 45.0) -> RoomMessageNotice:
        """Say something and wait for the next notice of somebody else."""
        before = len(self.notices(room_id))
        await self.say(room_id, body)
        async with asyncio.timeout(within):
            while len(self.notices(room_id)) <= before:
                await asyncio.sleep(0.02)
        return self.notices(room_id)[before]

    def notices(self, room_id: str) -> list[RoomMessageNotice]:
        """What others have noted in a room."""
        return [
            event
            for event in self.heard
            if isinstance(event, RoomMessageNotice)
            and event.sender != self.user_id
            and event.source.get("room_id") == room_id
        ]

    async def _on_message(self, room: MatrixRoom, event: Any) -> None:
        event.source["room_id"] = room.room_id
        self.heard.append(event)

    async def _on_unreadable(self, room: MatrixRoom, _event: MegolmEvent) -> None:
        self.unreadable.append(room.room_id)


class EncryptedOperator(Operator):
    """Who commands the bot in an encrypted room."""

    def __init__(self, nio: NioClient, room_id: str, bot: str) -> None:
        super().__init__(cast("Client", None), room_id, bot, cast("Any", SimpleNamespace(mxid=nio.user_id)))
        self._nio = nio
        nio.nio.add_event_callback(self._on_notice, (RoomMessageNotice,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def say(self, text: str) -> str:
        """Say something, encrypted; its event's id."""
        return await self._nio.say(self.room_id, text)

    async def _on_notice(self, room: MatrixRoom, event: RoomMessageNotice) -> None:
        if event.sender == self.bot and room.room_id == self.room_id:
            assert event.decrypted
            content = event.source["content"]
            self.heard.append((content.get("m.relates_to", {}).get("m.in_reply_to", {}).get("event_id"), content))
            self._changed.set()
