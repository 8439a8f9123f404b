"""What a test participant plays: Opus packets of a tone and VP8 frames in simulcast sizes, encoded once per process."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.codeccontext import AudioCodecContext
from av.video.codeccontext import VideoCodecContext

FRAME_RATE = 15
LOOP = 60  # frames; the loop begins with its only key frame
MAX_PAYLOAD = 1100  # bytes of VP8 in a packet
OPUS_INTERVAL = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoding of the picture."""

    rid: str
    width: int
    height: int
    bit_rate: int


LAYERS = (Layer("f", 640, 360, 900_000), Layer("h", 320, 180, 300_000), Layer("q", 160, 90, 100_000))


_RECORDINGS = Path(__file__).parents[2] / ".cache" / "participant"  # encoding takes seconds on a busy machine


def _recorded(encode: Callable[..., list[bytes]], *arguments: Any) -> tuple[bytes, ...]:
    """What `encode` gives, kept on disk for as long as this file stays as it is."""
    source = Path(__file__).read_bytes() + repr((encode.__name__, arguments, av.__version__)).encode()
    path = _RECORDINGS / hashlib.sha256(source).hexdigest()[:16]
    if not path.exists():
        frames = encode(*arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(b"".join(struct.pack("!L", len(frame)) + frame for frame in frames))
        unfinished.replace(path)
    data, found, position = path.read_bytes(), [], 0
    while position < len(data):
        (length,) = struct.unpack_from("!L", data, position)
        found.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return tuple(found)


@functools.cache
def opus_packets() -> tuple[bytes, ...]:
    """Two seconds of a tone, 20 ms a packet."""
    return _recorded(_encode_opus)


@functools.cache
def vp8_frames(layer: Layer) -> tuple[bytes, ...]:
    """A loop of frames with something that moves; the first is a key frame."""
    return _recorded(_encode_vp8, layer)


def _encode_opus() -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.layout = 48000, "s16", "stereo"
    encoder.bit_rate, encoder.time_base = 32_000, Fraction(1, 48000)
    packets: list[bytes] = []
    for number in range(100):
        frame = av.AudioFrame(format="s16", layout="stereo", samples=960)
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * 960, Fraction(1, 48000)
        samples = [int(8000 * math.sin(2 * math.pi * 440 * (number * 960 + i) / 48000)) for i in range(960)]
        frame.planes[0].update(b"".join(struct.pack("<hh", sample, sample) for sample in samples))
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


def _encode_vp8(layer: Layer) -> list[bytes]:
    encoder = av.CodecContext.create("libvpx", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = layer.width, layer.height, "yuv420p"
    encoder.bit_rate, encoder.gop_size = layer.bit_rate, 100 * LOOP
    encoder.time_base, encoder.framerate = Fraction(1, FRAME_RATE), Fraction(FRAME_RATE)
    encoder.options = {"deadline": "realtime", "cpu-used": "16", "lag-in-frames": "0", "auto-alt-ref": "0"}
    frames: list[bytes] = []
    for number in range(LOOP):
        frame = av.VideoFrame(layer.width, layer.height, "yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
        for plane in frame.planes:
            shift = number * 3
            row = bytes((x * 2 + shift) & 0xFF for x in range(plane.line_size + 64))
            plane.update(b"".join(row[y % 64 : y % 64 + plane.line_size] for y in range(plane.height)))
        frames += [bytes(packet) for packet in encoder.encode(frame)]
    assert len(frames) == LOOP
    return frames


def vp8_payloads(frame: bytes, picture_id: int, tl0_index: int) -> Iterator[tuple[bytes, bool]]:
    """Cut a frame into payloads with descriptors as Chromium writes them, and the marker bit of each."""
    count = max(1, math.ceil(len(frame) / MAX_PAYLOAD))
    size = math.ceil(len(frame) / count)
    for index in range(count):
        first = 0x90 if index == 0 else 0x80
        descriptor = struct.pack("!BBHBB", first, 0xE0, 0x8000 | picture_id, tl0_index & 0xFF, 0x20)
        yield descriptor + frame[index * size : (index + 1) * size], index == count - 1
