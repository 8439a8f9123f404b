"""What calls take of the line, and what their legs may send so that it stays within the limits.

The media core tells what came from and went to each leg; it drops what a leg sends beyond its share. A leg's own limit
is a share that never changes. A conference or the whole focus that takes too much is brought back by what its
publishers may send: all the same, except that who sends less than the others keeps what he sends (max-min fairness; a
trunk counts for as many as it brings). What is sent follows from what is received, by the factor of the moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .ids import LegId

RELEASE = 0.9  # of the limit: shares end when what is offered would take less
MIN_SPAN = 0.2  # seconds between two measurements that say something
LOWEST_SHARE = 32.0  # kbit/s: a voice passes whatever the limit


@dataclass(frozen=True, slots=True)
class Load:
    """What one leg sends and is sent now, in kbit/s."""

    offered: float  # that came from it, dropped or not
    taken: float  # that came from it and was not dropped, as far as can be told
    sent: float  # to it


@dataclass(frozen=True, slots=True)
class Member:
    """A leg that shares a limit with others."""

    leg: LegId
    load: Load
    weight: int  # the people behind it


class Bandwidth:
    """The loads of all legs by the newest measurement."""

    def __init__(self) -> None:
        self._bytes: dict[LegId, tuple[int, int]] = {}
        self._at: float | None = None
        self.loads: dict[LegId, Load] = {}

    def measure(self, traffic: Mapping[LegId, tuple[int, int]], caps: Mapping[LegId, int], now: float) -> bool:
        """Take (bytes from, bytes to) of each leg since it began; True if that gives loads."""
        if self._at is None or now - self._at < MIN_SPAN:
            if self._at is None:
                self._bytes, self._at = dict(traffic), now
            return False
        kbit = 0.008 / (now - self._at)
        loads: dict[LegId, Load] = {}
        for leg, (received, sent) in traffic.items():
            before = self._bytes.get(leg, (0, 0))
            offered = max(0, received - before[0]) * kbit
            taken = min(offered, caps.get(leg, offered))
            loads[leg] = Load(offered, taken, max(0, sent - before[1]) * kbit)
        self._bytes, self._at, self.loads = dict(traffic), now, loads
        return True


def total(loads: Iterable[Load]) -> float:
    """What they take together, received and sent."""
    return sum(load.taken + load.sent for load in loads)


def shares(members: Iterable[Member], limit: float, *, limited: bool) -> dict[LegId, float] | None:
    """What each may send so that all take no more than `limit`; None: anything. `limited`: shares are in force."""
    known = list(members)
    taken = sum(member.load.taken for member in known)
    offered = sum(member.load.offered for member in known)
    if taken <= 0:
        return None
    factor = 1 + sum(member.load.sent for member in known) / taken
    budget = limit / factor
    if offered <= budget * (RELEASE if limited else 1.0):
        return None
    level = _water_level(known, budget)
    return {member.leg: max(LOWEST_SHARE, level * member.weight) for member in known}


def _water_level(members: list[Member], budget: float) -> float:
    """The share of one person at which the budget is used up: who offers less leaves the rest to the others."""
    rest, weight = budget, sum(member.weight for member in members)
    for member in sorted(members, key=lambda each: each.load.offered / each.weight):
        if member.load.offered / member.weight >= rest / weight:
            break
        if weight == member.weight:
            break  # the last one may have all that is left
        rest -= member.load.offered
        weight -= member.weight
    return rest / weight
