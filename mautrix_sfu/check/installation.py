"""What the steps of the installation test share: configuration, homeserver, and whether a focus runs already."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from ..config import Config
from ..core.ids import Device, DeviceId, UserId
from ..matrix import Homeserver

PATIENCE = aiohttp.ClientTimeout(total=10)
PATIENCE_HERE = aiohttp.ClientTimeout(total=3)  # for a focus on this machine
MAX_BODY = 4 * 1024 * 1024  # bytes; the longest is /metrics
FETCH_ERRORS = (aiohttp.ClientError, TimeoutError, ValueError)
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  where it is reached from here
TRANSACTIONS = "mautrix_sfu_matrix_transactions_total"

Count = Callable[[], Awaitable[int | None]]  # how many transactions came so far; None: that cannot be seen


@dataclass(frozen=True, slots=True)
class Running:
    """A focus with this configuration that runs already."""

    version: str
    accepting: bool
    reasons: tuple[str, ...]  # why it is not ready
    count: Count = field(repr=False)


@dataclass(frozen=True, slots=True)
class Installation:
    """What is tested."""

    config: Config
    homeserver: Homeserver  # as the focus's user and device
    http: aiohttp.ClientSession  # for everything else
    running: Running | None
    room_id: str | None  # that the operator asks about


def focus_of(config: Config) -> Device:
    """The focus's user and device."""
    return Device(UserId(config.bot_user_id), DeviceId(config.appservice.bot_device))


def local_url(hostname: str, port: int) -> str:
    """Where a listener of this configuration is reached from here."""
    host = ANY_ADDRESS.get(hostname, hostname)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def find_running(config: Config, http: aiohttp.ClientSession) -> Running | None:
    """The focus that answers where this configuration says that it listens, if there is one."""
    base = local_url(config.http.hostname, config.http.port)
    info = await fetch_object(http, f"{base}/_matrix/focus/v1/info", patience=PATIENCE_HERE)
    if (info.get("user_id"), info.get("device_id")) != (config.bot_user_id, config.appservice.bot_device):
        return None
    ready = await fetch_object(http, f"{base}/ready")
    reasons = ready.get("reasons")

    async def count() -> int | None:
        metrics = config.metrics
        if not metrics.enabled:
            return None
        where = local_url(metrics.hostname, metrics.port) if metrics.port else base
        try:
            text = (await fetch(http, f"{where}/metrics")).text
            samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        except FETCH_ERRORS:
            return None
        return next((int(sample.value) for sample in samples if sample.name == TRANSACTIONS), None)

    return Running(
        str(info.get("version")),
        bool(info.get("accepting")),
        tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        count,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, whatever its status."""

    status: int
    date: str | None
    text: str

    @property
    def object(self) -> dict[str, Any]:
        """Its JSON object; empty if it is none."""
        try:
            found = json.loads(self.text)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


async def fetch(
    http: aiohttp.ClientSession, url: str | URL, ssl: bool = True, patience: aiohttp.ClientTimeout = PATIENCE
) -> Answer:
    """GET, within `patience` and MAX_BODY; raises one of FETCH_ERRORS."""
    async with http.get(url, timeout=patience, ssl=ssl) as answer:
        body = bytearray()
        async for chunk in answer.content.iter_chunked(16384):
            body += chunk
            if len(body) > MAX_BODY:
                raise ValueError("the answer is too long")
        return Answer(answer.status, answer.headers.get("Date"), body.decode(errors="replace"))


async def fetch_object(
    http: aiohttp.ClientSession, url: str | URL, ssl: bool = True, patience: aiohttp.ClientTimeout = PATIENCE
) -> dict[str, Any]:
    """The JSON object at this address; empty if there is none."""
    try:
        return (await fetch(http, url, ssl, patience)).object
    except FETCH_ERRORS:
        return {}
