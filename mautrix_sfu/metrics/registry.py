"""The registry: what is counted and timed where it happens, and the collectors of what is read at a scrape."""

from __future__ import annotations

import asyncio
import platform
from collections import deque
from collections.abc import Callable, Mapping, Sequence

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

from .collectors import FocusCollector, FocusState, Link, MatrixCollector, MatrixLoad, MediaCollector, MediaMeasures

_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_ANSWER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_AGE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

MAX_CAUSES = 64  # per counter; what is beyond counts as "other"

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

# What the Matrix edge times (matrix.Timed has the names), and the buckets.
MATRIX_TIMES = {
    "transaction_age": ("Age of a transaction's newest event of the own homeserver", _AGE_BUCKETS),
    "to_device_delay": ("From a to-device message's queueing to its having been taken by the homeserver", _AGE_BUCKETS),
    "request": ("Requests to the homeserver, without the long poll", _ANSWER_BUCKETS),
}

# How requests to the homeserver end (matrix.Outcome has the names).
OUTCOMES = ("ok", "refused", "rate_limited", "server_error", "no_homeserver", "timeout", "unreachable", "unreadable")

# What a leg goes through, in order (runtime.Stage has the names).
STAGES = {
    "admission": "an invite's receipt to the leg's opening",
    "answer": "that to the answer (of a trunk that this focus dials: from its opening to the other's answer)",
    "ice": "the answer to ICE",
    "dtls": "ICE to the end of the DTLS handshake",
    "channel": "that to the open data channel",
    "media": "the DTLS handshake to the peer's first packet of media",
}


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
        self._answers = Histogram(
            "mautrix_sfu_time_to_answer_seconds",
            "From an invite's receipt to its answer's being on its way",
            buckets=_ANSWER_BUCKETS,
            registry=self.registry,
        )
        self._joins = Histogram(
            "mautrix_sfu_time_to_media_seconds",
            "From an invite's receipt to the peer's first packet of media",
            buckets=_ANSWER_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "mautrix_sfu_leg_setup_seconds",
            "How long each stage of a connection's setup took",
            ["stage"],
            buckets=_ANSWER_BUCKETS,
            registry=self.registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)
        self._matrix_times = {
            name: Histogram(f"mautrix_sfu_matrix_{name}_seconds", text, buckets=buckets, registry=self.registry)
            for name, (text, buckets) in MATRIX_TIMES.items()
        }
        self._requests = Counter(
            "mautrix_sfu_matrix_requests", "Requests to the homeserver, by outcome", ["outcome"], registry=self.registry
        )
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
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

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Take how long one of STAGES took."""
        if stage not in STAGES:
            raise KeyError(stage)
        self._stages.labels(stage).observe(seconds)

    def observe_answer(self, seconds: float) -> None:
        """Take how long somebody waited for the answer to an invite."""
        self._answers.observe(seconds)

    def observe_media(self, seconds: float) -> None:
        """Take how long it took from an invite to the first packet of media."""
        self._joins.observe(seconds)

    def observe_matrix(self, name: str, seconds: float) -> None:
        """Take one of MATRIX_TIMES."""
        self._matrix_times[name].observe(seconds)

    def count_request(self, outcome: str) -> None:
        """Count a request to the homeserver by one of OUTCOMES."""
        if outcome not in OUTCOMES:
            raise KeyError(outcome)
        self._requests.labels(outcome).inc()

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

    def watch_focus(
        self,
        read: Callable[[], FocusState],
        links: Callable[[], Sequence[Link]] = tuple,
        limits: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Show at each scrape what these give: legs and calls, trunks, the limits by name."""
        self.registry.register(FocusCollector(read, links, limits))

    def watch_media(self, read: Callable[[], MediaMeasures]) -> None:
        """Show what the media core measured at each scrape; RuntimeError from `read` (it has failed) shows none."""
        self.registry.register(MediaCollector(read))

    def watch_matrix(self, read: Callable[[], MatrixLoad]) -> None:
        """Show at each scrape what waits between the focus and its homeserver."""
        self.registry.register(MatrixCollector(read))

    def render(self) -> tuple[bytes, str]:
        """The exposition for one scrape, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
