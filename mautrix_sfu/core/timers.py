"""Deadlines by key: set, replaced, cancelled, and handed out when they are due."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """A heap of deadlines with one entry in force for each key; times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._current: dict[K, tuple[float, int]] = {}  # the entry in force: others in the heap are stale
        self._serial = 0

    def set(self, key: K, deadline: float) -> None:
        """Let `key` fall due at `deadline`, instead of when it was to before."""
        self._serial += 1
        self._current[key] = (deadline, self._serial)
        heapq.heappush(self._heap, (deadline, self._serial, key))
        if len(self._heap) > 64 + 4 * len(self._current):  # stale entries outweigh: rebuild
            self._heap = [(due, serial, k) for k, (due, serial) in self._current.items()]
            heapq.heapify(self._heap)

    def set_earlier(self, key: K, deadline: float) -> None:
        """Let `key` fall due at `deadline` unless it already does so earlier."""
        current = self._current.get(key)
        if current is None or deadline < current[0]:
            self.set(key, deadline)

    def cancel(self, key: K) -> None:
        """Forget `key`."""
        self._current.pop(key, None)

    def __contains__(self, key: K) -> bool:
        return key in self._current

    def next_deadline(self) -> float | None:
        """When the next key falls due; None if nothing is set."""
        heap = self._heap
        while heap and self._current.get(heap[0][2]) != (heap[0][0], heap[0][1]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> K | None:
        """Take out one key that is due; None when there is none left."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._current[key]
        return key
