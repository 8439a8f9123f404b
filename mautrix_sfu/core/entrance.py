"""From an invite to a leg: repeated, parked, refused or opened (docs/protocol.md, sections 2 and 3)."""

from __future__ import annotations

from . import events as ev
from .admission import Place, find_place, limit_hit
from .books import Books
from .commands import ApplyOffer, Counter, OpenLeg
from .grades import BY_THE_OPERATOR, REASON_BUSY, REASON_PLAIN, REASON_REFUSED, Grades
from .ids import ConferenceKey
from .leg import Leg, PendingOffer, Via
from .lobby import Lobby
from .membership import Room
from .outbox import Outbox
from .rate import Rate
from .rooms import Rooms
from .sequence import CallKey
from .shares import Shares
from .trunks import Trunks

TOLD = (1, 0.1)  # rejects of invites that are too many, to one user: at once, and a second


class Entrance:
    """Where invites come in."""

    def __init__(self, books: Books, rooms: Rooms, grades: Grades, trunks: Trunks, shares: Shares, out: Outbox) -> None:
        self._books = books
        self._rooms = rooms
        self._grades = grades
        self._trunks = trunks
        self._shares = shares
        self._out = out
        self._lobby = Lobby()
        self._rate = Rate(*self._invites())
        self._told = Rate(*TOLD)

    def _invites(self) -> tuple[float, float]:
        """Each is answered with one or two messages, which cost the homeserver more than it cost the inviter."""
        allowed = self._books.policy.limits.invites_per_user
        return allowed, allowed / 60

    def policy_changed(self) -> None:
        """Another number of invites is allowed now."""
        self._rate.change(*self._invites())

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
        for parked in self._lobby.waiting_for(room.room_id, room.names_call):
            self.admit(parked.invite, parked.deadline, now)

    def withdrawn(self, call: CallKey) -> None:
        """The inviter hung up before it was answered."""
        self._lobby.take(call)

    def invited(self, invite: ev.Invite, leg: Leg | None, now: float) -> None:
        """Take an invite; `leg` is the live one of the same call, which then gets its answer again."""
        call = (invite.envelope.sender, invite.envelope.call_id)
        dialled = self._trunks.is_peer(invite, now)  # a focus calls once for each conference
        asks = invite.envelope.sender.user_id, dialled
        allowed = self._rate.allow(asks, now)
        used = self._rate.used(asks) * self._books.policy.limits.invites_per_user
        self._books.peaks.note("invites_per_user", used, now)
        if not allowed:
            self._out.count(Counter.BOUNDS_HIT, "invites_per_user")
            new = leg is None and call not in self._books.ended and call not in self._lobby
            if new and self._told.allow(call[0].user_id, now):
                self._grades.refuse(invite.envelope, REASON_BUSY, "invites_per_user")
        elif self._books.policy.require_encryption and not invite.envelope.proven:
            if call not in self._books.ended:
                self._grades.refuse(invite.envelope, REASON_PLAIN, "not_encrypted")
        elif leg is not None:
            if leg.answer is not None:
                self._out.put(leg.answer)
        elif call in self._books.ended:
            self._out.count(Counter.BAD_MESSAGES, "invite_of_ended_call")
        elif call not in self._lobby:
            if self._lobby.supersede(invite):
                self._out.count(Counter.REFUSALS, "superseded")
            self.admit(invite, now + min(invite.lifetime, self._books.policy.invite_wait), now)

    def admit(self, invite: ev.Invite, deadline: float, now: float) -> None:
        """Open a leg for an invite, or let it wait, or refuse it."""
        trunk_of = self._trunks.is_peer(invite, now)
        if trunk_of is not None:
            self._lobby.take((invite.envelope.sender, invite.envelope.call_id))
            if self._trunks.invited(invite, trunk_of, now):
                self._open_trunk(invite, trunk_of, now)
            return
        place = find_place(invite, self._rooms, self._books.policy, now)
        if isinstance(place, str):
            if place in BY_THE_OPERATOR:
                self._lobby.take((invite.envelope.sender, invite.envelope.call_id))
                self._grades.refuse(invite.envelope, REASON_REFUSED, place)
            else:
                self._park(invite, place, deadline)
            return
        envelope = invite.envelope
        live = self._books.same_device(envelope, place.key)
        if any(leg.envelope.proven for leg in live) and not envelope.proven:
            self._lobby.take((envelope.sender, envelope.call_id))
            self._out.count(Counter.BAD_MESSAGES, "not_encrypted")
            return
        if any(leg.session != envelope.session_id and self._grades.standing(leg, now).listed for leg in live):
            self._park(invite, "other_session_is_live", deadline)
            return
        self._lobby.take((envelope.sender, envelope.call_id))
        if self._kept_out(envelope, place.key, live):
            return
        people = [leg for leg in self._books.legs.values() if not leg.trunk]
        limit = limit_hit(envelope.sender, place, people, live, self._books.policy)
        if limit is not None:
            self._out.count(Counter.BOUNDS_HIT, limit)
            self._grades.refuse(envelope, REASON_BUSY, limit)
            return
        self._open(invite, place, now)

    def _kept_out(self, envelope: ev.Envelope, key: ConferenceKey | None, live: list[Leg]) -> bool:
        """Refuse whom an operator or the load keeps out. Who replaces an own leg adds nothing to the load."""
        doors = self._books.doors
        cause = doors.keep_out(envelope.sender, key, envelope.session_id)
        if cause is not None:
            self._grades.refuse(envelope, REASON_REFUSED, cause)
            return True
        conference = self._books.conferences.get(key) if key is not None else None
        running = conference is not None and bool(conference.participants)
        cause = doors.refuse_new(running=running) or self._shares.full(key)
        if cause is None or (live and not doors.moved):
            return False
        self._out.count(Counter.BOUNDS_HIT, cause)
        self._grades.refuse(envelope, REASON_BUSY, cause)
        return True

    def _park(self, invite: ev.Invite, cause: str, deadline: float) -> None:
        call = (invite.envelope.sender, invite.envelope.call_id)
        self._lobby.take(call)
        dropped = self._lobby.park(invite, cause, deadline)
        if dropped is not None:
            self._out.count(Counter.BOUNDS_HIT, "parked_invites")

    def _open(self, invite: ev.Invite, place: Place, now: float) -> None:
        leg = Leg(self._books.new_leg_id(), invite.envelope, self._books.policy, self._out, self._books.timers)
        self._answer(leg, invite, place.key, now)

    def _open_trunk(self, invite: ev.Invite, key: ConferenceKey, now: float) -> None:
        leg = self._trunks.make(self._books.new_leg_id(), invite.envelope, key, dials=False)
        self._trunks.accepted(leg, key, now)
        self._answer(leg, invite, key, now)

    def _answer(self, leg: Leg, invite: ev.Invite, key: ConferenceKey | None, now: float) -> None:
        leg.pending = PendingOffer(invite.metadata, Via.INVITE)
        self._books.add(leg, key, now)
        self._out.put(OpenLeg(leg.id, leg.peer, leg.envelope.conf_id, leg.about.room_id))
        self._shares.opened(leg)
        self._out.put(ApplyOffer(leg.id, invite.sdp))
