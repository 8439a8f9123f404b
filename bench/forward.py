"""How many packets a second of CPU delivers: this project, Janus's VideoRoom, and the smallest loop that does the same.

make bench-forward
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cascade import table
from .cascade_machine import Machine
from .forward_targets import Ceiling, Focus, Target
from .janus import AS_PACKAGED, WITH_OPENSSL, Janus
from .load_peers import frame_bytes
from .network import enter, process_cpu

OPENSSL = Path(__file__).parent.parent / ".cache" / "libsrtp-openssl"
FAN_OUT, RATES = (10, 50, 200, 1000), (500_000, 2_500_000)
PEOPLE, PEOPLE_RATE = (10, 25, 50), 500_000
TRICKLE = 200  # bytes of a video frame while people join
SETTLE, WINDOW, WINDOWS = 1.2, 1.0, 3


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario on one server; medians of its windows."""

    scenario: str
    per_cpu_second: float
    per_second: float
    busy: float  # CPUs
    lost: float  # share of the packets
    run: float  # datagrams of one send, where it is known

    @property
    def microseconds(self) -> float:
        """CPU for each delivered packet."""
        return 1e6 / self.per_cpu_second


async def measure(target: Target, scenario: str) -> Result:
    """Some windows of the load that is on."""
    await asyncio.sleep(SETTLE)
    loop = asyncio.get_running_loop()
    rates, cpus, efficiency, losses = [], [], [], []
    notes = await target.notes()
    for _ in range(WINDOWS):
        before, cpu, began = await target.generator.count(), process_cpu(target.pid), loop.time()
        await asyncio.sleep(WINDOW)
        after, cpu, seconds = await target.generator.count(), process_cpu(target.pid) - cpu, loop.time() - began
        delivered = after["received"] - before["received"]
        if not delivered or after["forged"] or after["stray"] > before["stray"]:
            raise RuntimeError(f"{target.name}, {scenario}: {after}")
        rates.append(delivered / seconds)
        cpus.append(cpu / seconds)
        efficiency.append(delivered / cpu)
        lost = max(0, after["lost"] - before["lost"])
        losses.append(lost / (delivered + lost))
    now = await target.notes()
    sends = now.get("sends", 0) - notes.get("sends", 0)
    run = (now["sent"] - notes["sent"]) / sends if sends else 0.0
    middle = statistics.median
    return Result(scenario, middle(efficiency), middle(rates), middle(cpus), middle(losses), run)


async def fan_out(target: Target, counts: Sequence[int], rates: Sequence[int]) -> list[Result]:
    """One publisher's video to more and more people."""
    found = []
    await target.start()
    try:
        await target.join(1, audio=False, video=True)
        there = 0
        for count in counts:
            if there:
                target.generator.tell(f"bytes video {TRICKLE}")  # handshakes get their turn
            await target.join(count - there, audio=False, video=False)
            try:
                await target.show(range(1 + there, 1 + count), (0,))
            except TimeoutError:
                print(f"{target.name}: {count} people did not come up", file=sys.stderr, flush=True)
                break
            there = count
            for rate in rates:
                target.generator.tell(f"bytes video {frame_bytes(rate)}")
                found.append(await measure(target, f"1 to {count}, {rate / 1e6:g} Mbit/s"))
                _progress(target, found[-1])
    finally:
        await target.stop()
    return found


async def all_to_all(target: Target, count: int, rate: int) -> Result:
    """Everybody sees and hears everybody else."""
    await target.start()
    try:
        await target.join(count, audio=True, video=True)
        await target.show(range(count), range(count))
        target.generator.tell(f"bytes video {frame_bytes(rate)}")
        found = await measure(target, f"{count} people, {rate / 1e6:g} Mbit/s and audio")
        _progress(target, found)
    finally:
        await target.stop()
    return found


def _progress(target: Target, result: Result) -> None:
    print(
        f"{target.name}: {result.scenario}: {result.microseconds:.2f} us, {result.per_second:.0f}/s, "
        f"busy {result.busy:.2f}, lost {result.lost:.2%}, run {result.run:.1f}",
        file=sys.stderr,
        flush=True,
    )


def present() -> list[str]:
    """What can be measured on this machine; says what is missing."""
    names = ["focus", "ceiling"]
    if shutil.which("janus") is None:
        print("Janus is not installed (Debian's package janus): it is left out", file=sys.stderr)
        return names
    if (OPENSSL / "libsrtp2.so.1").exists():
        names.append("janus-openssl")
    else:
        print(f"{OPENSSL} has no libsrtp2.so.1 built with --enable-openssl: that row is left out", file=sys.stderr)
    names.append("janus")
    return names


