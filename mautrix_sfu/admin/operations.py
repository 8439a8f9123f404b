"""What the bot's commands ask of the focus. The program makes it out of its parts; tests have one that records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..core.ids import ConferenceKey, DeviceId, Kind, LegId, UserId
from ..core.view import FocusView, LinkView, TrackView
from ..findings import Finding


class RefusedError(Exception):
    """What was asked for cannot be done. The message is for the admin who asked."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the focus is. Rates are over the last seconds; None where nothing is measured yet."""

    version: str
    uptime: float  # seconds
    not_ready: Sequence[str]  # why it cannot carry calls now
    bits_in: float | None  # a second
    bits_out: float | None
    processor: float | None  # processor cores that are busy
    loop_lag: float | None  # seconds that the event loop was late at worst


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and how close the focus is to it."""

    name: str
    unit: str
    value: int
    configured: int  # what it is without a command
    now: float  # the most of it that is in use; of what passes, sizes and rates: lately


@dataclass(frozen=True, slots=True)
class Figures:
    """What the media core counts of one leg."""

    address: str | None  # where its peer's packets come from
    bytes_in: int
    bytes_out: int
    packets_out: int
    lost: int  # of those sent, as the peer reports
    losing: float  # share of the packets sent that its peer lost lately, of the worst track
    round_trip: float | None  # seconds, by its reports


@dataclass(frozen=True, slots=True)
class Ban:
    """Somebody who is kept out. Times are milliseconds of the wall clock."""

    who: str  # a user id or a homeserver's name
    until_ms: int | None  # None: until it is lifted
    by: str
    reason: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What an admin did."""

    at_ms: int
    by: str
    room_id: str
    command: str
    outcome: str


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that is over."""

    room_id: str
    conf_id: str
    started_ms: int
    ended_ms: int
    people: int  # who took part at all
    peak: int  # at once
    bytes_in: int
    bytes_out: int


class Operations(Protocol):
    """What admins can see and do. Whatever cannot be done raises RefusedError."""

    # ------------------------------------------------------------ to see

    def status(self) -> Status:
        """How the focus is."""

    def view(self) -> FocusView:
        """Its calls and connections."""

    def tracks(self, leg: LegId) -> Sequence[TrackView]:
        """What a leg publishes."""

    def figures(self, leg: LegId) -> Figures | None:
        """What the media core counts of a leg; None if it has gone."""

    def links(self) -> Sequence[LinkView]:
        """The trunks that there are or should be."""

    def limits(self) -> Sequence[Limit]:
        """Every limit that has a name."""

    def bans(self) -> Sequence[Ban]:
        """Whom a command banned."""

    def banned_by_configuration(self) -> Sequence[str]:
        """Whom the configuration bans."""

    def peers(self) -> Sequence[str] | None:
        """The foci that may have trunks with this one; empty: each that a call names. None: no trunks at all."""

    async def history(self, number: int) -> Sequence[PastCall]:
        """The calls that ended last, newest first."""

    async def audit(self, number: int) -> Sequence[AuditLine]:
        """What admins did last, newest first."""

    async def check(self, room_id: str | None) -> Sequence[Finding]:
        """Test the installation, and what calls need in a room."""

    async def ping(self) -> float:
        """How long the homeserver takes for an answer, in seconds."""

    def log_level(self) -> str:
        """How much is logged."""

    # ------------------------------------------------------------ to do

    def kick(self, user: UserId, device: DeviceId | None, reason: str) -> None:
        """End connections of a user, of one device or all, and keep them out for a while."""

    def end(self, call: ConferenceKey) -> None:
        """End a call."""

    def mute(self, user: UserId, kind: Kind | None, muted: bool) -> None:
        """Forward nothing of a user's, of one kind or all; or forward it again."""

    def ban(self, who: str, seconds: float | None, by: str, reason: str) -> None:
        """Serve a user, or all of a homeserver, no more; None: until it is lifted."""

    def unban(self, who: str) -> None:
        """Lift a ban."""

    def set_limit(self, name: str, value: str) -> None:
        """Change a limit until the next start; `default` gives back what the configuration says."""

    def drain(self, on: bool) -> None:
        """Take no new calls, or take them again."""

    def set_log_level(self, level: str) -> None:
        """Log more or less until the next start or `reload`."""

    async def reload(self) -> Sequence[str]:
        """Take the configuration file anew; what has changed, line by line."""

    def set_notify(self, room_id: str, by: str | None) -> None:
        """Tell a room what happens, by the word of this admin; None: no more."""

    def notifies(self, room_id: str) -> bool:
        """Whether a room is told what happens."""

    def put_audit(self, by: str, room_id: str, command: str, outcome: str) -> None:
        """Keep what an admin did."""
