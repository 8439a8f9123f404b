"""Holds the limits on bitrates: tells the media core what each leg may send, and the entrance what is full."""

from __future__ import annotations

from collections.abc import Mapping

from .bandwidth import Bandwidth, Load, Member, shares, total
from .books import Books
from .commands import About, CapLeg, Counter, Level
from .ids import ConferenceKey, LegId
from .leg import Leg
from .outbox import NOTHING, Outbox

ONSET = 1.05  # of its share: a leg that offers more than this counts as one that hit its limit
CHANGE = 0.05  # of a share: smaller changes are not told


class Shares:
    """What is full now, and every leg's share in kbit/s."""

    def __init__(self, books: Books, out: Outbox) -> None:
        self._books = books
        self._out = out
        self._bandwidth = Bandwidth()
        self._caps: dict[LegId, int] = {}
        self._over: set[LegId] = set()  # they hit a limit of their own, and it was counted
        self._full: dict[ConferenceKey, float] = {}  # conferences that are limited, with what they take
        self._focus_full = False

    def bitrate(self, leg: LegId) -> tuple[float, float]:
        """What a leg offers, and what it takes of what calls may take, in kbit/s."""
        load = self._bandwidth.loads.get(leg)
        return (0.0, 0.0) if load is None else (load.offered, total((load,)))

    def full(self, key: ConferenceKey | None) -> str | None:
        """The limit on bitrates that leaves no room for a leg in this conference; None: there is room."""
        if self._focus_full:
            return "bitrate"
        return "bitrate_per_conference" if key is not None and key in self._full else None

    def opened(self, leg: Leg) -> None:
        """A new leg: it has the share that everybody has."""
        if not leg.trunk:
            self._cap(leg.id, self._books.policy.limits.bitrate_per_leg)

    def policy_changed(self) -> None:
        """Other limits may be in force; what conferences may take follows with the next measurement."""
        for leg in self._books.legs.values():
            if not leg.trunk:
                cap = self._books.policy.limits.bitrate_per_leg
                self._cap(leg.id, min(cap, self._caps.get(leg.id, cap)) if self._limited(leg) else cap)

    def measured(self, traffic: Mapping[LegId, tuple[int, int]], now: float) -> None:
        """Take the media core's byte counts, and set every share anew."""
        self._caps = {leg: cap for leg, cap in self._caps.items() if leg in self._books.legs}
        self._over &= self._books.legs.keys()
        if not self._bandwidth.measure(traffic, self._caps, now):
            return
        limits = self._books.policy.limits
        members = [self._member(leg) for leg in self._books.legs.values() if leg.id in self._bandwidth.loads]
        found: dict[LegId, float] = {}
        whole = shares(members, limits.bitrate, limited=self._focus_full)
        self._note("bitrate", None, whole is not None and not self._focus_full, total(m.load for m in members))
        self._focus_full = whole is not None
        _tighten(found, whole)
        by_key: dict[ConferenceKey, list[Member]] = {}
        for member in members:
            key = self._books.legs[member.leg].conference
            if key is not None:
                by_key.setdefault(key, []).append(member)
        full: dict[ConferenceKey, float] = {}
        for key, those in by_key.items():
            of_call = shares(those, limits.bitrate_per_conference, limited=key in self._full)
            if of_call is not None:
                full[key] = total(member.load for member in those)
                self._note("bitrate_per_conference", key, key not in self._full, full[key])
                _tighten(found, of_call)
        self._full = full
        for member in members:
            self._set(self._books.legs[member.leg], member.load, found.get(member.leg))

    def _set(self, leg: Leg, load: Load, share: float | None) -> None:
        own = None if leg.trunk else self._books.policy.limits.bitrate_per_leg
        over = own is not None and load.offered > own * ONSET
        if over and leg.id not in self._over:
            self._out.count(Counter.BOUNDS_HIT, "bitrate_per_leg")
            self._out.log(Level.WARNING, f"sends {load.offered:.0f} of {own} kbit/s", leg.about)
        (self._over.add if over else self._over.discard)(leg.id)
        bounds = [bound for bound in (own, None if share is None else round(share)) if bound is not None]
        self._cap(leg.id, min(bounds, default=None))

    def _cap(self, leg: LegId, cap: int | None) -> None:
        before = self._caps.get(leg)
        if before == cap or (before is not None and cap is not None and abs(cap - before) < CHANGE * before):
            return
        if cap is None:
            del self._caps[leg]
        else:
            self._caps[leg] = cap
        self._out.put(CapLeg(leg, cap))

    def _limited(self, leg: Leg) -> bool:
        return self._focus_full or (leg.conference is not None and leg.conference in self._full)

    def _member(self, leg: Leg) -> Member:
        people = len({stream.owner for stream in leg.published.streams.values()}) if leg.trunk else 1
        return Member(leg.id, self._bandwidth.loads[leg.id], max(1, people))

    def _note(self, limit: str, key: ConferenceKey | None, begins: bool, taken: float) -> None:
        if begins:
            self._out.count(Counter.BOUNDS_HIT, limit)
            about = NOTHING if key is None else About.call(key)
            self._out.log(Level.WARNING, f"{limit}: {taken:.0f} kbit/s are too many", about)


def _tighten(found: dict[LegId, float], more: Mapping[LegId, float] | None) -> None:
    for leg, share in (more or {}).items():
        found[leg] = min(share, found.get(leg, share))
