"""A real Synapse in a directory of its own, for the tests and the demo, and a small client to talk to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from scripts.install_synapse import ensure_synapse

BOOT_TIMEOUT = 90.0  # seconds; it takes 1.5 s on an idle machine
STOP_TIMEOUT = 15.0
PASSWORD = "demo-password"

# Every limit that a test would run into: a thousand times what it needs.
_FAST = {"per_second": 100_000, "burst_count": 100_000}
_LIMITS: dict[str, Any] = {
    "rc_message": _FAST,
    "rc_registration": _FAST,
    "rc_login": {"address": _FAST, "account": _FAST, "failed_attempts": _FAST},
    "rc_joins": {"local": _FAST, "remote": _FAST},
    "rc_joins_per_room": _FAST,
    "rc_invites": {"per_room": _FAST, "per_user": _FAST, "per_issuer": _FAST},
    "rc_room_creation": _FAST,
    "rc_admin_redaction": _FAST,
}

# What a room's power levels must let members send, or nobody but its creator can join a call.
CALL_TYPES = (
    "org.matrix.msc3401.call",
    "org.matrix.msc3401.call.member",
    "m.call",
    "m.call.member",
)


# Below those that Linux gives outgoing connections, and others in each process of a test run: free ones stay free.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = list(range(20_000 + _WORKER % 16, 29_000, 16))
_next_port = itertools.count(secrets.randbelow(len(_PORTS)))


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    while True:
        port = _PORTS[next(_next_port) % len(_PORTS)]
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _listener(port: int, *names: str) -> dict[str, Any]:
    return {"port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "resources": [{"names": list(names)}]}


class MatrixError(Exception):
    """The homeserver answered with an error."""

    def __init__(self, status: int, errcode: str, message: str) -> None:
        super().__init__(f"{status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode


@dataclass(frozen=True)
class TlsListener:
    """Where other homeservers reach this one."""

    port: int
    certificate: Path
    key: Path

    @property
    def server_name(self) -> str:
        """A name that says the port is found without DNS or `.well-known`."""
        return f"localhost:{self.port}"


# Certificates are self-signed, addresses are those of this machine, and who was away is tried again soon.
_FEDERATION: dict[str, Any] = {
    "federation_verify_certificates": False,
    "ip_range_blacklist": [],
    "federation": {
        "destination_min_retry_interval": 500,
        "destination_retry_multiplier": 1,
        "destination_max_retry_interval": 1000,
        "max_short_retries": 1,
        "max_long_retries": 1,
    },
    "rc_federation": {"window_size": 1000, "sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100},
    "federation_rr_transactions_per_room_per_second": 1000,
}


@dataclass
class Registration:
    """An application service as the homeserver is told of it."""

    url: str | None
    localpart: str = "sfu"  # the focus: a namespaced user
    id: str = "sfu"
    sender_localpart: str = "sfu_registration"
    rooms: str | None = "!.*"  # None: events come only from rooms that the focus has joined
    as_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    hs_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def document(self, server_name: str) -> dict[str, Any]:
        """Return the registration file's content."""
        user = f"@{self.localpart}:{server_name}".replace(".", "\\.")
        return {
            "id": self.id,
            "url": self.url,
            "as_token": self.as_token,
            "hs_token": self.hs_token,
            "sender_localpart": self.sender_localpart,
            "rate_limited": False,
            "namespaces": {
                "users": [{"regex": user, "exclusive": True}],
                "rooms": [{"regex": self.rooms, "exclusive": False}] if self.rooms else [],
                "aliases": [],
            },
        }


