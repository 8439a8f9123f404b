"""Reading untrusted JSON: each reader checks type and size, and says what is wrong in words fit for the sender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.events import Metadata, StreamMetadata, TrackMetadata
from ..core.ids import Device, DeviceId, Kind, StreamId, TrackId, UserId
from .sdp_parser import MAX_ID_LENGTH, is_id

MAX_ID = 255  # characters of any id but a stream's or track's (the length of a Matrix identifier)
MAX_STREAMS = 64  # in one message's metadata
MAX_TRACKS = 16  # in one stream's metadata
MAX_PIXELS = 16384  # of a width or height
PURPOSES = ("m.usermedia", "m.screenshare")

Json = Mapping[str, Any]


class MalformedError(ValueError):
    """A message that cannot be used. `code` is out of a fixed set; the text may be shown to its sender."""

    def __init__(self, code: str, message: str, bound: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.bound = bound  # the operator's limit that it is beyond, if it is that


def obj(content: Json, key: str) -> Json:
    """A required object."""
    value = content.get(key)
    if not isinstance(value, dict):
        raise MalformedError("missing_field", f"{key} is not an object")
    return value


def text(content: Json, key: str, limit: int = MAX_ID, bound: str | None = None) -> str:
    """A required, non-empty string of at most `limit` characters."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedError("missing_field", f"{key} is missing")
    return _checked(value, key, limit, bound)


def optional_text(content: Json, key: str, limit: int = MAX_ID, bound: str | None = None) -> str | None:
    """A string, or None where it is missing or of another type."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        return None
    return _checked(value, key, limit, bound)


def _checked(value: str, key: str, limit: int, bound: str | None) -> str:
    """Text that can be sent back: JSON's escapes can also write half of a surrogate pair, which no UTF-8 holds."""
    if len(value) > limit:
        raise MalformedError("too_large", f"{key} is longer than {limit}", bound)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedError("not_text", f"{key} is not Unicode") from None
    return value


def whole(content: Json, key: str) -> int | None:
    """A whole number that is not negative, or None."""
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        return None
    return value


def pixels(content: Json, key: str) -> int | None:
    """A width or height that makes sense, or None; clients also send fractions and zero."""
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_PIXELS:
        return None
    return max(1, round(value))


def items(content: Json, key: str, limit: int, bound: str | None = None) -> list[Json]:
    """A list of objects of at most `limit` entries; missing counts as empty."""
    value = content.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedError("missing_field", f"{key} is not a list of objects")
    if len(value) > limit:
        raise MalformedError("too_large", f"{key} has more than {limit} entries", bound)
    return value


def metadata(value: object) -> Metadata:
    """Stream metadata (MSC3077, MSC3291, MSC3898)."""
    if not isinstance(value, dict):
        raise MalformedError("missing_field", "sdp_stream_metadata is not an object")
    if len(value) > MAX_STREAMS:
        raise MalformedError("too_large", f"sdp_stream_metadata has more than {MAX_STREAMS} streams")
    return {StreamId(_msid_id(key, "a stream id")): _stream(stream) for key, stream in value.items()}


def _stream(value: object) -> StreamMetadata:
    if not isinstance(value, dict):
        raise MalformedError("missing_field", "a stream's metadata is not an object")
    purpose = value.get("purpose")
    tracks = value.get("tracks", {})
    if not isinstance(tracks, dict):
        raise MalformedError("missing_field", "tracks is not an object")
    if len(tracks) > MAX_TRACKS:
        raise MalformedError("too_large", f"a stream has more than {MAX_TRACKS} tracks")
    return StreamMetadata(
        purpose if purpose in PURPOSES else PURPOSES[0],
        value.get("audio_muted") is True,
        value.get("video_muted") is True,
        {TrackId(_msid_id(key, "a track id")): _track(track) for key, track in tracks.items()},
        _owner(value),
    )


def _owner(value: Json) -> Device | None:
    user_id, device_id = optional_text(value, "user_id"), optional_text(value, "device_id")
    return None if user_id is None or device_id is None else Device(UserId(user_id), DeviceId(device_id))


def _track(value: object) -> TrackMetadata:
    if not isinstance(value, dict):
        return TrackMetadata()
    kind = value.get("kind")
    return TrackMetadata(
        Kind(kind) if kind in ("audio", "video") else None, pixels(value, "width"), pixels(value, "height")
    )


def stream_and_track(content: Json) -> tuple[StreamId, TrackId]:
    """The required `stream_id` and `track_id`."""
    stream_id, track_id = text(content, "stream_id"), text(content, "track_id")
    return StreamId(_msid_id(stream_id, "stream_id")), TrackId(_msid_id(track_id, "track_id"))


def _msid_id(value: object, name: str) -> str:
    """A stream or track id: the same rule as in SDP, or what metadata names could never be sent or found there."""
    if not isinstance(value, str) or not is_id(value):
        raise MalformedError("bad_id", f"{name} is not 1 to {MAX_ID_LENGTH} visible ASCII characters")
    return value
