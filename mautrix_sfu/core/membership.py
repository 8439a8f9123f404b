"""Room state → who may be held, full, or out of a call (docs/protocol.md, section 3)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, zip_longest

from .events import CallChanged, CallDevice, CallMemberChanged, Membership, MembershipChanged, RoomFact
from .ids import ConfId, Device, EventId, RoomId, SessionId, UserId
from .listings import Entries, Entry, Listings
from .policy import Policy

MAX_CALLS_PER_ROOM = 500  # further `m.call` events of a room are ignored
MAX_STATE_EVENTS = 100_000  # of a room whose event ids are remembered
FREEZE_LIMIT = 2 * 3600.0  # how long expiries stay frozen while the homeserver is away
FREEZE_GRACE = 60.0  # after it is back, or the limit is reached


class Grade(Enum):
    """What a leg may do in its conference."""

    OUT = "out"
    HELD = "held"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Standing:
    """A grade, and what keeps it from being higher (or, for OUT and HELD, lower than asked)."""

    grade: Grade
    cause: str = ""  # out of a fixed set: counted and logged
    listed: bool = False  # the member event lists this device with this session
    preferred: bool = False  # the device lists this focus as preferred

    @property
    def out(self) -> bool:
        """Whether not even a held leg is allowed."""
        return self.grade is Grade.OUT


@dataclass(slots=True)
class Freeze:
    """Expiries stop while the homeserver is away: nobody could have renewed anything."""

    lost_at: float | None = None
    thawed_at: float | None = None  # when the last absence ended

    def lost(self, now: float) -> None:
        """The homeserver does not answer any more."""
        if self.lost_at is None or self.thawed_at is not None:
            self.lost_at, self.thawed_at = now, None

    def back(self, now: float) -> None:
        """The homeserver answers again."""
        if self.lost_at is not None and self.thawed_at is None:
            self.thawed_at = min(now, self.lost_at + FREEZE_LIMIT)

    def extend(self, deadline: float) -> float:
        """The deadline of a live leg's device, moved on if it fell into an absence or its grace."""
        if self.lost_at is None or deadline < self.lost_at:
            return deadline
        end = self.lost_at + FREEZE_LIMIT if self.thawed_at is None else self.thawed_at
        return max(deadline, end + FREEZE_GRACE)


@dataclass(slots=True)
class _Call:
    terminated: bool
    event_id: EventId


@dataclass(slots=True)
class _Member:
    membership: Membership
    event_id: EventId | None  # None: inferred from a current m.call.member


@dataclass(slots=True)
class _CallMember:
    event_id: EventId
    received_ms: int
    entries: Entries = field(default_factory=dict)


_Key = tuple[type[RoomFact], bool, str]  # which state event: its kind, which name of its type, its state key


MAX_FOCI = 16  # of a conference; users have shares, in which the longest listed count (docs/protocol.md, section 6)

_At = tuple[float, float | None, float | None]  # a time, and the freeze then


