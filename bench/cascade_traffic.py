"""What crosses the trunks of one conference, compared with everyone on one focus.

Which (track, layer)s cross is what the real cores granted in a simulated call; how many packets a second that makes is
computed, with the packet rates of the tests' own media (Opus at 20 ms, VP8 in three layers at 15 frames/s).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mautrix_sfu.core.ids import LegId, Mid
from tests.support import participant_media as media

from .cascade_simulation import LARGE, Flow, Node, Shape, Simulation

AUDIO_RATE = 1 / media.OPUS_INTERVAL


def packet_rates() -> dict[str, float]:
    """Packets/s of each simulcast layer."""
    rates = {}
    for layer in media.LAYERS:
        packets = sum(sum(1 for _ in media.vp8_payloads(frame, 0, 0)) for frame in media.vp8_frames(layer))
        rates[layer.rid] = packets * media.FRAME_RATE / media.LOOP
    return rates


@dataclass(frozen=True, slots=True)
class Plan:
    """Which layers of whom cross from one focus to another; people by their place, who are at focus place % foci."""

    foci: int
    people: int
    crossing: Mapping[tuple[int, int], Mapping[int, frozenset[str]]]


@dataclass(frozen=True, slots=True)
class Traffic:
    """One conference on so many foci. Rates in packets/s."""

    foci: int
    people: int
    trunks: int
    streams: float  # (track, layer)s that cross one trunk, both ways together, on average
    repeats: int  # (track, layer)s that cross a trunk more than once
    trunk: float  # over one trunk, both ways together, on average
    busiest: float
    apart: float  # over the same path if everyone were on one focus: what the people of one site send and receive
    elsewhere: float  # and over the paths of all the other sites together
    sent: float  # by the busiest focus, to participants and trunks
    sent_by_one: float  # by the one focus that everyone would be on
    plan: Plan


def measure(foci: int, people: int = 50) -> Traffic:
    """Everybody watches everybody, one large and the others small."""
    simulation = Simulation(Shape(foci, 1, foci, people))
    simulation.begin(0, random.Random(1))
    simulation.run(30)
    simulation.check()
    rates = packet_rates()
    crossing: Counter[frozenset[int]] = Counter()  # packets/s by the pair of foci
    rate_of: Counter[frozenset[int]] = Counter()
    seen: Counter[tuple[int, LegId, tuple[LegId, Mid], str]] = Counter()
    sent: Counter[int] = Counter()
    plan: dict[tuple[int, int], dict[int, frozenset[str]]] = {}
    numbers = {id(node): number for number, node in enumerate(simulation.nodes)}
    for node in simulation.nodes:
        here = numbers[id(node)]
        for (leg, _), flow in node.flows.items():
            layers = _layers(flow, audio=_is_audio(node, flow))
            packets = sum(rates.get(layer, AUDIO_RATE) for layer in layers)
            sent[here] += packets  # type: ignore[assignment]
            if leg in node.link:
                pair = frozenset((here, numbers[id(node.link[leg][0])]))
                crossing[pair] += len(layers)
                rate_of[pair] += packets  # type: ignore[assignment]
                place = simulation.place(node, flow.source[0])
                crossed = plan.setdefault((here, numbers[id(node.link[leg][0])]), {})
                crossed[place] = crossed.get(place, frozenset()).union(layers)
                seen.update((here, leg, flow.source, layer) for layer in layers)
    down = (people - 1) * AUDIO_RATE + rates["f"] + (people - 2) * rates["q"]
    up = AUDIO_RATE + sum(rates.values())
    return Traffic(
        foci,
        people,
        simulation.trunks(),
        sum(crossing.values()) / len(crossing),
        sum(count - 1 for count in seen.values()),
        sum(rate_of.values()) / len(rate_of),
        max(rate_of.values()),
        people / foci * (down + up),
        (people - people / foci) * (down + up),
        max(sent.values()),
        people * down,
        Plan(foci, people, plan),
    )


def _layers(flow: Flow, *, audio: bool) -> list[str]:
    return ["audio"] if audio else sorted({"f" if size == LARGE else "q" for size in flow.sizes})


def _is_audio(node: Node, flow: Flow) -> bool:
    leg, mid = flow.source
    track = next(track for track in node.receives[leg] if track.mid == mid)
    return track.kind.value == "audio"
