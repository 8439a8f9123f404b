"""The load watch on a real event loop: what it tells of a loop that is late and of media threads that are busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from mautrix_sfu.config import OverloadConfig
from mautrix_sfu.core.ids import LegId
from mautrix_sfu.core.orders import OverloadChanged, Traffic
from mautrix_sfu.runtime import LoadWatch
from mautrix_sfu.runtime.load import CPU, Number

STRICT = OverloadConfig(media_cpu=0.5, loop_lag=0.02)


class Source:
    """A media core with two threads, one of them busy for this share of the time."""

    def __init__(self, share: float = 0.0) -> None:
        self.share = share
        self.failed = False
        self._started = time.monotonic()

    def traffic(self) -> Sequence[tuple[LegId, int, int]]:
        if self.failed:
            raise RuntimeError("a media thread failed")
        return [(LegId(1), 1000, 2000)]

    def published(self) -> tuple[Sequence[Number], object]:
        worked = round((time.monotonic() - self._started) * self.share * 1e6)
        return [("legs", "", [], 1), (CPU, "", [("thread", "0")], 0), (CPU, "", [("thread", "1")], worked)], []


async def told(
    source: Source, seconds: float, block: float = 0.0, config: OverloadConfig = STRICT
) -> list[Traffic | OverloadChanged]:
    """What the watch tells while something blocks the loop for so many seconds at a time."""
    found: list[Traffic | OverloadChanged] = []
    watch = asyncio.ensure_future(LoadWatch(source, found.append, lambda: config).run())
    end = time.monotonic() + seconds
    while time.monotonic() < end and not watch.done():
        time.sleep(block)  # noqa: ASYNC251  that is the point
        await asyncio.sleep(0.05)
    watch.cancel()
    await asyncio.wait([watch])
    return found


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mautrix_sfu.core.overload.RISE", 0.3)


async def test_a_loop_that_is_late_is_overload() -> None:
    found = await told(Source(), 4.0, block=0.25)
    assert OverloadChanged("loop_lag") in found
    assert Traffic({LegId(1): (1000, 2000)}) in found


async def test_a_busy_media_thread_is_overload_though_the_other_is_not() -> None:
    patient = OverloadConfig(media_cpu=0.5, loop_lag=30.0)  # on a busy machine this loop is late itself
    found = await told(Source(share=0.7), 4.0, config=patient)
    assert [event for event in found if isinstance(event, OverloadChanged)] == [OverloadChanged("media_cpu")]


async def test_it_ends_with_the_media_core() -> None:
    source = Source()
    source.failed = True
    assert await told(source, 5.0) == []
