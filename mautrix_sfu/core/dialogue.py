"""Offers and answers of live legs, either way: what was applied, what failed, what is said back."""

from __future__ import annotations

from . import events as ev
from .books import Books
from .commands import (
    ApplyAnswer,
    ApplyOffer,
    ChannelAnswer,
    Counter,
    Level,
    SendAnswer,
    SendNegotiate,
    StoreLeg,
)
from .conference import Conference
from .grades import REASON_REFUSED, Grades
from .leg import CONNECT_TIMEOUT, Leg, PendingOffer, State, Timer, Via
from .outbox import Outbox


class Dialogue:
    """The descriptions and the metadata that legs exchange with their peers."""

    def __init__(self, books: Books, grades: Grades, out: Outbox) -> None:
        self._books = books
        self._grades = grades
        self._out = out

    def offer_applied(self, leg: Leg, event: ev.OfferApplied, now: float) -> None:
        """The peer's offer was taken: publish what it says, and answer."""
        pending, leg.pending = leg.pending, None
        if pending is None:
            return
        if pending.metadata is not None:
            leg.published.set_metadata(pending.metadata, now)
        leg.published.set_received(event.receives, now)
        if pending.via is Via.INVITE:
            self._answer_invite(leg, event.answer, now)
            return
        conference = self._books.conference_of(leg)
        if conference is not None:
            conference.publications_changed(leg, now)
            conference.offer_applied(leg, event.sends, now)
        self._out.count(Counter.NEGOTIATIONS, "answered")
        if pending.via is Via.CHANNEL:
            self._out.put(ChannelAnswer(leg.id, event.answer, leg.taken_along()))
        else:
            self._out.put(SendNegotiate(leg.address(), event.answer, leg.taken_along()))
        leg.offers.gave_answer(now)
        leg.poll_offers(now)

    def answer_applied(self, leg: Leg, conference: Conference | None, event: ev.AnswerApplied, now: float) -> None:
        """The peer's answer was taken: let flow what was agreed."""
        changed = leg.published.set_received(event.receives, now)
        if leg.state is State.INVITING:
            leg.set_state(State.CONNECTING)
            self._grades.evaluate((leg,), now)
            return
        if conference is not None:
            if changed:
                conference.publications_changed(leg, now)
            conference.answer_applied(leg, event, now)
        else:
            leg.answer_applied(event, now)
            leg.poll_offers(now)

    def _answer_invite(self, leg: Leg, answer: str, now: float) -> None:
        for old in self._books.same_device(leg.envelope, leg.conference):
            if old is not leg:
                self._grades.end(old, "replaced" if old.session == leg.session else "new_session", now)
        leg.set_state(State.CONNECTING)
        leg.set_timer(Timer.CONNECT, now + CONNECT_TIMEOUT)
        self._out.count(Counter.JOINS, "answered")
        self._grades.evaluate((leg,), now)
        if leg.state is State.ENDED:
            return
        self._out.put(StoreLeg(leg.id, leg.stored()))
        leg.answer = SendAnswer(leg.id, leg.address(), answer, leg.shown)
        self._out.put(leg.answer)

    def negotiate(
        self, leg: Leg, description_type: str, sdp: str, metadata: ev.Metadata | None, via: Via, now: float
    ) -> None:
        """Take an offer or answer of a live leg's peer, with the metadata that came along."""
        if description_type == "offer" and leg.dials and leg.offers.in_flight:
            self._out.count(Counter.NEGOTIATIONS, "collided")  # the impolite side goes on with its own
            return
        if description_type == "offer":
            leg.pending = PendingOffer(metadata, via)
            self._out.put(ApplyOffer(leg.id, sdp))
            return
        if metadata is not None:
            self.set_metadata(leg, metadata, now)
        if leg.offers.in_flight:
            self._out.put(ApplyAnswer(leg.id, sdp))
        else:
            self._out.count(Counter.NEGOTIATIONS, "answer_to_nothing")

    def description_failed(self, leg: Leg, event: ev.DescriptionFailed, now: float) -> None:
        """The peer's offer or answer could not be used: say so, and change nothing."""
        self._out.count(Counter.NEGOTIATIONS, f"bad_{event.description_type}")
        leg.pending = None
        if leg.state is State.INVITING:
            self._grades.end(leg, "set_remote_description", now)
            return
        if leg.state is State.ANSWERING:
            self._out.log(Level.INFO, f"offer refused: {event.message}", leg.about)
            self._grades.remove(leg, now)
            self._grades.refuse(leg.envelope, REASON_REFUSED, "bad_sdp")
            return
        if event.description_type == "answer":
            leg.offers.answer_failed(now)
            leg.poll_offers(now)
        if not leg.complain("bad_sdp", event.message, "m.call.negotiate", now):
            self._grades.end(leg, REASON_REFUSED, now)

    def set_metadata(self, leg: Leg, metadata: ev.Metadata, now: float) -> None:
        """Take the peer's whole new stream metadata."""
        conference = self._books.conference_of(leg)
        changed = leg.published.set_metadata(metadata, now)
        if conference is not None and (changed or leg.trunk):
            conference.publications_changed(leg, now)
