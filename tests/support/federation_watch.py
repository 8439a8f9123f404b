"""What tests of the cascade measure: the longest silence of streams, and what a focus sends and receives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .focus import FocusProcess
from .participant import Participant, Party
from .pulse import waited_for_processor

_LOOK = 0.02  # seconds
_STARVED_EVERY = 0.25  # seconds
_SUSPICIOUS = 0.3  # seconds of silence, from which on the machine is asked at once
_EXCUSED = 0.75  # of a time at most: what is silent for five seconds is found on any machine


class Silence:
    """Watches streams while it is entered: how long at most nothing came, for each of them.

    A stream that is (again) not shown at all counts as silent. Watch only what flows already. Time in which foci were
    ready to run and got no processor does not count (mostly): the machine is busy with something else then.
    """

    def __init__(self, pairs: Iterable[tuple[Participant, Party]], kinds: tuple[str, ...] = ("audio", "video")) -> None:
        self._watched = [(one, other, kind) for one, other in pairs for kind in kinds]
        self.longest: dict[str, float] = {}  # seconds, by a line that says who receives what of whom
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    def over(self, seconds: float) -> dict[str, float]:
        """What was silent for longer."""
        return {name: round(silent, 2) for name, silent in self.longest.items() if silent > seconds}

    async def _watch(self) -> None:
        last = dict.fromkeys(range(len(self._watched)), time.monotonic())
        looked = time.monotonic()
        starvation = _Starvation(b"mautrix_sfu")
        while True:
            now = time.monotonic()
            missed, looked = max(0.0, now - looked - 2 * _LOOK), now
            quietest = max((now - self._came(number, last) for number in last), default=0.0)
            if now - starvation.looked > (_STARVED_EVERY if quietest < _SUSPICIOUS else 2 * _LOOK):
                missed = max(missed, starvation.since())
            for number in last if missed else ():
                last[number] += missed  # somebody was held up who would have sent or received
            for number, (one, other, kind) in enumerate(self._watched):
                came = self._came(number)
                # Between two looks the silence ended with the first packet, at the latest now.
                silent = (came if came > last[number] else now) - last[number]
                last[number] = max(last[number], came)
                name = f"{one.device.user_id} {kind} of {other.device.user_id}"
                self.longest[name] = max(self.longest.get(name, 0.0), silent)
            await asyncio.sleep(_LOOK)

    def _came(self, number: int, last: Mapping[int, float] | None = None) -> float:
        """When the latest packet of a stream came; 0 or what `last` says if there is none."""
        one, other, kind = self._watched[number]
        found = one.heard(other, kind)
        return max(found.last_at if found is not None else 0.0, last[number] if last else 0.0)


@asynccontextmanager
async def within(seconds: float, *kinds: bytes) -> AsyncIterator[None]:
    """AssertionError if it takes longer; the machine's stalls do not count (mostly)."""
    starvation, began = _Starvation(b"mautrix_sfu", b"synapse", *kinds), time.monotonic()
    async with asyncio.timeout(90):
        yield
    took = time.monotonic() - began
    starved = starvation.since()
    assert took - starved <= seconds, f"{took:.1f} s, of which the machine had no processor for {starved:.1f} s"


class _Starvation:
    """How long this process, and those of some kinds that it has started, wait for a processor."""

    def __init__(self, *kinds: bytes) -> None:
        self._kinds = kinds  # words of a command line
        self.looked = time.monotonic()
        self._waited = self._measure()

    def since(self) -> float:
        """Seconds of the time since the last look."""
        now, waited = time.monotonic(), self._measure()
        starved = sum(max(0.0, seconds - self._waited.get(pid, 0.0)) for pid, seconds in waited.items())
        took, self.looked, self._waited = now - self.looked, now, waited
        return min(starved, _EXCUSED * took)

    def _measure(self) -> dict[int, float]:
        return {pid: waited_for_processor(pid) for pid in (os.getpid(), *_started(self._kinds))}


def _started(kinds: Iterable[bytes]) -> list[int]:
    started, found = ["self"], []
    for pid in started:
        with contextlib.suppress(OSError):  # it has just ended
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                started += children.read_text().split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if pid != "self" and any(kind in command for kind in kinds):
                found.append(int(pid))
    return found


def all_pairs(*people: Participant) -> list[tuple[Participant, Party]]:
    """Everybody with everybody else."""
    return [(one, other) for one in people for other in people if one is not other]


@dataclass(frozen=True, slots=True)
class Crossed:
    """What passed in a time: RTP packets without repeats."""

    seconds: float
    sent_by_focus: float
    played: dict[str, int]  # by the publisher's layer: "f", "h", "q", and "" for audio

    def of(self, *layers: str) -> int:
        """What the publisher played of these layers."""
        return sum(self.played.get(layer, 0) for layer in layers)


async def crossings(focus: FocusProcess, publisher: Participant, seconds: float = 2.0) -> Crossed:
    """What a focus sends to anybody while its participant plays: compare for whom it is, to tell what crosses a trunk.

    Where the only participant of the focus is the publisher, all of it goes over trunks.
    """
    began, sent, played = time.monotonic(), await rtp_sent(focus), _played(publisher)
    await asyncio.sleep(seconds)
    now, then = await rtp_sent(focus), _played(publisher)
    return Crossed(
        time.monotonic() - began, now - sent, {layer: count - played.get(layer, 0) for layer, count in then.items()}
    )


async def rtp_sent(focus: FocusProcess) -> float:
    """RTP packets that a focus has sent, repeats left out."""
    packets = await focus.samples("mautrix_sfu_media_rtp_packets_total")
    sent = sum(value for labels, value in packets if labels["direction"] == "out")
    return sent - await focus.metric("mautrix_sfu_media_rtx_out_total")


def _played(publisher: Participant) -> dict[str, int]:
    return {encoding.rid: encoding.packets for encoding in publisher.connection.sender.encodings.values()}
