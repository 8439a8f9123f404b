"""Encrypted signalling through the whole focus: clients whose Olm is another implementation, media, impostors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

pytest.importorskip("olm")

from tests.support.calls import Call
from tests.support.federation import CASCADE, Federation
from tests.support.federation_call import FederatedCall, meet, see_and_hear
from tests.support.focus import Deployment
from tests.support.participant import Mischief, RefusedError
from tests.support.participant_olm import encrypting, encrypting_device
from tests.support.running import running

pytestmark = pytest.mark.synapse


@pytest.fixture
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(shared_deployment) as made:
        yield made


@pytest.fixture(scope="module")
def strict_federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Two homeservers whose foci demand encryption."""
    overrides = {**CASCADE, "encryption": {"require": True}}
    with running(Federation(tmp_path_factory.mktemp("strict"), 2, overrides)) as made:
        yield made


async def counted(site: Deployment, name: str) -> float:
    return await site.focus.metric(f"mautrix_sfu_matrix_{name}_total")


async def test_a_client_that_encrypts_joins_and_one_that_does_not_sees_and_hears_it(call: Call) -> None:
    site = call.deployment
    before = await counted(site, "encrypted")
    alice = await encrypting(call, "alice")
    bob = await call.participant("bob")
    await call.join(alice, bob)
    await meet(alice, bob)
    assert alice.encrypted
    assert not alice.plain
    assert await counted(site, "encrypted") == before + alice.encrypted
    assert alice.connection.undecryptable == 0
    await alice.leave()
    await bob.until(lambda: not bob.streams_of(alice), what="alice is gone")


async def test_a_device_that_lies_about_its_id_does_not_join(call: Call) -> None:
    site = call.deployment
    alice = await call.participant("alice")
    await call.join(alice)
    client = await site.synapse.login(alice.device.user_id.partition(":")[0][1:])
    liar = await encrypting_device(call, client, site)
    liar.pretends = alice.device.device_id
    liar.mischief = Mischief(publish_state=False)  # the state names alice's device, which it claims to be
    lies = await counted(site, "device_lies")
    with pytest.raises(TimeoutError):
        await liar.join(call.room_id, call.conf_id, timeout=4)
    assert await counted(site, "device_lies") > lies
    assert not liar.messages
    assert not liar.plain
    assert not alice.hung_up
    await alice.leave()
    liar.pretends, liar.mischief = None, Mischief()
    await call.join(liar)  # as itself it may


async def test_nothing_in_plain_text_disturbs_a_call_that_is_encrypted(call: Call) -> None:
    site = call.deployment
    alice, bob = await encrypting(call, "alice"), await call.participant("bob")
    await call.join(alice, bob)
    await meet(alice, bob)
    client = await site.synapse.login(alice.device.user_id.partition(":")[0][1:])
    other = await call.device(client)
    downgrades = await counted(site, "downgrades")
    focus = site.focus.device
    secret = alice._current()
    fields = {
        "call_id": secret.call_id,
        "conf_id": secret.conf_id,
        "version": "1",
        "party_id": alice.device.device_id,
        "device_id": alice.device.device_id,
        "sender_session_id": alice.session_id,
        "dest_session_id": "sfu",
    }
    sdp = alice.connection.offer()
    for event_type, content in (
        ("m.call.hangup", {**fields, "reason": "user_hangup"}),
        ("m.call.invite", {**fields, "call_id": "new", "offer": {"type": "offer", "sdp": sdp}, "lifetime": 60000}),
        ("m.call.negotiate", {**fields, "description": {"type": "offer", "sdp": sdp}}),
    ):
        await other.matrix.send_to_device(focus.user_id, focus.device_id, event_type, content)
    async with asyncio.timeout(45):
        while await counted(site, "downgrades") < downgrades + 3:
            await asyncio.sleep(0.05)
    await see_and_hear(bob, alice)
    await see_and_hear(alice, bob)
    assert not alice.hung_up


async def test_who_is_in_an_encrypted_call_is_told_of_a_restart_encrypted_and_comes_back(call: Call) -> None:
    site = call.deployment
    alice = await encrypting(call, "alice")
    await call.join(alice)
    keys = await alice.olm.keys_of(alice.focus.user_id, alice.focus.device_id)
    site.focus.kill()
    await site.focus.start()
    await alice.until(lambda: alice.hung_up, 20, "the hangup")
    assert not alice.plain
    assert await alice.olm.keys_of(alice.focus.user_id, alice.focus.device_id) == keys
    await call.join(alice)


async def test_a_focus_that_demands_encryption_refuses_plain_text(strict_federation: Federation) -> None:
    one, _ = strict_federation.sites
    async with FederatedCall(strict_federation) as call:
        alice, bob = await encrypting(call, "alice", at=one), await encrypting(call, "bob", at=one)
        plain = await call.participant("plain", at=one)
        with pytest.raises(RefusedError, match="encryption_required"):
            await call.join(plain)
        assert await one.focus.metric("mautrix_sfu_refusals_total", cause="not_encrypted") >= 1
        await call.join(alice, bob)
        await meet(alice, bob)


async def test_foci_dial_each_other_encrypted(strict_federation: Federation) -> None:
    one, other = strict_federation.sites
    async with FederatedCall(strict_federation) as call:
        alice, bob = await encrypting(call, "alice", at=one), await encrypting(call, "bob", at=other)
        await call.join(alice, bob)
        await meet(alice, bob)
        assert alice.focus != bob.focus
        for site, person in ((one, alice), (other, bob)):
            assert await site.focus.metric("mautrix_sfu_legs", kind="trunk", grade="full") == 1
            assert await counted(site, "encrypted") > person.encrypted
            assert await counted(site, "undecryptable") == 0
