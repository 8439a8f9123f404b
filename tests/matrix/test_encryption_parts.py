"""Parts of encryption by themselves: turns and bounds on the way up, and whose keys are whose."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest

pytest.importorskip("olm")

from mautrix.crypto.account import OlmAccount

from mautrix_sfu.core.ids import Device, DeviceId, UserId
from mautrix_sfu.matrix import Counted, EncryptionSettings, Message, RefusedError, UnavailableError
from mautrix_sfu.matrix.encryption import Encryption
from mautrix_sfu.matrix.encryption import intake as intake_module
from mautrix_sfu.matrix.encryption.database import KeyStore
from mautrix_sfu.matrix.encryption.devices import FRESH_FOR, USER_QUERIES, Devices, KnownDevice
from mautrix_sfu.matrix.encryption.intake import MAX_PER_SENDER, Intake
from mautrix_sfu.matrix.encryption.rooms import Rooms
from mautrix_sfu.matrix.encryption.sessions import NoSessionError, Sessions
from mautrix_sfu.matrix.homeserver import Homeserver
from tests.support.olm import ENCRYPTED, OlmDevice

ALICE = "@alice:hs"


class Up:
    """What came up, and what was counted."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.delivered: list[list[Message]] = []
        self.counted: Counter[Counted] = Counter()
        self.intake = Intake(self._open, self.delivered.append, self._count)

    def _count(self, what: Counted, by: int) -> None:
        self.counted[what] += by

    async def _open(self, message: Message) -> Message | None:
        await asyncio.sleep(0)
        self.opened.append(message.sender)
        return None if message.content.get("bad") else message

    async def until_idle(self) -> None:
        worker = asyncio.create_task(self.intake.work())
        for _ in range(20_000):
            await asyncio.sleep(0)
            if not self.intake._senders:
                break
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


def messages(sender: str, *numbers: int, kind: str = ENCRYPTED, **more: Any) -> list[Message]:
    return [Message(sender, kind, {"n": number, **more}) for number in numbers]


async def test_who_encrypts_nothing_does_not_wait_and_who_does_is_heard_in_order() -> None:
    up = Up()
    plain = messages("@bob:hs", 1, 2, kind="m.call.invite")
    mixed = [*messages(ALICE, 1), *messages(ALICE, 2, kind="m.call.hangup"), *messages(ALICE, 3, bad=True)]
    assert up.intake.take([*mixed, *plain]) == plain
    later = messages(ALICE, 4, kind="m.call.invite")
    assert up.intake.take([*later, *plain]) == plain
    await up.until_idle()
    assert up.delivered == [mixed[:2], later]
    assert up.intake.take(later) == later


async def test_senders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "WORKERS", 1)
    up = Up()
    up.intake.take([*messages("@flood:hs", *range(100)), *messages(ALICE, 1, 2)])
    await up.until_idle()
    assert up.opened[:4] == ["@flood:hs", ALICE, "@flood:hs", ALICE] or up.opened[:3] == [ALICE, "@flood:hs", ALICE]


async def test_of_too_many_messages_the_oldest_of_a_page_and_then_the_newest_are_dropped() -> None:
    up = Up()
    up.intake.take(messages(ALICE, *range(MAX_PER_SENDER + 10)))
    up.intake.take(messages(ALICE, 999_999))
    await up.until_idle()
    (delivered,) = up.delivered
    assert [message.content["n"] for message in delivered] == list(range(10, MAX_PER_SENDER + 10))
    assert up.counted[Counted.ENCRYPTED_DROPPED] == 11


# ---------------------------------------------------------------- devices


