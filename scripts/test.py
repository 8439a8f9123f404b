"""Runs every suite to its end, whatever fails, and closes with one summary: what `make test` prints last."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Suite:
    """One test runner: `closing` matches the lines of its output that say how it ended."""

    name: str
    command: tuple[str, ...]
    closing: re.Pattern[str]
    limit: float  # seconds, then it is killed and has failed
    directory: Path = ROOT


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a suite ended: its exit code, its own closing lines, and how many seconds it took."""

    suite: Suite
    code: int
    closing: tuple[str, ...]
    seconds: float


def suites(quick: bool) -> tuple[Suite, ...]:
    """All suites, cheapest first; quick leaves out what needs Synapse, a browser, PostgreSQL or Prometheus."""
    quickly = "not synapse and not browser and not postgresql and not prometheus"
    select = ("-m", quickly if quick else "not packaging")
    return (
        Suite(
            "cargo test",
            ("cargo", "test", "--quiet", "--locked", "--manifest-path", "media/Cargo.toml"),
            re.compile(r"^(test result:|error:).*"),
            limit=900,
        ),
        Suite(
            "vitest",
            ("npm", "test", "--silent"),
            re.compile(r"^\s*(Test Files|Tests)\s+.*"),
            limit=300,
            directory=ROOT / "web",
        ),
        Suite(
            "pytest",
            (sys.executable, "-m", "pytest", *select),
            re.compile(r"^=+ .*(passed|failed|error|no tests ran).* =+$"),
            limit=2700,
        ),
    )


def run(suite: Suite) -> Outcome:
    """Run one suite, show its output as it comes, and keep its closing lines."""
    print(f"\n== {suite.name}: {' '.join(suite.command)}", flush=True)
    started = time.monotonic()
    closing: list[str] = []
    process = subprocess.Popen(
        suite.command,
        cwd=suite.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    assert process.stdout is not None
    previous = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, suite.limit)
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            plain = ESCAPES.sub("", line).rstrip()
            if suite.closing.match(plain):
                closing.append(plain.strip())
        code = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    seconds = time.monotonic() - started
    if code == -signal.SIGKILL:
        closing.append(f"killed after {seconds:.0f} s")
    return Outcome(suite, code, tuple(closing), seconds)


def main() -> int:
    """Run the suites and print the summary; 0 only if all of them passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the tests that need Synapse or a browser")
    outcomes = []
    try:
        for suite in suites(parser.parse_args().quick):
            outcomes.append(run(suite))  # noqa: PERF401 - kept one by one, so that Ctrl-C loses nothing
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    print("\n== summary")
    for outcome in outcomes:
        verdict = "ok" if outcome.code == 0 else f"FAILED (exit {outcome.code})"
        print(f"{outcome.suite.name:<11} {verdict:<17} {outcome.seconds:6.1f} s")
        for line in outcome.closing:
            print(f"            {line}")
    complete = len(outcomes) == len(suites(quick=False))
    return 0 if complete and all(outcome.code == 0 for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
