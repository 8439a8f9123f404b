"""A machine to install things on: this one's file system, with changes that go nowhere and processes that all end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=/,upperdir=$MACHINE/upper,workdir=$MACHINE/work" "$MACHINE/root"
mount --rbind /dev "$MACHINE/root/dev"
mount --rbind /sys "$MACHINE/root/sys"
mount -t proc proc "$MACHINE/root/proc"
exec chroot "$MACHINE/root" /bin/bash -c 'cd "$MACHINE_CWD" && exec "$@"' machine "$@"
"""


def why_not() -> str | None:
    """Why no such machine can be had here; None: it can."""
    if os.geteuid() != 0:
        return "only root can mount"
    if not all(map(shutil.which, ("unshare", "mount", "chroot"))):
        return "unshare, mount or chroot is missing"
    return None


class Machine:
    """An overlay over this machine's root. What one command changes the next one sees, and nobody else."""

    def __init__(self, directory: Path) -> None:
        """`directory` must be on a disk of its own kind, no overlay itself; it is emptied by `close`."""
        self.directory = directory
        for name in ("upper", "work", "root"):
            (directory / name).mkdir(parents=True)
        # What runs under another user there must get at the interpreter, wherever this machine has it.
        self.run(["chmod", "a+rx", "/root"])

    def command(self, arguments: list[str]) -> list[str]:
        """What runs this there, as root, in process and mount namespaces of its own."""
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation", "private"]
        return [*unshare, "/bin/bash", "-c", _ENTER, "enter", *arguments]

    def environment(self, cwd: Path | str, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for `command`: the path, the locale and the package clients' settings of here."""
        kept = ("HOME", "LANG")
        prefixes = ("PIP_", "NPM_", "npm_", "CARGO_", "UV_", "SSL_", "REQUESTS_", "NODE_", "RUSTUP_", "PYENV_")
        settings = {
            name: value
            for name, value in os.environ.items()
            if name in kept or name.startswith(prefixes) or name.lower().endswith("_proxy")
        }
        # The interpreter that made the tests' environment, and not that environment's own programs.
        own = [path for path in os.environ["PATH"].split(os.pathsep) if not Path(path).is_relative_to(sys.prefix)]
        settings["PATH"] = os.pathsep.join(
            ["/usr/local/sbin", str(Path(sys.base_prefix) / "bin"), *own, "/usr/local/bin", "/usr/sbin", "/sbin"]
        )
        return {**settings, "MACHINE": str(self.directory), "MACHINE_CWD": str(cwd), **(more or {})}

    def run(
        self,
        arguments: list[str],
        cwd: Path | str = "/",
        env: Mapping[str, str] | None = None,
        limit: float = 600.0,
    ) -> str:
        """Run a command to its end and return what it printed; raises AssertionError with that if it fails."""
        done = subprocess.run(
            self.command(arguments),
            env=self.environment(cwd, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def spawn(self, arguments: list[str], output: Path, cwd: Path | str = "/") -> subprocess.Popen[bytes]:
        """Run a command beside the test; killing it ends all that it started."""
        with output.open("ab") as log:
            return subprocess.Popen(
                self.command(arguments),
                env=self.environment(cwd),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def path(self, inside: str) -> Path:
        """Where a file that was written there can be read from here."""
        return self.directory / "upper" / inside.lstrip("/")

    def close(self) -> None:
        """Remove all that was changed."""
        shutil.rmtree(self.directory, ignore_errors=True)
