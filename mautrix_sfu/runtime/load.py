"""Measures the load once a second: what legs take of the line, processor time of media threads, the loop's lag."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ..config import OverloadConfig
from ..core.ids import LegId
from ..core.orders import OverloadChanged, Traffic
from ..core.overload import Overload

SPAN = 1.0  # seconds of a measurement
INTERVAL = 0.1  # seconds between looks at the loop's lag
CPU = "thread_cpu_microseconds_total"
CPU_SPAN = 3  # measurements that processor time is averaged over: media threads publish it twice a second

Number = tuple[str, str, Sequence[tuple[str, str]], int]  # name, help, labels, value


class LoadSource(Protocol):
    """The media core, as far as it tells of its load. Raises RuntimeError once it has failed."""

    def traffic(self) -> Sequence[tuple[LegId, int, int]]:
        """Of each leg the bytes that came and that were sent; the media thread is asked."""

    def published(self) -> tuple[Sequence[Number], object]:
        """What the media threads measured lately."""


class LoadWatch:
    """For one task of the composition root."""

    def __init__(
        self,
        source: LoadSource,
        tell: Callable[[Traffic | OverloadChanged], None],
        thresholds: Callable[[], OverloadConfig],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._tell = tell
        self._thresholds = thresholds
        self._clock = clock
        self._overload = Overload()
        self._cause: str | None = None
        # When, and how many microseconds each media thread had worked by then.
        self._worked: deque[tuple[float, dict[str, int]]] = deque(maxlen=CPU_SPAN + 1)

    async def run(self) -> None:
        """Measure, for ever; ends when the media core has failed."""
        while True:
            lag = await self._lag()
            try:
                # In a thread of its own: the media thread, asked when it is busy, lets the event loop wait otherwise.
                traffic = await asyncio.to_thread(self._source.traffic)
                cpu = self._cpu(self._source.published()[0])
            except RuntimeError:
                return
            self._tell(Traffic({leg: (received, sent) for leg, received, sent in traffic}))
            thresholds = self._thresholds()
            loads = {"media_cpu": cpu / thresholds.media_cpu, "loop_lag": lag / thresholds.loop_lag}
            cause = self._overload.update(loads, self._clock())
            if cause != self._cause:
                self._cause = cause
                self._tell(OverloadChanged(cause))

    async def _lag(self) -> float:
        """How much later than asked for the loop wakes a task, in seconds; the mean of a second."""
        late, looks, end = 0.0, 0, self._clock() + SPAN
        while (now := self._clock()) < end:
            await asyncio.sleep(INTERVAL)
            late += max(0.0, self._clock() - now - INTERVAL)
            looks += 1
        return late / max(1, looks)

    def _cpu(self, numbers: Sequence[Number]) -> float:
        """The share of the last seconds that the busiest media thread has worked."""
        now = self._clock()
        worked = {str(labels): value for name, _, labels, value in numbers if name == CPU}
        self._worked.append((now, worked))
        since, before = self._worked[0]
        if now <= since:
            return 0.0
        busiest = max((value - before.get(thread, value) for thread, value in worked.items()), default=0)
        return busiest / 1e6 / (now - since)
