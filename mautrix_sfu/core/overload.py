"""When the load is too high for more legs: above a threshold for a while, until it is clearly below for longer."""

from __future__ import annotations

from collections.abc import Mapping

RISE = 2.0  # seconds above the threshold: a key frame for everybody is not overload
FALL = 5.0  # seconds below RELEASE of it: legs that were kept out come all at once
RELEASE = 0.8


class Hysteresis:
    """One measure against its threshold."""

    def __init__(self) -> None:
        self.over = False
        self._since: float | None = None  # the other side was reached, and has not been left since

    def update(self, load: float, now: float) -> bool:
        """Take what share of the threshold is reached; whether that counts as too high now."""
        crossed = load < RELEASE if self.over else load >= 1.0
        if not crossed:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= (FALL if self.over else RISE):
            self.over, self._since = not self.over, None
        return self.over


class Overload:
    """All measures by name."""

    def __init__(self) -> None:
        self._measures: dict[str, Hysteresis] = {}

    def update(self, loads: Mapping[str, float], now: float) -> str | None:
        """Take what share of its threshold each measure reaches; the name of one that is too high, None if none is."""
        over = [name for name, load in loads.items() if self._measures.setdefault(name, Hysteresis()).update(load, now)]
        return over[0] if over else None
