"""Who is kept out for now, whatever room state says: kicked, of an ended call, while draining or overloaded."""

from __future__ import annotations

from collections import OrderedDict

from .ids import ConferenceKey, Device, DeviceId, SessionId, UserId

KICKED, CALL_ENDED = "kicked", "call_ended"  # by an operator
REMEMBERED_SESSIONS = 4096  # kicked ones: they may not come back by themselves


class Doors:
    """What an operator, or the load, has closed. Who is inside is not its matter."""

    def __init__(self) -> None:
        self._people: dict[tuple[UserId, DeviceId | None], float] = {}  # kept out until then
        self._calls: dict[ConferenceKey, float] = {}
        self._sessions: OrderedDict[tuple[Device, SessionId | None], None] = OrderedDict()
        self.draining = False
        self.drain_deadline: float | None = None  # when those who are left are told to move; None: never
        self.moved = False  # the deadline has passed: running calls are closed, too
        self.overload: str | None = None

    # ------------------------------------------------------------ what closes them

    def kick(self, user_id: UserId, device_id: DeviceId | None, until: float) -> None:
        """Keep a user, or one device of a user, out for a time."""
        self._people[user_id, device_id] = until

    def kick_session(self, device: Device, session: SessionId | None) -> None:
        """Keep this session of a device out for good: clients try again by themselves, people begin a new one."""
        self._sessions[device, session] = None
        if len(self._sessions) > REMEMBERED_SESSIONS:
            self._sessions.popitem(last=False)

    def end(self, key: ConferenceKey, until: float) -> None:
        """Keep everybody out of a call for a time."""
        self._calls[key] = until

    def drain(self, on: bool, deadline: float | None) -> None:
        """Take no new calls, and from `deadline` on nobody; or open again."""
        self.draining, self.drain_deadline, self.moved = on, deadline if on else None, False

    # ------------------------------------------------------------ what opens them

    def next_deadline(self) -> float | None:
        """When somebody may come again, or those who are left are told to move."""
        times = [*self._people.values(), *self._calls.values()]
        if self.drain_deadline is not None:
            times.append(self.drain_deadline)
        return min(times, default=None)

    def handle_timeout(self, now: float) -> bool:
        """Open what is due; True if the drain's deadline has come."""
        self._people = {who: until for who, until in self._people.items() if until > now}
        self._calls = {key: until for key, until in self._calls.items() if until > now}
        if self.drain_deadline is None or now < self.drain_deadline:
            return False
        self.drain_deadline, self.moved = None, True
        return True

    # ------------------------------------------------------------ who may pass

    def keep_out(self, who: Device, key: ConferenceKey | None, session: SessionId | None) -> str | None:
        """Why this device may not come now, by the operator's word; None: it may."""
        if (who, session) in self._sessions or not self._people.keys().isdisjoint(_names(who)):
            return KICKED
        if key is not None and key in self._calls:
            return CALL_ENDED
        return None

    def refuse_new(self, *, running: bool) -> str | None:
        """Why no leg is opened now; `running`: it is for a call that goes on. None: it is."""
        if self.draining and (self.moved or not running):
            return "draining"
        return None if self.overload is None else f"overload_{self.overload}"


def _names(who: Device) -> tuple[tuple[UserId, DeviceId | None], ...]:
    return ((who.user_id, None), (who.user_id, who.device_id))
