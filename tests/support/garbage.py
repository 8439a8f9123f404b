"""Nonsense in all the forms that the focus reads, the same at each run: it comes from a seeded generator."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CAPTURES = Path(__file__).parents[1] / "captures" / "sdp"
_NASTY = (
    "\x00",
    "\x1b[31m",
    "\u202e",
    "é",
    "\U0001f600",
    "99999999999999999999",
    "-1",
    "a=",
    "m=",
    " ",
    ":",
    "%s",
    "\r\n",
)


def random_bytes(source: random.Random, low: int = 0, high: int = 1500) -> bytes:
    """Any bytes."""
    return source.randbytes(source.randint(low, high))


def mutated_bytes(source: random.Random, data: bytes) -> bytes:
    """Bytes that were right before something happened to them."""
    changed = bytearray(data)
    match source.randrange(4):
        case 0:
            for _ in range(source.randint(1, 8)):
                changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
        case 1:
            del changed[source.randrange(len(changed)) :]
        case 2:
            changed += random_bytes(source, 1, 64)
        case _:
            at = source.randrange(len(changed))
            changed[at : at + 8] = random_bytes(source, 8, 8)
    return bytes(changed)


def captures() -> list[str]:
    """The recorded descriptions, as they were on the wire."""
    return [path.read_bytes().decode() for path in sorted(CAPTURES.glob("*.sdp"))]


def mutated_sdp(source: random.Random, sdp: str) -> str:
    """A description to which a few things happened."""
    lines = sdp.split("\r\n")
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(lines))
        match source.randrange(7):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, source.choice(lines))
            case 2:
                lines[at] = lines[at][: source.randrange(len(lines[at]) + 1)]
            case 3:
                other = source.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case 4:
                cut = source.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + source.choice(_NASTY) + lines[at][cut:]
            case 5:
                lines[at:at] = [lines[at]] * 50
            case _:
                lines[at] = "".join("9" * 12 if letter.isdigit() else letter for letter in lines[at])
        if not lines:
            break
    return "\r\n".join(lines)


def bad_sdps(source: random.Random) -> Iterator[Any]:
    """What is no description at all."""
    yield from (
        "",
        " ",
        "\x00" * 100,
        "v=0",
        "v=0\r\n" * 5000,
        "a" * 59_000,
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 1500,
    )
    yield "".join(chr(source.randint(1, 0xD7FF)) for _ in range(2000))
    yield from (None, 1, True, [], {}, ["v=0"], {"sdp": "v=0"})
    whole = captures()[-1]
    yield whole.replace("\r\n", "")
    yield "\r\n".join(reversed(whole.split("\r\n")))


def wrong_values() -> list[Any]:
    """Values that no field expects."""
    return [None, True, -1, 2**52, "", "x" * 3000, "\x00", [], {}, [[]], [None], [{}] * 200, {"": {}}, nested(50)]


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def channel_messages(source: random.Random) -> list[str]:
    """Text for the data channel that no client sends."""
    texts = ["", " ", "null", "0", '"m.call.ping"', "[]", "[{}]", "{}", "{" * 1000, "[" * 100_000, '{"type":' * 20_000]
    texts += [
        '{"type": "m.call.ping"',
        "NaN",
        '{"type": NaN}',
        "\ufeff{}",
        "x" * 250_000,
        '{"type": "%s"}' % ("t" * 1000),
    ]
    texts += [json.dumps({"type": "m.call.ping", "content": "x" * 200_000})[:-1]]
    types = (
        "m.call.negotiate",
        "m.call.track_subscription",
        "m.call.sdp_stream_metadata_changed",
        "m.call.connect_to_focus",
    )
    keys = ("description", "subscribe", "unsubscribe", "start", "stop", "sdp_stream_metadata", "focus")
    for kind in types:
        for value in wrong_values():
            texts.append(json.dumps({"type": kind, "content": {source.choice(keys): value}}))
        texts.append(json.dumps({"type": kind, "content": None}))
        texts.append(json.dumps({"type": kind, "content": [1]}))
    for value in wrong_values():
        texts.append(json.dumps({"type": value, "content": {}}))
        texts.append(
            json.dumps({"type": "m.call.negotiate", "content": {"description": {"type": value, "sdp": value}}})
        )
        texts.append(
            json.dumps({"type": "m.call.track_subscription", "content": {"subscribe": [{"stream_id": value}]}})
        )
        metadata = {"s": {"purpose": value, "audio_muted": value, "tracks": {"t": {"kind": value, "width": value}}}}
        changed = {"type": "m.call.sdp_stream_metadata_changed", "content": {"sdp_stream_metadata": metadata}}
        texts.append(json.dumps(changed))
    texts.append(json.dumps({"type": "m.call.track_subscription", "content": {"subscribe": [{}] * 20_000}}))
    texts.append(json.dumps({"type": "\ud800"}))
    return texts
