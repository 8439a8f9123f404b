"""What the operator decides, as the core needs it. All times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import DEFAULT_LIMITS, Limits, Permission
from .ids import Device, SessionId

__all__ = ["DEFAULT_LIMITS", "Limits", "Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Who this focus is, whom it serves, and how long it waits."""

    focus: Device
    session_id: SessionId = SessionId("sfu")  # what deployed clients expect (protocol, section 2)
    homeservers: frozenset[str] = frozenset()  # permitted; empty: the focus's own
    guests: bool = True  # other members of a room that has a permitted joined member
    banned: frozenset[str] = frozenset()  # user ids and server names
    permissions: Mapping[str, Permission] = field(default_factory=lambda: {"*": Permission.USE})
    invite_wait: float = 10.0  # for the room state that an invite may outrun
    held_timeout: float = 60.0
    kick_time: float = 60.0  # that who was kicked, or a call that was ended, is kept out
    video_codecs: tuple[str, ...] = ("VP8", "VP9", "H264", "AV1")  # that people may send
    ping_interval: float = 10.0
    ping_timeout: float = 30.0
    trunk_session: SessionId = SessionId("focus")  # between foci: random per process start
    require_encryption: bool = False  # of who signals: invites in plain text are refused
    cascade: bool = True
    peers: frozenset[str] = frozenset()  # permitted foci, by user id or server name; empty: any in a conference's set
    limits: Limits = DEFAULT_LIMITS

    @property
    def permitted(self) -> frozenset[str]:
        """The homeservers of which a conference needs a joined member."""
        return self.homeservers or frozenset((self.focus.homeserver,))

    def bans(self, who: Device) -> bool:
        """Whether this user, or its homeserver, is never served."""
        return who.user_id in self.banned or who.homeserver in self.banned

    def lets_use(self, who: Device) -> bool:
        """Whether this user may use the focus in calls: the entry of the user, else of the homeserver, else of all."""
        for key in (who.user_id, who.homeserver, "*"):
            if key in self.permissions:
                return self.permissions[key] >= Permission.USE
        return False
