"""What Prometheus can read of the focus, in one registry of its own. Labels come from bounded sets only."""

from __future__ import annotations

import asyncio
import platform
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_CAUSES = 64  # per counter; what is beyond counts as "other"
GRADES = ("held", "full")
KINDS = ("participant", "trunk")

# By cause: what the core and the runtime count (core.commands.Counter has the core's names).
COUNTERS = {
    "joins": "Legs that were answered or became full, by grade",
    "refusals": "Invites that were refused, by cause",
    "legs_ended": "Legs that ended, by reason",
    "bounds_hit": "Times that a bound was hit, by the bound",
    "bad_messages": "Messages that could not be understood, by code",
    "negotiations": "Offers and answers, by outcome",
    "room_events_ignored": "Room events that concern calls and are ignored, by cause",
    "internal_errors": "Faults of this program that were contained, by place",
}

# Without a cause: what the Matrix edge counts (matrix.Counted has its names).
MATRIX_COUNTERS = {
    "transactions": "Transactions taken from the homeserver",
    "transactions_refused": "Transactions put off because the queue was full",
    "unauthorized": "Requests without the right hs_token",
    "malformed": "Transactions, events and to-device messages that are not what they should be",
    "events": "Room events handed on because they concern calls",
    "events_repeated": "Room events dropped as seen before",
    "handler_failed": "Room events and to-device messages that met a fault of this program",
    "to_device_received": "To-device messages received",
    "to_device_repeated": "Pages of to-device messages dropped as seen before",
    "to_device_sent": "To-device messages sent",
    "to_device_retried": "To-device messages sent again after a failure",
    "to_device_dropped": "To-device messages given up",
    "snapshots": "Room states read",
    "snapshots_refused": "Room states that could not be read",
    "homeserver_errors": "Requests to the homeserver that failed and are tried again",
    "decrypted": "To-device messages that were decrypted",
    "undecryptable": "To-device messages that could not be decrypted",
    "encrypted_dropped": "To-device messages dropped because too many of their sender waited to be decrypted",
    "device_lies": "To-device messages that one device encrypted in the name of another",
    "downgrades": "To-device messages in plain text about a call that is encrypted",
    "encrypted": "To-device messages that were encrypted",
    "unencryptable": "To-device messages not sent because they could not be encrypted",
    "key_queries": "Questions for users' device keys",
    "key_queries_limited": "Questions for users' device keys that were not asked because there were too many",
    "device_keys_changed": "Devices found with other keys than before",
    "keys_published": "One-time and fallback keys published",
    "sessions_renewed": "Olm sessions begun anew with devices that could not be understood",
}

