"""The servers that `make quality` compares. Ann publishes, Ben watches; a headless client talks and watches, too."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.namespaces import Namespace
from tests.support.participant_connection import Connection

from .janus import ROOM, JanusPeer, JanusServer
from .load_peers import Lines
from .network import SERVER
from .quality_page import QualityPage

PATIENCE = 15.0  # seconds for a connection to come up
ANN, BEN, HEADLESS = range(3)


@dataclass(frozen=True)
class Camera:
    """What Ann's gives."""

    width: int = 1280
    height: int = 720
    rate: int = 15


class Gaps:
    """How long a headless client waits for pictures: times of new RTP timestamps of video."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = (0, 0.0)
        self.longest = 0.0
        connection.on_received = self._look

    def reset(self) -> None:
        """From now on."""
        self.longest = 0.0

    def _look(self) -> None:
        pictures = [found for found in self._connection.received.values() if found.kind == "video"]
        newest = max(pictures, key=lambda found: found.last_at, default=None)
        if newest is None or newest.last_timestamp == self._last[0]:
            return
        now = time.monotonic()
        if self._last[1]:
            self.longest = max(self.longest, now - self._last[1])
        self._last = (newest.last_timestamp, now)


@dataclass
class Call:
    """A call of three."""

    ann: QualityPage
    ben: QualityPage
    gaps: Gaps
    end: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)

    async def hang_up(self) -> None:
        """Everybody leaves."""
        await self.ann.close()
        await self.ben.close()
        for end in self.end:
            await end()


class Target(Protocol):
    """A server. To be used in its namespace."""

    name: str
    pid: int

    async def start(self) -> None:
        """Run it."""

    async def call(self, ann: QualityPage, ben: QualityPage, headless: Namespace, camera: Camera) -> Call:
        """As far as connections that are up."""

    async def counters(self) -> dict[str, float]:
        """What it counted of key frames and repairs."""

    async def link(self) -> dict[str, float]:
        """What it knows of Ben's link."""

    async def stop(self) -> None:
        """End it."""


async def _connected(page: QualityPage, name: str) -> None:
    async with asyncio.timeout(PATIENCE):
        await page.ask("connected", name)


class Focus:
    """This project's, without Matrix: negotiation, WebRTC edge and media core, in which all rules of quality are."""

    name = "mautrix-sfu"

    def __init__(self) -> None:
        self._legs = 0

    async def start(self) -> None:
        self._focus = await Lines.start(sys.executable, "-m", "bench.focus_process", SERVER)
        self.pid = self._focus.process.pid

    async def call(self, ann: QualityPage, ben: QualityPage, headless: Namespace, camera: Camera) -> Call:
        legs = [self._legs + number for number in range(3)]
        self._legs += 3
        for leg, page, films in ((legs[ANN], ann, True), (legs[BEN], ben, False)):
            offer = await page.ask("publish", "call", {**vars(camera), "camera": films, "channel": True})
            answer = await self._focus.ask(op="join", leg=leg, offer=offer)
            await page.ask("answered", "call", answer["answer"])
        connection = Connection(audio=True, video=False)
        connection.bound = headless.udp()
        await connection.open()
        answer = await self._focus.ask(op="join", leg=legs[HEADLESS], offer=connection.offer())
        connection.take_answer(answer["answer"])
        await connection.connect()
        await _connected(ann, "call")
        await _connected(ben, "call")
        for leg in legs:
            sources = [source for source in legs if source != leg]
            offer = (await self._focus.ask(op="offer", leg=leg, sources=sources))["offer"]
            if leg == legs[HEADLESS]:
                answer_sdp = connection.take_offer(offer)
            else:
                answer_sdp = await (ann if leg == legs[ANN] else ben).ask("take", "call", offer)
            await self._focus.ask(op="forward", leg=leg, sources=sources, answer=answer_sdp)
        return Call(ann, ben, Gaps(connection), [connection.close, lambda: self._focus.ask(op="leave", legs=legs)])

    async def counters(self) -> dict[str, float]:
        stats = await self._focus.ask(op="stats")
        return {name: stats[name] for name in stats if isinstance(stats[name], int | float)}

    async def link(self) -> dict[str, float]:
        return await self._focus.ask(op="leg", leg=self._legs - 3 + BEN)

    async def stop(self) -> None:
        await self._focus.stop()


