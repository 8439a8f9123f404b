"""The federated homeservers themselves, and what the foci see and hear through them."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.federation import Federation
from tests.support.federation_call import FederatedCall
from tests.support.focus import CALL_MEMBER

pytestmark = pytest.mark.synapse


async def test_what_happens_in_a_shared_room_reaches_every_focus(federation: Federation) -> None:
    foci = [site.focus for site in federation.sites]
    async with FederatedCall(federation) as call:
        members = [await call.member(f"member{number}", at=site) for number, site in enumerate(federation.sites)]
        before = [await focus.metric("mautrix_sfu_matrix_events_total") for focus in foci]
        for member in members:
            await member.send_state(call.room_id, CALL_MEMBER, member.user_id, {"m.calls": []})
        async with asyncio.timeout(45):
            for focus, events in zip(foci, before, strict=True):
                while await focus.metric("mautrix_sfu_matrix_events_total") < events + len(members):
                    await asyncio.sleep(0.05)


async def test_to_device_messages_reach_other_homeservers_in_order(federation: Federation) -> None:
    one, other = federation.sites[:2]
    alice, bob = await one.synapse.register_user("alice"), await other.synapse.register_user("bob")
    for number in range(20):
        await alice.send_to_device("m.call.candidates", bob.user_id, bob.device_id, {"seq": number})
    received = await bob.to_device(20)
    assert [event["content"]["seq"] for event in received] == list(range(20))
    assert {event["sender"] for event in received} == {alice.user_id}
    await federation.close_http()


async def test_a_guest_of_another_homeserver_may_call_any_focus(federation: Federation) -> None:
    one, other = federation.sites[:2]
    async with FederatedCall(federation) as call:
        alice, guest = await call.participant("alice"), await call.participant("guest", at=other)
        guest.use(one.focus.device)
        began = time.monotonic()
        await call.join(alice, guest)
        assert time.monotonic() - began < 10
        await alice.subscribe_to(guest)
        await alice.until(lambda: alice.video_of(guest).key_frames, what="the guest's video")
