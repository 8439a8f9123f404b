"""Calls of pages in a real Chromium and a headless participant, through a real Synapse and the focus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.browser import Browser, CallPage, PageSession
from tests.support.calls import Call
from tests.support.federation_watch import within
from tests.support.focus import Deployment
from tests.support.participant import Participant, Party
from tests.support.running import running

pytestmark = [pytest.mark.synapse, pytest.mark.browser]

PING_TIMEOUT = 6.0
RECOVERY = 10.0  # seconds from the start of a killed focus until everybody has media
UNKNOWN_TO_SYNAPSE = "org.matrix.msc4143/rtc/transports"  # the SDK asks whether it is there
PERSON, SCREEN = "m.usermedia", "m.screenshare"


class PagesCall(Call):
    """A call with pages in it."""

    def __init__(self, deployment: Deployment, browser: Browser) -> None:
        super().__init__(deployment)
        self.browser = browser

    async def page(self, name: str, prelude: str = "") -> CallPage:
        """A new user's page, in the call."""
        client = await self.member(name)
        homeserver = self.deployment.synapse.base_url
        session = PageSession(homeserver, client.user_id, client.device_id, client.token, self.room_id)
        page = await self.browser.open(self.deployment.focus.address, session, prelude=prelude)
        started = time.monotonic()
        await page.join()
        print(f"{name} joined in {time.monotonic() - started:.2f} s")
        return page

    async def headless(self, name: str) -> Participant:
        """A new user's participant, in the call."""
        participant = await self.participant(name)
        await self.join(participant)
        return participant


