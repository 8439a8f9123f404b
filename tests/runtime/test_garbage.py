"""Garbage is looked for when legs have ended, and not because a call fills."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from mautrix_sfu.runtime import garbage
from mautrix_sfu.runtime.garbage import LEAST, Garbage


class Node:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Garbage]:
    """What the process has; Python's own way afterwards."""
    thresholds = gc.get_threshold()
    made = Garbage()
    made.begin()
    yield made
    made.stop()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def old_cycle() -> weakref.ref[Node]:
    """A cycle that has outlived the looks at what is new, and that nobody needs any more."""
    node = Node()
    gc.collect(1)
    gc.collect(1)
    return weakref.ref(node)


def full_looks() -> int:
    found: int = gc.get_stats()[2]["collections"]
    return found


async def test_what_ended_legs_leave_is_gone_once_as_many_have_ended_as_are_left(collector: Garbage) -> None:
    left = old_cycle()
    for _ in range(2 * LEAST - 1):
        collector.leg_ended(2 * LEAST)
    await asyncio.sleep(0)
    assert left() is not None
    collector.leg_ended(2 * LEAST)
    await asyncio.sleep(0)
    assert left() is None


async def test_where_few_legs_end_it_is_gone_after_a_while(collector: Garbage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "QUIET", 0.01)
    left = old_cycle()
    collector.leg_ended(0)
    async with asyncio.timeout(5):
        while left() is not None:
            await asyncio.sleep(0.01)


async def test_what_only_grows_is_not_looked_through_again_and_again(collector: Garbage) -> None:
    before = full_looks()
    grown = [[number] for number in range(1_000_000)]
    assert full_looks() == before
    assert len(grown) == 1_000_000


async def test_a_process_that_has_not_begun_is_left_alone() -> None:
    before = full_looks()
    idle = Garbage()
    for _ in range(3 * LEAST):
        idle.leg_ended(0)
    await asyncio.sleep(0)
    assert full_looks() == before
