"""Room events, as the homeserver pushes or stores them → facts for the core (docs/protocol.md, section 1)."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeGuard

from ..core.events import CallChanged, CallDevice, CallMemberChanged, Membership, MembershipChanged, Redacted, RoomFact
from ..core.ids import ConfId, Device, DeviceId, EventId, RoomId, SessionId, UserId
from .fields import MAX_ID, Json

CALL_TYPES = frozenset(("m.call", "org.matrix.msc3401.call"))
CALL_MEMBER_TYPES = frozenset(("m.call.member", "org.matrix.msc3401.call.member"))
MEMBER_TYPE = "m.room.member"
STATE_TYPES = CALL_TYPES | CALL_MEMBER_TYPES | {MEMBER_TYPE}

MAX_CALLS = 32  # of one user
MAX_DEVICES = 32  # of one user in one call
MAX_FOCI = 2  # of one device; further ones do not count (docs/protocol.md, section 6)
MAX_LASTING = 24 * 3600.0  # a device counts no longer from when its event was received
EXPIRY_SLACK = 60.0  # clocks differ
SOFT_FAILED = "io.element.synapse.soft_failed"


class Ignored(Enum):
    """Why an event says nothing."""

    SOFT_FAILED = "soft_failed"
    NOT_STATE = "not_state"
    NOT_OWN = "not_own"  # another's state key, or another format under the same type
    MALFORMED = "malformed"


def parse(event: Json, received_ms: int, now_ms: int) -> RoomFact | Ignored:
    """A raw state event that was received at one time, as a fact at another (both ms, wall clock)."""
    unsigned = event.get("unsigned")
    unsigned = unsigned if isinstance(unsigned, dict) else {}
    if unsigned.get(SOFT_FAILED) is True:
        return Ignored.SOFT_FAILED
    event_type = event.get("type")
    ids = [event.get(key) for key in ("room_id", "sender", "state_key", "event_id")]
    if not isinstance(event_type, str) or event_type not in STATE_TYPES or not isinstance(ids[2], str):
        return Ignored.NOT_STATE
    if not all(isinstance(value, str) and len(value) <= MAX_ID for value in ids):
        return Ignored.MALFORMED
    room_id, sender, state_key, event_id = (str(value) for value in ids)
    content = event.get("content")
    content = content if isinstance(content, dict) else {}
    replaces = unsigned.get("replaces_state")
    before = EventId(replaces) if isinstance(replaces, str) else None
    stable = event_type in ("m.call", "m.call.member")
    if event_type in CALL_TYPES:
        over = bool(content.get("m.terminated")) or not content  # a redacted call is over
        return CallChanged(RoomId(room_id), ConfId(state_key), over, EventId(event_id), before, stable)
    if event_type == MEMBER_TYPE:
        try:
            membership = Membership(content.get("membership"))
        except ValueError:
            return Ignored.MALFORMED
        return MembershipChanged(RoomId(room_id), UserId(state_key), membership, EventId(event_id), before)
    if sender != state_key:
        return Ignored.NOT_OWN
    devices = tuple(_devices(content, received_ms, now_ms))
    return CallMemberChanged(RoomId(room_id), UserId(sender), devices, EventId(event_id), before, received_ms, stable)


def parse_redaction(event: Json) -> Redacted | None:
    """A raw `m.room.redaction`; None if it names no event. Room version 11 moved `redacts` into the content."""
    content = event.get("content")
    redacts = event.get("redacts") or (content.get("redacts") if isinstance(content, dict) else None)
    room_id, sender = event.get("room_id"), event.get("sender")
    if not (_is_id(redacts) and _is_id(room_id) and _is_id(sender)):
        return None
    return Redacted(RoomId(room_id), UserId(sender), EventId(redacts))


def worth_storing(event: Json) -> dict[str, Any]:
    """The part of an event that `parse` reads: what the store keeps."""
    unsigned = event.get("unsigned")
    kept = {key: event.get(key) for key in ("type", "room_id", "sender", "state_key", "event_id", "content")}
    if isinstance(unsigned, dict):
        kept["unsigned"] = {key: unsigned[key] for key in ("replaces_state", SOFT_FAILED) if key in unsigned}
    return kept


def _devices(content: Json, received_ms: int, now_ms: int) -> list[CallDevice]:
    calls = content.get("m.calls")
    if not isinstance(calls, list):
        return []
    shared = _expiry(content.get("m.expires_ts"))
    found: list[CallDevice] = []
    for call in calls[:MAX_CALLS]:
        if not isinstance(call, dict):
            continue
        conf_id, devices = call.get("m.call_id"), call.get("m.devices")
        if not _is_id(conf_id) or not isinstance(devices, list):
            continue
        beside = min(shared, _expiry(call.get("m.expires_ts")))
        for device in devices[:MAX_DEVICES]:
            if not isinstance(device, dict) or not _is_id(device.get("device_id")):
                continue
            expires = min(beside, _expiry(device.get("expires_ts")), _expiry(device.get("m.expires_ts")))
            until_ms = min(expires + EXPIRY_SLACK * 1000, received_ms + MAX_LASTING * 1000)
            session = device.get("session_id")
            found.append(
                CallDevice(
                    ConfId(conf_id),
                    DeviceId(device["device_id"]),
                    SessionId(session) if _is_id(session) else None,
                    (until_ms - now_ms) / 1000,
                    _foci(device, "active"),
                    _foci(device, "preferred"),
                )
            )
    return found


def _foci(device: Json, which: str) -> tuple[Device, ...]:
    listed = device.get(f"m.foci.{which}", device.get(f"org.matrix.msc3898.foci.{which}"))
    if not isinstance(listed, list):
        return ()
    foci = [
        Device(UserId(focus["user_id"]), DeviceId(focus["device_id"]))
        for focus in listed[:MAX_FOCI]
        if isinstance(focus, dict) and _is_id(focus.get("user_id")) and _is_id(focus.get("device_id"))
    ]
    return tuple(foci)


def _expiry(value: object) -> float:
    """Milliseconds, wall clock; what is no time never comes. JSON's numbers may be too large for a float, or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return float("inf")
    return float(min(max(value, 0), 2**53))


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID
