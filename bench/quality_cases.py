"""The networks that `make quality` puts a call into, and what is read from the pages' books afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from .quality_link import Condition

ROUND_TRIP = 0.05  # seconds, where the case says nothing else
WIDE, NARROW, VERY_NARROW = 3_000_000.0, 500_000.0, 150_000.0
FREEZE = 0.15  # seconds beyond the usual gap between frames: webrtc-stats, totalFreezesDuration
SETTLED = 5.0  # seconds after which a layer should stay


@dataclass(frozen=True)
class Phase:
    """So many seconds of Ann's way up and Ben's way down. All other ways have the delay and nothing else."""

    seconds: float
    up: Condition
    down: Condition


@dataclass(frozen=True)
class Case:
    """The first phase is not measured."""

    name: str
    phases: tuple[Phase, ...]
    delay: float  # one way

    @property
    def drops(self) -> bool:
        """Whether the link narrows and widens again: one phase each."""
        return len(self.phases) == 3


def _steady(name: str, seconds: float, up: Condition, down: Condition, delay: float = ROUND_TRIP / 2) -> Case:
    """The call begins without what follows; then it gets two seconds to settle."""
    clean = Condition(delay)
    after = replace(up, delay=delay), replace(down, delay=delay)
    return Case(name, (Phase(4.0, clean, clean), Phase(seconds, *after)), delay)


def _drop(name: str, to: float, seconds: float) -> Case:
    delay = ROUND_TRIP / 2
    up = Condition(delay)
    wide, narrow = Condition(delay, rate=WIDE), Condition(delay, rate=to)
    return Case(name, (Phase(8.0, up, wide), Phase(seconds, up, narrow), Phase(seconds, up, wide)), delay)


def cases(seconds: float, drop_seconds: float) -> list[Case]:
    """All of them."""
    clean = Condition()
    found = [_steady("no loss", seconds, clean, clean)]
    for loss in (2, 5, 10):
        found.append(_steady(f"loss {loss} % up", seconds, Condition(loss=loss / 100), clean))
        found.append(_steady(f"loss {loss} % down", seconds, clean, Condition(loss=loss / 100)))
    found += [
        _steady("delay 20 ms", seconds, clean, clean, 0.02 / 2),
        _steady("delay 200 ms", seconds, clean, clean, 0.2 / 2),
        _steady("jitter 30 ms", seconds, clean, Condition(jitter=0.03)),
        _steady("reordering", seconds, clean, Condition(late=0.03, late_by=0.02)),
        _steady("bursts 3 %", seconds, clean, Condition(loss=0.03, burst=5)),
        _drop("3 to 0.5 Mbit/s", NARROW, drop_seconds),
        _drop("3 to 0.15 Mbit/s", VERY_NARROW, drop_seconds),
    ]
    return found


@dataclass(frozen=True)
class Book:
    """What Ben's page wrote down; times are seconds on its clock."""

    frames: Sequence[tuple[float, int]]  # when shown, width
    samples: Sequence[Mapping[str, Any]]
    marks: Sequence[float]  # the beginnings of the phases, and the end

    @classmethod
    def read(cls, found: Mapping[str, Any], marks: Sequence[float]) -> Book:
        """From what the page gives."""
        frames = [(at / 1000, width) for at, width in found["frames"]]
        return cls(frames, [{**sample, "at": sample["at"] / 1000} for sample in found["samples"]], marks)

    def freezes(self, since: float, until: float) -> tuple[float, float]:
        """The longest gap between frames, and the sum of the gaps that are freezes; milliseconds."""
        inside = [at for at, _ in self.frames if since <= at <= until]
        before = [at for at, _ in self.frames if at < since]
        times = [max(before[-1:] or [since]), *inside, until]
        gaps = [after - at for at, after in pairwise(times)]
        usual = median(gaps)
        frozen = sum(gap for gap in gaps if gap > max(3 * usual, usual + FREEZE))
        return max(gaps) * 1000, frozen * 1000

    def concealment(self, since: float, until: float) -> float:
        """Percent of Ann's voice that was made up where there was something to hear."""
        first, last = self._ends(since, until)
        ann = min(last["voices"])  # she is offered first
        grown = _grown(first["voices"].get(ann, {}), last["voices"][ann])
        heard = grown["concealedSamples"] - grown["silentConcealedSamples"]
        return 100 * heard / max(1, grown["totalSamplesReceived"])

    def received(self, since: float, until: float) -> float:
        """Bits per second of audio and video."""
        first, last = self._ends(since, until)
        return float((last["bytes"] - first["bytes"]) * 8 / max(0.1, last["at"] - first["at"]))

    def asked(self, since: float, until: float) -> int:
        """Key frames that Ben asked for."""
        first, last = self._ends(since, until)
        found = _grown(first["video"], last["video"])
        return int(found["pliCount"] + found["firCount"])

    def widths(self, since: float, until: float) -> list[int]:
        """Of the pictures shown."""
        return [width for at, width in self.frames if since <= at <= until]

    def switches(self, since: float, until: float) -> int:
        """How often the pictures changed their size."""
        widths = self.widths(since, until)
        return sum(a != b for a, b in pairwise(widths))

    def until_width(self, since: float, until: float, least: int, most: int) -> float | None:
        """Seconds until the first picture whose width is within these bounds."""
        return next((at - since for at, width in self.frames if since <= at <= until and least <= width <= most), None)

    def first_frame(self, since: float) -> float:
        """When the first picture was shown after a moment; that moment if none was."""
        return next((at for at, _ in self.frames if at >= since), since)

    def _ends(self, since: float, until: float) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        inside = [sample for sample in self.samples if since <= sample["at"] <= until]
        if not inside:
            raise ValueError("the page took no samples meanwhile")
        return inside[0], inside[-1]


