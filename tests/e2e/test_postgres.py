"""PostgreSQL is stopped and started again in mid-call: the call goes on, and afterwards nothing is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from mautrix_sfu.errors import ExitCode
from mautrix_sfu.store.writer import GRACE
from tests.support.calls import Call, Watch
from tests.support.focus import ROOT, Deployment
from tests.support.participant import Mischief, Participant, RefusedError
from tests.support.postgres import PASSWORD, Postgres

pytestmark = [pytest.mark.synapse, pytest.mark.postgresql]


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    with Postgres() as started:
        yield started


@pytest.fixture
async def url(server: Postgres) -> str:
    return await server.create()


@pytest.fixture
async def call(url: str, tmp_path: Path) -> AsyncIterator[Call]:
    """A call on a focus that keeps everything in PostgreSQL."""
    deployment = Deployment(tmp_path, {"database": {"url": url}})
    try:
        await deployment.start()
        async with Call(deployment) as made:
            yield made
        assert PASSWORD not in deployment.focus.log.read_text()
    finally:
        await deployment.stop()


async def reasons(call: Call) -> list[str]:
    """Why the focus is not ready."""
    async with aiohttp.ClientSession() as http, http.get(call.deployment.focus.address + "ready") as response:
        found: list[str] = (await response.json())["reasons"]
        return found


async def until_ready(call: Call, *why_not: str, within: float = 20.0) -> None:
    """Until the focus says this of itself."""
    deadline = time.monotonic() + within
    while (found := await reasons(call)) != list(why_not):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


async def kept_legs(url: str) -> set[str]:
    """Whose legs are in the database."""
    connection = await asyncpg.connect(url)
    try:
        return {row["user_id"] for row in await connection.fetch("SELECT user_id FROM leg")}
    finally:
        await connection.close()


def users(*participants: Participant) -> set[str]:
    return {each.device.user_id for each in participants}


async def test_a_call_goes_on_without_the_database_and_nothing_is_lost_when_it_is_back(
    call: Call, server: Postgres, url: str
) -> None:
    focus = call.deployment.focus
    alice, bob, mallory = await call.joined("alice", "bob", "mallory")
    carol = await call.participant("carol")
    pid = focus.pid

    async with Watch(alice, bob, focus):
        await server.stop_meanwhile()
        await until_ready(call, "the database does not answer")
        assert await focus.metric("mautrix_sfu_database_up") == 0
        await asyncio.sleep(GRACE)
        with pytest.raises(RefusedError):
            await carol.join(call.room_id, call.conf_id)
        assert await focus.metric("mautrix_sfu_refusals_total", cause="overload_database") >= 1
        await call.host.kick(call.room_id, mallory.device.user_id)
        await mallory.until(lambda: mallory.hung_up is not None, what="the kick takes effect at once")
        assert await focus.metric("mautrix_sfu_database_pending_changes") > 0
        await server.start_again()
        await until_ready(call)
    assert (focus.pid, focus.exit_code) == (pid, None)
    assert alice.hung_up is bob.hung_up is None

    await call.join(carol)
    await carol.subscribe_to(alice)
    await carol.until(lambda: carol.video_of(alice).key_frames, what="media, for whoever joins now")
    assert await kept_legs(url) == users(alice, bob, carol)

    focus.kill()
    await focus.start()
    for each in (alice, bob, carol):
        await each.until(lambda each=each: each.hung_up is not None, what="word of the restart")  # type: ignore[misc]
    mallory.mischief = Mischief(publish_state=False)
    with pytest.raises(RefusedError):  # the kick came when there was no database, and the focus may not read the room
        await mallory.join(call.room_id, call.conf_id)
    await call.join(alice, bob, carol)
    await bob.subscribe_to(alice)
    await bob.until(lambda: bob.video_of(alice).key_frames, what="the call again")


async def test_a_restart_of_the_database_is_only_waited_for_and_a_second_focus_is_refused(
    call: Call, server: Postgres, url: str
) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    carol = await call.participant("carol")
    async with Watch(alice, bob, focus):
        await server.stop_meanwhile(signal.SIGQUIT)  # as a crash: it recovers from its log
        joining = asyncio.create_task(carol.join(call.room_id, call.conf_id))
        await carol.until(carol.invited.is_set)
        await server.start_again()
        await joining
    assert await focus.total("mautrix_sfu_refusals_total") == 0
    assert await kept_legs(url) == users(alice, bob, carol)

    command = [sys.executable, "-m", "mautrix_sfu", "-n", "-c", str(focus.config)]
    second = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert second.returncode == ExitCode.DATABASE_LOCKED
    assert second.stderr.rstrip("\n").endswith("in use by another process: is mautrix-sfu running already?")
    assert PASSWORD not in second.stderr
