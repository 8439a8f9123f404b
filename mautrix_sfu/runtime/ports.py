"""What the runtime needs of each edge; the edges themselves have these methods, and more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from ..core.commands import ConferenceEnded, Count
from ..core.events import StoredLeg
from ..core.ids import Device, LegId, Mid, RoomId
from ..store import StoredFact
from ..wire.negotiation import LocalTransport
from ..wire.plan import MediaPlan, RemoteTransport


class Owner(Protocol):
    """The composition root."""

    def matrix_failed(self, message: str) -> None:
        """End the process: the homeserver refuses the focus, or its edge has a fault."""

    def media_failed(self, message: str) -> None:
        """End the process: a media thread failed."""

    def homeserver_changed(self, up: bool) -> None:
        """Learn whether the homeserver answers."""

    def bot_event(self, event: dict[str, Any]) -> None:
        """Take a message to the bot."""

    def counted(self, what: Count) -> None:
        """Learn of something that the core counted."""

    def conference_ended(self, ended: ConferenceEnded, bytes_in: int, bytes_out: int) -> None:
        """Learn of the end of a call, and how much its connections sent and received here."""


class MatrixPort(Protocol):
    """The Matrix edge."""

    def send_to_device(
        self, to: Device, event_type: str, content: dict[str, Any], after: Awaitable[None] | None = None
    ) -> None:
        """Queue a to-device message, in order per recipient, to go out when `after` is done."""

    def request_snapshot(self, room_id: RoomId) -> None:
        """Ask for a room's state; `on_snapshot` answers."""


class MediaPort(Protocol):
    """The media core."""

    def set_credentials(self, leg: LegId, ufrag: str, pwd: str) -> None:
        """Take new ICE credentials; the old ones hold until these are used."""

    def set_bitrate(self, leg: LegId, bits_per_second: int | None) -> None:
        """Drop what the peer sends beyond this; None: nothing."""

    def traffic(self) -> Sequence[tuple[LegId, int, int]]:
        """Of each leg the bytes that came and that were sent."""

    def set_group(self, leg: LegId, group: int) -> None:
        """Put a leg into a conference."""

    def set_plan(self, leg: LegId, plan: MediaPlan) -> None:
        """Take what a negotiation settled, the whole of it."""

    def describe_track(self, leg: LegId, mid: Mid, width: int | None, height: int | None, first: bool) -> None:
        """Take the size of a published track's highest layer."""

    def forward(
        self, leg: LegId, mid: Mid, source: LegId, source_mid: Mid, width: int | None, height: int | None
    ) -> None:
        """Send what `source` publishes on its m-line to `leg` on its own, in the layer that fits the size."""

    def forward_layers(
        self, leg: LegId, mid: Mid, source: LegId, source_mid: Mid, sizes: Sequence[tuple[int | None, int | None]]
    ) -> None:
        """Send the layers that these sizes choose, each once, on an m-line that sends simulcast."""

    def connect(self, leg: LegId, ufrag: str, pwd: str, candidates: Sequence[tuple[str, int]]) -> None:
        """Begin checks towards an ICE-lite peer; raises OSError where no socket is to be had."""

    def stop_forward(self, leg: LegId, mid: Mid) -> None:
        """Send nothing on this m-line any more."""

    def leg_stats(self, leg: LegId) -> dict[str, int] | None:
        """The numbers of one leg; None if it is not there, RuntimeError if the media core has failed."""


class RtcPort(Protocol):
    """The WebRTC edge."""

    def open(self, leg: LegId, dials: bool = False) -> LocalTransport:
        """Make a leg's side of a transport; one that dials is the DTLS client and opens the channel."""

    def start(self, leg: LegId, remote: RemoteTransport) -> None:
        """Begin DTLS as soon as ICE is up."""

    def ice_connected(self, leg: LegId) -> None:
        """Learn that ICE is up."""

    def feed_dtls(self, leg: LegId, datagram: bytes) -> None:
        """Take a datagram."""

    def send(self, leg: LegId, text: str) -> bool:
        """Send a message on the leg's channel; False if it is not open or too full."""

    def close(self, leg: LegId) -> None:
        """End a leg, its packets first."""


class StorePort(Protocol):
    """The store."""

    async def flush(self) -> bool:
        """Wait until everything asked for so far is on disk; False if that failed."""

    def set_position(self, position: str) -> None:
        """Keep how far to-device messages were read."""

    def put_fact(self, room_id: str, event_type: str, state_key: str, event: dict[str, Any], received_ms: int) -> None:
        """Keep a state event."""

    def replace_room(self, room_id: str, facts: Sequence[StoredFact]) -> None:
        """Keep exactly these events of a room."""

    def forget_room(self, room_id: str) -> None:
        """Keep nothing of a room's state."""

    def put_leg(self, leg: StoredLeg) -> asyncio.Future[None]:
        """Keep a leg; done when it is on disk."""

    def delete_leg(self, leg: StoredLeg) -> None:
        """Forget a leg."""
