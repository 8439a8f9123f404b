"""Ends in good order and changes at run time: SIGTERM in a call, SIGHUP with a good and a bad file, overload."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.calls import Call, Watch
from tests.support.focus import Deployment, FocusProcess, guarded
from tests.support.participant import Participant, RefusedError

pytestmark = pytest.mark.synapse

DEADLINE = 8.0  # seconds: a busy machine takes some of them to let somebody join


@pytest.fixture
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    """A call on a focus that runs, with the configuration that it began with."""
    focus = shared_deployment.focus
    if focus.exit_code is not None:
        await focus.start()
    before = focus.config.read_text()
    try:
        async with Call(shared_deployment) as made:
            yield made
    finally:
        focus.config.write_text(before)
        if focus.exit_code is None:
            await focus.reload()


async def gone(focus: FocusProcess, *participants: Participant) -> list[str | None]:
    """How the focus has ended each of their calls."""
    for each in participants:
        await each.until(lambda each=each: each.hung_up is not None, what="a hangup")  # type: ignore[misc]
    return [each.hung_up for each in participants]


# ---------------------------------------------------------------- SIGTERM, SIGINT


async def test_at_sigterm_a_call_goes_on_until_the_deadline_and_no_other_begins(call: Call) -> None:
    focus = call.deployment.focus
    focus.edit("drain", deadline=DEADLINE)
    await focus.reload()
    alice, bob = await call.joined("alice", "bob")
    carol = await call.participant("carol")
    async with Call(call.deployment) as other:
        stranger = await other.participant("stranger")
        began = time.monotonic()
        os.kill(focus.pid, signal.SIGTERM)
        while not (reasons := await focus.not_ready()):
            await asyncio.sleep(0.02)
        assert reasons == ["draining: no new calls are taken"]
        assert not (await info(focus))["accepting"]
        with pytest.raises(RefusedError, match="user_busy"):
            await other.join(stranger)
    await call.join(carol)  # of the running call: it may grow
    seen = bob.video_of(alice).packets
    await bob.until(lambda: bob.video_of(alice).packets > seen + 20, what="the call goes on")
    assert await gone(focus, alice, bob, carol) == ["user_busy"] * 3
    assert DEADLINE <= time.monotonic() - began < DEADLINE + 15
    assert await focus.wait_ended(within=45) == 0


async def info(focus: FocusProcess) -> dict[str, object]:
    """What it says of itself in public."""
    return dict(json.loads(await focus.get("_matrix/focus/v1/info")))


async def test_a_second_sigterm_ends_it_at_once(call: Call) -> None:
    focus = call.deployment.focus
    focus.edit("drain", deadline=600)
    await focus.reload()
    alice, bob = await call.joined("alice", "bob")
    os.kill(focus.pid, signal.SIGTERM)
    await focus.logged("draining")
    await asyncio.sleep(0.3)
    assert focus.exit_code is None
    os.kill(focus.pid, signal.SIGTERM)
    assert await focus.wait_ended(within=45) == 0
    assert await gone(focus, alice, bob) == ["signalling_timeout"] * 2  # call again at once


async def test_a_drain_is_over_when_the_last_one_has_left(call: Call) -> None:
    focus = call.deployment.focus
    focus.edit("drain", deadline=600)
    await focus.reload()
    alice, bob = await call.joined("alice", "bob")
    os.kill(focus.pid, signal.SIGTERM)
    await alice.leave()
    await asyncio.sleep(0.3)
    assert focus.exit_code is None
    await bob.leave()
    assert await focus.wait_ended(within=45) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_without_a_call_a_signal_ends_it_at_once_and_sigint_does_so_with_one(
    call: Call, number: signal.Signals
) -> None:
    focus = call.deployment.focus
    focus.edit("drain", deadline=600)
    await focus.reload()
    if number is signal.SIGINT:
        await call.joined("alice", "bob")
    os.kill(focus.pid, number)
    assert await focus.wait_ended(within=45) == 0


# ---------------------------------------------------------------- SIGHUP


async def test_a_good_file_changes_the_running_focus_and_drops_nobody(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    carol, mallory = await call.participant("carol"), await call.participant("mallory")
    await call.join(mallory)
    async with Watch(alice, bob, focus):
        focus.edit("conferences", banned=[mallory.device.user_id], limits={"legs_per_conference": 2})
        focus.edit("media", port=focus.udp_port + 1)
        said = await focus.reload()
        assert "changed: conferences.banned, conferences.limits.legs_per_conference" in said
        assert "these changes need a restart: media.port" in said
        assert await gone(focus, mallory) == ["user_hangup"]
        with pytest.raises(RefusedError, match="user_busy"):
            await call.join(carol)
        focus.edit("conferences", limits={"legs_per_conference": 3})
        await focus.reload()
        await call.join(carol)
    assert await focus.metric("mautrix_sfu_bounds_hit_total", cause="legs_per_conference") == 1


NO_SUCH_HANDLER = {"handlers": {"x": {"class": "no.Such"}}, "root": {"handlers": ["x"]}}


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda focus: focus.config.write_text("conferences: ["), "line 1: not valid YAML"),
        (lambda focus: focus.edit("homeserver", domain="two words"), "homeserver.domain: expected"),
        (lambda focus: focus.edit("conferences", limits={"legs": 0}), "conferences.limits.legs: expected"),
        (lambda focus: focus.edit("logging", **NO_SUCH_HANDLER), "logging: "),
    ],
)
async def test_a_bad_file_is_refused_with_what_is_wrong_and_the_old_one_stays(
    call: Call, spoil: Callable[[FocusProcess], None], problem: str
) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    good = focus.config.read_text()
    async with Watch(alice, bob, focus):
        spoil(focus)
        said = await focus.reload()
        assert "the configuration is not reloaded" in said
        assert problem in said
        assert str(focus.config) in said
        await call.join(await call.participant("carol"))
    focus.config.write_text(good)
    assert "changed: nothing" in await focus.reload()


async def test_a_file_that_is_gone_changes_nothing(call: Call, tmp_path: Path) -> None:
    focus = call.deployment.focus
    focus.config.rename(tmp_path / "away.yaml")
    try:
        assert "no such file" in await focus.reload()
    finally:
        (tmp_path / "away.yaml").rename(focus.config)
    assert focus.exit_code is None


# ---------------------------------------------------------------- overload

# Datagrams that nobody asked for: each costs the media thread a look.
FLOOD = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", int(sys.argv[1])))
while True:
    for _ in range(300):
        out.send(bytes(100))
    time.sleep(0.005)
"""


