"""The bot's `Operations` of a running focus, and the task that keeps what they need."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from .. import __version__
from ..admin import AuditLine, Ban, Figures, Limit, PastCall, RefusedError, Status
from ..admin.reply import duration, lines
from ..check import check
from ..config import Config, LimitError, Permission, limit_named
from ..core import orders
from ..core.commands import ConferenceEnded, Count
from ..core.ids import ConferenceKey, DeviceId, Kind, LegId, UserId
from ..core.policy import Policy
from ..core.view import CallView, FocusView, LinkView, TrackView
from ..findings import Finding
from ..matrix import Matrix, UnavailableError
from ..matrix import RefusedError as HomeserverRefusedError
from ..media import Media
from ..metrics import Metrics
from ..runtime import Runtime
from ..store import AuditEntry, AwayError, Store, Stored, StoredBan
from .bans import Bans
from .history import History
from .load import Rates, limits_of
from .watch import Watch

log = logging.getLogger("mautrix_sfu")

TICK = 1.0  # seconds between looks at what runs out and what there is to tell
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the operations are made of."""

    runtime: Runtime
    matrix: Matrix
    media: Media
    store: Store
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the configuration again: options by their path, or why nothing was taken."""

    live: tuple[str, ...] = ()  # changed, and in force
    restart: tuple[str, ...] = ()  # changed, and in force after a restart
    problems: tuple[str, ...] = ()  # the file is refused: everything is as before


@contextmanager
def _refusing_while_away() -> Iterator[None]:
    try:
        yield
    except AwayError as error:
        raise RefusedError(f"Not now: {error}") from error


class FocusOperations:
    """What admins can see and do of one focus."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        policy_of: Callable[[Config], Policy],
        not_ready: Callable[[], Sequence[str]],
        transactions: Callable[[], int],  # taken so far
        reload: Callable[[], Reloaded],
    ) -> None:
        self._config = config
        self._runtime, self._matrix, self._media = parts.runtime, parts.matrix, parts.media
        self._store, self._metrics = parts.store, parts.metrics
        self._policy_of = policy_of
        self._not_ready = not_ready
        self._transactions = transactions
        self._reload = reload
        self._started = time.monotonic()
        self._bans = Bans()
        self._limits: dict[str, int] = {}  # that a command changed
        self._notify_rooms: dict[str, str | None] = {}  # and who asked
        self._rates = Rates()
        self._watch = Watch(config.bot.notices)
        self._history = History(parts.store)

    # ------------------------------------------------------------ keeping

    def restore(self, stored: Stored) -> None:
        """Take what a restart did not lose, before anybody is served."""
        self._bans = Bans(stored.bans)
        self._notify_rooms = dict(stored.notify_rooms)
        self._lift_expired()
        self._adopt()
        self._watch.started(__version__, len(stored.legs), time.monotonic())

    async def work(self) -> None:
        """Lift bans that have run out, measure, and tell what there is to tell, for ever."""
        while True:
            now = time.monotonic()
            if self._lift_expired():
                self._adopt()
            with suppress(RuntimeError):  # the media core has failed, and the process ends
                self._rates.sample(now, self._media.published()[0], time.process_time())
            self._history.look(self._runtime.calls(), now, _now_ms())
            self._watch.links(self._runtime.links(), now)
            self._tell(self._watch.notices.take(now))
            await asyncio.sleep(TICK)

    def stopping(self) -> None:
        """The last word."""
        self._tell([f"mautrix-sfu {__version__} is stopping."])

    def _tell(self, said: Sequence[str]) -> None:
        for room_id in self._notify_rooms.keys() & self._matrix.bot_rooms if said else ():
            if not self.notifies(room_id):
                continue
            for content in lines(said).contents():
                self._matrix.send_message(room_id, content)

    def _lift_expired(self) -> bool:
        over = self._bans.take_expired(_now_ms())
        for ban in over:
            self._store.delete_ban(ban.who)
            log.info("the ban of %s has run out", ban.who)
        return bool(over)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration. Bans stay, and limits that a command changed unless the file changed them."""
        before, after = self._policy_of(self._config).limits, self._policy_of(config).limits
        same = {name for name in self._limits if getattr(before, name) == getattr(after, name)}
        self._limits = {name: value for name, value in self._limits.items() if name in same}
        self._config = config
        self._watch.configure(config.bot.notices)
        self._adopt()

    def _adopt(self) -> None:
        """Put what is configured, banned and changed into force."""
        base = self._policy_of(self._config)
        limits = replace(base.limits, **self._limits)
        policy = replace(base, banned=base.banned | self._bans.names(), limits=limits)
        self._runtime.operate(orders.PolicyChanged(policy))

    # ------------------------------------------------------------ what happens

    def permission(self, user_id: str) -> Permission:
        """What a user may ask."""
        return self._config.bot.permission(user_id)

    def counted(self, what: Count) -> None:
        """The core counted something."""
        self._watch.counted(what, time.monotonic())

    def homeserver_changed(self, up: bool) -> None:
        """The homeserver does not answer any more, or again."""
        self._watch.homeserver(up, time.monotonic())

    def database_changed(self, why: str | None) -> None:
        """The database does not answer any more, for this reason, or again."""
        self._watch.database(why, time.monotonic())

    def conference_ended(self, ended: ConferenceEnded, bytes_in: int, bytes_out: int) -> None:
        """A call is over."""
        call = CallView(ended.conference, ended.seconds, len(ended.people), ended.peak)
        said = "call ended after %s: %d people, at most %d devices at a time"
        log.info(said, duration(call.seconds), call.people, call.peak)
        self._history.ended(call, bytes_in, bytes_out, _now_ms())

    # ------------------------------------------------------------ to see

    def status(self) -> Status:
        """How the focus is."""
        rates = self._rates
        return Status(
            __version__,
            time.monotonic() - self._started,
            tuple(self._not_ready()),
            rates.bits_in,
            rates.bits_out,
            rates.processor,
            self._metrics.worst_lag,
        )

    def view(self) -> FocusView:
        """Its calls and connections."""
        return self._runtime.view()

    def tracks(self, leg: LegId) -> Sequence[TrackView]:
        """What a leg publishes."""
        return self._runtime.tracks(leg)

    def figures(self, leg: LegId) -> Figures | None:
        """What the media core counts of a leg."""
        try:
            stats = self._media.leg_stats(leg)
        except RuntimeError:  # the media core has failed, and the process ends
            return None
        if stats is None:
            return None
        trip = stats.get("round_trip_microseconds", 0)
        return Figures(
            _address(stats["peer_address"], stats["peer_port"]),
            stats["bytes_in_total"],
            stats["bytes_out_total"],
            stats["packets_out_total"],
            stats["lost_total"],
            stats["fraction_lost_max"] / 256,  # RFC 3550, section 6.4.1
            trip / 1e6 if trip else None,
        )

    def links(self) -> Sequence[LinkView]:
        """The trunks that there are or should be."""
        return self._runtime.links()

    def limits(self) -> Sequence[Limit]:
        """Every limit that has a name."""
        configured = self._policy_of(self._config).limits
        return limits_of(self._runtime.policy.limits, configured, self._runtime.view().used)

    def bans(self) -> Sequence[Ban]:
        """Whom a command banned."""
        return [Ban(**asdict(ban)) for ban in self._bans.all()]

    def banned_by_configuration(self) -> Sequence[str]:
        """Whom the configuration bans."""
        return self._config.conferences.banned

    def peers(self) -> Sequence[str] | None:
        """The foci that may have trunks with this one."""
        return self._config.cascade.peers if self._config.cascade.enabled else None

    async def history(self, number: int) -> Sequence[PastCall]:
        """The calls that ended last."""
        with _refusing_while_away():
            return [PastCall(**asdict(call)) for call in await self._store.ended_calls(number)]

    async def audit(self, number: int) -> Sequence[AuditLine]:
        """What admins did last."""
        with _refusing_while_away():
            return [AuditLine(**asdict(entry)) for entry in await self._store.audit(number)]

    async def check(self, room_id: str | None) -> Sequence[Finding]:
        """Test the installation."""
        return await check(self._config, room_id, self._transactions)

    async def ping(self) -> float:
        """How long the homeserver takes for an answer."""
        try:
            return await self._matrix.round_trip()
        except (HomeserverRefusedError, UnavailableError) as error:
            raise RefusedError(f"The homeserver does not answer: {error}") from error

    def log_level(self) -> str:
        """How much is logged."""
        return logging.getLevelName(log.getEffectiveLevel()).lower()

    # ------------------------------------------------------------ to do

    def kick(self, user: UserId, device: DeviceId | None, reason: str) -> None:
        """End connections of a user."""
        self._runtime.operate(orders.Kick(user, device, reason))

    def end(self, call: ConferenceKey) -> None:
        """End a call."""
        self._runtime.operate(orders.EndConference(call))

    def mute(self, user: UserId, kind: Kind | None, muted: bool) -> None:
        """Forward nothing of a user's, or again."""
        self._runtime.operate(orders.SetMuted(user, kind, muted))

    def ban(self, who: str, seconds: float | None, by: str, reason: str) -> None:
        """Serve a user, or all of a homeserver, no more."""
        if who == self._config.bot_user_id:
            raise RefusedError(f"{who} is this focus itself.")
        now_ms = _now_ms()
        until_ms = None if seconds is None else now_ms + round(seconds * 1000)
        ban = StoredBan(who, until_ms, by, reason, now_ms)
        self._bans.put(ban)
        self._store.put_ban(ban)
        self._adopt()

    def unban(self, who: str) -> None:
        """Lift a ban."""
        self._bans.remove(who)
        self._store.delete_ban(who)
        self._adopt()

    def set_limit(self, name: str, value: str) -> None:
        """Change a limit until the next start."""
        if value == DEFAULT:
            self._limits.pop(name, None)
        else:
            try:
                self._limits[name] = limit_named(name).parse(value)
            except LimitError as error:
                raise RefusedError(f"{error}, or {DEFAULT}") from error
        self._adopt()

    def drain(self, on: bool) -> None:
        """Take no new calls, or take them again. Who only drains does not mean to end calls at once."""
        self._runtime.operate(orders.DrainChanged(on, (self._config.drain.deadline or None) if on else None))

    def set_log_level(self, level: str) -> None:
        """Log more or less until the next start or `reload`."""
        log.setLevel(level.upper())

    async def reload(self) -> Sequence[str]:
        """Take the configuration file anew."""
        done = self._reload()
        if done.problems:
            raise RefusedError(f"The file is refused, and everything is as before: {'; '.join(done.problems)}")
        said = [f"in force now: {path}" for path in done.live]
        return said + [f"in force after a restart: {path}" for path in done.restart]

    def set_notify(self, room_id: str, by: str | None) -> None:
        """Tell a room what happens, by the word of this admin; None: no more."""
        if by is not None:
            self._notify_rooms[room_id] = by
            self._store.put_notify_room(room_id, by)
        elif room_id in self._notify_rooms:
            del self._notify_rooms[room_id]
            self._store.delete_notify_room(room_id)

    def notifies(self, room_id: str) -> bool:
        """Whether a room is told what happens: only as long as who asked is an admin."""
        by = self._notify_rooms.get(room_id)
        return room_id in self._notify_rooms and (by is None or self.permission(by) >= Permission.ADMIN)

    def put_audit(self, by: str, room_id: str, command: str, outcome: str) -> None:
        """Keep what an admin did."""
        log.info("admin %s in %s: %s -> %s", by, room_id, command, outcome)
        self._store.put_audit(AuditEntry(_now_ms(), by, room_id, command, outcome))


def _address(number: int, port: int) -> str | None:
    """An IPv4 address and port as they are written; None where there is none yet."""
    return f"{ipaddress.IPv4Address(number)}:{port}" if port else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
