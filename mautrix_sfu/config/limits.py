"""The bounds that an operator sets, in one table: what they are called, what they may be, what they are for."""

from __future__ import annotations

from dataclasses import dataclass, fields


class LimitError(ValueError):
    """There is no such limit, or that is no value for it; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force; each is a row of `LIMITS`."""

    conferences: int = 500
    legs: int = 2000
    legs_per_conference: int = 200
    legs_per_user: int = 8
    legs_per_homeserver: int = 1000
    held_legs: int = 200
    held_legs_per_user: int = 2
    invites_per_user: int = 48
    tracks_per_leg: int = 16
    subscriptions_per_leg: int = 300
    bitrate_per_leg: int = 20_000
    bitrate_per_conference: int = 200_000
    bitrate: int = 1_000_000
    invite_sdp: int = 60_000
    channel_sdp: int = 250_000
    message_size: int = 262_144
    candidates: int = 100
    candidate_size: int = 1024
    messages_per_second: int = 50
    trunks: int = 64


@dataclass(frozen=True, slots=True)
class Limit:
    """One of them, as operators see it."""

    name: str
    lowest: int
    highest: int
    unit: str
    what: str  # that is bounded
    option: str = ""  # where it stands in the configuration

    def parse(self, text: str) -> int:
        """A value for it; raises LimitError."""
        try:
            return self.check(int(text.replace("_", "").replace(",", "")))
        except ValueError:
            raise LimitError(f"{self.name} is {self.expected}, not {text[:40]!r}") from None

    def check(self, value: int) -> int:
        """The value; raises LimitError if it is out of range."""
        if not self.lowest <= value <= self.highest:
            raise LimitError(f"{self.name} is {self.expected}, not {value}")
        return value

    @property
    def expected(self) -> str:
        """What it may be, in words."""
        return f"a whole number from {self.lowest} to {self.highest} ({self.unit})"


_MANY = 100_000
_KBITS = 100_000_000  # 100 Gbit/s

LIMITS: tuple[Limit, ...] = (
    Limit("conferences", 1, _MANY, "calls", "calls at a time"),
    Limit("legs", 1, _MANY, "connections", "connections of people at a time"),
    Limit("legs_per_conference", 1, _MANY, "connections", "connections of people in one call"),
    Limit("legs_per_user", 1, _MANY, "connections", "connections of one user"),
    Limit("legs_per_homeserver", 1, _MANY, "connections", "connections of all users of one homeserver"),
    Limit("held_legs", 1, _MANY, "connections", "connections that only hold a place"),
    Limit("held_legs_per_user", 1, _MANY, "connections", "... of one user"),
    Limit("invites_per_user", 1, _MANY, "a minute", "invites of one user that are answered"),
    Limit("tracks_per_leg", 1, 1000, "tracks", "tracks that one connection may publish"),
    Limit("subscriptions_per_leg", 1, 10_000, "tracks", "tracks that one connection is sent"),
    Limit("bitrate_per_leg", 64, _KBITS, "kbit/s", "what one connection may send"),
    Limit("bitrate_per_conference", 64, _KBITS, "kbit/s", "what one call may take, received and sent"),
    Limit("bitrate", 64, _KBITS, "kbit/s", "what all calls may take, received and sent"),
    Limit("invite_sdp", 1000, 60_000, "characters", "a session description in a to-device message"),
    Limit("channel_sdp", 1000, 250_000, "characters", "a session description on the data channel"),
    Limit("message_size", 1000, 262_144, "bytes", "a message on the data channel"),
    Limit("candidates", 1, 1000, "candidates", "ICE candidates in one message"),
    Limit("candidate_size", 100, 4096, "characters", "one ICE candidate"),
    Limit("messages_per_second", 1, 10_000, "a second", "messages on the data channel of one connection"),
    Limit("trunks", 1, _MANY, "connections", "connections to other foci", "cascade.trunks"),
)

DEFAULT_LIMITS = Limits()
_BY_NAME = {limit.name: limit for limit in LIMITS}
if set(_BY_NAME) != {field.name for field in fields(Limits)}:
    raise AssertionError("the table of limits and their defaults disagree")


def limit_named(name: str) -> Limit:
    """The limit of this name; raises LimitError."""
    limit = _BY_NAME.get(name.removeprefix("conferences.limits.").removeprefix("cascade."))
    if limit is None:
        raise LimitError(f"there is no limit {name[:40]!r}")
    return limit