class Room:
    """What is known of one room's calls, members and their devices."""

    def __init__(self, room_id: RoomId, own_homeserver: str, focus_user: UserId, freeze: Freeze) -> None:
        self.room_id = room_id
        self.freeze = freeze
        self.readable = False  # a snapshot was read: what is not known does not exist
        self.reading = False  # a snapshot was asked for and has not come yet
        self._own = own_homeserver
        self._focus_user = focus_user
        self._ids: dict[_Key, EventId] = {}  # the newest event of each key
        self._calls: dict[ConfId, _Call] = {}
        self._members: dict[UserId, _Member] = {}
        self._call_members: dict[UserId, _CallMember] = {}
        self._joined: Counter[str] = Counter()  # joined members by homeserver, without the focus itself
        self._own_seen = False  # a joined member of the own homeserver was known at some time
        self._listings = Listings()
        self._counted: dict[ConfId, tuple[_At, tuple[Device, ...]]] = {}  # the set as it was then
        self._touched: set[_Key] = set()  # changed by pushes while a snapshot was on its way

    # ------------------------------------------------------------ facts in

    def apply(self, fact: RoomFact, now: float) -> bool:
        """Take in a pushed event; True if it does not follow from what was known (a fork or a gap)."""
        key = _key(fact)
        held = self._ids.get(key)
        if held == fact.event_id:
            return False
        self._counted.clear()
        gap = held is not None and fact.replaces != held
        if len(self._ids) < MAX_STATE_EVENTS or key in self._ids:
            self._ids[key] = fact.event_id
        if self.reading:
            self._touched.add(key)
        match fact:
            case CallChanged():
                self._apply_call(fact, gap)
            case CallMemberChanged():
                self._apply_call_member(fact, now)
            case MembershipChanged():
                self._apply_membership(fact)
        return gap

    def holds(self, fact: RoomFact) -> bool:
        """Whether this event counts: a fork that speaks against a known leave, ban or end does not."""
        held: _Call | _Member | _CallMember | None
        match fact:
            case CallChanged():
                held = self._calls.get(fact.conf_id)
            case MembershipChanged():
                held = self._members.get(fact.user_id)
            case CallMemberChanged():
                held = self._call_members.get(fact.user_id)
        return held is not None and held.event_id == fact.event_id

    def redact(self, sender: UserId, event_id: EventId) -> bool:
        """Take in a redaction; True if the event is one that counts here.

        Only what redacts its sender's own member event is believed: whether anything else was
        applied depends on power levels, and only a snapshot tells.
        """
        self._counted.clear()
        own = self._call_members.get(sender)
        if own is not None and own.event_id == event_id:
            self._set_call_member(sender, _CallMember(event_id, own.received_ms))
            return True
        return any(call.event_id == event_id for call in self._calls.values()) or any(
            member.event_id == event_id for member in self._call_members.values()
        )

    def not_read(self) -> None:
        """The snapshot that was asked for does not come."""
        self.reading, self._touched = False, set()

    def replace(self, facts: tuple[RoomFact, ...], now: float) -> bool:
        """Take a snapshot for what was known; True if pushes overtook it, so that another one is due."""
        self._counted.clear()
        overtaken, ids = self._touched, self._ids
        calls, members, call_members = self._calls, self._members, self._call_members
        listed, self._listings = self._listings, Listings()
        self._calls, self._members, self._call_members = {}, {}, {}
        self._joined.clear()
        self.readable, self.reading, self._touched = True, False, set()
        self._ids = {key: ids[key] for key in overtaken if key in ids}
        for fact in sorted(facts, key=lambda each: getattr(each, "received_ms", 0)):
            if _key(fact) not in overtaken:
                self._ids[_key(fact)] = fact.event_id
                self._load(fact, now, call_members)
        for kind, _, state_key in overtaken:
            conf, user = ConfId(state_key), UserId(state_key)
            if kind is CallChanged and conf in calls:
                self._calls[conf] = calls[conf]
            elif kind is MembershipChanged and user in members:
                self._set_member(user, members[user])
            elif kind is CallMemberChanged and user in call_members:
                self._set_call_member(user, call_members[user])
        self._listings.keep_order(listed)
        return bool(overtaken)

    def _load(self, fact: RoomFact, now: float, old: dict[UserId, _CallMember]) -> None:
        match fact:
            case CallChanged():
                self._calls[fact.conf_id] = _Call(fact.terminated, fact.event_id)
            case MembershipChanged():
                self._set_member(fact.user_id, _Member(fact.membership, fact.event_id))
            case CallMemberChanged():
                known = old.get(fact.user_id)
                same = known is not None and known.event_id == fact.event_id  # reading it again renews nothing
                self._set_call_member(fact.user_id, known if same and known else _call_member(fact, now))

    def _apply_call(self, fact: CallChanged, gap: bool) -> None:
        held = self._calls.get(fact.conf_id)
        if held is None and len(self._calls) >= MAX_CALLS_PER_ROOM:
            return
        if gap and held is not None and held.terminated:
            return  # the stricter reading wins until a snapshot settles it
        self._calls[fact.conf_id] = _Call(fact.terminated, fact.event_id)

    def _apply_call_member(self, fact: CallMemberChanged, now: float) -> None:
        self._set_call_member(fact.user_id, _call_member(fact, now))
        if fact.user_id not in self._members:  # pushed and current: its sender was joined
            self._set_member(fact.user_id, _Member(Membership.JOIN, None))

    def _apply_membership(self, fact: MembershipChanged) -> None:
        held = self._members.get(fact.user_id)
        # Only a leave or ban: a join after an invite from another homeserver says nothing of replacing it (Synapse).
        out = held is not None and held.membership in (Membership.LEAVE, Membership.BAN)
        if out and held is not None and fact.replaces != held.event_id and fact.membership is not Membership.BAN:
            return  # a known leave or ban ends only by an event that replaces it
        self._set_member(fact.user_id, _Member(fact.membership, fact.event_id))

    def _set_call_member(self, user: UserId, member: _CallMember) -> None:
        held = self._call_members.get(user)
        self._listings.change(user, held.entries if held is not None else {}, member.entries)
        self._call_members[user] = member

    def _set_member(self, user: UserId, member: _Member) -> None:
        homeserver = user.partition(":")[2]
        held = self._members.get(user)
        if user != self._focus_user:
            if held is not None and held.membership is Membership.JOIN:
                self._joined[homeserver] -= 1
            if member.membership is Membership.JOIN:
                self._joined[homeserver] += 1
                self._own_seen = self._own_seen or homeserver == self._own
        self._members[user] = member

    # ------------------------------------------------------------ questions

    def member_event(self, user: UserId) -> EventId | None:
        """The id of a user's member event."""
        member = self._call_members.get(user)
        return None if member is None else member.event_id

    def names_call(self, conf_id: ConfId) -> bool:
        """Whether any event of this room speaks of this call."""
        return conf_id in self._calls or any(
            conf == conf_id for member in self._call_members.values() for conf, _ in member.entries
        )

    def confs(self) -> set[ConfId]:
        """Every call that an event of this room speaks of."""
        return set(self._calls) | {conf for member in self._call_members.values() for conf, _ in member.entries}

    def entry(self, conf_id: ConfId, device: Device) -> Entry | None:
        """What the member event says of a device in a call, expired or not."""
        member = self._call_members.get(device.user_id)
        return None if member is None else member.entries.get((conf_id, device.device_id))

    def listed_at(self, conf_id: ConfId, device: Device) -> int | None:
        """When the event that lists this device was received (ms, wall clock); None if none does."""
        member = self._call_members.get(device.user_id)
        if member is None or (conf_id, device.device_id) not in member.entries:
            return None
        return member.received_ms

    def foci(self, conf_id: ConfId, now: float) -> tuple[Device, ...]:
        """The active foci of a call's unexpired devices whose users are joined, at most MAX_FOCI.

        If there are more, users take turns, and each one's longest listed come first: nobody keeps others' foci out.
        A device that is itself in the call is a participant, whoever calls it a focus: else any member
        could turn another's call into a trunk.
        """
        at = (now, self.freeze.lost_at, self.freeze.thawed_at)
        known = self._counted.get(conf_id)
        if known is None or known[0] != at:
            known = self._counted[conf_id] = at, self._foci(conf_id, now)
        return known[1]

    def _foci(self, conf_id: ConfId, now: float) -> tuple[Device, ...]:
        call = self._calls.get(conf_id)
        if call is not None and call.terminated:
            return ()
        by_user: dict[UserId, list[Device]] = {}
        current: list[Device] = []
        for focus, devices in self._listings.of(conf_id).items():
            users = {device.user_id for device, until in devices.items() if self._counts(device, until, now)}
            if users and self.entry(conf_id, focus) is None:
                current.append(focus)
                for user in sorted(users):
                    by_user.setdefault(user, []).append(focus)
        if len(current) <= MAX_FOCI:
            return tuple(current)
        turns = (focus for turn in zip_longest(*by_user.values()) for focus in turn if focus is not None)
        return tuple(islice(dict.fromkeys(turns), MAX_FOCI))

    def devices_at(self, conf_id: ConfId, focus: Device, now: float) -> list[Device]:
        """The devices of joined users that name a focus as active in this call."""
        listing = self._listings.of(conf_id).get(focus, {})
        return [device for device, until in listing.items() if self._counts(device, until, now)]

    def lists_focus(self, conf_id: ConfId, device: Device, focus: Device, now: float) -> bool:
        """Whether a device of a joined user names a focus as active in this call."""
        until = self._listings.of(conf_id).get(focus, {}).get(device)
        return until is not None and self._counts(device, until, now)

    def _counts(self, device: Device, until: float, now: float) -> bool:
        member = self._members.get(device.user_id)
        joined = member is not None and member.membership is Membership.JOIN
        return joined and self.freeze.extend(until) > now

    def takes_trunks(self, conf_id: ConfId, peer: Device, policy: Policy, now: float) -> str | None:
        """Why a focus may not have a trunk for this call; None: it may (rules 1 and 3, and the set)."""
        call = self._calls.get(conf_id)
        if (call is None and self.readable) or (call is not None and call.terminated):
            return "no_call"
        if peer not in self.foci(conf_id, now):
            return "focus_not_in_set"
        if policy.peers and not policy.peers & {peer.user_id, peer.homeserver}:
            return "focus_not_permitted"
        if policy.bans(peer):
            return "banned"
        own_here = self._joined[self._own] > 0 or not (self._own_seen or self.readable)
        return None if own_here else "homeserver_left"

    def standing(
        self,
        conf_id: ConfId,
        device: Device,
        session: SessionId | None,
        policy: Policy,
        now: float,
        freeze: Freeze | None = None,
    ) -> Standing:
        """What a device may do in a call of this room; `freeze` is given for legs that are up."""
        refused = self._refused(conf_id, device, policy)
        if refused is not None:
            return Standing(Grade.OUT, refused)
        entry = self.entry(conf_id, device)
        if entry is None:
            return Standing(Grade.HELD, "not_listed")
        deadline = entry.deadline if freeze is None else freeze.extend(entry.deadline)
        if deadline <= now:
            return Standing(Grade.HELD, "expired")
        preferred = policy.focus in entry.preferred
        if entry.session_id is not None and entry.session_id != session:
            return Standing(Grade.HELD, "other_session", preferred=preferred)
        if policy.focus not in entry.active:
            return Standing(Grade.HELD, "not_active", listed=True, preferred=preferred)
        return Standing(Grade.FULL, listed=True)

    def _refused(self, conf_id: ConfId, device: Device, policy: Policy) -> str | None:
        """The first of rules 1 to 3 that does not hold."""
        call = self._calls.get(conf_id)
        if call is None and self.readable:
            return "no_call"
        if call is not None and call.terminated:
            return "terminated"
        member = self._members.get(device.user_id)
        if member is None or member.membership is not Membership.JOIN:
            return "not_joined"
        homeserver = device.homeserver
        if policy.bans(device):
            return "banned"
        if not policy.lets_use(device):
            return "not_allowed"
        if not policy.guests and homeserver not in policy.permitted:
            return "guest"
        own_here = self._joined[self._own] > 0 or not (self._own_seen or self.readable)
        if not own_here:
            return "homeserver_left"
        permitted = policy.permitted
        if (own_here and self._own in permitted) or any(self._joined[server] > 0 for server in permitted):
            return None
        return "not_permitted"


def _call_member(fact: CallMemberChanged, now: float) -> _CallMember:
    return _CallMember(
        fact.event_id,
        fact.received_ms,
        {(device.conf_id, device.device_id): _entry(device, now) for device in fact.devices},
    )


def _entry(device: CallDevice, now: float) -> Entry:
    return Entry(device.session_id, now + device.lasts, device.active, device.preferred)


def _key(fact: RoomFact) -> _Key:
    match fact:
        case CallChanged():
            return (CallChanged, fact.stable, fact.conf_id)
        case CallMemberChanged():
            return (CallMemberChanged, fact.stable, fact.user_id)
        case MembershipChanged():
            return (MembershipChanged, True, fact.user_id)
