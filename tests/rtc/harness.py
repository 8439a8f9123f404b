"""The WebRTC edge over an in-memory pipe, in the place of the media core, and a peer at its other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mautrix_sfu.core.events import ChannelOpened, ConnectionLost
from mautrix_sfu.core.ids import LegId
from mautrix_sfu.rtc import Rtc
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from mautrix_sfu.wire.plan import RemoteTransport
from tests.support.dtls_client import DtlsClient

LEG = LegId(7)


@dataclass
class Keys:
    profile: str
    local_key: bytes
    local_salt: bytes
    remote_key: bytes
    remote_salt: bytes


@dataclass
class PipeTransport:
    """Carries datagrams as the media core would: to the peer of the leg, in the next round of the loop."""

    peers: dict[LegId, Callable[[bytes], object]] = field(default_factory=dict)  # what takes a leg's datagrams
    legs: dict[LegId, tuple[str, str]] = field(default_factory=dict)
    keys: dict[LegId, Keys] = field(default_factory=dict)
    lose: set[int] = field(default_factory=set)  # numbers of datagrams that get lost on the way
    sent: int = 0

    def add_leg(self, leg: LegId, ufrag: str, pwd: str) -> None:
        self.legs[leg] = (ufrag, pwd)

    def remove_leg(self, leg: LegId) -> None:
        self.legs.pop(leg, None)

    def send_dtls(self, leg: LegId, datagram: bytes) -> None:
        self.sent += 1
        if leg in self.legs and leg in self.peers and self.sent not in self.lose:
            asyncio.get_running_loop().call_soon(self.peers[leg], datagram)

    def set_keys(
        self, leg: LegId, profile: str, local_key: bytes, local_salt: bytes, remote_key: bytes, remote_salt: bytes
    ) -> None:
        assert leg not in self.keys
        self.keys[leg] = Keys(profile, local_key, local_salt, remote_key, remote_salt)


@dataclass
class Sink:
    """Keeps what the edge tells."""

    events: list[ConnectionLost | ChannelOpened] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    garbage: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_rtc(self, event: ConnectionLost | ChannelOpened) -> None:
        self.events.append(event)
        self.changed.set()

    def on_secured(self, leg: LegId) -> None:
        """DTLS is up."""

    def on_channel_text(self, leg: LegId, text: str) -> None:
        self.texts.append(text)
        self.changed.set()

    def on_channel_garbage(self, leg: LegId, why: str) -> None:
        self.garbage.append(why)
        self.changed.set()

    async def until(self, condition: str, timeout: float = 5) -> None:
        """Wait until a list has something: "events", "texts" or "garbage"."""
        async with asyncio.timeout(timeout):
            while not getattr(self, condition):
                self.changed.clear()
                await self.changed.wait()

    @property
    def lost(self) -> list[ConnectionLost]:
        return [event for event in self.events if isinstance(event, ConnectionLost)]


@dataclass
class Pair:
    """One leg of an edge and its peer."""

    rtc: Rtc
    transport: PipeTransport
    sink: Sink
    peer: DtlsClient
    local: LocalTransport

    def start(self, *fingerprints: tuple[str, str]) -> None:
        """Begin with what the peer's offer said."""
        remote = RemoteTransport("ufrag", "p" * 24, "active", fingerprints or (self.peer.fingerprint,), 5000, 262144)
        self.rtc.start(LEG, remote)
        self.rtc.ice_connected(LEG)

    async def connect(self) -> None:
        """As far as an open channel."""
        self.start()
        assert await self.peer.connect(self.local.fingerprint)
        await self.peer.open_channel()
        await self.sink.until("events")


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """An open leg and its peer, both ended afterwards; nothing may still run then."""
    before = asyncio.all_tasks()
    transport, sink = PipeTransport(), Sink()
    rtc = Rtc(transport, sink, (("192.0.2.1", 7881),))
    local = rtc.open(LEG)
    peer = DtlsClient(lambda datagram: rtc.feed_dtls(LEG, datagram))
    transport.peers[LEG] = peer.pipe.feed
    try:
        yield Pair(rtc, transport, sink, peer, local)
    finally:
        await peer.close()
        await rtc.stop()
        assert asyncio.all_tasks() == before


@dataclass
class Focus:
    """One end of a trunk."""

    rtc: Rtc
    transport: PipeTransport
    sink: Sink
    negotiation: Negotiation


@dataclass
class Trunk:
    """Two edges with a leg each, whose datagrams reach each other."""

    dialler: Focus
    called: Focus

    def negotiate(self) -> None:
        """The invite and its answer."""
        answer, _ = self.called.negotiation.accept_offer(self.dialler.negotiation.make_invite())
        self.dialler.negotiation.accept_answer(answer)

    def start(self) -> None:
        """What both ends do once they know each other and ICE is connected."""
        for focus in (self.called, self.dialler):
            assert focus.negotiation.remote is not None
            focus.rtc.start(LEG, focus.negotiation.remote)
            focus.rtc.ice_connected(LEG)

    async def connect(self) -> None:
        """As far as an open channel at both ends."""
        self.negotiate()
        self.start()
        for focus in (self.dialler, self.called):
            await focus.sink.until("events")


@asynccontextmanager
async def trunk() -> AsyncIterator[Trunk]:
    """A trunk that is not negotiated yet; ended afterwards; nothing may still run then."""
    before = asyncio.all_tasks()
    ends = []
    for dials in (True, False):
        transport, sink = PipeTransport(), Sink()
        rtc = Rtc(transport, sink, (("192.0.2.1", 7881),))
        ends.append(Focus(rtc, transport, sink, Negotiation(rtc.open(LEG, dials), dials=dials)))
    for focus, other in (ends, reversed(ends)):
        focus.transport.peers[LEG] = lambda datagram, other=other: other.rtc.feed_dtls(LEG, datagram)  # type: ignore[misc]
    try:
        yield Trunk(*ends)
    finally:
        for focus in ends:
            await focus.rtc.stop()
        assert asyncio.all_tasks() == before
