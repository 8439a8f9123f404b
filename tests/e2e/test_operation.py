"""What an operator sees of a focus: metrics, readiness, ends and starts in good order. The bot: test_bot.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mautrix_sfu import __version__
from tests.support.calls import Call, Raw
from tests.support.focus import Deployment, FocusProcess
from tests.support.prometheus import promtool
from tests.support.running import running

pytestmark = pytest.mark.synapse

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

# Each of them must move when two people have a call (names without the prefix mautrix_sfu_).
LIVE = (
    "joins_total",
    "negotiations_total",
    "legs",
    "conferences",
    "published_tracks",
    "forwarded_tracks",
    "invite_handling_seconds_count",
    "event_loop_lag_seconds_count",
    "matrix_transactions_total",
    "matrix_events_total",
    "matrix_to_device_received_total",
    "matrix_to_device_sent_total",
    "media_rtp_packets_total",
    "media_rtp_bytes_total",
    "media_rtcp_in_total",
    "media_stun_in_total",
    "media_legs_connected",
    "media_forwards",
    "media_forwarding_latency_seconds_count",
    "time_to_answer_seconds_count",
    "leg_setup_seconds_count",
    "matrix_requests_total",
)


LOGGED = {
    "version": 1,
    "formatters": {"json": {"class": "mautrix_sfu.logs.JsonFormatter"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "DEBUG", "handlers": ["console"]},
}
ABOUT_LEGS = ("aiortc", "mautrix_sfu.rtc")  # whatever these say concerns one connection
ABOUT_NOTHING = re.compile("draining|the drain's deadline|.*overload")  # that the core says of no call


@pytest.fixture(scope="module")
def shared_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(Deployment(tmp_path_factory.mktemp("deployment"), {"logging": LOGGED})) as made:
        yield made


@pytest.fixture
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(shared_deployment) as made:
        yield made


async def scrape(focus: FocusProcess) -> Samples:
    """Everything in /metrics, parsed."""
    families = text_string_to_metric_families(await focus.get("metrics"))
    samples = (sample for family in families for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): float(sample.value) for sample in samples}


def total(samples: Samples, name: str) -> float:
    return sum(value for (found, _), value in samples.items() if found == f"mautrix_sfu_{name}")


async def eventually(condition: Callable[[], Any], within: float = 20.0, what: str = "") -> None:
    """Wait until a coroutine's result is true."""
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, what or condition
        await asyncio.sleep(0.1)


# ---------------------------------------------------------------- metrics


async def test_metrics_live_with_a_call(call: Call) -> None:
    focus = call.deployment.focus
    before = await scrape(focus)
    alice, bob = await call.joined("alice", "bob")
    await bob.until(lambda: bob.video_of(alice).packets > 30)
    during = await scrape(focus)
    for _ in range(20):  # what the media core measures comes a moment later
        if not (still := [name for name in LIVE if total(during, name) <= total(before, name)]):
            break
        await asyncio.sleep(0.1)
        during = await scrape(focus)
    assert not still
    people = ("mautrix_sfu_legs", (("grade", "full"), ("kind", "participant")))
    assert during[people] - before[people] == 2
    assert total(during, "published_tracks") - total(before, "published_tracks") == 4
    assert total(during, "forwarded_tracks") - total(before, "forwarded_tracks") == 4
    assert total(during, "conferences") - total(before, "conferences") == 1
    assert during["mautrix_sfu_homeserver_up", ()] == during["mautrix_sfu_caught_up", ()] == 1
    await alice.leave()
    await bob.leave()

    async def gone() -> bool:
        after = await scrape(focus)
        return all(total(after, name) == total(before, name) for name in ("legs", "conferences", "published_tracks"))

    await eventually(gone, what="gauges fall back when everybody has left")
    after = await scrape(focus)
    assert total(after, "legs_ended_total") - total(before, "legs_ended_total") == 2


async def test_metrics_follow_the_conventions_of_prometheus(shared_deployment: Deployment) -> None:
    text = await shared_deployment.focus.get("metrics")
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.documentation, family.name
        assert family.type != "unknown", family.name
        assert family.name.startswith(("mautrix_sfu_", "process_")), family.name
        assert not {"microseconds", "milliseconds", "kilobytes"} & set(family.name.split("_")), family.name
    assert await asyncio.to_thread(promtool, "check", "metrics", stdin=text.encode()) == ""


# ---------------------------------------------------------------- health, readiness, information


async def test_what_it_says_of_itself_in_public(shared_deployment: Deployment) -> None:
    focus = shared_deployment.focus
    async with aiohttp.ClientSession() as http:
        async with http.get(focus.address + "_matrix/focus/v1/info") as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert await answer.json() == {
                "type": "org.matrix.msc3898",
                "user_id": focus.device.user_id,
                "device_id": focus.device.device_id,
                "version": __version__,
                "accepting": True,
            }
        async with http.get(focus.address + "health") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})


