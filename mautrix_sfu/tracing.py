"""OpenTelemetry traces of how calls come about: off by default, an optional dependency, and never in anybody's way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

TRACES_PER_SECOND = 20.0  # in the long run, and five times as many at once: what is beyond is not traced
BURST = 100.0
QUEUE = 2048  # spans that wait for the collector; what is beyond is dropped
EXPORT_TIMEOUT = 5  # seconds for one request to the collector
LAST_WORDS = 3.0  # seconds for what is still to be sent when stopping


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a trace. Times are nanoseconds since the epoch."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened, as a whole and in steps. Times are nanoseconds since the epoch."""

    name: str
    start: int
    end: int
    about: Mapping[str, str]
    steps: tuple[Step, ...]


def no_trace(_trace: Trace) -> None:
    """Keep nothing: tracing is off."""


class TracingUnavailableError(Exception):
    """The packages that tracing needs are not installed."""


class Tracer:
    """Sends traces to a collector over OTLP/HTTP, from a thread of its own."""

    def __init__(
        self, endpoint: str, ratio: float, version: str, instance: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`endpoint` is the collector's address for traces, such as http://localhost:4318/v1/traces.

        Raises TracingUnavailableError.
        """
        self._provider, self._exporter = _provider(endpoint, ratio, version, instance)
        self._tracer = self._provider.get_tracer("mautrix_sfu", version)
        self._clock = clock
        self._allowance = BURST
        self._filled = clock()

    def record(self, trace: Trace) -> None:
        """Hand a trace over: one span for the whole and one for each step. Never blocks."""
        if not self._allow():
            return
        from opentelemetry import trace as api

        whole = self._tracer.start_span(trace.name, start_time=trace.start, attributes=dict(trace.about))
        context = api.set_span_in_context(whole)
        for step in trace.steps:
            self._tracer.start_span(step.name, context, start_time=step.start).end(step.end)
        whole.end(trace.end)

    def stop(self) -> None:
        """Send what is left, within LAST_WORDS; a collector that does not answer holds nobody up."""
        thread = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        thread.start()
        thread.join(LAST_WORDS)
        if thread.is_alive():
            self._exporter.shutdown()  # ends what it waits for
            thread.join(LAST_WORDS)

    def _allow(self) -> bool:
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._filled) * TRACES_PER_SECOND)
        self._filled = now
        allowed = self._allowance >= 1
        self._allowance -= allowed
        return allowed


def _provider(endpoint: str, ratio: float, version: str, instance: str) -> tuple[TracerProvider, SpanExporter]:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise TracingUnavailableError(
            f"tracing needs packages that are not installed ({error.name}): pip install 'mautrix-sfu[tracing]'"
        ) from error
    about = {"service.name": "mautrix-sfu", "service.version": version, "service.instance.id": instance}
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(ratio)), resource=Resource(about), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=QUEUE, export_timeout_millis=EXPORT_TIMEOUT * 1000)
    )
    return provider, exporter
