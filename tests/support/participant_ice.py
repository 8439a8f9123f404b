"""A full, controlling ICE agent towards an ICE-lite peer (RFC 8445), and the UDP socket that everything goes over."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from aioice import stun

from .participant_rtp import is_rtcp

CHECK_INTERVAL = 0.05  # seconds between checks until the first is answered
CONSENT_INTERVAL = 2.0  # seconds, as Chromium's
_BUFFER = 2 * 1024 * 1024  # bytes received but not looked at: a busy machine's test is slow, not the network
_PRIORITY = 126 << 24 | 65535 << 8 | 255


class Socket(asyncio.DatagramProtocol):
    """A UDP socket that counts what arrives, whether it is understood or not."""

    def __init__(self, on_datagram: Callable[[bytes], None]) -> None:
        self.counts: Counter[str] = Counter()  # "stun", "dtls", "rtp", "rtcp", "other"
        self.last: dict[str, float] = {}  # time.monotonic() of the last of each kind
        self._on_datagram = on_datagram
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        kind = classify(data)
        self.counts[kind] += 1
        self.last[kind] = time.monotonic()
        self._on_datagram(data)

    def error_received(self, exc: Exception) -> None:
        self.counts["errors"] += 1

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram; nothing once it is closed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, address)

    @property
    def address(self) -> tuple[str, int]:
        """The local address."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def close(self) -> None:
        """Close it without a word to anybody."""
        if self._transport is not None:
            self._transport.close()


def classify(data: bytes) -> str:
    """What a datagram is (RFC 7983, RFC 5761)."""
    first = data[0] if data else 255
    if first < 4:
        return "stun"
    if 20 <= first < 64:
        return "dtls"
    if not 128 <= first < 192:
        return "other"
    return "rtcp" if is_rtcp(data) else "rtp"


class IceAgent:
    """Checks one remote address until it answers, nominates it at once, and keeps its consent fresh."""

    def __init__(self, send: Callable[[bytes, tuple[str, int]], None]) -> None:
        self.ufrag, self.pwd = _credentials()
        self.connected = asyncio.Event()
        self.answered = 0
        self.refused = 0  # error responses
        self.consent = True  # False: no further checks are sent, as by a peer that has died
        self.remote: tuple[str, int] | None = None
        self._send = send
        self._remote_ufrag = self._remote_pwd = ""
        self._task: asyncio.Task[None] | None = None

    def restart(self) -> None:
        """New credentials, for an offer that restarts ICE."""
        self.ufrag, self.pwd = _credentials()

    def start(self, ufrag: str, pwd: str, address: tuple[str, int]) -> None:
        """Check this remote side; again with other credentials after a restart."""
        if (ufrag, pwd) == (self._remote_ufrag, self._remote_pwd):
            return
        self._remote_ufrag, self._remote_pwd, self.remote = ufrag, pwd, address
        if self._task is not None:
            self._task.cancel()
        self.connected.clear()
        self._task = asyncio.get_running_loop().create_task(self._check())

    async def stop(self) -> None:
        """Send no further checks."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def receive(self, data: bytes) -> None:
        """Take a STUN message."""
        try:
            message = stun.parse_message(data)
        except ValueError:
            return
        if message.message_class is stun.Class.ERROR:
            self.refused += 1
        elif message.message_class is stun.Class.RESPONSE and message.check_message_integrity(
            self._remote_pwd.encode()
        ):
            self.answered += 1
            self.connected.set()

    @property
    def remote_credentials(self) -> tuple[str, str]:
        """(ufrag, password) of the focus."""
        return self._remote_ufrag, self._remote_pwd

    def check(self) -> bytes:
        """A binding request that nominates."""
        return binding_request(f"{self._remote_ufrag}:{self.ufrag}", self._remote_pwd)

    async def _check(self) -> None:
        while True:
            if self.remote is not None and self.consent:
                self._send(self.check(), self.remote)
            await asyncio.sleep(CONSENT_INTERVAL if self.connected.is_set() else CHECK_INTERVAL)


def binding_request(username: str, pwd: str, *, nominate: bool = True) -> bytes:
    """A connectivity check (RFC 8445, section 7.2.4)."""
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = username
    request.attributes["PRIORITY"] = _PRIORITY
    request.attributes["ICE-CONTROLLING"] = secrets.randbits(64)
    if nominate:
        request.attributes["USE-CANDIDATE"] = None
    request.add_message_integrity(pwd.encode())
    request.add_fingerprint()
    return bytes(request)


def _credentials() -> tuple[str, str]:
    return secrets.token_hex(4), secrets.token_hex(12)


def first_candidate(candidates: tuple[str, ...]) -> tuple[str, int]:
    """The address of the first UDP candidate (RFC 8839, section 5.1)."""
    for candidate in candidates:
        words = candidate.split()
        if words[2].lower() == "udp" and "." in words[4]:
            return words[4], int(words[5])
    raise ValueError("no UDP candidate")
