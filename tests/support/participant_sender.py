"""Plays a participant's tracks: Opus, VP8 simulcast at 15 frames/s, sender reports, and key frames on request."""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mautrix_sfu.wire.sdp_profile import ABS_SEND_TIME, AUDIO_LEVEL, MID, RID, TRANSPORT_CC

from . import participant_media as media
from .participant_rtp import (
    PAYLOAD_FEEDBACK,
    TRANSPORT_FEEDBACK,
    Rtcp,
    RtpPacket,
    sender_report,
)
from .participant_sdp import EXTENSION_IDS, OPUS, VP8, Published

REPORT_INTERVAL = 1.0
_CNAME = "participant"


@dataclass(slots=True)
class Encoding:
    """One source that is sent."""

    track: Published
    rid: str
    ssrc: int
    clock_rate: int
    sequence: int = field(default_factory=lambda: secrets.randbelow(2**16))
    offset: int = field(default_factory=lambda: secrets.randbits(32))  # of its timestamps: random, as Chromium's
    picture_id: int = field(default_factory=lambda: secrets.randbits(15))
    position: int = 0  # in its loop of frames
    packets: int = 0
    octets: int = 0
    key_frames: int = 0
    key_frame_requests: int = 0

    def timestamp(self, now: float) -> int:
        """The RTP timestamp of a moment."""
        return (self.offset + int(now * self.clock_rate)) % 2**32


class Sender:
    """Sends all published tracks until stopped."""

    def __init__(self, send_rtp: Callable[[bytes], None]) -> None:
        self.encodings: dict[int, Encoding] = {}
        self.audio_level = 30  # -dBov, RFC 6464; 127 is silence
        self.paused: set[str] = set()  # track ids that are sent nothing of
        self.stopped_layers: set[str] = set()  # rids
        self.feedback: dict[str, int] = {}  # RTCP feedback received, by kind
        self.remb: int | None = None  # bit/s
        self._send = send_rtp
        self._transport_sequence = 0
        self._task: asyncio.Task[None] | None = None

    def publish(self, tracks: list[Published]) -> None:
        """Send exactly these tracks."""
        wanted = {ssrc: (track, rid) for track in tracks if track.active for rid, ssrc in track.ssrcs.items()}
        self.encodings = {ssrc: known for ssrc, known in self.encodings.items() if ssrc in wanted}
        for ssrc, (track, rid) in wanted.items():
            if ssrc not in self.encodings:
                self.encodings[ssrc] = Encoding(track, rid, ssrc, 48000 if track.kind == "audio" else 90000)

    def start(self) -> None:
        """Begin to play."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._play())

    async def stop(self) -> None:
        """Play no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def take_feedback(self, packet: Rtcp) -> None:
        """Take an RTCP packet of the focus; a PLI or FIR gives a key frame."""
        kind = {
            (PAYLOAD_FEEDBACK, 1): "pli",
            (PAYLOAD_FEEDBACK, 4): "fir",
            (PAYLOAD_FEEDBACK, 15): "remb",
            (TRANSPORT_FEEDBACK, 1): "nack",
            (TRANSPORT_FEEDBACK, 15): "transport-cc",
        }.get((packet.type, packet.count), f"rtcp-{packet.type}")
        self.feedback[kind] = self.feedback.get(kind, 0) + 1
        if kind == "remb" and packet.body[8:12] == b"REMB":
            value = int.from_bytes(packet.body[13:16], "big")
            self.remb = (value & 0x3FFFF) << (value >> 18)
        if kind in ("pli", "fir"):
            (ssrc,) = struct.unpack_from("!L", packet.body, 4 if kind == "pli" else 8)
            encoding = self.encodings.get(ssrc)
            if encoding is not None:
                encoding.key_frame_requests += 1
                encoding.position = 0

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        next_audio = next_video = next_report = loop.time()
        while True:
            now = loop.time()
            if now >= next_audio:
                next_audio = max(next_audio + media.OPUS_INTERVAL, now - 0.1)
                self._each("audio", self._send_audio)
            if now >= next_video:
                next_video = max(next_video + 1 / media.FRAME_RATE, now - 0.2)
                self._each("video", self._send_frame)
            if now >= next_report:
                next_report = now + REPORT_INTERVAL
                self._report()
            await asyncio.sleep(max(0.0, min(next_audio, next_video, next_report) - loop.time()))

    def _each(self, kind: str, send: Callable[[Encoding, float], None]) -> None:
        now = time.time()
        for encoding in list(self.encodings.values()):
            if encoding.track.kind == kind and encoding.track.track_id not in self.paused:
                send(encoding, now)

    def _send_audio(self, encoding: Encoding, now: float) -> None:
        packets = media.opus_packets()
        payload = packets[encoding.position % len(packets)]
        encoding.position += 1
        level = bytes([(0x80 if self.audio_level < 60 else 0) | self.audio_level])
        self._send_packet(encoding, now, OPUS, payload, False, {EXTENSION_IDS[AUDIO_LEVEL]: level})

    def _send_frame(self, encoding: Encoding, now: float) -> None:
        if encoding.rid in self.stopped_layers:
            return
        layer = next((layer for layer in media.LAYERS if layer.rid == encoding.rid), media.LAYERS[0])
        frames = media.vp8_frames(layer)
        encoding.key_frames += encoding.position == 0
        frame = frames[encoding.position]
        encoding.position = (encoding.position + 1) % len(frames)
        encoding.picture_id = (encoding.picture_id + 1) % 2**15
        extensions = {EXTENSION_IDS[RID]: encoding.rid.encode()} if encoding.rid else {}
        for payload, marker in media.vp8_payloads(frame, encoding.picture_id, encoding.picture_id):
            self._send_packet(encoding, now, VP8, payload, marker, extensions)

    def _send_packet(
        self, encoding: Encoding, now: float, pt: int, payload: bytes, marker: bool, extensions: dict[int, bytes]
    ) -> None:
        self._transport_sequence = (self._transport_sequence + 1) % 2**16
        common = {
            EXTENSION_IDS[MID]: encoding.track.mid.encode(),
            EXTENSION_IDS[ABS_SEND_TIME]: (int(now * 2**18) & 0xFFFFFF).to_bytes(3, "big"),
            EXTENSION_IDS[TRANSPORT_CC]: self._transport_sequence.to_bytes(2, "big"),
        }
        stamp = encoding.timestamp(now)
        packet = RtpPacket(pt, encoding.sequence, stamp, encoding.ssrc, payload, marker, common | extensions)
        encoding.sequence = (encoding.sequence + 1) % 2**16
        encoding.packets += 1
        encoding.octets += len(payload)
        self._send(bytes(packet))

    def _report(self) -> None:
        now = time.time()
        for encoding in self.encodings.values():
            stamp = encoding.timestamp(now)
            self._send(sender_report(encoding.ssrc, stamp, encoding.packets, encoding.octets, _CNAME))
