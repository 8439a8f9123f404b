"""`make demo` as a new user meets it: it works, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.synapse, pytest.mark.browser]

ROOT = Path(__file__).parents[2]


async def start(directory: Path, *options: str) -> Process:
    """A demo in a process group of its own, which keeps its files in this directory."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "scripts/demo.py", *options),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )


def left_of(directory: Path) -> list[str]:
    """The processes and files of a demo that are still there."""
    found = [path.name for path in directory.iterdir() if path.name.startswith("mautrix-sfu-demo-")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(directory) in command:
            found.append(command)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short name: Chromium's socket in it may have a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


async def test_the_demos_check_sees_two_pages_in_a_call_and_leaves_nothing(folder: Path) -> None:
    demo = await start(folder, "--check")
    output = (await demo.communicate())[0].decode()
    assert demo.returncode == 0, output
    assert "each sees and hears the other" in output
    assert not left_of(folder)


async def test_ctrl_c_ends_the_demo_and_removes_everything(folder: Path) -> None:
    demo = await start(folder)
    try:
        assert demo.stdout is not None
        said = ""
        async with asyncio.timeout(90):
            while "Ctrl-C stops it" not in said:
                line = await demo.stdout.readline()
                assert line, f"the demo ended:\n{said}"
                said += line.decode()
        running = left_of(folder)
        assert any("mautrix_sfu" in command for command in running)
        assert any("synapse.app.homeserver" in command for command in running)
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to Synapse as well
        async with asyncio.timeout(45):
            rest = (await demo.communicate())[0].decode()
        assert demo.returncode == 0, rest
        assert "Traceback" not in rest
        assert not left_of(folder)
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()