LAGS_KEPT = 20  # measurements that `worst_lag` is the worst of
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_ANSWER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class _Leg(Protocol):
    @property
    def grade(self) -> str: ...
    @property
    def published(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def round_trip(self) -> float | None: ...


class FocusState(Protocol):
    """What is measured of the focus at the moment of a scrape; core.view.FocusView is one."""

    @property
    def legs(self) -> Sequence[_Leg]:
        """All connections."""

    @property
    def conferences(self) -> Sized:
        """Those that have a leg."""

    @property
    def parked_invites(self) -> int:
        """Invites that wait for room state."""

    @property
    def tracked_rooms(self) -> int:
        """Rooms whose state is kept."""

    @property
    def caught_up(self) -> bool:
        """Whether the backlog of the homeserver is worked off."""


class Metrics:
    """Every metric of one focus. All methods belong to the event loop's thread."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._by_cause = {
            name: Counter(f"mautrix_sfu_{name}", text, ["cause"], registry=self.registry)
            for name, text in COUNTERS.items()
        }
        self._causes: dict[str, set[str]] = {name: set() for name in COUNTERS}
        self._matrix = {
            name: Counter(f"mautrix_sfu_matrix_{name}", text, registry=self.registry)
            for name, text in MATRIX_COUNTERS.items()
        }
        self._lag = Histogram(
            "mautrix_sfu_event_loop_lag_seconds",
            "How late the event loop is",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self._lags: deque[float] = deque(maxlen=LAGS_KEPT)
        self._invites = Histogram(
            "mautrix_sfu_invite_handling_seconds",
            "From an invite's receipt to its having been worked off",
            buckets=_ANSWER_BUCKETS,
            registry=self.registry,
        )
        self._homeserver = Gauge(
            "mautrix_sfu_homeserver_up", "Whether the homeserver answers (1) or not (0)", registry=self.registry
        )
        Info("mautrix_sfu_build", "What is running", registry=self.registry).info(
            {"version": version, "python": platform.python_version()}
        )
        ProcessCollector(registry=self.registry)

    def count(self, name: str, cause: str, by: int = 1) -> None:
        """Add to one of COUNTERS; the cause must be this program's word, never a peer's."""
        causes = self._causes[name]
        if cause not in causes and len(causes) >= MAX_CAUSES:
            cause = "other"
        causes.add(cause)
        self._by_cause[name].labels(cause).inc(by)

    def count_matrix(self, name: str, by: int = 1) -> None:
        """Add to one of MATRIX_COUNTERS."""
        self._matrix[name].inc(by)

    def observe_invite(self, seconds: float) -> None:
        """Take how long an invite took from its receipt on."""
        self._invites.observe(seconds)

    def homeserver(self, up: bool) -> None:
        """Take whether the homeserver answers."""
        self._homeserver.set(up)

    def watch_store(self, up: Callable[[], bool], pending: Callable[[], int]) -> None:
        """Show at each scrape whether the database answers, and how many changes wait for it."""
        answers = Gauge(
            "mautrix_sfu_database_up", "Whether the database answers (1) or not (0)", registry=self.registry
        )
        waiting = Gauge(
            "mautrix_sfu_database_pending_changes", "Changes that are not on disk yet", registry=self.registry
        )
        answers.set_function(up)
        waiting.set_function(pending)

    async def measure_loop_lag(self, interval: float = 0.5) -> None:
        """Measure for ever how late the event loop wakes this task; for a task of the composition root."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            self._lags.append(max(0.0, loop.time() - due))
            self._lag.observe(self._lags[-1])

    @property
    def worst_lag(self) -> float | None:
        """How late the event loop was at worst in the last seconds; None before it was measured."""
        return max(self._lags, default=None)

    def watch_focus(self, read: Callable[[], FocusState]) -> None:
        """Show what `read` gives at each scrape: conferences, legs, tracks."""
        self.registry.register(_FocusCollector(read))

    def watch_media(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Show the media core's counters at each scrape; RuntimeError from `read` (it has failed) shows none."""
        self.registry.register(_MediaCollector(read))

    def render(self) -> tuple[bytes, str]:
        """The exposition for one scrape, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _FocusCollector(Collector):
    def __init__(self, read: Callable[[], FocusState]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        state = self._read()
        legs = GaugeMetricFamily("mautrix_sfu_legs", "Connections, by kind and grade", labels=["kind", "grade"])
        for kind in KINDS:
            for grade in GRADES:
                legs.add_metric([kind, grade], sum((leg.kind, leg.grade) == (kind, grade) for leg in state.legs))
        yield legs
        trips = [leg.round_trip for leg in state.legs if leg.kind == "trunk" and leg.round_trip is not None]
        yield GaugeMetricFamily(
            "mautrix_sfu_trunk_round_trip_seconds", "The longest round trip of any trunk", value=max(trips, default=0.0)
        )
        for name, text, value in (
            ("conferences", "Conferences that have a leg", len(state.conferences)),
            ("published_tracks", "Tracks that participants publish", sum(leg.published for leg in state.legs)),
            ("forwarded_tracks", "Tracks that are sent to participants", sum(leg.sent for leg in state.legs)),
            ("parked_invites", "Invites that wait for room state", state.parked_invites),
            ("tracked_rooms", "Rooms whose state is kept", state.tracked_rooms),
            ("caught_up", "Whether the homeserver's backlog is worked off", state.caught_up),
        ):
            yield GaugeMetricFamily(f"mautrix_sfu_{name}", text, value=value)


class _MediaCollector(Collector):
    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        try:
            stats = self._read()
        except RuntimeError:
            return
        for name, count in sorted(stats.items()):
            value: float = count
            if "_microseconds" in name:  # Prometheus counts in seconds
                name, value = name.replace("_microseconds", "_seconds"), count / 1e6
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            words = name.removesuffix("_total").replace("_", " ")
            yield kind(f"mautrix_sfu_media_{name}", f"Media core: {words}", value=value)
