"""The bot in encrypted rooms, commanded from matrix-nio: what it hears, whom it answers, and who can read it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("olm")

from tests.e2e.test_bot import OVERRIDES, acting, audited, showing
from tests.support.calls import Call
from tests.support.focus import ADMIN, Deployment
from tests.support.nio_client import EncryptedOperator, NioClient
from tests.support.running import running

pytestmark = [pytest.mark.synapse, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


class Scene:
    """An admin, others, and the bot."""

    def __init__(self, deployment: Deployment, directory: Path, stack: AsyncExitStack) -> None:
        self.deployment = deployment
        self._directory = directory
        self._stack = stack
        self.bot = deployment.focus.device.user_id
        self.admin: NioClient

    async def device(self, client: Any) -> NioClient:
        directory = self._directory / secrets.token_hex(3)
        return await self._stack.enter_async_context(NioClient(client, directory))

    async def room(self) -> str:
        """An encrypted room of the admin's, which the bot has joined."""
        room_id = await self.admin.create_room(self.bot)
        await self.admin.together_with(room_id, self.bot)
        return room_id

    async def counted(self, name: str) -> float:
        return await self.deployment.focus.metric(f"mautrix_sfu_matrix_{name}_total")

    async def events(self, room_id: str) -> list[dict[str, Any]]:
        """What the homeserver has of the room, as it was sent."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/messages"
        token = self.admin.nio.access_token
        answer = await self.deployment.synapse.request("GET", path, params={"dir": "b", "limit": "50"}, token=token)
        chunk: list[dict[str, Any]] = answer["chunk"]
        return [event for event in chunk if event["sender"] == self.bot and event["type"].startswith("m.room.")]


@pytest.fixture(scope="module")
def bots_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A Synapse and a focus, with an admin."""
    made = Deployment(tmp_path_factory.mktemp("rooms"), {**OVERRIDES, "drain": {"deadline": 60}})
    with running(made, lambda: made.synapse.register_user(ADMIN)):
        yield made


@pytest.fixture
async def scene(bots_deployment: Deployment, tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        made = Scene(bots_deployment, tmp_path, stack)
        made.admin = await made.device(await bots_deployment.synapse.login(ADMIN))
        yield made
    await bots_deployment.synapse.close_http()


async def test_each_command_is_heard_and_answered_encrypted_while_a_call_runs(scene: Scene) -> None:
    room_id = await scene.room()
    async with Call(scene.deployment) as call, EncryptedOperator(scene.admin, room_id, scene.bot) as operator:
        alice, bob = await call.joined("alice", "bob")
        await showing(operator, call, alice, bob)
        await acting(operator, call, alice, bob)
        await audited(operator)
    assert {event["type"] for event in await scene.events(room_id)} == {"m.room.encrypted"}
    assert room_id not in scene.admin.unreadable


async def test_a_stranger_is_not_heard_and_reads_along_only_as_a_member(scene: Scene) -> None:
    synapse = scene.deployment.synapse
    stranger = await scene.device(await synapse.register_user(f"stranger-{secrets.token_hex(3)}"))
    outside = await scene.device(await synapse.register_user(f"outside-{secrets.token_hex(3)}"))
    room_id = await scene.room()
    await scene.admin.answer(room_id, "help")  # before the stranger is there
    await scene.admin.nio.room_invite(room_id, stranger.user_id)
    await stranger.join(room_id)
    await stranger.together_with(room_id, scene.bot)
    await stranger.say(room_id, "status")
    notice = await scene.admin.answer(room_id, "help ping")
    assert len(scene.admin.notices(room_id)) == 2  # the bot answered nobody else
    async with asyncio.timeout(45):
        while not stranger.notices(room_id):
            await asyncio.sleep(0.05)
    assert [each.body for each in stranger.notices(room_id)] == [notice.body]
    await scene.admin.nio.room_kick(room_id, stranger.user_id)
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/joined_members"
    joined = await synapse.request("GET", path, token=scene.admin.nio.access_token)
    assert stranger.user_id not in joined["joined"]
    said = [event["content"] for event in await scene.events(room_id) if event["type"] == "m.room.encrypted"]
    await scene.admin.answer(room_id, "help")
    newest = (await scene.events(room_id))[0]["content"]["session_id"]
    assert newest not in {content["session_id"] for content in said}  # who left has no key of what is said now
    assert not outside.heard


async def test_what_is_said_in_plain_text_in_an_encrypted_room_is_no_command(scene: Scene) -> None:
    room_id = await scene.room()
    await scene.admin.answer(room_id, "help")
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/{secrets.token_hex(4)}"
    body = {"msgtype": "m.text", "body": "status"}
    await scene.deployment.synapse.request("PUT", path, body, token=scene.admin.nio.access_token)
    async with asyncio.timeout(45):
        while len(scene.admin.notices(room_id)) < 2:
            await asyncio.sleep(0.05)
    notice = scene.admin.notices(room_id)[1]
    assert notice.decrypted
    assert "encrypted" in notice.body
    assert "version" not in notice.body


async def test_a_command_whose_key_is_another_devices_is_not_believed(scene: Scene) -> None:
    """Somebody else's session, sent under the admin's name by the homeserver, or by a client that got hold of it."""
    synapse = scene.deployment.synapse
    client = await synapse.register_user(f"mallory-{secrets.token_hex(3)}")
    mallory = await scene.device(client)
    room_id = await scene.room()
    await scene.admin.answer(room_id, "help")
    await scene.admin.nio.room_invite(room_id, mallory.user_id)
    await mallory.join(room_id)
    await mallory.together_with(room_id, scene.bot)
    await mallory.say(room_id, "status")
    said = next(event for event in await _encrypted(scene, room_id) if event["sender"] == mallory.user_id)
    before = await scene.counted("undecryptable")
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.encrypted/{secrets.token_hex(4)}"
    await synapse.request("PUT", path, said["content"], token=scene.admin.nio.access_token)
    async with asyncio.timeout(45):
        while await scene.counted("undecryptable") == before:
            await asyncio.sleep(0.1)
    assert all("version" not in notice.body for notice in scene.admin.notices(room_id))


async def test_a_restart_goes_on_hearing_and_answering(scene: Scene) -> None:
    room_id = await scene.room()
    await scene.admin.answer(room_id, "help")
    focus = scene.deployment.focus
    focus.stop()
    await scene.admin.say(room_id, "status")  # over the session whose key came before
    await focus.start()
    for _ in range(1800):
        if any("version" in notice.body for notice in scene.admin.notices(room_id)):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError(f"no answer: {scene.admin.notices(room_id)}, {scene.admin.unreadable}, {focus.log_tail()}")
    assert room_id not in scene.admin.unreadable


async def _encrypted(scene: Scene, room_id: str) -> list[dict[str, Any]]:
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/messages"
    token = scene.admin.nio.access_token
    answer = await scene.deployment.synapse.request("GET", path, params={"dir": "b", "limit": "20"}, token=token)
    return [event for event in answer["chunk"] if event["type"] == "m.room.encrypted"]
