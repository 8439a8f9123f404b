"""What the bot tells unasked: merged and spaced, so that nobody outside can make it talk much. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .reply import duration

MERGE = 2.0  # seconds that the first word of something waits for more of it
MAX_TOPICS = 50  # that are kept apart
MAX_NAMED = 3  # of those who brought something about
MAX_DISTINCT = 100  # of them that are counted apart
REST = "other things"


@dataclass(slots=True)
class _Topic:
    times: int = 0  # since it was told last
    since: float = 0.0  # when the first of them was
    told: float = float("-inf")
    text: str = ""  # the last of them
    who: Counter[str] = field(default_factory=Counter)


class Notices:
    """What there is to tell. Messages are at least `interval` seconds apart, and the same thing `repeat` seconds."""

    def __init__(self, interval: float, repeat: float) -> None:
        self._interval = interval
        self._repeat = repeat
        self._topics: dict[str, _Topic] = {}
        self._told = float("-inf")

    def configure(self, interval: float, repeat: float) -> None:
        """Go by other times."""
        self._interval, self._repeat = interval, repeat

    def add(self, topic: str, text: str, now: float, who: str | None = None) -> None:
        """Something has happened; of one topic only the last text is told, and how often there was one."""
        if topic not in self._topics and len(self._topics) >= MAX_TOPICS and not self._forget(now):
            topic = text = REST
        found = self._topics.setdefault(topic, _Topic())
        found.since = found.since if found.times else now
        found.times += 1
        found.text = text
        if who is not None:
            self.name(topic, who)

    def name(self, topic: str, who: str) -> None:
        """Say who brought about what is to be told."""
        found = self._topics.get(topic)
        if found is not None and found.times and (who in found.who or len(found.who) < MAX_DISTINCT):
            found.who[who] += 1

    def next_deadline(self) -> float | None:
        """When there is something to say."""
        return min((self._due(topic) for topic in self._topics.values() if topic.times), default=None)

    def take(self, now: float) -> list[str]:
        """The lines to say now; empty: nothing."""
        due = [topic for topic in self._topics.values() if topic.times and self._due(topic) <= now]
        said = [_line(topic, now) for topic in due]
        for topic in due:
            topic.times, topic.told = 0, now
            topic.who.clear()
        if due:
            self._told = now
        return said

    def _due(self, topic: _Topic) -> float:
        return max(topic.since + MERGE, topic.told + self._repeat, self._told + self._interval)

    def _forget(self, now: float) -> bool:
        """Make room by what was told long ago."""
        old = [name for name, topic in self._topics.items() if not topic.times and topic.told + self._repeat <= now]
        for name in old:
            del self._topics[name]
        return bool(old)


def _line(topic: _Topic, now: float) -> str:
    often = f" ({topic.times} times in {duration(now - topic.since)})" if topic.times > 1 else ""
    named = [f"{who} {times} times" if times > 1 else who for who, times in topic.who.most_common(MAX_NAMED)]
    more = f" and {len(topic.who) - MAX_NAMED} more" if len(topic.who) > MAX_NAMED else ""
    by = f": {', '.join(named)}{more}" if named else ""
    return f"{topic.text}{often}{by}"
