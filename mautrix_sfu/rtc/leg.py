"""One leg's connection: waits for ICE, then DTLS, SCTP and the signalling channel, until one of them ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities

from ..core.events import ChannelOpened, ConnectionLost
from ..core.ids import LegId
from ..wire.plan import RemoteTransport
from .dtls import Certificate, Dtls, Pipe, SrtpKeys
from .sctp import Association

HANDSHAKE_TIMEOUT = 10.0  # seconds from ICE's connection to the end of the DTLS handshake
_SCTP_PORT = 5000
_FAILURES = {True: "the DTLS certificate is not the one in the SDP", False: "the DTLS handshake failed"}

log = logging.getLogger(__name__)


class RtcSink(Protocol):
    """Who is told what comes of the legs' connections."""

    def on_rtc(self, event: ConnectionLost | ChannelOpened) -> None:
        """The signalling channel is open, or the connection has ended (said once)."""

    def on_secured(self, leg: LegId) -> None:
        """The DTLS handshake is done, and the peer is who the SDP says."""

    def on_channel_text(self, leg: LegId, text: str) -> None:
        """A message on the signalling channel."""

    def on_channel_garbage(self, leg: LegId, why: str) -> None:
        """Something over SCTP that is no message."""


class Leg:
    """One leg. `run` is its only task; everything else is synchronous."""

    def __init__(
        self,
        leg: LegId,
        certificate: Certificate,
        send: Callable[[bytes], None],
        use_keys: Callable[[SrtpKeys], None],
        sink: RtcSink,
        dials: bool = False,
    ) -> None:
        self._leg = leg
        self._dials = dials
        self._use_keys = use_keys
        self._sink = sink
        self._pipe = Pipe(send)
        self._dtls = Dtls(self._pipe, certificate, dials)
        self._association: Association | None = None
        self._ended = ("user_hangup", "the peer closed DTLS")  # unless the association says otherwise
        self.task: asyncio.Task[None] | None = None
        self.remote: RemoteTransport | None = None
        self.ice = False
        self.closed = False

    def feed(self, datagram: bytes) -> None:
        """Take a DTLS datagram; early ones wait for the handshake."""
        self._pipe.feed(datagram)

    def send(self, text: str) -> bool:
        """Send on the signalling channel, if there is room."""
        return self._association is not None and not self.closed and self._association.send_text(text)

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        return 0 if self._association is None else self._association.unsent

    def close(self) -> None:
        """End it at once; the sink hears nothing more."""
        self.closed = True
        self._pipe.close()
        if self._association is not None:
            self._association.abandon()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    async def run(self, remote: RemoteTransport) -> None:
        """From ICE's connection to the end."""
        try:
            reason, detail = await self._connect(remote)
        except Exception:  # of this program, or of aiortc, which trusts its peer
            log.exception("a fault in the connection")
            reason, detail = "unknown_error", "a fault of this program"
        finally:
            self._pipe.close()
            if self._association is not None:
                self._association.abandon()
            await self._dtls.stop()
        if not self.closed:
            log.info("connection ended: %s", detail)
            self._sink.on_rtc(ConnectionLost(self._leg, reason, detail))

    async def _connect(self, remote: RemoteTransport) -> tuple[str, str]:
        """Until the connection ends: a hangup reason and what happened."""
        fingerprints = [RTCDtlsFingerprint(algorithm, value) for algorithm, value in remote.fingerprints]
        if not fingerprints or remote.sctp_port is None:
            return "unknown_error", "no fingerprint or no SCTP port"
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await self._dtls.start(RTCDtlsParameters(fingerprints))
        except TimeoutError:
            return "ice_timeout", f"no DTLS handshake within {HANDSHAKE_TIMEOUT:g} s"
        keys = self._dtls.keys
        if keys is None:
            return "unknown_error", _FAILURES[self._dtls.impostor]
        self._use_keys(keys)
        if not self.closed:
            self._sink.on_secured(self._leg)
        self._association = Association(self._dtls, _SCTP_PORT, self)
        await self._association.start(RTCSctpCapabilities(remote.max_message_size), remote.sctp_port)
        if self._dials:
            self._association.open_channel()
        await self._dtls.wait_closed()
        return self._ended

    # ------------------------------------------------------------ what the association says

    def on_open(self) -> None:
        """The signalling channel is open."""
        if not self.closed:
            self._sink.on_rtc(ChannelOpened(self._leg))

    def on_text(self, text: str) -> None:
        """A message on the signalling channel."""
        if not self.closed:
            self._sink.on_channel_text(self._leg, text)

    def on_garbage(self, why: str) -> None:
        """Something that is no message."""
        if not self.closed:
            self._sink.on_channel_garbage(self._leg, why)

    def on_closed(self, reason: str, detail: str) -> None:
        """Let `run` end."""
        self._ended = (reason, detail)
        self._pipe.close()