class Keys:
    """A homeserver that tells keys, and a clock."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Any]] = {}
        self.failing: set[str] = set()
        self.asked = 0
        self.now = 0.0
        self.counted: Counter[Counted] = Counter()
        self.devices = Devices(cast("Homeserver", self), self._count, lambda: self.now)

    def _count(self, what: Counted, by: int) -> None:
        self.counted[what] += by

    async def request(self, _method: object, _path: str, content: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        users = [user for user in content["device_keys"] if user.partition(":")[2] not in self.failing]
        return {
            "device_keys": {user: self.keys.get(user, {}) for user in users},
            "failures": {server: {} for server in self.failing},
        }


async def no_request(*_: Any) -> dict[str, Any]:
    raise AssertionError


def device(user: str = ALICE, device_id: str = "A") -> OlmDevice:
    return OlmDevice(no_request, user, device_id)


async def test_keys_that_are_not_signed_by_their_device_are_nobodys() -> None:
    keys, honest = Keys(), device()
    good = honest.device_keys()
    other = device().device_keys()
    signature = {ALICE: {"ed25519:A": "A" * 86}}
    for wrong in (
        {**good, "signatures": signature},
        {**good, "signatures": {}},
        {**good, "device_id": "B"},
        {**good, "user_id": "@bob:hs"},
        {**good, "keys": other["keys"]},
        {**good, "algorithms": []},
        {**good, "keys": {}},
        {},
        None,
        "text",
    ):
        keys.keys[ALICE] = {"A": wrong}
        keys.devices.changed([ALICE])
        keys.now += 1000
        assert await keys.devices.by_key(ALICE, honest.identity_key) is None, wrong
    keys.keys[ALICE] = {"A": good}
    keys.now += 1000
    found = await keys.devices.by_key(ALICE, honest.identity_key)
    assert found is not None
    assert found.device == Device(UserId(ALICE), DeviceId("A"))


async def test_keys_are_asked_for_again_when_they_changed_or_are_old_or_a_new_one_is_seen() -> None:
    keys, first, second = Keys(), device(), device(device_id="B")
    keys.keys[ALICE] = {"A": first.device_keys()}
    for _ in range(3):
        assert await keys.devices.by_key(ALICE, first.identity_key)
    assert keys.asked == 1
    keys.keys[ALICE]["B"] = second.device_keys()
    assert await keys.devices.by_key(ALICE, second.identity_key)
    assert keys.asked == 2
    keys.devices.changed([ALICE])
    assert await keys.devices.by_key(ALICE, first.identity_key)
    assert keys.asked == 3
    keys.now += FRESH_FOR + 1
    del keys.keys[ALICE]["A"]
    assert await keys.devices.by_key(ALICE, first.identity_key) is None, "it was removed"


async def test_questions_for_a_users_keys_are_rationed() -> None:
    keys = Keys()
    for number in range(50):
        assert await keys.devices.by_key(ALICE, f"unknown{number}") is None
    assert keys.asked == 4
    assert keys.counted[Counted.KEY_QUERIES_LIMITED] == 46


async def test_what_is_known_holds_while_the_users_homeserver_does_not_answer_and_new_keys_are_noted() -> None:
    keys, known = Keys(), device("@carol:far")
    keys.keys["@carol:far"] = {"A": known.device_keys()}
    assert await keys.devices.by_key("@carol:far", known.identity_key)
    keys.failing.add("far")
    keys.now += FRESH_FOR + 1
    for _ in range(3):
        assert await keys.devices.by_key("@carol:far", known.identity_key)
    assert keys.asked == 2
    keys.failing.clear()
    keys.keys["@carol:far"] = {"A": device("@carol:far").device_keys()}
    keys.now += FRESH_FOR
    assert await keys.devices.by_key("@carol:far", known.identity_key) is None
    assert keys.counted[Counted.DEVICE_KEYS_CHANGED] == 1


@pytest.mark.parametrize("key", ["", "x" * 43 + "\x00", "\ud800" * 43, "x" * 42, "x" * 44, "ü" * 43, 7, None])
async def test_a_key_that_is_not_written_as_one_belongs_to_no_device(key: object) -> None:
    keys, honest = Keys(), device()
    for which in ("curve25519:A", "ed25519:A"):
        content = honest.device_keys()
        content["keys"][which] = key
        del content["signatures"]
        try:
            keys.keys[ALICE] = {"A": honest.signed(content)}
        except UnicodeEncodeError:
            keys.keys[ALICE] = {"A": {**content, "signatures": {ALICE: {"ed25519:A": "A" * 86}}}}
        keys.now += 1000
        assert await keys.devices.of([ALICE]) == []
        keys.devices.changed([ALICE])


async def test_a_device_whose_id_no_database_keeps_is_none() -> None:
    for device_id in ("A\x00", "A" * 256):
        keys, odd = Keys(), device(device_id=device_id)
        keys.keys[ALICE] = {device_id: odd.device_keys()}
        assert await keys.devices.by_key(ALICE, odd.identity_key) is None


async def test_a_device_that_may_not_be_asked_for_counts_as_not_known_rather_than_without_keys() -> None:
    keys, honest = Keys(), device()
    keys.keys[ALICE] = {"A": honest.device_keys()}
    for number in range(USER_QUERIES[0]):
        assert await keys.devices.by_key(ALICE, f"unknown{number}") is None
    keys.devices.changed([ALICE])
    alice = Device(UserId(ALICE), DeviceId("A"))
    with pytest.raises(UnavailableError):
        await keys.devices.by_id(alice)
    keys.now += 60
    found = await keys.devices.by_id(alice)
    assert found is not None
    assert found.identity_key == honest.identity_key


# ---------------------------------------------------------------- sessions


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"one_time_keys": None},
        {"one_time_keys": []},
        {"one_time_keys": {ALICE: ["A"]}},
        {"one_time_keys": {ALICE: {"A": ["signed_curve25519:x"]}}},
        {"one_time_keys": {ALICE: {"A": {}}}},
        {"one_time_keys": {ALICE: {"A": {"signed_curve25519:x": "key"}}}},
        {"one_time_keys": {ALICE: {"A": {"signed_curve25519:x": {"key": 7}}}}},
        {"one_time_keys": {ALICE: {"A": {"signed_curve25519:x": {"key": "A" * 43, "signatures": {}}}}}},
    ],
)
async def test_a_one_time_key_that_another_homeserver_makes_up_is_none(answer: dict[str, Any]) -> None:
    class Claims:
        async def request(self, *_: object) -> dict[str, Any]:
            return answer

        async def get_latest_session(self, _: str) -> None:
            return None

    alice = device()
    known = KnownDevice(Device(UserId(ALICE), DeviceId("A")), alice.identity_key, alice.signing_key)
    focus = Device(UserId("@sfu:hs"), DeviceId("SFU1"))
    sessions = Sessions(cast("Homeserver", Claims()), focus, OlmAccount(), cast("KeyStore", Claims()))
    with pytest.raises(NoSessionError):
        await sessions.encrypt(known, "m.call.answer", {})


# ---------------------------------------------------------------- what is said of it


async def test_a_flood_of_plain_text_about_an_encrypted_call_is_counted_and_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Parts:
        seals = property(lambda _: Parts())

        def holds(self, *_: object) -> bool:
            return True

    counted: Counter[Counted] = Counter()

    def count(what: Counted, by: int) -> None:
        counted[what] += by

    encryption = Encryption(
        cast("Homeserver", None), cast("EncryptionSettings", None), lambda _: None, count, lambda: 0.0
    )
    encryption._parts = cast("Any", Parts())
    content = {"device_id": "A", "conf_id": "c"}
    assert encryption.take([Message(ALICE, "m.call.hangup", content)] * 100) == []
    assert encryption.take([Message("@bob:hs", "m.call.hangup", content)]) == []
    assert counted[Counted.DOWNGRADES] == 101
    assert [ALICE in line for line in caplog.messages] == [True] * 3 + [False]


# ---------------------------------------------------------------- rooms


async def test_members_whose_homeserver_is_silent_or_refuses_hold_up_nobody_who_reads_the_bot() -> None:
    members = {f"@{name}:{server}": device(f"@{name}:{server}") for server in ("hs", "far", "odd") for name in "abc"}
    asked: list[str] = []
    given: set[str] = set()

    class Server:
        focus = Device(UserId("@sfu:hs"), DeviceId("SFU1"))

        async def request(self, _method: object, path: str, content: Any = None, **_: Any) -> dict[str, Any]:
            if path.endswith("joined_members"):
                return {"joined": dict.fromkeys(members)}
            if path.endswith("keys/query"):
                return {"device_keys": {user: {"A": member.device_keys()} for user, member in members.items()}}
            if "sendToDevice" in path:
                given.update(content["messages"])
            return {}

    class Olm:
        async def encrypt(self, known: KnownDevice, *_: object) -> dict[str, Any]:
            asked.append(known.device.user_id)
            if known.device.homeserver == "far":
                raise UnavailableError("no answer")
            if known.device.homeserver == "odd":
                raise RefusedError(400, "M_UNKNOWN", "not for this one")
            return {}

    server = cast("Homeserver", Server())
    counted: Counter[Counted] = Counter()
    rooms = Rooms(
        server,
        Devices(server, counted.__setitem__),
        lambda _: True,
        lambda _: None,
        lambda *_: None,
        counted.__setitem__,
    )
    rooms.open(OlmAccount(), cast("KeyStore", None), cast("Sessions", Olm()))
    event_type, _ = await rooms.seal("!r:hs", {"body": "hello"})
    assert event_type == ENCRYPTED
    assert given == {"@a:hs", "@b:hs", "@c:hs"}
    assert [user for user in asked if user.endswith(":far")] == ["@a:far"]
