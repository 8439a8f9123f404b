"""Debian's Prometheus: its tool for files, and the server itself for a test's own time."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from ruamel.yaml import YAML

from tests.support.focus import guarded
from tests.support.synapse import free_port

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


class Prometheus:
    """A server with the configuration for operators, but for what it scrapes and how often."""

    def __init__(self, directory: Path, configuration: Path, target: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._directory = directory
        config = YAML(typ="safe").load((configuration / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(configuration / name) for name in config["rule_files"]]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        self._config = directory / "prometheus.yaml"
        with self._config.open("w") as file:
            YAML().dump(config, file)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        log = self._directory / "prometheus.log"
        command = [program("prometheus"), f"--config.file={self._config}", f"--web.listen-address={self.address}"]
        command += [f"--storage.tsdb.path={self._directory / 'data'}", "--log.level=warn"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(guarded(command), stdout=output, stderr=output, cwd=self._directory)
        deadline = time.monotonic() + 30
        while not self._ready():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    async def get(self, path: str, **parameters: str) -> Any:
        """The data that its HTTP API answers with."""
        url = f"http://{self.address}{path}"
        async with aiohttp.ClientSession() as http, http.get(url, params=parameters) as answer:
            found = await answer.json()
        assert found["status"] == "success", f"{parameters}: {found}"
        return found["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that a query gives now."""
        result: list[dict[str, Any]] = (await self.get("/api/v1/query", query=expression))["result"]
        return result

    async def value(self, expression: str) -> float:
        """The value of a query that gives one series."""
        (series,) = await self.query(expression)
        return float(series["value"][1])
