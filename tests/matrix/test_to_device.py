"""To-device messages in and out, against a real Synapse."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter

import pytest

from mautrix_sfu.core.ids import Device, DeviceId, RoomId, UserId
from mautrix_sfu.matrix import Counted, Message
from mautrix_sfu.matrix.outgoing import MAX_PER_USER
from tests.conftest import MakeSynapse
from tests.matrix.conftest import Focus, Sink, StartFocus, registration, settings_for
from tests.support.synapse import Client, MatrixError, Synapse

INVITE = "m.call.invite"
ANSWER = "m.call.answer"


def device(client: Client) -> Device:
    return Device(UserId(client.user_id), DeviceId(client.device_id))


@pytest.mark.synapse
async def test_1000_messages_arrive_in_order_and_once_while_others_talk_and_the_focus_answers(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    """The push to application services loses one in five of them under this load (docs: matrix facts)."""
    focus = await start_focus(synapse)
    senders = [await synapse.register_user(f"sender{i}_{secrets.token_hex(2)}") for i in range(4)]
    others = [await synapse.register_user(f"other{i}_{secrets.token_hex(2)}") for i in range(2)]
    listener = await synapse.register_user(f"listener_{secrets.token_hex(2)}")
    per_sender, answers = 250, 200

    async def send(client: Client) -> None:
        for number in range(per_sender):
            await client.send_to_device(INVITE, focus.device.user_id, focus.device.device_id, {"n": number})

    async def chatter(client: Client, peer: Client) -> None:
        while True:
            await client.send_to_device("m.test", peer.user_id, peer.device_id, {})

    noise = [asyncio.create_task(chatter(*pair)) for pair in (others, others[::-1])]
    try:
        for number in range(answers):
            focus.matrix.send_to_device(device(listener), ANSWER, {"n": number})
        received, _ = await asyncio.gather(
            listener.to_device(answers, within=90), asyncio.gather(*(send(client) for client in senders))
        )
        await focus.sink.until(lambda sink: len(sink.messages) >= len(senders) * per_sender, within=45)
    finally:
        for task in noise:
            task.cancel()
        await asyncio.gather(*noise, return_exceptions=True)
    assert [event["content"]["n"] for event in received] == list(range(answers))
    await asyncio.sleep(0.3)  # nothing comes twice
    assert len(focus.sink.messages) == len(senders) * per_sender
    for client in senders:
        assert [message.content["n"] for message in focus.sink.messages if message.sender == client.user_id] == list(
            range(per_sender)
        )


@pytest.mark.synapse
async def test_what_came_while_the_focus_was_down_is_one_batch_and_nothing_from_before_comes_again(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    alice = await synapse.register_user("alice_down")
    first = await start_focus(synapse)
    await alice.send_to_device(INVITE, first.device.user_id, first.device.device_id, {"n": "before"})
    await first.sink.until(lambda sink: Message(alice.user_id, INVITE, {"n": "before"}) in sink.messages)
    await first.matrix.stop()
    for number in range(130):  # more than a page
        await alice.send_to_device(INVITE, first.device.user_id, first.device.device_id, {"n": number})
    second = await start_focus(synapse, position=first.sink.position)
    await second.sink.until(lambda sink: sink.messages)
    assert len(second.sink.batches) == 1
    assert second.sink.messages == [Message(alice.user_id, INVITE, {"n": number}) for number in range(130)]


@pytest.mark.synapse
async def test_messages_go_out_as_the_focus_in_order_and_when_what_they_wait_for_is_done(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    focus = await start_focus(synapse)
    alice = await synapse.register_user("alice_out")
    bob = await synapse.register_user("bob_out")
    stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    focus.matrix.send_to_device(device(alice), ANSWER, {"n": 0}, after=stored)
    focus.matrix.send_to_device(device(alice), "m.call.hangup", {"n": 1})
    focus.matrix.send_to_device(device(bob), ANSWER, {"n": 2})
    assert [event["content"] for event in await bob.to_device(1)] == [{"n": 2}]
    assert not (await alice.sync()).get("to_device", {}).get("events")
    stored.set_result(None)
    events = await alice.to_device(2)
    assert [(event["sender"], event["type"], event["content"]["n"]) for event in events] == [
        (focus.device.user_id, ANSWER, 0),
        (focus.device.user_id, "m.call.hangup", 1),
    ]


@pytest.mark.synapse
async def test_a_message_whose_store_failed_or_that_is_too_large_is_dropped_and_the_next_one_goes(
    synapse: Synapse, start_focus: StartFocus, counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse)
    alice = await synapse.register_user("alice_drop")
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(OSError("disk full"))
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    focus.matrix.send_to_device(device(alice), ANSWER, {"n": 0}, after=failed)
    focus.matrix.send_to_device(device(alice), ANSWER, {"n": 1}, after=cancelled)
    focus.matrix.send_to_device(device(alice), ANSWER, {"sdp": "x" * 70_000})
    focus.matrix.send_to_device(device(alice), ANSWER, {"n": 3})
    assert [event["content"] for event in await alice.to_device(1)] == [{"n": 3}]
    assert counted[Counted.TO_DEVICE_DROPPED] == 3


@pytest.mark.synapse
async def test_one_users_full_queue_drops_only_that_users_messages(
    synapse: Synapse, start_focus: StartFocus, counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse)
    alice = await synapse.register_user("alice_full")
    bob = await synapse.register_user("bob_full")
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for number in range(MAX_PER_USER + 7):
        focus.matrix.send_to_device(device(alice), ANSWER, {"n": number}, after=never)
    focus.matrix.send_to_device(device(bob), ANSWER, {"n": 0})
    await bob.to_device(1)
    assert counted[Counted.TO_DEVICE_DROPPED] == 7
    never.set_result(None)
    events = await alice.to_device(MAX_PER_USER)
    assert [event["content"]["n"] for event in events] == list(range(MAX_PER_USER))


@pytest.mark.synapse
async def test_messages_survive_a_restart_of_the_homeserver_both_ways(
    make_synapse: MakeSynapse, start_focus: StartFocus, counted: Counter[Counted]
) -> None:
    synapse = await make_synapse(registration())
    focus = await start_focus(synapse)
    alice = await synapse.register_user("alice")
    await alice.sync()
    room = await alice.create_room()
    await alice.send_state(room, "m.call", "conf", {"n": "before"})
    await focus.sink.until(lambda sink: sink.contents(room))
    await synapse.stop()
    for number in range(20):
        focus.matrix.send_to_device(device(alice), ANSWER, {"n": number})
    await focus.sink.until(lambda sink: sink.homeserver == [False])  # after five seconds
    await synapse.start()
    await focus.sink.until(lambda sink: sink.homeserver == [False, True], within=60)
    events = await alice.to_device(20, within=60)
    assert [event["content"]["n"] for event in events] == list(range(20))
    assert counted[Counted.TO_DEVICE_RETRIED] > 0
    await alice.send_to_device(INVITE, focus.device.user_id, focus.device.device_id, {"n": "after"})
    await focus.sink.until(lambda sink: sink.messages == [Message(alice.user_id, INVITE, {"n": "after"})])
    # Synapse's transaction ids start at 1 again.
    await alice.send_state(room, "m.call", "conf", {"n": "after"})
    await focus.sink.until(lambda sink: len(sink.contents(room)) == 2)
    assert [content["n"] for content in focus.sink.contents(room)] == ["before", "after"]


@pytest.mark.synapse
async def test_a_device_that_somebody_removed_is_made_again(synapse: Synapse, start_focus: StartFocus) -> None:
    focus = await start_focus(synapse)
    admin = await synapse.register_user("admin_device", admin=True)
    path = f"/_synapse/admin/v2/users/{focus.device.user_id}/devices/{focus.device.device_id}"
    await admin.request("DELETE", path)
    # A long poll that is under way may still end well; the next one finds that the device is gone.
    async with asyncio.timeout(45):
        while True:
            await admin.send_to_device("m.test", focus.device.user_id, focus.device.device_id, {})
            try:
                await admin.request("GET", path)
                break
            except MatrixError:
                await asyncio.sleep(0.2)
    seen = len(focus.sink.messages)
    await admin.send_to_device(INVITE, focus.device.user_id, focus.device.device_id, {"n": 1})
    await focus.sink.until(lambda sink: Message(admin.user_id, INVITE, {"n": 1}) in sink.messages[seen:])
    assert not focus.sink.fatal


@pytest.mark.synapse
async def test_a_position_that_the_homeserver_does_not_know_is_given_up(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    focus = await start_focus(synapse, position="nonsense")
    alice = await synapse.register_user("alice_position")
    await alice.send_to_device(INVITE, focus.device.user_id, focus.device.device_id, {"n": "position"})
    await focus.sink.until(lambda sink: Message(alice.user_id, INVITE, {"n": "position"}) in sink.messages)


@pytest.mark.synapse
async def test_what_is_sent_before_the_start_goes_out_after_it(synapse: Synapse) -> None:
    alice = await synapse.register_user("alice_early")
    focus = Focus(settings_for(synapse), None, Sink())
    focus.matrix.send_to_device(device(alice), "m.call.hangup", {"n": 0})
    focus.matrix.request_snapshot(RoomId("!somewhere:localhost"))
    await asyncio.sleep(0.05)
    await focus.matrix.start()
    try:
        assert [event["content"] for event in await alice.to_device(1)] == [{"n": 0}]
        await focus.sink.until(lambda sink: sink.snapshots == [("!somewhere:localhost", None)])
    finally:
        await focus.matrix.stop()
