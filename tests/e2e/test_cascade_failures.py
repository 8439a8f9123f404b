"""Foci, homeservers and links between foci that fail in mid-call, and what the others notice of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.federation import Federation
from tests.support.federation_call import FederatedCall, Roamer, meet, see_and_hear
from tests.support.federation_watch import Silence, all_pairs, within
from tests.support.focus import Deployment
from tests.support.namespaces import Namespace, Relay, Route, here, permitted
from tests.support.swallow import Swallow

pytestmark = pytest.mark.synapse


async def test_one_of_three_foci_is_killed_and_its_people_are_back_after_its_restart(federation: Federation) -> None:
    one, two, three = federation.sites
    async with FederatedCall(federation) as call:
        alice, bob, carol, dave = await call.people(alice=one, bob=two, carol=three, dave=three)
        await meet(alice, bob, carol, dave)
        async with Silence(all_pairs(alice, bob)) as silence:
            three.focus.kill()
            await three.focus.start()
            async with within(10):
                await asyncio.gather(*(_call_again(call, person) for person in (carol, dave)))
                await meet(alice, bob, carol, dave)  # the streams of those who came back are new ones
        assert not silence.over(1)


async def _call_again(call: FederatedCall, person: Roamer) -> None:
    """As a client does when the focus hangs up because it was restarted."""
    await person.until(lambda: person.hung_up, what="the restarted focus hangs up")
    await person.join(call.room_id, call.conf_id)


@pytest.mark.skipif(not permitted(), reason="network namespaces can be made by root only")
async def test_a_trunk_that_is_cut_for_five_seconds_heals_without_anyone_rejoining(federation: Federation) -> None:
    async with AsyncExitStack() as stack:
        route = await stack.enter_async_context(Route())
        sites = federation.sites[:2]
        for site, end in zip(sites, route.ends, strict=True):
            await stack.enter_async_context(_living_in(end, site))
        call = await stack.enter_async_context(FederatedCall(federation))
        alice, bob = [await call.participant(name, at=site) for name, site in zip(("alice", "bob"), sites, strict=True)]
        for person, end in zip((alice, bob), route.ends, strict=True):
            person.make_socket = end.udp
        await call.know_each_other(alice, bob)
        await call.join(alice, bob)
        await meet(alice, bob)
        dropped = route.dropped
        route.cut()
        await asyncio.sleep(0.2)  # what was on the way has arrived
        cut_off = bob.video_of(alice).packets, alice.video_of(bob).packets
        await asyncio.sleep(5)
        assert (bob.video_of(alice).packets, alice.video_of(bob).packets) == cut_off
        assert route.dropped > dropped + 100
        route.mend()
        async with within(3):
            await asyncio.gather(see_and_hear(bob, alice), see_and_hear(alice, bob))
        assert alice.hung_up is bob.hung_up is None
        for site in sites:
            lines = site.focus.log.read_text(errors="replace").splitlines()
            assert not [line for line in lines if "leg ended" in line and call.room_id in line]


@asynccontextmanager
async def _living_in(end: Namespace, site: Deployment) -> AsyncIterator[None]:
    """The site's focus in a network namespace, from which only HTTP goes in and out."""
    focus = site.focus
    await asyncio.to_thread(focus.stop)
    focus.edit("media", addresses=[end.address])
    focus.inside = end.command
    async with AsyncExitStack() as stack:
        for port in (focus.appservice_port, focus.page_port):
            await stack.enter_async_context(Relay(port, listen=here, connect=end.tcp))
        await stack.enter_async_context(Relay(site.synapse.port, listen=end.tcp, connect=here))
        try:
            await focus.start()
            yield
        finally:
            await asyncio.to_thread(focus.stop)  # which says goodbye through the relay
            focus.inside = ()
            focus.edit("media", addresses=["127.0.0.1"])


async def test_the_higher_focus_dials_when_nothing_comes_from_the_lower(federation: Federation) -> None:
    lower, higher, _ = federation.sites
    encrypted = "m.room.encrypted"  # as foci dial each other
    async with Swallow(lower.synapse.base_url, encrypted, at_most=0) as swallow:
        lower.focus.stop()
        lower.focus.edit("homeserver", address=swallow.address)
        try:
            await lower.focus.start()
            async with FederatedCall(federation) as call:
                dials = [_dials(site) for site in (lower, higher)]
                swallow.at_most = 1  # and nothing that it says at its start
                alice, bob = await call.people(alice=lower, bob=higher)
                await alice.until(lambda: alice.track_of(bob, "video"), 60, "the trunk that the higher one dials")
                await meet(alice, bob)
                assert swallow.swallowed, "the lower one did dial"
                assert _dials(lower) > dials[0]
                assert _dials(higher) > dials[1]
                async with Silence(all_pairs(alice, bob)) as silence:
                    await asyncio.sleep(11)  # until the lower one gives its own dial up
                assert not silence.over(1)
        finally:
            lower.focus.stop()
            lower.focus.edit("homeserver", address=lower.synapse.base_url)


def _dials(site: Deployment) -> int:
    return site.focus.log.read_text(errors="replace").count("dialling a focus")