def _grown(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    return {name: value - first.get(name, 0) for name, value in last.items()}


def fitting_width(layers: Mapping[str, Mapping[str, Any]], rate: float) -> int:
    """The width of the best layer that a link of this rate carries, by what the layers take; 0 if none fits."""
    return max((layer["frameWidth"] for layer in layers.values() if 0 < layer["bits"] < rate), default=0)


def results(case: Case, book: Book, layers: Mapping[str, Mapping[str, Any]], best: int) -> dict[str, float | None]:
    """The figures of one run."""
    settle = 2.0 if not case.drops else 0.0
    since, until = book.marks[1] + settle, book.marks[-1]
    longest, frozen = book.freezes(since, until)
    widths = book.widths(since, until)
    found: dict[str, float | None] = {
        "kbit_s": book.received(since, until) / 1000,
        "width": float(median(widths)) if widths else 0.0,
        "freeze_ms": longest,
        "frozen_ms": frozen,
        "concealed_pct": book.concealment(since, until),
        "asked": float(book.asked(since, until)),
        "switches": float(book.switches(since, until)),
    }
    if case.drops:
        _, dropped, widened, end = book.marks
        rate = case.phases[1].down.rate
        assert rate is not None
        fits = fitting_width(layers, rate)
        down = book.until_width(dropped, widened, 1, fits) if fits else None
        found |= {
            "kbit_s": book.received(dropped + SETTLED, widened) / 1000,
            "width": float(median(book.widths(dropped + SETTLED, widened) or [0])),
            "freeze_ms": book.freezes(dropped, widened)[0],
            "frozen_ms": book.freezes(dropped, widened)[1],
            "concealed_pct": book.concealment(dropped, widened),
            "down_s": down,
            "up_s": book.until_width(widened, end, best, best),
            "fits": float(fits),
            "switches": float(
                book.switches(dropped + SETTLED, widened) + book.switches(min(widened + 2 * SETTLED, end), end)
            ),
            "asked": float(book.asked(dropped, end)),
            "freeze_up_ms": book.freezes(book.first_frame(widened), end)[0],
        }
    return found
