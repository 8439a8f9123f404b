"""Whatever makes it impossible to go on ends the focus: one clear line, its exit code, no secret, nothing half dead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ruamel.yaml import YAML

from mautrix_sfu.errors import ExitCode
from tests.support.focus import CALL, ROOT, Deployment, FocusProcess
from tests.support.synapse import free_port

AT_ONCE = 45.0  # seconds; on an idle machine it is one, for starting Python

Overrides = Mapping[str, Mapping[str, Any]]


def configured(directory: Path, overrides: Overrides | None = None) -> FocusProcess:
    """A focus whose homeserver is not there: what it stumbles over comes first."""
    directory.mkdir(exist_ok=True)
    patience: Overrides = {"homeserver": {"start_timeout": 60}}
    focus = FocusProcess(directory, f"http://127.0.0.1:{free_port()}", overrides={**patience, **(overrides or {})})
    focus.configure()
    return focus


async def ending(focus: FocusProcess, within: float = AT_ONCE) -> tuple[int, str]:
    """The exit code and the last line, of a focus that ends by itself; nothing that it wrote holds a secret."""
    try:
        code = await focus.wait_ended(within)
    except TimeoutError:
        focus.kill()
        pytest.fail(f"it goes on, after:\n{focus.log_tail()}")
    text = focus.log.read_text()
    for path in (focus.config, focus.registration):
        for name, value in walk(YAML(typ="safe", pure=True).load(path.read_text())):
            assert not name.endswith("_token") or value not in text
    assert "Traceback" not in text, text
    assert "never" not in text, text  # never awaited, never retrieved, never closed
    return code, text.rstrip("\n").rpartition("\n")[2]


def walk(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All options of a file with their names."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from walk(each, str(key))
    else:
        yield name, value


async def start_and_end(focus: FocusProcess, within: float = AT_ONCE) -> tuple[int, str]:
    focus.spawn()
    return await ending(focus, within)


# ---------------------------------------------------------------- before the homeserver is asked anything


async def test_a_taken_udp_port(tmp_path: Path) -> None:
    focus = configured(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", focus.udp_port))
        code, line = await start_and_end(focus)
    assert code == ExitCode.PORT_TAKEN
    where = f"127.0.0.1, UDP port {focus.udp_port}"
    assert line == f"media.addresses and media.port: cannot listen on {where}: another program listens there"


@pytest.mark.parametrize("section", ["appservice", "http", "metrics"])
async def test_a_taken_tcp_port(tmp_path: Path, section: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = await start_and_end(configured(tmp_path, {section: {"port": port}}))
    assert code == ExitCode.PORT_TAKEN
    assert f"{section}.port" in line
    assert f"127.0.0.1, TCP port {port}: another program listens there" in line


async def test_a_database_that_another_focus_uses(tmp_path: Path) -> None:
    database = {"database": {"url": f"sqlite:///{tmp_path / 'focus.db'}"}}
    first, second = (configured(tmp_path / name, database) for name in ("first", "second"))
    first.spawn()
    try:
        async with asyncio.timeout(AT_ONCE):
            while not (tmp_path / "focus.db-wal").exists():
                await asyncio.sleep(0.05)
        code, line = await start_and_end(second)
    finally:
        first.kill()
    assert code == ExitCode.DATABASE_LOCKED
    assert line.startswith(f"database {tmp_path / 'focus.db'}: in use by another process")


async def test_a_database_that_another_program_locks(tmp_path: Path) -> None:
    focus = configured(tmp_path)
    other = sqlite3.connect(tmp_path / "focus.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        code, line = await start_and_end(focus, AT_ONCE)
    finally:
        other.close()
    assert code == ExitCode.DATABASE_LOCKED
    assert line.startswith(f"database {tmp_path / 'focus.db'}: locked by another program")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    focus = configured(tmp_path)
    (tmp_path / "focus.db").write_bytes(b"no database at all\n" * 1000)
    code, line = await start_and_end(focus)
    assert (code, line.partition(" (")[0]) == (
        ExitCode.DATABASE_UNREACHABLE,
        f"database {tmp_path / 'focus.db'}: is not an SQLite database",
    )


async def test_a_database_server_that_is_not_there(tmp_path: Path) -> None:
    where = f"127.0.0.1:{free_port()}"
    focus = configured(tmp_path, {"database": {"url": f"postgresql://focus:hush-hush@{where}/sfu"}})
    code, line = await start_and_end(focus)
    assert code == ExitCode.DATABASE_UNREACHABLE
    assert line.startswith(f"database sfu on {where}: cannot be reached (")
    assert "hush" not in focus.log.read_text()


async def test_an_old_schema_when_it_may_not_migrate(tmp_path: Path) -> None:
    code, line = await start_and_end(configured(tmp_path, {"database": {"migrate": False}}))
    assert code == ExitCode.DATABASE_SCHEMA
    assert "run `mautrix-sfu --migrate -c config.yaml`" in line


async def test_wrong_options_are_a_line_each(tmp_path: Path) -> None:
    focus = configured(tmp_path)
    text = focus.config.read_text()
    focus.config.write_text(text.replace(f"port: {focus.udp_port}", "port: everywhere"))
    code, line = await start_and_end(focus)
    assert code == ExitCode.CONFIG
    assert line == f"{focus.config}: media.port: expected a port number from 1 to 65535, not 'everywhere'"
    assert focus.log.read_text().count("\n") == 1


async def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    focus = configured(tmp_path)
    focus.config.rename(tmp_path / "elsewhere.yaml")
    command = [sys.executable, "-m", "mautrix_sfu", "-c", str(focus.config)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr.startswith(f"{focus.config}: no such file")
    assert done.stderr.count("\n") == 1


async def test_a_homeserver_that_does_not_come(tmp_path: Path) -> None:
    focus = configured(tmp_path, {"homeserver": {"start_timeout": 1}})
    code, line = await start_and_end(focus, AT_ONCE)
    assert code == ExitCode.HOMESERVER_UNREACHABLE
    assert line.startswith(f"the homeserver at {focus.homeserver} did not answer for 1 s: ")


async def test_it_can_be_told_to_stop_while_it_waits_for_the_homeserver(tmp_path: Path) -> None:
    focus = configured(tmp_path)
    focus.spawn()
    async with asyncio.timeout(AT_ONCE):
        while "does not answer yet" not in focus.log_tail():
            await asyncio.sleep(0.05)
    os.kill(focus.pid, signal.SIGTERM)
    code, _ = await ending(focus)
    assert code == 0


# ---------------------------------------------------------------- another copy of the program


def copied_program(directory: Path) -> None:
    """The package and as much of its sources as makes it a checkout, for a test to spoil."""
    skip = shutil.ignore_patterns("__pycache__", "page")
    shutil.copytree(ROOT / "mautrix_sfu", directory / "mautrix_sfu", ignore=skip)


async def test_a_media_core_that_was_built_from_other_sources(tmp_path: Path) -> None:
    copied_program(tmp_path)
    shutil.copytree(ROOT / "media" / "src", tmp_path / "media" / "src")
    for name in ("Cargo.toml", "build.rs"):
        shutil.copy(ROOT / "media" / name, tmp_path / "media")
    with (tmp_path / "media" / "src" / "lib.rs").open("a") as sources:
        sources.write("// changed\n")
    focus = configured(tmp_path / "state")
    focus.root = tmp_path
    code, line = await start_and_end(focus)
    assert code == ExitCode.MEDIA_FAILED
    assert "the media core was built from other sources than those in media/: run `make build`" in line


async def test_a_page_that_was_not_built_is_named_and_everything_else_works(tmp_path: Path) -> None:
    copied_program(tmp_path)
    focus = configured(tmp_path / "state")
    focus.root = tmp_path
    focus.spawn()
    try:
        async with aiohttp.ClientSession() as http:
            async with asyncio.timeout(AT_ONCE):
                while True:
                    try:
                        page = await http.get(focus.address)
                        break
                    except aiohttp.ClientConnectionError:
                        await asyncio.sleep(0.05)
            assert page.status == 404
            assert "The call page is not built" in await page.text()
            assert (await http.get(focus.address + "health")).status == 200
    finally:
        focus.stop()
    assert focus.exit_code == 0


# ---------------------------------------------------------------- while it runs

# Loses its UDP socket at SIGUSR1, as a panic in the media thread would: both end the thread, and come out one way.
LOSE_THE_SOCKET = """
import os, signal, socket, sys
from mautrix_sfu.__main__ import main

