"""Runs every suite to its end, whatever fails, and closes with one summary: what `make test` prints last.

A few tests with real parts that failed are tried again at the end, alone: docs/architecture.md says why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
CACHES = ROOT / ".pytest_cache"
REAL_PARTS = ("synapse", "browser", "postgresql", "prometheus")  # the markers of tests that start some
MOST_TRIED_AGAIN = 5  # tests: more that fail at once are not this machine's fault
PYTEST_CLOSING = re.compile(r"^=+ .*(passed|failed|error|no tests ran).* =+$|^.*worker '.*' crashed.*$")
TESTS_FAILED = 1  # pytest's exit code for that and nothing else


@dataclass(frozen=True, slots=True)
class Suite:
    """One test runner: `closing` matches the lines of its output that say how it ended."""

    name: str
    command: tuple[str, ...]
    closing: re.Pattern[str]
    limit: float  # seconds, then it is killed and has failed
    directory: Path = ROOT
    cache: Path | None = None  # where pytest remembers what failed
    again: tuple[str, ...] = ()  # what tries that again; nothing: it must pass at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a suite ended: its exit code, its own closing lines, and how many seconds it took."""

    suite: Suite
    code: int
    closing: tuple[str, ...]
    seconds: float


def suites(quick: bool) -> tuple[Suite, ...]:
    """All suites, cheapest first; quick leaves out what needs Synapse, a browser, PostgreSQL or Prometheus."""
    real = " or ".join(REAL_PARTS)
    cores = os.cpu_count() or 2
    pure = (
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
        pytest_suite("pytest", f"not ({real}) and not packaging", workers=cores),
    )
    if quick:
        return pure
    return (
        *pure,
        # They wait more than they compute, so there may be one more of them than processors.
        pytest_suite("real parts", f"({real}) and not alone and not packaging", workers=cores + 1, again=True),
        pytest_suite("alone", f"({real}) and alone and not packaging", again=True),
    )


def pytest_suite(name: str, select: str, workers: int = 0, again: bool = False) -> Suite:
    """The tests that a marker expression selects: in so many processes, a module in one of them."""
    cache = CACHES / name.replace(" ", "-")
    command = (sys.executable, "-m", "pytest", "-m", select, "-o", f"cache_dir={cache}")
    spread = ("-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder") if workers else ()
    last_failed = ("--last-failed", "--last-failed-no-failures", "none")
    return Suite(
        name,
        (*command, *spread),
        PYTEST_CLOSING,
        limit=2700,
        cache=cache,
        again=(*command, *last_failed) if again else (),
    )


def run(suite: Suite) -> Outcome:
    """Run one suite, show its output as it comes, and keep its closing lines."""
    print(f"\n== {suite.name}: {' '.join(suite.command)}", flush=True)
    if suite.cache is not None and suite.command != suite.again:
        shutil.rmtree(suite.cache, ignore_errors=True)  # of another run
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


def failed_tests(suite: Suite) -> frozenset[str]:
    """The ids of the tests of a suite that failed when they ran last."""
    found = suite.cache and suite.cache / "v" / "cache" / "lastfailed"
    return frozenset(json.loads(found.read_text())) if found and found.exists() else frozenset()


def try_again(outcomes: list[Outcome]) -> tuple[list[Outcome], list[str]]:
    """Run the few tests with real parts that failed once more, where a second failure can be told from bad luck.

    Returns the outcomes, with those that are all right now in the place of the first, and the tests that passed.
    """
    failing = [outcome for outcome in outcomes if outcome.code != 0]
    tests = {outcome.suite.name: failed_tests(outcome.suite) for outcome in failing}
    count = sum(map(len, tests.values()))
    if not all(may_be_bad_luck(outcome) for outcome in failing) or not 0 < count <= MOST_TRIED_AGAIN:
        return outcomes, []
    passed: list[str] = []
    for outcome in failing:
        again = run(replace(outcome.suite, command=outcome.suite.again))
        still = failed_tests(outcome.suite)
        passed += sorted(tests[outcome.suite.name] - still)
        both = replace(outcome, code=again.code, seconds=outcome.seconds + again.seconds)
        closing = (*outcome.closing, *(f"second attempt: {line}" for line in again.closing))
        outcomes = [replace(both, closing=closing) if each is outcome else each for each in outcomes]
    return outcomes, passed


def may_be_bad_luck(outcome: Outcome) -> bool:
    """Whether nothing but tests with real parts failed."""
    crashed = any("crashed" in line for line in outcome.closing)
    return bool(outcome.suite.again) and outcome.code == TESTS_FAILED and not crashed


def main() -> int:
    """Run the suites and print the summary; 0 only if all of them passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the tests that need Synapse or a browser")
    wanted = suites(parser.parse_args().quick)
    outcomes: list[Outcome] = []
    lucky: list[str] = []
    try:
        for suite in wanted:
            outcomes.append(run(suite))  # noqa: PERF401 - kept one by one, so that Ctrl-C loses nothing
        outcomes, lucky = try_again(outcomes)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    print("\n== summary")
    for outcome in outcomes:
        verdict = "ok" if outcome.code == 0 else f"FAILED (exit {outcome.code})"
        print(f"{outcome.suite.name:<11} {verdict:<17} {outcome.seconds:6.1f} s")
        for line in outcome.closing:
            print(f"            {line}")
    for test in lucky:
        print(f"PASSED ONLY IN THE SECOND ATTEMPT: {test}")
    complete = len(outcomes) == len(wanted)
    return 0 if complete and all(outcome.code == 0 for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
