"""Which failures of `make test` are tried again, and what the command says in the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import test as runner
from scripts.test import Outcome, Suite, pytest_suite


def outcome(tmp_path: Path, failed: Sequence[str], code: int = 1, *, real: bool = True, closing: str = "") -> Outcome:
    """How a suite ended, with what pytest remembers of it."""
    name = "real parts" if real else "pytest"
    suite = replace(pytest_suite(name, "synapse", again=real), cache=tmp_path / name)
    remember(suite, failed)
    return Outcome(suite, code, (closing,), 1.0)


def remember(suite: Suite, failed: Sequence[str]) -> None:
    assert suite.cache is not None
    where = suite.cache / "v" / "cache" / "lastfailed"
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps(dict.fromkeys(failed, True)))


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What fails in the second attempt, by suite; what was tried is in it afterwards."""
    still: dict[str, list[str]] = {"failing": [], "tried": []}

    def run(suite: Suite) -> Outcome:
        assert "--last-failed" in suite.command
        assert "-n" not in suite.command, "alone"
        still["tried"].append(suite.name)
        remember(suite, still["failing"])
        return Outcome(suite, 1 if still["failing"] else 0, ("again",), 1.0)

    monkeypatch.setattr(runner, "run", run)
    return still


def test_what_passes_the_second_time_is_named_and_all_is_well(tmp_path: Path, second: dict[str, list[str]]) -> None:
    first = outcome(tmp_path, ["a::one", "a::two"])
    (found,), lucky = runner.try_again([first])
    assert found.code == 0
    assert found.closing == ("", "second attempt: again")
    assert lucky == ["a::one", "a::two"]


def test_what_fails_twice_has_failed(tmp_path: Path, second: dict[str, list[str]]) -> None:
    second["failing"] = ["a::two"]
    (found,), lucky = runner.try_again([outcome(tmp_path, ["a::one", "a::two"])])
    assert found.code == 1
    assert lucky == ["a::one"]


@pytest.mark.parametrize(
    ("failed", "code", "closing"),
    [
        ([f"a::{number}" for number in range(6)], 1, ""),
        ([], 1, ""),
        (["a::one"], 2, ""),
        (["a::one"], -signal.SIGKILL, "killed after 2700 s"),
        (["a::one"], 1, "worker 'gw0' crashed while running 'a::one'"),
    ],
    ids=["many", "none", "interrupted", "killed", "crashed"],
)
def test_what_is_not_bad_luck_is_not_tried_again(
    tmp_path: Path, second: dict[str, list[str]], failed: list[str], code: int, closing: str
) -> None:
    first = outcome(tmp_path, failed, code, closing=closing)
    assert runner.try_again([first]) == ([first], [])
    assert not second["tried"]


def test_a_test_without_real_parts_must_pass_at_once(tmp_path: Path, second: dict[str, list[str]]) -> None:
    outcomes = [outcome(tmp_path, ["b::pure"], real=False), outcome(tmp_path, ["a::one"])]
    assert runner.try_again(outcomes) == (outcomes, [])
    assert not second["tried"]


def test_where_all_passed_nothing_is_tried_again(tmp_path: Path, second: dict[str, list[str]]) -> None:
    outcomes = [outcome(tmp_path, [], 0)]
    assert runner.try_again(outcomes) == (outcomes, [])
    assert not second["tried"]
