"""All legs' connections: opens, feeds and closes them, and owns their tasks."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Protocol

from ..core.ids import LegId
from ..wire.negotiation import LocalTransport, make_credentials
from ..wire.plan import RemoteTransport
from .dtls import Certificate, SrtpKeys
from .leg import Leg, RtcSink

log = logging.getLogger(__name__)


class DatagramTransport(Protocol):
    """What the WebRTC edge needs of the media core. Unknown legs are ignored."""

    def add_leg(self, leg: LegId, ufrag: str, pwd: str) -> None:
        """Answer STUN for these ICE credentials."""

    def remove_leg(self, leg: LegId) -> None:
        """Send no further packet to this leg."""

    def send_dtls(self, leg: LegId, datagram: bytes) -> None:
        """Send to the leg's latched address."""

    def set_keys(
        self, leg: LegId, profile: str, local_key: bytes, local_salt: bytes, remote_key: bytes, remote_salt: bytes
    ) -> None:
        """Begin SRTP."""


class Rtc:
    """DTLS, SCTP and the signalling channel of every leg. To be made and used in one running event loop."""

    def __init__(self, transport: DatagramTransport, sink: RtcSink, candidates: tuple[tuple[str, int], ...]) -> None:
        self._transport = transport
        self._sink = sink
        self._candidates = candidates
        self._certificate: Certificate = Certificate.generateCertificate()
        self._source = secrets.SystemRandom()
        self._legs: dict[LegId, Leg] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, leg: LegId, dials: bool = False) -> LocalTransport:
        """Make a leg's side of a transport and let the media core answer its STUN.

        The side that dials is the DTLS client and opens the signalling channel. It names no candidates: its packets
        come from a socket that the media core opens for the leg when it is told whom to check.
        """
        ufrag, pwd = make_credentials(self._source)
        self._transport.add_leg(leg, ufrag, pwd)

        def use_keys(keys: SrtpKeys) -> None:
            self._transport.set_keys(
                leg, keys.profile, keys.local_key, keys.local_salt, keys.remote_key, keys.remote_salt
            )

        def send(datagram: bytes) -> None:
            if leg in self._legs:
                self._transport.send_dtls(leg, datagram)

        self._legs[leg] = Leg(leg, self._certificate, send, use_keys, self._sink, dials)
        return LocalTransport(ufrag, pwd, self._certificate.fingerprint, () if dials else self._candidates)

    def start(self, leg: LegId, remote: RemoteTransport) -> None:
        """Tell what the peer's certificate must be; DTLS begins when ICE is connected. Later calls change nothing."""
        found = self._legs.get(leg)
        if found is not None and found.remote is None:
            found.remote = remote
            self._run(found)

    def ice_connected(self, leg: LegId) -> None:
        """Learn that the leg's address is latched."""
        found = self._legs.get(leg)
        if found is not None:
            found.ice = True
            self._run(found)

    def feed_dtls(self, leg: LegId, datagram: bytes) -> None:
        """Take a DTLS datagram of the leg's latched address."""
        found = self._legs.get(leg)
        if found is not None:
            found.feed(datagram)

    def send(self, leg: LegId, text: str) -> bool:
        """Send a message on the signalling channel.

        False: there is no open channel, the message is too large for the peer, or 1 MiB is unsent already.
        """
        found = self._legs.get(leg)
        return found is not None and found.send(text)

    def buffered(self, leg: LegId) -> int:
        """Bytes that wait to be sent to this leg."""
        found = self._legs.get(leg)
        return 0 if found is None else found.unsent

    def close(self, leg: LegId) -> None:
        """End a leg at once, its packets first. Never blocks; the sink hears nothing more of it."""
        self._transport.remove_leg(leg)
        found = self._legs.pop(leg, None)
        if found is not None:
            found.close()

    async def stop(self) -> None:
        """End all legs and wait until nothing of them runs any more."""
        for leg in list(self._legs):
            self.close(leg)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # aiortc's own tasks end in the round in which they start

    def _run(self, leg: Leg) -> None:
        if leg.task is None and leg.ice and leg.remote is not None and not leg.closed:
            leg.task = asyncio.get_running_loop().create_task(leg.run(leg.remote))
            self._tasks.add(leg.task)
            leg.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "a leg's connection broke", "exception": error})
