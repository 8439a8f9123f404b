"""When a focus may offer on a leg: one offer in flight, 250 ms after the last answer, repeated until it is answered.

docs/protocol.md, section 4, "Negotiation". The focus is the polite side: its offer in flight gives way. Nothing else
takes its place before it is answered: the peer may have applied it, and another would lack the m-lines that it made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .commands import SendTrack
from .ids import Slot

AFTER_ANSWER = 0.25  # a deployed client loses an offer that comes sooner after an answer
REPEAT_AFTER = 2.0  # an offer without an answer is sent again
PATIENCE = 10.0  # and then more rarely
RETRY_AFTER = 20.0  # what a client does not answer it may answer later
LOST_AFTER = 60.0  # another focus that does not answer has lost the session


class Action(Enum):
    """What is to be done about offers now."""

    NOTHING = "nothing"
    OFFER = "offer"
    REPEAT = "repeat"
    TIMED_OUT = "timed_out"


@dataclass(slots=True)
class _InFlight:
    sends: tuple[SendTrack, ...]
    since: float
    repeat_at: float
    late: bool = False


class Offers:
    """The offers of one leg. Says what to do and when to ask again; does nothing itself."""

    def __init__(self) -> None:
        self._in_flight: _InFlight | None = None
        self._agreed: tuple[SendTrack, ...] = ()  # what the peer answered last
        self._not_before = 0.0

    @property
    def in_flight(self) -> bool:
        """Whether an offer waits for its answer."""
        return self._in_flight is not None

    def poll(self, wanted: tuple[SendTrack, ...], now: float) -> Action:
        """What to do now, given what an offer would send. What is returned counts as done."""
        flight = self._in_flight
        if flight is not None:
            if not flight.late and now - flight.since >= PATIENCE:
                flight.late, flight.repeat_at = True, now + RETRY_AFTER
                return Action.TIMED_OUT
            if now >= flight.repeat_at:
                flight.repeat_at = now + (RETRY_AFTER if flight.late else REPEAT_AFTER)
                return Action.REPEAT
            return Action.NOTHING
        if wanted == self._agreed or now < self._not_before:
            return Action.NOTHING
        self._in_flight = _InFlight(wanted, now, now + REPEAT_AFTER)
        return Action.OFFER

    def deadline(self, wanted: tuple[SendTrack, ...]) -> float | None:
        """When to poll again."""
        flight = self._in_flight
        if flight is not None:
            return flight.repeat_at if flight.late else min(flight.repeat_at, flight.since + PATIENCE)
        return self._not_before if wanted != self._agreed else None

    def was_offered(self, slot: Slot) -> bool:
        """Whether the last offer that was answered had this slot."""
        return any(send.slot == slot for send in self._agreed)

    def answered(self, now: float) -> bool:
        """The peer's answer was applied; False if there was nothing to answer."""
        if self._in_flight is None:
            return False
        self._agreed = self._in_flight.sends
        self._in_flight = None
        self._not_before = now + AFTER_ANSWER
        return True

    def answer_failed(self, now: float) -> None:
        """The peer's answer could not be used: the same offer is made again later."""
        if self._in_flight is not None:
            self._in_flight.late, self._in_flight.repeat_at = True, now + RETRY_AFTER

    def lost(self, now: float) -> bool:
        """Whether the offer in flight has waited for so long that no answer will come."""
        return self._in_flight is not None and now - self._in_flight.since >= LOST_AFTER

    def gave_answer(self, now: float) -> None:
        """The focus answered an offer of the peer: its own in flight is gone, and the next has to wait."""
        self._in_flight = None
        self._not_before = now + AFTER_ANSWER
