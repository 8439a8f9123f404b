"""One user's flood costs the others nothing that they would notice: neither while joining nor while talking."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.support import garbage
from tests.support.calls import Call, Raw, Talkers
from tests.support.focus import Deployment, FocusProcess
from tests.support.participant import Participant
from tests.support.synapse import Client

pytestmark = [pytest.mark.synapse, pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

PACED, PER_SECOND = 600, 20.0  # a homeserver with one processor takes twice as many
UNPACED = 400
CONTROL = 200
INVITE_BYTES = 60_000
QUIET_JOINS = 9
JOIN_EVERY = 0.5  # seconds: the joiners themselves stay under the bound of invites per user
NUMBERED = 1000
BYSTANDERS = 500  # messages between others meanwhile
SLOW_LOOP = 0.25  # seconds; a bucket of the histogram


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    async with Call(shared_deployment) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def talkers(call: Call) -> AsyncIterator[Talkers]:
    async with Talkers(call) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nobody_notices(talkers: Talkers) -> AsyncIterator[None]:
    async with talkers.undisturbed():
        yield


@dataclass(frozen=True, slots=True)
class Join:
    """How long a join took, in seconds."""

    whole: float  # from the member event on
    focus: float  # from when the homeserver has taken the invite to the open data channel


@dataclass(frozen=True, slots=True)
class Joins:
    """The joins under one condition."""

    name: str
    joins: list[Join]
    took: float

    @property
    def whole(self) -> float:
        """Median, seconds."""
        return statistics.median(join.whole for join in self.joins)

    @property
    def focus(self) -> float:
        """Median, seconds."""
        return statistics.median(join.focus for join in self.joins)

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.joins)} joins in {self.took:.1f} s, "
            f"median {1000 * self.whole:.0f} ms, of which after the invite {1000 * self.focus:.0f} ms"
        )


async def join(joiner: Participant, call: Call) -> Join:
    """Somebody joins, and leaves again."""
    joiner.invited.clear()
    began = time.monotonic()
    task = asyncio.ensure_future(call.join(joiner))
    await joiner.invited.wait()
    invited = time.monotonic()
    await task
    done = time.monotonic()
    await joiner.leave()
    return Join(done - began, done - invited)


async def joins_during(joiners: list[Participant], call: Call, name: str, flood: asyncio.Future[None]) -> Joins:
    """One join after the other as long as a flood lasts."""
    began, joins = time.monotonic(), []
    for joiner in itertools.cycle(joiners):
        next_one = time.monotonic() + JOIN_EVERY
        joins.append(await join(joiner, call))
        if flood.done():
            break
        await asyncio.sleep(max(0.0, next_one - time.monotonic()))
    await flood
    return Joins(name, joins, time.monotonic() - began)


@asynccontextmanager
async def reading(client: Client) -> AsyncIterator[None]:
    """A device that takes in its to-device messages as fast as they come."""

    async def read() -> None:
        while True:
            await client.sync(wait=10.0)

    task = asyncio.ensure_future(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.timeout(300)
async def test_a_flood_of_large_invites_does_not_double_another_users_time_to_join(call: Call) -> None:
    """At first at a pace that leaves the homeserver time for others, then as fast as it takes them.

    What the faster flood costs the homeserver itself is measured by the same to a device that only reads it.
    """
    focus = call.deployment.focus
    offer = (garbage.CAPTURES / "invite-audio-video-simulcast.sdp").read_bytes().decode()
    mallory, reader = Raw(call, await call.member("mallory")), await call.user("reader")
    await mallory.list_itself()
    joiners = [await call.participant("joiner") for _ in range(3)]  # nobody calls as often as all of them

    async def flood(user_id: str, device_id: str, count: int, per_second: float | None = None) -> None:
        began = time.monotonic()
        for number in range(count):
            content = mallory.invite(offer)
            content["padding"] = "x" * (INVITE_BYTES - len(str(content)))
            await mallory.client.send_to_device("m.call.invite", user_id, device_id, content)
            if per_second is not None:
                await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))

    began = time.monotonic()
    quiet = Joins("quiet", [await join(joiners[0], call) for _ in range(QUIET_JOINS)], time.monotonic() - began)
    async with reading(reader):
        other_flood = asyncio.ensure_future(flood(reader.user_id, reader.device_id, CONTROL))
        control = await joins_during(joiners, call, f"{CONTROL} invites to another device", other_flood)
    received = await focus.metric("mautrix_sfu_matrix_to_device_received_total")
    before = await lateness(focus)
    target = focus.device.user_id, focus.device.device_id
    paced_flood = asyncio.ensure_future(flood(*target, PACED, PER_SECOND))
    paced = await joins_during(joiners, call, f"{PACED} invites to the focus, {PER_SECOND:g} a second", paced_flood)
    unpaced_flood = asyncio.ensure_future(flood(*target, UNPACED))
    unpaced = await joins_during(joiners, call, f"{UNPACED} more, as fast as can be", unpaced_flood)
    after = await lateness(focus)
    handled, late, looks = after.invites - before.invites, after.late - before.late, after.looks - before.looks
    print("", quiet, control, paced, unpaced, sep="\n")
    print(
        f"the focus took {1000 * (after.seconds - before.seconds) / handled:.1f} ms for each of {handled:.0f} invites;"
    )
    print(f"its event loop was late by more than {SLOW_LOOP} s in {late:.0f} of {looks:.0f} looks")

    assert await focus.metric("mautrix_sfu_matrix_to_device_received_total") - received >= PACED + UNPACED
    assert await focus.metric("mautrix_sfu_bounds_hit_total", cause="invites_per_user") > (PACED + UNPACED) / 2
    assert paced.whole < 2 * quiet.whole
    assert unpaced.whole < 2 * max(quiet.whole, control.whole)
    assert late <= 0.02 * looks


@dataclass(frozen=True, slots=True)
class Lateness:
    """What the focus says of its own speed."""

    invites: float
    seconds: float  # in all, from an invite's receipt to its having been worked off
    looks: float
    late: float  # looks at which the event loop was late by more than SLOW_LOOP


async def lateness(focus: FocusProcess) -> Lateness:
    looks = await focus.metric("mautrix_sfu_event_loop_lag_seconds_count")
    in_time = await focus.metric("mautrix_sfu_event_loop_lag_seconds_bucket", le=str(SLOW_LOOP))
    return Lateness(
        await focus.metric("mautrix_sfu_invite_handling_seconds_count"),
        await focus.metric("mautrix_sfu_invite_handling_seconds_sum"),
        looks,
        looks - in_time,
    )


async def test_a_thousand_numbered_messages_arrive_all_in_order_once_while_others_talk(call: Call) -> None:
    """A leg's last message is answered only when all before it have been worked off: its number says so."""
    focus = call.deployment.focus
    legs = [await call.participant(name) for name in ("carol", "dave", "erin", "frank")]
    await call.join(*legs)
    received = await focus.metric("mautrix_sfu_matrix_to_device_received_total")
    bounds = await focus.total("mautrix_sfu_bounds_hit_total")
    bad = await focus.total("mautrix_sfu_bad_messages_total")
    one, other = await call.user("one"), await call.user("other")

    async def chatter() -> None:
        for number in range(BYSTANDERS):
            await one.send_to_device("org.example.note", other.user_id, other.device_id, {"number": number})

    async def numbered(leg: Participant) -> float:
        for number in range(NUMBERED // len(legs) - 1):
            candidate = f"candidate:{number} 1 udp 1 127.0.0.1 {number + 1} typ host"
            await leg.say("m.call.candidates", candidates=[{"candidate": candidate, "sdpMid": "0"}])
        sdp = leg.connection.offer()
        await leg.say("m.call.negotiate", description={"type": "offer", "sdp": sdp})
        sent = time.monotonic()
        await leg.until(lambda: by_device(leg), timeout=45, what="the answer to the last message")
        return time.monotonic() - sent

    talk = asyncio.ensure_future(chatter())
    waits = await asyncio.gather(*(numbered(leg) for leg in legs))
    await talk
    print(
        f"\nthe last of {NUMBERED} messages were answered after {', '.join(f'{1000 * wait:.0f} ms' for wait in waits)}"
    )
    assert await focus.metric("mautrix_sfu_matrix_to_device_received_total") - received == NUMBERED
    assert await focus.total("mautrix_sfu_bounds_hit_total") == bounds
    assert await focus.total("mautrix_sfu_bad_messages_total") == bad
    assert max(waits) < 4  # a gap would have been waited for: 5 s
    for leg in legs:
        assert len(by_device(leg)) == 1
        await leg.leave()


def by_device(leg: Participant) -> list[object]:
    """The negotiate messages that came to-device."""
    return [message for message in leg.said("m.call.negotiate") if not message.channel]
