"""A scrape shows what was counted, under names that keep to Prometheus's conventions."""

from __future__ import annotations

import asyncio
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mautrix_sfu.core import events as ev
from mautrix_sfu.core.commands import Counter
from mautrix_sfu.core.ids import ConferenceKey, ConfId, Device, DeviceId, Kind, LegId, Mid, RoomId, UserId
from mautrix_sfu.core.policy import Limits, Policy
from mautrix_sfu.core.view import FocusView, LegView, LinkView
from mautrix_sfu.matrix import Counted, Outcome, Timed
from mautrix_sfu.media import Media
from mautrix_sfu.metrics import (
    COUNTERS,
    MATRIX_COUNTERS,
    MATRIX_TIMES,
    MAX_CAUSES,
    OUTCOMES,
    STAGES,
    MatrixLoad,
    MediaMeasures,
    Metrics,
)
from mautrix_sfu.metrics.collectors import MediaHistogram
from mautrix_sfu.runtime.journeys import Stage
from mautrix_sfu.wire.plan import Line, MediaPlan, Payload, Receive, Send
from tests.core.script import FOCUS, Script
from tests.support.exposition import families, whole
from tests.support.prometheus import promtool

ROOT = Path(__file__).parent.parent
LABELS = {
    *("cause", "direction", "grade", "kind", "layer", "limit", "outcome", "stage", "state", "thread"),
    *("version", "python"),
}


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


def media(
    *numbers: tuple[str, list[tuple[str, str]], int], histograms: Sequence[MediaHistogram] = ()
) -> Callable[[], MediaMeasures]:
    return lambda: ([(name, "What it is.", labels, value) for name, labels, value in numbers], histograms)


def test_the_media_cores_totals_are_counters_and_the_rest_gauges(metrics: Metrics) -> None:
    kinds: tuple[list[tuple[str, str]], ...] = ([("kind", "audio")], [("kind", "video")])
    metrics.watch_media(media(("packets_total", kinds[0], 7), ("packets_total", kinds[1], 8), ("legs", [], 2)))
    samples = scrape(metrics)
    assert samples["mautrix_sfu_media_packets_total|kind=audio"] == 7
    assert samples["mautrix_sfu_media_packets_total|kind=video"] == 8
    assert samples["mautrix_sfu_media_legs"] == 2
    text = metrics.render()[0].decode()
    assert text.count("# TYPE mautrix_sfu_media_packets_total counter") == 1
    assert "# TYPE mautrix_sfu_media_legs gauge" in text
    assert "# HELP mautrix_sfu_media_legs What it is\n" in text


def test_the_media_cores_microseconds_are_shown_as_seconds(metrics: Metrics) -> None:
    histogram: MediaHistogram = ("wait_microseconds", "Waits.", [], ([500, 2_500_000], [3, 2, 1], 9_000_000))
    metrics.watch_media(media(("cpu_microseconds_total", [], 2_500_000), histograms=[histogram]))
    samples = scrape(metrics)
    assert samples["mautrix_sfu_media_cpu_seconds_total"] == 2.5
    buckets = {name.partition("=")[2]: value for name, value in samples.items() if "wait_seconds_bucket" in name}
    assert buckets == {"0.0005": 3, "2.5": 5, "+Inf": 6}
    assert samples["mautrix_sfu_media_wait_seconds_sum"] == 9
    assert samples["mautrix_sfu_media_wait_seconds_count"] == 6


def test_a_media_core_that_has_failed_does_not_break_the_scrape(metrics: Metrics) -> None:
    def failed() -> MediaMeasures:
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


def test_limits_are_shown_with_how_much_of_them_is_used(metrics: Metrics) -> None:
    now = view("full", "full", "held")
    now = replace(now, legs=tuple(replace(leg, offers=100.0 * n, takes=50.0) for n, leg in enumerate(now.legs)))
    limits = {**asdict(Limits(legs=50, legs_per_user=3, held_legs=7)), "of_the_future": 9}
    metrics.watch_focus(lambda: now, limits=lambda: limits)
    samples = scrape(metrics)
    shown = {
        name: [samples[f"mautrix_sfu_limit|limit={name}"], samples.get(f"mautrix_sfu_limit_used|limit={name}")]
        for name in limits
    }
    expected = {
        "bitrate_per_leg": [20_000, 200],
        "bitrate": [1_000_000, 150],
        "legs": [50, 3],
        "legs_per_user": [3, 3],
        "held_legs": [7, 1],
        "trunks": [64, 0],
    }
    assert {name: shown[name] for name in expected} == expected
    assert shown["of_the_future"] == [9, None]


def test_trunks_are_shown_by_state_with_the_one_that_is_missing_longest(metrics: Metrics) -> None:
    key = ConferenceKey(RoomId("!r:x"), ConfId("c"))
    far = Device(UserId("@sfu:far"), DeviceId("SFU1"))
    links = [
        LinkView(key, far, LegId(1), None, 0, None),
        LinkView(key, far, None, 3.0, 0, None),
        LinkView(key, far, None, 70.0, 2, 5.0),
        LinkView(key, far, None, 2.0, 1, 1.0),
    ]
    metrics.watch_focus(view, lambda: links)
    samples = scrape(metrics)
    assert [samples[f"mautrix_sfu_trunks|state={state}"] for state in ("up", "dialling", "down")] == [1, 1, 2]
    assert samples["mautrix_sfu_trunk_down_seconds"] == 70


