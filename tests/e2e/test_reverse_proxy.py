"""The page on reverse proxies: its nginx and Caddy configurations, by the real programs, before a focus's listener."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import aiohttp
import pytest
from ruamel.yaml import YAML

from mautrix_sfu.config import HttpConfig, MetricsConfig
from mautrix_sfu.http import FocusInfo, HttpServer
from tests.support.certificates import make_certificate
from tests.support.focus import ROOT, guarded
from tests.support.synapse import free_port

PAGE = ROOT / "docs/reverse-proxy.md"
NAME, ITS_PORT = "calls.example.org", "29341"
Configured = Callable[[Path, str, int, tuple[Path, Path]], list[str]]


def block(language: str) -> str:
    """The configuration in this language on the page, that leads to the focus's port."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (wanted,) = [text for text in found if ITS_PORT in text]
    return str(wanted)


class Ready:
    """A focus that is always ready."""

    def not_ready(self) -> Sequence[str]:
        return ()

    def accepting(self) -> bool:
        return True


@pytest.fixture
async def focus() -> AsyncIterator[int]:
    """The port of a focus's listener; its metrics are on it too, which the public must not see."""
    http = HttpConfig("127.0.0.1", 0, f"https://{NAME}", page=False, page_homeserver=None)
    info = FocusInfo("@sfu:example.org", "SFU1", "1")
    server = HttpServer(http, MetricsConfig(True, "127.0.0.1", 0), info, Ready(), lambda: (b"up 1\n", "text/plain"))
    await server.start()
    yield server.addresses[0][1]
    await server.stop()


def nginx(folder: Path, configuration: str, port: int, pair: tuple[Path, Path]) -> list[str]:
    """What runs nginx with a server block of the page."""
    block = configuration.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    for option, path in zip(("ssl_certificate", "ssl_certificate_key"), pair, strict=True):
        block = re.sub(rf"{option} +\S+;", f"{option} {path};", block)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\nworker_processes 1;\nuser root;\npid {folder}/nginx.pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{block}}}\n"
    )
    return ["nginx", "-e", "stderr", "-c", str(file)]


def caddy(folder: Path, configuration: str, port: int, pair: tuple[Path, Path]) -> list[str]:
    """What runs Caddy with a site of the page; its certificate is ours, as no authority can be asked here."""
    site = configuration.replace(f"{NAME} {{", f"https://{NAME}:{port} {{\n    tls {pair[0]} {pair[1]}")
    file = folder / "Caddyfile"
    file.write_text(
        f"{{\n    admin off\n    auto_https disable_redirects\n    storage file_system {folder}\n}}\n{site}"
    )
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """The proxy's process, with what it says in a file."""
    env = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(guarded(command), cwd=folder, env=env, stdout=log, stderr=log)


@pytest.mark.parametrize(("language", "run"), [("nginx", nginx), ("caddyfile", caddy)])
async def test_the_pages_proxy_leads_to_the_focus_and_not_to_its_metrics(
    focus: int, tmp_path: Path, language: str, run: Configured
) -> None:
    port = free_port()
    command = run(tmp_path, block(language).replace(ITS_PORT, str(focus)), port, make_certificate(tmp_path))
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is missing")
    process = started(command, tmp_path)
    trusted = ssl.create_default_context()
    trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE  # by a name that leads nowhere
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted, resolver=Here())) as http:
            answer = await eventually(http, f"https://{NAME}:{port}/_matrix/focus/v1/info", process, tmp_path / "log")
            assert answer == (200, "@sfu:example.org")
            async with http.get(f"https://{NAME}:{port}/metrics") as refused:
                assert refused.status == 404
            async with http.get(f"https://{NAME}:{port}/ready") as ready:
                assert (await ready.json())["ready"] is True
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)


class Here(aiohttp.abc.AbstractResolver):
    """Finds every name on this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = 2) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None: ...


async def eventually(
    http: aiohttp.ClientSession, url: str, process: subprocess.Popen[bytes], log: Path
) -> tuple[int, str]:
    """The status, and who answers, once the proxy listens."""
    async with asyncio.timeout(45):
        while True:
            try:
                async with http.get(url) as answer:
                    return answer.status, (await answer.json())["user_id"]
            except aiohttp.ClientConnectionError:
                text = await asyncio.to_thread(log.read_text, errors="replace")
                assert process.poll() is None, text
                await asyncio.sleep(0.05)


def test_traefiks_configuration_names_one_service_that_there_is() -> None:
    found = YAML(typ="safe", pure=True).load(block("yaml"))["http"]
    (router,) = found["routers"].values()
    (servers,) = [found["services"][router["service"]]["loadBalancer"]["servers"]]
    assert servers == [{"url": f"http://127.0.0.1:{ITS_PORT}"}]
    assert f"Host(`{NAME}`)" in router["rule"]
    assert "!Path(`/metrics`)" in router["rule"]
