"""When Python looks for garbage in cycles (gc): by how many legs have ended, as it holds everything up meanwhile.

A leg is thousands of objects, so that with hundreds of them a look at all takes most of a second, and Python by itself
looks
whenever what is there has grown by a quarter: all the time while a call fills.
"""

from __future__ import annotations

import asyncio
import gc

YOUNG, MIDDLE = 10_000, 20  # new objects between two looks at these; such looks between two at what survived them
NEVER = 1_000_000_000
LEAST = 100  # legs that have ended since the last look at everything
QUIET = 600.0  # seconds after the end of a leg until there is a look at all that it left, however few


class Garbage:
    """Looks at everything when as many legs have ended as are left, so that the cost of looking is shared by them."""

    def __init__(self) -> None:
        self._begun = False
        self._ended = 0
        self._later: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Take it over from Python, for a process that has started: what is there now stays."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        self._begun = True

    def leg_ended(self, live: int) -> None:
        """Learn that a leg ended, and how many are left."""
        if not self._begun:
            return
        self._ended += 1
        loop = asyncio.get_running_loop()
        if self._ended >= max(LEAST, live):
            self._ended = 0
            loop.call_soon(self._look)  # when what ends it is done
        elif self._later is None:
            self._later = loop.call_later(QUIET, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._later is not None:
            self._later.cancel()

    def _look(self) -> None:
        self.stop()
        self._later = None
        self._ended = 0
        gc.collect()
