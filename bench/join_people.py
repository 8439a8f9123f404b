"""People who join by the protocol's rules and cost little: one process plays hundreds of them.

They shake hands by aiortc, and keep up ICE consent, SCTP and the pings of the focus. What is spared is aiortc's way of
receiving messages: chunks that arrive in order are taken by a few lines of this module.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiortc.rtcsctptransport import RTCSctpTransport

from mautrix_sfu.core.ids import Device
from tests.support.dtls_client import DtlsClient
from tests.support.participant import Participant
from tests.support.participant_connection import Connection
from tests.support.participant_matrix import HomeserverClient
from tests.support.participant_sender import Sender

_COMMON, _DATA_HEADER = 12, 16
_DATA, _LAST = 0, 1  # chunk type; flag of a message's last chunk
_STRING = 51  # payload protocol of a text (RFC 8831)
_CHANGED = '{"type":"m.call.sdp_stream_metadata_changed"'


class LightSctp(RTCSctpTransport):
    """aiortc's association, but for DATA that comes in order: no object for a chunk, a SACK for every second packet."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._parts: list[bytes] = []
        self._unacknowledged = 0

    async def _handle_data(self, data: bytes) -> None:
        if len(data) < _COMMON + _DATA_HEADER or data[_COMMON] != _DATA or self._last_received_tsn is None:
            await super()._handle_data(data)
            return
        position, ended = _COMMON, False
        while position + _DATA_HEADER <= len(data):
            kind, flags, length, tsn, stream, _, protocol = struct.unpack_from("!BBHLHHL", data, position)
            if kind != _DATA or length <= _DATA_HEADER:
                break
            if tsn == (self._last_received_tsn + 1) % 2**32:
                self._last_received_tsn = tsn
                self._parts.append(data[position + _DATA_HEADER : position + length])
                if flags & _LAST:
                    message, self._parts = b"".join(self._parts), []
                    ended = True
                    await self._data_channel_receive(stream, protocol, message)
            else:
                ended = True  # lost or repeated: what is missing is to be sent again
            position += (length + 3) // 4 * 4
        self._unacknowledged += 1
        if ended or self._unacknowledged >= 2:
            self._unacknowledged = 0
            await self._send_sack()


class _LightPeer(DtlsClient):
    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__(send)
        self.sctp = LightSctp(self.dtls)


class _Silent(Sender):
    def start(self) -> None:
        """Play nothing."""


class LightConnection(Connection):
    """A connection that plays nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.peer = _LightPeer(self._send_to_focus)
        self.descriptions.fingerprint = self.peer.fingerprint
        self.sender = self.make_sender()

    def make_sender(self) -> Sender:
        """What plays the published tracks."""
        return _Silent(self._send_rtp)


@dataclass(slots=True)
class Stages:
    """When somebody who joins came how far (time.monotonic())."""

    invited: float = 0.0
    answered: float = 0.0
    open: float = 0.0
    shown: float = 0.0  # the others' metadata


class Person(Participant):
    """Somebody in the call, through any homeserver."""

    def __init__(self, matrix: HomeserverClient, focus: Device) -> None:
        super().__init__("", matrix.user_id, matrix.device_id, focus, token="none")
        self.matrix = matrix
        self.stages = Stages()
        self.metadata_bytes = 0
        self.metadata_messages = 0
        self.attentive = False  # reads the metadata that comes

    def make_connection(self, *, audio: bool, video: bool) -> Connection:
        """The WebRTC half of a new call."""
        return LightConnection(audio=audio, video=video)

    async def invite(self) -> None:
        """Send the invite and the candidates."""
        self.stages = Stages(time.monotonic())
        await super().invite()

    def _on_to_device(self, event: dict[str, Any]) -> None:
        super()._on_to_device(event)
        self.messages.clear()
        if event["type"] == "m.call.answer" and not self.stages.answered:
            self.stages.answered = time.monotonic()
        if event["type"] == "m.call.hangup":
            self.on_hangup()

    def on_hangup(self) -> None:
        """The focus ended a leg."""

    def on_metadata(self, text: str) -> None:
        """The others, as the focus shows them; costs time if it is read."""

    async def _read_channel(self, connection: Connection) -> None:
        self.stages.open = self.stages.open or time.monotonic()
        while True:
            text = str(await connection.peer.messages.get())
            if text.startswith(_CHANGED):
                self.metadata_bytes += len(text)
                self.metadata_messages += 1
                self.stages.shown = self.stages.shown or time.monotonic()
                self.on_metadata(text)
                if not self.attentive:
                    continue
            message = json.loads(text)
            self._on_channel(connection, message["type"], message["content"])
            self._changed.set()
