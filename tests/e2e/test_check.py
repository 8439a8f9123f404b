"""The installation test beside a real Synapse: what is sound is called so, each mistake gets its line and remedy."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, web

from mautrix_sfu.check import check, delivery
from mautrix_sfu.config import Config, ConfigFile
from mautrix_sfu.findings import Finding
from tests.support.certificates import make_certificate
from tests.support.focus import ROOT, Deployment, FocusProcess
from tests.support.synapse import free_port

pytestmark = pytest.mark.synapse

OPEN = {"enable_registration": True, "enable_registration_without_verification": True}
SOUND = {"media": {"advertise": ["192.168.7.7"]}}


class Installed:
    """A deployment whose focus does not run unless a test starts it."""

    def __init__(self, directory: Path, **synapse: Any) -> None:
        self.deployment = Deployment(directory, SOUND)
        self.deployment.synapse._config |= synapse

    @property
    def config(self) -> Config:
        """Its configuration, as it should be."""
        return ConfigFile.read(self.deployment.focus.config).parse()

    async def start(self) -> None:
        """Start the homeserver alone."""
        await asyncio.to_thread(self.deployment.focus.configure)
        self.deployment.focus.config.chmod(0o600)
        await self.deployment.synapse.start()
        await self.deployment.synapse.close_http()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    installed = Installed(tmp_path_factory.mktemp("installed"), **OPEN)
    try:
        asyncio.run(installed.start())
        yield installed
    finally:
        asyncio.run(installed.deployment.stop())


@pytest.fixture
async def installed(shared: Installed) -> AsyncIterator[Installed]:
    yield shared
    await asyncio.to_thread(shared.deployment.focus.stop)
    await shared.deployment.synapse.close_http()


def changed(config: Config, section: str, **options: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **options)})


async def troubles(config: Config, room_id: str | None = None) -> list[Finding]:
    return [finding for finding in await check(config, room_id) if finding.level == "fail"]


def one(found: list[Finding]) -> str:
    """The one thing to mend, with its remedy."""
    assert len(found) == 1, found
    assert found[0].remedy
    return str(found[0])


def said(found: list[Finding], words: str) -> Finding:
    """The one finding with these words."""
    (fitting,) = [finding for finding in found if words.lower() in finding.what.lower()]
    return fitting


def command(installed: Installed, *options: str) -> tuple[int, str]:
    focus = installed.deployment.focus
    files = ["-c", str(focus.config), "-r", str(focus.registration)]
    done = subprocess.run(
        [sys.executable, "-m", "mautrix_sfu", "--check", *files, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout


# ---------------------------------------------------------------- as it should be


async def test_a_sound_installation_before_the_first_start(installed: Installed) -> None:
    code, text = await asyncio.to_thread(command, installed)
    assert code == 0, text
    lines = text.splitlines()
    assert lines[-1].startswith("Nothing to mend")
    for words in (
        "registration.yaml fits the configuration",
        "No focus with this configuration runs",
        "will be made at start",
        "The TCP ports are free",
        "UDP port",
        "The homeserver answers",
        "clocks",
        "The registration is loaded, the as_token right",
        "says which events are soft-failed",
        "with the right hs_token",
        "pushes events to the focus",
        "To-device messages arrive",
    ):
        assert [line for line in lines if words in line and line.startswith("ok ")], (words, text)
    assert all(" -> " in line for line in lines[:-1] if not line.startswith("ok "))


async def test_a_running_focus_is_recognised_and_not_disturbed(installed: Installed) -> None:
    focus = installed.deployment.focus
    await focus.start()
    code, text = await asyncio.to_thread(command, installed)
    assert code == 0, text
    for words in ("A focus runs", "is ready", "uses the database", "the right hs_token", "pushes events", "To-device"):
        assert any(words in line and line.startswith("ok ") for line in text.splitlines()), (words, text)
    assert "cannot listen" not in text
    assert await focus.metric("mautrix_sfu_internal_errors_total") == 0
    assert "Traceback" not in focus.log_tail()
    log = focus.log_tail()
    assert "WARNING@mautrix_sfu.check] Participants are told private addresses only: 192.168.7.7" in log  # at its start


async def test_a_running_focus_tests_itself(installed: Installed) -> None:
    await installed.deployment.focus.start()
    taken = iter(range(100))
    found = await check(installed.config, transactions=lambda: next(taken))
    assert not [finding for finding in found if finding.level == "fail"], found
    assert said(found, "pushes events").level == "ok"


async def test_what_the_test_refuses_comes_when_the_focus_is_there(installed: Installed) -> None:
    synapse, focus = installed.deployment.synapse, installed.deployment.focus
    alice = await synapse.register_user("alice")
    room_id = await installed.deployment.room_with_call("while-away", alice)
    assert not await troubles(installed.config)
    await focus.start()
    deadline = asyncio.get_running_loop().time() + 20
    while await focus.metric("mautrix_sfu_matrix_events_total") == 0:
        assert asyncio.get_running_loop().time() < deadline, room_id
        await asyncio.sleep(0.1)


async def answers(focus: FocusProcess) -> None:
    """Wait until it listens, ready or not."""
    async with asyncio.timeout(45):
        while True:
            with contextlib.suppress(ClientError):
                await focus.get("health")
                return
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------- tokens and registration


async def test_another_hs_token(installed: Installed) -> None:
    found = await troubles(changed(installed.config, "appservice", hs_token="w" * 40))
    assert "with another hs_token than the configuration's" in one(found)


async def test_another_hs_token_while_the_focus_runs(installed: Installed) -> None:
    focus = installed.deployment.focus
    right = installed.config.appservice.hs_token
    focus.edit("appservice", hs_token="w" * 40)
    try:
        focus.spawn()
        await answers(focus)
        found = await troubles(installed.config)
    finally:
        focus.edit("appservice", hs_token=right)
    assert said(found, "is not ready")
    assert said(found, "with another hs_token than the configuration's")


async def test_another_as_token(installed: Installed) -> None:
    text = one(await troubles(changed(installed.config, "appservice", as_token="w" * 40)))
    assert "has a registration for @sfu:localhost, and refuses this as_token" in text


async def test_a_registration_that_was_not_loaded(installed: Installed) -> None:
    config = changed(installed.config, "appservice", as_token="w" * 40, bot_username="other")
    assert "has not loaded the registration" in one(await troubles(config))


async def test_a_homeserver_that_does_not_say_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one: it takes no new users. Nor does it push: another of its workers should, which does not run."""
    other = Installed(tmp_path, notify_appservices_from_worker="nobody")
    try:
        await other.start()
        text = one(await troubles(changed(other.config, "appservice", as_token="w" * 40)))
        assert "not named in app_service_config_files" in text
        monkeypatch.setattr(delivery, "PUSHED_WITHIN", 2.0)
        text = one(await troubles(other.config))
        assert "pushed no event within" in text
        assert "notify_appservices_from_worker" in text
    finally:
        await other.deployment.stop()


