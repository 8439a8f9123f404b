"""How often somebody may ask for something that costs: a token bucket each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

REMEMBERED = 4096  # whose bucket is not full; who is forgotten starts with a full one


class Rate:
    """Allows `burst` at once, and `per_second` of them on and on."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens, and when it held them

    def change(self, burst: float, per_second: float) -> None:
        """Allow another number from now on."""
        self._burst, self._per_second = burst, per_second

    def used(self, who: Hashable) -> float:
        """What share of their burst they had used up, after they were last allowed something or not."""
        tokens, _ = self._buckets.get(who, (self._burst, 0.0))
        return max(0.0, self._burst - int(tokens)) / self._burst

    def allow(self, who: Hashable, now: float) -> bool:
        """Whether there is a token for them; it is used up."""
        tokens, since = self._buckets.pop(who, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1
        self._buckets[who] = (tokens - allowed, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed
