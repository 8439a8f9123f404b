"""What a probe, a scraper, a client and a browser get, asked over a real listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from mautrix_sfu.config import HttpConfig, MetricsConfig
from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.http import FocusInfo, HttpServer
from tests.support.synapse import free_port

HTTP = HttpConfig("127.0.0.1", 0, "https://calls.example.org", page=True, page_homeserver="https://m.example.org")
METRICS = MetricsConfig(True, "127.0.0.1", 0)
INFO = FocusInfo("@sfu:example.org", "SFU1", "1.2.3")


class Life:
    """The focus, as the test has it."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.takes_calls = True

    def not_ready(self) -> Sequence[str]:
        return self.reasons

    def accepting(self) -> bool:
        return self.takes_calls


Start = Callable[..., Awaitable[str]]


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>Call</title>" + " " * 500)
    (folder / "assets" / "main-abc.js").write_text("run()")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
async def start(life: Life, folder: Path) -> AsyncIterator[Start]:
    started: list[HttpServer] = []

    async def begin(http: HttpConfig = HTTP, metrics: MetricsConfig = METRICS, page: Path = folder) -> str:
        server = HttpServer(http, metrics, INFO, life, lambda: (b"up 1\n", "text/plain; version=0.0.4"), page)
        started.append(server)
        await server.start()
        return f"http://127.0.0.1:{server.addresses[0][1]}"

    yield begin
    for server in started:
        await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=True) as session:
        yield session


async def test_health_answers_while_the_process_lives(start: Start, client: aiohttp.ClientSession, life: Life) -> None:
    life.reasons = ["the homeserver does not answer"]
    async with client.get(f"{await start()}/health") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ok"}


async def test_readiness_says_why_not(start: Start, client: aiohttp.ClientSession, life: Life) -> None:
    url = await start()
    async with client.get(f"{url}/ready") as response:
        assert response.status == 200
        assert await response.json() == {"ready": True, "reasons": []}
    life.reasons = ["the homeserver does not answer"]
    async with client.get(f"{url}/ready") as response:
        assert response.status == 503
        assert await response.json() == {"ready": False, "reasons": ["the homeserver does not answer"]}
        assert response.headers["Cache-Control"] == "no-store"


async def test_anybody_may_ask_what_the_focus_is(start: Start, client: aiohttp.ClientSession, life: Life) -> None:
    url = f"{await start()}/_matrix/focus/v1/info"
    async with client.get(url, headers={"Origin": "https://elsewhere.org"}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert await response.json() == {
            "type": "org.matrix.msc3898",
            "user_id": "@sfu:example.org",
            "device_id": "SFU1",
            "url": "https://calls.example.org",
            "version": "1.2.3",
            "accepting": True,
        }
    async with client.options(url) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    life.takes_calls = False
    async with client.get(url) as response:
        assert (await response.json())["accepting"] is False


async def test_without_a_public_address_none_is_told(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(replace(HTTP, public_url=None))
    async with client.get(f"{url}/_matrix/focus/v1/info") as response:
        assert "url" not in await response.json()


async def test_metrics_are_on_this_listener_where_the_port_is_zero(start: Start, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{await start()}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert await response.text() == "up 1\n"


async def test_metrics_have_a_listener_of_their_own_where_there_is_a_port(
    start: Start, client: aiohttp.ClientSession
) -> None:
    port = free_port()
    url = await start(metrics=replace(METRICS, port=port))
    async with client.get(f"{url}/metrics") as response:
        assert response.status == 404
    async with client.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert await response.text() == "up 1\n"
    async with client.get(f"http://127.0.0.1:{port}/ready") as response:
        assert response.status == 200
    async with client.get(f"http://127.0.0.1:{port}/") as response:
        assert response.status == 404


async def test_metrics_can_be_switched_off(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(metrics=replace(METRICS, enabled=False))
    async with client.get(f"{url}/metrics") as response:
        assert response.status == 404


async def test_a_taken_port_is_one_clear_line_and_nothing_stays_open(
    start: Start, client: aiohttp.ClientSession
) -> None:
    first = await start()
    taken = int(first.rpartition(":")[2])
    other = free_port()
    with pytest.raises(FatalError, match=f"metrics.port: cannot listen on 127.0.0.1, TCP port {taken}") as raised:
        await start(replace(HTTP, port=other), replace(METRICS, port=taken))
    assert raised.value.exit_code is ExitCode.PORT_TAKEN
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(f"http://127.0.0.1:{other}/health")


async def test_an_address_of_another_machine_is_one_clear_line(start: Start) -> None:
    with pytest.raises(FatalError, match=r"http\.port: cannot listen on 192\.0\.2\.1") as raised:
        await start(replace(HTTP, hostname="192.0.2.1"))
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- the call page


async def test_the_page_is_served_under_a_strict_policy(start: Start, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{await start()}/") as response:
        assert "<title>Call</title>" in await response.text()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = dict(entry.split(" ", 1) for entry in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert "https:" in policy["connect-src"]


async def test_assets_are_kept_by_browsers_for_good(start: Start, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{await start()}/assets/main-abc.js", headers={"Accept-Encoding": ""}) as response:
        assert await response.text() == "run()"
        assert response.headers["Content-Type"].startswith("text/javascript")
        assert "immutable" in response.headers["Cache-Control"]


async def test_the_page_is_told_its_homeserver_and_focus(start: Start, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{await start()}/config.json") as response:
        assert await response.json() == {
            "homeserver": "https://m.example.org",
            "focus": {"user_id": "@sfu:example.org", "device_id": "SFU1"},
        }


@pytest.mark.parametrize(
    "path",
    ["/../secret", "/assets/../../secret", "/%2e%2e/secret", "/..%2fsecret", "//secret", "/assets", "/\\..\\secret"],
)
async def test_nothing_outside_the_page_is_ever_served(start: Start, path: str) -> None:
    port = int((await start()).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] in (b"404", b"400")
    assert b"secret" not in answer.partition(b"\r\n\r\n")[2]


async def test_a_page_that_is_not_built_says_how_to_build_it(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with client.get(f"{await start(page=tmp_path / 'none')}/") as response:
        assert response.status == 404
        assert "`make page` builds it" in await response.text()


async def test_a_page_that_is_switched_off_is_not_there(start: Start, client: aiohttp.ClientSession) -> None:
    url = await start(replace(HTTP, page=False))
    for path in ("/", "/config.json", "/index.html"):
        async with client.get(url + path) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_harms_nobody_else(start: Start, client: aiohttp.ClientSession, sent: bytes) -> None:
    url = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(sent)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    async with client.get(f"{url}/health") as response:
        assert response.status == 200
