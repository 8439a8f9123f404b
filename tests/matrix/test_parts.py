"""The edge's parts where a real homeserver would not do what is needed: nonsense, floods, time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from mautrix.api import Method

from mautrix_sfu.core.ids import Device, DeviceId, RoomId, UserId
from mautrix_sfu.matrix import (
    Counted,
    Matrix,
    MatrixSettings,
    Message,
    RawEvent,
    health,
    ping,
    to_device,
    transactions,
)
from mautrix_sfu.matrix.bot_room import BotRooms
from mautrix_sfu.matrix.health import Health
from mautrix_sfu.matrix.homeserver import Homeserver, RefusedError, UnavailableError
from mautrix_sfu.matrix.outgoing import Outgoing
from mautrix_sfu.matrix.ping import Pinger
from mautrix_sfu.matrix.snapshots import Snapshots
from mautrix_sfu.matrix.to_device import Inbox
from mautrix_sfu.matrix.transactions import Listener, always
from tests.matrix.conftest import Sink
from tests.support.synapse import free_port

FOCUS = Device(UserId("@sfu:x"), DeviceId("SFU1"))
Handler = Callable[[web.Request], web.Response]
Serve = Callable[[Handler], Any]


def ignore(_what: Counted, _by: int) -> None:
    """Count nothing."""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve whatever a test says as the homeserver, and give a client for it."""
    opened: list[tuple[web.AppRunner, Homeserver]] = []

    async def start(handler: Handler) -> Homeserver:
        async def handle(request: web.Request) -> web.Response:
            return handler(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        client = Homeserver(f"http://127.0.0.1:{port}", "secret", FOCUS)
        client.open()
        opened.append((runner, client))
        return client

    yield start
    for runner, client in opened:
        await client.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda: web.json_response([], status=502), UnavailableError),
        (lambda: web.Response(text="<html>", content_type="text/html"), UnavailableError),
        (lambda: web.Response(text="<html>", status=404, content_type="text/html"), UnavailableError),
        (lambda: web.Response(text="{", content_type="application/json"), UnavailableError),
        (lambda: web.json_response("text"), UnavailableError),
        (lambda: web.json_response({"errcode": 3, "error": []}, status=403), UnavailableError),
        (lambda: web.json_response({"errcode": "M_LIMIT_EXCEEDED", "error": "slow"}, status=429), UnavailableError),
        (lambda: web.json_response({"errcode": "M_FORBIDDEN", "error": "no"}, status=403), RefusedError),
        (lambda: web.json_response({"errcode": "ORG.OTHER", "error": "no"}, status=400), RefusedError),
    ],
)
async def test_whatever_answers_is_a_refusal_or_a_reason_to_try_again(
    serve: Serve, answer: Callable[[], web.Response], expected: type[Exception]
) -> None:
    client = await serve(lambda _request: answer())
    with pytest.raises(expected):
        await client.request(Method.GET, "/x")


async def test_a_full_queue_puts_transactions_off_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "MAX_QUEUED", 3)
    counted: Counter[Counted] = Counter()
    handed_up: list[RawEvent] = []
    room_for_more = asyncio.Event()

    def count(what: Counted, by: int) -> None:
        counted[what] += by

    listener = Listener("secret", {"m.call": always}, handed_up.append, count, "x")
    listener.on_room_for_more = room_for_more.set
    port = free_port()
    await listener.start("127.0.0.1", port)
    worker = None
    try:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session:

            async def put(*numbers: int) -> int:
                event = {"type": "m.call", "room_id": "!r:x", "sender": "@a:x", "content": {}}
                body = {"events": [event | {"event_id": f"${number}"} for number in numbers]}
                url = f"http://127.0.0.1:{port}/_matrix/app/v1/transactions/{numbers[0]}"
                async with session.put(url, json=body) as response:
                    return response.status

            first = asyncio.ensure_future(put(1, 2, 3))
            while listener.idle:
                await asyncio.sleep(0.01)
            assert await put(4) == 503
            worker = asyncio.create_task(listener.work())
            await asyncio.wait_for(room_for_more.wait(), 5)
            assert await first == 200
            assert await put(4) == 200
            while len(handed_up) < 4:
                await asyncio.sleep(0.01)
    finally:
        if worker is not None:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        await listener.stop()
    assert [event["event_id"] for event in handed_up] == ["$1", "$2", "$3", "$4"]
    assert counted[Counted.TRANSACTIONS_REFUSED] == 1


