"""Debian's Prometheus: its tool for files, and the server itself for a test's own time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_UNPACKED = Path(__file__).parent.parent.parent / ".cache" / "prometheus" / "usr" / "bin"


def program(name: str) -> str:
    """Where a program of Debian's package prometheus is: installed, or unpacked by scripts/prerequisites.sh."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    assert found is not None, f"no {name}: run `scripts/prerequisites.sh test`"
    return found


def promtool(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> str:
    """What promtool has to complain of; it must succeed."""
    done = subprocess.run(
        [program("promtool"), *arguments], input=stdin, capture_output=True, timeout=60, check=False, cwd=cwd
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said
