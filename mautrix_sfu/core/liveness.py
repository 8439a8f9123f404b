"""Whether the peer of a leg is still there: pings, pongs, and how many bad messages are too many."""

from __future__ import annotations

MAX_BAD_MESSAGES = 20  # in BAD_MESSAGE_WINDOW: more of them end the leg
BAD_MESSAGE_WINDOW = 60.0


class Liveness:
    """One leg's data channel, from when it opened."""

    def __init__(self, now: float, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._next_ping = now  # the first goes out at once: it measures the way
        self._heard = now
        self._pinged_at: float | None = None
        self.round_trip: float | None = None  # seconds, of the newest ping that was answered

    def retime(self, now: float, interval: float, timeout: float) -> None:
        """Ping at another interval, with another patience, from now on."""
        if (interval, timeout) != (self._interval, self._timeout):
            self._interval, self._timeout = interval, timeout
            self._next_ping = min(self._next_ping, now + interval)
            self._heard = max(self._heard, now - timeout / 2)  # nobody is gone for a rule that was not there

    def heard(self, now: float) -> None:
        """Any message came."""
        self._heard = now

    def pong(self, now: float) -> None:
        """A ping was answered."""
        self.heard(now)
        if self._pinged_at is not None:
            self.round_trip = now - self._pinged_at
            self._pinged_at = None

    def ping_due(self, now: float) -> bool:
        """Whether to ping now; a ping that is due counts as sent."""
        if now < self._next_ping:
            return False
        self._next_ping = now + self._interval
        self._pinged_at = now
        return True

    def dead(self, now: float) -> bool:
        """Whether nothing was heard for too long."""
        return now - self._heard >= self._timeout

    def deadline(self) -> float:
        """When to look again."""
        return min(self._next_ping, self._heard + self._timeout)


class BadMessages:
    """How many messages of a peer could not be understood lately."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def add(self, now: float) -> bool:
        """Count one; True if that is one too many."""
        if now - self._since > BAD_MESSAGE_WINDOW:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > MAX_BAD_MESSAGES
