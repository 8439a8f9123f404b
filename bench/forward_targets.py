"""What `make bench-forward` compares: this project's focus, and the ceiling. People join them and watch each other."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Any, Protocol

from tests.support.participant_sdp import OPUS, VP8, new_track

from .focus_process import PORT
from .load_peers import Generator, Lines, LoadPeer
from .network import PEER_PORT, SERVER, in_server, load_tool, peer_address

AT_ONCE = 16  # handshakes


class Target(Protocol):
    """A server under load. People are numbered from 0 in the order in which they join."""

    name: str
    pid: int
    generator: Generator
    profile: str

    async def start(self) -> None:
        """Run it, and a generator for its peers."""

    async def join(self, count: int, *, audio: bool, video: bool, watch: bool = False) -> None:
        """So many more people, who publish this. `watch`: every eighth of them measures latency."""

    async def show(self, watchers: Sequence[int], sources: Sequence[int]) -> None:
        """Each of the watchers is sent what all of the sources but itself publish, from now on."""

    async def notes(self) -> dict[str, Any]:
        """What else is worth telling."""

    async def stop(self) -> None:
        """End everything."""


class Focus:
    """This project's focus without Matrix: bench/focus_process.py.

    With two threads on two cores, one of them is the load generator's on a machine that has no more.
    """

    def __init__(self, threads: int = 1, cores: Sequence[int] = (0,)) -> None:
        where = "" if len(cores) == 1 else f" on {len(cores)} cores"
        self.name = "mautrix-sfu" + (f", {threads} threads{where}" if threads > 1 else "")
        self.profile = "SRTP_AEAD_AES_128_GCM"
        self._threads, self._cores = threads, cores
        self._people: list[LoadPeer] = []

    async def start(self) -> None:
        command = (sys.executable, "-m", "bench.focus_process", SERVER, "--threads", str(self._threads))
        self._focus = await Lines.start(*in_server(*command, cores=self._cores))
        self.pid = self._focus.process.pid
        self.generator = await Generator.start()

    async def join(self, count: int, *, audio: bool, video: bool, watch: bool = False) -> None:
        first = len(self._people)
        new = [LoadPeer(audio=audio, video=video) for _ in range(count)]
        self._people += new
        for start in range(0, count, AT_ONCE):
            numbers = range(first + start, min(first + start + AT_ONCE, first + count))
            await asyncio.gather(*(self._handshake(number) for number in numbers))
        for number in range(first, first + count):
            place = await self.generator.take_over(self._people[number], watch=watch and number % 8 == 1)
            assert place == number
            for track in self._people[number].published:
                self.generator.play(number, track, 1000)

    async def _handshake(self, number: int) -> None:
        peer = self._people[number]
        await peer.open(peer_address(number))
        peer.take_answer((await self._focus.ask(op="join", leg=number, offer=peer.offer()))["answer"])
        await peer.shake_hands()
        assert peer.peer.keys()[0] == self.profile

    async def show(self, watchers: Sequence[int], sources: Sequence[int]) -> None:
        for watcher in watchers:
            shown = [source for source in sources if source != watcher]
            offer = (await self._focus.ask(op="offer", leg=watcher, sources=shown))["offer"]
            answer = self._people[watcher].take_offer(offer)
            await self._focus.ask(op="forward", leg=watcher, sources=shown, answer=answer)

    async def notes(self) -> dict[str, Any]:
        return await self._focus.ask(op="stats")

    async def stop(self) -> None:
        await self.generator.stop()
        await self._focus.stop()


class Ceiling:
    """The smallest loop that does the same to packets: bench/load/src/bin/ceiling.rs. It shows everybody everybody."""

    def __init__(self) -> None:
        self.name = "ceiling"
        self.profile = "SRTP_AEAD_AES_128_GCM"
        self.generator: Generator
        self._process: Process | None = None
        self._lines: list[str] = []
        self._loads: list[str] = []
        self._count = 0

    async def start(self) -> None:
        self._lines = [f"bind {SERVER}:{PORT}"]

    async def join(self, count: int, *, audio: bool, video: bool, watch: bool = False) -> None:
        for number in range(self._count, self._count + count):
            local, remote = (secrets.token_hex(28) for _ in range(2))
            address = peer_address(number)
            role = "send" if not audio and number == 0 else "both"
            self._lines.append(f"peer {address}:{PEER_PORT} {self.profile} {local} {remote} {role}")
            self._loads.append(f"peer {address} {SERVER}:{PORT} - - {self.profile} {remote} {local}")
            for kind, present in (("audio", audio), ("video", video)):
                if present:
                    (ssrc,) = new_track("0", kind, "", ("",)).ssrcs.values()
                    self._lines.append(f"source {number} {ssrc}")
                    what = (VP8, 1000, 33_333) if kind == "video" else (OPUS, 100, 20_000)
                    self._loads.append(f"source {number} {kind} {ssrc} {' '.join(map(str, what))}")
        self._count += count

    async def show(self, watchers: Sequence[int], sources: Sequence[int]) -> None:
        await self._end()
        self._process = await asyncio.create_subprocess_exec(*in_server(load_tool("ceiling")), stdin=PIPE, stdout=PIPE)
        self.pid = self._process.pid
        assert self._process.stdin is not None
        self._process.stdin.write("\n".join([*self._lines, "go", ""]).encode())
        self.generator = await Generator.start()
        for line in self._loads:
            self.generator.tell(line)

    async def notes(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"count\n")
        found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found

    async def _end(self) -> None:
        if self._process is not None:
            await self.generator.stop()
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
            self._process = None

    async def stop(self) -> None:
        await self._end()
