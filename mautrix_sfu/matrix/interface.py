"""What the Matrix edge is told, and what it calls upwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from mautrix.util.async_db import Database, UpgradeTable

from ..core.ids import Device, RoomId

RawEvent = dict[str, Any]  # JSON as it came; its fields are the sender's claims until somebody checks them


class Message(NamedTuple):
    """A to-device message."""

    sender: str  # the homeserver vouches for it
    type: str
    content: dict[str, Any]
    proven: bool = False  # it came encrypted, and the device that it names encrypted it


class Counted(Enum):
    """What this edge counts."""

    TRANSACTIONS = "transactions"
    TRANSACTIONS_REFUSED = "transactions_refused"  # 503: the queue was full
    UNAUTHORIZED = "unauthorized"  # wrong hs_token
    MALFORMED = "malformed"  # a transaction, event or to-device message that is not what it should be
    EVENTS = "events"  # handed up
    EVENTS_REPEATED = "events_repeated"  # seen before, dropped
    HANDLER_FAILED = "handler_failed"  # a fault above this edge; the next event goes on
    TO_DEVICE_RECEIVED = "to_device_received"
    TO_DEVICE_REPEATED = "to_device_repeated"  # a page of `/sync` that came twice, dropped
    TO_DEVICE_SENT = "to_device_sent"
    TO_DEVICE_RETRIED = "to_device_retried"
    TO_DEVICE_DROPPED = "to_device_dropped"  # a queue was full, or the homeserver refused it for good
    SNAPSHOTS = "snapshots"
    SNAPSHOTS_REFUSED = "snapshots_refused"
    HOMESERVER_ERRORS = "homeserver_errors"  # requests that failed and are tried again
    DECRYPTED = "decrypted"  # to-device messages
    UNDECRYPTABLE = "undecryptable"
    ENCRYPTED_DROPPED = "encrypted_dropped"  # too many of one sender waited, or in all
    DEVICE_LIES = "device_lies"  # encrypted by one device, in the name of another
    DOWNGRADES = "downgrades"  # plain text about a call that is encrypted
    ENCRYPTED = "encrypted"
    UNENCRYPTABLE = "unencryptable"  # not sent: it may not go in plain text
    KEY_QUERIES = "key_queries"
    KEY_QUERIES_LIMITED = "key_queries_limited"  # not asked: too many
    DEVICE_KEYS_CHANGED = "device_keys_changed"  # under an id that had other keys before
    KEYS_PUBLISHED = "keys_published"  # one-time and fallback keys
    SESSIONS_RENEWED = "sessions_renewed"  # with devices that could not be understood


class Timed(Enum):
    """What this edge times, in seconds."""

    TRANSACTION_AGE = "transaction_age"  # of the newest event of the own homeserver in it
    TO_DEVICE_DELAY = "to_device_delay"  # from a message's queueing until the homeserver took it
    REQUEST = "request"  # to the homeserver, without the long poll


class Outcome(Enum):
    """How a request to the homeserver ended."""

    OK = "ok"
    REFUSED = "refused"  # 4xx
    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 5xx
    NO_HOMESERVER = "no_homeserver"  # a proxy's 4xx
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNREADABLE = "unreadable"  # no JSON, or none that fits


Count = Callable[[Counted, int], None]
Time = Callable[[Timed, float], None]
Ended = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class EncryptionSettings:
    """How to encrypt signalling."""

    database: Callable[[UpgradeTable], Database] = field(repr=False)  # not yet started
    pickle_key: str | None = field(default=None, repr=False)  # what keys in it are encrypted with
    require: bool = False  # whether foci without keys are not dialled


@dataclass(frozen=True, slots=True)
class MatrixSettings:
    """Everything the edge must be told. All times are seconds."""

    homeserver_url: str  # base URL of the client-server API
    focus: Device  # the bot user and its device; not the registration's sender_localpart
    appservice_id: str
    as_token: str = field(repr=False)
    hs_token: str = field(repr=False)
    listen_host: str = "127.0.0.1"
    listen_port: int = 29001
    verify_ssl: bool = True
    start_timeout: float = 120.0  # for a homeserver that is not up yet
    may_command: Callable[[str], bool] = field(default=lambda _user: False)  # whose invites the bot takes, and messages
    encryption: EncryptionSettings | None = None  # None: what comes encrypted is not understood
    count: Count = field(default=lambda _what, _by: None)
    time: Time = field(default=lambda _what, _seconds: None)
    ended: Ended = field(default=lambda _outcome: None)  # each request to the homeserver


class MatrixSink(Protocol):
    """What the runtime offers this edge. All are called on the event loop, none may block."""

    def wants_room(self, room_id: str) -> bool:
        """Say whether `m.room.member` of this room is of interest."""

    def on_room_event(self, event: RawEvent) -> None:
        """Take a call event, or a membership or redaction in a wanted room; in the order of receipt, once each."""

    async def kept(self) -> bool:
        """Wait until what the room events so far changed is on disk; False if that failed."""

    def on_bot_event(self, event: RawEvent) -> None:
        """Take the bot's own `m.room.member`, or a message of somebody who may command it."""

    def on_snapshot(self, room_id: RoomId, events: list[RawEvent] | None) -> None:
        """Take a room's call events and memberships; None: the focus may not, or could not, read them."""

    def on_to_device(self, batch: list[Message], position: str) -> None:
        """Take messages, each sender's in order, and the position to start from next time."""

    def on_homeserver(self, up: bool) -> None:
        """Learn that the homeserver is lost or lags, or is back; it counts as up after the start."""

    def on_caught_up(self) -> None:
        """Learn that the ping was answered and the backlog of transactions worked off; once."""

    def on_fatal(self, message: str) -> None:
        """Learn that the edge cannot go on: the homeserver refuses the token, or a fault of this program."""
