"""The steps of the installation test in order, for the command line, a running focus, and its start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from .. import __version__
from ..config import Config, ConfigError, ConfigFile
from ..findings import Finding, fail, ok, warn
from ..matrix import Homeserver
from . import delivery, files, homeserver, network
from .database import database
from .installation import Count, Installation, find_running, focus_of
from .permissions import permissions
from .receiver import Receiver

log = logging.getLogger("mautrix_sfu.check")


# ---------------------------------------------------------------- for whom


async def check(
    config: Config, room_id: str | None = None, transactions: Callable[[], int] | None = None
) -> list[Finding]:
    """Test an installation, whether its focus runs or not; takes seconds, half a minute at most where much is wrong.

    A running focus that tests itself says by `transactions` how many it has taken so far.
    """
    return [finding async for finding in _steps(config, room_id, transactions)]


def check_file(path: Path, registration: Path, room_id: str | None, say: Callable[[str], None]) -> int:
    """Test what a configuration file describes, and say each finding as it comes; 1 if something must be mended."""
    try:
        file = ConfigFile.read(path)
        config = file.parse()
    except ConfigError as error:
        for problem in error.problems:
            say(str(fail(problem, "mend the configuration")))
        return _summary([fail(problem, "") for problem in error.problems], say)
    first = [warn(line, "mend the option's name") for line in file.unknown_options()]
    first += [*files.secret(path), *files.registration(config, registration)]
    for finding in first:
        say(str(finding))

    async def run() -> list[Finding]:
        found = list(first)
        async for finding in _steps(config, room_id, None):
            say(str(finding))
            found.append(finding)
        return found

    return _summary(asyncio.run(run()), say)


def _summary(found: Sequence[Finding], say: Callable[[str], None]) -> int:
    failures = sum(finding.level == "fail" for finding in found)
    warnings = sum(finding.level == "warn" for finding in found)
    notes = f"; {warnings} to know about" if warnings else ""
    say(f"{failures} to mend{notes}" if failures else f"Nothing to mend{notes}")
    return 1 if failures else 0


async def warn_at_start(config: Config, bound: Sequence[tuple[str, int]]) -> None:
    """Log what is wrong with an installation as far as a start shows it, changing nothing and making nothing."""
    findings = permissions(config)
    try:
        async with _installation(config, None) as it:
            findings += [*await homeserver.clock(it), *network.addresses(config, bound), *await network.page(it)]
            if config.cascade.enabled:
                findings.append(await network.federation(it))
    except Exception:  # nothing that calls need
        log.exception("The installation could not be tested")
    for finding in findings:
        if finding.level != "ok":
            log.warning("%s -> %s", finding.what, finding.remedy)


# ---------------------------------------------------------------- the steps


@asynccontextmanager
async def _installation(config: Config, room_id: str | None) -> AsyncIterator[Installation]:
    service = config.appservice
    own = Homeserver(config.homeserver.address, service.as_token, focus_of(config), config.homeserver.verify_ssl)
    own.open()
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Installation(config, own, http, await find_running(config, http), room_id)
    finally:
        await own.close()


async def _steps(config: Config, room_id: str | None, transactions: Callable[[], int] | None) -> AsyncIterator[Finding]:
    async with _installation(config, room_id) as it:
        for finding in _running(it):
            yield finding
        for finding in permissions(config):
            yield finding
        yield await database(config.database, it.running is not None)
        if it.running is None:
            for finding in network.ports(config):
                yield finding
        for finding in network.media(config, it.running is not None):
            yield finding
        reached = await homeserver.answers(it)
        for finding in reached:
            yield finding
        if reached[0].level != "fail":
            async for finding in _matrix(it, transactions):
                yield finding
        yield await network.federation(it)
        for finding in await network.page(it):
            yield finding


def _running(it: Installation) -> list[Finding]:
    running = it.running
    if running is None:
        return [ok("No focus with this configuration runs: this test stands in for it")]
    found = []
    if running.version != __version__:
        found.append(
            warn(f"A focus of version {running.version} runs, and this is {__version__}", "restart it to use this one")
        )
    if running.reasons:
        found += [
            fail(f"The running focus is not ready: {reason}", "read on, and its log") for reason in running.reasons
        ]
    else:
        found.append(ok(f"A focus runs (version {running.version}) and is ready"))
    return found


async def _matrix(it: Installation, transactions: Callable[[], int] | None) -> AsyncIterator[Finding]:
    known = await homeserver.knows_us(it)
    yield known
    if known.level == "fail":
        return
    yield await homeserver.version(it)
    async for finding in _delivery(it, transactions):
        yield finding
    yield await delivery.to_device(it)


async def _delivery(it: Installation, transactions: Callable[[], int] | None) -> AsyncIterator[Finding]:
    """Pushes and the focus's own room, for which somebody must listen."""
    receiver: Receiver | None = None
    service = it.config.appservice
    count: Count | None = it.running.count if it.running is not None else None
    if transactions is not None:
        count = _as_async(transactions)
    if it.running is None and transactions is None:
        receiver = Receiver(service.hs_token, it.config.bot_user_id)
        count = receiver.count
        try:
            await receiver.start(service.hostname, service.port)
        except OSError:
            await receiver.stop()
            receiver = count = None  # said among the ports
    try:
        reached = True
        if count is not None:
            async for finding in delivery.pushes(it, receiver):
                reached = finding.level != "fail"
                yield finding
        room = await delivery.own_room(it)
        if isinstance(room, Finding):
            yield room
        elif reached and count is not None:
            yield await delivery.own_event(it, room, count, receiver is not None)
        async for finding in homeserver.state(it, room if isinstance(room, str) else None):
            yield finding
    finally:
        if receiver is not None:
            await receiver.stop()


def _as_async(count: Callable[[], int]) -> Count:
    async def counted() -> int:
        return count()

    return counted
