"""People on different homeservers, each at the focus of his own: what crosses between the foci, and what does not."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.browser import Browser
from tests.support.federation import Federation
from tests.support.federation_call import LARGE, SMALL, FederatedCall, hear, meet, see, see_and_hear, shown
from tests.support.federation_watch import Silence, all_pairs, crossings, rtp_sent
from tests.support.focus import FocusProcess

pytestmark = pytest.mark.synapse


async def test_people_on_three_foci_see_and_hear_each_other(federation: Federation) -> None:
    one, two, three = federation.sites
    async with FederatedCall(federation) as call:
        people = await call.people(alice=one, bob=two, carol=three, dave=two)
        await meet(*people)
        for person in people:
            assert not person.streams_of(person)
            assert {stream["user_id"] for stream in person.metadata.values()} == {
                other.device.user_id for other in people if other is not person
            }
            assert person.connection.undecryptable == person.connection.unknown == 0
            for other in people:
                if other is not person:
                    assert person.video_of(other).size == SMALL
                    assert person.video_of(other).picture_gaps == person.audio_of(other).missing == 0
        async with Silence(all_pairs(*people)) as silence:
            await asyncio.sleep(2)
        assert not silence.over(1)


async def test_a_focus_that_may_read_rooms_knows_who_was_there_before_its_homeserver(federation: Federation) -> None:
    one, _, three = federation.sites
    admin = await three.synapse.register_user("operator", admin=True)
    await three.synapse.make_admin(admin, three.focus.device.user_id)
    three.focus.stop()
    await three.focus.start()  # it would remember for ten minutes that it was refused
    async with FederatedCall(federation) as call:
        (alice,) = await call.people(alice=one)
        (late,) = await call.people(late=three)
        await meet(alice, late)
    await three.synapse.make_admin(admin, three.focus.device.user_id, False)


@pytest.mark.browser
async def test_pages_at_two_foci_and_a_headless_participant_see_and_hear_each_other(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call, Browser() as browser:
        pages = [await call.page(browser, "pia", one), await call.page(browser, "pete", two)]
        (alice,) = await call.people(alice=one)
        for page in pages:
            await page.join()
        await alice.subscribe_to(*pages)
        for page, other in (pages, pages[::-1]):
            await page.wait_video(other.device.user_id)
            await page.wait_audio(other.device.user_id)
            await page.wait_video(alice.device.user_id)
            await page.wait_audio(alice.device.user_id)
        for page in pages:
            await see_and_hear(alice, page)


async def test_what_nobody_watches_does_not_cross(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob, carol = await call.people(alice=one, bob=two, carol=two)
        for watcher in (bob, carol):
            await shown(watcher, alice)
        passed = await crossings(one.focus, alice, 1)
        assert passed.sent_by_focus == 0

        await bob.subscribe_to(alice, kinds=("audio",))
        await carol.subscribe_to(alice, kinds=("audio",))
        for watcher in (bob, carol):
            await hear(watcher, alice)
        passed = await crossings(one.focus, alice)
        assert passed.of("") * 0.8 < passed.sent_by_focus < passed.of("") * 1.2  # once for both

        for watcher in (bob, carol):
            watcher.unsubscribe(alice)
        await _falls_silent(one.focus)


async def test_small_and_large_tiles_get_different_layers_each_crossing_once(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call:
        alice, small, large, large_too = await call.people(alice=one, small=two, large=two, large_too=two)
        for watcher, size in ((small, SMALL), (large, LARGE), (large_too, LARGE)):
            await watcher.subscribe_to(alice, size=size, kinds=("video",))
        for watcher, size in ((small, SMALL), (large, LARGE), (large_too, LARGE)):
            await see(watcher, alice, size)
        passed = await crossings(one.focus, alice)
        assert passed.of("f", "q") * 0.85 < passed.sent_by_focus < passed.of("f", "q") * 1.15
        assert small.video_of(alice).size == SMALL

        for watcher in (large, large_too):
            await watcher.subscribe_to(alice, size=SMALL, kinds=("video",))
        for watcher in (large, large_too):
            await see(watcher, alice, SMALL)
        passed = await crossings(one.focus, alice)
        assert passed.of("q") * 0.7 < passed.sent_by_focus < passed.of("q") * 1.3, "the large layer still crosses"
        for watcher in (small, large, large_too):
            assert watcher.video_of(alice).picture_gaps == watcher.video_of(alice).missing == 0


async def test_who_is_kicked_gets_no_packet_after_a_second_and_is_not_seen_beyond_the_trunk(
    federation: Federation,
) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob, carol = await call.people(alice=one, bob=two, carol=two)
        await meet(alice, bob, carol)
        await call.host.kick(call.room_id, carol.device.user_id)
        kicked = time.monotonic()
        async with Silence(all_pairs(alice, bob)) as silence:
            await asyncio.sleep(2.5)
        for kind in ("rtp", "rtcp"):
            assert carol.connection.socket.last[kind] < kicked + 1, f"{kind} after a second"
        for other in (alice, bob):
            assert not other.streams_of(carol)
        assert not silence.over(1)


async def test_who_moves_to_another_focus_is_missing_for_less_than_a_second(federation: Federation) -> None:
    one, two, three = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob, carol, mover = await call.people(alice=one, bob=two, carol=three, mover=two)
        watchers = (alice, bob, carol)
        await meet(*watchers)
        for watcher in watchers:
            await watcher.subscribe_to(mover, size=SMALL)
        for watcher in watchers:
            await see_and_hear(watcher, mover)
        async with Silence((watcher, mover) for watcher in watchers) as silence:
            moved = mover.twin(one.focus.device)
            await moved.join(call.room_id, call.conf_id)  # lists both foci
            await asyncio.sleep(1)
            for watcher in watchers:
                assert len(watcher.streams_of(mover)) == 1, "the one on two foci is shown twice"
            assert not moved.streams_of(mover), "he is shown to himself"
            moved.foci.remove(mover.focus)
            await moved.publish_state()  # only the new one
            await mover.vanish()
            for watcher in watchers:
                await see_and_hear(watcher, mover)
            await asyncio.sleep(1)
        assert not silence.over(1)
        await moved.leave()


async def test_who_is_on_two_foci_for_long_is_one_track_to_everybody(federation: Federation) -> None:
    one, two, three = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob, carol, homed = await call.people(alice=one, bob=two, carol=three, homed=two)
        watchers = (alice, bob, carol)
        for watcher in watchers:
            await watcher.subscribe_to(homed, size=SMALL)
        for watcher in watchers:
            await see_and_hear(watcher, homed)
        pairs = [(watcher, homed) for watcher in watchers]
        async with Silence(pairs) as silence:
            twin = homed.twin(one.focus.device)
            await twin.join(call.room_id, call.conf_id)
            for watcher in watchers:
                await see_and_hear(watcher, homed)
            await asyncio.sleep(1)  # whoever changes the source does it now
            gaps = [watcher.video_of(homed).picture_gaps for watcher in watchers]
            for _ in range(40):
                for watcher in watchers:
                    assert len(watcher.streams_of(homed)) == 1, "he is shown twice"
                for own in (homed, twin):
                    assert not own.streams_of(homed), "he is shown to himself"
                await asyncio.sleep(0.1)
            assert [watcher.video_of(homed).picture_gaps for watcher in watchers] == gaps, "two sources are mixed"
            for watcher in watchers:
                assert watcher.audio_of(homed).duplicates == watcher.video_of(homed).duplicates == 0
        assert not silence.over(1)
        async with Silence(pairs) as silence:
            await twin.vanish()  # both foci are listed as before
            await asyncio.sleep(2)
            for watcher in watchers:
                await see_and_hear(watcher, homed)
        assert not silence.over(3), "half a second until it is noticed, then a key frame of the other source"


async def _falls_silent(focus: FocusProcess, within: float = 5.0) -> None:
    """Wait for half a second in which the focus sends nothing."""
    deadline = time.monotonic() + within
    before = await rtp_sent(focus)
    while True:
        await asyncio.sleep(0.5)
        now = await rtp_sent(focus)
        if now == before:
            return
        assert time.monotonic() < deadline, "it is still sent"
        before = now
