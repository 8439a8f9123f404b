"""Links with loss, delay, jitter, reordering and a rate: what netem and tbf do, also where the kernel has no netem.

A process of its own that holds two TUN devices for each link, one in the client's namespace and one in a router's,
and carries each packet from one to the other, later or never. Each line on stdin is a JSON object with `op`; each has
one line of JSON as its answer on stdout.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import heapq
import itertools
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h
_LONGEST = 65536


@dataclass(frozen=True, slots=True)
class Condition:
    """What happens to the packets of one direction. Times are seconds."""

    delay: float = 0.0
    jitter: float = 0.0  # up to so much more, without overtaking
    loss: float = 0.0  # share of the packets
    burst: float = 1.0  # packets that are lost in a row, on average
    late: float = 0.0  # share of the packets that others overtake
    late_by: float = 0.0
    rate: float | None = None  # bits per second
    queue: float = 0.2  # longest that a packet waits for the rate; it is dropped else


class Way:
    """One direction of a link."""

    def __init__(self, seed: int = 0) -> None:
        self.condition = Condition()
        self.lost = 0
        self.overflowed = 0
        self.carried = 0
        self._random = random.Random(seed)
        self._free = 0.0  # when the rate has nothing more to send
        self._newest = 0.0  # arrival of the last packet that was not late
        self._losing = False

    def arrival(self, now: float, length: int) -> float | None:
        """When a packet of so many bytes that leaves now is to arrive; None: it does not."""
        condition = self.condition
        if self._is_lost():
            self.lost += 1
            return None
        if condition.rate is not None:
            self._free = max(self._free, now)
            if self._free - now > condition.queue:
                self.overflowed += 1
                return None
            self._free += length * 8 / condition.rate
            now = self._free
        self.carried += 1
        now += condition.delay
        if condition.jitter:
            now += self._random.uniform(0, condition.jitter)
        if condition.late and self._random.random() < condition.late:
            return now + condition.late_by
        self._newest = max(self._newest, now)
        return self._newest

    def _is_lost(self) -> bool:
        """After Gilbert: a state in which everything is lost, and one in which nothing is."""
        loss, leave = self.condition.loss, 1 / self.condition.burst
        if loss <= 0:
            self._losing = False
        elif self.condition.burst <= 1:
            self._losing = self._random.random() < loss
        elif self._losing:
            self._losing = self._random.random() >= leave
        else:
            self._losing = self._random.random() < leave * loss / (1 - loss)
        return self._losing


def _tun(name: str, namespace: str) -> int:
    """A TUN device in that namespace; the descriptor stays here."""
    found = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(found, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    subprocess.run(("ip", "link", "set", name, "netns", namespace), check=True)
    return found


class Links:
    """Both directions of all links."""

    def __init__(self, router: str, clients: list[str], seed: int) -> None:
        self._ways: list[tuple[Way, Way]] = []  # up, down
        self._carries: dict[int, tuple[int, Way]] = {}  # from where: to where, and how
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._lateness: list[float] = []
        for number, client in enumerate(clients):
            near, far = _tun(f"q{os.getpid()}-{number}", client), _tun(f"up{number}", router)
            up, down = Way(2 * number + 16 * seed), Way(2 * number + 1 + 16 * seed)
            self._ways.append((up, down))
            self._carries[near] = (far, up)
            self._carries[far] = (near, down)

    def run(self) -> None:
        """Until stdin ends."""
        while True:
            wait = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready, _, _ = select.select([*self._carries, 0], [], [], wait)
            for source in ready:
                if source:
                    self._take(source)
                    continue
                line = os.read(0, _LONGEST)
                if not line:
                    return
                for order in line.splitlines():
                    print(json.dumps(self._handle(json.loads(order))), flush=True)
            self._deliver()

    def _take(self, source: int) -> None:
        target, way = self._carries[source]
        for _ in range(64):
            try:
                packet = os.read(source, _LONGEST)
            except BlockingIOError:
                return
            arrival = way.arrival(time.monotonic(), len(packet))
            if arrival is not None:
                heapq.heappush(self._waiting, (arrival, next(self._numbers), target, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            at, _, target, packet = heapq.heappop(self._waiting)
            self._lateness.append(now - at)
            with contextlib.suppress(OSError):  # its device is not up yet
                os.write(target, packet)

    def _handle(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["op"]:
            case "set":
                up, down = self._ways[order["link"]]
                up.condition, down.condition = Condition(**order["up"]), Condition(**order["down"])
                return {}
            case "count":
                late = sorted(self._lateness) or [0.0]
                self._lateness = []
                ways = [way for pair in self._ways for way in pair]
                return {
                    "carried": sum(way.carried for way in ways),
                    "lost": sum(way.lost for way in ways),
                    "overflowed": sum(way.overflowed for way in ways),
                    "late_p99_ms": late[len(late) * 99 // 100] * 1000,
                    "late_max_ms": late[-1] * 1000,
                }
            case other:
                raise ValueError(f"no such order: {other}")


def main() -> None:
    """`SEED ROUTER CLIENT...`: the namespaces' names. The devices are there once the first answer is."""
    seed, router, *clients = sys.argv[1:]
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))  # a packet that is carried late is delay of the machine
    gc.disable()
    Links(router, clients, int(seed)).run()


if __name__ == "__main__":
    main()
