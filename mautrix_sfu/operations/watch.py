"""What is worth telling admins unasked, out of what happens. Pure; times are seconds of a monotonic clock."""

from __future__ import annotations

from collections.abc import Iterable

from ..admin.notices import Notices
from ..admin.reply import duration
from ..config import NoticesConfig
from ..core.commands import Count, Counter
from ..core.ids import ConferenceKey, Device
from ..core.view import LinkView

OVERLOAD = "overload_"


class Watch:
    """Listens to the parts of the focus, and keeps what there is to tell."""

    def __init__(self, config: NoticesConfig) -> None:
        self.notices = Notices(config.interval, config.repeat)
        self._outage = config.outage
        self._homeserver_away: float | None = None  # since when
        self._trunks_down: set[tuple[Device, ConferenceKey]] = set()  # that were told

    def configure(self, config: NoticesConfig) -> None:
        """Go by other times."""
        self.notices.configure(config.interval, config.repeat)
        self._outage = config.outage

    def started(self, version: str, legs: int, now: float) -> None:
        """The process has started; so many connections were up when the last one ended."""
        before = f"; it had not ended in order, and {legs} connections were told to call again" if legs else ""
        self.notices.add("start", f"mautrix-sfu {version} has started{before}.", now)

    def counted(self, what: Count, now: float) -> None:
        """The core counted something."""
        who = what.peer.user_id if what.peer is not None else None
        match what.counter:
            case Counter.BOUNDS_HIT:
                self.notices.add(_limit(what.cause), f"The limit {what.cause} was reached", now)
            case Counter.REFUSALS if what.cause == "banned":
                self.notices.add("banned", "Somebody banned tried to join a call", now, who)
            case Counter.REFUSALS if what.cause == f"{OVERLOAD}database":
                pass  # told already, when it went away
            case Counter.REFUSALS if what.cause.startswith(OVERLOAD):
                cause = what.cause.removeprefix(OVERLOAD)
                self.notices.add("overload", f"Too much load ({cause}): somebody was refused", now, who)
            case Counter.REFUSALS if who is not None:
                self.notices.name(_limit(what.cause), who)
            case _:
                pass

    def homeserver(self, up: bool, now: float) -> None:
        """The homeserver does not answer any more, or again; only then can it be told."""
        if not up:
            self._homeserver_away = now if self._homeserver_away is None else self._homeserver_away
        elif self._homeserver_away is not None:
            away, self._homeserver_away = now - self._homeserver_away, None
            if away >= self._outage:
                self.notices.add("homeserver", f"The homeserver did not answer for {duration(away)}.", now)

    def database(self, why: str | None, now: float) -> None:
        """The database does not answer any more, for this reason, or again."""
        if why is None:
            self.notices.add("database up", "The database answers again", now)
        else:
            self.notices.add("database down", f"Calls go on, but new ones are refused: {why}", now)

    def links(self, links: Iterable[LinkView], now: float) -> None:
        """Look at the trunks that there are or should be."""
        wanted = {(link.peer, link.conference): link for link in links}
        for place, link in wanted.items():
            if link.down_for is not None and link.down_for >= self._outage and place not in self._trunks_down:
                self._trunks_down.add(place)
                text = f"A trunk has been down for {duration(link.down_for)}"
                self.notices.add("trunk down", text, now, link.peer.user_id)
        for place in list(self._trunks_down):
            known = wanted.get(place)
            if known is None:
                self._trunks_down.discard(place)
            elif known.up is not None:
                self._trunks_down.discard(place)
                self.notices.add("trunk up", "A trunk is up again", now, known.peer.user_id)


def _limit(cause: str) -> str:
    return f"limit {cause}"
