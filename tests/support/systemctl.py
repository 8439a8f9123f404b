#!/usr/bin/env python3
"""Stands in for systemctl where no systemd runs: starts what a unit file says, as the user that it says, and ends it.

The sandbox that a unit describes has a test of its own (tests/e2e/test_systemd.py).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS, PIDS, LOGS = Path("/etc/systemd/system"), Path("/run"), Path("/var/log")


def options(name: str) -> dict[str, str]:
    """The options of a unit; of those that it has several times, the last."""
    text = (UNITS / f"{name}.service").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def stop(name: str) -> None:
    """SIGTERM, and wait for the end."""
    pid = PIDS / f"{name}.pid"
    if not pid.exists():
        return
    process = int(pid.read_text())
    pid.unlink()
    os.kill(process, signal.SIGTERM)
    for _ in range(300):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise SystemExit(f"{name} does not stop")


def start(name: str) -> None:
    """Start it in the background, its output in a file."""
    unit = options(name)
    command = shlex.split(unit["ExecStart"])
    if "User" in unit:
        user = ["--reuid", unit["User"], "--regid", unit["Group"], "--init-groups", "--no-new-privs"]
        command = ["setpriv", *user, "--bounding-set=-all", "--inh-caps=-all", *command]
    with (LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=unit.get("WorkingDirectory", "/"), stdout=log, stderr=log, start_new_session=True
        )
    (PIDS / f"{name}.pid").write_text(str(process.pid))


def main(arguments: list[str]) -> None:
    """Do what is asked, of what docs/operations.md asks."""
    match arguments:
        case ["daemon-reload"]:
            pass
        case ["restart", name]:
            stop(name)
            start(name)
        case ["enable", "--now", name]:
            start(name)
        case _:
            raise SystemExit(f"systemctl: what is {' '.join(arguments)}?")


if __name__ == "__main__":
    main(sys.argv[1:])
