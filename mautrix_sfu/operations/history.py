"""Keeps what calls are while they go on, so that one that is cut by a kill is in the history, too."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.ids import ConferenceKey
from ..core.view import CallView
from ..store import EndedCall, Store

KEEP = 60.0  # seconds after which what is kept of a call is brought up to date


class History:
    """The calls of this process. Times are seconds of a monotonic clock; those kept are the wall clock's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[ConferenceKey, tuple[int, float]] = {}  # under which number, and when

    def look(self, calls: Iterable[tuple[CallView, int, int]], now: float, now_ms: int) -> None:
        """Keep the calls that go on, with the bytes that came and went; a new one at once."""
        for call, came, went in calls:
            number, kept = self._kept.get(call.conference, (None, 0.0))
            if number is None or now - kept >= KEEP:
                number = self._store.put_running_call(_record(call, came, went, now_ms), number)
                self._kept[call.conference] = number, now

    def ended(self, call: CallView, came: int, went: int, now_ms: int) -> None:
        """Keep that a call is over."""
        number, _ = self._kept.pop(call.conference, (None, 0.0))
        self._store.put_ended_call(_record(call, came, went, now_ms), number)


def _record(call: CallView, came: int, went: int, now_ms: int) -> EndedCall:
    started_ms = now_ms - round(call.seconds * 1000)
    return EndedCall(*call.conference, started_ms, now_ms, call.people, call.peak, came, went)
