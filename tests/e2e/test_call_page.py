"""The call page by itself, in a real browser with a real Synapse: what it does and says before a focus answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mautrix_sfu.config import HttpConfig, MetricsConfig
from mautrix_sfu.http import FocusInfo, HttpServer
from tests.support.browser import Browser, CallPage, PageSession
from tests.support.synapse import PASSWORD, Client, Synapse, free_port

pytestmark = [pytest.mark.synapse, pytest.mark.browser]

MEMBER = "org.matrix.msc3401.call.member"


class _Status:
    def not_ready(self) -> Sequence[str]:
        return []

    def accepting(self) -> bool:
        return True


@dataclass
class Stage:
    """A Synapse, a room of alice and bob, the page's server, and a user in the focus's place that says nothing."""

    server: Synapse
    address: str
    alice: Client
    bob: Client
    silent_focus: Client
    room: str

    def session(self, person: Client, room: str | None = None) -> PageSession:
        return PageSession(self.server.base_url, person.user_id, person.device_id, person.token, room or self.room)

    async def devices(self, person: Client) -> list[str]:
        """The devices that a user's member event names."""
        for event in await self.alice.get_state(self.room):
            if (event["type"], event["state_key"]) == (MEMBER, person.user_id):
                calls = event["content"]["m.calls"]
                return [device["device_id"] for call in calls for device in call["m.devices"]]
        return []


@pytest.fixture(scope="module")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """One for all of these tests: each has users and a room of its own."""
    server = Synapse(directory=tmp_path_factory.mktemp("synapse"))

    async def start() -> None:
        await server.start()
        await server.close_http()

    asyncio.run(start())
    yield server
    server.close(keep=True)


_number = itertools.count()


@pytest.fixture
async def stage(synapse: Synapse) -> AsyncIterator[Stage]:
    server, n = synapse, next(_number)
    alice, bob, focus = [
        await server.register_user(f"{name}{n}", device_id=device)
        for name, device in (("alice", "ALICE1"), ("bob", "BOB1"), ("sfu", "SFU1"))
    ]
    room = await alice.create_room("Tea", invite=[bob.user_id])
    await bob.join(room)
    http = HttpConfig("127.0.0.1", free_port(), None, page=True, page_homeserver=server.base_url)
    info = FocusInfo(focus.user_id, focus.device_id, "0")
    page_server = HttpServer(http, MetricsConfig(False, "127.0.0.1", 0), info, _Status(), lambda: (b"", "text/plain"))
    await page_server.start()
    yield Stage(server, f"http://127.0.0.1:{http.port}/", alice, bob, focus, room)
    await page_server.stop()
    await server.close_http()


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with Browser() as browser:
        yield browser
        await browser.screenshots(tmp_path)


async def lobby(page: CallPage) -> None:
    await page.page.locator("button.join").wait_for()


async def mirror(page: CallPage) -> None:
    """The lobby, with the camera's picture."""
    await page.page.locator(".mirror video").wait_for()


async def call_messages(focus: Client, count: int) -> list[dict[str, Any]]:
    return [event for event in await focus.to_device(count) if event["type"].startswith("m.call.")]


async def next_invite(focus: Client) -> dict[str, Any]:
    """The content of the next invite; candidates of an earlier one may come before."""
    while True:
        for event in await call_messages(focus, 1):
            if event["type"] == "m.call.invite":
                content: dict[str, Any] = event["content"]
                return content


async def test_a_person_logs_in_chooses_a_room_and_logs_out(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address)
    assert await page.page.get_by_label("Homeserver").input_value() == stage.server.base_url
    await page.page.get_by_label("User name").fill(stage.alice.user_id)
    await page.page.get_by_label("Password").fill("a guess")
    await page.page.get_by_role("button", name="Log in").click()
    await page.wait_words("The user name or the password is wrong.")
    await page.page.get_by_label("Password").fill(PASSWORD)
    await page.page.get_by_role("button", name="Log in").click()
    await page.page.get_by_role("button", name="Tea").click()
    await lobby(page)
    assert "Nobody has started a call here yet." in await page.words()
    await page.page.get_by_role("button", name="Choose another room").click()
    await page.page.get_by_label("Another room").fill("#nowhere:localhost")
    await page.page.get_by_role("button", name="Open").click()
    await page.wait_words("There is no such room.")
    await page.page.get_by_role("button", name="Log out").click()
    await page.wait_words("Log in with Matrix")