def targets(names: Sequence[str]) -> list[Callable[[], Target]]:
    """Those that are asked for."""
    known: dict[str, Callable[[], Target]] = {
        "focus": Focus,
        "focus-2": lambda: Focus(2),
        "focus-2-cores": lambda: Focus(2, (0, 1)),
        "ceiling": Ceiling,
        "janus": Janus,
        "janus-openssl": lambda: Janus(OPENSSL),
    }
    return [known[name] for name in names]


def summary(found: dict[str, dict[str, Result]]) -> dict[str, float]:
    """The ratios that the aims are about: each the worst of its scenarios."""
    ours = found.get("mautrix-sfu", {})

    def worst(other: str, matching: str = "") -> float | None:
        theirs = found.get(other)
        if not theirs or not ours:
            return None
        names = [name for name in ours if name in theirs and matching in name]
        return min(ours[name].per_cpu_second / theirs[name].per_cpu_second for name in names) if names else None

    costs = [
        ours[f"1 to 1000, {rate / 1e6:g} Mbit/s"].microseconds / ours[f"1 to 50, {rate / 1e6:g} Mbit/s"].microseconds
        for rate in RATES
        if f"1 to 1000, {rate / 1e6:g} Mbit/s" in ours
    ]
    ratios = {
        "vs_janus": worst(WITH_OPENSSL),
        "vs_janus_video": worst(WITH_OPENSSL, "2.5 Mbit/s"),
        "vs_janus_as_packaged": worst(AS_PACKAGED),
        "vs_ceiling": worst("ceiling"),
        "cost_1000_vs_50": max(costs, default=None),
    }
    return {name: round(ratio, 3) for name, ratio in ratios.items() if ratio is not None}


def report(found: dict[str, dict[str, Result]]) -> None:
    """Print the tables."""
    scenarios = list(next(iter(found.values())))
    print("Packets delivered in a second of the server process's CPU time, user and system, in thousands")
    rows = [(name, *(f"{results[name].per_cpu_second / 1e3:.0f}" for results in found.values())) for name in scenarios]
    table(("scenario", *found), rows)
    print("What was delivered: packets a second; CPUs that it kept busy; share of the packets that was lost")
    rows = [
        (
            name,
            *(
                f"{result.per_second:.0f}; {result.busy:.2f}; {result.lost:.1%}" if result else "-"
                for result in (results.get(name) for results in found.values())
            ),
        )
        for name in scenarios
    ]
    table(("scenario", *found), rows)
    if "ceiling" in found:
        print("The ceiling's datagrams in one send, and its thousands of packets; limits measured elsewhere: 490 at 8")
        runs = [(name, f"{it.run:.1f}", f"{it.per_cpu_second / 1e3:.0f}") for name, it in found["ceiling"].items()]
        table(("scenario", "datagrams in one send", "thousands a second of CPU"), runs)


async def run(names: Sequence[str], quick: bool, part: str) -> None:
    """Measure and print."""
    machine = Machine()
    found: dict[str, dict[str, Result]] = {}
    profiles: dict[str, str] = {}
    fan, people = ((10, 50), (4,)) if quick else (FAN_OUT, PEOPLE)
    for make in targets(names):
        results = []
        if part in ("all", "fan"):
            results += await fan_out(make(), fan, RATES)
        if part in ("all", "people"):
            results += [await all_to_all(make(), count, PEOPLE_RATE) for count in people]
        name = make().name
        found[name] = {result.scenario: result for result in results}
        profiles[name] = make().profile
    report(found)
    result: dict[str, object] = dict(summary(found))
    result |= {"profiles": profiles, "steal": round(machine.stolen(), 4), "seconds": round(machine.seconds, 1)}
    print(json.dumps(result))


def main() -> None:
    """Measure everything; with --quick only whether it works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few people: the figures mean little")
    parser.add_argument(
        "--targets",
        help="of focus, focus-2, focus-2-cores, ceiling, janus, janus-openssl; else those of the table",
    )
    parser.add_argument("--part", choices=("all", "fan", "people"), default="all")
    arguments = parser.parse_args()
    if enter("bench.forward", sys.argv[1:]):
        names = arguments.targets.split(",") if arguments.targets else present()
        asyncio.run(run(names, arguments.quick, arguments.part))


if __name__ == "__main__":
    main()
