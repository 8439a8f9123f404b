"""The rooms in which calls were seen, and where each call id stands."""

from __future__ import annotations

from collections.abc import Callable

from .commands import Counter, ForgetRoom
from .ids import ConfId, RoomId
from .membership import Freeze, Room
from .outbox import Outbox
from .policy import Policy

MAX_ROOMS = 20_000  # tracked: anybody on the homeserver can make one more
INDEX_REBUILD = 10_000  # call ids indexed before the index is swept


class Rooms:
    """Every room with a call, those last of which something was heard lately; one that is forgotten is read anew."""

    def __init__(self, policy: Policy, in_use: Callable[[RoomId], bool], out: Outbox) -> None:
        """`in_use` says whether a room has legs: such a one is never forgotten."""
        self._policy = policy
        self._in_use = in_use
        self._out = out
        self._rooms: dict[RoomId, Room] = {}
        self._by_conf: dict[ConfId, set[RoomId]] = {}
        self._index_limit = INDEX_REBUILD  # calls come and go: what is named no more is swept out now and then
        self.freeze = Freeze()

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, room_id: RoomId) -> Room | None:
        """The room, if anything of it concerns calls."""
        return self._rooms.get(room_id)

    def open(self, room_id: RoomId) -> Room:
        """The room, tracked from now on, and the last to be forgotten."""
        room = self._rooms.pop(room_id, None)
        if room is None:
            self._make_place()
            focus = self._policy.focus
            room = Room(room_id, focus.homeserver, focus.user_id, self.freeze)
        self._rooms[room_id] = room
        return room

    def _make_place(self) -> None:
        if len(self._rooms) < MAX_ROOMS:
            return
        oldest = next((room for room_id, room in self._rooms.items() if not self._in_use(room_id)), None)
        if oldest is None:
            return  # there are as many as there are calls, which have a limit of their own
        del self._rooms[oldest.room_id]
        for conf in oldest.confs():
            self._by_conf.get(conf, set()).discard(oldest.room_id)
        self._out.count(Counter.BOUNDS_HIT, "tracked_rooms")
        self._out.put(ForgetRoom(oldest.room_id))

    def index(self, room: Room, confs: set[ConfId]) -> None:
        """Remember that these calls were named in this room."""
        for conf in confs:
            self._by_conf.setdefault(conf, set()).add(room.room_id)
        if len(self._by_conf) > self._index_limit:
            self._by_conf = {}
            for known in self._rooms.values():
                for conf in known.confs():
                    self._by_conf.setdefault(conf, set()).add(known.room_id)
            self._index_limit = max(INDEX_REBUILD, 2 * len(self._by_conf))

    def of_call(self, conf_id: ConfId) -> list[Room]:
        """The rooms that name this call."""
        rooms = (self._rooms.get(room_id) for room_id in self._by_conf.get(conf_id, ()))
        return [room for room in rooms if room is not None and room.names_call(conf_id)]
