"""One leg's SCTP association and signalling data channel (RFC 8831, RFC 8832): aiortc's, guarded against its peer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from aiortc.exceptions import InvalidStateError
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    DataChunk,
    RTCSctpTransport,
)

from .dtls import Dtls
from .sctp_guard import MAX_TSN_GAP, fault

CHANNEL_LABEL = "datachannel"  # as deployed clients call it; the called side does not look at it
MAX_MESSAGE = 262_144  # bytes, either way
MAX_UNSENT = 1024 * 1024  # bytes that wait to be sent
INITIAL_RTO = 1.0  # seconds, RFC 9260, section 16; aiortc's 3 s make a lost INIT felt
MAX_STREAMS = 16  # that a peer may use; it needs one
MAX_FRAGMENTS = 2048  # of messages that are not complete yet, per stream
MAX_FAULTS = 32  # packets that are no SCTP, before the association is given up

log = logging.getLogger(__name__)


class AssociationSink(Protocol):
    """Who is told what comes over the association."""

    def on_open(self) -> None:
        """The signalling channel is open."""

    def on_text(self, text: str) -> None:
        """A message on the signalling channel."""

    def on_garbage(self, why: str) -> None:
        """Something that is no message; costs nothing but this call."""

    def on_closed(self, reason: str, detail: str) -> None:
        """The signalling channel or the association has ended, with a hangup reason. Said once."""


class Association(RTCSctpTransport):
    """aiortc's SCTP. Whatever the peer sends, its reader survives; what comes out goes to the sink afterwards."""

    def __init__(self, transport: Dtls, port: int, sink: AssociationSink) -> None:
        super().__init__(transport, port)
        self._local_partial_reliability = False
        self._rto = INITIAL_RTO
        self._sink = sink
        self._arrived: list[Callable[[], None]] = []  # what to tell the sink when aiortc's code is done
        self._signalling: RTCDataChannel | None = None
        self._faults = 0
        self._told_closed = False
        self.on("datachannel", self._on_channel)

    # ------------------------------------------------------------ sending

    def open_channel(self) -> None:
        """Open the signalling channel (RFC 8832), as the side that dials does, once the association is there."""
        self._signalling = RTCDataChannel(self, RTCDataChannelParameters(label=CHANNEL_LABEL))
        self._signalling.on("open", lambda: self._arrived.append(self._sink.on_open))

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent for the first time."""
        waiting = sum(len(chunk.user_data) for chunk in self._outbound_queue)
        return waiting + (self._signalling.bufferedAmount if self._signalling is not None else 0)

    def send_text(self, text: str) -> bool:
        """Send on the signalling channel; False: it is not open, or the message or the backlog is too large."""
        size = len(text.encode("utf-8", "surrogatepass"))
        if self._signalling is None or size > MAX_MESSAGE or self.unsent + size > MAX_UNSENT:
            return False
        try:
            self._signalling.send(text)
        except (InvalidStateError, ValueError):  # closing; larger than the peer takes; half of a surrogate pair
            return False
        return True

    def abandon(self) -> None:
        """End it without a word to the sink or the peer: timers stop, nothing is sent any more."""
        self._told_closed = True
        self._set_state(self.State.CLOSED)

    # ------------------------------------------------------------ what aiortc calls

    async def _handle_data(self, data: bytes) -> None:
        """Take a packet. Nothing that it holds raises; what the sink raises does."""
        problem = fault(data)
        if problem is None:
            try:
                await super()._handle_data(data)
            except Exception as error:  # aiortc trusts its peer: asserts, indices, unpacking
                problem = f"aiortc refused it: {type(error).__name__}"
        if problem is not None:
            self._on_fault(problem)
        arrived, self._arrived = self._arrived, []
        for tell in arrived:
            tell()

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        """Keep what waits to be put together within bounds that aiortc only advertises."""
        if self._last_received_tsn is None:
            return
        ahead = (chunk.tsn - self._last_received_tsn) % 2**32
        if MAX_TSN_GAP < ahead < 2**31:
            return  # it will come again
        stream = self._inbound_streams.get(chunk.stream_id)
        if stream is None and len(self._inbound_streams) >= MAX_STREAMS:
            self._give_up("too many streams")
        elif self._advertised_rwnd < len(chunk.user_data) or (stream and len(stream.reassembly) >= MAX_FRAGMENTS):
            self._give_up("a message without end")
        else:
            await super()._receive_data_chunk(chunk)

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        """Take a whole message; those on the signalling channel never pass through aiortc's event handlers."""
        if pp_id == WEBRTC_DCEP:
            if data[:1] == b"\x03" and stream_id in self._data_channels:
                self._garbage("a channel was opened twice")
            else:
                await super()._data_channel_receive(stream_id, pp_id, data)
        elif self._signalling is None or stream_id != self._signalling.id:
            self._garbage("a message on a channel that is not the signalling channel")
        elif self._signalling.readyState == "connecting":
            self._garbage("a message on a channel that is not open yet")
        elif pp_id in (WEBRTC_BINARY, WEBRTC_BINARY_EMPTY):
            self._garbage("a binary message")
        elif pp_id not in (WEBRTC_STRING, WEBRTC_STRING_EMPTY):
            self._garbage("a message of an unknown kind")
        elif len(data) > MAX_MESSAGE:
            self._garbage(f"a message of more than {MAX_MESSAGE} bytes")
        else:
            self._text(b"" if pp_id == WEBRTC_STRING_EMPTY else data)

    def _set_state(self, state: RTCSctpTransport.State) -> None:
        super()._set_state(state)
        if state == self.State.CLOSED:
            self._end("user_hangup", "the SCTP association ended")

    def _data_channel_closed(self, stream_id: int) -> None:
        super()._data_channel_closed(stream_id)
        if self._signalling is not None and self._signalling.id == stream_id:
            self._end("user_hangup", "the signalling channel was closed")

    # ------------------------------------------------------------ helpers

    def _on_channel(self, channel: RTCDataChannel) -> None:
        """The first channel is for signalling; the peer has no use for another."""
        if self._signalling is None:
            self._signalling = channel
            self._arrived.append(self._sink.on_open)
        else:
            self._garbage("a second channel")
            channel.close()

    def _text(self, data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self._garbage("a message that is not UTF-8")
            return
        self._arrived.append(lambda: self._sink.on_text(text))

    def _garbage(self, why: str) -> None:
        self._arrived.append(lambda: self._sink.on_garbage(why))

    def _on_fault(self, problem: str) -> None:
        log.debug("SCTP packet dropped: %s", problem)
        self._faults += 1
        self._garbage(problem)
        if self._faults >= MAX_FAULTS:
            self._give_up("too many packets that are no SCTP")

    def _give_up(self, why: str) -> None:
        self._end("unknown_error", why)
        self._set_state(self.State.CLOSED)

    def _end(self, reason: str, detail: str) -> None:
        if not self._told_closed:
            self._told_closed = True
            self._sink.on_closed(reason, detail)
