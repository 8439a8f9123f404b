"""How long a packet takes through the focus, at half of the load that it was found to carry in this run.

From just before the generator hands a packet to its kernel until a subscriber's kernel has it, less what the same way
into the server's namespace takes by itself.

    make bench-latency
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from asyncio.subprocess import PIPE

from .cascade import table
from .cascade_machine import Machine
from .forward_targets import Focus
from .load_peers import frame_bytes
from .network import SERVER, enter, in_server, load_tool, process_cpu, process_wait

PEOPLE, TRIAL = 30, 500_000
MOST = 4.0  # times the trial's load; more is not asked of the generator, which receives all of it on one core
FULL = 0.95  # CPUs that one media thread can keep busy
SINK_PORT = 7999


async def measure(seconds: float) -> dict[str, object]:
    """People who all see and hear each other, at a bit rate that keeps half of a core busy."""
    machine = Machine()
    target = Focus()
    await target.start()
    command = in_server(load_tool("generator"), "sink", f"{SERVER}:{SINK_PORT}")
    sink = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert sink.stdin is not None
    assert sink.stdout is not None
    try:
        await target.join(PEOPLE, audio=True, video=True, watch=True)
        await target.show(range(PEOPLE), range(PEOPLE))
        # What it carries: the packets of a second of its CPU, at a load that is far from idle.
        target.generator.tell(f"bytes video {frame_bytes(TRIAL)}")
        delivered, busy = await _load(target, 3.0)
        carried = delivered / busy * FULL
        rate = round(TRIAL * min(carried / 2 / delivered, MOST))
        target.generator.tell(f"bytes video {frame_bytes(rate)}")
        target.generator.tell(f"direct {SERVER}:{SINK_PORT}")
        await asyncio.sleep(1)
        target.generator.tell("reset")
        sink.stdin.write(b"reset\n")
        await sink.stdout.readline()
        waited = process_wait(target.pid)
        delivered, busy = await _load(target, seconds)
        waited = (process_wait(target.pid) - waited) / seconds
        counts = await target.generator.count()
        sink.stdin.write(b"count\n")
        direct = json.loads(await sink.stdout.readline())
        through = counts["latency"]
    finally:
        sink.stdin.write(b"quit\n")
        await target.stop()
        await sink.wait()
    names = ("p50_ms", "p99_ms", "p999_ms", "max_ms")
    less = {name: max(0.0, through[name] - direct["p50_ms"]) for name in names}
    rows = [
        ("to the server's namespace and no further", *(f"{direct[name]:.3f}" for name in names)),
        ("through the focus to a subscriber", *(f"{through[name]:.3f}" for name in names)),
        ("the latter, less the median of the former", *(f"{less[name]:.3f}" for name in names)),
    ]
    print(
        f"{PEOPLE} people at {rate / 1e6:.2f} Mbit/s and audio: {delivered:.0f} packets/s, {busy:.2f} CPUs; "
        f"{through['measured']} packets measured; {carried:.0f} packets/s would be all that one thread carries; "
        f"for {waited:.1%} of the time others were on its core"
    )
    table(("ms", "p50", "p99", "p99.9", "longest"), rows)
    return {
        **{name: round(value, 4) for name, value in less.items()},
        "packets_per_second": round(delivered),
        "carried_per_second": round(carried),
        "measured": through["measured"],
        "lost": counts["lost"],
        "core_taken_by_others": round(waited, 4),
        "steal": round(machine.stolen(), 4),
    }


async def _load(target: Focus, seconds: float) -> tuple[float, float]:
    """Packets delivered in a second, and CPUs busy."""
    await asyncio.sleep(0.5)
    loop = asyncio.get_running_loop()
    before, cpu, began = await target.generator.count(), process_cpu(target.pid), loop.time()
    await asyncio.sleep(seconds)
    after, cpu, span = await target.generator.count(), process_cpu(target.pid) - cpu, loop.time() - began
    return (after["received"] - before["received"]) / span, cpu / span


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    if enter("bench.latency", sys.argv[1:]):
        print(json.dumps(asyncio.run(measure(arguments.seconds))))


if __name__ == "__main__":
    main()
