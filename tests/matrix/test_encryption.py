"""Encrypted signalling at the Matrix edge: a real Synapse, and a client whose Olm is another implementation."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("olm")

from mautrix_sfu.core.ids import Device, DeviceId, UserId
from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.matrix import Counted, EncryptionSettings, Message
from mautrix_sfu.store import mautrix_database
from tests.matrix.conftest import Focus, StartFocus
from tests.support.olm import ENCRYPTED, OlmDevice, is_signed
from tests.support.synapse import Client, Synapse

pytestmark = pytest.mark.synapse

INVITE, HANGUP, ANSWER = "m.call.invite", "m.call.hangup", "m.call.answer"


@pytest.fixture
def settings(tmp_path: Path, synapse: Synapse) -> Callable[..., dict[str, Any]]:
    """The options that make a focus encrypt; all of a test have one database, and a device that no other test has."""
    device = Device(UserId(synapse.user("sfu")), DeviceId(f"SFU{secrets.token_hex(3)}"))

    database = functools.partial(mautrix_database, f"sqlite:{tmp_path / 'focus.db'}")

    def make(**changes: Any) -> dict[str, Any]:
        return {"focus": device, "encryption": EncryptionSettings(database, **changes)}

    return make


async def member(synapse: Synapse, name: str) -> tuple[Client, OlmDevice]:
    client = await synapse.register_user(f"{name}_{secrets.token_hex(3)}")
    olm = OlmDevice(client.request, client.user_id, client.device_id)
    await olm.publish()
    return client, olm


def call(client: Client, conf_id: str = "conf", **more: Any) -> dict[str, Any]:
    return {"call_id": "c", "conf_id": conf_id, "device_id": client.device_id, "party_id": client.device_id, **more}


async def say(focus: Focus, who: tuple[Client, OlmDevice], event_type: str, content: Any, **claims: Any) -> None:
    client, olm = who
    encrypted = await olm.encrypt(focus.device.user_id, focus.device.device_id, event_type, content, **claims)
    await send(focus, client, ENCRYPTED, encrypted)


async def send(focus: Focus, client: Client, event_type: str, content: Any) -> None:
    await client.send_to_device(event_type, focus.device.user_id, focus.device.device_id, content)


async def published(focus: Focus, client: Client) -> dict[str, Any]:
    body: dict[str, Any] = {"device_keys": {focus.device.user_id: []}}
    answer = await client.request("POST", "/_matrix/client/v3/keys/query", body)
    keys: dict[str, Any] = answer["device_keys"][focus.device.user_id].get(focus.device.device_id, {})
    return keys


async def until(condition: Callable[[], object], within: float = 15.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


def address(client: Client) -> Device:
    return Device(UserId(client.user_id), DeviceId(client.device_id))


async def test_what_a_device_encrypts_comes_up_in_order_as_proven_and_is_answered_encrypted(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, olm = await member(synapse, "alice")
    for number in range(5):
        await say(focus, alice, INVITE, call(client, n=number))
    await focus.sink.until(lambda sink: len(sink.messages) == 5)
    assert focus.sink.messages == [
        Message(client.user_id, INVITE, call(client, n=number), proven=True) for number in range(5)
    ]
    focus.matrix.send_to_device(address(client), ANSWER, call(client, answer="sdp"))
    (event,) = await client.to_device(1)
    assert event["type"] == ENCRYPTED
    payload = olm.decrypt(event)
    assert (payload["type"], payload["content"]["answer"]) == (ANSWER, "sdp")
    assert payload["sender_device"] == focus.device.device_id
    await say(focus, alice, HANGUP, call(client))  # over the session that both have used by now
    await focus.sink.until(lambda sink: len(sink.messages) == 6)
    focus.matrix.send_to_device(address(client), ANSWER, call(client, "another call"))
    (event,) = await client.to_device(1)
    assert event["type"] == ANSWER  # which nobody began encrypted
    assert (counted[Counted.DECRYPTED], counted[Counted.ENCRYPTED], counted[Counted.UNDECRYPTABLE]) == (6, 1, 0)


async def test_a_device_that_claims_to_be_another_is_dropped(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, _ = await member(synapse, "alice")
    other = await synapse.login(client.user_id, device_id="OTHER")
    for lie in ({"device_id": "OTHER"}, {"party_id": "OTHER"}, {"device_id": None}):
        await say(focus, alice, INVITE, {**call(client), **lie})
    await say(focus, alice, HANGUP, call(client))
    await focus.sink.until(lambda sink: sink.messages)
    assert [message.type for message in focus.sink.messages] == [HANGUP]
    assert counted[Counted.DEVICE_LIES] == 3
    # In plain text the other device cannot speak for it either, but for itself it can, and in other calls.
    await send(focus, other, HANGUP, call(client))
    await send(focus, other, INVITE, call(other))
    await send(focus, other, INVITE, call(client, "another call"))
    await focus.sink.until(lambda sink: len(sink.messages) == 3)
    assert focus.sink.messages[1:] == [
        Message(client.user_id, INVITE, call(other)),
        Message(client.user_id, INVITE, call(client, "another call")),
    ]
    assert counted[Counted.DOWNGRADES] == 1


async def test_a_call_whose_id_no_database_keeps_is_dropped_without_a_fault(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, _ = await member(synapse, "alice")
    for conf_id in ("a\x00", "\ud800", "x" * 256):
        await say(focus, alice, INVITE, call(client, conf_id))
    await say(focus, alice, INVITE, call(client, "x" * 255))
    await focus.sink.until(lambda sink: sink.messages)
    assert [message.content["conf_id"] for message in focus.sink.messages] == ["x" * 255]
    assert (counted[Counted.MALFORMED], counted[Counted.HANDLER_FAILED]) == (3, 0)


async def test_a_payload_that_says_other_than_its_keys_is_dropped(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, olm = await member(synapse, "alice")
    mallory = other, other_olm = await member(synapse, "mallory")
    lies: list[dict[str, Any]] = [
        {"sender": "@bob:localhost"},
        {"recipient": "@bob:localhost"},
        {"recipient_keys": {"ed25519": olm.signing_key}},
        {"keys": {"ed25519": other_olm.signing_key}},
        {"type": 1},
    ]
    for lie in lies:
        await say(focus, alice, INVITE, call(client), **lie)
    # A device whose keys claim to be hers does not come to speak for her: its payload names its own signing key.
    stolen = OlmDevice(other.request, other.user_id, other.device_id)
    stolen.account = olm.account
    await send(
        focus,
        other,
        ENCRYPTED,
        await stolen.encrypt(focus.device.user_id, focus.device.device_id, INVITE, call(other)),
    )
    await say(focus, mallory, INVITE, call(other))
    await say(focus, alice, INVITE, call(client))
    await focus.sink.until(lambda sink: len(sink.messages) == 2)
    assert {message.sender for message in focus.sink.messages} == {client.user_id, other.user_id}
    assert counted[Counted.UNDECRYPTABLE] == len(lies) + 1


async def test_the_keys_are_signed_and_there_are_always_one_time_keys_and_a_fallback_key(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, olm = await member(synapse, "alice")
    keys = await published(focus, client)
    device_id = focus.device.device_id
    signing_key = keys["keys"][f"ed25519:{device_id}"]
    assert is_signed(keys, focus.device.user_id, device_id, signing_key)
    await until(lambda: counted[Counted.KEYS_PUBLISHED] == 51)  # a fallback key with them
    seen: dict[str, Any] = {}
    while True:  # all that there are, and then the fallback key
        ((key_id, key),) = (await olm.claim(focus.device.user_id, device_id)).items()
        assert is_signed(key, focus.device.user_id, device_id, signing_key)
        if key.get("fallback"):
            break
        seen[key_id] = key
    assert len(seen) >= 50
    assert len({key["key"] for key in seen.values()}) == len(seen)
    # What is claimed can be used, whichever it is; the message tells the focus to look, and it fills up.
    await say(focus, alice, INVITE, call(client))
    await focus.sink.until(lambda sink: sink.messages)
    await until(lambda: counted[Counted.KEYS_PUBLISHED] >= 51 + 51)
    ((key_id, key),) = (await olm.claim(focus.device.user_id, device_id)).items()
    assert key_id not in seen
    assert not key.get("fallback")


async def test_a_restart_keeps_the_keys_the_sessions_and_which_calls_are_encrypted(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    first = await start_focus(synapse, **settings())
    alice = client, olm = await member(synapse, "alice")
    await say(first, alice, INVITE, call(client))
    await first.sink.until(lambda sink: sink.messages)
    keys = await published(first, client)
    await first.matrix.stop()
    await say(first, alice, HANGUP, call(client))  # waits
    second = await start_focus(synapse, position=first.sink.position, **settings())
    assert (await published(second, client))["keys"] == keys["keys"]
    await second.sink.until(lambda sink: sink.messages)
    assert second.sink.messages == [Message(client.user_id, HANGUP, call(client), proven=True)]
    second.matrix.send_to_device(address(client), HANGUP, call(client))
    (event,) = await client.to_device(1)
    assert olm.decrypt(event)["type"] == HANGUP
    await send(second, client, INVITE, call(client))
    await until(lambda: counted[Counted.DOWNGRADES])
    assert counted[Counted.UNDECRYPTABLE] == 0


async def test_keys_stored_with_another_pickle_key_are_one_clear_line(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]]
) -> None:
    focus = await start_focus(synapse, **settings(pickle_key="the first one"))
    await focus.matrix.stop()
    with pytest.raises(FatalError, match=r"encryption\.pickle_key") as caught:
        await start_focus(synapse, **settings(pickle_key="the second one"))
    assert caught.value.exit_code is ExitCode.CONFIG
    assert "the second one" not in str(caught.value)


async def test_a_lost_database_and_an_old_one_make_the_device_again(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    first = await start_focus(synapse, **settings())
    alice = client, _ = await member(synapse, "alice")
    before = await published(first, client)
    await first.matrix.stop()
    (tmp_path / "old.db").write_bytes((tmp_path / "focus.db").read_bytes())
    for name in ("focus.db", "focus.db-wal", "focus.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    second = await start_focus(synapse, **settings())
    after = await published(second, client)
    assert after["keys"] != before["keys"]
    await say(second, alice, INVITE, call(client))
    await second.sink.until(lambda sink: sink.messages)
    await second.matrix.stop()
    (tmp_path / "focus.db").write_bytes((tmp_path / "old.db").read_bytes())
    for log in ("focus.db-wal", "focus.db-shm"):
        (tmp_path / log).unlink(missing_ok=True)
    third = await start_focus(synapse, **settings())
    assert (await published(third, client))["keys"] == before["keys"]
    await say(third, alice, INVITE, call(client))
    await third.sink.until(lambda sink: sink.messages)


async def test_a_device_that_somebody_removed_is_made_again_with_its_keys(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, _ = await member(synapse, "alice")
    before = await published(focus, client)
    admin = await synapse.register_user(f"admin_{secrets.token_hex(3)}", admin=True)
    await admin.request("DELETE", f"/_synapse/admin/v2/users/{focus.device.user_id}/devices/{focus.device.device_id}")
    async with asyncio.timeout(45):
        while (await published(focus, client)).get("keys") != before["keys"]:
            await send(focus, client, "m.test", {})
            await asyncio.sleep(0.2)
    await say(focus, alice, INVITE, call(client))
    await focus.sink.until(lambda sink: INVITE in [message.type for message in sink.messages])


async def test_a_focus_without_encryption_has_no_keys(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    first = await start_focus(synapse, **settings())
    client, _ = await member(synapse, "alice")
    assert await published(first, client)
    await first.matrix.stop()
    second = await start_focus(synapse, **settings() | {"encryption": None})
    assert not await published(second, client)
    await send(second, client, INVITE, call(client))
    await second.sink.until(lambda sink: sink.messages == [Message(client.user_id, INVITE, call(client))])


async def test_a_broken_session_is_replaced_by_a_new_one(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    alice = client, olm = await member(synapse, "alice")
    await say(focus, alice, INVITE, call(client))
    await focus.sink.until(lambda sink: sink.messages)
    focus.matrix.send_to_device(address(client), ANSWER, call(client))
    (event,) = await client.to_device(1)
    olm.decrypt(event)
    curve = event["content"]["sender_key"]
    broken = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": olm.identity_key,
        "ciphertext": {curve: {"type": 1, "body": "AwogGHj5l1JvJ1ZyWXcFZAgBUhyaHuP1NLRGnQGRvBt4dT8QACIgAAAAAAAA"}},
    }
    await send(focus, client, ENCRYPTED, broken)
    (event,) = await client.to_device(1)
    old = len(olm.sessions[curve])
    assert olm.decrypt(event)["type"] == "m.dummy"
    assert len(olm.sessions[curve]) == old + 1
    await say(focus, alice, HANGUP, call(client))
    await focus.sink.until(lambda sink: len(sink.messages) == 2)
    for _ in range(3):  # once an hour
        await send(focus, client, ENCRYPTED, broken)
    await until(lambda: counted[Counted.UNDECRYPTABLE] == 4)
    assert counted[Counted.SESSIONS_RENEWED] == 1


async def test_a_flood_of_what_cannot_be_decrypted_is_counted_and_delays_nobody_else(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    calm = client, _ = await member(synapse, "calm")
    await say(focus, calm, INVITE, call(client, n=0))
    flooder, flood_olm = await member(synapse, "flood")
    stranger = await synapse.register_user(f"stranger_{secrets.token_hex(3)}")
    sender_keys = [flood_olm.identity_key, *(secrets.token_urlsafe(32)[:43] for _ in range(5))]
    curve, _ = await flood_olm.keys_of(focus.device.user_id, focus.device.device_id)

    async def flood(who: Client) -> None:
        for number in range(250):
            ciphertext = {curve: {"type": number % 2, "body": secrets.token_urlsafe(200)}}
            garbage: list[Any] = [
                {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": key, "ciphertext": ciphertext}
                for key in sender_keys
            ]
            garbage += [{}, {"algorithm": "m.megolm.v1.aes-sha2"}, {**garbage[0], "ciphertext": []}]
            await send(focus, who, ENCRYPTED, garbage[number % len(garbage)])

    floods = asyncio.gather(flood(flooder), flood(stranger))
    loop = asyncio.get_running_loop()
    longest = 0.0
    for number in range(1, 21):
        start = loop.time()
        await say(focus, calm, INVITE, call(client, n=number))
        await until(lambda n=number: any(said.content.get("n") == n for said in focus.sink.messages))  # type: ignore[misc]
        longest = max(longest, loop.time() - start)
    await floods
    await until(lambda: counted[Counted.UNDECRYPTABLE] + counted[Counted.ENCRYPTED_DROPPED] == 500, within=45)
    assert counted[Counted.DECRYPTED] == 21
    assert counted[Counted.KEY_QUERIES] < 30
    assert counted[Counted.KEY_QUERIES_LIMITED] > 100
    assert longest < 2.0, longest
    assert not counted[Counted.HANDLER_FAILED]


async def test_a_focus_that_has_keys_is_dialled_encrypted_and_one_without_in_plain_text_unless_that_is_forbidden(
    synapse: Synapse, start_focus: StartFocus, settings: Callable[..., dict[str, Any]], counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse, **settings())
    client, olm = await member(synapse, "focus")
    plain = await synapse.register_user(f"plain_{secrets.token_hex(3)}")
    content = {"call_id": "x", "conf_id": "conf", "device_id": "SFU1", "party_id": "SFU1", "offer": {}}
    focus.matrix.send_to_device(address(client), INVITE, content)
    (event,) = await client.to_device(1)
    assert olm.decrypt(event)["type"] == INVITE
    focus.matrix.send_to_device(address(plain), INVITE, content)
    (event,) = await plain.to_device(1)
    assert (event["type"], event["content"]) == (INVITE, content)
    # Whom it dialled encrypted it does not believe in plain text.
    await send(focus, client, ANSWER, call(client))
    await say(focus, (client, olm), ANSWER, call(client))
    await focus.sink.until(lambda sink: sink.messages)
    assert focus.sink.messages == [Message(client.user_id, ANSWER, call(client), proven=True)]
    await focus.matrix.stop()
    strict = await start_focus(synapse, **settings(require=True))
    strict.matrix.send_to_device(address(plain), INVITE, content)
    strict.matrix.send_to_device(address(plain), HANGUP, content)
    (event,) = await plain.to_device(1)
    assert event["type"] == HANGUP
    assert counted[Counted.UNENCRYPTABLE] == 1
