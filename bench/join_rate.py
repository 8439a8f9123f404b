"""Joins per second while others are in the call, and what those others notice of it.

The focus is a process of its own on a core of its own, with a stand-in for its homeserver; all others are this process.
"""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from tests.support.focus import CALL, FocusProcess
from tests.support.participant_connection import Connection
from tests.support.participant_ice import IceAgent
from tests.support.participant_rtp import RtpPacket, is_rtcp
from tests.support.participant_sender import Sender
from tests.support.synapse import free_port

from .cascade_hop import StampedSocket
from .join_homeserver import DOMAIN, LocalDevice, StandIn
from .join_people import LightConnection, Person
from .network import SERVER_CORE, process_cpu

P = TypeVar("P", bound=Person)

CONF_ID = "bench"
AT_ONCE = 32  # who join at the same time
WATCHERS = 4
QUIET = 3.0  # seconds without joins, to compare with
PATIENCE = 60.0
MANY = 100_000
# Limits that are for attackers, and overload, which would refuse those who join as fast as they can.
OVERRIDES: dict[str, dict[str, Any]] = {
    "conferences": {"limits": {"legs_per_conference": 1000, "legs_per_homeserver": MANY, "invites_per_user": MANY}},
    "overload": {"loop_lag": 60, "media_cpu": 1},
}


def off_the_servers_core() -> None:
    """Leave the focus's core to it."""
    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {SERVER_CORE})


class _Numbered(Sender):
    """The first bytes of what it says are the packet's number."""

    def __init__(self, send_rtp: Any) -> None:
        super().__init__(send_rtp)
        self.number = 0

    def _send_packet(
        self, encoding: Any, now: float, pt: int, payload: bytes, marker: bool, extensions: dict[int, bytes]
    ) -> None:
        payload = struct.pack("!Q", self.number) + payload[8:].ljust(72, b"\0")
        super()._send_packet(encoding, now, pt, payload, marker, extensions)


class _SpeakersConnection(LightConnection):
    """Notes when each packet was handed to the kernel."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: list[int] = []  # ns, CLOCK_REALTIME, by number

    def make_sender(self) -> Sender:
        return _Numbered(self._send_rtp)

    def _send_rtp(self, packet: bytes) -> None:
        session = cast("Any", self.peer.dtls)._tx_srtp
        if session is None or self.ice.remote is None:
            return
        if is_rtcp(packet):
            self.send_raw(session.protect_rtcp(packet))
            return
        protected = session.protect(packet)
        self.sent.append(time.time_ns())
        cast("_Numbered", self.sender).number = len(self.sent)
        self.send_raw(protected)


class _WatchersConnection(LightConnection):
    """Notes when each numbered packet arrived, by the kernel's stamp."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stamped = StampedSocket(self._on_datagram)
        self.socket = self.stamped
        self.ice = IceAgent(self.stamped.send)
        self.arrived: dict[int, int] = {}

    async def open(self, host: str = "127.0.0.1") -> None:
        self.stamped.open(host)

    def _on_rtp(self, packet: RtpPacket) -> None:
        if len(packet.payload) >= 8:
            (number,) = struct.unpack_from("!Q", packet.payload)
            self.arrived.setdefault(number, self.stamped.stamp)
        super()._on_rtp(packet)


class Speaker(Person):
    """Whose voice is measured on its way."""

    def make_connection(self, *, audio: bool, video: bool) -> Connection:
        return _SpeakersConnection(audio=audio, video=False)


class Watcher(Person):
    """Who measures it."""

    def make_connection(self, *, audio: bool, video: bool) -> Connection:
        return _WatchersConnection(audio=audio, video=video)


@dataclass(frozen=True, slots=True)
class Rate:
    """What joining was like with so many in the call. Times in seconds, latencies in ms."""

    people: int
    joins: int
    seconds: float
    whole: list[float]  # from the invite to the first packet of the speaker, each join
    to_answer: list[float]
    to_open: list[float]
    quiet_latency: list[float]
    latency: list[float]
    lost: int
    metadata_bytes: int
    metadata_messages: int
    focus_cpu: float
    clients_cpu: float
    lag: float  # of the focus's event loop: the mean
    worst_lag: str  # the largest bucket in which there was something
    filling: float  # joins per second from the empty call on

    @property
    def per_second(self) -> float:
        """Joins in a second, with as many leaves."""
        return self.joins / self.seconds


class Site:
    """A focus and its stand-in homeserver."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.focus = FocusProcess(directory, f"http://127.0.0.1:{self.port}", DOMAIN, OVERRIDES)
        self.focus.inside = ("taskset", "-c", str(SERVER_CORE))
        self.homeserver = StandIn(self.focus.registration)

    async def start(self) -> None:
        """Start both, with a call that anybody may join."""
        await asyncio.to_thread(self.focus.configure)
        await self.homeserver.start(self.port)
        host = f"@host:{DOMAIN}"
        self.homeserver.put_state(host, "m.room.member", host, {"membership": "join"})
        self.homeserver.put_state(host, CALL, CONF_ID, {"m.intent": "m.room", "m.type": "m.video"})
        await self.focus.start()

    def person(self, name: str, kind: type[P]) -> P:
        """A member of the room."""
        user_id = f"@{name}:{DOMAIN}"
        self.homeserver.put_state(user_id, "m.room.member", user_id, {"membership": "join"})
        return kind(LocalDevice(self.homeserver, user_id, "D1"), self.focus.device)

    async def enter(self, person: Person, **options: Any) -> None:
        """Join, as far as the others' metadata."""
        await person.join(self.homeserver.room_id, CONF_ID, timeout=PATIENCE, **options)
        await person.until(lambda: person.stages.shown, PATIENCE, "metadata")

    async def stop(self) -> None:
        """End both."""
        await asyncio.to_thread(self.focus.stop)
        await self.homeserver.stop()


