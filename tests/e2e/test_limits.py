"""Limits that are held outside the core, each hit by a real participant of a running focus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from tests.support.calls import Call, Raw
from tests.support.focus import Deployment, FocusProcess
from tests.support.participant import Participant, RefusedError

pytestmark = [pytest.mark.synapse, pytest.mark.asyncio(loop_scope="module")]

PADDING = "x" * 3000


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(shared_deployment) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair(call: Call) -> tuple[Participant, Participant]:
    alice, bob = await call.joined("alice", "bob")
    return alice, bob


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def as_before(call: Call) -> AsyncIterator[None]:
    """Every test begins with the default limits."""
    focus = call.deployment.focus
    before = focus.config.read_text()
    yield
    focus.config.write_text(before)
    await focus.reload()


async def limit(focus: FocusProcess, limits: Mapping[str, int]) -> None:
    focus.edit("conferences", limits=dict(limits))
    await focus.reload()


async def hits(focus: FocusProcess, name: str) -> float:
    return await focus.metric("mautrix_sfu_bounds_hit_total", cause=name)


async def until_hit(focus: FocusProcess, name: str, more_than: float = 0) -> None:
    async with asyncio.timeout(45):
        while await hits(focus, name) <= more_than:
            await asyncio.sleep(0.1)


async def test_a_scrape_shows_how_close_two_people_come_to_each_limit(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, _) = call.deployment.focus, pair
    alice.tell("m.call.ping", padding=PADDING)
    await alice.until(lambda: alice.said("m.call.pong"), what="a pong")
    bounds = {labels["limit"]: value for labels, value in await focus.samples("mautrix_sfu_limit")}
    async with asyncio.timeout(45):  # bitrates are those of the last seconds
        while not await focus.metric("mautrix_sfu_limit_used", limit="bitrate_per_leg"):
            await asyncio.sleep(0.1)
    used = {labels["limit"]: value for labels, value in await focus.samples("mautrix_sfu_limit_used")}
    assert set(used) == set(bounds)
    nothing = {"held_legs", "held_legs_per_user", "trunks"}
    assert {name for name, value in used.items() if not value} == nothing
    assert {name for name, value in used.items() if value >= bounds[name]} == set()
    assert used["legs"] == 2
    assert used["message_size"] > len(PADDING)


async def test_more_messages_than_a_leg_may_send_are_answered_with_an_error(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, _) = call.deployment.focus, pair
    await limit(focus, {"messages_per_second": 5})
    for _ in range(15):  # ten at once are allowed
        alice.tell("m.call.ping")
    await alice.until(lambda: errors(alice, "too_many"), what="an error event")
    assert 10 <= len(alice.said("m.call.pong")) < 15
    assert 0 < await hits(focus, "messages_per_second") <= 5
    assert alice.hung_up is None


def errors(participant: Participant, code: str) -> list[Any]:
    return [message for message in participant.said("org.matrix.msc3898.error") if message.content["code"] == code]


async def test_a_message_larger_than_allowed_is_answered_with_an_error(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, _) = call.deployment.focus, pair
    await limit(focus, {"message_size": 2000})
    alice.tell("m.call.ping", padding=PADDING)
    await alice.until(lambda: errors(alice, "too_large"), what="an error event")
    assert await hits(focus, "message_size") == 1


async def test_a_description_larger_than_allowed_is_refused_on_either_way(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, _) = call.deployment.focus, pair
    await limit(focus, {"invite_sdp": 1000, "channel_sdp": 1000})
    before = len(errors(alice, "too_large"))
    alice.negotiate()
    await alice.until(lambda: len(errors(alice, "too_large")) > before, what="an error event")
    assert await hits(focus, "channel_sdp") == 1
    with pytest.raises(RefusedError):
        await call.join(await call.participant("carol"))
    assert await hits(focus, "invite_sdp") == 1


async def test_candidates_beyond_what_is_allowed_are_dropped_and_counted(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, _) = call.deployment.focus, pair
    await limit(focus, {"candidates": 2, "candidate_size": 100})
    raw = Raw(call, await call.member("raw"))
    one = {"candidate": "candidate:1 1 udp 1 127.0.0.1 1 typ host", "sdpMid": "0"}
    await raw.send("m.call.candidates", raw.fields(candidates=[one] * 3))
    await raw.send("m.call.candidates", raw.fields(candidates=[{"candidate": "c" * 101}]))
    await until_hit(focus, "candidates")
    await until_hit(focus, "candidate_size")
    assert alice.hung_up is None


async def test_what_a_leg_sends_beyond_its_bitrate_is_dropped_but_not_its_voice(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, bob) = call.deployment.focus, pair
    voice = 64
    await limit(focus, {"bitrate_per_leg": voice})
    await until_hit(focus, "bitrate_per_leg")
    dropped = await focus.metric("mautrix_sfu_media_dropped_bitrate_total")
    heard, began = bob.audio_of(alice).packets, asyncio.get_running_loop().time()
    await asyncio.sleep(2)
    took = asyncio.get_running_loop().time() - began
    assert await focus.metric("mautrix_sfu_media_dropped_bitrate_total") > dropped + 10
    assert bob.audio_of(alice).packets - heard > 0.8 * 50 * took
    await limit(focus, {"bitrate_per_leg": 20_000})
    seen = bob.video_of(alice).packets
    await bob.until(lambda: bob.video_of(alice).packets > seen + 20, what="the picture goes on")


@pytest.mark.parametrize("name", ["bitrate_per_conference", "bitrate"])
async def test_a_call_that_takes_more_than_it_may_is_limited_and_takes_nobody_more(
    call: Call, pair: tuple[Participant, Participant], name: str
) -> None:
    focus, (alice, bob) = call.deployment.focus, pair
    carol = await call.participant("carol")
    before = await hits(focus, name)
    await limit(focus, {name: 200})
    await until_hit(focus, name, before)
    with pytest.raises(RefusedError, match="user_busy"):
        await call.join(carol)
    assert await hits(focus, name) == before + 2
    heard = bob.audio_of(alice).packets
    await bob.until(lambda: bob.audio_of(alice).packets > heard + 50, what="the voice goes on")
    await limit(focus, {name: 1_000_000})
    async with asyncio.timeout(45):
        while True:
            try:
                await call.join(carol)
                break
            except RefusedError:
                await asyncio.sleep(0.5)
    await carol.leave()


async def test_more_tracks_than_a_leg_may_publish_are_shown_to_nobody(
    call: Call, pair: tuple[Participant, Participant]
) -> None:
    focus, (alice, bob) = call.deployment.focus, pair
    await limit(focus, {"tracks_per_leg": 2})
    alice.share_screen()
    await alice.until(lambda: errors(alice, "limit"), what="an error event")
    assert await hits(focus, "tracks_per_leg") == 1
    assert len(bob.streams_of(alice)) == 1
    await limit(focus, {"tracks_per_leg": 16})
    await bob.until(lambda: len(bob.streams_of(alice)) == 2, what="the screen is shown")