class _Headless(JanusPeer):
    """Plays for itself, at an address that it was given."""

    def __init__(self, namespace: Namespace, *, audio: bool) -> None:
        super().__init__(audio=audio, video=False)
        self.bound = namespace.udp()
        self.host = namespace.address

    async def open(self, host: str = "") -> None:
        await Connection.open(self)

    async def shake_hands(self) -> None:
        await super().shake_hands()
        self.sender.start()


class Janus:
    """Its VideoRoom, with the forwarding of layers that it does by itself."""

    name = "Janus"

    def __init__(self, libraries: Path | None = None) -> None:
        self._server = JanusServer(libraries)

    async def start(self) -> None:
        await self._server.start(lambda *command: command)
        self.pid = self._server.pid

    async def call(self, ann: QualityPage, ben: QualityPage, headless: Namespace, camera: Camera) -> Call:
        feeds, handles = [], []
        for page, films in ((ann, True), (ben, False)):
            offer = await page.ask("publish", "up", {**vars(camera), "camera": films, "channel": False})
            handle, feed, answer = await self._publish(offer, video=films)
            feeds.append(feed)
            handles.append(handle)
            await page.ask("answered", "up", answer)
            await _connected(page, "up")
        talker, viewer = _Headless(headless, audio=True), _Headless(headless, audio=False)
        await talker.open()
        handle, feed, answer = await self._publish(talker.offer(), video=False)
        feeds.append(feed)
        handles.append(handle)
        talker.take_answer(answer)
        await talker.shake_hands()
        await viewer.open()
        for number in (ANN, BEN, HEADLESS):
            sources = [feed for place, feed in enumerate(feeds) if place != number]
            handle, offer = await self._watch(sources)
            handles.append(handle)
            if number == HEADLESS:
                mirrored = viewer.take_offer(offer)
                assert mirrored is not None
                await self._start(handle, mirrored)
                await viewer.shake_hands()
            else:
                page = (ann, ben)[number]
                await self._start(handle, await page.ask("take", "down", offer))
                await _connected(page, "down")
        return Call(ann, ben, Gaps(viewer), [talker.close, viewer.close, lambda: self._leave(handles)])

    async def _publish(self, offer: str, *, video: bool) -> tuple[int, int, str]:
        """Gives the handle, the feed and the answer."""
        api = self._server.api
        handle = await api.attach()
        joined = await api.message(handle, {"request": "join", "ptype": "publisher", "room": ROOM})
        body = {"request": "configure", "audio": True, "video": video, "bitrate": 0}
        answer = await api.message(handle, body, ("offer", offer))
        return handle, joined["plugindata"]["data"]["id"], answer["jsep"]["sdp"]

    async def _watch(self, feeds: list[int]) -> tuple[int, str]:
        """Gives the handle and the offer."""
        handle = await self._server.api.attach()
        streams = [{"feed": feed} for feed in feeds]
        body = {"request": "join", "ptype": "subscriber", "room": ROOM, "streams": streams}
        offer = await self._server.api.message(handle, body)
        return handle, offer["jsep"]["sdp"]

    async def _start(self, handle: int, answer: str) -> None:
        await self._server.api.message(handle, {"request": "start", "room": ROOM}, ("answer", answer))

    async def _leave(self, handles: list[int]) -> None:
        for handle in handles:
            await self._server.api.detach(handle)

    async def counters(self) -> dict[str, float]:
        return {}

    async def link(self) -> dict[str, float]:
        return {}

    async def stop(self) -> None:
        await self._server.stop()
