"""What the operator decides, as the core needs it. All times are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from .ids import Device, SessionId


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that are configuration; those that are not stand where they are used."""

    legs_per_user: int = 8
    legs_per_conference: int = 200
    legs: int = 2000
    held_legs: int = 200
    held_legs_per_user: int = 2
    trunks: int = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """Who this focus is, whom it serves, and how long it waits."""

    focus: Device
    session_id: SessionId = SessionId("sfu")  # what deployed clients expect (protocol, section 2)
    homeservers: frozenset[str] = frozenset()  # permitted; empty: the focus's own
    guests: bool = True  # other members of a room that has a permitted joined member
    banned: frozenset[str] = frozenset()  # user ids and server names
    invite_wait: float = 10.0  # for the room state that an invite may outrun
    held_timeout: float = 60.0
    ping_interval: float = 10.0
    ping_timeout: float = 30.0
    trunk_session: SessionId = SessionId("focus")  # between foci: random per process start
    cascade: bool = True
    peers: frozenset[str] = frozenset()  # permitted foci, by user id or server name; empty: any in a conference's set
    limits: Limits = field(default_factory=Limits)

    @property
    def permitted(self) -> frozenset[str]:
        """The homeservers of which a conference needs a joined member."""
        return self.homeservers or frozenset((self.focus.homeserver,))
