"""What people hear and see of each other on bad links, through the focus and through Janus's VideoRoom.

    make quality

Two pages in Chromium and a headless client, each in a network namespace of its own. Ann publishes a camera in three
layers and a microphone, Ben watches her; the headless client, on a good link, talks, and watches, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from playwright.async_api import async_playwright

from .cascade import table
from .cascade_machine import Machine
from .janus import JanusError
from .network import process_cpu
from .quality_cases import Book, Case, cases, results
from .quality_link import Condition
from .quality_network import Network, enter
from .quality_page import Chromium, QualityPage, film
from .quality_targets import ANN, BEN, HEADLESS, Camera, Focus, Janus, Target

LIBRARIES = Path(".cache/libsrtp-openssl")
LATE = 30.0  # milliseconds that the links may be late at most, for a run to count
CAMERA = Camera()
PRESSURE = 0.5  # of the time that some process may have waited for a CPU
TRACE = 0.25  # seconds

Figures = dict[str, float | None]


class Stage:
    """Network and browsers, for all runs."""

    def __init__(self, network: Network, ann: Chromium, ben: Chromium, *, trace: bool) -> None:
        self._network = network
        self._trace = trace
        self._ann, self._ben = ann, ben

    async def play(self, target: Target, case: Case) -> Figures:
        """One run."""
        machine, pressed = Machine(), _pressure()
        good = Condition(case.delay)
        for client in (ANN, BEN, HEADLESS):
            await self._network.set(client, good, good)
        ann, ben = await self._ann.page(), await self._ben.page()
        call = await target.call(ann, ben, self._network.clients[HEADLESS], CAMERA)
        marks = []
        await ben.ask("watch")
        await self._network.count()
        cpu = process_cpu(target.pid)
        counted: Mapping[str, float] = {}
        first: dict[str, Any] = await ann.ask("layers")
        last: dict[str, Any] = first
        for number, phase in enumerate(case.phases):
            marks.append(await ben.ask("now") / 1000)
            await self._network.set(ANN, phase.up, good)
            await self._network.set(BEN, good, phase.down)
            if number == 1:
                call.gaps.reset()
                counted = await target.counters()
                last = await ann.ask("layers")
            await self._wait(phase.seconds, target, ben)
        marks.append(await ben.ask("now") / 1000)
        others = call.gaps.longest * 1000
        sent = {rid: {**layer, "bits": _bits(first.get(rid), layer)} for rid, layer in last.items()}
        book = Book.read(await ben.ask("book"), marks)
        slowed = [rid for rid, layer in (await ann.ask("layers")).items() if layer["qualityLimitationReason"] == "cpu"]
        link, counts = await self._network.count(), await target.counters()
        seconds = sum(phase.seconds for phase in case.phases)
        figures = results(case, book, sent, CAMERA.width)
        figures |= {f"focus_{name}": counts[name] - counted[name] for name in KEPT if name in counts}
        figures |= {
            "others_freeze_ms": others,
            "cpu": (process_cpu(target.pid) - cpu) / seconds,
            "late_ms": link["late_p99_ms"],
            "late_max_ms": link["late_max_ms"],
            "steal": machine.stolen(),
            "busy": machine.others(),
            "pressure": (_pressure() - pressed) / machine.seconds,
        }
        figures["valid"] = float(link["late_p99_ms"] < LATE and not slowed and (figures["pressure"] or 0) < PRESSURE)
        await call.hang_up()
        return figures

    async def _wait(self, seconds: float, target: Target, ben: QualityPage) -> None:
        """Let a phase pass; with `trace`, tell what happens meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._trace and loop.time() + TRACE < until:
            await asyncio.sleep(TRACE)
            link, page = await target.link(), await ben.ask("last")
            print(f"{await ben.ask('now') / 1000:8.2f} {page} {link}", file=sys.stderr)
        await asyncio.sleep(until - loop.time())


KEPT = ("pli_in_total", "pli_out_total", "nack_in_total", "nack_out_total", "rtx_out_total", "layer_switches_total")


def _pressure() -> float:
    """Seconds that some process here was ready to run and had no CPU (the kernel's pressure stall information)."""
    some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    return int(some.rsplit("=", 1)[1]) / 1e6


def _bits(first: Mapping[str, Any] | None, last: Mapping[str, Any]) -> float:
    """Bits per second of a layer between two looks at it."""
    start = first or {"bytesSent": 0, "timestamp": last["timestamp"] - 1000}
    sent, span = last["bytesSent"] - start["bytesSent"], last["timestamp"] - start["timestamp"]
    return float(sent) * 8000 / max(1.0, float(span))


