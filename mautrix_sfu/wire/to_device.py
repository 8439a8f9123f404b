"""To-device signalling events: JSON ↔ the core's events and commands (docs/protocol.md, section 2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, assert_never

from ..core.commands import (
    Address,
    Advertised,
    AdvertisedStream,
    SendAnswer,
    SendHangup,
    SendInvite,
    SendNegotiate,
    SendReject,
)
from ..core.events import Answer, DeviceNegotiate, Envelope, Hangup, Invite, Metadata, Noted, ToDevice
from ..core.ids import CallId, ConfId, Device, DeviceId, RoomId, SessionId, UserId
from ..core.policy import DEFAULT_LIMITS, Limits
from .fields import Json, MalformedError, items, metadata, obj, optional_text, text, whole

# Bytes, of the 64 KiB that an event may have: a larger answer goes without its metadata, which follows on the data
# channel. Encrypted it grows by a third.
MAX_ANSWER_EVENT = 44 * 1024
MAX_LIFETIME = 120.0  # seconds
METADATA_KEYS = ("org.matrix.msc3077.sdp_stream_metadata", "sdp_stream_metadata")
ROOM_KEY = "org.matrix.msc3898.room_id"
REMOVED_KEY = "org.matrix.msc3898.removed"
MAX_WHY = 200  # characters of an operator's reason
NOTED = ("m.call.candidates", "m.call.select_answer")
TYPES = frozenset(("m.call.invite", "m.call.answer", "m.call.hangup", "m.call.reject", "m.call.negotiate", *NOTED))
REASONS = frozenset(
    (
        "user_hangup",
        "invite_timeout",
        "ice_failed",
        "ice_timeout",
        "new_session",
        "replaced",
        "signalling_timeout",
        "user_busy",
        "answered_elsewhere",
        "keep_alive_timeout",
        "set_remote_description",
        "unknown_error",
        "encryption_required",
    )
)


def decode(
    sender: str, event_type: str, content: Json, limits: Limits = DEFAULT_LIMITS, proven: bool = False
) -> ToDevice:
    """A to-device event of one of `TYPES`; raises MalformedError."""
    envelope = _envelope(sender, content, proven)
    match event_type:
        case "m.call.invite":
            sdp = _description(content, "offer", "offer", limits)
            lifetime = whole(content, "lifetime")
            seconds = MAX_LIFETIME if lifetime is None else min(lifetime / 1000, MAX_LIFETIME)
            return Invite(envelope, sdp, seconds, metadata_of(content) or {})
        case "m.call.answer":
            return Answer(envelope, _description(content, "answer", "answer", limits), metadata_of(content))
        case "m.call.hangup" | "m.call.reject":
            reason = content.get("reason")
            return Hangup(envelope, reason if isinstance(reason, str) and reason in REASONS else "unknown_error")
        case "m.call.negotiate":
            description = obj(content, "description")
            return DeviceNegotiate(
                envelope, *description_of(description, limits.invite_sdp, "invite_sdp"), metadata_of(content)
            )
        case "m.call.candidates":
            return Noted(envelope, event_type, *_candidates(content, limits))
        case "m.call.select_answer":
            return Noted(envelope, event_type)
        case _:
            raise MalformedError("unknown_type", "unknown event type")


def refusal(sender: str, event_type: str, content: Json, policy_session: SessionId) -> SendReject | None:
    """The reject that is due for an invite that could not be decoded, where it says whose it is."""
    if event_type != "m.call.invite":
        return None
    try:
        envelope = _envelope(sender, content)
    except MalformedError:
        return None
    address = Address(
        envelope.sender,
        envelope.call_id,
        envelope.conf_id,
        envelope.room_id,
        policy_session,
        envelope.session_id,
        0,
    )
    return SendReject(address, "unknown_error")


def _candidates(content: Json, limits: Limits) -> tuple[int, int]:
    """How many, and how long the longest is: they say nothing that the checks do not, but are bounded all the same."""
    found = [
        optional_text(candidate, "candidate", limits.candidate_size, "candidate_size") or ""
        for candidate in items(content, "candidates", limits.candidates, "candidates")
    ]
    return len(found), max(map(len, found), default=0)


def description_of(description: Json, limit: int, bound: str) -> tuple[str, str]:
    """(type, SDP) of a session description."""
    kind = description.get("type")
    if kind not in ("offer", "answer"):
        raise MalformedError("missing_field", "description.type is neither offer nor answer")
    return kind, text(description, "sdp", limit, bound)


def metadata_of(content: Json) -> Metadata | None:
    """The stream metadata under either of its names; None where there is none."""
    for key in METADATA_KEYS:
        if content.get(key) is not None:
            return metadata(content[key])
    return None


def metadata_json(advertised: Advertised) -> dict[str, Any]:
    """Stream metadata as it is sent, with user and device stamped."""
    return {stream_id: stream_json(stream) for stream_id, stream in advertised.items()}


def stream_json(stream: AdvertisedStream) -> dict[str, Any]:
    """One entry of it."""
    return {
        "purpose": stream.purpose,
        "user_id": stream.owner.user_id,
        "device_id": stream.owner.device_id,
        "audio_muted": stream.audio_muted,
        "video_muted": stream.video_muted,
        "tracks": {
            track_id: {"kind": track.kind.value}
            | ({"width": track.width} if track.width else {})
            | ({"height": track.height} if track.height else {})
            for track_id, track in stream.tracks.items()
        },
    }


def encode(
    command: SendInvite | SendAnswer | SendReject | SendHangup | SendNegotiate, focus: Device
) -> tuple[str, dict[str, Any]]:
    """(event type, content) of a command of the core."""
    content = _fields(command.address, focus)
    match command:
        case SendInvite():
            content["offer"] = {"type": "offer", "sdp": command.sdp}
            content["lifetime"] = round(command.lifetime * 1000)
            content["invitee"] = command.address.to.user_id
            content["capabilities"] = {"m.call.transferee": False, "m.call.dtmf": False}
            return "m.call.invite", content | {METADATA_KEYS[0]: metadata_json(command.metadata)}
        case SendAnswer():
            content["answer"] = {"type": "answer", "sdp": command.sdp}
            content["capabilities"] = {"m.call.transferee": False, "m.call.dtmf": False}
            with_metadata = content | {METADATA_KEYS[0]: metadata_json(command.metadata)}
            fits = len(json.dumps(with_metadata, ensure_ascii=False).encode()) <= MAX_ANSWER_EVENT
            return "m.call.answer", with_metadata if fits else content
        case SendReject():
            return "m.call.reject", content | {"reason": command.reason} | _removed(command)
        case SendHangup():
            return "m.call.hangup", content | {"reason": command.reason} | _removed(command)
        case SendNegotiate():
            content["description"] = {"type": "answer", "sdp": command.sdp}
            return "m.call.negotiate", content | {METADATA_KEYS[0]: metadata_json(command.metadata)}
        case _:
            assert_never(command)


def _removed(command: SendReject | SendHangup) -> dict[str, Any]:
    removed = command.removed
    if removed is None:
        return {}
    return {REMOVED_KEY: {"cause": removed.cause} | ({"reason": removed.why[:MAX_WHY]} if removed.why else {})}


def _fields(address: Address, focus: Device) -> dict[str, Any]:
    fields: Mapping[str, Any] = {
        "call_id": address.call_id,
        "conf_id": address.conf_id,
        ROOM_KEY: address.room_id,
        "version": "1",
        "party_id": focus.device_id,
        "device_id": focus.device_id,
        "sender_session_id": address.local_session,
        "dest_session_id": address.remote_session,
        "seq": address.seq,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _envelope(sender: str, content: Json, proven: bool = False) -> Envelope:
    device = optional_text(content, "device_id") or text(content, "party_id")
    room_id = optional_text(content, ROOM_KEY)
    session = optional_text(content, "sender_session_id")
    dest = optional_text(content, "dest_session_id")
    return Envelope(
        Device(UserId(sender), DeviceId(device)),
        CallId(text(content, "call_id")),
        ConfId(text(content, "conf_id")),
        RoomId(room_id) if room_id is not None else None,
        SessionId(session) if session is not None else None,
        SessionId(dest) if dest is not None else None,
        whole(content, "seq"),
        optional_text(content, "org.matrix.msgid"),
        proven,
    )


def _description(content: Json, key: str, expected: str, limits: Limits) -> str:
    kind, sdp = description_of(obj(content, key), limits.invite_sdp, "invite_sdp")
    if kind != expected:
        raise MalformedError("missing_field", f"{key}.type is not {expected}")
    return sdp
