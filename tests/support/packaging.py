"""Wheels, built as `make wheel` builds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.focus import ROOT


def maturin() -> str:
    """The program, of the environment that the tests run in."""
    found = shutil.which("maturin", path=str(Path(sys.executable).parent))
    assert found is not None
    return found


def build_wheel(source: Path, out: Path, *options: str) -> Path:
    """Build the wheel of a source tree, with the checkout's build folder; raises AssertionError with what was said."""
    env = {name: value for name, value in os.environ.items() if name not in ("CARGO_TARGET_DIR", "PYTHONPATH")}
    env["PATH"] += f"{os.pathsep}{Path.home() / '.cargo/bin'}"
    target = ["--target-dir", str(ROOT / "media/target")]
    done = subprocess.run(
        [maturin(), "build", "--release", "--locked", "--out", str(out), *target, *options],
        cwd=source,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel
