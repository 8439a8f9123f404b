"""What is kept, as the rest of the program sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core.events import StoredLeg


@dataclass(frozen=True, slots=True)
class StoredFact:
    """A state event as it was received."""

    room_id: str
    type: str
    state_key: str
    event: dict[str, Any]
    received_ms: int  # wall clock


@dataclass(frozen=True, slots=True)
class StoredBan:
    """Somebody whom an admin banned from the focus. All times are wall clock."""

    who: str  # a user id or a homeserver's name
    until_ms: int | None  # None: until it is lifted; those that ran out are kept until they are deleted
    by: str  # the admin
    reason: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What an admin did."""

    at_ms: int  # wall clock
    by: str
    room_id: str
    command: str
    outcome: str


@dataclass(frozen=True, slots=True)
class EndedCall:
    """A conference that is over."""

    room_id: str
    conf_id: str
    started_ms: int  # wall clock
    ended_ms: int
    people: int  # who took part at all
    peak: int  # at once
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that a start needs."""

    position: str | None  # `since` of /sync
    facts: list[StoredFact]  # in order of receipt
    legs: list[StoredLeg]
    bans: list[StoredBan] = field(default_factory=list)
    # That asked to be told what happens, and which admin did; None: before this was kept.
    notify_rooms: dict[str, str | None] = field(default_factory=dict)