async def test_it_is_not_ready_while_the_homeserver_is_away_and_calls_go_on(call: Call) -> None:
    focus, synapse = call.deployment.focus, call.deployment.synapse
    alice, bob = await call.joined("alice", "bob")
    assert await ready(focus) == (200, {"ready": True, "reasons": []})
    await synapse.close_http()
    await synapse.stop()
    try:

        async def unready() -> bool:
            return (await ready(focus))[0] == 503

        await eventually(unready, what="a homeserver that is away is noticed")
        assert (await ready(focus))[1] == {"ready": False, "reasons": ["the homeserver does not answer, or lags"]}
        assert await focus.metric("mautrix_sfu_homeserver_up") == 0
        before = bob.video_of(alice).packets
        await bob.until(lambda: bob.video_of(alice).packets > before + 20, what="media goes on")
    finally:
        await synapse.start()

    async def ready_again() -> bool:
        return (await ready(focus))[0] == 200

    await eventually(ready_again, within=60, what="it is ready again")
    assert alice.hung_up is None
    await call.join(await call.participant("carol"))


async def ready(focus: FocusProcess) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(focus.address + "ready") as answer:
        return answer.status, await answer.json()


# ---------------------------------------------------------------- ends and starts; these come last


async def test_at_sigterm_everybody_is_told_and_it_ends_in_order(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    began = time.monotonic()
    os.kill(focus.pid, signal.SIGTERM)
    assert await focus.wait_ended(within=45) == 0
    took = time.monotonic() - began
    for each in (alice, bob):
        await each.until(lambda each=each: each.hung_up is not None, what="a hangup")  # type: ignore[misc]
        (hangup,) = each.said("m.call.hangup")
        assert hangup.content["seq"] == 1  # the answer was 0
    assert took < 15
    assert "Traceback" not in focus.log_tail()
    await focus.start()
    await call.join(alice, bob)
    await bob.subscribe_to(alice)
    await bob.until(lambda: bob.video_of(alice).packets > 10, what="the call goes on")


def kept_calls(focus: FocusProcess, conf_id: str) -> list[tuple[int, int]]:
    """When each call of this id began and ended, as far as the database knows."""
    with contextlib.closing(sqlite3.connect(f"file:{focus.directory / 'focus.db'}?mode=ro", uri=True)) as database:
        query = "SELECT started_ms, ended_ms FROM ended_call WHERE conf_id = ?"
        return [(started, ended) for started, ended in database.execute(query, (conf_id,))]


async def test_after_a_kill_everybody_gets_a_hangup_without_seq_and_comes_back(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")

    async def noted() -> bool:
        return bool(kept_calls(focus, call.conf_id))

    await eventually(noted, what="a call that goes on is in the history, should it be cut")
    focus.kill()
    began = time.monotonic()
    await focus.start()
    for each in (alice, bob):
        await each.until(lambda each=each: each.hung_up is not None, what="a hangup")  # type: ignore[misc]
        (hangup,) = each.said("m.call.hangup")
        assert "seq" not in hangup.content
        assert hangup.content["dest_session_id"] == each.session_id
    await call.join(alice, bob)
    await bob.subscribe_to(alice)
    await bob.until(lambda: bob.video_of(alice).key_frames, what="media")

    async def noted_anew() -> bool:
        return len(kept_calls(focus, call.conf_id)) == 2

    await eventually(noted_anew, what="what went on after the kill is another call")
    print(f"media again {time.monotonic() - began:.1f} s after the start of the new process")


async def test_each_line_about_a_connection_says_which_room_and_call(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    raw = Raw(call, await call.member("raw"))
    await raw.send("m.call.invite", raw.invite("this is no SDP"))
    await focus.logged("invite refused: bad_sdp")
    await alice.leave()
    since = len(focus.log.read_text())
    await bob.leave()
    await focus.logged("call ended after", since)
    lines = [json.loads(line) for line in focus.log.read_text().splitlines() if line.startswith("{")]
    known = {"room", "call"}

    def says(line: dict[str, Any], names: set[str]) -> bool:
        return all(line.get(name) is not None for name in names)

    legs = [line for line in lines if "leg" in line]
    assert {line["level"] for line in legs} >= {"DEBUG", "INFO"}
    assert [line for line in legs if not says(line, known | {"peer"})] == []
    of_legs = [line for line in lines if line["logger"].startswith(ABOUT_LEGS)]
    assert of_legs
    assert [line for line in of_legs if not says(line, known | {"leg"})] == []
    of_calls = [line for line in lines if line["logger"] == "mautrix_sfu.call"]
    assert [line for line in of_calls if not says(line, known) and not ABOUT_NOTHING.match(line["message"])] == []
    ended = [line for line in lines if line["message"].startswith("call ended after")]
    assert all(says(line, known) for line in ended)
