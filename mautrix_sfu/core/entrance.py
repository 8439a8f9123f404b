"""From an invite to a leg: repeated, parked, refused or opened (docs/protocol.md, sections 2 and 3)."""

from __future__ import annotations

from . import events as ev
from .admission import Place, find_place, limit_hit
from .books import Books
from .commands import ApplyOffer, Counter, OpenLeg
from .grades import REASON_BUSY, REASON_REFUSED, Grades
from .ids import ConferenceKey
from .leg import Leg, PendingOffer, Via
from .lobby import Lobby
from .membership import Room, Rooms
from .outbox import Outbox
from .policy import Policy
from .rate import Rate
from .sequence import CallKey
from .trunks import Trunks

# Each invite is answered with one or two to-device messages, which cost the homeserver more than it cost the inviter.
TRIES = 4  # a deployed client's, of each of its user's devices, may come at once
TRY_SECONDS = 10.0  # and then one of each device in this time


class Entrance:
    """Where invites come in."""

    def __init__(self, books: Books, rooms: Rooms, policy: Policy, grades: Grades, trunks: Trunks, out: Outbox) -> None:
        self._books = books
        self._rooms = rooms
        self._policy = policy
        self._grades = grades
        self._trunks = trunks
        self._out = out
        self._lobby = Lobby()
        devices = policy.limits.legs_per_user
        self._rate = Rate(TRIES * devices, devices / TRY_SECONDS)

    @property
    def parked(self) -> int:
        """Invites that wait for room state."""
        return len(self._lobby)

    def next_deadline(self) -> float | None:
        """When the next parked invite has waited long enough."""
        return self._lobby.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Refuse those that have waited long enough."""
        while (parked := self._lobby.pop_due(now)) is not None:
            self._grades.refuse(parked.invite.envelope, REASON_REFUSED, parked.cause)

    def room_changed(self, room: Room, now: float) -> None:
        """Look again at the invites that waited for this room's state."""
        for parked in self._lobby.waiting_for(room.room_id, room.confs()):
            self.admit(parked.invite, parked.deadline, now)

    def withdrawn(self, call: CallKey) -> None:
        """The inviter hung up before it was answered."""
        self._lobby.take(call)

    def invited(self, invite: ev.Invite, leg: Leg | None, now: float) -> None:
        """Take an invite; `leg` is the live one of the same call, which then gets its answer again."""
        call = (invite.envelope.sender, invite.envelope.call_id)
        dialled = self._trunks.is_peer(invite, now)  # a focus calls once for each conference
        if not self._rate.allow((invite.envelope.sender.user_id, dialled), now):
            self._out.count(Counter.BOUNDS_HIT, "invites_per_user")
        elif leg is not None:
            if leg.answer is not None:
                self._out.put(leg.answer)
        elif call in self._books.ended:
            self._out.count(Counter.BAD_MESSAGES, "invite_of_ended_call")
        elif call not in self._lobby:
            if self._lobby.supersede(invite):
                self._out.count(Counter.REFUSALS, "superseded")
            self.admit(invite, now + min(invite.lifetime, self._policy.invite_wait), now)

    def admit(self, invite: ev.Invite, deadline: float, now: float) -> None:
        """Open a leg for an invite, or let it wait, or refuse it."""
        trunk_of = self._trunks.is_peer(invite, now)
        if trunk_of is not None:
            self._lobby.take((invite.envelope.sender, invite.envelope.call_id))
            if self._trunks.invited(invite, trunk_of, now):
                self._open_trunk(invite, trunk_of, now)
            return
        place = find_place(invite, self._rooms, self._policy, now)
        if isinstance(place, str):
            self._park(invite, place, deadline)
            return
        envelope = invite.envelope
        live = self._books.same_device(envelope, place.key)
        if any(leg.session != envelope.session_id and self._grades.standing(leg, now).listed for leg in live):
            self._park(invite, "other_session_is_live", deadline)
            return
        self._lobby.take((envelope.sender, envelope.call_id))
        people = [leg for leg in self._books.legs.values() if not leg.trunk]
        limit = limit_hit(envelope.sender, place, people, live, self._policy)
        if limit is not None:
            self._out.count(Counter.BOUNDS_HIT, limit)
            self._grades.refuse(envelope, REASON_BUSY, limit)
            return
        self._open(invite, place, now)

    def _park(self, invite: ev.Invite, cause: str, deadline: float) -> None:
        call = (invite.envelope.sender, invite.envelope.call_id)
        self._lobby.take(call)
        dropped = self._lobby.park(invite, cause, deadline)
        if dropped is not None:
            self._out.count(Counter.BOUNDS_HIT, "parked_invites")

    def _open(self, invite: ev.Invite, place: Place, now: float) -> None:
        leg = Leg(self._books.new_leg_id(), invite.envelope, self._policy, self._out, self._books.timers)
        self._answer(leg, invite, place.key, now)

    def _open_trunk(self, invite: ev.Invite, key: ConferenceKey, now: float) -> None:
        leg = self._trunks.make(self._books.new_leg_id(), invite.envelope, key, dials=False)
        self._trunks.accepted(leg, key, now)
        self._answer(leg, invite, key, now)

    def _answer(self, leg: Leg, invite: ev.Invite, key: ConferenceKey | None, now: float) -> None:
        leg.pending = PendingOffer(invite.metadata, Via.INVITE)
        self._books.add(leg, key, now)
        self._out.put(OpenLeg(leg.id, leg.peer))
        self._out.put(ApplyOffer(leg.id, invite.sdp))
