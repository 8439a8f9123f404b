"""The WebRTC half of a test participant: a real UDP socket, ICE, DTLS, SCTP and SRTP towards a focus."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from typing import Any, cast

import pylibsrtp

from mautrix_sfu.wire.sdp import MediaLine, SdpError
from mautrix_sfu.wire.sdp_parser import parse
from mautrix_sfu.wire.sdp_profile import MID

from .dtls_client import DtlsClient
from .participant_ice import IceAgent, Socket, classify, first_candidate
from .participant_rtp import (
    Received,
    RtpPacket,
    is_rtcp,
    parse_rtcp,
    picture_loss,
    receiver_report,
)
from .participant_sdp import Descriptions, Published, new_track
from .participant_sender import Sender

CONNECT_TIMEOUT = 30.0


class Connection:
    """One connection to a focus. `open` first, then exchange descriptions, then `connect`."""

    def __init__(self, *, audio: bool = True, video: bool = True, fingerprint: tuple[str, str] | None = None) -> None:
        self.socket = Socket(self._on_datagram)
        self.bound: socket.socket | None = None  # what `open` uses instead of a new one
        self.ice = IceAgent(self.socket.send)
        self.peer = DtlsClient(self._send_to_focus)
        self.sender = Sender(self._send_rtp)
        self.descriptions = Descriptions(fingerprint or self.peer.fingerprint)
        self.stream_id = secrets.token_hex(8)
        self.published: list[Published] = []
        if audio:
            self.published.append(new_track("0", "audio", self.stream_id))
        if video:
            self.published.append(new_track(str(len(self.published)), "video", self.stream_id))
        self.received: dict[tuple[str, int], Received] = {}  # by (mid, ssrc)
        self.undecryptable = 0
        self.unknown = 0  # decrypted, but of no m-line
        self.rtcp_received = 0
        self.offered: tuple[MediaLine, ...] = ()  # the focus's m-lines, as it last described them
        self.own_offer = False  # one of ours is in flight
        self.on_received: Callable[[], None] = lambda: None
        self._focus_fingerprint = ""
        self._candidate: tuple[str, int] | None = None
        self._lines: dict[int, tuple[str, str]] = {}  # ssrc → (mid, kind), as signalled
        self._kinds: dict[str, str] = {}  # mid → kind
        self._mid_id: int | None = None
        self._rtx: set[int] = set()
        self._own_ssrc = secrets.randbelow(2**32 - 2) + 1
        self._reports: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ descriptions

    async def open(self, host: str = "127.0.0.1") -> None:
        """Bind the socket, or take the one that was given."""
        loop = asyncio.get_running_loop()
        if self.bound is not None:
            await loop.create_datagram_endpoint(lambda: self.socket, sock=self.bound)
        else:
            await loop.create_datagram_endpoint(lambda: self.socket, local_addr=(host, 0))

    def offer(self, *, restart_ice: bool = False) -> str:
        """An offer of everything that is published."""
        if restart_ice:
            self.ice.restart()
        self.own_offer = True
        return self.descriptions.offer(self.published, self.ice.ufrag, self.ice.pwd)

    def take_answer(self, sdp: str) -> None:
        """Take the focus's answer; ICE begins, or begins anew."""
        self.own_offer = False
        self._take(sdp)
        self.sender.publish(self.published)

    def take_offer(self, sdp: str) -> str | None:
        """Answer the focus's offer; None in glare, where the participant is the impolite side."""
        if self.own_offer:
            return None
        self._take(sdp)
        return self.descriptions.answer(parse(sdp), self.published, self.ice.ufrag, self.ice.pwd)

    def share_screen(self) -> Published:
        """Publish one more video track, in a stream of its own, from the next offer on."""
        mid = str(sum(not line.mid.startswith("s") for line in self.descriptions.lines))
        track = new_track(mid, "video", secrets.token_hex(8))
        self.published.append(track)
        return track

    def _take(self, sdp: str) -> None:
        description = parse(sdp)
        transport = next((line.transport for line in description.lines if line.transport is not None), None)
        if transport is None or not transport.fingerprints:
            raise SdpError("the focus gave no transport")
        self._focus_fingerprint = " ".join(transport.fingerprints[0])
        self.offered = description.lines
        for line in description.lines:
            self._kinds[line.mid] = line.kind
            self._rtx.update(rtx for _, rtx in line.fid)
            self._lines.update(dict.fromkeys(line.ssrcs, (line.mid, line.kind)))
            self._mid_id = next((number for number, uri in line.extensions if uri == MID), self._mid_id)
            if line.candidates:
                self._candidate = first_candidate(line.candidates)
        if self._candidate is not None:
            self.ice.start(transport.ufrag, transport.pwd, self._candidate)

    # ------------------------------------------------------------ connecting

    async def connect(self, timeout: float = CONNECT_TIMEOUT) -> None:
        """As far as an open data channel; media begins to flow. TimeoutError or ConnectionError if it does not."""
        async with asyncio.timeout(timeout):
            await self.ice.connected.wait()
            if not await self.peer.connect(self._focus_fingerprint, timeout):
                raise ConnectionError("the DTLS handshake failed")
            self.sender.start()
            self._reports = asyncio.get_running_loop().create_task(self._report())
            await self.peer.open_channel(timeout=timeout)

    def send_text(self, text: str) -> None:
        """Send on the data channel, if it is open."""
        if self.peer.channel is not None and self.peer.channel.readyState == "open":
            self.peer.channel.send(text)

    def send_raw(self, datagram: bytes) -> None:
        """Send any datagram from the participant's address."""
        if self.ice.remote is not None:
            self.socket.send(datagram, self.ice.remote)

    def request_key_frame(self, mid: str) -> None:
        """Send a PLI for what comes on an m-line."""
        for found, ssrc in self.received:
            if found == mid:
                self._send_rtp(picture_loss(self._own_ssrc, ssrc))

    def received_on(self, mid: str) -> Received | None:
        """The source that was last heard on an m-line."""
        found = [received for (line, _), received in self.received.items() if line == mid]
        return max(found, key=lambda received: received.last_at, default=None)

    async def close(self) -> None:
        """Close as a browser does."""
        await self._quiet()
        await self.peer.close()
        self.socket.close()
        await asyncio.sleep(0)

    async def vanish(self) -> None:
        """Fall silent, as a page that is gone does."""
        self.socket.close()
        await self._quiet()
        await self.peer.close()
        await asyncio.sleep(0)

    async def _quiet(self) -> None:
        await self.sender.stop()
        if self._reports is not None:
            self._reports.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reports
        await self.ice.stop()

    # ------------------------------------------------------------ packets

    def _send_to_focus(self, datagram: bytes) -> None:
        self.send_raw(datagram)

    def _send_rtp(self, packet: bytes) -> None:
        session = cast("Any", self.peer.dtls)._tx_srtp
        if session is None or self.ice.remote is None:
            return
        self.send_raw(session.protect_rtcp(packet) if is_rtcp(packet) else session.protect(packet))

    def _on_datagram(self, data: bytes) -> None:
        match classify(data):
            case "stun":
                self.ice.receive(data)
            case "dtls":
                self.peer.pipe.feed(data)
            case "rtp" | "rtcp":
                self._on_srtp(data)

    def _on_srtp(self, data: bytes) -> None:
        session = cast("Any", self.peer.dtls)._rx_srtp
        try:
            if session is None:
                raise pylibsrtp.Error
            if is_rtcp(data):
                self._on_rtcp(session.unprotect_rtcp(data))
            else:
                self._on_rtp(RtpPacket.parse(session.unprotect(data)))
        except pylibsrtp.Error:
            self.undecryptable += 1

    def _on_rtp(self, packet: RtpPacket) -> None:
        if packet.ssrc in self._rtx:
            return
        line = self._lines.get(packet.ssrc)
        if line is None and self._mid_id in packet.extensions:
            mid = packet.extensions[self._mid_id].decode("ascii", "replace")
            line = (mid, self._kinds.get(mid, ""))
        if line is None or not line[1]:
            self.unknown += 1
            return
        key = (line[0], packet.ssrc)
        if key not in self.received:
            self.received[key] = Received(line[0], packet.ssrc, line[1])
        self.received[key].count(packet)
        self.on_received()

    def _on_rtcp(self, data: bytes) -> None:
        self.rtcp_received += 1
        for packet in parse_rtcp(data):
            self.sender.take_feedback(packet)

    async def _report(self) -> None:
        """Receiver reports every second, and a PLI for video that began without a key frame."""
        while True:
            await asyncio.sleep(1)
            sources = [(item.ssrc, item.highest % 2**32) for item in self.received.values()]
            for start in range(0, len(sources), 31):
                self._send_rtp(receiver_report(self._own_ssrc, sources[start : start + 31]))
            for item in self.received.values():
                if item.kind == "video" and not item.key_frames:
                    self._send_rtp(picture_loss(self._own_ssrc, item.ssrc))
