"""What an operator may say to the core of calls that run, and what the load says of itself. All times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .ids import ConferenceKey, DeviceId, Kind, LegId, UserId
from .policy import Policy


@dataclass(frozen=True, slots=True)
class Kick:
    """End the legs of a user, or of one of its devices, and keep it out for `Policy.kick_time`."""

    user_id: UserId
    device_id: DeviceId | None  # None: all
    reason: str  # for the log, and for who is kicked


@dataclass(frozen=True, slots=True)
class EndConference:
    """End all legs of a conference, and keep everybody out of it for `Policy.kick_time`."""

    key: ConferenceKey


@dataclass(frozen=True, slots=True)
class SetMuted:
    """Forward nothing of this user's, of one kind or of all; holds until unmuted, or until they have left."""

    user_id: UserId
    kind: Kind | None  # None: all
    muted: bool


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """Another policy from now on. Legs that it does not allow end, no others. Who the focus is stays as it was."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class DrainChanged:
    """Take no new calls (those that run go on, and their people may come back), or take them again."""

    on: bool
    deadline: float | None  # seconds from now until those who are left are told to move; None: never


@dataclass(frozen=True, slots=True)
class OverloadChanged:
    """The load is too high for more legs, or is not any more."""

    cause: str | None  # out of a fixed set


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the media core counted: bytes that came from and went to each leg, since the leg began."""

    legs: Mapping[LegId, tuple[int, int]]


OperatorEvent = Kick | EndConference | SetMuted | PolicyChanged | DrainChanged | OverloadChanged