def lose(*_):
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as found:
                udp = (found.family, found.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        except OSError:
            continue
        if udp:
            os.dup2(os.open(os.devnull, os.O_RDWR), int(name))

signal.signal(signal.SIGUSR1, lose)
sys.exit(main())
"""


@pytest.mark.synapse
async def test_a_media_thread_that_fails_ends_it_all(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.focus.program = ("-c", LOSE_THE_SOCKET)
    try:
        await deployment.start()
        os.kill(deployment.focus.pid, signal.SIGUSR1)
        code, line = await ending(deployment.focus)
    finally:
        await deployment.stop()
    assert code == ExitCode.MEDIA_FAILED
    assert line.startswith("the media core failed: the media thread lost its socket: ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(path: Path) -> None:
    """Leave no room on the file system."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass


@pytest.mark.synapse
async def test_a_disk_that_fills_up_while_it_runs(tmp_path: Path, small_disk: Path) -> None:
    deployment = Deployment(tmp_path, {"database": {"url": f"sqlite:///{small_disk / 'focus.db'}"}})
    try:
        await deployment.start()
        alice = await deployment.synapse.register_user("alice")
        fill(small_disk / "everything-else")
        room = await alice.create_room()
        for number in range(40):  # what is left in pages that SQLite has already is used up first
            await alice.send_state(room, CALL, f"call-{number}", {"m.intent": "m.room", "m.name": "x" * 2000})
        code, line = await ending(deployment.focus)
    finally:
        await deployment.stop()
    assert code == ExitCode.DISK_FULL
    assert line.startswith(f"database {small_disk / 'focus.db'}: the disk is full")


@pytest.mark.synapse
async def test_a_token_that_the_homeserver_no_longer_takes(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    try:
        await deployment.start()
        await deployment.synapse.stop()
        registration = deployment.focus.registration
        kept = registration.read_text()
        token = dict(walk(YAML(typ="safe", pure=True).load(kept)))["as_token"]
        registration.write_text(kept.replace(token, "another-token-altogether"))
        await deployment.synapse.start()
        began = time.monotonic()
        code, line = await ending(deployment.focus, AT_ONCE)
        assert time.monotonic() - began < AT_ONCE
        assert code == ExitCode.TOKEN_REFUSED
        assert line.startswith("the homeserver refuses the as_token (M_UNKNOWN_TOKEN): is this focus's registration")
        assert token not in deployment.focus.log.read_text()
        code, line = await start_and_end(deployment.focus)  # and it does not start again either
        assert code == ExitCode.TOKEN_REFUSED
        assert line.startswith("the homeserver refuses the as_token (M_UNKNOWN_TOKEN)")
    finally:
        await deployment.stop()
