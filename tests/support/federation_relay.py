"""A UDP relay in front of a focus, which can be cut for some of those who use it."""

from __future__ import annotations

import asyncio
from typing import Any, Self, cast

ADDRESS = "127.0.0.7"  # loopback too, so that a focus's port is free there


class Relay:
    """Carries datagrams between a focus that advertises ADDRESS, its port kept, and whoever sends there.

    The focus must be bound to 127.0.0.1 alone.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.dropped = 0
        self._kept: set[tuple[str, int]] | None = None  # None: nobody is cut off
        self._front: asyncio.DatagramTransport | None = None
        self._backs: dict[tuple[str, int], asyncio.Future[asyncio.DatagramTransport]] = {}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Side(self._from_peer), (ADDRESS, self.port))
        self._front = transport
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._front is not None
        self._front.close()
        for back in self._backs.values():
            (await back).close()
        await asyncio.sleep(0)

    def cut(self, *kept: tuple[str, int]) -> None:
        """Drop all datagrams from now on, but not from and to these addresses."""
        self._kept = set(kept)

    def mend(self) -> None:
        """Drop nothing any more."""
        self._kept = None

    def _from_peer(self, data: bytes, peer: tuple[str, int]) -> None:
        if self._carries(peer):
            if peer not in self._backs:
                self._backs[peer] = asyncio.ensure_future(self._open(peer))
            self._backs[peer].add_done_callback(lambda back: back.result().sendto(data))

    async def _open(self, peer: tuple[str, int]) -> asyncio.DatagramTransport:
        def to_peer(data: bytes, _: tuple[str, int]) -> None:
            if self._carries(peer) and self._front is not None:
                self._front.sendto(data, peer)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Side(to_peer), ("127.0.0.1", 0), ("127.0.0.1", self.port)
        )
        return transport

    def _carries(self, peer: tuple[str, int]) -> bool:
        carried = self._kept is None or peer in self._kept
        self.dropped += not carried
        return carried


class _Side(asyncio.DatagramProtocol):
    def __init__(self, take: Any) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._take(data, cast("tuple[str, int]", addr[:2]))
