"""The focus as a process of its own beside a real Synapse: configured, started, killed and looked at by tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from mautrix_sfu.core.ids import Device, DeviceId, UserId
from tests.support.synapse import Client, Synapse, TlsListener, free_port

ROOT = Path(__file__).parents[2]
READY_TIMEOUT = 90.0
STOP_TIMEOUT = 10.0
DRAINS_AFTER = 3.0  # seconds: it waits for calls to end, unless it is told again
ADMIN = "admin"  # localpart of who may command the bot
CALL = "org.matrix.msc3401.call"
CALL_MEMBER = "org.matrix.msc3401.call.member"


def guarded(command: list[str]) -> list[str]:
    """A command that does not outlive what starts it, where the system can see to that."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else command


class FocusProcess:
    """One configured focus; it can be started again after it ended or was killed."""

    def __init__(
        self,
        directory: Path,
        homeserver: str,
        domain: str = "localhost",
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        page_port: int | None = None,
    ) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.registration = directory / "registration.yaml"
        self.log = directory / "focus.log"
        self.udp_port = free_port(socket.SOCK_DGRAM)
        self.device = Device(UserId(f"@sfu:{domain}"), DeviceId("SFU1"))
        self.page_port = page_port or free_port()
        self.address = f"http://127.0.0.1:{self.page_port}/"
        self.homeserver, self._domain = homeserver, domain
        self.appservice_port = free_port()
        self.inside: tuple[str, ...] = ()  # put before its command: where it lives (tests/support/namespaces.py)
        self.program: tuple[str, ...] = ("-m", "mautrix_sfu")  # what Python runs, and where
        self.root = ROOT
        self._overrides = overrides or {}
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self) -> None:
        """Write the configuration and have the focus generate its registration; raises RuntimeError."""
        appservice = self.appservice_port
        config: dict[str, Any] = {
            "homeserver": {"address": self.homeserver, "domain": self._domain},
            "appservice": {"address": f"http://127.0.0.1:{appservice}", "port": appservice},
            "database": {"url": f"sqlite:///{self.directory / 'focus.db'}"},
            "media": {"port": self.udp_port, "addresses": ["127.0.0.1"]},
            "http": {"port": self.page_port, "page_homeserver": self.homeserver},
            "metrics": {"port": 0},
            "drain": {"deadline": 0},
            "bot": {"permissions": {"*": "use", f"@{ADMIN}:{self._domain}": "admin"}},
        }
        for section, options in self._overrides.items():
            config[section] = {**config.get(section, {}), **options}
        with self.config.open("w") as file:
            YAML().dump(config, file)
        command = [*self._command(), "-g", "-r", str(self.registration)]
        result = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"the registration could not be generated:\n{result.stdout}{result.stderr}")

    def edit(self, section: str, **options: Any) -> None:
        """Change its configuration for the next start."""
        yaml = YAML()
        config = yaml.load(self.config)
        config[section] = {**config.get(section, {}), **options}
        with self.config.open("w") as file:
            yaml.dump(config, file)

    async def reload(self) -> str:
        """Have it read its configuration again; what it logs of that."""
        since = len(self.log.read_text(errors="replace"))
        os.kill(self.pid, signal.SIGHUP)
        return await self.logged("reloaded", since)

    async def logged(self, words: str, since: int = 0, within: float = 30.0) -> str:
        """What it has logged from some length of the log on, once these words are in it."""
        async with asyncio.timeout(within):
            while words not in (text := self.log.read_text(errors="replace")[since:]):
                await asyncio.sleep(0.02)
        return text

    async def not_ready(self) -> list[str]:
        """Why it does not take new calls; nothing: it does."""
        async with aiohttp.ClientSession() as http, http.get(self.address + "ready") as response:
            return list((await response.json())["reasons"])

    async def start(self) -> None:
        """Start it and wait until it says that it is ready; raises RuntimeError with its log."""
        self.spawn()
        deadline = time.monotonic() + READY_TIMEOUT
        while (reasons := await self._not_ready()) is not None:
            if self.exit_code is not None:
                raise RuntimeError(f"the focus ended with exit code {self.exit_code}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the focus is not ready after {READY_TIMEOUT:g} s: {reasons}\n{self.log_tail()}")
            await asyncio.sleep(0.05)

    def spawn(self) -> None:
        """Start it without waiting for anything."""
        command = guarded([*self.inside, *self._command(), "-n"])
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log, start_new_session=True)

    def _command(self) -> list[str]:
        return [sys.executable, *self.program, "-c", str(self.config)]

    async def _not_ready(self) -> str | None:
        try:
            return None if await self.get("ready") else "not ready"
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error)

    async def get(self, path: str) -> str:
        """The body of one of its pages; raises aiohttp.ClientError, for an error status too."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(self.address + path) as response:
            response.raise_for_status()
            return await response.text()

    async def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """All samples of this name in /metrics: labels and value."""
        families = text_string_to_metric_families(await self.get("metrics"))
        return [
            (dict(sample.labels), float(sample.value))
            for family in families
            for sample in family.samples
            if sample.name == name
        ]

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 for one that is not there (yet)."""
        fitting = (value for found, value in await self.samples(name) if labels.items() <= found.items())
        return next(fitting, 0.0)

    async def total(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(value for _, value in await self.samples(name))

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs or was never started."""
        return self._process.poll() if self._process else None

    @property
    def pid(self) -> int:
        """The process id of the running focus."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """Ask it to stop, a second time if it drains, and make sure of it."""
        for patience in (DRAINS_AFTER, STOP_TIMEOUT):
            if self._process is None or self._process.poll() is not None:
                return
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.kill()

    async def wait_ended(self, within: float) -> int:
        """Its exit code; raises TimeoutError if it does not end."""
        assert self._process is not None
        async with asyncio.timeout(within):
            while (code := self._process.poll()) is None:
                await asyncio.sleep(0.05)
        return code

    def log_tail(self, characters: int = 3000) -> str:
        """The end of what it logged."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""


class Deployment:
    """A Synapse, alone or federated, and a focus that is registered with it."""

    def __init__(
        self,
        directory: Path,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        federation: TlsListener | None = None,
    ) -> None:
        port = free_port()
        domain = federation.server_name if federation else "localhost"
        self.focus = FocusProcess(directory, f"http://127.0.0.1:{port}", domain, overrides)
        self.synapse = Synapse(
            server_name=domain,
            port=port,
            directory=directory / "synapse",
            config={"app_service_config_files": [str(self.focus.registration)]},
            federation=federation,
        )

    async def start(self) -> None:
        """Start both; the focus is ready when this returns."""
        await asyncio.to_thread(self.focus.configure)
        await self.synapse.start()
        await self.focus.start()

    async def close_http(self) -> None:
        """Close what the running loop's client holds open."""
        await self.synapse.close_http()

    async def stop(self) -> None:
        """Stop both; their files stay."""
        await asyncio.to_thread(self.focus.stop)
        await self.synapse.close_http()
        self.synapse.close(keep=True)

    async def room_with_call(self, conf_id: str, host: Client, *guests: Client) -> str:
        """A room of these users in which a call was started; its id."""
        room = await host.create_room("A call", invite=[guest.user_id for guest in guests])
        for guest in guests:
            await guest.join(room)
        await host.send_state(room, CALL, conf_id, {"m.intent": "m.room", "m.type": "m.video"})
        return room
