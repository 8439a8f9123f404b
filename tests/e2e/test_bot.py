"""Each of the bot's commands in a real room, from a real client library, while a call runs; and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mautrix_sfu import __version__
from mautrix_sfu.admin.commands import COMMANDS
from tests.support.calls import Call
from tests.support.focus import ADMIN, CALL_MEMBER, Deployment
from tests.support.operator import Operator
from tests.support.participant import Participant, RefusedError
from tests.support.running import running
from tests.support.synapse import Client

pytestmark = pytest.mark.synapse

OVERRIDES: dict[str, dict[str, Any]] = {
    "bot": {
        "permissions": {"*": "use", f"@{ADMIN}:localhost": "admin"},
        "notices": {"interval": 0.5, "repeat": 1, "outage": 1},
    },
    "drain": {"deadline": 600},
    "conferences": {"invite_wait": 0.5, "banned": ["always.banned.org"]},
}


@pytest.fixture(scope="module")
def command_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A Synapse and a focus whose bot tells at once what there is to tell."""
    made = Deployment(tmp_path_factory.mktemp("bot"), OVERRIDES)
    with running(made, lambda: made.synapse.register_user(ADMIN)):
        yield made


@pytest.fixture
async def call(command_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(command_deployment) as made:
        yield made


@asynccontextmanager
async def command_room(call: Call, *others: Client) -> AsyncIterator[Operator]:
    """The admin in a room of their own with the bot (and whom else it invites)."""
    bot = call.deployment.focus.device.user_id
    admin = await call.deployment.synapse.login(ADMIN)
    room = await admin.create_room("Operators", invite=[bot, *(other.user_id for other in others)])
    await joined(admin, room, bot)
    async with Operator(admin, room, bot) as operator:
        yield operator


async def joined(client: Client, room: str, user_id: str, within: float = 45.0) -> None:
    async with asyncio.timeout(within):
        while True:
            members = [event for event in await client.get_state(room) if event.get("state_key") == user_id]
            if members and members[0]["content"]["membership"] == "join":
                return
            await asyncio.sleep(0.1)


async def eventually(fits: Callable[[str], bool], ask: Callable[[], Any], within: float = 45.0) -> str:
    """Ask again until the answer fits."""
    deadline = time.monotonic() + within
    while not fits(answer := str(await ask())):
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.3)
    return answer


def row(shown: str, word: str) -> str:
    """The line that begins with a word."""
    return next((line for line in shown.splitlines() if line.startswith(word)), "")


# ---------------------------------------------------------------- the commands; each takes a room, encrypted or not


async def showing(operator: Operator, call: Call, alice: Participant, bob: Participant) -> None:
    """The commands that only show."""
    answer = await operator.answer("help")
    assert answer["msgtype"] == "m.notice"
    assert answer["format"] == "org.matrix.custom.html"
    assert all(f"<td>{command.name}" in answer["formatted_body"] for command in COMMANDS)
    assert (await operator.ask("help kick")).startswith("kick <user> [device] [reason]")

    assert "the homeserver answers in" in await operator.ask("ping")
    status = await operator.ask("!sfu status")
    assert f"version: {__version__}" in status
    assert "ready: yes" in status
    assert "people: 2 on 2 devices" in status
    assert row(status, "legs ").split()[1:3] == ["2", "2000"]
    await eventually(lambda shown: "bit/s in" in row(shown, "bandwidth"), lambda: operator.ask("status"))

    overview = await operator.ask("calls")
    assert call.room_id in overview
    assert call.conf_id in row(overview, call.room_id)
    shown = await operator.ask(f"call {call.conf_id}")
    assert shown.startswith(f"Call {call.conf_id} in {call.room_id}: 2 devices here, 0 over trunks")
    for each in (alice, bob):
        line = row(shown, each.device.user_id)
        assert each.device.device_id in line
        assert "{}:{}".format(*each.connection.socket.address) in line
        assert "open, full" in line
        assert "microphone to 1" in line
        assert "camera 640×360 f/h/q to 1" in line  # noqa: RUF001
        assert "2 tracks" in line
        assert "% now" in line
        assert " ms " in line
    found = await operator.ask(f"who {bob.device.user_id}")
    assert call.conf_id in row(found, bob.device.user_id)
    assert "is in no call here" in await operator.ask("who @nobody:localhost")
    assert "every focus that a member of a call names" in await operator.ask("foci")
    limits = await operator.ask("limits")
    assert row(limits, "legs_per_conference").split()[1:] == ["200", "2", "connections"]
    assert "always.banned.org" in await operator.ask("bans")
    checked = await operator.ask(f"check {call.room_id}")
    assert "ok " in checked
    assert "to mend" in checked
    assert "nearest" not in await operator.ask("calls")

    nearest = await operator.ask("stauts")
    assert "Did you mean" in nearest
    assert nearest.endswith("status")
    assert (await operator.ask("kick")).endswith("kick <user> [device] [reason]")


