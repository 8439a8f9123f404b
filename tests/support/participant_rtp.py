"""RTP and RTCP as a test participant needs them: written, read and counted (RFC 3550, RFC 4585, RFC 7741, RFC 8285)."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, TRANSPORT_FEEDBACK, PAYLOAD_FEEDBACK = 200, 201, 202, 205, 206
_NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """One RTP packet; extensions by id, with one-byte headers."""

    pt: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    extensions: dict[int, bytes] = field(default_factory=dict)
    padding: int = 0  # bytes

    def __bytes__(self) -> bytes:
        elements = b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in self.extensions.items())
        elements += bytes(-len(elements) % 4)
        first = 0x80 | (0x10 if elements else 0)
        header = struct.pack(
            "!BBHLL", first, self.pt | (0x80 if self.marker else 0), self.sequence, self.timestamp, self.ssrc
        )
        if elements:
            header += struct.pack("!HH", 0xBEDE, len(elements) // 4) + elements
        return header + self.payload

    @classmethod
    def parse(cls, data: bytes) -> RtpPacket:
        """Read a packet. Raises ValueError."""
        if len(data) < 12:
            raise ValueError("short RTP packet")
        first, second, sequence, timestamp, ssrc = struct.unpack_from("!BBHLL", data)
        position = 12 + 4 * (first & 0x0F)
        extensions: dict[int, bytes] = {}
        if first & 0x10:
            profile, words = struct.unpack_from("!HH", data, position)
            block = data[position + 4 : position + 4 + 4 * words]
            extensions = _one_byte(block) if profile == 0xBEDE else _two_byte(block)
            position += 4 + 4 * words
        padding = data[-1] if first & 0x20 else 0
        payload = data[position : len(data) - padding]
        return cls(second & 0x7F, sequence, timestamp, ssrc, payload, bool(second & 0x80), extensions, padding)


def _one_byte(block: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position < len(block):
        number, length = block[position] >> 4, (block[position] & 0x0F) + 1
        if number == 0:
            position += 1
            continue
        found[number] = block[position + 1 : position + 1 + length]
        position += 1 + length
    return found


def _two_byte(block: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + 1 < len(block):
        number, length = block[position], block[position + 1]
        if number == 0:
            position += 1
            continue
        found[number] = block[position + 2 : position + 2 + length]
        position += 2 + length
    return found


@dataclass(frozen=True, slots=True)
class Vp8Start:
    """What a VP8 packet's payload descriptor says (RFC 7741, section 4.2) and, of a key frame's start, its size."""

    starts_frame: bool
    picture_id: int | None
    size: tuple[int, int] | None  # of a key frame

    @classmethod
    def parse(cls, payload: bytes) -> Vp8Start:
        """Read it. Raises IndexError or ValueError for less than a descriptor."""
        first, position, picture_id = payload[0], 1, None
        if first & 0x80:
            flags = payload[1]
            position = 2
            if flags & 0x80:
                long = payload[position] & 0x80
                picture_id = struct.unpack_from("!H", payload, position)[0] & 0x7FFF if long else payload[position]
                position += 2 if long else 1
            position += bool(flags & 0x40) + bool(flags & 0x30)
        starts = bool(first & 0x10) and not first & 0x0F
        frame = payload[position:]
        if not starts or not frame or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
            return cls(starts, picture_id, None)
        width, height = struct.unpack_from("<HH", frame, 6)
        return cls(starts, picture_id, (width & 0x3FFF, height & 0x3FFF))


@dataclass(slots=True)
class Received:
    """What came of one source. Sequence numbers count without wrapping."""

    mid: str
    ssrc: int
    kind: str
    packets: int = 0
    octets: int = 0
    duplicates: int = 0
    missing: int = 0  # numbers skipped and not seen since
    highest: int = -1
    first_at: float = 0.0  # time.monotonic()
    last_at: float = 0.0
    last_timestamp: int = 0
    timestamp_jumps: int = 0  # more than 5 s between packets that came within 1 s
    key_frames: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of key frames, on change
    frames: int = 0
    picture_gaps: int = 0  # frames whose picture id did not follow
    picture_id: int | None = None
    padding_only: int = 0
    _absent: set[int] = field(default_factory=set)

    @property
    def size(self) -> tuple[int, int] | None:
        """Of the last key frame."""
        return self.sizes[-1] if self.sizes else None

    def count(self, packet: RtpPacket) -> None:
        """Take one packet."""
        now = time.monotonic()
        index = self._index(packet.sequence)
        if index <= self.highest and index not in self._absent:
            self.duplicates += 1
            return
        clock = 48000 if self.kind == "audio" else 90000
        moved = (packet.timestamp - self.last_timestamp + 2**31) % 2**32 - 2**31
        if self.packets and now - self.last_at < 1 and abs(moved) > 5 * clock:
            self.timestamp_jumps += 1
        self.packets += 1
        self.octets += len(packet.payload)
        self.first_at = self.first_at or now
        self.last_at, self.last_timestamp = now, packet.timestamp
        if index > self.highest:
            self._absent.update(range(self.highest + 1, index) if self.highest >= 0 else ())
            self.highest = index
        else:
            self._absent.discard(index)
        self.missing = len(self._absent)
        if not packet.payload:
            self.padding_only += 1
        elif self.kind == "video":
            self._count_video(packet.payload)

    def _index(self, sequence: int) -> int:
        if self.highest < 0:
            return sequence + 2**16
        return self.highest + (sequence - self.highest + 2**15) % 2**16 - 2**15

    def _count_video(self, payload: bytes) -> None:
        start = Vp8Start.parse(payload)
        if not start.starts_frame:
            return
        self.frames += 1
        if start.picture_id is not None:
            if self.picture_id is not None and start.picture_id != (self.picture_id + 1) % 2**15:
                self.picture_gaps += 1
            self.picture_id = start.picture_id
        if start.size is not None:
            self.key_frames += 1
            if start.size != self.size:
                self.sizes.append(start.size)


# ---------------------------------------------------------------- RTCP


def is_rtcp(datagram: bytes) -> bool:
    """Is it RTCP and not RTP (RFC 5761, section 4)."""
    return len(datagram) > 1 and 192 <= datagram[1] <= 223


def sender_report(ssrc: int, timestamp: int, packets: int, octets: int, cname: str) -> bytes:
    """A compound packet of a sender report for now, and its source description."""
    now = time.time() + _NTP_EPOCH
    ntp = int(now * 2**32) & 0xFFFFFFFFFFFFFFFF
    report = struct.pack("!BBHLQLLL", 0x80, SENDER_REPORT, 6, ssrc, ntp, timestamp & 0xFFFFFFFF, packets, octets)
    return report + source_description(ssrc, cname)


def source_description(ssrc: int, cname: str) -> bytes:
    """SDES with a CNAME."""
    body = struct.pack("!LBB", ssrc, 1, len(cname)) + cname.encode() + b"\x00"
    body += bytes(-len(body) % 4)
    return struct.pack("!BBH", 0x81, SOURCE_DESCRIPTION, len(body) // 4) + body


def receiver_report(ssrc: int, sources: list[tuple[int, int]]) -> bytes:
    """A report without loss for (ssrc, highest sequence number) of at most 31 sources."""
    blocks = b"".join(struct.pack("!LLLLLL", source, 0, highest, 0, 0, 0) for source, highest in sources[:31])
    return struct.pack("!BBHL", 0x80 | len(sources[:31]), RECEIVER_REPORT, 1 + len(blocks) // 4, ssrc) + blocks


def picture_loss(ssrc: int, media_ssrc: int) -> bytes:
    """A PLI (RFC 4585, section 6.3.1), after an empty receiver report."""
    return receiver_report(ssrc, []) + struct.pack("!BBHLL", 0x81, PAYLOAD_FEEDBACK, 2, ssrc, media_ssrc)


@dataclass(frozen=True, slots=True)
class Rtcp:
    """One packet of a compound."""

    type: int
    count: int  # or the feedback message type
    body: bytes  # after the common header


def parse_rtcp(data: bytes) -> list[Rtcp]:
    """Split a compound packet."""
    found, position = [], 0
    while position + 4 <= len(data):
        first, kind, words = struct.unpack_from("!BBH", data, position)
        found.append(Rtcp(kind, first & 0x1F, data[position + 4 : position + 4 + 4 * words]))
        position += 4 + 4 * words
    return found
