"""What the cascade costs: the hop, what crosses trunks, and a hundred foci with ten thousand people.

Prints tables in Markdown, as docs/performance.md has them, and one line of JSON last.

    make bench-cascade
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
from collections.abc import Sequence

from . import cascade_hop, cascade_media, cascade_traffic
from .cascade_machine import Machine, percentile
from .cascade_simulation import Phase, Shape, play

FOCI = (2, 4, 8)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def hop(windows: int, seconds: float) -> dict[str, object]:
    """Latency and CPU of one hop, and how often a packet crosses."""
    machine = Machine()
    found = asyncio.run(cascade_hop.measure(windows, seconds))
    print(f"\nOne hop: {found.packets} packets at {found.rate:.0f}/s, {found.windows} windows; medians of the windows")
    rows: list[tuple[object, ...]] = [
        ("latency to a subscriber on the same focus, p50 / p99", f"{found.near_p50:.3f} / {found.near_p99:.3f} ms"),
        ("what the hop adds, p50 / p99", f"{found.hop_p50:.3f} / {found.hop_p99:.3f} ms"),
        ("p99 of the worst window, longest of all", f"{found.worst_p99:.3f}, {found.longest:.3f} ms"),
        ("packets lost", found.lost),
        ("CPU for each packet, one focus and one subscriber", f"{found.cpu_alone:.1f} us"),
        ("... what the trunk adds at its near end", f"{found.cpu_near:.1f} us"),
        ("... and at its far end, with a subscriber there", f"{found.cpu_far:.1f} us"),
        ("CPU stolen; others' load", f"{machine.stolen():.1%}; {machine.others():.2f} CPUs"),
    ]
    table(("one hop", ""), rows)
    crossed = asyncio.run(cascade_hop.crossings(seconds=2 * seconds))
    print(f"Simulcast video over a real trunk, {crossed.viewers} far viewers, half of them large and half small")
    rows = [
        ("packets sent on the trunk, without repeats", crossed.crossed),
        ("distinct ones, by the media core", crossed.distinct),
        ("published meanwhile in the two layers watched", crossed.published),
        ("delivered to the far viewers", crossed.delivered),
        ("crossings of each packet", f"{crossed.per_stream:.4f}"),
    ]
    table((f"{crossed.publishers} publishers", "packets"), rows)
    return {
        "crossings_per_stream": round(crossed.per_stream, 4),
        "crossed_per_published": round(crossed.crossed / crossed.published, 4),
        "hop_ms_p50": round(found.hop_p50, 4),
        "hop_ms_p99": round(found.hop_p99, 4),
        "hop_ms_p99_worst_window": round(found.worst_p99, 4),
        "hop_ms_longest": round(found.longest, 4),
        "hop_packets": found.packets,
        "hop_packets_lost": found.lost,
        "hop_cpu_us": round(found.cpu_near + found.cpu_far, 1),
        "hop_steal": round(machine.stolen(), 4),
        "hop_other_load_cpus": round(machine.others(), 2),
    }


async def _played(plans: Sequence[cascade_traffic.Plan], people: int, seconds: float) -> list[cascade_media.Measured]:
    one = await cascade_media.alone(people, seconds)
    return [await cascade_media.measure(plan, seconds, one) for plan in plans]


def traffic(people: int, seconds: float) -> dict[str, object]:
    """What crosses the trunks of one conference."""
    found = [cascade_traffic.measure(foci, people) for foci in FOCI]
    print(f"{people} people who all watch each other, one large and the others small; packets/s, computed from grants")
    rows: list[tuple[object, ...]] = [
        ("trunks", *(item.trunks for item in found)),
        ("(track, layer)s that cross one trunk, both ways", *(f"{item.streams:.1f}" for item in found)),
        ("... of which more than once", *(item.repeats for item in found)),
        ("over one trunk, both ways", *(f"{item.trunk:.0f}" for item in found)),
        ("... over the busiest", *(f"{item.busiest:.0f}" for item in found)),
        ("... from and to one site if all were on one focus", *(f"{item.apart:.0f}" for item in found)),
        ("over all trunks", *(f"{item.trunk * item.trunks:.0f}" for item in found)),
        ("... from and to all other sites if all were on one", *(f"{item.elsewhere:.0f}" for item in found)),
        ("sent by the busiest focus", *(f"{item.sent:.0f}" for item in found)),
        ("... by the one focus if all were on it", *(f"{item.sent_by_one:.0f}" for item in found)),
    ]
    table(("packets/s", *(f"{item.foci} foci" for item in found)), rows)
    real = asyncio.run(_played([item.plan for item in found], people, seconds))
    print("The same played by real publishers over real trunks between real media cores; packets/s, measured")
    rows = [
        ("publishers' pace, of what their media has", *(f"{item.pace:.1%}" for item in real)),
        ("over one trunk, both ways", *(f"{item.trunk:.0f}" for item in real)),
        ("crossings of each video packet", *(f"{item.crossings:.4f}" for item in real)),
        ("... from and to one site if all were on one focus", *(f"{item.apart:.0f}" for item in real)),
        ("over all trunks", *(f"{item.trunk * item.trunks:.0f}" for item in real)),
    ]
    table(("packets/s", *(f"{item.foci} foci" for item in real)), rows)
    result: dict[str, object] = {}
    for item in found:
        result[f"trunk_packets_per_second_{item.foci}_foci"] = round(item.trunk)
        result[f"one_focus_packets_per_second_{item.foci}_sites"] = round(item.apart)
    for played in real:
        result[f"trunk_packets_per_second_measured_{played.foci}_foci"] = round(played.trunk)
        result[f"one_focus_packets_per_second_measured_{played.foci}_sites"] = round(played.apart)
        result[f"crossings_per_stream_{played.foci}_foci"] = round(played.crossings, 4)
        result[f"publishers_pace_{played.foci}_foci"] = round(played.pace, 3)
    return result


def simulation(name: str, shape: Shape, over: float) -> dict[str, object]:
    """Set-up, churn and the end of many conferences on the pure core."""
    machine = Machine()
    phases = play(shape, over)
    people = shape.conferences * shape.people_each
    print(
        f"{name}: {shape.foci} foci, {people} people, {shape.people_each} in each call, on {shape.foci_each} foci; "
        f"ran {machine.seconds:.0f} s, {machine.stolen():.1%} stolen"
    )
    rows: list[tuple[object, ...]] = []
    for phase in phases:
        times = _times(phase)
        sent, channel = phase.tally.to_device, phase.tally.channel
        rows.append((
            phase.name, phase.trunks, _of(sent, "trunk"), _of(sent, "person"), _of(channel, "trunk"),
            _of(channel, "person"), len(times), *(f"{percentile(times, p) * 1e6:.0f}" for p in (50, 99)),
            f"{max(times) * 1e3:.1f}", f"{sum(times) / shape.foci / phase.simulated:.2%}",
        ))  # fmt: skip
    header = (
        "phase", "trunks at its end", "to-device, foci", "to-device, people", "data channel, foci",
        "data channel, people", "events", "p50 us", "p99 us", "longest ms", "CPU of one focus",
    )  # fmt: skip
    table(header, rows)
    slowest = sorted(
        ((kind, sorted(times)) for kind, times in _by_kind(phases).items()), key=lambda item: -sum(item[1])
    )[:8]
    rows = [
        (kind, len(times), *(f"{percentile(times, p) * 1e6:.0f}" for p in (50, 99)), f"{times[-1] * 1e3:.1f}")
        for kind, times in slowest
    ]
    table(("event", "count", "p50 us", "p99 us", "longest ms"), rows)
    setup, everything = phases[0], [x for phase in phases for x in _times(phase)]
    return {
        "foci": shape.foci,
        "people": people,
        "conferences": shape.conferences,
        "trunks": setup.trunks,
        "to_device_per_trunk": round(_of(setup.tally.to_device, "trunk") / setup.trunks, 3),
        "to_device_per_person": round(_of(setup.tally.to_device, "person") / people, 3),
        "decision_us_p50": round(percentile(everything, 50) * 1e6, 1),
        "decision_us_p99": round(percentile(everything, 99) * 1e6, 1),
        "decision_ms_longest": round(max(everything) * 1e3, 2),
        "seconds": round(machine.seconds, 1),
        "steal": round(machine.stolen(), 4),
    }


def _of(counts: dict[str, int], whose: str) -> int:
    return sum(count for name, count in counts.items() if name.startswith(whose))


def _times(phase: Phase) -> list[float]:
    return [seconds for times in phase.tally.seconds.values() for seconds in times]


def _by_kind(phases: Sequence[Phase]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for phase in phases:
        for kind, times in phase.tally.seconds.items():
            found.setdefault(kind, []).extend(times)
    return found


def main() -> None:
    """Measure everything; with --quick only whether it works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: the figures mean nothing")
    quick = parser.parse_args().quick
    machine = Machine()
    result = hop(*((2, 1.0) if quick else (7, 4.0)))
    result |= traffic(16 if quick else 50, 1.0 if quick else 5.0)
    many = Shape(10, 10, 3, 10) if quick else Shape(100, 1000, 3, 10)
    one = Shape(4, 1, 4, 16) if quick else Shape(16, 1, 16, 48)
    result["simulation"] = simulation("Many conferences", many, 60.0)
    result["one_conference"] = simulation("One conference as large as its set of foci may be", one, 5.0)
    result["seconds"] = round(machine.seconds, 1)
    result["steal"] = round(machine.stolen(), 4)
    result["max_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
