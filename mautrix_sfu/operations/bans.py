"""Whom commands banned, and until when. Pure; times are milliseconds of the wall clock."""

from __future__ import annotations

from collections.abc import Iterable

from ..store import StoredBan


class Bans:
    """One ban for each user or homeserver."""

    def __init__(self, stored: Iterable[StoredBan] = ()) -> None:
        self._by_name = {ban.who: ban for ban in stored}

    def __contains__(self, who: str) -> bool:
        return who in self._by_name

    def put(self, ban: StoredBan) -> None:
        """Take a ban in place of the one before."""
        self._by_name[ban.who] = ban

    def remove(self, who: str) -> None:
        """Lift a ban."""
        self._by_name.pop(who, None)

    def take_expired(self, now_ms: int) -> list[StoredBan]:
        """Those that have run out; they are lifted."""
        over = [ban for ban in self._by_name.values() if ban.until_ms is not None and ban.until_ms <= now_ms]
        for ban in over:
            del self._by_name[ban.who]
        return over

    def all(self) -> list[StoredBan]:
        """Those in force, oldest first."""
        return sorted(self._by_name.values(), key=lambda ban: ban.since_ms)

    def names(self) -> frozenset[str]:
        """Who is banned."""
        return frozenset(self._by_name)
