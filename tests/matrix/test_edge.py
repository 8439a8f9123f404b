"""Starting, failing, snapshots and the bot's rooms, against a real Synapse."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

import pytest

from mautrix_sfu.core.ids import Device, DeviceId, RoomId, UserId
from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.matrix import Counted
from mautrix_sfu.matrix.introduction import marks_soft_failed
from tests.conftest import MakeSynapse
from tests.matrix.conftest import Focus, Sink, StartFocus, registration, settings_for
from tests.support.synapse import Client, Synapse, free_port

CALL = "org.matrix.msc3401.call"

pytestmark = pytest.mark.synapse


# ---------------------------------------------------------------- starting


async def test_it_registers_its_user_and_device_and_does_so_again_at_the_next_start(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    focus = await start_focus(synapse)
    admin = await synapse.register_user("admin_devices", admin=True)
    path = f"/_synapse/admin/v2/users/{focus.device.user_id}/devices/{focus.device.device_id}"
    assert (await admin.request("GET", path))["device_id"] == "SFU1"
    await focus.matrix.stop()
    again = await start_focus(synapse)
    await again.sink.until(lambda sink: sink.caught_up)
    assert not again.sink.fatal


async def test_a_refused_token_at_the_start_is_one_clear_line(synapse: Synapse, start_focus: StartFocus) -> None:
    with pytest.raises(FatalError, match=r"refuses the as_token.*app_service_config_files") as caught:
        await start_focus(synapse, as_token="not-the-token")
    assert caught.value.exit_code is ExitCode.TOKEN_REFUSED
    assert "not-the-token" not in str(caught.value)


async def test_a_user_outside_the_namespace_is_one_clear_line(synapse: Synapse, start_focus: StartFocus) -> None:
    other = Device(UserId(synapse.user("another")), DeviceId("SFU1"))
    with pytest.raises(FatalError, match=r"does not let the focus be @another.*namespaces\.users") as caught:
        await start_focus(synapse, focus=other)
    assert caught.value.exit_code is ExitCode.TOKEN_REFUSED


async def test_a_taken_port_is_one_clear_line(synapse: Synapse, start_focus: StartFocus) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FatalError, match=f"127.0.0.1, TCP port {port}") as caught:
            await start_focus(synapse, listen_port=port)
    assert caught.value.exit_code is ExitCode.PORT_TAKEN


async def test_a_homeserver_that_never_comes_is_one_clear_line_after_the_configured_time(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(FatalError, match=f"{url} did not answer for 1 s") as caught:
        await start_focus(synapse, homeserver_url=url, start_timeout=1.0)
    assert caught.value.exit_code is ExitCode.HOMESERVER_UNREACHABLE


async def test_a_homeserver_that_comes_up_later_is_waited_for(make_synapse: MakeSynapse) -> None:
    server = await make_synapse(registration())
    await server.stop()
    focus = Focus(settings_for(server), None, Sink())
    starting = asyncio.create_task(focus.matrix.start())
    await asyncio.sleep(1)
    assert not starting.done()
    await server.start()
    await starting
    await focus.sink.until(lambda sink: sink.caught_up)
    await focus.matrix.stop()


async def test_a_homeserver_that_cannot_reach_the_focus_is_a_warning_and_no_caught_up(
    synapse: Synapse, start_focus: StartFocus, caplog: pytest.LogCaptureFixture
) -> None:
    focus = await start_focus(synapse, listen_port=free_port())
    async with asyncio.timeout(45):
        while "cannot connect to the url in the registration" not in caplog.text:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)
    assert not focus.sink.caught_up
    assert not focus.sink.fatal


async def test_a_token_revoked_while_running_is_one_clear_line(
    make_synapse: MakeSynapse, start_focus: StartFocus
) -> None:
    server = await make_synapse(registration())
    focus = await start_focus(server)
    await focus.sink.until(lambda sink: sink.caught_up)
    await server.stop()
    old = server.registrations[0].as_token
    server.registrations[0].as_token = "a-new-token"
    await server.start()
    await focus.sink.until(lambda sink: sink.fatal, within=45)
    (line,) = focus.sink.fatal
    assert "refuses the as_token (M_UNKNOWN_TOKEN)" in line
    assert "\n" not in line
    assert old not in line


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("Synapse", "1.163.2", True),
        ("Synapse", "1.135.0rc1", True),
        ("Synapse", "1.134.9", False),
        ("Synapse", "2.0 (b=x)", True),
        ("Synapse", "x", False),
        ("Another", "9.9", False),
    ],
)
def test_only_homeservers_that_mark_soft_failed_events_are_believed(name: str, version: str, expected: bool) -> None:
    assert marks_soft_failed(name, version) is expected


# ---------------------------------------------------------------- snapshots


async def room_with_call(owner: Client) -> RoomId:
    room = RoomId(await owner.create_room(public=True))
    await owner.send_state(room, CALL, "conf", {"m.intent": "m.room"})
    return room


async def snapshot(focus: Focus, room: RoomId) -> list[tuple[str, str]] | None:
    before = len(focus.sink.snapshots)
    focus.matrix.request_snapshot(room)
    focus.matrix.request_snapshot(room)  # asked twice, read once
    await focus.sink.until(lambda sink: len(sink.snapshots) > before)
    room_id, events = focus.sink.snapshots[-1]
    assert room_id == room
    return None if events is None else sorted((event["type"], event["state_key"]) for event in events)


async def test_a_room_is_read_as_a_member_or_an_admin_and_else_it_is_said_once_what_to_allow(
    synapse: Synapse, start_focus: StartFocus, counted: Counter[Counted], caplog: pytest.LogCaptureFixture
) -> None:
    focus = await start_focus(synapse, may_command=lambda user: user.startswith("@alice"))
    alice = await synapse.register_user("alice_snapshot")
    first, second = await room_with_call(alice), await room_with_call(alice)

    assert await snapshot(focus, first) is None
    assert await snapshot(focus, second) is None
    assert caplog.text.count("may not read the state") == 1
    assert focus.device.user_id in caplog.text.partition("may not read the state")[2]
    refused_requests = caplog.text.count("/rooms/")
    assert await snapshot(focus, second) is None  # remembered, not asked again
    assert caplog.text.count("/rooms/") == refused_requests

    await alice.invite(first, focus.device.user_id)
    await focus.sink.until(lambda sink: [e for e in sink.bot_events if e["content"]["membership"] == "join"])
    members = [("m.room.member", user) for user in (alice.user_id, focus.device.user_id)]
    assert await snapshot(focus, first) == [*members, (CALL, "conf")]
    assert await snapshot(focus, second) is None
    assert counted[Counted.SNAPSHOTS] == 1
    assert counted[Counted.SNAPSHOTS_REFUSED] == 4


async def test_a_server_admin_reads_rooms_that_it_is_not_in(make_synapse: MakeSynapse, start_focus: StartFocus) -> None:
    server = await make_synapse(registration())
    alice = await server.register_user("alice", admin=True)
    room = await room_with_call(alice)
    focus = await start_focus(server)
    await server.make_admin(alice, focus.device.user_id)
    assert await snapshot(focus, room) == [("m.room.member", alice.user_id), (CALL, "conf")]
    assert await snapshot(focus, RoomId("!nowhere:localhost")) is None
    assert await snapshot(focus, room) == [("m.room.member", alice.user_id), (CALL, "conf")]


# ---------------------------------------------------------------- the bot's rooms


async def test_the_bot_follows_an_admins_invite_hears_its_admin_and_answers(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    admin = await synapse.register_user("boss")
    stranger = await synapse.register_user("stranger")
    focus = await start_focus(synapse, may_command=lambda user: user == admin.user_id)
    room = await admin.create_room(invite=[focus.device.user_id, stranger.user_id])
    await stranger.join(room)
    await focus.sink.until(lambda sink: [e for e in sink.bot_events if e["content"].get("membership") == "join"])
    await stranger.send_message(room, "let me in")
    await admin.send_message(room, "help")
    await focus.sink.until(lambda sink: [e for e in sink.bot_events if e["type"] == "m.room.message"])
    for body in ("here is help", "and more"):
        focus.matrix.send_message(room, {"msgtype": "m.notice", "body": body})
    async with asyncio.timeout(45):
        bodies: list[str] = []
        while "and more" not in bodies:
            timeline = (await admin.sync(wait=1))["rooms"].get("join", {}).get(room, {}).get("timeline", {})
            bodies += [e["content"]["body"] for e in timeline.get("events", []) if e["type"] == "m.room.message"]
    assert bodies == ["let me in", "help", "here is help", "and more"]
    heard = [e["content"]["body"] for e in focus.sink.bot_events if e["type"] == "m.room.message"]
    assert heard == ["help"]  # neither the stranger nor itself

    await focus.matrix.stop()  # after a restart it still knows its rooms
    again = await start_focus(synapse, may_command=lambda user: user == admin.user_id)
    await admin.send_message(room, "status")
    await again.sink.until(lambda sink: [e for e in sink.bot_events if e["content"].get("body") == "status"])


async def test_a_strangers_invite_is_ignored(synapse: Synapse, start_focus: StartFocus) -> None:
    focus = await start_focus(synapse, may_command=lambda user: user.startswith("@chief"))
    chief = await synapse.register_user("chief")
    stranger = await synapse.register_user("stranger_invites")
    ignored = await stranger.create_room(invite=[focus.device.user_id])
    followed = await chief.create_room(invite=[focus.device.user_id])
    await focus.sink.until(lambda sink: [e for e in sink.bot_events if e["content"].get("membership") == "join"])
    assert {event["room_id"] for event in focus.sink.bot_events} == {followed}
    (membership,) = (e for e in await stranger.get_state(ignored) if e["state_key"] == focus.device.user_id)
    assert membership["content"]["membership"] == "invite"


async def test_with_encryption_off_it_says_once_that_it_cannot_read(synapse: Synapse, start_focus: StartFocus) -> None:
    admin = await synapse.register_user("secretive")
    focus = await start_focus(synapse, may_command=lambda user: user == admin.user_id)
    room = await admin.create_room(invite=[focus.device.user_id])
    await focus.sink.until(lambda sink: [e for e in sink.bot_events if e["content"].get("membership") == "join"])
    await admin.send_state(room, "m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"})
    for number in range(2):
        path = f"/_matrix/client/v3/rooms/{room}/send/m.room.encrypted/{number}"
        await admin.request("PUT", path, {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"})
    async with asyncio.timeout(45):
        notices: list[str] = []
        while not notices:
            timeline = (await admin.sync(wait=1))["rooms"].get("join", {}).get(room, {}).get("timeline", {})
            notices += [e["content"]["body"] for e in timeline.get("events", []) if e["type"] == "m.room.message"]
    assert len(notices) == 1
    assert "encryption is off here" in notices[0]
