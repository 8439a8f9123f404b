"""What the machine did meanwhile: time that others took from it, and the CPU of single threads."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path


class Machine:
    """Watches the machine from when it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._jiffies = _jiffies()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def stolen(self) -> float:
        """The share of the CPUs' time that went to other virtual machines (proc(5), /proc/stat)."""
        spent = [now - then for now, then in zip(_jiffies(), self._jiffies, strict=True)]
        return spent[7] / max(1, sum(spent))

    def others(self) -> float:
        """CPUs' worth of time that other processes of this machine used."""
        spent = [now - then for now, then in zip(_jiffies(), self._jiffies, strict=True)]
        busy = (sum(spent) - spent[3] - spent[4] - spent[7]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, busy - time.process_time()) / self.seconds


def _jiffies() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def threads() -> set[str]:
    """The threads of this process."""
    return set(os.listdir("/proc/self/task"))


def cpu(tids: set[str]) -> float:
    """CPU seconds that these threads have used (proc(5), schedstat)."""
    return sum(int(Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[0]) for tid in tids) / 1e9


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent lie at or under; `values` must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
