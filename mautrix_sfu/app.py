"""The composition root: builds the parts from the configuration, starts and stops them in order."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import __version__
from .admin import Bot
from .check import warn_at_start
from .config import (
    Config,
    ConfigError,
    ConfigFile,
    Permission,
    TracingConfig,
    changes,
    set_up_logging,
    with_live,
)
from .core.commands import ConferenceEnded, Count
from .core.ids import Device, DeviceId, SessionId, UserId
from .core.orders import DrainChanged
from .core.policy import Policy
from .errors import ExitCode, FatalError
from .http import FocusInfo, HttpServer
from .matrix import Counted, EncryptionSettings, Matrix, MatrixSettings
from .media import advertised, open_media
from .metrics import MatrixLoad, Metrics
from .operations import FocusOperations, Parts, Reloaded
from .rtc import Rtc
from .runtime import LoadWatch, Runtime
from .store import AwayError, Store, mautrix_database
from .tracing import Tracer, TracingUnavailableError, no_trace

log = logging.getLogger("mautrix_sfu")


def run(config: Config, path: Path) -> int:
    """Run the focus until it is told to stop; raises FatalError when it cannot go on. SIGHUP reads `path` again."""
    asyncio.run(_Focus(config, path).run())
    return 0


def policy_of(config: Config) -> Policy:
    """The operator's decisions as the core needs them."""
    conferences = config.conferences
    return Policy(
        focus=_focus(config),
        session_id=SessionId("sfu"),
        require_encryption=config.encryption.require,
        homeservers=frozenset(conferences.homeservers),
        guests=conferences.guests,
        banned=frozenset(conferences.banned),
        permissions=config.bot.permissions,
        invite_wait=conferences.invite_wait,
        held_timeout=conferences.held_timeout,
        kick_time=conferences.kick_time,
        video_codecs=conferences.video_codecs,
        ping_interval=conferences.ping_interval,
        ping_timeout=conferences.ping_timeout,
        trunk_session=SessionId(secrets.token_urlsafe(12)),
        cascade=config.cascade.enabled,
        peers=frozenset(config.cascade.peers),
        limits=replace(conferences.limits, trunks=config.cascade.trunks),
    )


def encryption_of(config: Config) -> EncryptionSettings | None:
    """How signalling is encrypted, None if it is not; raises FatalError where it must be and cannot."""
    if not config.encryption.enabled:
        return None
    missing = [name for name in ("olm", "unpaddedbase64", "Crypto") if not importlib.util.find_spec(name)]
    if missing:
        how = 'pip install "mautrix[encryption]" beside it'
        if config.encryption.require:
            raise FatalError(f"encryption.require: encryption is not installed here; {how}", ExitCode.CONFIG)
        log.warning("Encryption is not installed here: encrypted calls and command rooms do not work; %s", how)
        return None
    database = functools.partial(mautrix_database, config.database.url)
    return EncryptionSettings(database, config.encryption.pickle_key, config.encryption.require)


def _focus(config: Config) -> Device:
    return Device(UserId(config.bot_user_id), DeviceId(config.appservice.bot_device))


