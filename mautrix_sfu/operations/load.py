"""How much the focus does: rates out of counters that only grow, and how close it is to each limit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..admin import Limit
from ..config import LIMITS, Limits

WINDOW = 5.0  # seconds that rates are measured over

Number = tuple[str, str, Sequence[tuple[str, str]], int]  # as Media.published has them: name, help, labels, value


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    bytes_in: int
    bytes_out: int
    processor: float  # seconds used so far


class Rates:
    """Rates over the last seconds; None until there was time to measure."""

    def __init__(self) -> None:
        self._last: _Sample | None = None
        self.bits_in: float | None = None
        self.bits_out: float | None = None
        self.processor: float | None = None  # cores that are busy

    def sample(self, now: float, media: Iterable[Number], processor: float) -> None:
        """Take what the media core has published, and the seconds of processor time that the process has used."""
        if self._last is not None and now < self._last.at + WINDOW:
            return
        old = self._last
        moved = dict.fromkeys(("in", "out"), 0)
        for name, _, labels, value in media:
            if name == "rtp_bytes_total":
                moved[dict(labels)["direction"]] += value
        self._last = new = _Sample(now, moved["in"], moved["out"], processor)
        if old is None:
            return
        seconds = new.at - old.at
        self.bits_in = 8 * max(0, new.bytes_in - old.bytes_in) / seconds
        self.bits_out = 8 * max(0, new.bytes_out - old.bytes_out) / seconds
        self.processor = max(0.0, new.processor - old.processor) / seconds


# ---------------------------------------------------------------- limits


def limits_of(limits: Limits, configured: Limits, used: Mapping[str, float]) -> list[Limit]:
    """Every limit that there is, and the most of it that is in use."""
    return [
        Limit(each.name, each.unit, getattr(limits, each.name), getattr(configured, each.name), used[each.name])
        for each in LIMITS
    ]