class Client:
    """One device of a user: the few calls that tests and the demo make, each raising MatrixError."""

    def __init__(self, server: Synapse, token: str, user_id: str, device_id: str) -> None:
        self.server = server
        self.token = token
        self.user_id = user_id
        self.device_id = device_id
        self._since: str | None = None

    async def request(
        self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Make a request with this device's token; `path` starts with a slash and is already quoted."""
        return await self.server.request(method, path, body, params, self.token)

    async def create_room(
        self, name: str = "A call", invite: Sequence[str] = (), public: bool = False, calls: bool = True
    ) -> str:
        """Create a room; with `calls` its members may send the call state events."""
        body: dict[str, Any] = {
            "name": name,
            "invite": list(invite),
            "preset": "public_chat" if public else "private_chat",
        }
        if calls:
            body["power_level_content_override"] = {"events": dict.fromkeys(CALL_TYPES, 0)}
        room_id: str = (await self.request("POST", "/_matrix/client/v3/createRoom", body))["room_id"]
        return room_id

    async def join(self, room_id: str) -> None:
        """Join a room."""
        await self._room(room_id, "join", {})

    async def leave(self, room_id: str) -> None:
        """Leave a room, or decline its invite."""
        await self._room(room_id, "leave", {})

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invite somebody."""
        await self._room(room_id, "invite", {"user_id": user_id})

    async def kick(self, room_id: str, user_id: str) -> None:
        """Remove somebody."""
        await self._room(room_id, "kick", {"user_id": user_id})

    async def ban(self, room_id: str, user_id: str) -> None:
        """Ban somebody."""
        await self._room(room_id, "ban", {"user_id": user_id})

    async def _room(self, room_id: str, verb: str, body: dict[str, Any]) -> None:
        await self.request("POST", f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/{verb}", body)

    async def send_state(self, room_id: str, event_type: str, state_key: str, content: dict[str, Any]) -> str:
        """Send a state event and return its id."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/state/{event_type}/{quote(state_key, safe='')}"
        event_id: str = (await self.request("PUT", path, content))["event_id"]
        return event_id

    async def get_state(self, room_id: str) -> list[dict[str, Any]]:
        """Return the whole state of a room that this user has joined."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/state"
        state: Any = await self.request("GET", path)
        return list(state)

    async def send_message(self, room_id: str, body: str) -> str:
        """Send a text message and return its id."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/send/m.room.message/{secrets.token_hex(8)}"
        answer = await self.request("PUT", path, {"msgtype": "m.text", "body": body})
        event_id: str = answer["event_id"]
        return event_id

    async def send_to_device(self, event_type: str, user_id: str, device_id: str, content: dict[str, Any]) -> None:
        """Send one to-device message."""
        path = f"/_matrix/client/v3/sendToDevice/{event_type}/{secrets.token_hex(8)}"
        await self.request("PUT", path, {"messages": {user_id: {device_id: content}}})

    async def sync(self, wait: float = 0.0) -> dict[str, Any]:
        """Sync from where the last sync ended, waiting up to `wait` seconds for something new."""
        params = {"timeout": str(int(wait * 1000))}
        if self._since is not None:
            params["since"] = self._since
        answer = await self.request("GET", "/_matrix/client/v3/sync", params=params)
        self._since = answer["next_batch"]
        return answer

    async def to_device(self, count: int, within: float = 45.0) -> list[dict[str, Any]]:
        """Sync until `count` to-device messages have come (TimeoutError after `within` seconds)."""
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(within):
            while len(events) < count:
                events += (await self.sync(wait=1.0)).get("to_device", {}).get("events", [])
        return events


class Synapse:
    """One Synapse process on 127.0.0.1; the data stays in its directory until `close`.

    It belongs to no event loop: start and stop it from any, but `close_http` in each loop that used it.
    """

    def __init__(
        self,
        server_name: str = "localhost",
        port: int | None = None,
        registrations: Sequence[Registration] = (),
        config: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        federation: TlsListener | None = None,
    ) -> None:
        self.server_name = server_name
        self.federation = federation
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.directory = directory or Path(tempfile.mkdtemp(prefix="synapse-"))
        self.registrations = list(registrations)
        self.log_path = self.directory / "homeserver.log"
        self._config = dict(config or {})
        self._shared_secret = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._http: aiohttp.ClientSession | None = None

    def user(self, localpart: str) -> str:
        """Return the user id of a local user."""
        return f"@{localpart}:{self.server_name}"

    # ------------------------------------------------------------ the process

    async def start(self) -> None:
        """Write the configuration and start; returns when it answers (RuntimeError with its log if it does not)."""
        python = await asyncio.to_thread(ensure_synapse)
        await asyncio.to_thread(self._write_configuration)
        command = [str(python), "-m", "synapse.app.homeserver", "-c", str(self.directory / "homeserver.yaml")]
        if setpriv := shutil.which("setpriv"):  # it must not outlive a test run that was killed
            command = [setpriv, "--pdeathsig", "KILL", *command]
        self._process = process = self._spawn(command)
        deadline = asyncio.get_running_loop().time() + BOOT_TIMEOUT
        while not await self._answers():
            if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                tail = self.log_tail()
                self.kill()
                raise RuntimeError(f"Synapse did not start:\n{tail}")
            await asyncio.sleep(0.1)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "stdout.log").open("ab") as output:
            return subprocess.Popen(command, cwd=self.directory, stdout=output, stderr=output)

    async def stop(self) -> None:
        """Stop it; the data stays."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT)
        self.kill()

    @property
    def pid(self) -> int:
        """The process id of the running Synapse."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    async def restart(self) -> None:
        """Stop and start it again on the same port with the same data."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self, keep: bool = False) -> None:
        """End the process and remove the directory, unless it is kept for its logs."""
        self.kill()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log_tail(self, characters: int = 3000) -> str:
        """Return the end of what Synapse wrote, for a failure's message."""
        texts = [
            path.read_text(errors="replace") for path in (self.directory / "stdout.log", self.log_path) if path.exists()
        ]
        return "\n".join(texts)[-characters:]

    async def close_http(self) -> None:
        """Close the connections of the running loop's client."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _answers(self) -> bool:
        try:
            await self.request("GET", "/_matrix/client/versions")
        except (aiohttp.ClientError, MatrixError):
            return False
        return True

    def _write_configuration(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        files = []
        for registration in self.registrations:
            path = self.directory / f"registration-{registration.id}.yaml"
            path.write_text(json.dumps(registration.document(self.server_name)))  # JSON is YAML
            files.append(str(path))
        key = self.directory / "signing.key"
        if not key.exists():
            seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
            key.write_text(f"ed25519 a_{secrets.token_hex(2)} {seed}\n")
        log_config = {
            "version": 1,
            "formatters": {"line": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
            "handlers": {"file": {"class": "logging.FileHandler", "filename": str(self.log_path), "formatter": "line"}},
            "loggers": {"synapse.appservice": {"level": "INFO"}},
            "root": {"level": "WARNING", "handlers": ["file"]},
        }
        (self.directory / "log.yaml").write_text(json.dumps(log_config))
        listeners: list[dict[str, Any]] = [_listener(self.port, "client", "federation")]
        federation: dict[str, Any] = {}
        if self.federation is not None:
            listeners.append({**_listener(self.federation.port, "federation"), "tls": True})
            federation = {
                **_FEDERATION,
                "tls_certificate_path": str(self.federation.certificate),
                "tls_private_key_path": str(self.federation.key),
            }
        config: dict[str, Any] = {
            "server_name": self.server_name,
            "listeners": listeners,
            "database": {"name": "sqlite3", "args": {"database": str(self.directory / "homeserver.sqlite")}},
            "log_config": str(self.directory / "log.yaml"),
            "signing_key_path": str(key),
            "media_store_path": str(self.directory / "media"),
            "pid_file": str(self.directory / "homeserver.pid"),
            "registration_shared_secret": self._shared_secret,
            "macaroon_secret_key": self._shared_secret,
            "form_secret": self._shared_secret,
            "bcrypt_rounds": 4,
            "report_stats": False,
            "trusted_key_servers": [],
            "app_service_config_files": files,
            **_LIMITS,
            **federation,
            **self._config,
        }
        (self.directory / "homeserver.yaml").write_text(json.dumps(config))

    # ------------------------------------------------------------ requests

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> dict[str, Any]:
        """Make a request; raises MatrixError for what is no success, aiohttp.ClientError without an answer."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is None and method != "GET":
            body = {}
        async with self._http.request(
            method, self.base_url + path, json=body, params=params, headers=headers, allow_redirects=False
        ) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status != 200:
                raise MatrixError(response.status, answer.get("errcode", ""), answer.get("error", ""))
            return answer

    async def register_user(
        self, localpart: str, password: str = PASSWORD, admin: bool = False, device_id: str | None = None
    ) -> Client:
        """Register a user by the shared secret and log it in."""
        path = "/_synapse/admin/v1/register"
        nonce = (await self.request("GET", path))["nonce"]
        parts = (nonce, localpart, password, "admin" if admin else "notadmin")
        mac = hmac.new(self._shared_secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": localpart, "password": password, "admin": admin, "mac": mac}
        answer = await self.request("POST", path, body)
        if device_id is not None:
            return await self.login(localpart, password, device_id)
        return Client(self, answer["access_token"], answer["user_id"], answer["device_id"])

    async def login(self, localpart: str, password: str = PASSWORD, device_id: str | None = None) -> Client:
        """Log a user in, under the given device id if there is one."""
        body: dict[str, Any] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": localpart},
            "password": password,
        }
        if device_id is not None:
            body["device_id"] = device_id
        answer = await self.request("POST", "/_matrix/client/v3/login", body)
        return Client(self, answer["access_token"], answer["user_id"], answer["device_id"])

    async def make_admin(self, admin: Client, user_id: str, is_admin: bool = True) -> None:
        """Make a user, the focus's for example, a server admin."""
        path = f"/_synapse/admin/v1/users/{quote(user_id, safe='')}/admin"
        await admin.request("PUT", path, {"admin": is_admin})
