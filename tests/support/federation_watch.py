"""What tests of the cascade measure: the longest silence of streams, and what a focus sends and receives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .focus import FocusProcess
from .participant import Participant, Party

_LOOK = 0.02  # seconds


class Silence:
    """Watches streams while it is entered: how long at most nothing came, for each of them.

    A stream that is (again) not shown at all counts as silent. Watch only what flows already.
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
        while True:
            now = time.monotonic()
            missed, looked = max(0.0, now - looked - 2 * _LOOK), now
            for number in last if missed else ():
                last[number] += missed  # this process itself was held up: it could not have received anything
            for number, (one, other, kind) in enumerate(self._watched):
                found = one.heard(other, kind)
                came = found.last_at if found is not None else 0.0
                # Between two looks the silence ended with the first packet, at the latest now.
                silent = (came if came > last[number] else now) - last[number]
                last[number] = max(last[number], came)
                name = f"{one.device.user_id} {kind} of {other.device.user_id}"
                self.longest[name] = max(self.longest.get(name, 0.0), silent)
            await asyncio.sleep(_LOOK)


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
