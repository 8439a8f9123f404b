"""Room events: what comes up, in what order, and what it costs when it does not concern calls."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from mautrix_sfu.matrix import Counted, RawEvent, transactions
from mautrix_sfu.matrix.transactions import Listener, always
from tests.matrix.conftest import StartFocus
from tests.support.synapse import Synapse, free_port

MEMBER = "org.matrix.msc3401.call.member"
CALL = "org.matrix.msc3401.call"


@pytest.mark.synapse
async def test_call_events_of_a_room_come_up_in_order_though_the_bot_is_not_in_it(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    focus = await start_focus(synapse)
    alice = await synapse.register_user("alice_order")
    room = await alice.create_room()
    await alice.send_state(room, CALL, "conf", {"m.intent": "m.room"})
    for number in range(30):
        await alice.send_state(room, MEMBER, alice.user_id, {"m.calls": [], "n": number})
    await focus.sink.until(lambda sink: len(sink.contents(room)) == 31)
    assert [content.get("n") for content in focus.sink.contents(room)[1:]] == list(range(30))


@pytest.mark.synapse
async def test_memberships_come_up_for_wanted_rooms_only_and_a_kick_is_one(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    focus = await start_focus(synapse)
    alice = await synapse.register_user("alice_kick")
    bob = await synapse.register_user("bob_kick")
    wanted = await alice.create_room(public=True)
    other = await alice.create_room(public=True)
    focus.sink.wanted.add(wanted)
    for room in (other, wanted):
        await bob.join(room)
        await alice.kick(room, bob.user_id)
    await focus.sink.until(lambda sink: len([e for e in sink.events if e["state_key"] == bob.user_id]) == 2)
    join, kick = (e for e in focus.sink.events if e["state_key"] == bob.user_id)
    assert join["content"]["membership"] == "join"
    assert kick["content"]["membership"] == "leave"
    assert kick["sender"] == alice.user_id
    assert kick["unsigned"]["replaces_state"] == join["event_id"]
    assert not focus.sink.contents(other)


@pytest.mark.synapse
async def test_it_is_caught_up_once_after_the_ping(synapse: Synapse, start_focus: StartFocus) -> None:
    focus = await start_focus(synapse)
    await focus.sink.until(lambda sink: sink.caught_up == 1, within=45)
    assert focus.sink.homeserver == []


@pytest.mark.synapse
async def test_what_happened_while_the_focus_was_down_comes_before_it_is_caught_up(
    synapse: Synapse, start_focus: StartFocus
) -> None:
    alice = await synapse.register_user("alice_backlog")
    room = await alice.create_room()
    for number in range(110):  # more than one transaction
        await alice.send_state(room, MEMBER, alice.user_id, {"m.calls": [], "n": number})
    focus = await start_focus(synapse)
    await focus.sink.until(lambda sink: sink.caught_up)
    assert [content["n"] for content in focus.sink.contents(room)] == list(range(110))


@pytest.mark.synapse
async def test_a_wrong_or_missing_token_is_refused_and_counted(
    synapse: Synapse, start_focus: StartFocus, counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse)
    url = f"http://127.0.0.1:{focus.settings.listen_port}/_matrix/app/v1/transactions/1"
    event = {"type": CALL, "event_id": "$a", "room_id": "!r:x", "sender": "@a:x", "content": {}, "state_key": ""}
    async with aiohttp.ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \xe9\xfc"}):
            async with session.put(url, json={"events": [event]}, headers=headers) as response:
                assert response.status == 401
        async with session.put(url, json={"events": [event]}, params={"access_token": "wrong"}) as response:
            assert response.status == 401
        assert counted[Counted.UNAUTHORIZED] == 4
        right = {"Authorization": f"Bearer {focus.settings.hs_token}"}
        async with session.put(url, json={"events": [event]}, headers=right) as response:
            assert response.status == 200
        # An old homeserver's way.
        async with session.put(url, json={"events": []}, params={"access_token": focus.settings.hs_token}) as response:
            assert response.status == 200
    await focus.sink.until(lambda sink: [e["event_id"] for e in sink.events] == ["$a"])


@pytest.mark.synapse
async def test_garbage_in_a_transaction_is_counted_and_harms_nothing(
    synapse: Synapse, start_focus: StartFocus, counted: Counter[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MAX_BODY", 200_000)
    focus = await start_focus(synapse)
    url = f"http://127.0.0.1:{focus.settings.listen_port}/_matrix/app/v1/transactions/"
    good = {"type": CALL, "event_id": "$g", "room_id": "!r:x", "sender": "@a:x", "content": {"self": 1}}
    events: list[object] = [
        None,
        1,
        "x",
        [],
        {},
        {"type": []},
        {"type": {}},
        {"type": CALL},
        good | {"content": 3},
        good,
    ]
    headers = {"Authorization": f"Bearer {focus.settings.hs_token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for body in (b"", b"{", b"[]", b"\xff", b'{"events": 1}', b"[" * 100_000):
            async with session.put(url + "1", data=body) as response:
                assert response.status == 400
        async with session.put(url + "1", data=b" " * 300_000) as response:
            assert response.status == 413
        async with session.put(url + "2", json={"events": [*events, good]}) as response:
            assert response.status == 200
    await focus.sink.until(lambda sink: [e["event_id"] for e in sink.events] == ["$g"])
    assert counted[Counted.MALFORMED] == 7 + 9


@pytest.mark.synapse
async def test_a_fault_above_the_edge_does_not_stop_the_next_event(
    synapse: Synapse, start_focus: StartFocus, counted: Counter[Counted]
) -> None:
    focus = await start_focus(synapse)
    focus.sink.fail_on = lambda event: event["content"].get("n") == 1
    alice = await synapse.register_user("alice_fault")
    room = await alice.create_room()
    for number in range(3):
        await alice.send_state(room, MEMBER, alice.user_id, {"m.calls": [], "n": number})
    await focus.sink.until(lambda sink: len(sink.contents(room)) == 2)
    assert [content["n"] for content in focus.sink.contents(room)] == [0, 2]
    assert counted[Counted.HANDLER_FAILED] == 1


def listener(handed_up: list[RawEvent], counted: Counter[Counted]) -> Listener:
    """A listener without its socket."""

    def count(what: Counted, by: int) -> None:
        counted[what] += by

    return Listener("secret", dict.fromkeys(transactions.ROOM_STATE_TYPES, always), handed_up.append, count, "x")


async def test_a_repeated_event_is_dropped_and_a_reused_transaction_id_is_not(counted: Counter[Counted]) -> None:
    handed_up: list[RawEvent] = []
    under_test = listener(handed_up, counted)
    event = {"type": CALL, "room_id": "!r:x", "sender": "@a:x", "content": {}}
    first, second = event | {"event_id": "$1"}, event | {"event_id": "$2"}
    under_test.take([first])
    under_test.take([first, second])
    async with working(under_test):
        while not under_test.idle:
            await asyncio.sleep(0)
    assert handed_up == [first, second]
    assert counted[Counted.EVENTS_REPEATED] == 1


async def test_a_transaction_is_answered_when_its_events_are_kept_and_at_once_without_any(
    counted: Counter[Counted],
) -> None:
    handed_up: list[RawEvent] = []
    under_test = listener(handed_up, counted)
    keeping, kept = asyncio.Event(), asyncio.Event()

    async def keep() -> bool:
        assert handed_up, "nothing to wait for yet"
        keeping.set()
        await kept.wait()
        return len(handed_up) < 2

    under_test.kept = keep
    event = {"type": CALL, "event_id": "$1", "room_id": "!r:x", "sender": "@a:x", "content": {}}
    async with serving(under_test) as put:
        assert await put(event | {"type": "m.room.message"}) == 200
        async with working(under_test):
            answer = asyncio.ensure_future(put(event))
            await keeping.wait()
            await asyncio.sleep(0.05)
            assert not answer.done()
            kept.set()
            assert await answer == 200
            assert await put(event | {"event_id": "$2"}) == 503, "what is not kept has to come again"


async def test_a_focus_that_stops_answers_no_transaction_that_it_did_not_work_off(counted: Counter[Counted]) -> None:
    under_test = listener([], counted)
    event = {"type": CALL, "event_id": "$1", "room_id": "!r:x", "sender": "@a:x", "content": {}}
    async with serving(under_test) as put:
        answer = asyncio.ensure_future(put(event))
        while under_test.idle:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await under_test.stop()
        assert await answer == 503
        assert time.monotonic() - began < 2  # what aiohttp would wait for


@asynccontextmanager
async def working(under_test: Listener) -> AsyncIterator[None]:
    """Let it work its queue off."""
    work = asyncio.ensure_future(under_test.work())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])


@asynccontextmanager
async def serving(under_test: Listener) -> AsyncIterator[Callable[[RawEvent], Awaitable[int]]]:
    """Let it listen; gives what sends it a transaction of one event and returns the status."""
    port = free_port()
    await under_test.start("127.0.0.1", port)
    url = f"http://127.0.0.1:{port}/_matrix/app/v1/transactions/1"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session:

        async def put(event: RawEvent) -> int:
            async with session.put(url, json={"events": [event]}) as response:
                return response.status

        yield put
    await under_test.stop()


async def test_an_event_that_concerns_no_call_costs_a_fraction_of_its_parsing(counted: Counter[Counted]) -> None:
    """Measured as a ratio, so that a slow machine says the same; the parsing itself takes microseconds."""
    handed_up: list[RawEvent] = []
    under_test = listener(handed_up, counted)
    message = {
        "type": "m.room.message",
        "event_id": "$" + "x" * 43,
        "room_id": "!abcdefghijklmnopqr:example.org",
        "sender": "@somebody:example.org",
        "origin_server_ts": 1_700_000_000_000,
        "content": {"msgtype": "m.text", "body": "a line as people write it, no more than that " * 2},
        "unsigned": {"age": 12, "membership": "join"},
    }
    text = json.dumps({"events": [message] * 1000})
    parsing, filtering = [], []
    for _ in range(7):
        before = time.perf_counter()
        events = json.loads(text)["events"]
        between = time.perf_counter()
        under_test.take(events)
        parsing.append(between - before)
        filtering.append(time.perf_counter() - between)
    assert under_test.idle
    assert min(filtering) < min(parsing) / 4
    assert min(filtering) / 1000 < 5e-6  # seconds per event