@pytest.fixture(scope="module")
def patient_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One Synapse and one focus for all of these tests, which soon misses who is gone without a word."""
    overrides = {"conferences": {"ping_interval": 1, "ping_timeout": PING_TIMEOUT}}
    with running(Deployment(tmp_path_factory.mktemp("deployment"), overrides)) as made:
        yield made


@pytest.fixture
async def call(patient_deployment: Deployment) -> AsyncIterator[PagesCall]:
    async with Browser() as browser, PagesCall(patient_deployment, browser) as made:
        yield made


# ---------------------------------------------------------------- what everybody sees and hears


def name(party: Party) -> str:
    return party.device.user_id


async def page_receives(page: CallPage, *others: Party, within: float = 45.0) -> None:
    """The page decodes new frames of all of them, and hears them."""
    waits = [wait(name(other), within=within) for other in others for wait in (page.wait_video, page.wait_audio)]
    await asyncio.gather(*waits)


async def participant_receives(participant: Participant, *others: Party, within: float = 45.0) -> None:
    """New packets of all of them arrive and can be decrypted, and the pictures have a beginning."""
    for other in others:
        for kind in ("video", "audio"):
            heard = participant.heard(other, kind)
            before = heard.packets if heard else 0

            def more(other: Party = other, kind: str = kind, before: int = before) -> bool:
                now = participant.heard(other, kind)
                return now is not None and (now.packets > before + 20 or (now.packets > 20 and not before))

            await participant.until(more, within, f"{kind} of {name(other)}")
        assert participant.video_of(other).key_frames
    assert participant.connection.undecryptable == 0


async def shown(page: CallPage, other: Party, purpose: str = PERSON) -> int:
    """How many tiles of somebody there are."""
    return await page.page.locator(f'.tile[data-user="{name(other)}"][data-purpose="{purpose}"]').count()


async def wait_shown(page: CallPage, other: Party, count: int, purpose: str = PERSON, within: float = 45.0) -> None:
    async def reached() -> bool:
        return await shown(page, other, purpose) == count

    await page.wait(f"{count} {purpose} of {name(other)}", reached, within)


async def wait_width(page: CallPage, other: Party, width: int) -> None:
    """Wait until the picture has this width and goes on."""

    async def reached() -> bool:
        return [stats.get("frameWidth") for stats in await page.inbound(name(other), "video")] == [width]

    await page.wait(f"{width} pixels of {name(other)}", reached)
    await page.wait_video(name(other))


async def feed_of(page: CallPage, other: Party) -> dict[str, Any]:
    (feed,) = [feed for feed in await page.feeds() if feed["user"] == name(other)]
    return feed


async def wait_muted(page: CallPage, other: Party, muted: bool) -> None:
    async def reached() -> bool:
        feed = await feed_of(page, other)
        return bool(feed["audioMuted"]) == bool(feed["videoMuted"]) == muted

    await page.wait(f"{name(other)} has muted: {muted}", reached)


async def growth(page: CallPage, other: Party, seconds: float) -> tuple[int, float]:
    """How many frames of somebody are decoded in that time, and how much energy is heard."""

    async def count() -> tuple[int, float]:
        video = await page.inbound(name(other), "video")
        audio = await page.inbound(name(other), "audio")
        return sum(s.get("framesDecoded", 0) for s in video), sum(s.get("totalAudioEnergy", 0) for s in audio)

    frames, energy = await count()
    await asyncio.sleep(seconds)
    frames_later, energy_later = await count()
    return frames_later - frames, energy_later - energy


async def fail_if_too_slow(*pages: CallPage) -> None:
    """What a machine without power for it shows proves nothing."""
    for page in pages:
        if slow := await page.slowed_by_cpu():
            pytest.fail(f"this machine is too slow for the test: {page.name} sends less of {slow} for lack of CPU")


# ---------------------------------------------------------------- tests


async def test_two_pages_and_a_participant_see_and_hear_each_other_in_the_size_they_need(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    carol = await call.headless("carol")
    await carol.subscribe_to(alice, bob)
    await page_receives(alice, bob, carol)
    await page_receives(bob, alice, carol)
    await participant_receives(carol, alice, bob)

    await alice.enlarge(name(bob))
    await wait_width(alice, bob, 640)
    await wait_width(alice, carol, 320)
    before = [await page.ask("remoteSdp") for page in (alice, bob)]
    await alice.enlarge(name(carol))
    await wait_width(alice, carol, 640)
    await wait_width(alice, bob, 320)
    assert [await page.ask("remoteSdp") for page in (alice, bob)] == before, "another size needs no negotiation"
    await page_receives(bob, alice)
    await fail_if_too_slow(alice, bob)
    for page in (alice, bob):
        assert not [line for line in page.console if UNKNOWN_TO_SYNAPSE not in line]


async def test_who_mutes_is_neither_seen_nor_heard_until_they_are_back(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    carol = await call.headless("carol")
    await carol.subscribe_to(alice)
    await page_receives(bob, alice)
    _, loud = await growth(bob, alice, 2)
    for control in ("audio", "video"):
        await alice.press(control)
    await wait_muted(bob, alice, True)
    await carol.until(
        lambda: all(feed["audio_muted"] and feed["video_muted"] for feed in carol.streams_of(alice).values())
    )

    async def dark_and_silent() -> bool:
        frames, energy = await growth(bob, alice, 2)
        return frames == 0 and energy < loud / 100

    await bob.wait("alice is dark and silent", dark_and_silent)
    for control in ("audio", "video"):
        await alice.press(control)
    await wait_muted(bob, alice, False)
    await page_receives(bob, alice)
    await participant_receives(carol, alice)


async def test_who_leaves_is_gone_and_who_comes_back_is_seen_again(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    carol = await call.headless("carol")
    await page_receives(bob, alice, carol)
    await alice.leave()
    await wait_shown(bob, alice, 0)
    await carol.until(lambda: not carol.streams_of(alice), what="alice is gone")
    await page_receives(bob, carol)
    await alice.join()
    await page_receives(bob, alice)
    await page_receives(alice, bob, carol)
    await carol.subscribe_to(alice)
    await participant_receives(carol, alice)


# Lets a test say something in the focus's place.
CHANNEL = """
const create = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...all) {
  return (window.channel = create.apply(this, all));
};
"""
SAY = "message => channel.dispatchEvent(new MessageEvent('message', {data: JSON.stringify(message)}))"


async def test_a_picture_that_pauses_for_a_narrow_link_says_so_until_it_flows_again(call: PagesCall) -> None:
    carol = await call.headless("carol")
    bob = await call.page("bob", CHANNEL)
    await bob.wait_video(name(carol))
    feed = await feed_of(bob, carol)
    (video,) = [track for track, described in feed["tracks"].items() if described["kind"] == "video"]

    async def says(suspended: bool) -> None:
        content = {"stream_id": feed["streamId"], "track_id": video, "suspended": suspended}
        await bob.page.evaluate(SAY, {"type": "org.matrix.msc3898.track_suspended", "content": content})

    paused = bob.page.locator(f'.tile[data-user="{name(carol)}"] .paused')
    assert not await paused.is_visible()
    await says(True)
    await paused.wait_for(state="visible")
    assert "Video paused: your connection is slow" in await bob.words()
    await says(False)
    await paused.wait_for(state="hidden")


async def test_a_layer_that_nobody_watches_is_not_sent_and_comes_back_when_it_is_wanted(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.headless("bob")
    await bob.subscribe_to(alice, size=(1280, 720), kinds=("video",))
    video = bob.track_of(alice, "video")
    assert video is not None

    async def sent() -> dict[str, int]:
        return {str(s["rid"]): int(s["packetsSent"]) for s in await alice.outbound("video")}

    async def goes_on(rid: str) -> bool:
        before = (await sent()).get(rid, 0)
        await asyncio.sleep(0.5)
        return (await sent()).get(rid, 0) > before

    await alice.wait("the largest layer", lambda: goes_on("f"))
    bob.subscribe(video, size=(320, 180))

    async def is_alone() -> bool:
        return not await goes_on("f") and await goes_on("h")

    await alice.wait("the smallest layer alone", is_alone)
    before, asked = (await sent())["f"], time.monotonic()
    bob.subscribe(video, size=(1280, 720))

    async def is_back() -> bool:
        return (await sent())["f"] > before

    await alice.wait("the largest layer again", is_back)
    print(f"the largest layer was back after {time.monotonic() - asked:.2f} s")


async def test_who_is_banned_is_told_and_the_page_does_not_try_again(call: PagesCall) -> None:
    focus = call.deployment.focus
    page = await call.page("alice")
    before = focus.config.read_text()
    focus.edit("conferences", banned=[name(page)])
    try:
        await focus.reload()
        await page.wait_words("You may not use this call server.")
        assert await focus.metric("mautrix_sfu_refusals_total", cause="banned") == 0, "the hangup was enough"
        await page.page.locator("button.join").click()
        await page.wait_words("You may not use this call server.")
        await asyncio.sleep(3)  # in which a page that tries again does so twice
        assert await focus.metric("mautrix_sfu_refusals_total", cause="banned") == 1
    finally:
        focus.config.write_text(before)
        await focus.reload()
    await page.join()


async def test_a_reload_replaces_the_leg_and_a_crash_is_noticed(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    await page_receives(bob, alice)
    before = (await feed_of(bob, alice))["streamId"]
    session = await alice.ask("session")
    await alice.page.reload()
    await alice.wait_state("connected")
    assert await alice.ask("session") != session

    async def replaced() -> bool:
        feeds = [feed for feed in await bob.feeds() if feed["user"] == name(alice)]
        return len(feeds) == 1 and feeds[0]["streamId"] != before

    await bob.wait("alice's new stream", replaced)
    await page_receives(bob, alice)
    await page_receives(alice, bob)

    await alice.crash()
    crashed = time.monotonic()

    async def gone() -> bool:
        return not [feed for feed in await bob.feeds() if feed["user"] == name(alice)]

    await bob.wait("alice is gone", gone, PING_TIMEOUT + 45)
    assert time.monotonic() - crashed > PING_TIMEOUT - 1, "gone for another reason"
    await wait_shown(bob, alice, 0)  # though the room's state still names them


async def test_a_shared_screen_is_a_second_tile_until_it_ends(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    await page_receives(bob, alice)
    for _ in range(2):  # each start is a new m-line
        await alice.press("screen")
        await wait_shown(bob, alice, 1, SCREEN)

        async def frames() -> bool:
            video = await bob.inbound(name(alice), "video")
            return any(stats["purpose"] == SCREEN and stats.get("framesDecoded", 0) > 3 for stats in video)

        await bob.wait("the screen's frames", frames)
        await alice.press("screen")
        await wait_shown(bob, alice, 0, SCREEN)
        assert await shown(bob, alice) == 1
    await page_receives(bob, alice)
    await page_receives(alice, bob)


async def test_an_ice_restart_of_a_page_keeps_the_leg(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    await page_receives(bob, alice)
    leg, described = (await alice.stats())["callId"], await alice.ask("remoteSdp")
    await alice.ask("restartIce")

    async def answered() -> bool:
        return bool(await alice.ask("remoteSdp") != described)

    await alice.wait("an answer", answered)
    await page_receives(bob, alice)
    await page_receives(alice, bob)
    assert (await alice.stats())["callId"] == leg


async def test_everybody_has_media_again_soon_after_the_focus_was_killed(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    carol = await call.headless("carol")
    await carol.subscribe_to(alice, bob)
    await page_receives(alice, bob, carol)
    await participant_receives(carol, alice, bob)
    focus = call.deployment.focus
    focus.kill()
    focus.spawn()

    async def carol_again() -> None:
        await carol.until(lambda: carol.hung_up is not None, what="a hangup")
        await carol.join(call.room_id, call.conf_id)
        await carol.subscribe_to(alice, bob)
        await participant_receives(carol, alice, bob)

    async with within(RECOVERY, b"chrom"):
        await asyncio.gather(
            carol_again(), page_receives(alice, bob, carol, within=80), page_receives(bob, alice, carol, within=80)
        )
    await fail_if_too_slow(alice, bob)


async def test_media_goes_on_while_synapse_is_restarted_and_afterwards_others_can_join(call: PagesCall) -> None:
    alice, bob = await call.page("alice"), await call.page("bob")
    await page_receives(alice, bob)
    await page_receives(bob, alice)
    legs = [(await page.stats())["callId"] for page in (alice, bob)]
    restart = asyncio.create_task(call.deployment.synapse.restart())
    while not restart.done():
        for (frames, energy), page in zip(
            await asyncio.gather(growth(alice, bob, 1), growth(bob, alice, 1)), (alice, bob), strict=True
        ):
            assert frames > 0, f"{page.name} saw nothing for a second"
            assert energy > 0, f"{page.name} heard nothing for a second"
    await restart
    carol = await call.headless("carol")
    await carol.subscribe_to(alice, bob)
    await participant_receives(carol, alice, bob)
    await page_receives(alice, bob, carol)
    assert [(await page.stats())["callId"] for page in (alice, bob)] == legs
