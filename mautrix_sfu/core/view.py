"""What the core shows of itself to operators: immutable, made on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from .ids import ConferenceKey, Device, Kind, LegId, UserId
from .usage import PASSING


@dataclass(frozen=True, slots=True)
class LegView:
    """One leg as an operator sees it."""

    leg: LegId
    peer: Device
    conference: ConferenceKey | None
    grade: str  # "held" | "full"
    state: str  # "answering" | "connecting" | "open"
    age: float  # seconds
    published: int  # tracks
    sent: int  # tracks forwarded to it
    muted: tuple[str, ...] = ()  # "audio", "video": by an operator
    kind: str = "participant"  # | "trunk"
    round_trip: float | None = None  # seconds, over the data channel
    carries: tuple[Device, ...] = ()  # a trunk: who is at the other focus, by room state, whether they show anything
    offers: float = 0.0  # kbit/s that come from it
    takes: float = 0.0  # kbit/s that are received from it and sent to it


@dataclass(frozen=True, slots=True)
class TrackView:
    """One published track as an operator sees it."""

    owner: Device  # over a trunk: somebody at the other focus
    kind: Kind
    purpose: str
    muted: bool  # as its stream's metadata says
    width: int | None
    height: int | None
    layers: tuple[str, ...]  # its simulcast layers, highest first; empty: one
    viewers: int  # legs of this focus that it is sent to


@dataclass(frozen=True, slots=True)
class CallView:
    """What a call that goes on has been so far."""

    conference: ConferenceKey
    seconds: float  # since somebody was in it
    people: int  # who were, each once, also at other foci
    peak: int  # devices at a time


@dataclass(frozen=True, slots=True)
class LinkView:
    """What one conference has to do with one other focus that it is wanted with."""

    conference: ConferenceKey
    peer: Device
    up: LegId | None  # the trunk, once its ICE is connected
    down_for: float | None  # seconds; None: it is up
    failures: int  # since it was up last
    dials_in: float | None  # seconds until this focus dials (again); None: it is up, or being dialled


@dataclass(frozen=True, slots=True)
class FocusView:
    """The whole focus at one moment."""

    legs: tuple[LegView, ...]
    parked_invites: int
    tracked_rooms: int
    caught_up: bool
    draining: bool = False
    drain_left: float | None = None  # seconds until those who are left are told to move
    overload: str | None = None  # why no new leg is opened
    muted: Mapping[UserId, frozenset[Kind]] = field(default_factory=dict)  # by an operator
    peaks: Mapping[str, float] = field(default_factory=dict)  # of the last minutes, by limit (usage.Peaks)

    @property
    def conferences(self) -> dict[ConferenceKey, tuple[LegView, ...]]:
        """The legs by conference; legs that are bound to none are left out."""
        found: dict[ConferenceKey, list[LegView]] = {}
        for leg in self.legs:
            if leg.conference is not None:
                found.setdefault(leg.conference, []).append(leg)
        return {key: tuple(legs) for key, legs in found.items()}

    @property
    def used(self) -> dict[str, float]:
        """How much of each limit is in use, by name and in its unit; where many have it each, by the fullest."""
        people = [leg for leg in self.legs if leg.kind == "participant"]
        kbits: dict[Hashable, float] = {}
        for leg in self.legs:
            kbits[leg.conference] = kbits.get(leg.conference, 0.0) + leg.takes
        return {
            **{name: count(people) for name, count in _COUNTED.items()},
            "bitrate": sum(kbits.values()),
            "bitrate_per_conference": max(kbits.values(), default=0.0),
            "trunks": len(self.legs) - len(people),
            **{name: self.peaks.get(name, 0.0) for name in PASSING},
        }


_Legs = list[LegView]


def _fullest(legs: _Legs, by: Callable[[LegView], Hashable]) -> int:
    return max(Counter(by(leg) for leg in legs).values(), default=0)


def _in_calls(legs: _Legs) -> _Legs:
    return [leg for leg in legs if leg.conference is not None]


def _held(legs: _Legs) -> _Legs:
    return [leg for leg in legs if leg.grade == "held"]


# What of a limit is in use, of the connections of people.
_COUNTED: Mapping[str, Callable[[_Legs], float]] = {
    "conferences": lambda legs: len({leg.conference for leg in _in_calls(legs)}),
    "legs": len,
    "legs_per_user": lambda legs: _fullest(legs, lambda leg: leg.peer.user_id),
    "legs_per_homeserver": lambda legs: _fullest(legs, lambda leg: leg.peer.homeserver),
    "legs_per_conference": lambda legs: _fullest(_in_calls(legs), lambda leg: leg.conference),
    "held_legs": lambda legs: len(_held(legs)),
    "held_legs_per_user": lambda legs: _fullest(_held(legs), lambda leg: leg.peer.user_id),
    "tracks_per_leg": lambda legs: max((leg.published for leg in legs), default=0),
    "subscriptions_per_leg": lambda legs: max((leg.sent for leg in legs), default=0),
    "bitrate_per_leg": lambda legs: max((leg.offers for leg in legs), default=0.0),
}
