"""A focus's Matrix edge beside a real Synapse, with a sink that writes down all it is told."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mautrix_sfu.core.ids import Device, DeviceId, RoomId, UserId
from mautrix_sfu.matrix import Counted, Matrix, MatrixSettings, Message, RawEvent
from tests.support.synapse import Registration, Synapse, free_port


class Sink:
    """Writes down what the edge tells it, and lets a test wait for it."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.events: list[RawEvent] = []
        self.bot_events: list[RawEvent] = []
        self.snapshots: list[tuple[RoomId, list[RawEvent] | None]] = []
        self.batches: list[list[Message]] = []
        self.position: str | None = None
        self.homeserver: list[bool] = []
        self.caught_up = 0
        self.fatal: list[str] = []
        self.fail_on: Callable[[RawEvent], bool] = lambda _event: False

    def wants_room(self, room_id: str) -> bool:
        return room_id in self.wanted

    def on_room_event(self, event: RawEvent) -> None:
        if self.fail_on(event):
            raise RuntimeError("a fault above the edge")
        self.events.append(event)

    async def kept(self) -> bool:
        return True

    def on_bot_event(self, event: RawEvent) -> None:
        self.bot_events.append(event)

    def on_snapshot(self, room_id: RoomId, events: list[RawEvent] | None) -> None:
        self.snapshots.append((room_id, events))

    def on_to_device(self, batch: list[Message], position: str) -> None:
        self.batches.append(batch)
        self.position = position

    def on_homeserver(self, up: bool) -> None:
        self.homeserver.append(up)

    def on_caught_up(self) -> None:
        self.caught_up += 1

    def on_fatal(self, message: str) -> None:
        self.fatal.append(message)

    @property
    def messages(self) -> list[Message]:
        return [message for batch in self.batches for message in batch]

    def contents(self, room_id: str) -> list[Any]:
        return [event["content"] for event in self.events if event["room_id"] == room_id]

    async def until(self, condition: Callable[[Sink], Any], within: float = 20.0) -> None:
        """Wait until a condition holds; TimeoutError if it does not."""
        async with asyncio.timeout(within):
            while not condition(self):
                await asyncio.sleep(0.02)


class Focus:
    """One edge with its sink and what it counted."""

    def __init__(self, settings: MatrixSettings, position: str | None, sink: Sink) -> None:
        self.sink = sink
        self.settings = settings
        self.device = settings.focus
        self.matrix = Matrix(settings, sink, position)


def settings_for(server: Synapse, counted: Counter[Counted] | None = None, **changes: Any) -> MatrixSettings:
    """The settings of the focus that `server` was registered with."""
    registration = server.registrations[0]
    assert registration.url is not None
    counter: Counter[Counted] = counted if counted is not None else Counter()

    def count(what: Counted, by: int) -> None:
        counter[what] += by

    values: dict[str, Any] = {
        "homeserver_url": server.base_url,
        "focus": Device(UserId(server.user(registration.localpart)), DeviceId("SFU1")),
        "appservice_id": registration.id,
        "as_token": registration.as_token,
        "hs_token": registration.hs_token,
        "listen_port": int(registration.url.rpartition(":")[2]),
        "start_timeout": 20.0,
        "count": count,
    }
    return MatrixSettings(**(values | changes))


def registration(**changes: Any) -> Registration:
    """A registration of a focus on a free port."""
    return Registration(url=f"http://127.0.0.1:{free_port()}", **changes)


@pytest.fixture(scope="module")
def shared_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """A Synapse for all tests of a module; none of them may restart it."""
    directory: Path = tmp_path_factory.mktemp("synapse")
    server = Synapse(registrations=[registration()], directory=directory)

    async def boot() -> None:
        await server.start()
        await server.close_http()

    asyncio.run(boot())
    yield server
    server.close(keep=True)


@pytest.fixture
async def synapse(shared_synapse: Synapse) -> AsyncIterator[Synapse]:
    """The module's Synapse, in this test's loop."""
    yield shared_synapse
    await shared_synapse.close_http()


StartFocus = Callable[..., Awaitable[Focus]]


@pytest.fixture
async def start_focus(counted: Counter[Counted], caplog: pytest.LogCaptureFixture) -> AsyncIterator[StartFocus]:
    """Start edges; at the end all are stopped, and no secret may stand in anything that was logged."""
    caplog.set_level(logging.DEBUG)
    started: list[Focus] = []

    async def start(server: Synapse, position: str | None = None, sink: Sink | None = None, **changes: Any) -> Focus:
        focus = Focus(settings_for(server, counted, **changes), position, sink or Sink())
        started.append(focus)
        await focus.matrix.start()
        return focus

    yield start
    for focus in started:
        await focus.matrix.stop()
    for focus in started:
        assert focus.settings.as_token not in caplog.text
        assert focus.settings.hs_token not in caplog.text
        assert focus.settings.as_token not in repr(focus.settings)


@pytest.fixture
def counted() -> Counter[Counted]:
    """What the edges of a test counted."""
    return Counter()
