"""The names by which the product tells users, devices, rooms, calls, legs and tracks apart.

Those of two parts are keys of the core's busiest dictionaries: as tuples they are hashed and compared without running
any Python, which as frozen dataclasses was a third of all that deciding takes.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, NewType

UserId = NewType("UserId", str)
DeviceId = NewType("DeviceId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
ConfId = NewType("ConfId", str)  # the group call: the state key of its `m.call` event
CallId = NewType("CallId", str)  # one leg's own id, made by the inviter, scoped by (user, device)
SessionId = NewType("SessionId", str)
StreamId = NewType("StreamId", str)  # first half of an msid (RFC 8830)
TrackId = NewType("TrackId", str)  # second half of an msid (RFC 8830)
Mid = NewType("Mid", str)  # an m-line's identification tag (RFC 8843, RFC 5888)
LegId = NewType("LegId", int)  # made by the core, unique in one process
Slot = NewType("Slot", int)  # one granted subscription of one leg; never used twice in a leg


class Kind(Enum):
    """What a track carries (the `kind` of a MediaStreamTrack)."""

    AUDIO = "audio"
    VIDEO = "video"


class Device(NamedTuple):
    """A user's device: a participant or, where it is an SFU, a focus (MSC3898)."""

    user_id: UserId
    device_id: DeviceId

    @property
    def homeserver(self) -> str:
        """The server name in the user id."""
        return self.user_id.partition(":")[2]

    def __str__(self) -> str:
        return f"{self.user_id}/{self.device_id}"


class ConferenceKey(NamedTuple):
    """One call in one room: the same call id in another room is another conference."""

    room_id: RoomId
    conf_id: ConfId

    def __str__(self) -> str:
        return f"{self.room_id}|{self.conf_id}"


class TrackKey(NamedTuple):
    """A published track: the track id is its publisher's choice and means something only with it."""

    owner: Device
    track_id: TrackId
