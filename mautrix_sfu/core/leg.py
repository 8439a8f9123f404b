"""One connection of a participant: its state, its numbering, its offers, what it publishes and is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .commands import (
    About,
    Address,
    Advertised,
    ChannelError,
    ChannelMetadata,
    ChannelOffer,
    ChannelPing,
    Counter,
    Level,
    SendAnswer,
    TrunkTrack,
)
from .events import AnswerApplied, Envelope, Metadata, StoredLeg, TrackSubscription
from .ids import ConferenceKey, Kind, LegId, SessionId, TrackKey
from .liveness import BadMessages, Liveness
from .membership import Grade
from .names import Names
from .offers import Action, Offers
from .outbox import Outbox
from .policy import Policy
from .rate import Rate
from .subscriptions import Grant, Subscriptions
from .timers import Timers
from .tracks import Publications, PublishedTrack, RemotePublications

FIRST_SESSION = SessionId("sfu")  # of a focus whose session is not known yet
CONNECT_TIMEOUT = 30.0  # from the answer to ICE
TRUNK_TALKS = 4  # times as many messages as a participant
CHANNEL_TIMEOUT = 15.0  # from ICE to the open data channel


class State(Enum):
    """How far a leg has come."""

    INVITING = "inviting"  # a trunk that this focus dials; no answer yet
    ANSWERING = "answering"  # its offer is being applied
    CONNECTING = "connecting"  # answered; no ICE yet
    CONNECTED = "connected"  # ICE is up; no data channel yet
    OPEN = "open"
    ENDED = "ended"


_TRANSITIONS = {
    State.INVITING: {State.CONNECTING, State.ENDED},
    State.ANSWERING: {State.CONNECTING, State.ENDED},
    State.CONNECTING: {State.CONNECTED, State.ENDED},
    State.CONNECTED: {State.OPEN, State.ENDED},
    State.OPEN: {State.ENDED},
    State.ENDED: set[State](),
}


class Timer(Enum):
    """What a leg waits for."""

    CONNECT = "connect"
    CHANNEL = "channel"
    HELD = "held"
    EXPIRY = "expiry"
    LIVENESS = "liveness"
    VIEW = "view"
    OFFER = "offer"
    WANTS = "wants"  # trunks: what to ask the other focus for
    HELD_BACK = "held_back"  # trunks: streams that wait to be believed
    LAYERS = "layers"  # participants: whether layers that they publish are not watched any more


LegTimers = Timers[tuple[LegId, Timer]]


class Via(Enum):
    """How an offer came, and so how its answer goes."""

    INVITE = "invite"
    CHANNEL = "channel"
    TO_DEVICE = "to_device"


@dataclass(frozen=True, slots=True)
class PendingOffer:
    """An offer of the peer that is being applied; its metadata counts only if that succeeds."""

    metadata: Metadata | None
    via: Via


Published = Publications | RemotePublications


class Leg:
    """A connection to a participant or, as a trunk, to another focus.

    The conference says what it may see; the focus says when it ends.
    """

    def __init__(
        self,
        leg_id: LegId,
        envelope: Envelope,
        policy: Policy,
        out: Outbox,
        timers: LegTimers,
        trunk: RemotePublications | None = None,
        dials: bool = False,
    ) -> None:
        self.id = leg_id
        self.trunk = trunk is not None
        self.dials = dials  # this focus dialled: it is the impolite side
        self.wanted: tuple[TrunkTrack, ...] = ()  # trunks: what the other focus was asked for last
        self.peer = envelope.sender
        self.envelope = envelope  # of its invite
        self.session = envelope.session_id
        self.conference: ConferenceKey | None = None  # None: more than one room qualifies
        self.grade = Grade.HELD
        self.listed = False  # the room state named this device and session at some time
        self.state = State.INVITING if dials else State.ANSWERING
        self.pending: PendingOffer | None = None
        self.answer: SendAnswer | None = None
        limits = policy.limits
        self.published: Published = (
            trunk if trunk is not None else Publications(self.peer, leg_id, limits.tracks_per_leg)
        )
        self.names = Names()
        self.subscriptions = Subscriptions(self.names)
        self.offers = Offers()
        self.liveness: Liveness | None = None
        self.bad_messages = BadMessages()
        self.since: float = 0.0
        self.shown: Advertised = {}
        self.viewed_at = float("-inf")  # when that was worked out last
        self._policy = policy
        self._out = out
        self._timers = timers
        self._next_seq = 0
        self._messages = Rate(*self._message_rate())
        self._beyond: set[str] = set()  # limits that it was told to be beyond
        self._told: Advertised | None = None  # what the peer was sent last

    # ------------------------------------------------------------ state

    def set_state(self, state: State) -> None:
        """The one place where a leg's state changes; an illegal transition is a broken invariant."""
        if state not in _TRANSITIONS[self.state]:
            raise AssertionError(f"leg {self.id}: {self.state} cannot become {state}")
        self._out.log(Level.DEBUG, f"{self.state.value} -> {state.value}", self.about)
        self.state = state

    @property
    def about(self) -> About:
        """What its lines in the log say of it."""
        room_id = self.envelope.room_id if self.conference is None else self.conference.room_id
        return About(self.id, self.peer, room_id, self.envelope.conf_id)

    def set_timer(self, timer: Timer, deadline: float) -> None:
        """Let this timer run out at `deadline`."""
        self._timers.set((self.id, timer), deadline)

    def set_timer_earlier(self, timer: Timer, deadline: float) -> None:
        """Let this timer run out at `deadline` unless it does so earlier anyway."""
        self._timers.set_earlier((self.id, timer), deadline)

    def cancel_timer(self, timer: Timer) -> None:
        """Forget this timer."""
        self._timers.cancel((self.id, timer))

    def connected(self, now: float) -> None:
        """ICE is up: the data channel has to follow."""
        if self.state is State.CONNECTING:
            self.set_state(State.CONNECTED)
            self.cancel_timer(Timer.CONNECT)
            self.set_timer(Timer.CHANNEL, now + CHANNEL_TIMEOUT)

    def opened(self, now: float) -> None:
        """The data channel is open."""
        if self.state is State.CONNECTING:
            self.connected(now)
        if self.state is not State.CONNECTED:
            return
        self.set_state(State.OPEN)
        self.cancel_timer(Timer.CHANNEL)
        self.liveness = Liveness(now, self._policy.ping_interval, self._policy.ping_timeout)
        self._out.put(ChannelMetadata(self.id, self.taken_along()))
        self.check_liveness(now)
        self.poll_offers(now)

    def policy_changed(self, policy: Policy, now: float) -> None:
        """Live by another policy from now on."""
        self._policy = policy
        self._messages.change(*self._message_rate())
        if self.liveness is not None:
            self.liveness.retime(now, policy.ping_interval, policy.ping_timeout)
            self.set_timer(Timer.LIVENESS, self.liveness.deadline())

    # ------------------------------------------------------------ addressing

    def address(self, *, numbered: bool = True) -> Address:
        """Where the next to-device message goes; a numbered one uses up a `seq`."""
        seq = self._next_seq if numbered else None
        self._next_seq += 1 if numbered else 0
        address = replace(address_to(self.envelope, self._policy, seq, trunk=self.trunk), leg=self.id)
        return replace(address, remote_session=self.session or FIRST_SESSION) if self.trunk else address

    def stored(self) -> StoredLeg:
        """What the store keeps of this leg."""
        return StoredLeg(
            self.conference.room_id if self.conference else None,
            self.envelope.conf_id,
            self.peer,
            self.envelope.call_id,
            self.session,
            self._policy.trunk_session if self.trunk else self._policy.session_id,
            "trunk" if self.trunk else "participant",
        )

    # ------------------------------------------------------------ liveness

    def check_liveness(self, now: float) -> bool:
        """Ping if it is time; False if the peer is gone."""
        if self.liveness is None:
            return True
        if self.liveness.dead(now):
            return False
        if self.liveness.ping_due(now):
            self._out.put(ChannelPing(self.id))
        self.set_timer(Timer.LIVENESS, self.liveness.deadline())
        return True

    def complain(self, code: str, message: str, in_reply_to: str | None, now: float) -> bool:
        """Tell the peer that a message of it was refused; False if that was one too many."""
        self._out.count(Counter.BAD_MESSAGES, code)
        if self.state is State.OPEN:
            self._out.put(ChannelError(self.id, code, message, in_reply_to))
        return not self.bad_messages.add(now)

    def _message_rate(self) -> tuple[float, float]:
        """Two seconds' worth at once. A focus speaks for many, so that it may say more."""
        per_second = self._policy.limits.messages_per_second * (TRUNK_TALKS if self.trunk else 1)
        return 2 * per_second, per_second

    def hears(self, now: float) -> bool:
        """Whether one more message of its data channel is looked at."""
        return self._messages.allow(None, now)

    @property
    def talk(self) -> float:
        """What share of the messages that it may send at once it has sent."""
        return self._messages.used(None)

    def note_beyond(self, limit: str, refused: int) -> None:
        """It asks for more than a limit allows, or not any more: told and counted when that begins."""
        if not refused:
            self._beyond.discard(limit)
        elif limit not in self._beyond:
            self._beyond.add(limit)
            self._out.count(Counter.BOUNDS_HIT, limit)
            if self.state is State.OPEN:
                self._out.put(ChannelError(self.id, "limit", f"{refused} too many: {limit}", None))

    @property
    def subscription_limit(self) -> int | None:
        """How many tracks it is sent at most; other foci ask for all of their people."""
        return None if self.trunk else self._policy.limits.subscriptions_per_leg

    # ------------------------------------------------------------ what it is shown

    def tell(self) -> None:
        """Send the set that this leg may subscribe to, unless it has it already."""
        if self.state is State.OPEN and self.shown != self._told:
            self._out.put(ChannelMetadata(self.id, self.taken_along()))

    def taken_along(self) -> Advertised:
        """The metadata to send with a description, which makes a message of its own needless."""
        self._told = self.shown
        return self.shown

    # ------------------------------------------------------------ offers

    def poll_offers(self, now: float) -> None:
        """Offer, or repeat an offer, as it is time."""
        if self.state is not State.OPEN:
            return
        wanted = self.subscriptions.sends(simulcast=self.trunk)
        match self.offers.poll(wanted, now):
            case Action.OFFER:
                self._out.put(ChannelOffer(self.id, wanted, self.taken_along()))
            case Action.REPEAT:
                self._out.count(Counter.NEGOTIATIONS, "repeated")
                self._out.put(ChannelOffer(self.id, wanted, self.taken_along(), again=True))
            case Action.TIMED_OUT:
                self._out.count(Counter.NEGOTIATIONS, "timed_out")
            case Action.NOTHING:
                pass
        deadline = self.offers.deadline(wanted)
        if deadline is None:
            self.cancel_timer(Timer.OFFER)
        else:
            self.set_timer(Timer.OFFER, deadline)

    def asks_for(self, track: PublishedTrack) -> bool:
        """A trunk: whether the other focus was asked to send this track."""
        return any((it.stream_id, it.track_id) == (track.stream_id, track.key.track_id) for it in self.wanted)

    def keep_subscriptions(self, event: TrackSubscription) -> None:
        """Remember what a held leg wants, for when it becomes full."""
        for wanted in event.unsubscribe:
            self.subscriptions.unsubscribe(wanted)
        for wanted in event.subscribe:
            if not self.subscriptions.subscribe(wanted):
                self._out.count(Counter.BOUNDS_HIT, "unfulfilled_subscriptions")

    def answer_applied(self, event: AnswerApplied, now: float) -> list[Grant]:
        """The peer agreed to an offer. Returns the grants that may flow from now on."""
        if not self.offers.answered(now):
            return []
        self._out.count(Counter.NEGOTIATIONS, "agreed")
        started: list[Grant] = []
        for key, grant in list(self.subscriptions.granted.items()):
            mid = event.sends.get(grant.slot)
            if mid is not None:
                if grant.mid != mid:
                    grant.mid, grant.on_hold = mid, False
                    started.append(grant)
            elif grant.on_hold:
                continue  # the answer only confirms what the peer's own offer said
            elif grant.mid is not None or self.offers.was_offered(grant.slot):
                self._out.count(Counter.NEGOTIATIONS, "line_refused")
                self._tell_refused(key, grant.track)
                self.subscriptions.forget(key)
        return started

    def _tell_refused(self, key: TrackKey, track: PublishedTrack) -> None:
        """It gets no m-line for a track that it subscribed to: it cannot receive the codec, or does not want to."""
        if self.state is State.OPEN and not self.trunk:
            named = f"{self.names.stream(key.owner, track.stream_id)} {self.names.track(key, track.stream_id)}"
            codec = f" in {track.codec or 'VP8'}" if track.kind is Kind.VIDEO else ""
            message = f"your answer does not receive {named}{codec}: its subscription has ended"
            self._out.put(ChannelError(self.id, "not_received", message, "m.call.track_subscription"))


def address_to(envelope: Envelope, policy: Policy, seq: int | None, *, trunk: bool = False) -> Address:
    """Where an answer to a message goes."""
    return Address(
        envelope.sender,
        envelope.call_id,
        envelope.conf_id,
        envelope.room_id,
        policy.trunk_session if trunk else policy.session_id,
        envelope.session_id,
        seq,
    )
