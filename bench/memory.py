"""Resident memory of a leg, and of a track that is forwarded to it, with a thousand legs.

The process is the WebRTC edge, negotiation and the media core; legs have their data channel open.

    make bench-memory
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from .cascade import table
from .cascade_machine import Machine
from .forward_targets import Focus
from .load_peers import frame_bytes
from .network import enter

LEGS, RATE = 1000, 500_000


def resident(pid: int) -> int:
    """KiB (proc(5), VmRSS)."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


async def measure(legs: int) -> dict[str, object]:
    """Legs, then one forwarded video for each."""
    machine = Machine()
    target = Focus()
    await target.start()
    try:
        await target.join(1, audio=False, video=True)
        target.generator.tell(f"bytes video {frame_bytes(RATE)}")
        await asyncio.sleep(1)
        empty = resident(target.pid)
        await target.join(legs, audio=False, video=False)
        await asyncio.sleep(2)
        joined = resident(target.pid)
        await target.show(range(1, 1 + legs), (0,))
        await asyncio.sleep(12)  # long enough for whatever is kept of what was sent
        forwarding = resident(target.pid)
    finally:
        await target.stop()
    leg, track = (joined - empty) / legs, (forwarding - joined) / legs
    rows = [
        ("process with a publisher", f"{empty / 1024:.0f} MiB"),
        (f"with {legs} legs", f"{joined / 1024:.0f} MiB"),
        ("with a video forwarded to each", f"{forwarding / 1024:.0f} MiB"),
        ("for a leg", f"{leg:.0f} KiB"),
        ("for a forwarded track", f"{track:.1f} KiB"),
    ]
    table(("resident", ""), rows)
    return {
        "kib_per_leg": round(leg, 1),
        "kib_per_forwarded_track": round(track, 1),
        "legs": legs,
        "steal": round(machine.stolen(), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legs", type=int, default=LEGS)
    arguments = parser.parse_args()
    if enter("bench.memory", sys.argv[1:]):
        print(json.dumps(asyncio.run(measure(arguments.legs))))


if __name__ == "__main__":
    main()
