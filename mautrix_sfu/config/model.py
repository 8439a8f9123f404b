"""The configuration as the program sees it: checked, complete, immutable. All times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .limits import Limits


@dataclass(frozen=True, slots=True)
class HomeserverConfig:
    """The homeserver as the focus reaches it."""

    address: str  # base URL, without a trailing slash
    domain: str  # its server name: what stands behind the colon in user ids
    verify_ssl: bool
    start_timeout: float  # that a start waits for a homeserver which does not answer yet


@dataclass(frozen=True, slots=True)
class AppserviceConfig:
    """The application service as the homeserver reaches it, and who it is."""

    address: str  # base URL for the registration
    hostname: str
    port: int
    id: str
    bot_username: str  # localpart
    bot_device: str  # device id
    all_rooms: bool
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Where the focus keeps what a restart must not lose."""

    url: str = field(repr=False)  # may hold a password
    migrate: bool
    away_timeout: float  # that a server may be away while the focus runs


@dataclass(frozen=True, slots=True)
class EncryptionConfig:
    """Signalling and command rooms that are encrypted."""

    enabled: bool
    require: bool  # of everybody who calls, and of foci that are dialled
    pickle_key: str | None = field(repr=False)  # what the keys in the database are encrypted with; None: a known word


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """The UDP port of the media core."""

    addresses: tuple[str, ...]  # IPv4 to bind; empty: those of the interfaces
    port: int
    advertise: tuple[str, ...]  # IPv4 for the candidates, behind 1:1 NAT; empty: what is bound
    threads: int | None  # None: one for each processor core


@dataclass(frozen=True, slots=True)
class ConferenceConfig:
    """Whom the focus serves, and how long it waits."""

    homeservers: tuple[str, ...]  # empty: the focus's own
    guests: bool
    banned: tuple[str, ...]  # user ids and server names
    invite_wait: float
    held_timeout: float
    ping_interval: float
    ping_timeout: float
    kick_time: float
    loudest_voices: int  # of a call that are passed on; 0: all
    video_codecs: tuple[str, ...]  # that people may send; empty: no video
    limits: Limits  # all but trunks, which is in the cascade section


@dataclass(frozen=True, slots=True)
class OverloadConfig:
    """The load from which on no more legs are taken."""

    media_cpu: float  # share of a processor core that the busiest media thread has
    loop_lag: float  # seconds that the event loop is late, in the mean of a second


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """How SIGTERM ends the focus."""

    deadline: float  # that running calls may go on; 0: they may not


@dataclass(frozen=True, slots=True)
class CascadeConfig:
    """Trunks with the foci of other homeservers."""

    enabled: bool
    peers: tuple[str, ...]  # user ids and homeservers; empty: every focus of a call
    allow_private: bool  # whether foci may be dialled at addresses that are not public
    trunks: int  # at most so many at a time


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The listener for the call page, the focus's public information, health and readiness."""

    hostname: str
    port: int
    public_url: str | None  # without a trailing slash
    page: bool
    page_homeserver: str | None  # the homeserver's base URL for browsers; None: found by its domain


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where Prometheus reads the metrics."""

    enabled: bool
    hostname: str
    port: int  # 0: on the listener of `http`


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """Where traces of how calls come about go."""

    enabled: bool
    endpoint: str
    ratio: float  # of the legs that are traced, 0 to 1


class Permission(IntEnum):
    """What somebody may ask of the bot; each level includes those below."""

    NONE = 0
    USE = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class NoticesConfig:
    """What the bot tells unasked."""

    interval: float  # between two messages
    repeat: float  # before the same thing is told again
    outage: float  # that a trunk or the homeserver is away before it is told


@dataclass(frozen=True, slots=True)
class BotConfig:
    """Who may use the focus, and command the bot; and what the bot tells unasked."""

    permissions: Mapping[str, Permission]  # by user id, server name, or "*"
    notices: NoticesConfig

    def permission(self, user_id: str) -> Permission:
        """What this user may do: the entry of the user, else of the user's homeserver, else of everybody."""
        for key in (user_id, user_id.partition(":")[2], "*"):
            if key in self.permissions:
                return self.permissions[key]
        return Permission.NONE


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the operator decides."""

    homeserver: HomeserverConfig
    appservice: AppserviceConfig
    database: DatabaseConfig
    encryption: EncryptionConfig
    media: MediaConfig
    conferences: ConferenceConfig
    overload: OverloadConfig
    drain: DrainConfig
    cascade: CascadeConfig
    http: HttpConfig
    metrics: MetricsConfig
    tracing: TracingConfig
    bot: BotConfig
    logging: Mapping[str, Any]  # for logging.config.dictConfig

    @property
    def bot_user_id(self) -> str:
        """The focus's user id."""
        return f"@{self.appservice.bot_username}:{self.homeserver.domain}"
