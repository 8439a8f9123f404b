"""A real PostgreSQL of Debian's: a cluster of its own in a temporary directory, stopped and started by tests."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import asyncpg

from tests.support.certificates import make_certificate
from tests.support.focus import guarded
from tests.support.synapse import free_port

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
USER, PASSWORD = "focus", "s3cret-of-the-database"


def binaries() -> Path:
    """Where the newest server of this machine is; Debian does not put it on the path."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which("postgres")
    if path is None:
        raise FileNotFoundError("no PostgreSQL server: scripts/prerequisites.sh test says what installs it")
    return Path(path).parent


class Postgres:
    """One server. It listens on a port of 127.0.0.1 and asks for passwords; its files go with it.

    With names it takes TLS connections, too, with a certificate for these.
    """

    def __init__(self, *names: str) -> None:
        self._bin = binaries()
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))  # its socket is here too
        self._data = self.directory / "data"
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        if os.geteuid() == 0:  # the server refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        self.certificate: Path | None = None
        self._key: Path | None = None
        if names:
            self.certificate, self._key = make_certificate(self.directory, *names)
            shutil.chown(self._key, self.directory.stat().st_uid, self.directory.stat().st_gid)
            self._key.chmod(0o600)

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it and remove its files."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop(signal.SIGQUIT)  # nobody needs its files again
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _unprivileged(self, *command: str) -> list[str]:
        if os.geteuid() != 0:
            return list(command)
        nobody = pwd.getpwnam("nobody")
        return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *command]

    def _initialise(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ["-D", str(self._data), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password)]
        command = [str(self._bin / "initdb"), *options, "-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            self._unprivileged(*command), cwd=self.directory, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        """Have it run, and take connections; raises RuntimeError with its log."""
        if not self._runs():
            self._spawn()
        self._wait_ready()

    async def start_again(self) -> None:
        """The same, from an event loop that must go on."""
        if not self._runs():
            self._spawn()  # not in a thread of its own: the server would be killed at the thread's end
        await asyncio.to_thread(self._wait_ready)

    async def stop_meanwhile(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it, from an event loop that must go on."""
        await asyncio.to_thread(self.stop, how)

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _spawn(self) -> None:
        settings: dict[str, object] = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "fsync": "off",
        }
        if self._key is not None:
            settings |= {"ssl": "on", "ssl_cert_file": self.certificate, "ssl_key_file": self._key}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = self._unprivileged(str(self._bin / "postgres"), "-D", str(self._data), *options)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(guarded(command), cwd=self.directory, stdout=log, stderr=log)

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while subprocess.run(
            [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends sessions in order ("fast"), SIGQUIT at once, without a checkpoint ("immediate")."""
        if self._process is not None and self._runs():
            self._process.send_signal(how)
            self._process.wait(STOP_TIMEOUT)

    # ------------------------------------------------------------ its databases

    def url(self, database: str, user: str = USER, password: str = PASSWORD) -> str:
        """The address of a database as a configuration has it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    async def create(self) -> str:
        """A new database; its address."""
        name = f"test_{secrets.token_hex(4)}"
        await self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    async def execute(self, database: str, *statements: str) -> None:
        """Execute statements, each by itself, as another program would."""
        connection = await asyncpg.connect(self.url(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()