async def test_the_registration_file_differs_from_the_configuration(installed: Installed) -> None:
    registration = installed.deployment.focus.registration
    right = registration.read_text()
    try:
        registration.write_text(right.replace("http://127.0.0.1", "http://10.9.8.7"))
        code, text = await asyncio.to_thread(command, installed)
    finally:
        registration.write_text(right)
    assert code == 1
    assert "registration.yaml differs from the configuration in url" in text


async def test_another_domain(installed: Installed) -> None:
    text = one(await troubles(changed(installed.config, "homeserver", domain="example.org")))
    assert "is its domain right?" in text or "namespaces.users" in text


async def test_another_id(installed: Installed) -> None:
    assert "refuses to ping application service" in one(await troubles(changed(installed.config, "appservice", id="x")))


# ---------------------------------------------------------------- the way between both


async def test_the_homeserver_reaches_another_port_than_the_focus_listens_on(installed: Installed) -> None:
    text = one(await troubles(changed(installed.config, "appservice", port=free_port())))
    assert "the homeserver cannot connect to the url in the registration" in text


async def test_no_homeserver_at_the_address(installed: Installed) -> None:
    text = one(await troubles(changed(installed.config, "homeserver", address=f"http://127.0.0.1:{free_port()}")))
    assert "No homeserver answers" in text


async def test_something_else_at_the_address(installed: Installed) -> None:
    async with proxied(installed, lambda _path, _body, _headers: b"<html>welcome</html>") as config:
        assert "is not a homeserver" in one(await troubles(config))


async def test_a_certificate_that_nobody_vouches_for(installed: Installed, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(tmp_path))
    async with proxied(installed, tls=context) as config:
        assert "The certificate of" in one(await troubles(config))
        assert not await troubles(changed(config, "homeserver", verify_ssl=False))


async def test_clocks_that_differ(installed: Installed) -> None:
    skew = 3600.0

    def late(_path: str, body: bytes, headers: dict[str, str]) -> bytes:
        headers["Date"] = formatdate(time() + skew, usegmt=True)
        return body

    async with proxied(installed, late) as config:
        assert "3600 s behind the homeserver's" in one(await troubles(config))
        skew = -20
        found = await check(config)
        assert not [finding for finding in found if finding.level == "fail"]
        assert said(found, "ahead of the homeserver's").level == "warn"


async def test_a_homeserver_that_is_too_old(installed: Installed) -> None:
    def old(path: str, body: bytes, _headers: dict[str, str]) -> bytes:
        return b'{"server": {"name": "Synapse", "version": "1.134.0"}}' if path.endswith("version") else body

    async with proxied(installed, old) as config:
        found = said(await check(config), "Synapse 1.134.0 does not say which events are soft-failed")
    assert found.level == "warn"
    assert "1.135" in found.remedy


Change = Any  # (path, body, headers) -> body


