"""Whom an operator has muted: nothing of theirs of that kind is forwarded, to nobody and over no trunk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .ids import Kind, UserId

REMEMBERED_AWAY = 60.0  # seconds that a mute outlives its user's last leg: calling again does not lift it


class Mutes:
    """The muted kinds by user. Who has left for long enough is forgotten."""

    def __init__(self) -> None:
        self._kinds: dict[UserId, frozenset[Kind]] = {}
        self._away_until: dict[UserId, float] = {}
        self.stale = False  # somebody came or went since `look`

    @property
    def users(self) -> Mapping[UserId, frozenset[Kind]]:
        """Who is muted, and what of theirs."""
        return self._kinds

    def change(self, user_id: UserId, kinds: Iterable[Kind], muted: bool) -> None:
        """Mute or unmute these kinds."""
        before = self._kinds.get(user_id, frozenset())
        after = before | frozenset(kinds) if muted else before - frozenset(kinds)
        if after:
            self._kinds[user_id] = after
            self.stale = True
        else:
            self._forget(user_id)

    def mutes(self, user_id: UserId, kind: Kind) -> bool:
        """Whether this is not to be forwarded."""
        return kind in self._kinds.get(user_id, ())

    def look(self, present: Collection[UserId], now: float) -> None:
        """Learn who is in calls: the clock of those who are not starts."""
        self.stale = False
        for user_id in self._kinds:
            if user_id in present:
                self._away_until.pop(user_id, None)
            else:
                self._away_until.setdefault(user_id, now + REMEMBERED_AWAY)

    def next_deadline(self) -> float | None:
        """When somebody is forgotten."""
        return min(self._away_until.values(), default=None)

    def handle_timeout(self, now: float) -> None:
        """Forget who was away for long enough."""
        for user_id in [user for user, until in self._away_until.items() if until <= now]:
            self._forget(user_id)

    def _forget(self, user_id: UserId) -> None:
        self._kinds.pop(user_id, None)
        self._away_until.pop(user_id, None)
