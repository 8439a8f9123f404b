"""How many packets a second of CPU delivers: this project, Janus's VideoRoom, and the smallest loop that does the same.

make bench-forward
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cascade import table
from .cascade_machine import Machine
from .forward_targets import Ceiling, Focus, Target
from .janus import Janus
from .load_peers import frame_bytes
from .network import enter, process_cpu

OPENSSL = Path(__file__).parent.parent / ".cache" / "libsrtp-openssl"
FAN_OUT, RATES = (10, 50, 200, 1000), (500_000, 2_500_000)
PEOPLE, PEOPLE_RATE = (10, 25, 50), 500_000
SETTLE, WINDOW, WINDOWS = 1.5, 1.5, 3


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
        if not delivered or after["forged"] or after["stray"]:
            raise RuntimeError(f"{target.name}, {scenario}: {after}")
        rates.append(delivered / seconds)
        cpus.append(cpu / seconds)
        efficiency.append(delivered / cpu)
        losses.append((after["lost"] - before["lost"]) / delivered)
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
            await target.join(count - there, audio=False, video=False)
            await target.show(range(1 + there, 1 + count), (0,))
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


def targets(names: Sequence[str]) -> list[Callable[[], Target]]:
    """Those that are asked for."""
    known: dict[str, Callable[[], Target]] = {
        "focus": Focus,
        "ceiling": Ceiling,
        "janus": Janus,
        "janus-openssl": lambda: Janus(OPENSSL),
    }
    return [known[name] for name in names]


async def run(names: Sequence[str], quick: bool, part: str) -> None:
    """Measure and print."""
    machine = Machine()
    found: dict[str, dict[str, Result]] = {}
    profiles: dict[str, str] = {}
    fan, people = ((10, 50), (4,)) if quick else (FAN_OUT, PEOPLE)
    for make in targets(names):
        target = make()
        results = []
        if part in ("all", "fan"):
            results += await fan_out(target, fan, RATES)
        if part in ("all", "people"):
            results += [await all_to_all(make(), count, PEOPLE_RATE) for count in people]
        found[target.name] = {result.scenario: result for result in results}
        profiles[target.name] = target.profile
    scenarios = list(next(iter(found.values())))
    print("Packets delivered in a second of the server process's CPU time, in thousands")
    table(
        ("scenario", *found),
        [
            (scenario, *(f"{results[scenario].per_cpu_second / 1e3:.0f}" for results in found.values()))
            for scenario in scenarios
        ],
    )
    print(json.dumps({"steal": round(machine.stolen(), 4), "seconds": round(machine.seconds, 1), "profiles": profiles}))


def main() -> None:
    """Measure everything; with --quick only whether it works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few people: the figures mean little")
    parser.add_argument("--targets", default="focus,ceiling")
    parser.add_argument("--part", choices=("all", "fan", "people"), default="all")
    arguments = parser.parse_args()
    if enter("bench.forward", sys.argv[1:]):
        asyncio.run(run(arguments.targets.split(","), arguments.quick, arguments.part))


if __name__ == "__main__":
    main()