async def acting(operator: Operator, call: Call, alice: Participant, bob: Participant) -> None:
    """The commands that do something, and that it is so."""
    await muting(operator, alice, bob)
    carol = await call.participant("carol")
    assert "legs_per_conference is 2 now" in await operator.ask("limits legs_per_conference 2")
    with pytest.raises(RefusedError, match="user_busy"):
        await call.join(carol)
    assert "legs_per_conference is 200 now" in await operator.ask("limits legs_per_conference default")
    await call.join(carol)

    user = carol.device.user_id
    assert "1 connection of" in await operator.ask(f"kick {user} {carol.device.device_id} being rude")
    await carol.until(lambda: carol.hung_up is not None, what="a hangup of who was kicked")
    assert "is in no call here" in await operator.ask(f"kick {user}")
    assert alice.hung_up is bob.hung_up is None

    dave = await call.participant("dave")
    await call.join(dave)
    user = dave.device.user_id
    assert "1 connection ended" in await operator.ask(f"ban {user} 2h being rude")
    await dave.until(lambda: dave.hung_up is not None, what="a hangup of who was banned")
    assert "being rude" in row(await operator.ask("bans"), user)
    with pytest.raises(RefusedError):
        await call.join(dave)
    assert "banned no more" in await operator.ask(f"unban {user}")
    await call.join(dave)
    assert "banned for 1 s" in await operator.ask(f"ban {user} 1s")
    await eventually(lambda shown: user not in shown, lambda: operator.ask("bans"))
    assert "change it there" in await operator.ask("unban always.banned.org")

    draining = await operator.ask("drain on")
    assert "no new calls are taken; 1 call to go" in draining
    assert "who is left is told to move" in draining
    async with Call(call.deployment) as other:
        with pytest.raises(RefusedError, match="user_busy"):
            await other.join(await other.participant("eve"))
        assert "new calls are taken" in await operator.ask("drain off")
        await other.joined("eve", "frank")

    focus = call.deployment.focus
    assert "at level debug" in await operator.ask("log level debug")
    await call.join(dave)
    assert "DEBUG" in focus.log_tail()
    assert "at level info" in await operator.ask("log info")

    focus.edit("media", port="none")
    assert "everything is as before" in await operator.ask("reload")
    focus.edit("media", port=focus.udp_port)
    focus.edit("conferences", guests=False)
    assert "in force now: conferences.guests" in await operator.ask("reload")
    assert "Nothing changed" in await operator.ask("reload")
    focus.edit("conferences", guests=True)
    await operator.ask("reload")
    assert alice.hung_up is None

    assert "3 connections" in await operator.ask(f"end {call.conf_id}")
    for each in (alice, bob, dave):
        await each.until(lambda each=each: each.hung_up is not None, what="a hangup at the end")  # type: ignore[misc]
    history = await eventually(lambda shown: call.conf_id in shown, lambda: operator.ask("history 5"))
    ended = next(line for line in history.splitlines() if call.conf_id in line)
    assert "MB" in ended
    # After the call's id its length, in one or two units ("1 min 5 s").
    assert re.search(rf"{call.conf_id} +\d+ \w+( \d+ \w+)? +4 ", ended), "four people were in it"


async def muting(operator: Operator, alice: Participant, bob: Participant) -> None:
    user = bob.device.user_id
    assert "audio is forwarded to nobody" in await operator.ask(f"mute {user} audio")
    await alice.until(lambda: all(s["audio_muted"] for s in alice.streams_of(bob).values()), what="shown as muted")
    await asyncio.sleep(0.3)
    heard, seen = alice.audio_of(bob).packets, alice.video_of(bob).packets
    await alice.until(lambda: alice.video_of(bob).packets > seen + 20, what="the picture goes on")
    assert alice.audio_of(bob).packets == heard
    assert "audio muted by an admin" in row(await operator.ask(f"who {user}"), user)
    assert "is forwarded again" in await operator.ask(f"unmute {user}")
    await alice.until(lambda: alice.audio_of(bob).packets > heard + 20, what="the sound is back")
    assert not any(stream["audio_muted"] for stream in alice.streams_of(bob).values())


async def audited(operator: Operator) -> None:
    """Every act is in the audit, with how it went, and nothing else."""
    shown = await operator.ask("audit 50")
    lines = shown.splitlines()[1:]
    me = str(operator.client.mxid)
    acts = [line for line in lines if operator.room_id in line]
    assert all(me in line for line in acts)
    for word in ("kick @", "ban @", "unban @", "mute @", "unmute @", "limits legs", "drain on", "log level", "end "):
        assert any(f"  {word}" in line for line in acts), word
    assert any("refused: malformed" in line for line in acts)
    assert any("refused: always.banned.org is banned by the configuration" in line for line in acts)
    for word in ("status", "calls", "help", "stauts"):
        assert not any(f"  {word}" in line for line in acts), word