def middle(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs that count; over all if none does."""
    counting = [run for run in runs if run["valid"]] or runs
    found: Figures = {}
    for name in counting[0]:
        values = [run[name] for run in counting]
        known = [value for value in values if value is not None]
        found[name] = median(known) if len(known) * 2 > len(values) else None
    return found | {"valid": float(any(run["valid"] for run in runs)), "runs": float(len(counting))}


COLUMNS = (
    ("kbit/s", "kbit_s", "{:.0f}"),
    ("width", "width", "{:.0f}"),
    ("longest freeze, ms", "freeze_ms", "{:.0f}"),
    ("frozen, ms", "frozen_ms", "{:.0f}"),
    ("concealed, %", "concealed_pct", "{:.2f}"),
    ("down, s", "down_s", "{:.1f}"),
    ("up, s", "up_s", "{:.1f}"),
    ("layer changes", "switches", "{:.0f}"),
    ("key frames asked", "asked", "{:.0f}"),
    ("... of Ann", "focus_pli_out_total", "{:.0f}"),
    ("others' longest gap, ms", "others_freeze_ms", "{:.0f}"),
    ("late p99, ms", "late_ms", "{:.1f}"),
    ("waited for CPUs", "pressure", "{:.0%}"),
    ("runs", "runs", "{:.0f}"),
)


def show(found: Mapping[str, Mapping[str, Figures]]) -> None:
    """One table, the targets beside each other."""
    rows = []
    for case in dict.fromkeys(case for by_case in found.values() for case in by_case):
        for target, by_case in found.items():
            if case not in by_case:
                continue
            figures = by_case[case]
            cells = [form.format(value) if (value := figures.get(key)) is not None else "-" for _, key, form in COLUMNS]
            rows.append((case, target + ("" if figures["valid"] else " (overload)"), *cells))
    table(("case", "through", *(title for title, _, _ in COLUMNS)), rows)


def summary(by_case: Mapping[str, Figures], prefix: str) -> Figures:
    """What the one line of JSON says of a target: the worst of the cases that are meant."""

    def worst(key: str, *names: str) -> float | None:
        values = [by_case[name].get(key) for name in names if name in by_case]
        known = [value for value in values if value is not None]
        return round(max(known), 2) if known and len(known) == len(values) else None

    loss5 = ("loss 5 % up", "loss 5 % down")
    drop, deep = "3 to 0.5 Mbit/s", "3 to 0.15 Mbit/s"
    return {
        f"{prefix}freeze_ms_loss5": worst("freeze_ms", *loss5),
        f"{prefix}concealment_pct_loss5": worst("concealed_pct", *loss5),
        f"{prefix}freeze_ms_drop": worst("freeze_ms", drop),
        f"{prefix}concealment_pct_drop150": worst("concealed_pct", deep),
        f"{prefix}adapt_down_s": worst("down_s", drop),
        f"{prefix}adapt_up_s": worst("up_s", drop, deep),
        f"{prefix}layer_changes_settled": worst("switches", drop, deep),
    }


async def measure(wanted: Sequence[Case], targets: Sequence[Target], runs: int, *, trace: bool) -> dict[str, object]:
    """All cases through all targets."""
    machine = Machine()
    found: dict[str, dict[str, list[Figures]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        camera = folder / "camera.y4m"
        film(camera, CAMERA.width, CAMERA.height, CAMERA.rate)
        async with async_playwright() as playwright:
            network = await Network.start(seed=1)
            ann, ben = (Chromium(network.clients[n], folder, camera) for n in (ANN, BEN))
            try:
                await ann.start(playwright)
                await ben.start(playwright)
                stage = Stage(network, ann, ben, trace=trace)
                for run in range(runs):
                    for target in targets:
                        await target.start()
                        try:
                            for case in wanted:
                                try:
                                    figures = await stage.play(target, case)
                                except (TimeoutError, JanusError) as error:
                                    print(f"run {run + 1}, {target.name}, {case.name}: {error!r}", file=sys.stderr)
                                    continue
                                found.setdefault(target.name, {}).setdefault(case.name, []).append(figures)
                                print(f"run {run + 1}, {target.name}, {case.name}: {_line(figures)}", file=sys.stderr)
                        finally:
                            await target.stop()
            finally:
                for browser in (ann, ben):
                    await browser.stop()
                await network.stop()
    middles = {target: {case: middle(runs) for case, runs in by_case.items()} for target, by_case in found.items()}
    show(middles)
    line: dict[str, object] = {}
    for name, by_case in middles.items():
        line |= summary(by_case, "" if name == Focus.name else "janus_")
    return line | {"runs": runs, "seconds": round(machine.seconds), "steal": round(machine.stolen(), 4)}


def _line(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="the median of so many is reported")
    parser.add_argument("--case", action="append", default=[], help="only cases whose name begins so")
    parser.add_argument("--targets", default="focus,janus")
    parser.add_argument("--quick", action="store_true", help="one short run: shows that it works")
    parser.add_argument("--trace", action="store_true", help="tell on stderr what happens in each run")
    arguments = parser.parse_args()
    seconds, drop_seconds = (6.0, 12.0) if arguments.quick else (12.0, 20.0)
    wanted = [
        case
        for case in cases(seconds, drop_seconds)
        if not arguments.case or any(case.name.startswith(name) for name in arguments.case)
    ]
    if not enter("bench.quality", sys.argv[1:]):
        return
    os.nice(-10)  # what is measured is the network: others on the machine are to disturb little
    libraries = LIBRARIES.resolve() if LIBRARIES.is_dir() else None
    known: dict[str, Target] = {"focus": Focus(), "janus": Janus(libraries)}
    targets = [known[name] for name in arguments.targets.split(",")]
    runs = 1 if arguments.quick else arguments.runs
    print(json.dumps(asyncio.run(measure(wanted, targets, runs, trace=arguments.trace))))


if __name__ == "__main__":
    main()
