"""What a hop over a trunk adds: two media cores, a trunk between them, a subscriber on each, all over loopback UDP.

One publisher sends numbered packets; both subscribers' kernels stamp what arrives (SO_TIMESTAMPNS), so the hop is the
difference of two stamps of one clock for the same packet. Everything is negotiated and encrypted as in a real call.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mautrix_sfu.core.ids import LegId
from mautrix_sfu.media import Media
from mautrix_sfu.wire.sdp_profile import AUDIO_LEVEL
from tests.rtc.loopback import LoopbackFocus
from tests.rtc.test_with_media_core import joined, until
from tests.support.participant_connection import Connection
from tests.support.participant_ice import IceAgent, Socket
from tests.support.participant_rtp import RtpPacket
from tests.support.participant_sdp import EXTENSION_IDS, OPUS
from tests.support.participant_sender import Encoding, Sender

from .cascade_machine import cpu, percentile, threads

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not name it
TRUNK, PUBLISHER, NEAR, FAR = LegId(50), LegId(1), LegId(2), LegId(3)
PACKET = 100  # bytes of payload: about what Opus makes of 20 ms
SETTLING = 0.3  # seconds between two windows


class StampedSocket(Socket):
    """A UDP socket whose datagrams are stamped by the kernel as they arrive."""

    def __init__(self, on_datagram: Any) -> None:
        super().__init__(on_datagram)
        self.stamp = 0  # ns, CLOCK_REALTIME, of the datagram that is being handled
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self._udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._udp.setblocking(False)

    def open(self, host: str) -> None:
        """Bind it, and read from now on."""
        self._udp.bind((host, 0))
        asyncio.get_running_loop().add_reader(self._udp, self._readable)

    def _readable(self) -> None:
        while True:
            try:
                data, ancillary, _, address = self._udp.recvmsg(2048, 64)
            except BlockingIOError:
                return
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, nanoseconds = struct.unpack("qq", value)
                    self.stamp = seconds * 10**9 + nanoseconds
            self.datagram_received(data, address)

    @property
    def address(self) -> tuple[str, int]:
        """The local address."""
        host, port = self._udp.getsockname()
        return host, port

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram; nothing once it is closed."""
        if self._udp.fileno() >= 0:
            self._udp.sendto(data, address)

    def close(self) -> None:
        """Close it."""
        if self._udp.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._udp)
            self._udp.close()


class Subscriber(Connection):
    """Notes when each numbered packet arrived."""

    def __init__(self) -> None:
        super().__init__(audio=False, video=False)
        self.stamped = StampedSocket(self._on_datagram)
        self.socket = self.stamped
        self.ice = IceAgent(self.stamped.send)
        self.arrived: dict[int, int] = {}  # number → ns, CLOCK_REALTIME

    async def open(self, host: str = "127.0.0.1") -> None:
        """Bind the socket."""
        self.stamped.open(host)

    def _on_rtp(self, packet: RtpPacket) -> None:
        (number,) = struct.unpack_from("!Q", packet.payload)
        self.arrived.setdefault(number, self.stamped.stamp)
        super()._on_rtp(packet)


class NumberedSender(Sender):
    """Sends packets whose payload begins with their number, at an even pace."""

    def __init__(self, send_rtp: Any, rate: float) -> None:
        super().__init__(send_rtp)
        self.sent: list[int] = []  # ns, CLOCK_REALTIME, just before packet n went to the kernel
        self._rate = rate

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        due = report = loop.time()
        while True:
            due = max(due + 1 / self._rate, loop.time() - 0.02)
            for encoding in list(self.encodings.values()):
                self._send_audio(encoding, time.time())
            if due > report:
                report = due + 1
                self._report()
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _send_audio(self, encoding: Encoding, now: float) -> None:
        payload = struct.pack("!Q", len(self.sent)).ljust(PACKET, b"\x5a")
        level = {EXTENSION_IDS[AUDIO_LEVEL]: bytes([0x80 | self.audio_level])}
        self.sent.append(time.time_ns())
        self._send_packet(encoding, now, OPUS, payload, False, level)