async def test_a_session_leaves_the_address_bar_at_once_and_lasts_over_a_reload(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.alice))
    await lobby(page)
    assert stage.alice.token not in page.page.url
    assert "#" not in page.page.url
    await page.page.reload()
    await lobby(page)


async def test_the_device_stands_in_the_room_state_before_the_focus_is_called(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.alice))
    await mirror(page)
    await page.page.locator("button.join").click()
    invite = (await call_messages(stage.silent_focus, 1))[0]
    assert invite["type"] == "m.call.invite"
    content = invite["content"]
    state = await stage.alice.get_state(stage.room)
    (call,) = [event for event in state if event["type"] == "org.matrix.msc3401.call"]
    (member,) = [event for event in state if event["type"] == MEMBER]
    (entry,) = member["content"]["m.calls"]
    assert entry["m.call_id"] == call["state_key"] == content["conf_id"]
    (device,) = entry["m.devices"]
    assert device["device_id"] == content["device_id"] == content["party_id"] == "ALICE1"
    assert device["session_id"] == content["sender_session_id"]
    assert device["org.matrix.msc3898.foci.active"] == [{"user_id": stage.silent_focus.user_id, "device_id": "SFU1"}]
    assert content["org.matrix.msc3898.room_id"] == stage.room
    assert (content["seq"], content["dest_session_id"], content["version"]) == (0, "sfu", "1")
    offer = content["offer"]["sdp"]
    assert "a=simulcast:send f;h\r\n" in offer  # 640x360: two layers
    assert "m=application" in offer
    ((stream_id, stream),) = content["org.matrix.msc3077.sdp_stream_metadata"].items()
    assert stream["purpose"] == "m.usermedia"
    for track_id in stream["tracks"]:
        assert f"a=msid:{stream_id} {track_id}" in offer
    assert {track.get("width") for track in stream["tracks"].values()} == {None, 640}


async def test_who_leaves_or_closes_the_tab_is_out_of_the_room_state(stage: Stage, browser: Browser) -> None:
    alice, bob = [await browser.open(stage.address, stage.session(person)) for person in (stage.alice, stage.bob)]
    for page in (alice, bob):
        await page.page.locator("button.join").click()

    async def both_in() -> bool:
        return await stage.devices(stage.alice) == ["ALICE1"] and await stage.devices(stage.bob) == ["BOB1"]

    async def both_out() -> bool:
        return await stage.devices(stage.alice) == await stage.devices(stage.bob) == []

    await alice.wait("both are in the call", both_in)
    await alice.wait_words("bob")  # sends nothing yet, but is there
    await alice.leave()
    await bob.page.close()
    await alice.wait("nobody is in the call", both_out)
    hung_up: list[str] = []
    while len(hung_up) < 2:  # how many messages come before is a race: candidates may be on their way
        events = await call_messages(stage.silent_focus, 1)
        hung_up += [event["sender"] for event in events if event["type"] == "m.call.hangup"]
    assert sorted(hung_up) == [stage.alice.user_id, stage.bob.user_id]


async def test_a_reload_in_the_call_goes_back_into_it_in_a_new_session(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.alice))
    await page.page.locator("button.join").click()
    await page.wait_state("connecting")
    before = await page.ask("session")
    await page.page.reload()
    await page.wait_state("connecting")
    assert await page.ask("session") != before
    assert await stage.devices(stage.alice) == ["ALICE1"]


