"""What is read at the moment of a scrape: the focus and its limits, the media core's measures, the queues."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

GRADES = ("held", "full")
KINDS = ("participant", "trunk")
STATES = ("inviting", "answering", "connecting", "connected", "open", "ended")
TRUNK_STATES = ("up", "dialling", "down")

# As the media core gives them: name, help, labels, and a number or (bounds, counts between and beyond them, sum).
Number = tuple[str, str, Sequence[tuple[str, str]], int]
Buckets = tuple[Sequence[int], Sequence[int], int]
MediaHistogram = tuple[str, str, Sequence[tuple[str, str]], Buckets]
MediaMeasures = tuple[Sequence[Number], Sequence[MediaHistogram]]

_MICROSECONDS = "_microseconds"  # Prometheus counts in seconds


class _Leg(Protocol):
    @property
    def grade(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def published(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def round_trip(self) -> float | None: ...


class Link(Protocol):
    """A trunk that there is or should be; core.view.LinkView is one."""

    @property
    def up(self) -> int | None:
        """The leg, once it is connected."""

    @property
    def down_for(self) -> float | None:
        """Seconds since it is missing."""

    @property
    def dials_in(self) -> float | None:
        """Seconds until it is dialled again; None: it is up, or being dialled."""


class FocusState(Protocol):
    """What is measured of the focus; core.view.FocusView is one."""

    @property
    def legs(self) -> Sequence[_Leg]:
        """All connections."""

    @property
    def conferences(self) -> Mapping[Any, Sized]:
        """The legs of those that have any."""

    @property
    def parked_invites(self) -> int:
        """Invites that wait for room state."""

    @property
    def tracked_rooms(self) -> int:
        """Rooms whose state is kept."""

    @property
    def caught_up(self) -> bool:
        """Whether the backlog of the homeserver is worked off."""

    @property
    def draining(self) -> bool:
        """Whether no new call is taken because the focus is to end."""

    @property
    def overload(self) -> str | None:
        """Why no new leg is opened."""

    @property
    def used(self) -> Mapping[str, float]:
        """How much of each limit is in use, by the limit's name."""


@dataclass(frozen=True, slots=True)
class MatrixLoad:
    """What waits between the focus and its homeserver. Ages are seconds; 0 where nothing waits."""

    incoming: int  # to-device messages that are not worked off
    incoming_age: float
    outgoing: int  # to-device messages that the homeserver has not taken
    outgoing_age: float
    events: int  # room events of transactions that are not worked off


class FocusCollector(Collector):
    """Legs, calls, trunks, and the limits with how much of each is used."""

    def __init__(
        self,
        read: Callable[[], FocusState],
        links: Callable[[], Sequence[Link]],
        limits: Callable[[], Mapping[str, float]],
    ) -> None:
        self._read, self._links, self._limits = read, links, limits

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        state = self._read()
        yield from _legs(state)
        yield from _trunks(state, self._links())
        yield from _limits(self._limits(), state.used)
        for name, text, value in (
            ("conferences", "Conferences that have a leg", len(state.conferences)),
            ("published_tracks", "Tracks that participants publish", sum(leg.published for leg in state.legs)),
            ("forwarded_tracks", "Tracks that are sent to participants", sum(leg.sent for leg in state.legs)),
            ("parked_invites", "Invites that wait for room state", state.parked_invites),
            ("tracked_rooms", "Rooms whose state is kept", state.tracked_rooms),
            ("caught_up", "Whether the homeserver's backlog is worked off", state.caught_up),
            ("draining", "Whether no new call is taken because the focus is to end", state.draining),
            ("overloaded", "Whether new legs are refused because of the load", state.overload is not None),
        ):
            yield GaugeMetricFamily(f"mautrix_sfu_{name}", text, value=value)


def _legs(state: FocusState) -> Iterable[Metric]:
    grades = Tally((leg.kind, leg.grade) for leg in state.legs)
    legs = GaugeMetricFamily("mautrix_sfu_legs", "Connections, by kind and grade", labels=["kind", "grade"])
    for kind in KINDS:
        for grade in GRADES:
            legs.add_metric([kind, grade], grades[kind, grade])
    yield legs
    reached = Tally(leg.state for leg in state.legs)
    states = GaugeMetricFamily("mautrix_sfu_leg_states", "Connections, by how far they have come", labels=["state"])
    for name in STATES:
        states.add_metric([name], reached[name])
    yield states