async def test_each_command_in_a_room_while_a_call_runs(call: Call) -> None:
    async with command_room(call) as operator:
        alice, bob = await call.joined("alice", "bob")
        await showing(operator, call, alice, bob)
        await acting(operator, call, alice, bob)
        await audited(operator)


# ---------------------------------------------------------------- who else


async def test_nobody_elses_commands_and_invites_count(call: Call) -> None:
    bot = call.deployment.focus.device.user_id
    mallory = await call.user("mallory")
    (alice,) = await call.joined("alice")
    async with command_room(call, mallory) as operator:
        await mallory.join(operator.room_id)
        own = await mallory.create_room("Trap", invite=[bot])
        for text in ("status", f"kick {alice.device.user_id}", f"!sfu ban {alice.device.user_id}"):
            await mallory.send_message(operator.room_id, text)
        before = len(operator.heard)
        assert "the homeserver answers" in await operator.ask("ping")
        assert len(operator.heard) == before + 1, (
            "of several messages the last is answered, so the others never will be"
        )
        assert alice.device.user_id not in await operator.ask("bans")
        assert mallory.user_id not in await operator.ask("audit 200")
        assert alice.hung_up is None
        members = [event for event in await mallory.get_state(own) if event["state_key"] == bot]
        assert members[0]["content"]["membership"] == "invite"


# ---------------------------------------------------------------- what it tells unasked


async def test_rooms_that_asked_are_told_what_happens(call: Call) -> None:
    deployment = call.deployment
    async with command_room(call) as operator, command_room(call) as silent:
        assert "is told what happens" in await operator.ask("notify on")
        alice, carol = await call.participant("alice"), await call.participant("carol")
        await operator.ask("limits legs_per_conference 1")
        await call.join(alice)
        with pytest.raises(RefusedError):
            await call.join(carol)
        assert carol.device.user_id in await operator.told("The limit legs_per_conference was reached")
        await operator.ask("limits legs_per_conference default")
        await operator.ask(f"ban {carol.device.user_id}")
        with pytest.raises(RefusedError):
            await call.join(carol)
        assert carol.device.user_id in await operator.told("Somebody banned tried to join a call")
        await operator.ask(f"unban {carol.device.user_id}")

        ghost = {"user_id": "@ghost:localhost", "device_id": "NOBODY"}
        device = {**alice.membership(call.conf_id)["m.calls"][0]["m.devices"][0], "device_id": carol.device.device_id}
        device["org.matrix.msc3898.foci.active"] = [ghost]
        member = {"m.calls": [{"m.call_id": call.conf_id, "m.devices": [device]}]}
        await carol.matrix.send_state(call.room_id, CALL_MEMBER, carol.device.user_id, member)
        assert "@ghost:localhost" in await operator.told("A trunk has been down for")
        assert "@ghost:localhost" in row(await operator.ask("foci"), "@ghost:localhost")

        logged = len(deployment.focus.log.read_text(errors="replace"))
        await deployment.synapse.close_http()
        await deployment.synapse.stop()
        await deployment.focus.logged("The homeserver does not answer", logged, within=60)
        await asyncio.sleep(1)  # `outage`
        await deployment.synapse.start()
        assert "The homeserver did not answer for" in await operator.told("The homeserver did not answer")
        assert await operator.ask("notify off") == "This room is told nothing unasked."
        assert [content for to, content in silent.heard if to is None] == []


async def test_bans_audit_and_rooms_to_tell_survive_a_restart_which_is_told(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    user = bob.device.user_id
    focus.edit("drain", deadline=0)
    async with command_room(call) as operator:
        await operator.ask("notify on")
        await operator.ask(f"ban {user} 7d over a restart")
        await operator.ask("reload")
        focus.stop()
        await operator.told("is stopping")
        told = len(operator.heard)
        await focus.start()
        assert __version__ in await operator.told("has started", told)
        with pytest.raises(RefusedError):
            await call.join(bob)
        assert "over a restart" in row(await operator.ask("bans"), user)
        assert f"ban {user} 7d over a restart" in await operator.ask("audit 5")
        await operator.ask(f"unban {user}")
        with contextlib.suppress(RefusedError):
            await bob.leave()
        await call.join(alice, bob)
        focus.kill()
        told = len(operator.heard)
        await focus.start()
        assert "2 connections were told to call again" in await operator.told("has started", told)
        await operator.ask("notify off")
    assert "Traceback" not in focus.log_tail(100_000)
