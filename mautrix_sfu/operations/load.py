"""How much the focus does: rates out of counters that only grow, and how close it is to each limit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..admin import Limit
from ..config import LIMITS, Limits
from ..core.view import FocusView, LegView

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

_Legs = list[LegView]


def _most(legs: _Legs, by: Callable[[LegView], object]) -> int:
    return max(Counter(by(leg) for leg in legs).values(), default=0)


def _in_calls(legs: _Legs) -> _Legs:
    return [leg for leg in legs if leg.conference is not None]


def _held(legs: _Legs) -> _Legs:
    return [leg for leg in legs if leg.grade == "held"]


# What is in use of each limit that has a number to compare it with, of the legs of people.
_USES: Mapping[str, Callable[[_Legs], int]] = {
    "conferences": lambda legs: len({leg.conference for leg in _in_calls(legs)}),
    "legs": len,
    "legs_per_user": lambda legs: _most(legs, lambda leg: leg.peer.user_id),
    "legs_per_homeserver": lambda legs: _most(legs, lambda leg: leg.peer.homeserver),
    "legs_per_conference": lambda legs: _most(_in_calls(legs), lambda leg: leg.conference),
    "held_legs": lambda legs: len(_held(legs)),
    "held_legs_per_user": lambda legs: _most(_held(legs), lambda leg: leg.peer.user_id),
    "tracks_per_leg": lambda legs: max((leg.published for leg in legs), default=0),
    "subscriptions_per_leg": lambda legs: max((leg.sent for leg in legs), default=0),
}


def limits_of(limits: Limits, configured: Limits, view: FocusView, rates: Rates) -> list[Limit]:
    """Every limit that there is, and the most of it that is in use."""
    people = [leg for leg in view.legs if leg.kind == "participant"]
    used: dict[str, float] = {name: use(people) for name, use in _USES.items()}
    used["trunks"] = len(view.legs) - len(people)
    if rates.bits_in is not None and rates.bits_out is not None:
        used["bitrate"] = round((rates.bits_in + rates.bits_out) / 1000)
    return [
        Limit(each.name, each.unit, getattr(limits, each.name), getattr(configured, each.name), used.get(each.name))
        for each in LIMITS
    ]