def _trunks(state: FocusState, links: Sequence[Link]) -> Iterable[Metric]:
    trips = [leg.round_trip for leg in state.legs if leg.kind == "trunk" and leg.round_trip is not None]
    yield GaugeMetricFamily(
        "mautrix_sfu_trunk_round_trip_seconds", "The longest round trip of any trunk", value=max(trips, default=0.0)
    )
    found = Tally(_state_of(link) for link in links)
    trunks = GaugeMetricFamily(
        "mautrix_sfu_trunks", "Trunks that there are or should be: one for each call and other focus", labels=["state"]
    )
    for name in TRUNK_STATES:
        trunks.add_metric([name], found[name])
    yield trunks
    down = max((link.down_for for link in links if link.down_for is not None), default=0.0)
    yield GaugeMetricFamily("mautrix_sfu_trunk_down_seconds", "For how long the longest missing trunk is", value=down)


def _state_of(link: Link) -> str:
    if link.up is not None:
        return "up"
    return "dialling" if link.dials_in is None else "down"


def _limits(limits: Mapping[str, float], used: Mapping[str, float]) -> Iterable[Metric]:
    text = "What the configuration allows at most"
    bounds = GaugeMetricFamily("mautrix_sfu_limit", text, labels=["limit"])
    text = "How much of a limit is used, by the fullest user, call or leg; of sizes and rates the most lately"
    uses = GaugeMetricFamily("mautrix_sfu_limit_used", text, labels=["limit"])
    for name, bound in limits.items():
        bounds.add_metric([name], bound)
        if name in used:
            uses.add_metric([name], used[name])
    yield bounds
    yield uses


class MediaCollector(Collector):
    """What the media core published last: families by name, microseconds as seconds."""

    def __init__(self, read: Callable[[], MediaMeasures]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Everything; nothing once the media core has failed."""
        try:
            numbers, histograms = self._read()
        except RuntimeError:
            return
        yield from _numbers(numbers)
        yield from _histograms(histograms)


def _numbers(numbers: Sequence[Number]) -> Iterable[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, text, labels, count in numbers:
        value = count / 1e6 if _MICROSECONDS in name else count
        family = families.get(name)
        if family is None:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            shown = f"mautrix_sfu_media_{name.replace(_MICROSECONDS, '_seconds')}"
            families[name] = family = kind(shown, text.rstrip("."), labels=[label for label, _ in labels])
        family.add_metric([value for _, value in labels], value)
    yield from families.values()


def _histograms(histograms: Sequence[MediaHistogram]) -> Iterable[Metric]:
    families: dict[str, HistogramMetricFamily] = {}
    for name, text, labels, (bounds, counts, total) in histograms:
        scale = 1e6 if _MICROSECONDS in name else 1
        family = families.get(name)
        if family is None:
            shown = f"mautrix_sfu_media_{name.replace(_MICROSECONDS, '_seconds')}"
            families[name] = family = HistogramMetricFamily(
                shown, text.rstrip("."), labels=[label for label, _ in labels]
            )
        buckets: list[tuple[str, float]] = []
        sum_so_far = 0
        for bound, count in zip([*(repr(bound / scale) for bound in bounds), "+Inf"], counts, strict=True):
            sum_so_far += count
            buckets.append((bound, sum_so_far))
        family.add_metric([value for _, value in labels], buckets, total / scale)
    yield from families.values()


class MatrixCollector(Collector):
    """What waits between the focus and its homeserver."""

    def __init__(self, read: Callable[[], MatrixLoad]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """The queues, as they are now."""
        load = self._read()
        waiting = GaugeMetricFamily(
            "mautrix_sfu_to_device_queue_messages", "To-device messages that wait", labels=["direction"]
        )
        age = GaugeMetricFamily(
            "mautrix_sfu_to_device_queue_age_seconds", "How long the oldest of them waits", labels=["direction"]
        )
        for direction, count, seconds in (
            ("in", load.incoming, load.incoming_age),
            ("out", load.outgoing, load.outgoing_age),
        ):
            waiting.add_metric([direction], count)
            age.add_metric([direction], seconds)
        yield waiting
        yield age
        yield GaugeMetricFamily(
            "mautrix_sfu_matrix_transaction_queue_events", "Room events that wait to be worked off", value=load.events
        )
