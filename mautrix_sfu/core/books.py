"""The legs there are, by number, call and room, and the conferences in which they are full."""

from __future__ import annotations

from collections import OrderedDict

from . import events as ev
from .conference import Conference
from .doors import Doors
from .ids import ConferenceKey, LegId, RoomId
from .leg import Leg, LegTimers, State
from .mutes import Mutes
from .policy import Policy
from .sequence import CallKey
from .timers import Timers
from .usage import Peaks

REMEMBERED_ENDS = 4096  # calls that ended: their invites, delivered again, open nothing


class Books:
    """What all parts of the focus look up; each of its fields is kept true here."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy  # the one in force: nobody keeps another
        self.doors = Doors()
        self.mutes = Mutes()
        self.peaks = Peaks()
        self.timers: LegTimers = Timers()
        self.legs: dict[LegId, Leg] = {}
        self.by_call: dict[CallKey, LegId] = {}
        self.by_room: dict[RoomId, set[LegId]] = {}
        self.unbound: set[LegId] = set()  # more than one room qualifies for them
        self.ended: OrderedDict[CallKey, None] = OrderedDict()
        self.conferences: dict[ConferenceKey, Conference] = {}
        self.unsettled: set[ConferenceKey] = set()  # their trunks may have to change
        self.caught_up = False
        self._next_leg = 0

    def new_leg_id(self) -> LegId:
        """A number that no leg had."""
        self._next_leg += 1
        return LegId(self._next_leg)

    def add(self, leg: Leg, key: ConferenceKey | None, now: float) -> None:
        """Take a new leg into the books."""
        leg.since = now
        self.legs[leg.id] = leg
        self.by_call[leg.peer, leg.envelope.call_id] = leg.id
        self.unbound.add(leg.id)
        self.bind(leg, key)

    def bind(self, leg: Leg, key: ConferenceKey | None) -> None:
        """Say which conference a leg belongs to, once it is known."""
        if key is not None and leg.conference is None:
            leg.conference = key
            self.unbound.discard(leg.id)
            self.by_room.setdefault(key.room_id, set()).add(leg.id)

    def same_device(self, envelope: ev.Envelope, key: ConferenceKey | None) -> list[Leg]:
        """The legs that an invite of this device replaces, if it is answered."""
        return [
            leg
            for leg in self.legs.values()
            if leg.peer == envelope.sender
            and leg.state is not State.INVITING
            and leg.envelope.conf_id == envelope.conf_id
            and (leg.conference is None or key is None or leg.conference == key)
        ]

    def remove(self, leg: Leg) -> None:
        """Take a leg out of the books."""
        del self.legs[leg.id]
        self.by_call.pop((leg.peer, leg.envelope.call_id), None)
        self.unbound.discard(leg.id)
        if leg.conference is not None:
            in_room = self.by_room[leg.conference.room_id]
            in_room.discard(leg.id)
            if not in_room:
                del self.by_room[leg.conference.room_id]

    def of_room(self, room_id: RoomId) -> list[Leg]:
        """The legs that a change in this room may concern."""
        return [self.legs[leg_id] for leg_id in sorted(self.by_room.get(room_id, set()) | self.unbound)]

    def by_address(self, call: CallKey) -> Leg | None:
        """The leg of a call, by who made it."""
        leg_id = self.by_call.get(call)
        return self.legs.get(leg_id) if leg_id is not None else None

    def remember_end(self, call: CallKey) -> None:
        """Open nothing for this call any more."""
        self.ended[call] = None
        if len(self.ended) > REMEMBERED_ENDS:
            self.ended.popitem(last=False)

    def conference_of(self, leg: Leg) -> Conference | None:
        """The conference in which this leg is full."""
        conference = self.conferences.get(leg.conference) if leg.conference is not None else None
        return conference if conference is not None and leg.id in conference.legs else None
