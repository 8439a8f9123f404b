"""Traces arrive at a real receiver over HTTP, are bounded, and hold nobody up when the receiver is away."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mautrix_sfu import tracing
from mautrix_sfu.tracing import BURST, Step, Trace, Tracer, TracingUnavailableError

SECOND = 1_000_000_000


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP receiver: what was posted to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    @property
    def spans(self) -> list[Any]:
        """All spans received."""
        resources = [resource for request in self.requests for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def collector() -> Iterator[Collector]:
    """A receiver that runs meanwhile."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def a_trace() -> Trace:
    steps = (Step("admission", SECOND, 2 * SECOND), Step("answer", 2 * SECOND, 3 * SECOND))
    return Trace("leg", SECOND, 3 * SECOND, {"leg": "7", "room": "!r:x"}, steps)


def test_a_trace_arrives_with_its_steps_inside() -> None:
    with collector() as server:
        tracer = Tracer(server.endpoint, 1.0, "1.2.3", "@sfu:x/SFU1")
        tracer.record(a_trace())
        tracer.stop()
        (whole,) = [span for span in server.spans if not span.parent_span_id]
        steps = [span for span in server.spans if span.parent_span_id]
    assert {span.parent_span_id for span in steps} == {whole.span_id}
    assert {span.trace_id for span in server.spans} == {whole.trace_id}
    assert [(span.name, span.start_time_unix_nano, span.end_time_unix_nano) for span in (whole, *steps)] == [
        ("leg", SECOND, 3 * SECOND),
        ("admission", SECOND, 2 * SECOND),
        ("answer", 2 * SECOND, 3 * SECOND),
    ]
    assert {item.key: item.value.string_value for item in whole.attributes} == {"leg": "7", "room": "!r:x"}
    about = {item.key: item.value.string_value for item in server.requests[0].resource_spans[0].resource.attributes}
    assert (about["service.name"], about["service.instance.id"]) == ("mautrix-sfu", "@sfu:x/SFU1")


def test_only_the_wanted_share_is_sent() -> None:
    with collector() as server:
        tracer = Tracer(server.endpoint, 0.0, "1", "x")
        tracer.record(a_trace())
        tracer.stop()
        assert server.spans == []


def test_no_flood_of_connections_makes_a_flood_of_spans() -> None:
    now = 0.0
    with collector() as server:
        tracer = Tracer(server.endpoint, 1.0, "1", "x", clock=lambda: now)
        for _ in range(10_000):
            tracer.record(a_trace())
        now = 1.0
        for _ in range(10_000):
            tracer.record(a_trace())
        tracer.stop()
        assert len(server.spans) == 3 * (BURST + tracing.TRACES_PER_SECOND)


def test_a_receiver_that_is_away_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    with collector() as server:
        endpoint = server.endpoint
    tracer = Tracer(endpoint, 1.0, "1", "x")
    started = time.monotonic()
    for _ in range(50):
        tracer.record(a_trace())
    assert time.monotonic() - started < 1
    tracer.stop()
    assert time.monotonic() - started < tracing.LAST_WORDS + 2


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailableError, match=r"pip install 'mautrix-sfu\[tracing\]'"):
        Tracer("http://127.0.0.1:1/v1/traces", 1.0, "1", "x")
