"""The command line does what operators of mautrix bridges expect, and says what is wrong in one line each."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from mautrix_sfu import __version__
from mautrix_sfu.__main__ import main
from mautrix_sfu.config import Config, example_text
from mautrix_sfu.errors import ExitCode, FatalError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> Path:
    """The example, with what its operator must fill in."""
    path = folder / "config.yaml"
    text = (
        example_text()
        .replace("https://matrix.example.com", "https://m.example.org")
        .replace("domain: example.com", "domain: example.org")
    )
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def registered(config: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["-g"]) == 0
    capsys.readouterr()
    return config


Run = Callable[[Config], int]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Run], None]]:
    """Puts a function in the place of the whole program behind the command line."""
    root, levels = logging.getLogger(), (logging.getLogger().level, list(logging.getLogger().handlers))

    def put(run: Run) -> None:
        module = ModuleType("mautrix_sfu.app")
        module.run = lambda config, path: run(config)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mautrix_sfu.app", module)
        monkeypatch.setattr("mautrix_sfu.app", module, raising=False)

    yield put
    root.setLevel(levels[0])
    root.handlers[:] = levels[1]


def yaml(path: Path) -> Any:
    return dict(YAML(typ="safe", pure=True).load(path.read_text()))


def test_the_example_is_written_and_never_over_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-e"]) == 0
    path = folder / "config.yaml"
    assert path.read_text() == example_text()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("mine")
    assert main(["-e"]) == ExitCode.CONFIG
    assert path.read_text() == "mine"
    assert capsys.readouterr().err == "config.yaml: exists already and is left alone\n"


def test_without_a_configuration_it_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", "other.yaml"]) == ExitCode.CONFIG
    error = capsys.readouterr().err
    assert error.startswith("other.yaml: no such file; write the example there with `mautrix-sfu -e -c other.yaml`")
    assert error.count("\n") == 1


def test_the_registration_gets_the_tokens_that_the_configuration_gets(config: Path) -> None:
    assert main(["-g", "-r", "reg.yaml"]) == 0
    registration, kept = yaml(config.parent / "reg.yaml"), yaml(config)["appservice"]
    assert (registration["as_token"], registration["hs_token"]) == (kept["as_token"], kept["hs_token"])
    assert kept["as_token"] != kept["hs_token"]
    assert config.stat().st_mode & 0o777 == 0o600
    assert (config.parent / "reg.yaml").stat().st_mode & 0o007 == 0


def test_generating_again_makes_new_tokens_and_with_n_keeps_them(registered: Path) -> None:
    first = yaml(registered)["appservice"]["as_token"]
    text = registered.read_text()
    assert main(["-g", "-n"]) == 0
    assert registered.read_text() == text
    assert yaml(registered.parent / "registration.yaml")["as_token"] == first
    assert main(["-g"]) == 0
    second = yaml(registered)["appservice"]["as_token"]
    assert second != first
    assert yaml(registered.parent / "registration.yaml")["as_token"] == second


def test_generating_needs_to_know_the_homeserver_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-e"])
    assert main(["-g"]) == ExitCode.CONFIG
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "homeserver.address",
        "homeserver.domain",
    ]
    assert not (folder / "registration.yaml").exists()


def test_a_start_brings_new_options_into_the_file(registered: Path, app: Callable[[Run], None]) -> None:
    text = registered.read_text().replace("    threads: null\n", "    # my note\n")
    registered.write_text(text)
    started: list[Config] = []

    def start(config: Config) -> int:
        started.append(config)
        return 0

    app(start)
    assert main(["-n"]) == 0
    assert registered.read_text() == text
    assert main([]) == 0
    assert "    threads: null\n" in registered.read_text()
    assert "    # my note\n" in registered.read_text()
    assert started[0] == started[1]
    assert started[0].media.threads is None


def test_a_file_that_may_not_be_written_is_used_as_it_is(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered.write_text(registered.read_text().replace("    threads: null\n", ""))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mautrix_sfu.config.file.tempfile.mkstemp", refuse)
    app(lambda config: 0 if config.media.threads is None else 1)
    assert main([]) == 0
    assert "config.yaml: new options could not be written: Permission denied" in capsys.readouterr().err


def test_unknown_options_are_warned_of(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    registered.write_text(registered.read_text().replace("    threads: null", "    threds: null"))
    app(lambda _: 0)
    assert main(["-n"]) == 0
    assert "media.threds: unknown option, ignored; did you mean media.threads?" in capsys.readouterr().err


def test_every_wrong_option_is_a_line_and_nothing_is_started_or_written(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    text = registered.read_text().replace("port: 29342", "port: no").replace("threads: null", "threads: 0")
    text = text.replace("    migrate: true\n", "")
    registered.write_text(text)
    app(lambda _: pytest.fail("started"))
    assert main([]) == ExitCode.CONFIG
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["media.port", "media.threads"]
    assert registered.read_text() == text


def test_a_wrong_logging_section_is_one_line(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    registered.write_text(registered.read_text().replace("class: logging.StreamHandler", "class: nonsense.Handler"))
    app(lambda _: pytest.fail("started"))
    assert main([]) == ExitCode.CONFIG
    error = capsys.readouterr().err
    assert error.startswith("config.yaml: logging: ")
    assert error.count("\n") == 1


def test_what_ends_the_program_is_one_line_and_its_exit_code(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Config) -> int:
        raise FatalError("database x: the disk is full", ExitCode.DISK_FULL)

    app(fail)
    assert main([]) == ExitCode.DISK_FULL
    assert capsys.readouterr().err == "database x: the disk is full\n"


def test_an_interrupt_ends_it_without_a_word(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Config) -> int:
        raise KeyboardInterrupt

    app(interrupted)
    assert main([]) == 130
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_program_is_logged_with_where_it_was(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    app(lambda _: 1 // 0)
    assert main([]) == ExitCode.INTERNAL
    error = capsys.readouterr().err
    assert "a fault of this program" in error
    assert "ZeroDivisionError" in error


def test_tokens_never_reach_the_log(
    registered: Path, app: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = [yaml(registered)["appservice"][name] for name in ("as_token", "hs_token")]

    def talk(config: Config) -> int:
        logging.getLogger("mautrix_sfu").warning("%s %r", config, config)
        return 0

    app(talk)
    assert main([]) == 0
    error = capsys.readouterr().err
    assert "SFU1" in error
    assert not any(token in error for token in tokens)


def test_the_schema_can_be_migrated_by_hand(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--migrate"]) == 0
    assert capsys.readouterr().out == "The schema of database mautrix-sfu.db is up to date\n"
    assert (config.parent / "mautrix-sfu.db").exists()


def test_it_runs_as_a_module(folder: Path) -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "mautrix_sfu", "--version"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mautrix-sfu {__version__}\n", "")