def test_what_the_matrix_edge_times_and_how_requests_end_has_a_metric(metrics: Metrics) -> None:
    for timed in Timed:
        metrics.observe_matrix(timed.value, 0.3)
    for outcome in Outcome:
        metrics.count_request(outcome.value)
    metrics.watch_matrix(lambda: MatrixLoad(3, 0.5, 2, 1.5, 9))
    samples = scrape(metrics)
    assert all(samples[f"mautrix_sfu_matrix_{timed.value}_seconds_count"] == 1 for timed in Timed)
    assert MATRIX_TIMES.keys() == {timed.value for timed in Timed}
    assert set(OUTCOMES) == {outcome.value for outcome in Outcome}
    assert samples["mautrix_sfu_to_device_queue_messages|direction=in"] == 3
    assert samples["mautrix_sfu_to_device_queue_age_seconds|direction=out"] == 1.5
    assert samples["mautrix_sfu_matrix_transaction_queue_events"] == 9
    with pytest.raises(KeyError):
        metrics.count_request("whatever the homeserver says")


def test_each_stage_of_a_connection_has_its_times(metrics: Metrics) -> None:
    assert set(STAGES) == {stage.value for stage in Stage}
    for stage in STAGES:
        metrics.observe_stage(stage, 0.02)
    with pytest.raises(KeyError):
        metrics.observe_stage("lunch", 1)
    samples = scrape(metrics)
    assert all(samples[f"mautrix_sfu_leg_setup_seconds_bucket|le=0.025|stage={stage}"] == 1 for stage in STAGES)


def test_names_and_help_keep_to_the_conventions() -> None:
    with whole() as metrics:
        shown = families(metrics.render()[0].decode())
    ours = {name: family for name, family in shown.items() if name.startswith("mautrix_sfu_")}
    assert len(ours) > len(COUNTERS) + len(MATRIX_COUNTERS) + 40
    for name, family in ours.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]+", name)
        assert family.help
        assert (family.kind == "counter") == name.endswith("_total")
        assert family.kind != "histogram" or name.endswith(("_seconds", "_datagrams"))
        assert family.labels <= LABELS, f"{name} has a label that nobody promised to be bounded"
        assert not name.endswith("_created")


@pytest.mark.prometheus
def test_prometheus_own_tool_finds_nothing_to_complain_of() -> None:
    with whole() as metrics:
        checked = promtool("check", "metrics", stdin=metrics.render()[0])
    assert checked == ""


def test_the_table_of_metrics_has_each_with_its_labels_and_none_besides() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (metrics_section,) = [part for part in section if part.startswith("Metrics\n")]
    rows = re.findall(r"^\| `(\w+)(?:\{([\w,]*)\})?` \|", metrics_section, re.MULTILINE)
    documented = {name: frozenset(filter(None, labels.split(","))) for name, labels in rows}
    assert len(rows) == len(documented), "no name stands twice"
    with whole() as metrics:
        shown = families(metrics.render()[0].decode())
    assert documented == {name.removeprefix("mautrix_sfu_"): family.labels for name, family in shown.items()}


def big_call(media: Media, script: Script, legs: int, people: int) -> None:
    """Legs in the core and in the media core, each publishing voice and a picture, each watching nine others."""
    payloads = (Payload(111, "opus", 48000, None), Payload(96, "VP8", 90000, None))
    for number in range(legs):
        room = RoomId(f"!room{number // people}")
        person = Device(UserId(f"@u{number}:hs"), DeviceId("D"))
        if number % people == 0:
            script.call(room)
        script.membership(person, ev.Membership.JOIN, room)
        script.join(person, f"s{number}", room=room)
        media.add_leg(LegId(number), f"ufrag{number}", f"a password of leg {number}")
        media.set_group(LegId(number), number // people)
        watched = [Line(Mid(f"w{n}"), Kind.VIDEO, None, Send(1000 + n, None, 96, None, "focus")) for n in range(9)]
        own = (
            Line(Mid("a"), Kind.AUDIO, Receive((), ()), None),
            Line(Mid("v"), Kind.VIDEO, Receive(("f", "h", "q"), ()), None),
        )
        media.set_plan(LegId(number), MediaPlan(payloads, {}, (*own, *watched)))
    for number in range(legs):
        for n in range(9):
            other = number // people * people + (number + 1 + n) % people
            media.forward(LegId(number), Mid(f"w{n}"), LegId(other), Mid("v"), 320, 180)


def test_a_scrape_of_a_thousand_legs_takes_under_fifty_milliseconds() -> None:
    script = Script(Policy(FOCUS, limits=Limits(legs=2000, legs_per_conference=200)))
    core = Media([("127.0.0.1", 0)])
    try:
        big_call(core, script, legs=1000, people=50)
        asked = len(core.stats())  # all of it was carried out
        metrics = Metrics("1")
        metrics.watch_focus(
            lambda: script.focus.view(script.now),
            lambda: script.focus.links(script.now),
            lambda: asdict(script.policy.limits),
        )
        metrics.watch_media(core.published)
        metrics.watch_matrix(lambda: MatrixLoad(0, 0.0, 0, 0.0, 0))
        deadline = time.monotonic() + 60
        while scrape(metrics)["mautrix_sfu_media_forwards|kind=video|layer=none"] < 9000:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        times = []
        for _ in range(21):
            started = time.thread_time()  # others may have the processor meanwhile
            metrics.render()
            times.append(time.thread_time() - started)
        samples = scrape(metrics)
    finally:
        core.shutdown()
    assert asked
    assert samples["mautrix_sfu_legs|grade=full|kind=participant"] == 1000
    assert samples["mautrix_sfu_media_legs"] == 1000
    assert statistics.median(times) < 0.05, f"{statistics.median(times) * 1000:.1f} ms"


def test_two_foci_in_one_process_count_apart() -> None:
    first, second = Metrics("1"), Metrics("1")
    first.count("joins", "full")
    assert "mautrix_sfu_joins_total|cause=full" not in scrape(second)