async def test_an_overloaded_media_thread_refuses_newcomers_and_serves_those_who_are_there(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob, dave = await call.joined("alice", "bob", "dave")
    carol = await call.participant("carol")
    focus.edit("overload", media_cpu=0.03)
    await focus.reload()
    assert await focus.not_ready() == []  # the call alone is no overload
    before = await focus.metric("mautrix_sfu_bounds_hit_total", cause="overload_media_cpu")
    async with Watch(alice, bob, focus):
        flood = await asyncio.create_subprocess_exec(*guarded([sys.executable, "-c", FLOOD, str(focus.udp_port)]))
        try:
            async with asyncio.timeout(45):
                while await focus.not_ready() != ["overload: no new connections are taken (media_cpu)"]:
                    await asyncio.sleep(0.1)
            with pytest.raises(RefusedError, match="user_busy"):
                await call.join(carol)
            await call.join(dave)  # who is there may call again
            await dave.subscribe_to(alice)
            await dave.until(lambda: dave.video_of(alice).key_frames, what="media after calling again")
        finally:
            flood.kill()
            await flood.wait()
        async with asyncio.timeout(45):
            while await focus.not_ready():
                await asyncio.sleep(0.1)
        await call.join(carol)
    assert await focus.metric("mautrix_sfu_bounds_hit_total", cause="overload_media_cpu") == before + 1


# So many ask for the metrics again and again: whoever waits for the event loop, waits for all of their answers.
SCRAPES = """
import asyncio, sys
async def scrape():
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    while True:
        writer.write(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        length = next(line for line in head.split(b"\\r\\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
async def main():
    await asyncio.gather(*(scrape() for _ in range(100)))
asyncio.run(main())
"""


async def test_a_late_event_loop_refuses_newcomers_and_those_who_are_there_go_on(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    carol = await call.participant("carol")
    focus.edit("overload", loop_lag=0.1)
    await focus.reload()
    before = await focus.metric("mautrix_sfu_bounds_hit_total", cause="overload_loop_lag")
    began = time.monotonic()
    flood = await asyncio.create_subprocess_exec(*guarded([sys.executable, "-c", SCRAPES, str(focus.page_port)]))
    try:
        async with asyncio.timeout(40):
            while await focus.not_ready() != ["overload: no new connections are taken (loop_lag)"]:
                await asyncio.sleep(0.1)
        print(f"noticed after {time.monotonic() - began:.1f} s")
        with pytest.raises(RefusedError, match="user_busy"):
            await call.join(carol)
        seen, heard = bob.video_of(alice).packets, alice.audio_of(bob).packets
        await bob.until(lambda: bob.video_of(alice).packets > seen + 30, what="the picture goes on")
        await alice.until(lambda: alice.audio_of(bob).packets > heard + 30, what="the voice goes on")
        pongs = len(bob.said("m.call.pong"))
        bob.tell("m.call.ping")
        await bob.until(lambda: len(bob.said("m.call.pong")) > pongs, what="an answer, though a late one")
    finally:
        flood.kill()
        await flood.wait()
    assert await focus.metric("mautrix_sfu_bounds_hit_total", cause="overload_loop_lag") == before + 1
    assert (alice.hung_up, bob.hung_up) == (None, None)
    async with asyncio.timeout(40):
        while await focus.not_ready():
            await asyncio.sleep(0.1)
    await call.join(carol)