async def test_an_age_that_is_no_time_is_not_looked_at_and_delays_no_event() -> None:
    listener = Listener("secret", {"m.call": always}, lambda _event: None, ignore, "x")
    ages: list[float] = []
    listener.on_lag = ages.append
    event = {"type": "m.call", "event_id": "$1", "room_id": "!r:x", "sender": "@a:x", "content": {}}
    for age in (10**400, -(10**400), 1.5, "old", None, 2000):
        assert listener.take([event | {"unsigned": {"age": age}}])
    assert ages == [2.0]
    assert listener.waiting == 6


async def test_what_the_bot_cannot_seal_because_of_a_fault_is_counted_and_it_goes_on(serve: Serve) -> None:
    sent: list[str] = []
    counted: Counter[Counted] = Counter()

    def handler(request: web.Request) -> web.Response:
        sent.append(request.path)
        return web.json_response({"event_id": "$1"})

    async def seal(room_id: str, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if room_id == "!bad:x":
            raise AttributeError("as a member's homeserver may bring about")
        return "m.room.message", content

    def count(what: Counted, by: int) -> None:
        counted[what] += by

    bot = BotRooms(await serve(handler), lambda _user: True, lambda _event: None, lambda _room: None, count)
    bot.seal = seal
    bot.send("!bad:x", {"body": "one"})
    bot.send("!good:x", {"body": "two"})
    worker = asyncio.create_task(bot.work())
    await bot.finish(10.0)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert [path.split("/")[-4] for path in sent] == ["!good:x"]
    assert counted == {Counted.HANDLER_FAILED: 1}


async def test_the_bot_knows_its_rooms_though_the_homeserver_stumbles_at_the_start(
    serve: Serve,
) -> None:
    answers = [web.json_response({}, status=500), web.json_response({"joined_rooms": ["!r:x"]})]
    client = await serve(lambda _request: answers.pop(0))
    settings = MatrixSettings(client.url, FOCUS, "sfu", "as", "hs")
    matrix = Matrix(settings, Sink(), None)
    matrix._homeserver.open()
    await matrix._load_rooms()
    assert matrix.bot_rooms == {"!r:x"}
    await matrix.stop()


async def test_a_message_that_meets_a_fault_is_dropped_and_the_next_one_goes_out(serve: Serve) -> None:
    sent: list[str] = []
    counted: Counter[Counted] = Counter()

    def handler(request: web.Request) -> web.Response:
        sent.append(request.path)
        return web.json_response({})

    async def seal(_to: Device, event_type: str, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if content["n"] == 1:
            raise KeyError("a fault")
        return event_type, content

    def count(what: Counted, by: int) -> None:
        counted[what] += by

    outgoing = Outgoing(await serve(handler), count, seal)
    outgoing.open()
    for number in (1, 2):
        outgoing.send(FOCUS, "m.call.answer", {"n": number}, None)
    await outgoing.stop(10.0)
    assert len(sent) == 1
    assert counted == {Counted.HANDLER_FAILED: 1, Counted.TO_DEVICE_DROPPED: 1, Counted.TO_DEVICE_SENT: 1}
    assert outgoing.waiting == 0


async def test_the_homeserver_is_lost_after_some_seconds_of_failures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOST_AFTER", 0.1)
    reports: list[bool] = []
    under_test = Health(reports.append)
    under_test.failed()
    under_test.answered()
    await asyncio.sleep(0.2)
    assert reports == []
    under_test.failed()
    await asyncio.sleep(0.2)
    under_test.failed()
    assert reports == [False]
    under_test.answered()
    assert reports == [False, True]


async def test_late_transactions_count_as_a_lost_homeserver_until_fresh_ones_or_none_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "LAG_OVER_AFTER", 0.1)
    reports: list[bool] = []
    under_test = Health(reports.append)
    under_test.pushed(age=1.0)
    under_test.pushed(age=60.0)
    under_test.pushed(age=50.0)
    assert reports == [False]
    under_test.pushed(age=0.1)
    assert reports == [False, True]
    under_test.pushed(age=60.0)
    await asyncio.sleep(0.2)
    assert reports == [False, True, False, True]
    under_test.close()


@pytest.mark.parametrize("quiet", [True, False])
async def test_the_backlog_ends_with_quiet_or_with_an_event_made_after_the_ping(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setattr(ping, "QUIET", 0.3)
    client = await serve(lambda _request: web.json_response({"duration_ms": 1}))
    listener = Listener("secret", {}, lambda _event: None, ignore, "x")
    caught_up = asyncio.Event()
    pinger = Pinger(client, "sfu", listener, caught_up.set)
    pinger.want()
    worker = asyncio.create_task(pinger.work())
    try:
        for _ in range(10):  # an old event again and again: not caught up
            await asyncio.sleep(0.1)
            listener.take([{"type": "x", "sender": "@a:x", "unsigned": {"age": 60_000}}])
        assert not caught_up.is_set()
        if not quiet:
            listener.take([{"type": "x", "sender": "@a:x", "unsigned": {"age": 1}}])
        await asyncio.wait_for(caught_up.wait(), 0.25 if not quiet else 5)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_a_page_that_comes_twice_is_handed_up_once(serve: Serve) -> None:
    counted: Counter[Counted] = Counter()

    def count(what: Counted, by: int) -> None:
        counted[what] += by

    events = [{"sender": "@a:x", "type": "m.call.invite", "content": {"n": 1}}, {"sender": 3}, None]

    def sync(request: web.Request) -> web.Response:
        if request.query.get("since") == "s2":
            return web.json_response({"next_batch": "s3"})
        return web.json_response({"next_batch": "s1", "to_device": {"events": events}})

    client = await serve(sync)
    batches: list[Any] = []

    async def no_device() -> None:
        raise AssertionError

    inbox = Inbox(client, Health(lambda _up: None), lambda *page: batches.append(page), no_device, count, "s0")
    worker = asyncio.create_task(inbox.work())
    async with asyncio.timeout(45):
        while counted[Counted.TO_DEVICE_REPEATED] < 2:
            await asyncio.sleep(0.01)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert batches == [([Message("@a:x", "m.call.invite", {"n": 1})], "s1")]


async def test_a_large_backlog_comes_up_in_order_and_in_pieces_that_fit_into_memory(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_BACKLOG_SIZE", 100_000)

    def sync(request: web.Request) -> web.Response:
        number = int(request.query.get("since", "s0")[1:])
        if number == 20:
            return web.json_response({"next_batch": "s20"})
        event = {"sender": "@a:x", "type": "m.call.invite", "content": {"n": number, "padding": "x" * 30_000}}
        return web.json_response({"next_batch": f"s{number + 1}", "to_device": {"events": [event]}})

    async def no_device() -> None:
        raise AssertionError

    batches: list[list[Message]] = []
    client = await serve(sync)
    inbox = Inbox(client, Health(lambda _: None), lambda found, _: batches.append(found), no_device, ignore, "s0")
    worker = asyncio.create_task(inbox.work())
    async with asyncio.timeout(45):
        while sum(map(len, batches)) < 20:
            await asyncio.sleep(0.01)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert [message.content["n"] for batch in batches for message in batch] == list(range(20))
    assert [len(batch) for batch in batches] == [4] * 5


async def test_a_room_that_changed_while_it_was_read_is_read_again(serve: Serve) -> None:
    room = RoomId("!r:x")
    reads: list[str] = []
    delivered: list[Any] = []

    def state(request: web.Request) -> web.Response:
        reads.append(request.path)
        if len(reads) < 3:
            snapshots.changed(room)
        member = {"type": "m.room.member", "state_key": "@a:x", "content": {"read": len(reads)}}
        return web.json_response({"state": [member, {"type": "m.room.name"}, {"type": []}, None]})

    client = await serve(state)
    snapshots = Snapshots(client, lambda *answer: delivered.append(answer), ignore)
    worker = asyncio.create_task(snapshots.work())
    snapshots.request(room)
    async with asyncio.timeout(45):
        while not delivered:
            await asyncio.sleep(0.01)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert delivered == [(room, [{"type": "m.room.member", "state_key": "@a:x", "content": {"read": 3}}])]
    assert reads == ["/_synapse/admin/v1/rooms/!r:x/state"] * 3