async def test_other_devices_of_the_same_user_stay_in_the_call(stage: Stage, browser: Browser) -> None:
    phone = {"m.call_id": "conf", "m.devices": [{"device_id": "PHONE", "session_id": "x", "expires_ts": 1 << 42}]}
    await stage.alice.send_state(stage.room, "org.matrix.msc3401.call", "conf", {"m.intent": "m.room"})
    await stage.alice.send_state(stage.room, MEMBER, stage.alice.user_id, {"m.calls": [phone]})
    page = await browser.open(stage.address, stage.session(stage.alice))
    await lobby(page)
    assert "In the call: alice" in await page.words()
    await page.page.locator("button.join").click()

    async def devices_are(*expected: str) -> bool:
        return await stage.devices(stage.alice) == list(expected)

    await page.wait("both devices are there", lambda: devices_are("PHONE", "ALICE1"))
    await page.leave()
    await page.wait("the phone is there", lambda: devices_are("PHONE"))


async def test_a_room_without_permission_for_calls_is_explained(stage: Stage, browser: Browser) -> None:
    room = await stage.alice.create_room("No calls", invite=[stage.bob.user_id], calls=False)
    await stage.bob.join(room)
    page = await browser.open(stage.address, stage.session(stage.bob, room))
    await page.page.locator("button.join").click()
    await page.wait_words("ask an admin of the room for permission to send org.matrix.msc3401.call.member")


async def test_a_refusal_of_the_focus_is_told_and_tried_again(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.alice))
    await page.page.locator("button.join").click()
    invite = await next_invite(stage.silent_focus)
    reject = {
        **{key: invite[key] for key in ("call_id", "conf_id", "version")},
        "party_id": "SFU1",
        "device_id": "SFU1",
        "sender_session_id": "sfu",
        "dest_session_id": invite["sender_session_id"],
        "seq": 0,
        "reason": "user_busy",
    }
    await stage.silent_focus.send_to_device("m.call.reject", stage.alice.user_id, "ALICE1", reject)
    await page.wait_words("The call server refuses the call (user_busy).")
    assert (await next_invite(stage.silent_focus))["call_id"] != invite["call_id"]


async def test_a_focus_that_says_nothing_is_told(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.alice))
    await page.page.locator("button.join").click()
    await page.wait_words("The call server does not answer. Still trying…")
    assert await page.state() == "connecting"


async def test_the_end_of_the_call_and_of_membership_are_told(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.bob))
    await page.page.locator("button.join").click()
    call = (await next_invite(stage.silent_focus))["conf_id"]
    terminated = {"m.intent": "m.room", "m.type": "m.video", "m.terminated": "call_ended"}
    await stage.alice.send_state(stage.room, "org.matrix.msc3401.call", call, terminated)
    await page.wait_words("The call was ended.")
    await page.page.get_by_role("button", name="Start the call").click()
    await page.wait_state("connecting")
    await stage.alice.kick(stage.room, stage.bob.user_id)
    await page.wait_words("You are no longer in this room.")


async def test_a_homeserver_that_is_away_is_told_until_it_is_back(stage: Stage, browser: Browser) -> None:
    page = await browser.open(stage.address, stage.session(stage.alice))
    await lobby(page)
    await stage.server.stop()
    await page.wait_words("The homeserver cannot be reached.")
    await stage.server.start()

    async def gone() -> bool:
        return "cannot be reached" not in await page.words()

    await page.wait("the homeserver is back", gone, within=45)


async def test_a_session_that_is_over_leads_to_the_login(stage: Stage, browser: Browser) -> None:
    session = PageSession(stage.server.base_url, stage.alice.user_id, "ALICE1", "no-token", stage.room)
    page = await browser.open(stage.address, session)
    await page.wait_words("Logged out")
    await page.page.get_by_role("button", name="Log in").click()
    await page.wait_words("Log in with Matrix")


async def test_without_camera_and_microphone_one_can_still_join(stage: Stage) -> None:
    async with Browser(grant_devices=False) as browser:
        page = await browser.open(stage.address, stage.session(stage.alice))
        await page.wait_words("This page is not allowed to use the camera.")
        assert "This page is not allowed to use the microphone." in await page.words()
        await page.page.locator("button.join").click()
        invite = await next_invite(stage.silent_focus)
        assert invite["org.matrix.msc3077.sdp_stream_metadata"] == {}
        assert "m=application" in invite["offer"]["sdp"]
