"""Members who list foci that are none, and foci that lie: what they get, and what others notice."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack

import pytest

from mautrix_sfu.core.ids import Device, DeviceId, UserId
from tests.support.federation import Federation
from tests.support.federation_call import FederatedCall, meet, see_and_hear, shown
from tests.support.federation_impostor import Crowd, Impostor, dead_end, list_foci
from tests.support.federation_watch import Silence, all_pairs
from tests.support.participant import RefusedError

pytestmark = pytest.mark.synapse

SENT = "mautrix_sfu_matrix_to_device_sent_total"


async def test_a_thousand_bogus_foci_are_dialled_slowly_and_nobody_notices(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob = await call.people(alice=one, bob=two)
        await meet(alice, bob)
        members = [await call.member(f"m{number}", at=two) for number in range(5)]
        victims = [await dead_end(call, f"victim{number}", two) for number in range(2)]
        silent, wordy = victims
        bogus = [Device(UserId(two.synapse.user(f"{'abz'[n % 3]}{n}")), DeviceId("X")) for n in range(1000)]
        before = [await site.focus.metric(SENT) for site in (one, two)]
        began = time.monotonic()
        async with Silence(all_pairs(alice, bob)) as silence, Crowd(20) as crowd:
            # A thousand in one event, of which few count, and 64 by each of the others, all of which do.
            await list_foci(call, members[0], [victim.device for victim in victims], *_split(bogus, 50))
            for number, member in enumerate(members[1:]):
                await list_foci(call, member, *_split(bogus[64 * number :][:64], 2))
            await wordy.answer(one.focus.device, *crowd.addresses)
            answered = time.monotonic()
            await asyncio.gather(*(victim.listen(9) for victim in victims))
            for site, then in zip((one, two), before, strict=True):
                dialled = await site.focus.metric(SENT) - then
                assert dialled <= time.monotonic() - began + 3, "one dial a second"
                for victim in victims:
                    assert len(victim.invites(site.focus.device)) == 1
            await asyncio.sleep(max(0.0, answered + 11 - time.monotonic()))
            checks = crowd.counts
            await asyncio.sleep(1)
            assert crowd.counts == checks, "checks stop after ten seconds"
        assert sum(count > 0 for count in checks) == 8, "candidates of one answer"
        assert sum(checks) <= 10 / 0.05 + 1, "checks are 50 ms apart"
        assert len(silent.others) <= 2, "a hangup for an invite that nobody answered"
        assert not silence.over(1)


async def test_a_focus_with_an_internal_address_gets_no_packet(federation: Federation) -> None:
    one, two, _ = federation.sites
    one.focus.stop()
    one.focus.edit("cascade", allow_private=False)
    try:
        await one.focus.start()
        async with FederatedCall(federation) as call:
            await call.people(alice=one)
            victim = await dead_end(call, "victim", two)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
                inside.bind(("127.0.0.1", 0))
                inside.setblocking(False)
                await list_foci(call, await call.member("mallory", at=two), [victim.device])
                await victim.answer(one.focus.device, ("10.1.2.3", 9), inside.getsockname())
                await victim.listen(2)
                with pytest.raises(BlockingIOError):
                    inside.recv(2000)
            assert victim.invites(one.focus.device)
    finally:
        one.focus.stop()
        one.focus.edit("cascade", allow_private=True)


async def test_a_focus_cannot_advertise_the_participants_of_another_nor_echo_streams(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call, AsyncExitStack() as stack:
        alice, anna, bob = await call.people(alice=one, anna=one, bob=two)
        await meet(alice, anna, bob)
        client = await call.user("impostor", two)
        impostor = await stack.enter_async_context(Impostor(client, one.focus.device))
        mallory = await call.member("mallory", at=two)
        await list_foci(call, mallory, [impostor.device])
        await impostor.dial(call.room_id, call.conf_id)
        await shown(impostor, alice)  # it is a focus of this call
        assert not impostor.streams_of(bob), "what came over a trunk goes over another"
        own = impostor.publish_as(Device(UserId(mallory.user_id), DeviceId(mallory.device_id)))
        lies = [impostor.publish_as(bob.device), impostor.publish_as(bob.device, alice.track_of(bob, "video"))]
        echo = impostor.publish_as(alice.device, impostor.track_of(alice, "video"))
        await alice.until(lambda: own.stream_id in alice.metadata, what="what it may advertise")
        async with Silence(all_pairs(alice, anna, bob)) as silence:
            for person in (alice, anna):
                person.subscribe(*((track.stream_id, track.track_id) for track in (own, *lies, echo)))
            await alice.until(
                lambda: any(
                    line.msids and line.msids[0].stream_id == own.stream_id for line in alice.connection.offered
                ),
                what="the impostor's own stream",
            )
            await asyncio.sleep(2)
        assert not silence.over(1)
        for person in (alice, anna):
            assert set(person.streams_of(bob)) == set(bob.own_metadata())
            assert lies[0].stream_id not in person.metadata
        assert len(anna.streams_of(alice)) == 1
        assert not alice.streams_of(alice)
        for watcher, other in all_pairs(alice, anna, bob):
            assert watcher.video_of(other).picture_gaps == 0, "another source's packets are between"
        given_up = {"cause": "stream_of_a_stranger"}
        async with asyncio.timeout(45):  # it waited for state that would make them believable
            while await one.focus.metric("mautrix_sfu_bad_messages_total", **given_up) < 3:
                await asyncio.sleep(0.2)


async def test_a_focus_that_is_not_in_the_set_or_names_another_room_gets_nothing(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call, FederatedCall(federation) as other, AsyncExitStack() as stack:
        other.conf_id = call.conf_id  # the same call id in a room of the impostor's friends
        alice, bob = await call.people(alice=one, bob=one)
        await meet(alice, bob)
        clients = [await call.user("impostor", two) for _ in range(2)]
        unlisted, elsewhere = [
            await stack.enter_async_context(Impostor(client, one.focus.device)) for client in clients
        ]
        await list_foci(other, await other.member("mallory", at=two), [elsewhere.device])
        await other.host.send_state(other.room_id, "org.matrix.msc3401.call", call.conf_id, {"m.intent": "m.room"})

        async def refused() -> None:
            with pytest.raises(RefusedError):
                await unlisted.dial(call.room_id, call.conf_id)

        async def gets_nothing() -> None:
            await elsewhere.dial(other.room_id, other.conf_id)
            wanted = [{"stream_id": stream, "track_id": track} for stream, track in _tracks(alice.metadata)]
            elsewhere.tell("m.call.track_subscription", subscribe=wanted, unsubscribe=[])
            await asyncio.sleep(2)

        await asyncio.gather(refused(), gets_nothing())
        for impostor in (unlisted, elsewhere):
            assert not impostor.metadata
            assert not impostor.connection.socket.counts["rtp"]
        await see_and_hear(alice, bob)


def _split(foci: list[Device], size: int) -> list[list[Device]]:
    return [foci[start : start + size] for start in range(0, len(foci), size)]


def _tracks(metadata: dict[str, dict[str, dict[str, object]]]) -> list[tuple[str, str]]:
    return [(stream_id, track_id) for stream_id, stream in metadata.items() for track_id in stream["tracks"]]
