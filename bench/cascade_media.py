"""What crosses the trunks of one conference, measured: real media cores, trunks and publishers over loopback.

Who is asked for in which sizes is what the real cores granted in a simulated call (cascade_traffic); everything
after that is real. At the far ends nobody is sent anything: fifty times fifty streams are more than one machine plays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from mautrix_sfu.core.ids import LegId
from tests.rtc.test_with_media_core import joined, until
from tests.support.participant_connection import Connection

from .cascade_hop import LARGE, SMALL, Site, site
from .cascade_traffic import AUDIO_RATE, Plan, packet_rates

SETTLING = 2.0  # seconds from the last offer: key frames are asked for and come
SIZES = {"f": LARGE, "q": SMALL}  # what asks for a layer of the tests' media


@dataclass(frozen=True, slots=True)
class Measured:
    """One conference on so many foci. Rates in packets/s, without repeats."""

    foci: int
    trunks: int
    pace: float  # what the publishers sent, as a share of what their media has
    trunk: float  # over one trunk, both ways together, on average
    crossings: float  # of each distinct video packet
    apart: float  # over the same path if everyone were on one focus


async def measure(plan: Plan, seconds: float, alone: float) -> Measured:
    """Play a plan's conference; `alone` is what one person of it sends and receives on one focus."""
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(site()) for _ in range(plan.foci)]
        people = [
            await stack.enter_async_context(joined(sites[place % plan.foci].focus, _leg(place)))
            for place in range(plan.people)
        ]
        pairs = [(one, two) for two in range(plan.foci) for one in range(two)]
        for one, two in pairs:
            sites[one].focus.dial(_trunk(one, two), sites[two].focus)
        for one, two in pairs:
            await until(lambda one=one, two=two: sites[two].focus.legs[_trunk(one, two)].opened)  # type: ignore[misc]
        for one, two in pairs:
            for near, far in ((one, two), (two, one)):
                asked = {_leg(place): _sizes(layers) for place, layers in plan.crossing[near, far].items()}
                sites[near].focus.send_over(_trunk(one, two), sites[far].focus, *asked, sizes=asked)
        await asyncio.sleep(SETTLING)
        sent, (over, crossed, distinct), took = await _count(people, sites, seconds)
        return Measured(
            plan.foci,
            len(pairs),
            sent / took / (plan.people * _nominal()),
            over / took / len(pairs),
            crossed / distinct,
            plan.people / plan.foci * alone,
        )


async def alone(people: int, seconds: float) -> float:
    """Packets/s that one of them sends and receives if all are on one focus: one large, the others small."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(site())
        others = [await stack.enter_async_context(joined(here.focus, _leg(place))) for place in range(people - 1)]
        viewer = await stack.enter_async_context(_viewer(here, people - 1))
        await asyncio.sleep(SETTLING)
        sent, (received, _, _), took = await _count([*others, viewer], [here], seconds)
        return (received + sent / people) / took


@asynccontextmanager
async def _viewer(here: Site, others: int) -> AsyncIterator[Connection]:
    async with joined(here.focus, _leg(others)) as viewer:
        placed = here.focus.send(_leg(others), viewer, *map(_leg, range(others)), size=SMALL)
        mid, source, track = next((m, s, t) for m, (s, t) in placed.items() if t.kind.value == "video")
        here.focus.media.forward(_leg(others), mid, source, track.mid, *LARGE)
        yield viewer


async def _count(people: list[Connection], sites: list[Site], seconds: float) -> tuple[int, list[int], float]:
    """Packets sent by people; sent by all foci, over trunks (video), and of these distinct ones; seconds."""
    loop = asyncio.get_running_loop()

    def state() -> list[int]:
        sent = sum(encoding.packets for person in people for encoding in person.sender.encodings.values())
        rtp, repeats, crossed, distinct = (
            sum(here.stat(name) for here in sites)
            for name in ("rtp_out_total", "rtx_out_total", "trunk_out_total", "trunk_out_distinct_total")
        )
        return [sent, rtp - repeats, crossed, distinct]

    before, began = state(), loop.time()
    await asyncio.sleep(seconds)
    sent, *out = (now - then for now, then in zip(state(), before, strict=True))
    return sent, out, loop.time() - began


def _nominal() -> float:
    return AUDIO_RATE + sum(packet_rates().values())


def _sizes(layers: frozenset[str]) -> tuple[tuple[int, int], ...]:
    return tuple(SIZES[layer] for layer in sorted(layers & SIZES.keys()))


def _leg(place: int) -> LegId:
    return LegId(1 + place)


def _trunk(one: int, two: int) -> LegId:
    return LegId(1000 + 100 * one + two)