@contextlib.asynccontextmanager
async def proxied(
    installed: Installed, change: Change = lambda _path, body, _headers: body, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Config]:
    """The configuration with a proxy before its homeserver that changes what it answers."""
    config = installed.config

    async def forward(request: web.Request) -> web.Response:
        url = config.homeserver.address + request.raw_path
        headers = {name: value for name, value in request.headers.items() if name in ("Authorization", "Content-Type")}
        async with http.request(request.method, url, data=await request.read(), headers=headers) as answer:
            kept = {"Content-Type": answer.headers["Content-Type"], "Date": answer.headers["Date"]}
            body = change(request.path, await answer.read(), kept)
            return web.Response(status=answer.status, body=body, headers=kept)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    async with ClientSession() as http:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        try:
            scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
            yield changed(config, "homeserver", address=f"{scheme}://{host}:{port}")
        finally:
            await runner.cleanup()


# ---------------------------------------------------------------- rooms


async def test_power_levels_of_a_room_that_it_may_read(installed: Installed) -> None:
    synapse = installed.deployment.synapse
    admin = await synapse.register_user("root", admin=True)
    room = await admin.create_room(calls=False)
    found = await check(installed.config, room)
    assert said(found, f"The state of {room} cannot be read").level == "warn"
    await synapse.make_admin(admin, "@sfu:localhost")
    try:
        text = one(await troubles(installed.config, room))
        assert f"In {room} members may not join calls" in text
        assert "Roles & permissions" in text
        found = await check(installed.config, await admin.create_room(calls=True))
        assert said(found, "may start and join calls").level == "ok"
        assert said(found, "may read the state of every room").level == "ok"
    finally:
        await synapse.make_admin(admin, "@sfu:localhost", False)


async def test_what_the_homeserver_makes_of_new_rooms_is_seen_anew_each_time(installed: Installed) -> None:
    assert said(await check(installed.config), "In new rooms of this homeserver").level == "warn"
    synapse = installed.deployment.synapse
    events = {"events": {"org.matrix.msc3401.call": 0, "org.matrix.msc3401.call.member": 0}}
    synapse._config["default_power_level_content_override"] = {"private_chat": events}
    await synapse.close_http()
    await synapse.restart()
    assert said(await check(installed.config), "In new rooms of this homeserver").level == "ok"


# ---------------------------------------------------------------- this machine


async def test_ports_that_are_taken(installed: Installed) -> None:
    config = installed.config
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", config.http.port))
        tcp.listen()
        udp.bind(("127.0.0.1", config.media.port))
        found = await troubles(config)
    assert len(found) == 2
    assert f"cannot listen on 127.0.0.1, TCP port {config.http.port}" in said(found, "http.port").what
    assert f"UDP port {config.media.port}" in said(found, "another program listens there").what


@pytest.mark.parametrize(
    ("advertise", "level", "words"),
    [
        (("127.0.0.1",), "fail", "only addresses of this machine itself"),
        (("203.0.113.7",), "fail", "an address of an example"),
        (("0.0.0.0",), "fail", "nobody's"),
        (("10.1.2.3", "169.254.3.4", "100.64.0.9"), "warn", "private addresses only"),
        (("10.1.2.3", "9.9.9.9"), "ok", "10.1.2.3, 9.9.9.9"),
    ],
)
async def test_addresses_that_are_told(shared: Installed, advertise: tuple[str, ...], level: str, words: str) -> None:
    config = changed(shared.config, "homeserver", address=f"http://127.0.0.1:{free_port()}")
    found = said(await check(changed(config, "media", advertise=advertise)), "Participants are told")
    assert (found.level, words in found.what) == (level, True), found


async def test_databases(installed: Installed, tmp_path: Path) -> None:
    async def look(url: str, migrate: bool = True) -> Finding:
        config = changed(installed.config, "homeserver", address=f"http://127.0.0.1:{free_port()}")
        return said(await check(changed(config, "database", url=url, migrate=migrate)), "database")

    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    empty.touch()
    assert (await look(f"sqlite:///{tmp_path}/new.db")).level == "ok"
    assert not (tmp_path / "new.db").exists()
    assert (await look(f"sqlite:///{tmp_path}/no/such/folder.db")).level == "fail"
    assert "will be brought up to date" in (await look(f"sqlite:///{empty}")).what
    refused = await look(f"sqlite:///{empty}", migrate=False)
    assert (refused.level, refused.remedy) == ("fail", "mautrix-sfu --migrate -c config.yaml")
    wrong = tmp_path / "wrong.db"
    wrong.write_text("no database at all, but a text that is long enough to be taken for one" * 10)
    assert "is not an SQLite database" in (await look(f"sqlite:///{wrong}")).what
    away = await look(f"postgresql://somebody:secret@127.0.0.1:{free_port()}/focus")
    assert away.level == "fail"
    assert "secret" not in str(away)
    foreign = tmp_path / "foreign.db"
    foreign.touch()
    if os.geteuid() == 0:
        os.chown(foreign, 12345, 12345)
        assert "as the user that the focus runs as" in (await look(f"sqlite:///{foreign}")).remedy


async def test_a_configuration_with_mistakes(installed: Installed, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("homeserver:\n  address: nowhere\nmedia:\n  port: 99999\n")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "mautrix_sfu", "--check", "-c", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith("FAIL  ") for line in lines[:-1])
    assert any("media.port" in line for line in lines)
    assert lines[-1].endswith(" to mend")
