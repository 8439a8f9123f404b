"""How fast somebody is in a call: alone with a browser, many at once in a large call, all of them after a crash.

    make bench-join

Needs Synapse and Chromium as the tests do, and two cores: the focus has one of them, but while there is the browser.
`--part` does only one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence

from . import join_frame, join_rate, join_restart
from .cascade import table
from .cascade_machine import Machine, percentile

JOINS = 40  # of the page
IN_CALL = (50, 300)
SECONDS = 8.0  # of joining, beside each of them
LEGS = 200
HOMESERVERS = ("stand-in", "Synapse")
PARTS = ("frame", "rate", "restart")


def frame(joins: int) -> dict[str, object]:
    """The page."""
    found = asyncio.run(join_frame.measure(joins))
    rows = []
    for stage in join_frame.STAGES:
        times = found.stages[stage]
        rows.append((join_frame.MEANING[stage], *(f"{percentile(times, part):.0f}" for part in (50, 95, 100))))
    table((f"ms since the invite, {joins} joins", "p50", "p95", "longest"), rows)
    return {"join_p50_ms": round(percentile(found.whole, 50)), "join_p95_ms": round(percentile(found.whole, 95))}


def rate(sizes: Sequence[int], seconds: float) -> dict[str, object]:
    """Joins in a second."""
    found = [asyncio.run(join_rate.measure(people, seconds)) for people in sizes]

    def row(name: str, *values: str) -> tuple[str, ...]:
        return (name, *values)

    def ms(values: Sequence[float], part: float, scale: float = 1000) -> str:
        return f"{percentile(values, part) * scale:.0f}"

    rows = [
        row("joins, and as many leaves, a second", *(f"{it.per_second:.1f}" for it in found)),
        row("from the invite to the answer, p50 ms", *(ms(it.to_answer, 50) for it in found)),
        row("... to the open data channel, p50", *(ms(it.to_open, 50) for it in found)),
        row("... to the first packet of somebody else, p50", *(ms(it.whole, 50) for it in found)),
        row("... p95", *(ms(it.whole, 95) for it in found)),
        row("latency of a packet meanwhile, p50 ms", *(f"{percentile(it.latency, 50):.2f}" for it in found)),
        row("... p99", *(f"{percentile(it.latency, 99):.2f}" for it in found)),
        row("... before anybody joined, p50", *(f"{percentile(it.quiet_latency, 50):.2f}" for it in found)),
        row("... p99", *(f"{percentile(it.quiet_latency, 99):.2f}" for it in found)),
        row("packets lost", *(str(it.lost) for it in found)),
        row("metadata for each join and leave, KiB", *(f"{it.metadata_bytes / it.joins / 1024:.0f}" for it in found)),
        row("... messages", *(f"{it.metadata_messages / it.joins:.1f}" for it in found)),
        row("event loop late, mean ms", *(f"{it.lag * 1000:.1f}" for it in found)),
        row("... never by more than, s", *(it.worst_lag for it in found)),
        row("CPU for each join and leave, the focus, ms", *(f"{it.focus_cpu / it.joins * 1000:.1f}" for it in found)),
        row("... all clients, ms", *(f"{it.clients_cpu / it.joins * 1000:.1f}" for it in found)),
        row("CPUs busy, the focus", *(f"{it.focus_cpu / it.seconds:.2f}" for it in found)),
        row("... the clients", *(f"{it.clients_cpu / it.seconds:.2f}" for it in found)),
        row("joins a second while the call filled", *(f"{it.filling:.1f}" for it in found)),
    ]
    table(("people in the call", *(str(it.people) for it in found)), rows)
    result: dict[str, object] = {"joins_per_s": round(min(it.per_second for it in found), 2)}
    for it in found:
        result[f"joins_per_s_{it.people}"] = round(it.per_second, 2)
        result[f"latency_p99_ms_{it.people}"] = round(percentile(it.latency, 99), 3)
        result[f"metadata_kib_per_join_{it.people}"] = round(it.metadata_bytes / it.joins / 1024, 1)
        result[f"loop_lag_ms_{it.people}"] = round(it.lag * 1000, 2)
    return result


def restart(legs: int, homeservers: Sequence[str]) -> dict[str, object]:
    """After a SIGKILL."""
    found = [asyncio.run(join_restart.measure(legs, homeserver)) for homeserver in homeservers]
    names = (
        ("the focus takes calls again", "ready"),
        ("the last one was told to call again", "hung_up"),
        ("half of the legs are open", "half"),
        ("all of them", "open"),
        ("everybody is shown everybody", "whole"),
        ("CPU of the focus", "focus_cpu"),
        ("... of the homeserver", "homeserver_cpu"),
        ("... of the clients", "clients_cpu"),
    )
    rows = [(text, *(f"{getattr(it, name):.1f}" for it in found)) for text, name in names]
    rows.append(("invites", *(str(it.invites) for it in found)))
    table((f"s after the SIGKILL, {legs} legs", *(it.homeserver for it in found)), rows)
    result: dict[str, object] = {}
    for it in found:
        key = f"rejoin_{legs}_s" if it.homeserver == "stand-in" else f"rejoin_{legs}_synapse_s"
        result[key] = round(it.whole, 2)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    parser.add_argument("--joins", type=int, default=JOINS, help="of the page")
    parser.add_argument("--people", type=int, action="append", help="in the call while others join")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of joining")
    parser.add_argument("--legs", type=int, default=LEGS, help="when the focus is killed")
    parser.add_argument("--homeserver", choices=HOMESERVERS, action="append", help="of those legs")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    machine = Machine()
    result: dict[str, object] = {}
    if "frame" in parts:
        result |= frame(arguments.joins)
    join_rate.off_the_servers_core()
    if "rate" in parts:
        result |= rate(arguments.people or IN_CALL, arguments.seconds)
    if "restart" in parts:
        result |= restart(arguments.legs, arguments.homeserver or HOMESERVERS)
    print(f"{machine.seconds:.0f} s, {machine.stolen():.1%} of the CPUs' time stolen")
    print(json.dumps({**result, "steal": round(machine.stolen(), 4)}))


if __name__ == "__main__":
    main()
