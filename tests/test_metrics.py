"""A scrape shows what was counted, under names that keep to Prometheus's conventions."""

from __future__ import annotations

import asyncio
import platform
import re
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mautrix_sfu.core.commands import Counter
from mautrix_sfu.core.ids import ConferenceKey, ConfId, Device, DeviceId, LegId, RoomId, UserId
from mautrix_sfu.core.view import FocusView, LegView
from mautrix_sfu.matrix import Counted
from mautrix_sfu.metrics import COUNTERS, MATRIX_COUNTERS, MAX_CAUSES, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def scrape(metrics: Metrics) -> dict[str, float]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        sample.name + "".join(f"|{key}={value}" for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def view(*grades: str) -> FocusView:
    key = ConferenceKey(RoomId("!r:x"), ConfId("c"))
    legs = [
        LegView(LegId(n), Device(UserId("@a:x"), DeviceId(str(n))), key, grade, "open", 1.0, 2, 3)
        for n, grade in enumerate(grades)
    ]
    return FocusView(tuple(legs), parked_invites=4, tracked_rooms=5, caught_up=True)


def test_everything_that_the_core_and_the_matrix_edge_count_has_a_metric(metrics: Metrics) -> None:
    for counter in Counter:
        metrics.count(counter.value, "cause")
    for counted in Counted:
        metrics.count_matrix(counted.value, 2)
    samples = scrape(metrics)
    assert {f"mautrix_sfu_{counter.value}_total|cause=cause" for counter in Counter} <= samples.keys()
    assert all(samples[f"mautrix_sfu_matrix_{counted.value}_total"] == 2 for counted in Counted)
    assert MATRIX_COUNTERS.keys() == {counted.value for counted in Counted}


def test_a_scrape_shows_the_focus_as_it_is_now(metrics: Metrics) -> None:
    now = view()
    metrics.watch_focus(lambda: now)
    assert scrape(metrics)["mautrix_sfu_legs|grade=full|kind=participant"] == 0
    now = view("full", "full", "held")
    samples = scrape(metrics)
    assert samples["mautrix_sfu_legs|grade=full|kind=participant"] == 2
    assert samples["mautrix_sfu_legs|grade=held|kind=participant"] == 1
    assert samples["mautrix_sfu_conferences"] == 1
    assert samples["mautrix_sfu_published_tracks"] == 6
    assert samples["mautrix_sfu_forwarded_tracks"] == 9
    assert samples["mautrix_sfu_parked_invites"] == 4
    assert samples["mautrix_sfu_caught_up"] == 1


def test_the_media_cores_totals_are_counters_and_the_rest_gauges(metrics: Metrics) -> None:
    metrics.watch_media(lambda: {"packets_in_total": 7, "legs": 2})
    samples = scrape(metrics)
    assert samples["mautrix_sfu_media_packets_in_total"] == 7
    assert samples["mautrix_sfu_media_legs"] == 2
    text = metrics.render()[0].decode()
    assert "# TYPE mautrix_sfu_media_packets_in_total counter" in text
    assert "# TYPE mautrix_sfu_media_legs gauge" in text


def test_the_media_cores_microseconds_are_shown_as_seconds(metrics: Metrics) -> None:
    metrics.watch_media(lambda: {"latency_microseconds_total": 2_500_000})
    assert scrape(metrics)["mautrix_sfu_media_latency_seconds_total"] == 2.5


def test_a_media_core_that_has_failed_does_not_break_the_scrape(metrics: Metrics) -> None:
    def failed() -> dict[str, int]:
        raise RuntimeError("a media thread has failed")

    metrics.watch_media(failed)
    assert "process_cpu_seconds_total" in scrape(metrics)


def test_causes_are_bounded_whatever_is_counted(metrics: Metrics) -> None:
    for number in range(1000):
        metrics.count("bad_messages", f"cause {number}")
    samples = {name: value for name, value in scrape(metrics).items() if "bad_messages" in name}
    assert len(samples) == MAX_CAUSES + 1
    assert samples["mautrix_sfu_bad_messages_total|cause=other"] == 1000 - MAX_CAUSES
    metrics.count("bad_messages", "cause 1")
    assert scrape(metrics)["mautrix_sfu_bad_messages_total|cause=cause 1"] == 2


def test_an_unknown_counter_is_a_fault_that_shows(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.count("jions", "full")


async def test_a_loop_that_is_held_up_shows_as_lag(metrics: Metrics) -> None:
    task = asyncio.create_task(metrics.measure_loop_lag(0.01))
    await asyncio.sleep(0)
    time.sleep(0.15)  # noqa: ASYNC251
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    samples = scrape(metrics)
    assert (
        samples["mautrix_sfu_event_loop_lag_seconds_bucket|le=0.1"]
        < samples["mautrix_sfu_event_loop_lag_seconds_count"]
    )


def test_invites_and_the_homeserver_are_shown(metrics: Metrics) -> None:
    metrics.observe_invite(0.02)
    metrics.homeserver(up=True)
    samples = scrape(metrics)
    assert samples["mautrix_sfu_invite_handling_seconds_bucket|le=0.025"] == 1
    assert samples["mautrix_sfu_homeserver_up"] == 1
    assert samples[f"mautrix_sfu_build_info|python={platform.python_version()}|version=1.2.3"] == 1


def test_a_database_that_is_away_is_shown_with_what_waits_for_it(metrics: Metrics) -> None:
    waiting = [0]
    metrics.watch_store(lambda: not waiting[0], lambda: waiting[0])
    assert b"mautrix_sfu_database_up 1.0" in metrics.render()[0]
    waiting[0] = 7
    assert b"mautrix_sfu_database_up 0.0" in metrics.render()[0]
    assert b"mautrix_sfu_database_pending_changes 7.0" in metrics.render()[0]


def test_names_and_help_keep_to_the_conventions(metrics: Metrics) -> None:
    metrics.watch_focus(lambda: view("full"))
    families: list[Any] = list(text_string_to_metric_families(metrics.render()[0].decode()))
    ours = [family for family in families if family.name.startswith("mautrix_sfu_")]
    assert len(ours) > len(COUNTERS) + 10
    for family in ours:
        assert re.fullmatch(r"[a-z][a-z0-9_]+", family.name)
        assert family.documentation
        assert family.type != "histogram" or family.name.endswith("_seconds")
        assert not any(sample.name.endswith("_created") for sample in family.samples)


def test_two_foci_in_one_process_count_apart() -> None:
    first, second = Metrics("1"), Metrics("1")
    first.count("joins", "full")
    assert "mautrix_sfu_joins_total|cause=full" not in scrape(second)
