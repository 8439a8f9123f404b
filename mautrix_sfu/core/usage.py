"""How close what is over at once, sizes and rates, has come to its limits lately."""

from __future__ import annotations

from collections.abc import Iterable

from . import events as ev
from .policy import Limits

PERIOD = 300.0  # seconds that a peak is shown for at least, and less than twice that

PASSING = (
    "invites_per_user",
    "invite_sdp",
    "channel_sdp",
    "message_size",
    "candidates",
    "candidate_size",
    "messages_per_second",
)


class Peaks:
    """The largest of what passed lately, by limit (`PASSING`); what was refused counts as the limit."""

    def __init__(self) -> None:
        self._began = 0.0
        self._now: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def note(self, limit: str, amount: float, now: float) -> None:
        """Something of this size passed."""
        self._turn(now)
        self._now[limit] = max(amount, self._now.get(limit, 0.0))

    def largest(self, now: float) -> dict[str, float]:
        """By limit."""
        self._turn(now)
        return {name: max(self._now.get(name, 0.0), self._before.get(name, 0.0)) for name in PASSING}

    def _turn(self, now: float) -> None:
        if now - self._began >= PERIOD:
            self._before = self._now if now - self._began < 2 * PERIOD else {}
            self._now, self._began = {}, now


def sizes(event: ev.Event, limits: Limits) -> Iterable[tuple[str, int]]:
    """What of an event is bounded: the limit and how much of it."""
    match event:
        case ev.Invite(sdp=sdp) | ev.Answer(sdp=sdp) | ev.DeviceNegotiate(sdp=sdp):
            yield "invite_sdp", len(sdp)
        case ev.ChannelNegotiate(sdp=sdp):
            yield "channel_sdp", len(sdp)
        case ev.Noted(candidates=number, longest=longest) if number:
            yield "candidates", number
            yield "candidate_size", longest
        case ev.BadMessage(bound=str(bound)):
            yield bound, getattr(limits, bound)
        case _:
            pass
