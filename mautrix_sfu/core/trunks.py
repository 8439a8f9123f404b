"""Trunks as legs: dials what the cascade wants, takes or refuses what other foci dial, drops what has no reason."""

from __future__ import annotations

from .books import Books
from .cascade import ANSWER_TIMEOUT, Cascade, Dial, Drop, Verdict
from .commands import ApplyAnswer, Counter, Level, MakeInvite, OpenLeg, SendInvite, StoreLeg
from .events import Answer, Envelope, Invite, InviteMade
from .grades import REASON_BUSY, REASON_REFUSED, Grades
from .ids import CallId, ConferenceKey, Device, LegId
from .leg import CONNECT_TIMEOUT, Leg, State, Timer
from .membership import Room
from .outbox import Outbox
from .rooms import Rooms
from .tracks import RemotePublications

INVITE_LIFETIME = 10.0  # seconds: what a focus does not answer by then it need not answer


class Trunks:
    """The trunks of one focus. `settle` is called for a conference whenever its people, foci or trunks changed."""

    def __init__(self, books: Books, rooms: Rooms, cascade: Cascade, grades: Grades, out: Outbox) -> None:
        self._books = books
        self._rooms = rooms
        self._cascade = cascade
        self._grades = grades
        self._out = out

    # ------------------------------------------------------------ what is wanted

    def settle(self, key: ConferenceKey, now: float) -> None:
        """Dial and drop as room state and the people here want it."""
        room = self._rooms.get(key.room_id)
        conference = self._books.conferences.get(key)
        foci = [peer for peer in self.foci(room, key, now) if peer != self._books.policy.focus]
        local = conference is not None and bool(conference.participants)
        for action in self._cascade.settle(key, foci, local, now):
            match action:
                case Drop(leg=leg_id):
                    leg = self._books.legs.get(leg_id)
                    if leg is not None:
                        self._grades.end(leg, "user_hangup", now)
                case Dial(peer=peer):
                    self._dial(key, peer, now)

    def foci(self, room: Room | None, key: ConferenceKey, now: float) -> list[Device]:
        """The permitted foci of a conference's set, this one included."""
        if room is None or not self._books.policy.cascade:
            return []
        return [
            peer
            for peer in room.foci(key.conf_id, now)
            if room.takes_trunks(key.conf_id, peer, self._books.policy, now) is None
            and self._books.doors.keep_out(peer, key, None) is None
        ]

    def is_peer(self, invite: Invite, now: float) -> ConferenceKey | None:
        """The conference for which this invite is a focus's dial; None: it is a participant's."""
        envelope = invite.envelope
        if envelope.room_id is None or not self._books.policy.cascade:
            return None
        room = self._rooms.get(envelope.room_id)
        if room is None or room.takes_trunks(envelope.conf_id, envelope.sender, self._books.policy, now) is not None:
            return None
        return ConferenceKey(envelope.room_id, envelope.conf_id)

    # ------------------------------------------------------------ dialling

    def _dial(self, key: ConferenceKey, peer: Device, now: float) -> None:
        if self._books.doors.refuse_new(running=True) is not None:
            return  # tried again, as after an invite that got no answer
        if self._count() >= self._books.policy.limits.trunks:
            self._out.count(Counter.BOUNDS_HIT, "trunks")
            return
        leg_id = self._books.new_leg_id()
        call_id = CallId(f"{self._books.policy.trunk_session}-{leg_id}")
        envelope = Envelope(peer, call_id, key.conf_id, key.room_id, None, None, None, None)
        leg = self.make(leg_id, envelope, key, dials=True)
        self._books.add(leg, key, now)
        self._cascade.dialled(key, peer, leg_id, now)
        leg.set_timer(Timer.CONNECT, now + ANSWER_TIMEOUT)
        self._out.log(Level.INFO, "dialling a focus", leg.about)
        self._out.put(OpenLeg(leg_id, peer, key.conf_id, key.room_id, dials=True))
        self._out.put(MakeInvite(leg_id))

    def make(self, leg_id: LegId, envelope: Envelope, key: ConferenceKey, *, dials: bool) -> Leg:
        """A leg that is a trunk of this conference."""

        def believes(owner: Device, now: float) -> bool:
            room = self._rooms.get(key.room_id)
            return room is not None and room.lists_focus(key.conf_id, owner, envelope.sender, now)

        published = RemotePublications(leg_id, envelope.sender, believes)
        return Leg(leg_id, envelope, self._books.policy, self._out, self._books.timers, published, dials)

    def _count(self) -> int:
        return sum(leg.trunk for leg in self._books.legs.values())

    def invite_made(self, leg: Leg, event: InviteMade, now: float) -> None:
        """The first offer of a dial is there: send it."""
        if leg.state is not State.INVITING:
            return
        self._out.put(StoreLeg(leg.id, leg.stored()))
        self._out.put(SendInvite(leg.id, leg.address(), event.sdp, INVITE_LIFETIME, leg.shown))

    def answered(self, leg: Leg, message: Answer, now: float) -> None:
        """The other focus answers."""
        if not leg.dials or leg.state is not State.INVITING:
            return
        self._cascade.answered(leg.peer)
        leg.session = message.envelope.session_id
        if message.metadata is not None:
            leg.published.set_metadata(message.metadata, now)
        leg.set_timer(Timer.CONNECT, now + CONNECT_TIMEOUT)
        self._out.put(ApplyAnswer(leg.id, message.sdp))

    # ------------------------------------------------------------ being dialled

    def invited(self, invite: Invite, key: ConferenceKey, now: float) -> bool:
        """Another focus dials; False if its invite is refused."""
        peer = invite.envelope.sender
        closed = self._books.doors.keep_out(peer, key, invite.envelope.session_id)
        if closed is not None:
            self._grades.refuse(invite.envelope, REASON_REFUSED, closed)
            return False
        closed = self._books.doors.refuse_new(running=key in self._books.conferences)
        if closed is not None:
            self._out.count(Counter.BOUNDS_HIT, closed)
            self._grades.refuse(invite.envelope, REASON_BUSY, closed)
            return False
        verdict, own = self._cascade.invited(key, peer, now)
        if verdict is Verdict.REJECT:
            self._grades.refuse(invite.envelope, REASON_BUSY, "own_invite_is_first")
            return False
        if own is not None and (leg := self._books.legs.get(own)) is not None:
            self._grades.end(leg, "replaced", now)
        if self._count() >= self._books.policy.limits.trunks:
            self._out.count(Counter.BOUNDS_HIT, "trunks")
            self._grades.refuse(invite.envelope, REASON_BUSY, "trunks")
            self._books.unsettled.add(key)  # else the cascade waits for this trunk for ever
            return False
        return True

    def accepted(self, leg: Leg, key: ConferenceKey, now: float) -> None:
        """The other focus's invite is being answered on this leg."""
        self._cascade.accepted(key, leg.peer, leg.id, now)

    def connected(self, leg: Leg, now: float) -> None:
        """A trunk's ICE is up; of two that crossed the first stays."""
        if leg.conference is None:
            return
        other = self._cascade.connected(leg.conference, leg.peer, leg.id)
        if other is not None and (second := self._books.legs.get(other)) is not None:
            self._grades.end(second, "replaced", now)