# ---------------------------------------------------------------- the measurement


@dataclass(frozen=True, slots=True)
class Site:
    """A focus without rules, and the threads of its media core."""

    focus: LoopbackFocus
    tids: set[str]

    def stat(self, name: str) -> int:
        """One of the media core's counters."""
        return int(self.focus.media.stats()[name])


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A media core with a socket on loopback."""
    before = threads()
    media = Media([("127.0.0.1", 0)])
    focus = LoopbackFocus(media)
    found = Site(focus, threads() - before)
    media.start(asyncio.get_running_loop(), focus)
    try:
        yield found
    finally:
        await focus.stop()
        media.shutdown()


@asynccontextmanager
async def two_sites() -> AsyncIterator[tuple[Site, Site]]:
    """Two of them, with a trunk that is up."""
    async with site() as one, site() as two:
        one.focus.dial(TRUNK, two.focus)
        await until(lambda: one.focus.legs[TRUNK].opened and two.focus.legs[TRUNK].opened)
        yield one, two


@asynccontextmanager
async def subscribed(focus: LoopbackFocus, leg: LegId, source: LegId) -> AsyncIterator[Subscriber]:
    """A subscriber who is sent all that a leg publishes."""
    made = Subscriber()
    await made.open()
    try:
        await focus.join(leg, made)
        focus.send(leg, made, source)
        yield made
    finally:
        await made.close()


@dataclass(frozen=True, slots=True)
class Window:
    """Some seconds with a hop and as many without; latencies in ms, CPU in us for each packet that was published."""

    packets: int
    lost: int
    near: list[float]  # from the publisher's send to the subscriber on the same focus
    hop: list[float]  # from there to the arrival at the subscriber on the other focus
    alone: float  # CPU of the near focus while nothing crosses
    near_cpu: float  # and while everything crosses
    far_cpu: float


@dataclass(frozen=True, slots=True)
class Hop:
    """The medians of the windows, and the extremes of them all."""

    rate: float  # packets/s
    windows: int
    packets: int
    lost: int
    hop_p50: float  # ms
    hop_p99: float
    worst_p99: float  # of one window
    longest: float
    near_p50: float
    near_p99: float
    cpu_alone: float  # us for each packet
    cpu_near: float  # what the trunk adds at its near end
    cpu_far: float


async def measure(windows: int = 5, seconds: float = 4.0, rate: float = 250.0) -> Hop:
    """Latency and CPU that one hop adds."""
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(two_sites())
        publisher = Connection(video=False)
        sender = NumberedSender(publisher._send_rtp, rate)
        publisher.sender = sender
        await publisher.open()
        stack.push_async_callback(publisher.close)
        await one.focus.join(PUBLISHER, publisher)
        lines = one.focus.send_over(TRUNK, two.focus, PUBLISHER, sizes=((None, None),))
        near = await stack.enter_async_context(subscribed(one.focus, NEAR, PUBLISHER))
        far = await stack.enter_async_context(subscribed(two.focus, FAR, TRUNK))
        (mid,) = lines.values()
        (source,) = one.focus.legs[PUBLISHER].receives
        await until(lambda: len(far.arrived) > 50)
        found = []
        for _ in range(windows):
            one.focus.media.stop_forward(TRUNK, mid)
            await asyncio.sleep(SETTLING)
            (alone,) = await _cpu(sender, seconds / 2, one)
            one.focus.media.forward(TRUNK, mid, PUBLISHER, source.mid, None, None)
            await asyncio.sleep(SETTLING)
            first = len(sender.sent)
            near_cpu, far_cpu = await _cpu(sender, seconds, one, two)
            numbers = range(first, len(sender.sent))
            await asyncio.sleep(SETTLING)
            found.append(_window(sender, near, far, numbers, (alone, near_cpu, far_cpu)))
        return _summary(found, rate)


async def _cpu(sender: NumberedSender, seconds: float, *sites: Site) -> list[float]:
    """CPU us for each published packet, of the media threads of each site."""
    first, before = len(sender.sent), [cpu(site.tids) for site in sites]
    await asyncio.sleep(seconds)
    return [
        (cpu(site.tids) - then) * 1e6 / (len(sender.sent) - first) for site, then in zip(sites, before, strict=True)
    ]


def _window(
    sender: NumberedSender, near: Subscriber, far: Subscriber, numbers: range, costs: tuple[float, float, float]
) -> Window:
    both = [number for number in numbers if number in near.arrived and number in far.arrived]
    return Window(
        len(numbers),
        len(numbers) - len(both),
        [(near.arrived[number] - sender.sent[number]) / 1e6 for number in both],
        [(far.arrived[number] - near.arrived[number]) / 1e6 for number in both],
        *costs,
    )


def _summary(windows: list[Window], rate: float) -> Hop:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    return Hop(
        rate,
        len(windows),
        sum(window.packets for window in windows),
        sum(window.lost for window in windows),
        median([percentile(window.hop, 50) for window in windows]),
        median([percentile(window.hop, 99) for window in windows]),
        max(percentile(window.hop, 99) for window in windows),
        max(max(window.hop) for window in windows),
        median([percentile(window.near, 50) for window in windows]),
        median([percentile(window.near, 99) for window in windows]),
        median([window.alone for window in windows]),
        median([window.near_cpu - window.alone for window in windows]),
        median([window.far_cpu for window in windows]),
    )


# ---------------------------------------------------------------- how often a packet crosses

LARGE, SMALL = (640, 360), (160, 90)


@dataclass(frozen=True, slots=True)
class Crossings:
    """Video that crossed one trunk, watched by several at its far end in two sizes."""

    publishers: int
    viewers: int
    crossed: int  # packets sent on the trunk, without repeats and probes
    distinct: int  # of them, by the sending core
    published: int  # in the same time by the publishers, in the layers that are watched
    delivered: int  # video packets that reached the far viewers

    @property
    def per_stream(self) -> float:
        """Crossings of each distinct packet."""
        return self.crossed / self.distinct


async def crossings(publishers: int = 2, viewers: int = 6, seconds: float = 8.0) -> Crossings:
    """Half of the far viewers look at everybody large, the others at everybody small."""
    async with AsyncExitStack() as stack:
        one, two = await stack.enter_async_context(two_sites())
        legs = [LegId(100 + number) for number in range(publishers)]
        people = [await stack.enter_async_context(joined(one.focus, leg)) for leg in legs]
        one.focus.send_over(TRUNK, two.focus, *legs, sizes=(LARGE, SMALL))
        watching: list[Connection] = []
        for number in range(viewers):
            leg = LegId(200 + number)
            viewer = await stack.enter_async_context(joined(two.focus, leg, audio=False, video=False))
            two.focus.send(leg, viewer, TRUNK, size=SMALL if number % 2 else LARGE)
            watching.append(viewer)
        await until(lambda: all(_seen(viewer, SMALL if n % 2 else LARGE) for n, viewer in enumerate(watching)))

        def published() -> int:
            return sum(e.packets for p in people for e in p.sender.encodings.values() if e.rid in ("f", "q"))

        def delivered() -> int:
            return sum(item.packets for v in watching for item in v.received.values() if item.kind == "video")

        names = ("trunk_out_total", "trunk_out_distinct_total")
        before = *(one.stat(name) for name in names), published(), delivered()
        await asyncio.sleep(seconds)
        after = *(one.stat(name) for name in names), published(), delivered()
        crossed, distinct, sent, arrived = (now - then for now, then in zip(after, before, strict=True))
        return Crossings(publishers, viewers, crossed, distinct, sent, arrived)


def _seen(viewer: Connection, size: tuple[int, int]) -> bool:
    pictures = [item for item in viewer.received.values() if item.kind == "video"]
    return bool(pictures) and all(item.size == size for item in pictures)
