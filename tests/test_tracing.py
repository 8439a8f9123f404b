"""Traces arrive at a real receiver over HTTP, are bounded, and hold nobody up when the receiver is away."""

from __future__ import annotations

import threading
import time

import pytest

from mautrix_sfu import tracing
from mautrix_sfu.tracing import BURST, Step, Trace, Tracer, TracingUnavailableError
from tests.support.otlp import collector

SECOND = 1_000_000_000


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
    assert time.monotonic() - started < 5
    tracer.stop()
    assert time.monotonic() - started < 2 * tracing.LAST_WORDS + 15
    assert not [thread for thread in threading.enumerate() if thread.name == "last traces"]


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailableError, match=r"pip install 'mautrix-sfu\[tracing\]'"):
        Tracer("http://127.0.0.1:1/v1/traces", 1.0, "1", "x")
