"""Foci, homeservers and links between foci that fail in mid-call, and what the others notice of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.federation import Federation
from tests.support.federation_call import SMALL, FederatedCall, Roamer, meet, see_and_hear
from tests.support.federation_relay import ADDRESS, Relay
from tests.support.federation_watch import Silence, all_pairs

pytestmark = pytest.mark.synapse


async def test_one_of_three_foci_is_killed_and_its_people_are_back_after_its_restart(federation: Federation) -> None:
    one, two, three = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob, carol, dave = await call.people(alice=one, bob=two, carol=three, dave=three)
        await meet(alice, bob, carol, dave)
        async with Silence(all_pairs(alice, bob)) as silence:
            three.focus.kill()
            await three.focus.start()
            async with asyncio.timeout(10):
                await asyncio.gather(*(_call_again(call, person) for person in (carol, dave)))
                await meet(alice, bob, carol, dave)  # the streams of those who came back are new ones
        assert not silence.over(1)


async def _call_again(call: FederatedCall, person: Roamer) -> None:
    """As a client does when the focus hangs up because it was restarted."""
    await person.until(lambda: person.hung_up, what="the restarted focus hangs up")
    await person.join(call.room_id, call.conf_id)


async def test_a_homeserver_that_is_down_during_the_call_changes_nothing_for_media(federation: Federation) -> None:
    one, two, _ = federation.sites
    async with FederatedCall(federation) as call:
        late = await call.participant("late", at=two)
        alice, bob = await call.people(alice=one, bob=two)
        await meet(alice, bob)
        async with Silence(all_pairs(alice, bob)) as silence:
            two.synapse.kill()
            await asyncio.sleep(12)  # longer than the interval of pings and consent checks
            await two.synapse.start()
            await call.join(late)
            await late.subscribe_to(alice, bob, size=SMALL)
            for other in (alice, bob):
                await see_and_hear(late, other)
        assert not silence.over(1)
        assert alice.hung_up is bob.hung_up is None


async def test_a_trunk_that_is_cut_for_five_seconds_heals_without_anyone_rejoining(federation: Federation) -> None:
    one, two, _ = federation.sites
    two.focus.stop()
    two.focus.edit("media", advertise=[ADDRESS])
    try:
        async with Relay(two.focus.udp_port) as relay, FederatedCall(federation) as call:
            await two.focus.start()
            alice, bob = await call.people(alice=one, bob=two)
            await meet(alice, bob)
            relay.cut(bob.connection.socket.address)
            await asyncio.sleep(5)
            assert relay.dropped > 100
            cut_off = bob.video_of(alice).packets, alice.video_of(bob).packets
            await asyncio.sleep(0.5)
            assert (bob.video_of(alice).packets, alice.video_of(bob).packets) == cut_off
            relay.mend()
            await see_and_hear(bob, alice)
            await see_and_hear(alice, bob)
            assert alice.hung_up is bob.hung_up is None
    finally:
        two.focus.stop()
        two.focus.edit("media", advertise=[])
