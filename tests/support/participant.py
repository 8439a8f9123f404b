"""A headless participant: a real Matrix device and a real WebRTC peer of a focus, with recorded media.

    async with Participant(homeserver, "@alice:localhost", "ALICE1", focus, password="…") as alice:
        await alice.join(room_id, conf_id)
        await alice.subscribe_to(bob)
        await alice.until(lambda: alice.video_of(bob).packets > 100)

It speaks as this project's own call page does (docs/protocol.md); with `Mischief` it speaks otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from mautrix_sfu.core.ids import Device
from mautrix_sfu.wire.sdp_parser import parse

from .participant_connection import Connection
from .participant_matrix import HomeserverClient
from .participant_media import LAYERS
from .participant_rtp import Received
from .participant_sdp import Published

CALL, CALL_MEMBER = "org.matrix.msc3401.call", "org.matrix.msc3401.call.member"
FOCI_ACTIVE, FOCI_PREFERRED = "org.matrix.msc3898.foci.active", "org.matrix.msc3898.foci.preferred"
ROOM_ID = "org.matrix.msc3898.room_id"
METADATA = "sdp_stream_metadata"
DEVICE_METADATA = "org.matrix.msc3077.sdp_stream_metadata"
JOIN_TIMEOUT = 40.0
PATIENCE = 30.0  # seconds for what takes far less on a machine with nothing else to do
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Mischief:
    """What a participant does wrong."""

    publish_state: bool = True
    state_session: str | None = None  # another session id in the room state
    state_device: str | None = None  # another device id in the room state
    expires_in_ms: int = HOUR_MS
    fingerprint: tuple[str, str] | None = None  # in the offer, of a certificate that it does not have
    name_room: bool = True
    answer_pings: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the focus."""

    channel: bool  # over the data channel, else to-device
    type: str
    content: dict[str, Any]
    at: float  # time.monotonic()


class Party(Protocol):
    """Anybody in the call: another participant, or a page in a browser."""

    @property
    def device(self) -> Device: ...


class RefusedError(Exception):
    """The focus rejected the call, or hung up; the reason."""


@dataclass
class _Call:
    """What belongs to one attempt to call the focus."""

    room_id: str
    conf_id: str
    connection: Connection
    call_id: str = field(default_factory=lambda: secrets.token_hex(8))
    seq: int = 0
    sdp: str | None = None  # the focus's answer
    refused: str | None = None


