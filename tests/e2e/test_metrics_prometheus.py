"""A real Prometheus scrapes a call of two Chromium pages: its numbers are theirs. Log and traces tell of it, too."""

from __future__ import annotations

import asyncio
import json
import re
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.test_browser_call import PagesCall
from tests.support.browser import Browser, CallPage
from tests.support.focus import Deployment
from tests.support.otlp import Collector, collector
from tests.support.prometheus import Prometheus
from tests.support.running import running
from tests.support.synapse import free_port
from tests.test_contrib import CONTRIB, queries

pytestmark = [pytest.mark.synapse, pytest.mark.browser, pytest.mark.prometheus, pytest.mark.alone]

WATCHED = 16.0  # seconds
TOLERANCE = 0.02
ATTEMPTS = 3  # a machine that is short of processors looks at the two at different times
JSON_LOG = {
    "version": 1,
    "formatters": {"json": {"class": "mautrix_sfu.logs.JsonFormatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {"mautrix_sfu": {"level": "DEBUG"}},
    "root": {"level": "WARNING", "handlers": ["console"]},
}
SECRETS = re.compile(r"a=(ice-pwd|fingerprint|candidate)|v=0|BEGIN CERTIFICATE")


@dataclass(frozen=True, slots=True)
class Watched:
    """A deployment, and who watches it."""

    deployment: Deployment
    prometheus: Prometheus
    traces: Collector


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    port = free_port()
    directory = tmp_path_factory.mktemp("prometheus")
    with collector() as traces:
        overrides: dict[str, dict[str, Any]] = {
            "metrics": {"port": port},
            "tracing": {"enabled": True, "endpoint": traces.endpoint},
            "logging": JSON_LOG,
        }
        deployment = Deployment(tmp_path_factory.mktemp("deployment"), overrides)
        with running(deployment), Prometheus(directory, CONTRIB / "prometheus", f"127.0.0.1:{port}") as prometheus:
            yield Watched(deployment, prometheus, traces)


@pytest.fixture
async def call(watched: Watched) -> AsyncIterator[PagesCall]:
    async with Browser() as browser, PagesCall(watched.deployment, browser) as made:
        yield made


class Pages:
    """What the pages' getStats say, over time: packets by direction as the focus sees them, and kind."""

    def __init__(self, pages: list[CallPage]) -> None:
        self.pages = pages
        self.times: list[float] = []
        self.counts: list[dict[tuple[str, str], int]] = []

    async def look(self) -> None:
        """Ask them all, once."""
        asked = time.time()
        stats = await asyncio.gather(*(page.stats() for page in self.pages))
        self.times.append((asked + time.time()) / 2)
        counts = dict.fromkeys(((way, kind) for way in ("in", "out") for kind in ("audio", "video")), 0)
        for page in stats:
            for way, streams, counter in (
                ("in", page["outbound"], "packetsSent"),
                ("out", page["inbound"], "packetsReceived"),
            ):
                for stream in streams:
                    counts[way, stream["kind"]] += int(stream.get(counter, 0))
        self.counts.append(counts)

    def at(self, moment: float, key: tuple[str, str]) -> float:
        """How many there were at this moment, between the looks before and after it."""
        after = bisect_left(self.times, moment)
        assert 0 < after < len(self.times), "Prometheus' sample lies within what was watched"
        (t0, t1), (n0, n1) = self.times[after - 1 : after + 1], [c[key] for c in self.counts[after - 1 : after + 1]]
        return n0 + (n1 - n0) * (moment - t0) / (t1 - t0)


async def compare(prometheus: Prometheus, pages: Pages) -> dict[tuple[str, str], tuple[float, float]]:
    """Packets by direction and kind within the same time: as Prometheus says, and as the pages say."""
    started = time.time()
    while time.time() < started + WATCHED:
        await pages.look()
        await asyncio.sleep(0.4)
    compared = {}
    for series in await prometheus.query(f"mautrix_sfu_media_rtp_packets_total[{int(WATCHED)}s]"):
        key = (series["metric"]["direction"], series["metric"]["kind"])
        samples = [(float(at), float(value)) for at, value in series["values"]]
        within = [sample for sample in samples if pages.times[0] < sample[0] < pages.times[-1]]
        (first, before), (last, after) = within[0], within[-1]
        assert last - first > WATCHED / 2
        compared[key] = (after - before, pages.at(last, key) - pages.at(first, key))
    return compared


async def test_prometheus_counts_the_packets_that_the_pages_count(call: PagesCall, watched: Watched) -> None:
    alice, bob = [await call.page(name) for name in ("alice", "bob")]
    for one, other in ((alice, bob), (bob, alice)):
        await one.wait_video(other.device.user_id)
        await one.wait_audio(other.device.user_id)
    prometheus = watched.prometheus
    for attempt in range(ATTEMPTS):
        compared = await compare(prometheus, Pages([alice, bob]))
        print("packets by Prometheus and by getStats:", {key: (a, round(b)) for key, (a, b) in compared.items()})
        assert len(compared) == 4
        off = [key for key, (counted, seen) in compared.items() if abs(counted - seen) > TOLERANCE * seen]
        if not off:
            break
        assert attempt + 1 < ATTEMPTS, f"{off}: {compared}"
    assert min(seen for _, seen in compared.values()) > 200

    # The rest of what a call shows.
    assert await prometheus.value('up{job="mautrix-sfu"}') == 1
    assert await prometheus.value("mautrix_sfu_conferences") == 1
    assert await prometheus.value('mautrix_sfu_legs{kind="participant", grade="full"}') == 2
    assert await prometheus.value("sum(mautrix_sfu_media_tracks)") == 4
    assert await prometheus.value('sum(mautrix_sfu_media_forwards{layer!="none"})') == 4
    assert await prometheus.value("mautrix_sfu_time_to_media_seconds_count") == 2
    latency = await prometheus.value(
        "histogram_quantile(0.5, sum by (le) (rate(mautrix_sfu_media_forwarding_latency_seconds_bucket[10s])))"
    )
    assert 0 < latency < 0.05
    recorded = await prometheus.value(
        'instance_direction_kind:mautrix_sfu_media_rtp_packets:rate1m{direction="in", kind="audio"}'
    )
    assert recorded > 20


async def test_every_query_of_the_dashboard_is_understood_and_most_have_an_answer(
    call: PagesCall, watched: Watched
) -> None:
    """After the call of the test before: what was counted is still there."""
    assert call.room_id
    asked = answered = 0
    for query in queries():
        concrete = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
        asked += 1
        answered += bool(await watched.prometheus.query(concrete))
    assert answered > 0.8 * asked, f"{answered} of {asked}"
    alerts = await watched.prometheus.get("/api/v1/rules")
    assert {rule["health"] for group in alerts["groups"] for rule in group["rules"]} == {"ok"}


async def test_the_log_says_what_each_line_is_about_and_no_secrets(watched: Watched) -> None:
    text = watched.deployment.focus.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    about_legs = [line for line in lines if "leg" in line]
    assert len(about_legs) > 4
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    for leg in {line["leg"] for line in about_legs}:
        its = [line for line in about_legs if line["leg"] == leg]
        known = next(number for number, line in enumerate(its) if line["message"] == "leg is full")
        assert all({"peer", "room", "call"} <= line.keys() for line in its[known:])
        messages = [line["message"] for line in its[known:]]
        assert "connected -> open" in messages
        assert any("m.call.answer" in message for message in messages), "the request that carries the answer, too"
    assert SECRETS.search(text) is None
    tokens = re.findall(r"[ah]s_token: (\S+)", watched.deployment.focus.config.read_text())
    assert len(tokens) == 2
    assert not any(token in text for token in tokens)


async def test_each_connection_was_traced_from_invite_to_first_packet(watched: Watched) -> None:
    deadline = time.monotonic() + 15
    while len(whole := [span for span in watched.traces.spans if span.name == "leg"]) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    for trace in whole[:2]:
        steps = [span for span in watched.traces.spans if span.parent_span_id == trace.span_id]
        assert {span.name for span in steps} == {"admission", "answer", "ice", "dtls", "channel", "media"}
        assert all(
            trace.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            and span.end_time_unix_nano <= trace.end_time_unix_nano
            for span in steps
        )
        assert {"leg", "peer", "room", "call"} <= {item.key for item in trace.attributes}
        assert trace.end_time_unix_nano - trace.start_time_unix_nano < 30e9
