"""A DTLS client with SCTP and one data channel, by plain aiortc, over whatever carries its datagrams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import (
    RTCCertificate,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
)
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from mautrix_sfu.rtc.dtls import Pipe


class DtlsClient:
    """The peer of a focus. Feed it what arrives; `send` is called with what it sends."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.certificate: RTCCertificate = RTCCertificate.generateCertificate()
        self.pipe = Pipe(send)
        self.dtls = RTCDtlsTransport(cast("RTCIceTransport", self.pipe), [self.certificate])
        self.dtls._set_role("client")
        self.sctp = RTCSctpTransport(self.dtls)
        self.channel: RTCDataChannel | None = None
        self.opened = asyncio.Event()
        self.messages: asyncio.Queue[str | bytes] = asyncio.Queue()

    @property
    def fingerprint(self) -> tuple[str, str]:
        """(algorithm, value) of its certificate."""
        found = self.certificate.getFingerprints()[0]
        return found.algorithm, found.value

    async def connect(self, fingerprint: str, timeout: float = 5) -> bool:
        """Do the handshake with the holder of this fingerprint ("sha-256 AA:…"); False if it fails."""
        algorithm, _, value = fingerprint.partition(" ")
        async with asyncio.timeout(timeout):
            await self.dtls.start(RTCDtlsParameters([RTCDtlsFingerprint(algorithm, value)]))
        return self.dtls.state == "connected"

    async def open_channel(self, label: str = "datachannel", timeout: float = 5) -> None:
        """Start SCTP and open a data channel."""
        await self.sctp.start(RTCSctpCapabilities(262144), 5000)
        self.channel = RTCDataChannel(self.sctp, RTCDataChannelParameters(label=label))
        self.channel.on("open", lambda: self.opened.set())
        self.channel.on("message", self.messages.put_nowait)
        async with asyncio.timeout(timeout):
            await self.opened.wait()

    def keys(self) -> tuple[str, bytes]:
        """The SRTP profile and the exported keying material (client key, server key, client salt, server salt)."""
        ssl = cast("Any", self.dtls)._ssl
        profile = ssl.get_selected_srtp_profile().decode()
        length = 2 * (16 + (12 if "GCM" in profile else 14))
        return profile, ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", length)

    async def close(self) -> None:
        """Close DTLS and leave nothing running."""
        pump = self.dtls._task
        await self.sctp.stop()
        await self.dtls.stop()
        self.pipe.close()
        if pump is not None:
            await asyncio.wait([pump])
        await asyncio.sleep(0)