class Participant:
    """One device in one call."""

    def __init__(
        self,
        homeserver: str,
        user_id: str,
        device_id: str,
        focus: Device,
        *,
        password: str | None = None,
        token: str | None = None,
        mischief: Mischief | None = None,
    ) -> None:
        self.device = Device(user_id, device_id)  # type: ignore[arg-type]
        self.focus = focus
        self.mischief = mischief or Mischief()
        self.matrix = HomeserverClient(homeserver, user_id, device_id, token)
        self.session_id = secrets.token_hex(5)
        self.messages: list[Message] = []
        self.metadata: dict[str, Any] = {}  # as the focus last sent it
        self.muted = {"audio_muted": False, "video_muted": False}
        self.stopped_layers: set[str] = set()  # rids that are offered and never sent
        self.make_socket: Callable[[], socket.socket] | None = None  # a bound one; by default on loopback
        self.invited = asyncio.Event()  # an invite was sent
        self._password = password
        self._call: _Call | None = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._wanted: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        await self.matrix.start(self._password, self._on_to_device)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end_call(silently=True)
        await self.matrix.stop()

    # ------------------------------------------------------------ what tests look at

    @property
    def connection(self) -> Connection:
        """The WebRTC half: its socket counts every datagram, `send_raw` sends any."""
        assert self._call is not None
        return self._call.connection

    @property
    def received(self) -> dict[tuple[str, int], Received]:
        """Everything received and decrypted, by (mid, ssrc)."""
        return self.connection.received

    @property
    def hung_up(self) -> str | None:
        """Why the focus ended the call, if it did."""
        return None if self._call is None else self._call.refused

    def streams_of(self, other: Party) -> dict[str, Any]:
        """What the focus advertises of another device."""
        return {
            stream_id: stream
            for stream_id, stream in self.metadata.items()
            if (stream.get("user_id"), stream.get("device_id")) == (other.device.user_id, other.device.device_id)
        }

    def track_of(self, other: Party, kind: str) -> tuple[str, str] | None:
        """The (stream id, track id) under which another device's first track of a kind is shown."""
        for stream_id, stream in self.streams_of(other).items():
            for track_id, track in stream.get("tracks", {}).items():
                if track.get("kind") == kind:
                    return stream_id, track_id
        return None

    def heard(self, other: Party, kind: str) -> Received | None:
        """What is received of another device's first track of a kind."""
        shown = self.track_of(other, kind)
        for line in reversed(self.connection.offered):
            if shown is not None and line.msids and tuple(line.msids[0]) == shown:
                return self.connection.received_on(line.mid)
        return None

    def video_of(self, other: Party) -> Received:
        """Like `heard`, with zeros before the first packet."""
        return self.heard(other, "video") or Received("", 0, "video")

    def audio_of(self, other: Party) -> Received:
        """Like `heard`, with zeros before the first packet."""
        return self.heard(other, "audio") or Received("", 0, "audio")

    def said(self, message_type: str) -> list[Message]:
        """The focus's messages of a type."""
        return [message for message in self.messages if message.type == message_type]

    async def until(self, condition: Callable[[], object], timeout: float = PATIENCE, what: str = "") -> None:
        """Wait until the condition holds; AssertionError with `what` if it does not in time."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                seen = [(message.type, message.content.get("reason")) for message in self.messages[-8:]]
                raise AssertionError(f"not within {timeout:g} s: {what or condition}; last messages: {seen}")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 0.1))

    # ------------------------------------------------------------ the call

    async def join(
        self,
        room_id: str,
        conf_id: str,
        *,
        audio: bool = True,
        video: bool = True,
        create_call: bool = True,
        timeout: float = JOIN_TIMEOUT,
    ) -> None:
        """Call the focus, as far as an open data channel. Raises RefusedError or TimeoutError."""
        await self._end_call(silently=True)
        connection = self.make_connection(audio=audio, video=video)
        call = self._call = _Call(room_id, conf_id, connection)
        connection.on_received = self._changed.set
        connection.sender.stopped_layers = self.stopped_layers
        connection.bound = None if self.make_socket is None else self.make_socket()
        await connection.open()
        if create_call and await self.matrix.state(room_id, CALL, conf_id) is None:
            await self.matrix.send_state(room_id, CALL, conf_id, {"m.intent": "m.room", "m.type": "m.video"})
        if self.mischief.publish_state:
            await self.publish_state()
        await self.invite()
        async with asyncio.timeout(timeout):
            await self.until(lambda: call.sdp or call.refused, timeout + 1)
            if call.refused is not None:
                raise RefusedError(call.refused)
            await self.say("m.call.select_answer", selected_party_id=self.focus.device_id)
            connection.take_answer(call.sdp or "")
            await connection.connect(timeout)
        self._reader = asyncio.get_running_loop().create_task(self._read_channel(connection))

    def make_connection(self, *, audio: bool, video: bool) -> Connection:
        """The WebRTC half of a new call."""
        return Connection(audio=audio, video=video, fingerprint=self.mischief.fingerprint)

    async def publish_state(self, *, in_call: bool = True, active: bool = True) -> None:
        """Send the call member event: this device with this focus, or without either."""
        call = self._current()
        content = self.membership(call.conf_id, active=active) if in_call else {"m.calls": []}
        await self.matrix.send_state(call.room_id, CALL_MEMBER, self.device.user_id, content)

    def membership(self, conf_id: str, *, active: bool = True) -> dict[str, Any]:
        """The content of a call member event that lists this device."""
        foci = [{"user_id": self.focus.user_id, "device_id": self.focus.device_id}]
        device = {
            "device_id": self.mischief.state_device or self.device.device_id,
            "session_id": self.mischief.state_session or self.session_id,
            "expires_ts": int(time.time() * 1000) + self.mischief.expires_in_ms,
            "feeds": [{"purpose": "m.usermedia"}],
            FOCI_ACTIVE: foci if active else [],
            FOCI_PREFERRED: foci,
        }
        return {"m.calls": [{"m.call_id": conf_id, "m.devices": [device]}]}

    async def invite(self) -> None:
        """Send the invite and the candidates, as the deployed client does."""
        call = self._current()
        host, port = call.connection.socket.address
        await self.say(
            "m.call.invite",
            offer={"type": "offer", "sdp": call.connection.offer()},
            lifetime=60_000,
            invitee=self.focus.user_id,
            capabilities={},
            **{DEVICE_METADATA: self.own_metadata()},
        )
        candidate = f"candidate:1 1 udp 2130706431 {host} {port} typ host"
        ends = {"candidate": "", "sdpMid": "0", "sdpMLineIndex": 0}
        await self.say("m.call.candidates", candidates=[{**ends, "candidate": candidate}, ends])
        self.invited.set()

    async def say(self, message_type: str, **content: Any) -> None:
        """Send a to-device message of the call, with all the fields that it needs."""
        call = self._current()
        fields = {
            "call_id": call.call_id,
            "conf_id": call.conf_id,
            "version": "1",
            "party_id": self.device.device_id,
            "device_id": self.device.device_id,
            "sender_session_id": self.session_id,
            "dest_session_id": "sfu",
            "seq": call.seq,
            "org.matrix.msgid": secrets.token_hex(8),
        }
        if self.mischief.name_room:
            fields[ROOM_ID] = call.room_id
        call.seq += 1
        await self._send(message_type, {**fields, **content})

    async def _send(self, message_type: str, content: dict[str, Any]) -> None:
        await self.matrix.send_to_device(self.focus.user_id, self.focus.device_id, message_type, content)

    def tell(self, message_type: str, **content: Any) -> None:
        """Send a message over the data channel."""
        self.connection.send_text(json.dumps({"type": message_type, "content": content}))

    def subscribe(self, *tracks: tuple[str, str], size: tuple[int, int] | None = None) -> None:
        """Subscribe to these (stream id, track id) and nothing else; a size is for all of them."""
        sized = {} if size is None else {"width": size[0], "height": size[1]}
        self._wanted = [{"stream_id": stream, "track_id": track, **sized} for stream, track in tracks]
        self.tell("m.call.track_subscription", subscribe=self._wanted, unsubscribe=[])

    async def subscribe_to(
        self, *others: Party, size: tuple[int, int] | None = None, kinds: tuple[str, ...] = ("audio", "video")
    ) -> None:
        """Wait until the others are advertised, then subscribe to their tracks and nothing else."""
        pairs = [(other, kind) for other in others for kind in kinds]
        await self.until(lambda: all(self.track_of(*pair) for pair in pairs), what="the others are advertised")
        self.subscribe(*(found for pair in pairs if (found := self.track_of(*pair))), size=size)

    def mute(self, *, audio: bool, video: bool) -> None:
        """Say what is muted; a muted track is sent nothing of."""
        self.muted = {"audio_muted": audio, "video_muted": video}
        silent = {"audio": audio, "video": video}
        sender = self.connection.sender
        sender.paused = {track.track_id for track in self.connection.published if silent[track.kind]}
        self.tell("m.call.sdp_stream_metadata_changed", **{METADATA: self.own_metadata()})

    def negotiate(self, *, restart_ice: bool = False) -> None:
        """Offer all that is published now (a shared screen, say), or restart ICE."""
        self._describe("offer", self.connection.offer(restart_ice=restart_ice))

    def share_screen(self) -> Published:
        """Publish a second video stream."""
        track = self.connection.share_screen()
        self.negotiate()
        return track

    async def leave(self) -> None:
        """Hang up, leave the room's state, close the connection."""
        await self.say("m.call.hangup", reason="user_hangup")
        await self.publish_state(in_call=False)
        await self._end_call(silently=False)

    async def vanish(self) -> None:
        """Fall silent without a word, as a page that is closed does."""
        await self._end_call(silently=True)

    def own_metadata(self) -> dict[str, Any]:
        """The metadata of what is published."""
        found: dict[str, Any] = {}
        for track in self.connection.published:
            if not track.active:
                continue
            purpose = "m.usermedia" if track.stream_id == self.connection.stream_id else "m.screenshare"
            owner = {"user_id": self.device.user_id, "device_id": self.device.device_id}
            stream = found.setdefault(track.stream_id, {"purpose": purpose, **owner, **self.muted, "tracks": {}})
            size = {"width": LAYERS[0].width, "height": LAYERS[0].height} if track.kind == "video" else {}
            stream["tracks"][track.track_id] = {"kind": track.kind, **size}
        return found

    # ------------------------------------------------------------ what the focus says

    def _on_to_device(self, event: dict[str, Any]) -> None:
        content = event["content"]
        call = self._call
        if call is None or event["sender"] != self.focus.user_id or content.get("call_id") != call.call_id:
            return
        self.messages.append(Message(False, event["type"], content, time.monotonic()))
        match event["type"]:
            case "m.call.answer":
                call.sdp = content["answer"]["sdp"]
                self._take_metadata(content)
            case "m.call.reject" | "m.call.hangup":
                call.refused = content.get("reason", "")
        self._changed.set()

    async def _read_channel(self, connection: Connection) -> None:
        while True:
            text = await connection.peer.messages.get()
            message = json.loads(text)
            self._on_channel(connection, message["type"], message["content"])
            self.messages.append(Message(True, message["type"], message["content"], time.monotonic()))
            self._changed.set()

    def _on_channel(self, connection: Connection, message_type: str, content: dict[str, Any]) -> None:
        match message_type:
            case "m.call.ping" if self.mischief.answer_pings:
                self.tell("m.call.pong")
            case "m.call.sdp_stream_metadata_changed":
                self._take_metadata(content)
            case "m.call.negotiate":
                self._take_metadata(content)
                description = content["description"]
                if description["type"] == "answer":
                    connection.take_answer(description["sdp"])
                elif (answer := connection.take_offer(description["sdp"])) is not None:
                    self._describe("answer", answer)

    def _describe(self, kind: str, sdp: str) -> None:
        parse(sdp)  # never send what the focus could not even read
        self.tell("m.call.negotiate", description={"type": kind, "sdp": sdp}, **{METADATA: self.own_metadata()})

    def _take_metadata(self, content: dict[str, Any]) -> None:
        found = content.get(METADATA, content.get(DEVICE_METADATA))
        if found is not None:
            self.metadata = found

    # ------------------------------------------------------------ helpers

    def _current(self) -> _Call:
        assert self._call is not None, "join first"
        return self._call

    async def _end_call(self, *, silently: bool) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._reader = None
        if self._call is not None:
            await (self._call.connection.vanish() if silently else self._call.connection.close())
