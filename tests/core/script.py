"""A script for the core: these events, at these times, give these commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.focus import Focus
from mautrix_sfu.core.ids import (
    CallId,
    ConfId,
    Device,
    DeviceId,
    EventId,
    Kind,
    LegId,
    Mid,
    RoomId,
    SessionId,
    Slot,
    StreamId,
    TrackId,
    UserId,
)
from mautrix_sfu.core.policy import Policy

FOCUS = Device(UserId("@sfu:hs"), DeviceId("SFU1"))
OTHER_FOCUS = Device(UserId("@sfu:other"), DeviceId("SFU1"))
ALICE = Device(UserId("@alice:hs"), DeviceId("ALICE1"))
BOB = Device(UserId("@bob:hs"), DeviceId("BOB1"))
CAROL = Device(UserId("@carol:far"), DeviceId("CAROL1"))
ROOM = RoomId("!room")
OTHER_ROOM = RoomId("!other")
CONF = ConfId("conf")

T = TypeVar("T")
Published = tuple[ev.ReceivedTrack, ...]


def audio(stream: str, track: str, mid: str = "0") -> ev.ReceivedTrack:
    return ev.ReceivedTrack(Mid(mid), Kind.AUDIO, StreamId(stream), TrackId(track))


def video(stream: str, track: str, mid: str = "1", rids: tuple[str, ...] = ("f", "h", "q")) -> ev.ReceivedTrack:
    return ev.ReceivedTrack(Mid(mid), Kind.VIDEO, StreamId(stream), TrackId(track), rids)


def camera(stream: str, *tracks: str, muted: bool = False) -> ev.Metadata:
    kinds = (Kind.AUDIO, Kind.VIDEO)
    described = {
        TrackId(track): ev.TrackMetadata(kind, *((1280, 720) if kind is Kind.VIDEO else (None, None)))
        for track, kind in zip(tracks, kinds, strict=False)
    }
    return {StreamId(stream): ev.StreamMetadata("m.usermedia", False, muted, described)}


class Script:
    """A focus under a fake clock, whose edges answer as real ones do: offers parse, the store stores."""

    def __init__(self, policy: Policy | None = None, caught_up: bool = True) -> None:
        self.policy = policy or Policy(FOCUS)
        self.focus = Focus(self.policy)
        self.now = 1000.0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.commands: list[cmd.Command] = []  # everything so far, but logs and counts
        self.publishes: dict[Device, Published] = {}  # what the next offer of a device publishes
        self.bad_sdp: set[str] = set()
        self.peers: dict[LegId, Device] = {}
        self.slots: dict[LegId, dict[Slot, Mid]] = {}
        self.refused_slots: set[Slot] = set()
        self._event = 0
        self._seq: Counter[CallId] = Counter()
        self._last: dict[tuple[str, str, str], EventId] = {}
        if caught_up:
            self.say(ev.CaughtUp())

    # ------------------------------------------------------------ driving

    def say(self, event: ev.Event) -> list[cmd.Command]:
        """Feed an event and whatever follows from it; what was asked for, without logs and counts."""
        return self._settle(self.focus.handle(event, self.now))

    def wait(self, seconds: float) -> list[cmd.Command]:
        """Let time pass, stopping at each deadline; what was asked for meanwhile."""
        until = self.now + seconds
        found: list[cmd.Command] = []
        for _ in range(10_000):
            deadline = self.focus.next_deadline()
            if deadline is None or deadline > until:
                self.now = until
                return found
            self.now = max(self.now, deadline)
            found += self._settle(self.focus.handle_timeout(self.now))
        raise AssertionError("the core asks for the same deadline for ever")

    def _settle(self, commands: list[cmd.Command]) -> list[cmd.Command]:
        found: list[cmd.Command] = []
        queue = list(commands)
        while queue:
            command = queue.pop(0)
            match command:
                case cmd.Count():
                    self.counts[command.counter.value, command.cause] += 1
                    continue
                case cmd.Log():
                    continue
                case cmd.OpenLeg():
                    self.peers[command.leg] = command.peer
                case cmd.ApplyOffer():
                    queue += self.focus.handle(self._offer_result(command), self.now)
                case cmd.ApplyAnswer():
                    sends = self.slots.get(command.leg, {})
                    agreed = {slot: mid for slot, mid in sends.items() if slot not in self.refused_slots}
                    published = self.publishes.get(self.peers[command.leg], ())
                    queue += self.focus.handle(ev.AnswerApplied(command.leg, published, agreed), self.now)
                case cmd.ChannelOffer() if not command.again:
                    self._place(command)
                case _:
                    pass
            found.append(command)
        self.commands += found
        return found

    def _offer_result(self, command: cmd.ApplyOffer) -> ev.Event:
        if command.sdp in self.bad_sdp:
            return ev.DescriptionFailed(command.leg, "offer", "not an SDP")
        published = self.publishes.get(self.peers[command.leg], ())
        sends = self.slots.get(command.leg, {})
        receives = {slot: mid for slot, mid in sends.items() if slot not in self.refused_slots}
        return ev.OfferApplied(command.leg, f"answer to {command.sdp}", published, receives)

    def _place(self, offer: cmd.ChannelOffer) -> None:
        lines = self.slots.setdefault(offer.leg, {})
        for send in offer.sends:
            lines.setdefault(send.slot, Mid(f"s{len(lines)}"))

    # ------------------------------------------------------------ room state

    def fact(self, make: Callable[[EventId, EventId | None], T], *key: str) -> T:
        """A state event that properly replaces the one before."""
        self._event += 1
        full = (key[0], key[1], key[2])
        event = make(EventId(f"$e{self._event}"), self._last.get(full))
        self._last[full] = EventId(f"$e{self._event}")
        return event

    def call(self, room: RoomId = ROOM, conf: ConfId = CONF, *, terminated: bool = False) -> list[cmd.Command]:
        return self.say(
            self.fact(lambda new, old: ev.CallChanged(room, conf, terminated, new, old), "call", room, conf)
        )

    def membership(self, user: Device, value: ev.Membership, room: RoomId = ROOM) -> list[cmd.Command]:
        return self.say(
            self.fact(
                lambda new, old: ev.MembershipChanged(room, user.user_id, value, new, old), "member", room, user.user_id
            )
        )

    def list_device(
        self,
        *devices: Device,
        room: RoomId = ROOM,
        conf: ConfId = CONF,
        session: str | None = "s",
        lasts: float = 3600.0,
        active: tuple[Device, ...] = (FOCUS,),
        preferred: tuple[Device, ...] = (),
    ) -> list[cmd.Command]:
        """An m.call.member event that lists these devices of one user."""
        listed = tuple(
            ev.CallDevice(conf, device.device_id, SessionId(session) if session else None, lasts, active, preferred)
            for device in devices
        )
        return self._member_event(devices[0].user_id, listed, room)

    def unlist(self, device: Device, room: RoomId = ROOM) -> list[cmd.Command]:
        return self._member_event(device.user_id, (), room)

    def _member_event(self, user: UserId, listed: tuple[ev.CallDevice, ...], room: RoomId) -> list[cmd.Command]:
        def make(new: EventId, old: EventId | None) -> ev.CallMemberChanged:
            return ev.CallMemberChanged(room, user, listed, new, old, int(self.now * 1000) + self._event)

        return self.say(self.fact(make, "call_member", room, user))

    # ------------------------------------------------------------ signalling

    def envelope(
        self,
        sender: Device,
        call: str | None = None,
        *,
        room: RoomId | None = None,
        conf: ConfId = CONF,
        session: str = "s",
        seq: int | None = -1,
        msgid: str | None = None,
    ) -> ev.Envelope:
        call_id = CallId(call or f"call-{sender.device_id}")
        if seq == -1:
            seq = self._seq[call_id]
            self._seq[call_id] += 1
        return ev.Envelope(sender, call_id, conf, room, SessionId(session), SessionId("sfu"), seq, msgid)

    def invite(
        self,
        sender: Device,
        call: str | None = None,
        *,
        metadata: ev.Metadata | None = None,
        sdp: str = "offer",
        lifetime: float = 60.0,
        **fields: object,
    ) -> list[cmd.Command]:
        envelope = self.envelope(sender, call, **fields)  # type: ignore[arg-type]
        return self.say(ev.Invite(envelope, sdp, lifetime, metadata or {}))

    def join(self, device: Device, name: str, *, open_channel: bool = True, room: RoomId = ROOM) -> LegId:
        """A device lists itself, invites the focus with a camera, connects and opens its channel."""
        self.publishes[device] = (audio(name, f"{name}-a"), video(name, f"{name}-v"))
        self.list_device(device, room=room)
        done = self.invite(device, f"call-{name}", metadata=camera(name, f"{name}-a", f"{name}-v"), room=room)
        leg = one(done, cmd.OpenLeg).leg
        self.say(ev.IceConnected(leg))
        if open_channel:
            self.say(ev.ChannelOpened(leg))
        return leg

    def subscribe(self, leg: LegId, *wanted: tuple[str, str] | tuple[str, str, int, int]) -> list[cmd.Command]:
        entries = tuple(ev.Wanted(StreamId(w[0]), TrackId(w[1]), *w[2:]) for w in wanted)
        return self.say(ev.TrackSubscription(leg, entries, ()))

    def unsubscribe(self, leg: LegId, *pairs: tuple[str, str]) -> list[cmd.Command]:
        entries = tuple(ev.Wanted(StreamId(stream), TrackId(track)) for stream, track in pairs)
        return self.say(ev.TrackSubscription(leg, (), entries))

    def answer(self, leg: LegId) -> list[cmd.Command]:
        return self.say(ev.ChannelNegotiate(leg, "answer", "answer", None))

    def offer(self, leg: LegId, sdp: str = "offer", metadata: ev.Metadata | None = None) -> list[cmd.Command]:
        return self.say(ev.ChannelNegotiate(leg, "offer", sdp, metadata))


def of(commands: list[cmd.Command], kind: type[T]) -> list[T]:
    """The commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


def one(commands: list[cmd.Command], kind: type[T]) -> T:
    """The only command of one kind."""
    found = of(commands, kind)
    assert len(found) == 1, f"{len(found)} of {kind.__name__} in {commands}"
    return found[0]
