#!/usr/bin/env python3
"""Installs the Synapse that the tests and the demo run, from PyPI into a virtual environment of its own."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "1.163.2"
CACHE = Path(__file__).resolve().parent.parent / ".cache"
ENVIRONMENT = CACHE / "synapse-venv"
STAMP = ENVIRONMENT / ".installed"


def ensure_synapse() -> Path:
    """Return the Python that has Synapse, installing it first where it is missing (about a minute).

    Raises SystemExit with what pip said if it cannot be installed.
    """
    python = ENVIRONMENT / "bin" / "python"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "synapse.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once: the second one waits
        if STAMP.exists() and STAMP.read_text() == VERSION:
            return python
        print(
            f"installing Synapse {VERSION} into {ENVIRONMENT.relative_to(CACHE.parent)} (once, a minute or two) ...",
            flush=True,
        )
        venv.create(ENVIRONMENT, with_pip=True, clear=True, symlinks=True)
        result = subprocess.run(
            [python, "-m", "pip", "install", "--disable-pip-version-check", f"matrix-synapse=={VERSION}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise SystemExit(f"Synapse could not be installed:\n{result.stdout[-2000:]}")
        STAMP.write_text(VERSION)
        print("Synapse is installed", flush=True)
    return python


if __name__ == "__main__":
    print(ensure_synapse())
    sys.exit(0)
