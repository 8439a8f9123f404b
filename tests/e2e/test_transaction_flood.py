"""A homeserver's whole traffic, replayed: calls are not delayed by it, and what concerns them is never lost in it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from ruamel.yaml import YAML

from tests.support.calls import Call, FocusLog
from tests.support.focus import ROOT, Deployment, guarded
from tests.support.replay import Recorder
from tests.support.synapse import Client, free_port

pytestmark = [pytest.mark.synapse, pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

PER_SECOND = 5000
SECONDS = float(os.environ.get("FLOOD_SECONDS", "15"))  # docs/performance.md has the figures of a whole minute
RELEVANT_PER_SECOND = 20
ENOUGH = 0.8  # of that, where others use the machine as well
P99 = 0.1  # seconds
JOIN_EVERY = 3.0


class Stage:
    """A Synapse whose transactions pass a recorder on their way to the focus."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        overrides = {"appservice": {"address": f"http://127.0.0.1:{self.port}"}}
        self.deployment = Deployment(directory, overrides)
        self.recorder: Recorder

    @property
    def listener(self) -> dict[str, Any]:
        """The focus's appservice section."""
        found: dict[str, Any] = YAML(typ="safe").load(self.deployment.focus.config)["appservice"]
        return found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("replay"))
    focus = made.deployment.focus
    await asyncio.to_thread(focus.configure)
    async with Recorder(made.port, made.listener["port"]) as made.recorder:
        try:
            await made.deployment.synapse.start()
            await focus.start()
            yield made
        finally:
            await made.deployment.stop()


async def some_traffic(stage: Stage) -> list[dict[str, Any]]:
    """What a homeserver's rooms have besides calls: the events as Synapse pushed them."""
    synapse = stage.deployment.synapse
    people: list[Client] = [await synapse.register_user(f"chatty-{n}-{secrets.token_hex(2)}") for n in range(4)]
    rooms = [await people[0].create_room(f"Room {n}", public=True) for n in range(3)]
    for room in rooms:
        for each in people[1:]:
            await each.join(room)
        await people[0].send_state(room, "m.room.topic", "", {"topic": "This and that " * 5})
        for number in range(12):
            await people[number % 4].send_message(room, f"message {number}: " + "words and more words " * 4)
        await people[0].kick(room, people[3].user_id)
    deadline = time.monotonic() + 15
    while len(recorded := [event for event in stage.recorder.events if event["room_id"] in rooms]) < 60:
        assert time.monotonic() < deadline, f"Synapse pushed {len(recorded)} events only"
        await asyncio.sleep(0.1)
    return recorded


async def program(name: str, told: dict[str, Any]) -> asyncio.subprocess.Process:
    """Start one of tests/support as a process of its own and tell it what to do."""
    pipe = asyncio.subprocess.PIPE
    made = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, "-m", f"tests.support.{name}"]), cwd=ROOT, stdin=pipe, stdout=pipe, limit=64 << 20
    )
    assert made.stdin is not None
    made.stdin.write(json.dumps(told).encode() + b"\n")
    await made.stdin.drain()
    return made


async def said(process: asyncio.subprocess.Process, within: float) -> dict[str, Any]:
    """The next line of JSON that it writes."""
    assert process.stdout is not None
    async with asyncio.timeout(within):
        line = await process.stdout.readline()
    assert line, "it ended; its trouble is on stderr"
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.timeout(240)
async def test_five_thousand_unrelated_events_a_second_delay_no_call_and_lose_nothing_that_concerns_one(
    stage: Stage,
) -> None:
    focus, synapse = stage.deployment.focus, stage.deployment.synapse
    recorded = await some_traffic(stage)
    async with Call(stage.deployment) as call:
        members = [await call.member(name) for name in ("alice", "bob")]
        pings = await program(
            "pings",
            {
                "homeserver": synapse.base_url,
                "focus": (focus.device.user_id, focus.device.device_id),
                "room_id": call.room_id,
                "conf_id": call.conf_id,
                "devices": [(who.user_id, who.device_id, who.token) for who in members],
            },
        )
        joiner = await call.participant("joiner")
        await said(pings, within=45)
        log = FocusLog(focus)
        log.start()
        rooms = await focus.metric("mautrix_sfu_tracked_rooms")
        replay = await program(
            "replay",
            {
                "focus": f"http://127.0.0.1:{stage.listener['port']}",
                "token": stage.listener["hs_token"],
                "events": recorded,
                "per_second": PER_SECOND,
                "relevant_per_second": RELEVANT_PER_SECOND,
                "seconds": SECONDS,
                "mark": f"flood{secrets.token_hex(3)}",
            },
        )
        done = asyncio.ensure_future(said(replay, within=SECONDS + 60))
        joins = []
        while not done.done():  # what the homeserver itself says meanwhile arrives, too
            began = time.monotonic()
            await call.join(joiner)
            joins.append(time.monotonic() - began)
            await call.host.kick(call.room_id, joiner.device.user_id)
            await joiner.until(lambda: joiner.hung_up is not None, what="the kick arrives")
            await call.host.invite(call.room_id, joiner.device.user_id)
            await joiner.matrix.request("POST", f"/_matrix/client/v3/join/{quote(call.room_id)}", {})
            await asyncio.wait([done], timeout=max(0.0, JOIN_EVERY - (time.monotonic() - began)))
        flood = done.result()
        await replay.wait()
        assert pings.stdin is not None
        pings.stdin.write(b"\n")
        calls = await said(pings, within=45)
        await pings.wait()

    waits = sorted(calls["waits"])
    middle, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    kinds = Counter(event["type"] for event in recorded)
    print(
        f"\n{flood['sent']} events in {flood['took']:.1f} s ({flood['sent'] / flood['took']:.0f} a second), of the "
        f"kinds {dict(kinds)}; {flood['relevant']} calls among them; "
        f"slowest transaction {flood['slowest'] * 1000:.0f} ms"
        f"\n{len(waits)} pings: median {middle * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, most {waits[-1] * 1000:.1f} ms"
        f"\n{len(joins)} joins, the slowest {max(joins):.2f} s"
    )
    assert flood["sent"] / flood["took"] > ENOUGH * PER_SECOND, "this machine is too slow to tell"
    assert flood["statuses"] == [200]
    assert calls["missing"] == 0
    assert calls["hung_up"] == [None, None]
    assert p99 < P99
    assert await focus.metric("mautrix_sfu_tracked_rooms") - rooms == flood["relevant"]
    assert len(joins) >= SECONDS / JOIN_EVERY / 2
    log.check()
