"""Data-channel messages: JSON text ↔ the core's events and commands (docs/protocol.md, section 4)."""

from __future__ import annotations

import json
from typing import Any, assert_never

from ..core.commands import (
    Advertised,
    AdvertisedStream,
    ChannelError,
    ChannelLayers,
    ChannelPing,
    ChannelPong,
    ChannelSpeaker,
    ChannelSubscription,
    ChannelSuspension,
    TrunkTrack,
)
from ..core.events import (
    BadMessage,
    ChannelMessage,
    ChannelNegotiate,
    ConnectToFocus,
    MetadataChanged,
    Ping,
    Pong,
    TrackSubscription,
    Wanted,
)
from ..core.ids import Device, DeviceId, LegId, StreamId, UserId
from ..core.policy import DEFAULT_LIMITS, Limits
from .fields import Json, MalformedError, items, metadata, obj, pixels, stream_and_track, text
from .to_device import description_of, metadata_of, stream_json

MAX_SUBSCRIPTIONS = 1000  # entries of one message
MAX_LAYERS = 16  # sizes of one entry
MAX_TEXTS = 4096  # streams whose JSON is kept
ERROR_TYPE = "org.matrix.msc3898.error"
SPEAKER_TYPE = "org.matrix.msc3898.active_speaker"
SUSPENDED_TYPE = "org.matrix.msc3898.track_suspended"
LAYERS_TYPE = "org.matrix.msc3898.layers_watched"


def size_of(message: str) -> int:
    """Its bytes in UTF-8."""
    return len(message) if message.isascii() else len(message.encode(errors="replace"))


def decode(leg: LegId, message: str, limits: Limits = DEFAULT_LIMITS) -> ChannelMessage:
    """A text message; what cannot be understood becomes a BadMessage."""
    event_type: str | None = None
    try:
        if size_of(message) > limits.message_size:
            raise MalformedError("too_large", f"message is longer than {limits.message_size} bytes", "message_size")
        try:
            value = json.loads(message)
        except (ValueError, RecursionError):
            raise MalformedError("not_json", "message is not JSON") from None
        if not isinstance(value, dict):
            raise MalformedError("not_json", "message is not a JSON object")
        event_type = text(value, "type")
        content = value.get("content")
        return _decode(leg, event_type, content if isinstance(content, dict) else {}, limits)
    except MalformedError as error:
        return BadMessage(leg, error.code, str(error), event_type, error.bound)


def _decode(leg: LegId, event_type: str, content: Json, limits: Limits) -> ChannelMessage:
    match event_type:
        case "m.call.negotiate":
            kind, sdp = description_of(obj(content, "description"), limits.channel_sdp, "channel_sdp")
            return ChannelNegotiate(leg, kind, sdp, metadata_of(content))
        case "m.call.sdp_stream_metadata_changed":
            found = metadata_of(content)
            return MetadataChanged(leg, metadata(None) if found is None else found)
        case "m.call.track_subscription":
            return TrackSubscription(
                leg,
                _wanted(content, "subscribe") + _wanted(content, "start"),
                _wanted(content, "unsubscribe") + _wanted(content, "stop"),
            )
        case "m.call.ping":
            return Ping(leg)
        case "m.call.pong":
            return Pong(leg)
        case "m.call.connect_to_focus":
            focus = obj(content, "focus")
            return ConnectToFocus(leg, Device(UserId(text(focus, "user_id")), DeviceId(text(focus, "device_id"))))
        case _:
            raise MalformedError("unknown_type", "unknown message type")


def _wanted(content: Json, key: str) -> tuple[Wanted, ...]:
    return tuple(
        Wanted(
            *stream_and_track(item),
            pixels(item, "width"),
            pixels(item, "height"),
            tuple((pixels(size, "width"), pixels(size, "height")) for size in items(item, "layers", MAX_LAYERS)),
        )
        for item in items(content, key, MAX_SUBSCRIPTIONS)
    )


def encode(
    command: ChannelSubscription
    | ChannelPing
    | ChannelPong
    | ChannelSpeaker
    | ChannelSuspension
    | ChannelLayers
    | ChannelError,
) -> str:
    """The text of a message that is complete in its command."""
    match command:
        case ChannelSubscription():
            return _message(
                "m.call.track_subscription",
                {
                    "subscribe": [_trunk_track(track) for track in command.subscribe],
                    "unsubscribe": [_trunk_track(track, with_layers=False) for track in command.unsubscribe],
                },
            )
        case ChannelPing():
            return _message("m.call.ping", {})
        case ChannelPong():
            return _message("m.call.pong", {})
        case ChannelSpeaker(stream_id=stream_id, speaker=speaker):
            return _message(
                SPEAKER_TYPE, {"stream_id": stream_id, "user_id": speaker.user_id, "device_id": speaker.device_id}
            )
        case ChannelSuspension(stream_id=stream_id, track_id=track_id, suspended=suspended):
            return _message(SUSPENDED_TYPE, {"stream_id": stream_id, "track_id": track_id, "suspended": suspended})
        case ChannelLayers(stream_id=stream_id, track_id=track_id, layers=layers):
            return _message(LAYERS_TYPE, {"stream_id": stream_id, "track_id": track_id, "layers": list(layers)})
        case ChannelError(code=code, message=message, in_reply_to=in_reply_to):
            return _message(ERROR_TYPE, {"code": code, "message": message, "in_reply_to": in_reply_to})
        case _:
            assert_never(command)


def _trunk_track(track: TrunkTrack, *, with_layers: bool = True) -> dict[str, Any]:
    entry: dict[str, Any] = {"stream_id": track.stream_id, "track_id": track.track_id}
    if with_layers and track.layers:
        sizes = (zip(("width", "height"), size, strict=True) for size in track.layers)
        entry["layers"] = [{name: pixels for name, pixels in size if pixels is not None} for size in sizes]
    return entry


class MetadataWriter:
    """Writes messages with stream metadata. A stream that many participants are shown is written once for all of them.

    In a call of hundreds each of them is told of all the others whenever one comes or goes.
    """

    def __init__(self) -> None:
        # By identity, as the core shows everybody the same object; it is kept so that no other has its identity.
        self._texts: dict[int, tuple[AdvertisedStream, StreamId, str]] = {}

    def description(self, kind: str, sdp: str, advertised: Advertised) -> str:
        """`m.call.negotiate`."""
        description = _json({"type": kind, "sdp": sdp})
        content = f'"description":{description},"sdp_stream_metadata":{self._metadata(advertised)}'
        return f'{{"type":"m.call.negotiate","content":{{{content}}}}}'

    def changed(self, advertised: Advertised) -> str:
        """`m.call.sdp_stream_metadata_changed`."""
        content = f'"sdp_stream_metadata":{self._metadata(advertised)}'
        return f'{{"type":"m.call.sdp_stream_metadata_changed","content":{{{content}}}}}'

    def _metadata(self, advertised: Advertised) -> str:
        if len(self._texts) > MAX_TEXTS:
            self._texts.clear()
        return f"{{{','.join([self._entry(stream_id, stream) for stream_id, stream in advertised.items()])}}}"

    def _entry(self, stream_id: StreamId, stream: AdvertisedStream) -> str:
        known = self._texts.get(id(stream))
        if known is not None and known[1] == stream_id:
            return known[2]
        text = f"{_json(stream_id)}:{_json(stream_json(stream))}"
        self._texts[id(stream)] = (stream, stream_id, text)
        return text


def _message(event_type: str, content: dict[str, Any]) -> str:
    return _json({"type": event_type, "content": content})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
