"""The systemd unit: systemd takes it, its sandbox is tight, and calls work in it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mautrix_sfu.config import example_text
from mautrix_sfu.config.options import load_yaml
from tests.support import sandbox
from tests.support.calls import Call
from tests.support.focus import ROOT, Deployment

UNIT = ROOT / "contrib/systemd/mautrix-sfu.service"
# fmt: off
ONLY_SYSTEMDS = {
    "Description", "Wants", "After", "Type", "User", "Group", "StateDirectory", "StateDirectoryMode",
    "WorkingDirectory", "ExecStart", "ExecReload", "KillMode", "TimeoutStopSec", "Restart", "RestartSec",
    "RestartPreventExitStatus", "ProtectHome", "PrivateTmp", "PrivateDevices", "DevicePolicy", "PrivateUsers",
    "ProtectProc", "ProtectClock", "ProtectHostname", "ProtectControlGroups", "ProtectKernelLogs",
    "ProtectKernelModules", "ProtectKernelTunables", "LockPersonality", "RemoveIPC", "RestrictNamespaces",
    "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "WantedBy",
}
# fmt: on
EXPOSURE = 1.5  # of 10, as systemd-analyze counts; 9 and more is a service without any sandbox
PROBE = """
import os, socket
def refused(what, *arguments):
    try:
        what(*arguments)
    except (OSError, ValueError):
        return
    raise SystemExit(f"{what} {arguments} was not refused")
refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
refused(os.chroot, "/")
refused(open, "/etc/mautrix-sfu-probe", "w")
refused(os.nice, -1)
status = open("/proc/self/status").read()
assert "CapEff:\\t0000000000000000" in status, status
assert "NoNewPrivs:\\t1" in status, status
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
open("written", "w").close()
assert os.stat("written").st_mode & 0o777 == 0o600
"""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is missing")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)


def test_systemd_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/mautrix-sfu/bin/mautrix-sfu", "/bin/true"))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_sandbox_is_tight() -> None:
    done = analyze("security", "--offline=yes", "--no-pager", str(UNIT))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE


def test_every_option_is_one_that_is_exercised_or_that_only_systemd_has() -> None:
    assert {name for name, _ in sandbox.options(UNIT)} == sandbox.EXERCISED | ONLY_SYSTEMDS


def test_systemd_waits_for_a_drain_to_end() -> None:
    (waits,) = [int(value) for name, value in sandbox.options(UNIT) if name == "TimeoutStopSec"]
    default = load_yaml(example_text())["drain"]["deadline"]
    assert waits >= default + 15


def sandboxed(folder: Path) -> tuple[str, ...]:
    if (reason := sandbox.why_not()) is not None:
        pytest.skip(reason)
    return ("-m", "tests.support.sandbox", str(UNIT), "--writable", str(folder), "--")


def test_the_stand_in_for_the_sandbox_refuses_what_it_should(tmp_path: Path) -> None:
    command = [sys.executable, *sandboxed(tmp_path)]
    inside = f"import os; os.chdir({str(tmp_path)!r})\n{PROBE}"
    done = subprocess.run(
        [*command, sys.executable, "-c", inside], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Call]:
    deployment = Deployment(tmp_path)
    deployment.focus.program = (*sandboxed(tmp_path), sys.executable, "-m", "mautrix_sfu")
    try:
        await deployment.start()
        async with Call(deployment) as made:
            yield made
    finally:
        await deployment.stop()


@pytest.mark.synapse
async def test_calls_work_in_the_units_sandbox(call: Call) -> None:
    focus = call.deployment.focus
    alice, bob = await call.joined("alice", "bob")
    await bob.until(lambda: bob.video_of(alice).packets > 50)
    os.kill(focus.pid, signal.SIGHUP)  # ExecReload
    await alice.leave()
    await bob.leave()
    await asyncio.to_thread(focus.stop)
    assert focus.exit_code == 0
    assert "Traceback" not in focus.log_tail()
    assert "Operation not permitted" not in focus.log_tail()
    await focus.start()  # on the database that it left
    await call.join(alice, bob)
