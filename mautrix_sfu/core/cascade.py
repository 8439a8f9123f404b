"""Which foci to have trunks with, who dials whom and when (docs/protocol.md, section 6). Pure bookkeeping.

For each conference the foci of its set are wanted while somebody local is in the call. Of two foci
the lower one dials; the higher one does when nothing came for a while. Both dialled: the higher gives
way. A focus that never answers is asked ever more rarely, for all conferences together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from .ids import ConferenceKey, Device, LegId
from .timers import Timers
from .view import LinkView

TAKE_OVER = 5.0  # the higher focus waits this long for the lower one's invite
ANSWER_TIMEOUT = 10.0  # from an own invite to its answer
DIALS_EVERY = 1.0  # new dials of one conference
SILENT_BACKOFF = (10.0, 60.0, 600.0)  # after an invite that was never answered
REDIAL = (0.5, 1.0, 2.0, 5.0, 10.0)  # after a trunk that ended: first, word of why it did may be on its way
UNWANTED_GRACE = 30.0  # a called trunk waits this long for somebody local to join
LOOK_AGAIN = 10.0  # devices expire without an event
MAX_PEERS = 10_000  # other foci that are remembered: whoever is in a call can name some


@dataclass(frozen=True, slots=True)
class Dial:
    """Send an invite to this focus."""

    peer: Device


@dataclass(frozen=True, slots=True)
class Drop:
    """End this trunk: there is no reason for it any more."""

    leg: LegId


Action = Dial | Drop


class Verdict(Enum):
    """What becomes of a focus's invite."""

    ACCEPT = "accept"
    REJECT = "reject"  # the own invite is younger, and goes first


@dataclass(slots=True)
class Link:
    """One conference's relation to one other focus."""

    wanted_since: float
    outgoing: LegId | None = None  # a leg that this focus dialled
    dialled_at: float = 0.0
    incoming: LegId | None = None  # a leg that the other one dialled
    incoming_at: float = 0.0
    up: LegId | None = None  # the one of them whose ICE is connected
    down_since: float = 0.0  # that none is
    failures: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class _Peer:
    """What this process knows of another focus, over all conferences."""

    silences: int = 0
    not_before: float = 0.0


