"""The peers of a benchmark: their handshakes by aiortc, and the generator that plays them afterwards."""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any

from tests.support.participant_connection import Connection
from tests.support.participant_sdp import OPUS, VP8, Published, new_track

from .network import PEER_PORT, load_tool

FRAME_INTERVAL, AUDIO_INTERVAL = 33_333, 20_000  # us
HANDSHAKE = 30.0  # seconds, when many do it at once
AUDIO_BYTES = 100  # of Opus at 40 kbit/s


def frame_bytes(bits_per_second: float) -> int:
    """Payload bytes of one video frame."""
    return round(bits_per_second * FRAME_INTERVAL / 8e6)


class LoadPeer(Connection):
    """A connection that only does its handshakes: the generator takes its address over."""

    channel = True  # a focus wants a data channel
    host = ""

    def __init__(self, *, audio: bool, video: bool) -> None:
        super().__init__(audio=audio, video=False)
        if video:
            self.published.append(new_track(str(len(self.published)), "video", self.stream_id, ("",)))

    async def open(self, host: str = "127.0.0.1") -> None:
        """Bind the generator's port on the peer's own address, which the kernel prefers to the generator's any."""
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((host, PEER_PORT))
        self.host = host
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self.socket, sock=udp)

    async def shake_hands(self) -> None:
        """As far as SRTP keys, and an open data channel."""
        async with asyncio.timeout(HANDSHAKE):
            await self.ice.connected.wait()
            if not await self.peer.connect(self._focus_fingerprint, HANDSHAKE):
                raise ConnectionError("the DTLS handshake failed")
            if self.channel:
                await self.peer.open_channel(timeout=HANDSHAKE)


class Generator:
    """The load generator's process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._peers = 0

    @classmethod
    async def start(
        cls, *arguments: str, command: Callable[[str], tuple[str, ...]] = lambda path: (path,)
    ) -> Generator:
        """Run it, by default where this process is."""
        program = (*command(load_tool("generator")), *arguments)
        return cls(await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE))

    def tell(self, line: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def take_over(self, peer: LoadPeer, *, watch: bool = False) -> int:
        """Have it play this peer from now on. Gives its number."""
        profile, material = peer.peer.keys()
        salt = (len(material) - 32) // 2
        keys, salts = material[:32], material[32:]
        local, theirs = keys[:16] + salts[:salt], keys[16:] + salts[salt:]
        assert peer.ice.remote is not None
        ufrag, pwd = peer.ice.remote_credentials
        remote = f"{peer.ice.remote[0]}:{peer.ice.remote[1]}"
        username = f"{ufrag}:{peer.ice.ufrag}"
        await peer.vanish()
        flag = " watch" if watch else ""
        self.tell(f"peer {peer.host} {remote} {username} {pwd} {profile} {local.hex()} {theirs.hex()}{flag}")
        self._peers += 1
        return self._peers - 1

    def play(self, number: int, track: Published, video_bytes: int) -> None:
        """Have a peer publish a track."""
        (ssrc,) = track.ssrcs.values()
        if track.kind == "video":
            self.tell(f"source {number} video {ssrc} {VP8} {video_bytes} {FRAME_INTERVAL}")
        else:
            self.tell(f"source {number} audio {ssrc} {OPUS} {AUDIO_BYTES} {AUDIO_INTERVAL}")

    async def count(self) -> dict[str, Any]:
        """What was sent and received so far."""
        assert self._process.stdout is not None
        self.tell("count")
        found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found

    async def stop(self) -> None:
        """End it."""
        if self._process.returncode is None:
            self.tell("quit")
        await self._process.wait()


class Lines:
    """A process that answers each line of JSON with one."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, *command: str) -> Lines:
        """Run it."""
        return cls(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 22))

    async def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order, and wait for what comes of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        async with self._turn:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            line = await self.process.stdout.readline()
        if not line:
            raise ConnectionError("the process ended")
        found: dict[str, Any] = json.loads(line)
        return found

    async def stop(self) -> None:
        """End it by the end of its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()