class _Focus:
    """One running focus. Whatever ends it, ends all of it: never half of it goes on."""

    def __init__(self, config: Config, path: Path) -> None:
        self._config = config
        self._path = path
        self._leaving: asyncio.Task[None] | None = None
        self._metrics = Metrics(__version__)
        self._tracer = _open_tracer(config.tracing, _focus(config))
        trace = no_trace if self._tracer is None else self._tracer.record
        self._runtime = Runtime(policy_of(config), self._metrics, self, config.cascade.allow_private, trace=trace)
        self._ended: asyncio.Future[None] | None = None
        self._store: Store | None = None
        self._set_loudest: Callable[[int], None] | None = None
        self._operations: FocusOperations | None = None
        self._bot: Bot | None = None
        self._transactions = 0  # that were taken

    async def run(self) -> None:
        """Start everything, wait for a signal or a fault, stop everything; raises FatalError."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        loop.add_signal_handler(signal.SIGINT, self._finish)
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        async with AsyncExitStack() as stack:
            starting = loop.create_task(self._start(stack), name="start")
            await asyncio.wait((starting, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
                self._runtime.garbage.begin()
                log.info("mautrix-sfu %s is running as %s", __version__, _focus(self._config))
            await self._ended
            log.info("stopping")
            if self._leaving is not None:
                await _cancel(self._leaving)

    async def _start(self, stack: AsyncExitStack) -> None:
        config, loop = self._config, asyncio.get_running_loop()
        if self._tracer is not None:
            stack.callback(self._tracer.stop)
        database = config.database
        store = self._store = await Store.open(
            database.url, database.migrate, self._store_failed, self._store_away, database.away_timeout
        )
        self._metrics.watch_store(lambda: store.away is None, lambda: store.pending)
        stack.push_async_callback(store.close)
        try:
            stored = await store.load()
        except AwayError as error:
            raise error.fatal() from error
        media = open_media(config.media)
        stack.callback(media.shutdown)
        rtc = Rtc(media, self._runtime, advertised(config.media, media.local_addresses))
        stack.push_async_callback(rtc.stop)
        matrix = Matrix(self._matrix_settings(), self._runtime, stored.position)
        self._runtime.connect(matrix, media, rtc, store)
        stack.callback(self._runtime.stop)
        parts = Parts(self._runtime, matrix, media, store, self._metrics)
        operations = self._operations = FocusOperations(
            config, parts, policy_of, self.not_ready, lambda: self._transactions, self.reload
        )
        operations.restore(stored)
        bot = self._bot = Bot(
            config.bot_user_id, operations, operations.permission, matrix.send_message, self._runtime.wants_room
        )
        media.start(loop, self._runtime)
        media.set_loudest(config.conferences.loudest_voices)
        self._set_loudest = media.set_loudest
        runtime = self._runtime
        self._metrics.watch_focus(runtime.view, runtime.links, lambda: asdict(runtime.policy.limits))
        self._metrics.watch_media(media.published)
        self._metrics.watch_matrix(lambda: MatrixLoad(*runtime.incoming, *matrix.outgoing, matrix.unhandled_events))
        info = FocusInfo(config.bot_user_id, config.appservice.bot_device, __version__)
        http = HttpServer(config.http, config.metrics, info, self, self._metrics.render)
        stack.push_async_callback(http.stop)
        await http.start()
        watch = LoadWatch(media, self._runtime.operate, lambda: self._config.overload)
        self._run(stack, "loop lag", self._metrics.measure_loop_lag())
        self._run(stack, "load", watch.run())
        stack.push_async_callback(matrix.stop)
        await matrix.start()
        self._metrics.homeserver(True)  # it answered
        stack.callback(self._runtime.say_goodbye)
        stack.callback(operations.stopping)
        self._run(stack, "bot", bot.work())
        self._run(stack, "operations", operations.work())
        # Nothing is worked off before this: the edge's tasks run from the next round of the loop on.
        self._runtime.restore([(fact.event, fact.received_ms) for fact in stored.facts], tuple(stored.legs))
        self._run(stack, "check", warn_at_start(config, media.local_addresses))

    def _matrix_settings(self) -> MatrixSettings:
        config = self._config
        return MatrixSettings(
            homeserver_url=config.homeserver.address,
            focus=_focus(config),
            appservice_id=config.appservice.id,
            as_token=config.appservice.as_token,
            hs_token=config.appservice.hs_token,
            listen_host=config.appservice.hostname,
            listen_port=config.appservice.port,
            verify_ssl=config.homeserver.verify_ssl,
            start_timeout=config.homeserver.start_timeout,
            encryption=encryption_of(config),
            may_command=self._may_command,
            count=self._count_matrix,
            time=lambda what, seconds: self._metrics.observe_matrix(what.value, seconds),
            ended=lambda outcome: self._metrics.count_request(outcome.value),
        )

    def _count_matrix(self, what: Counted, by: int) -> None:
        self._metrics.count_matrix(what.value, by)
        self._transactions += by if what is Counted.TRANSACTIONS else 0

    def _may_command(self, user_id: str) -> bool:
        return self._operations is not None and self._operations.permission(user_id) >= Permission.ADMIN

    # ------------------------------------------------------------ the configuration, read again

    def reload(self) -> Reloaded:
        """Read the configuration again: take what can change now, name what needs a restart, or refuse it all."""
        try:
            file = ConfigFile.read(self._path)
            new = file.parse()
            set_up_logging(self._path, new)
        except ConfigError as error:
            set_up_logging(self._path, self._config)
            for problem in error.problems:
                log.error("the configuration is not reloaded: %s", problem)
            return Reloaded(problems=tuple(error.problems))
        for line in file.unknown_options():
            log.warning("%s", line)
        found = changes(self._config, new)
        self._config = with_live(self._config, new)
        self._adopt()
        log.info("the configuration is reloaded, changed: %s", ", ".join(found.live) or "nothing")
        if found.restart:
            log.warning("these changes need a restart: %s", ", ".join(found.restart))
        return Reloaded(found.live, found.restart)

    def _adopt(self) -> None:
        self._runtime.allow_private(self._config.cascade.allow_private)
        if self._set_loudest is not None:
            self._set_loudest(self._config.conferences.loudest_voices)
        if self._operations is not None:
            self._operations.reconfigure(self._config)

    # ------------------------------------------------------------ the end

    def _terminate(self) -> None:
        """SIGTERM: let running calls go on for a while; the second one ends them."""
        deadline = self._config.drain.deadline
        if self._leaving is not None or not self._runtime.busy or deadline <= 0:
            self._finish()
        else:
            log.info("draining: ends when nobody is in a call any more, or in %g s; a second SIGTERM ends it", deadline)
            self._leaving = asyncio.get_running_loop().create_task(self._leave(deadline), name="drain")

    async def _leave(self, deadline: float) -> None:
        self._runtime.operate(DrainChanged(True, deadline))
        await self._runtime.wait_idle()
        self._finish()

    def _finish(self, error: FatalError | None = None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def matrix_failed(self, message: str) -> None:
        """Without its homeserver the focus is half dead: end it."""
        internal = message.startswith("a fault in")
        self._finish(FatalError(message, ExitCode.INTERNAL if internal else ExitCode.TOKEN_REFUSED))

    def media_failed(self, message: str) -> None:
        """Without its media core the focus is half dead: end it."""
        self._finish(FatalError(f"the media core failed: {message}", ExitCode.MEDIA_FAILED))

    def _run(self, stack: AsyncExitStack, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Let a task do this until the focus ends."""
        task = asyncio.get_running_loop().create_task(self._supervise(name, work), name=name)
        stack.push_async_callback(_cancel, task)

    async def _supervise(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run what should never fail; if it does, end with it."""
        try:
            await work
        except Exception:
            log.exception("what does %s failed", name)
            self._finish(FatalError(f"a fault in what does {name}; the log has its trace", ExitCode.INTERNAL))

    def _store_failed(self, message: str) -> None:
        failure = self._store.failure if self._store is not None else None
        self._finish(failure or FatalError(message, ExitCode.DATABASE_UNREACHABLE))

    def _store_away(self, why: str | None) -> None:
        """Calls that run go on without the database; one that begins would not be told of a restart."""
        self._runtime.on_database(why is None)
        if self._operations is not None:
            self._operations.database_changed(why)

    # ------------------------------------------------------------ what is asked of it

    def homeserver_changed(self, up: bool) -> None:
        """Show whether the homeserver answers."""
        self._metrics.homeserver(up)
        if self._operations is not None:
            self._operations.homeserver_changed(up)

    def bot_event(self, event: dict[str, Any]) -> None:
        """Take a message to the bot, or that it has come or gone."""
        if event.get("type") == "m.room.message" and self._bot is not None:
            self._bot.take(event)
        elif self._operations is not None and event["content"].get("membership") in ("leave", "ban"):
            self._operations.set_notify(event["room_id"], None)

    def counted(self, what: Count) -> None:
        """Learn of something that the core counted."""
        if self._operations is not None:
            self._operations.counted(what)

    def conference_ended(self, ended: ConferenceEnded, bytes_in: int, bytes_out: int) -> None:
        """Learn of the end of a call."""
        if self._operations is not None:
            self._operations.conference_ended(ended, bytes_in, bytes_out)

    def not_ready(self) -> Sequence[str]:
        """Why calls cannot be carried now."""
        reasons = []
        if self._ended is None or self._ended.done():
            reasons.append("the focus is stopping")
        reasons += self._runtime.closed
        if not self._runtime.homeserver_up:
            reasons.append("the homeserver does not answer, or lags")
        if self._store is not None and self._store.away is not None:
            reasons.append("the database does not answer")
        if not self._runtime.caught_up:
            reasons.append("the homeserver's backlog is not worked off yet")
        return reasons

    def accepting(self) -> bool:
        """Whether new calls are taken."""
        return not self.not_ready()


def _open_tracer(config: TracingConfig, focus: Device) -> Tracer | None:
    if not config.enabled:
        return None
    try:
        return Tracer(config.endpoint, config.ratio, __version__, str(focus))
    except TracingUnavailableError as error:
        raise FatalError(f"tracing.enabled: {error}", ExitCode.CONFIG) from error


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