class Cascade:
    """The trunks of all conferences of this focus. Says what to do; whoever asks does it and reports back."""

    def __init__(self, focus: Device) -> None:
        self._focus = focus
        self._links: dict[ConferenceKey, dict[Device, Link]] = {}
        self._peers: dict[Device, _Peer] = {}
        self._next_dial: dict[ConferenceKey, float] = {}
        self._timers: Timers[ConferenceKey] = Timers()

    # ------------------------------------------------------------ what is wanted

    def settle(self, key: ConferenceKey, foci: Sequence[Device], local: bool, now: float) -> list[Action]:
        """Hold a conference's set of foci (without this one) against its trunks; dials count as begun."""
        links = self._links.setdefault(key, {})
        actions: list[Action] = []
        for peer in [peer for peer in links if not self._stays(links[peer], peer in foci, local, now)]:
            link = links.pop(peer)
            actions += [Drop(leg) for leg in (link.outgoing, link.incoming) if leg is not None]
        wanted = foci if local else ()
        for peer in wanted:
            link = links.setdefault(peer, Link(now, down_since=now))
            if self._may_dial(key, peer, link, now):
                link.dialled_at = now
                self._next_dial[key] = now + DIALS_EVERY
                actions.append(Dial(peer))
        self._watch(key, wanted, now)
        return actions

    def _stays(self, link: Link, in_set: bool, local: bool, now: float) -> bool:
        if not in_set:
            return False
        return local or (link.incoming is not None and now - link.incoming_at < UNWANTED_GRACE)

    def _may_dial(self, key: ConferenceKey, peer: Device, link: Link, now: float) -> bool:
        return not link.outgoing and not link.incoming and now >= self._dial_at(key, peer, link)

    def _dial_at(self, key: ConferenceKey, peer: Device, link: Link) -> float:
        turn = link.wanted_since if self._focus < peer else link.wanted_since + TAKE_OVER
        known = self._peers.get(peer)
        silent = known.not_before if known is not None else 0.0
        return max(turn, link.not_before, silent, self._next_dial.get(key, 0.0))

    def _watch(self, key: ConferenceKey, wanted: Sequence[Device], now: float) -> None:
        links = self._links[key]
        if not links:
            self.forget(key)
            return
        idle = [(peer, links[peer]) for peer in wanted if not links[peer].outgoing and not links[peer].incoming]
        times = [self._dial_at(key, peer, link) for peer, link in idle]
        self._timers.set(key, min([now + LOOK_AGAIN, *(max(at, now + 0.01) for at in times)]))

    def forget(self, key: ConferenceKey) -> None:
        """The conference is over."""
        self._links.pop(key, None)
        self._next_dial.pop(key, None)
        self._timers.cancel(key)

    def next_deadline(self) -> float | None:
        """When some conference wants to be settled again."""
        return self._timers.next_deadline()

    def pop_due(self, now: float) -> ConferenceKey | None:
        """A conference that wants to be settled."""
        return self._timers.pop_due(now)

    def view(self, now: float) -> list[LinkView]:
        """What an operator may see of each conference's other foci."""
        found = []
        for key, links in self._links.items():
            for peer, link in links.items():
                idle = link.outgoing is None and link.incoming is None
                dials_in = max(0.0, self._dial_at(key, peer, link) - now) if idle else None
                down = None if link.up is not None else now - link.down_since
                found.append(LinkView(key, peer, link.up, down, link.failures, dials_in))
        return found

    # ------------------------------------------------------------ what happens

    def dialled(self, key: ConferenceKey, peer: Device, leg: LegId, now: float) -> None:
        """This leg carries the dial that `settle` asked for."""
        link = self._links[key][peer]
        link.outgoing, link.dialled_at = leg, now

    def invited(self, key: ConferenceKey, peer: Device, now: float) -> tuple[Verdict, LegId | None]:
        """Another focus of the set dials: what to do, and the own leg that gives way."""
        link = self._links.setdefault(key, {}).setdefault(peer, Link(now, down_since=now))
        if link.outgoing is None or link.up == link.outgoing:
            return Verdict.ACCEPT, None  # an older trunk of the same peer is replaced like any leg
        if peer < self._focus:
            return Verdict.ACCEPT, link.outgoing
        if now - link.dialled_at < TAKE_OVER:
            return Verdict.REJECT, None
        return Verdict.ACCEPT, None  # the first to connect stays

    def accepted(self, key: ConferenceKey, peer: Device, leg: LegId, now: float) -> None:
        """The other focus's invite was answered on this leg."""
        link = self._links.setdefault(key, {}).setdefault(peer, Link(now, down_since=now))
        link.incoming, link.incoming_at = leg, now
        self._heard(peer)
        self._timers.set_earlier(key, now + LOOK_AGAIN)

    def answered(self, peer: Device) -> None:
        """The other focus answered an invite, if only with a reject."""
        self._heard(peer)

    def connected(self, key: ConferenceKey, peer: Device, leg: LegId) -> LegId | None:
        """A trunk's ICE is up: the first of two stays. Returns the other one."""
        link = self._links.get(key, {}).get(peer)
        if link is None or leg not in (link.outgoing, link.incoming):
            return None
        if link.up is not None and link.up != leg:
            return leg
        link.up, link.failures = leg, 0
        return link.incoming if leg == link.outgoing else link.outgoing

    def ended(self, key: ConferenceKey, peer: Device, leg: LegId, now: float, *, silent: bool) -> None:
        """A trunk's leg is gone; `silent`: its invite was never answered."""
        link = self._links.get(key, {}).get(peer)
        if link is None:
            return
        if leg == link.up:  # also one that a younger invite of the same focus takes the place of
            link.up, link.down_since = None, now
        if leg not in (link.outgoing, link.incoming):
            return
        dialled = leg == link.outgoing
        link.outgoing = None if dialled else link.outgoing
        link.incoming = link.incoming if dialled else None
        link.wanted_since = now
        if silent and dialled:
            known = self._peer(peer)
            known.not_before = now + SILENT_BACKOFF[min(known.silences, len(SILENT_BACKOFF) - 1)]
            known.silences += 1
        else:
            link.not_before = now + REDIAL[min(link.failures, len(REDIAL) - 1)]
            link.failures += 1
        self._timers.set_earlier(key, now + 0.01)

    def _heard(self, peer: Device) -> None:
        known = self._peer(peer)
        known.silences, known.not_before = 0, 0.0

    def _peer(self, peer: Device) -> _Peer:
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer()
            if len(self._peers) > MAX_PEERS:
                del self._peers[next(iter(self._peers))]
        return known
