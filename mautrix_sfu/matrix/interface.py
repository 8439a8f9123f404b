"""What the Matrix edge is told, and what it calls upwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ..core.ids import Device, RoomId

RawEvent = dict[str, Any]  # JSON as it came; its fields are the sender's claims until somebody checks them


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


Count = Callable[[Counted, int], None]


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
    count: Count = field(default=lambda _what, _by: None)


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

    def on_to_device(self, batch: list[tuple[str, str, dict[str, Any]]], position: str) -> None:
        """Take (sender, type, content)s in order, and the position to start from next time."""

    def on_homeserver(self, up: bool) -> None:
        """Learn that the homeserver is lost or lags, or is back; it counts as up after the start."""

    def on_caught_up(self) -> None:
        """Learn that the ping was answered and the backlog of transactions worked off; once."""

    def on_fatal(self, message: str) -> None:
        """Learn that the edge cannot go on: the homeserver refuses the token, or a fault of this program."""