async def measure(people: int, seconds: float) -> Rate:
    """Fill a call, then have others come and go."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = Site(directory)
        stack.push_async_callback(site.stop)
        await site.start()
        speaker = await stack.enter_async_context(site.person("speaker", Speaker))
        await site.enter(speaker)
        watchers = [await stack.enter_async_context(site.person(f"watcher{n}", Watcher)) for n in range(WATCHERS)]
        for watcher in watchers:
            watcher.attentive = True
            await site.enter(watcher)
            await watcher.subscribe_to(speaker, kinds=("audio",))
        for watcher in watchers:
            await watcher.until(lambda watcher=watcher: watcher.connection.arrived, PATIENCE)  # type: ignore[misc]
            watcher.attentive = False
        others = [await stack.enter_async_context(site.person(f"p{n}", Person)) for n in range(people - 1 - WATCHERS)]
        joiners = [await stack.enter_async_context(site.person(f"joiner{n}", Person)) for n in range(AT_ONCE)]
        began = time.monotonic()
        await _together(site, others)
        filling = len(others) / (time.monotonic() - began)
        await _settled([speaker, *watchers, *others])
        return await _measured(site, speaker, watchers, others, joiners, people, seconds, filling)


async def _together(site: Site, people: Sequence[Person]) -> None:
    waiting = iter(people)

    async def some() -> None:
        for person in waiting:
            await site.enter(person)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _settled(people: Sequence[Person]) -> None:
    """Until nobody is told anything any more."""
    before = -1
    while (now := sum(person.metadata_bytes for person in people)) != before:
        before = now
        await asyncio.sleep(1.0)


async def _measured(
    site: Site,
    speaker: Person,
    watchers: Sequence[Person],
    others: Sequence[Person],
    joiners: Sequence[Person],
    people: int,
    seconds: float,
    filling: float,
) -> Rate:
    everybody = [speaker, *watchers, *others, *joiners]
    sent = cast("_SpeakersConnection", speaker.connection).sent
    first = len(sent)
    await asyncio.sleep(QUIET)
    quiet = _latencies(sent, watchers, first)[0]
    before = await _numbers(site.focus)
    told = sum(person.metadata_bytes for person in everybody), sum(person.metadata_messages for person in everybody)
    cpu, own_cpu, began, first = process_cpu(site.focus.pid), time.process_time(), time.monotonic(), len(sent)
    found: list[tuple[float, float, float]] = []

    async def come_and_go(person: Person) -> None:
        person.attentive = True
        while time.monotonic() < began + seconds:
            await site.enter(person)
            await person.subscribe_to(speaker, kinds=("audio",))
            await person.until(lambda: person.audio_of(speaker).packets, PATIENCE, "the speaker's voice")
            stages, now = person.stages, time.monotonic()
            found.append((now - stages.invited, stages.answered - stages.invited, stages.open - stages.invited))
            await person.leave()
            await site.homeserver.pushed()  # else the next invite may be overtaken by this one's end

    await asyncio.gather(*(come_and_go(person) for person in joiners))
    took = time.monotonic() - began
    cpu, own_cpu, last = process_cpu(site.focus.pid) - cpu, time.process_time() - own_cpu, len(sent)
    after = await _numbers(site.focus)
    await asyncio.sleep(0.5)
    latency, lost = _latencies(sent, watchers, first, last)
    now_told = sum(person.metadata_bytes for person in everybody), sum(person.metadata_messages for person in everybody)
    whole, to_answer, to_open = (list(column) for column in zip(*found, strict=True))
    looks = {le: after.lag[le] - before.lag[le] for le in after.lag}
    count = max(looks.values())
    worst = min((le for le, value in looks.items() if value >= count), key=float)
    return Rate(
        people,
        len(found),
        took,
        whole,
        to_answer,
        to_open,
        quiet,
        latency,
        lost,
        now_told[0] - told[0],
        now_told[1] - told[1],
        cpu,
        own_cpu,
        (after.lag_sum - before.lag_sum) / max(1.0, count),
        worst,
        filling,
    )


@dataclass(frozen=True, slots=True)
class _Numbers:
    lag: dict[str, float]  # looks by bucket, cumulative
    lag_sum: float


async def _numbers(focus: FocusProcess) -> _Numbers:
    name = "mautrix_sfu_event_loop_lag_seconds"
    buckets = {labels["le"]: value for labels, value in await focus.samples(f"{name}_bucket")}
    return _Numbers(buckets, await focus.metric(f"{name}_sum"))


def _latencies(
    sent: Sequence[int], watchers: Sequence[Person], first: int, last: int | None = None
) -> tuple[list[float], int]:
    """In ms, of all that these watchers got; and how much is missing."""
    numbers = range(first, len(sent) - 5 if last is None else last)
    found, lost = [], 0
    for watcher in watchers:
        arrived = cast("_WatchersConnection", watcher.connection).arrived
        times = [(arrived[number] - sent[number]) / 1e6 for number in numbers if number in arrived]
        found += times
        lost += len(numbers) - len(times)
    return found, lost
