"""Whole foci, their participants, and a homeserver between them that loses, delays and doubles messages."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.focus import Focus
from mautrix_sfu.core.ids import (
    CallId,
    ConferenceKey,
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

ROOM, CONF = RoomId("!room"), ConfId("conf")
KEY = ConferenceKey(ROOM, CONF)


def focus(n: int) -> Device:
    return Device(UserId(f"@sfu:hs{n}"), DeviceId("SFU1"))


@dataclass(order=True)
class Delivery:
    at: float
    number: int
    to: Device = field(compare=False)
    event: ev.Event = field(compare=False)


@dataclass
class Node:
    """One focus, its pure core and what its edges know."""

    device: Device
    core: Focus
    flows: dict[tuple[LegId, Mid], tuple[LegId, Mid]] = field(default_factory=dict)
    open: dict[LegId, Device] = field(default_factory=dict)
    sends: dict[LegId, tuple[cmd.SendTrack, ...]] = field(default_factory=dict)  # agreed or offered on a leg
    link: dict[LegId, tuple[Device, LegId]] = field(default_factory=dict)  # the other end of a trunk


class World:
    """Several homeservers' foci, their participants and a network that loses, delays and doubles to-device messages.

    A participant's leg works at once; a trunk's transport comes up when invite and answer have been exchanged.
    """

    def __init__(self, count: int, seed: int, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.nodes: dict[Device, Node] = {}
        self.queue: list[Delivery] = []
        self.number = 0
        self.legs: dict[tuple[str, CallId], dict[Device, LegId]] = {}  # a trunk's two ends by its call id
        self.active: dict[Device, tuple[Device, ...]] = {}  # participant → foci that it lists
        self.calls: Counter[Device] = Counter()
        self.events = 0
        self.sent = 0
        self.dials = 0
        self.deaf: set[Device] = set()  # foci that lose the offers of others
        for n in range(count):
            device = focus(n)
            policy = Policy(device, ping_timeout=1e9, ping_interval=1e9, trunk_session=SessionId(f"s{n}"))
            self.nodes[device] = Node(device, Focus(policy))
            self.feed(device, ev.CaughtUp())

    # ------------------------------------------------------------ driving

    def feed(self, at: Device, event: ev.Event) -> None:
        self.carry_out(self.nodes[at], self.nodes[at].core.handle(event, self.now))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(200_000):
            deadlines = [(d, n) for n in self.nodes.values() if (d := n.core.next_deadline()) is not None]
            times = [d for d, _ in deadlines] + [item.at for item in self.queue[:1]]
            due = min(times, default=float("inf"))
            if due > until:
                break
            self.now = max(self.now, due)
            if self.queue and self.queue[0].at <= self.now:
                item = heapq.heappop(self.queue)
                self.feed(item.to, item.event)
                continue
            for deadline, node in deadlines:
                if deadline <= self.now:
                    self.carry_out(node, node.core.handle_timeout(self.now))
        else:
            raise AssertionError("it never settles")
        self.now = until

    def post(self, to: Device, event: ev.Event) -> None:
        self.sent += 1
        copies = 0 if self.random.random() < self.loss else 1 + (self.random.random() < self.loss)
        for _ in range(copies):
            self.number += 1
            at = self.now + self.random.uniform(0.02, 0.3 if self.loss else 0.05)
            heapq.heappush(self.queue, Delivery(at, self.number, to, event))

    # ------------------------------------------------------------ edges

    def carry_out(self, node: Node, commands: Sequence[cmd.Command]) -> None:
        queue = list(commands)
        while queue:
            command = queue.pop(0)
            match command:
                case cmd.OpenLeg():
                    node.open[command.leg] = command.peer
                case cmd.CloseLeg():
                    self.close(node, command.leg)
                case cmd.MakeInvite():
                    queue += node.core.handle(ev.InviteMade(command.leg, "invite"), self.now)
                case cmd.ApplyOffer():
                    queue += node.core.handle(self.offer_applied(node, command), self.now)
                case cmd.ApplyAnswer():
                    queue += node.core.handle(ev.AnswerApplied(command.leg, (), {}), self.now)
                case cmd.SendInvite():
                    self.dials += 1
                    self.legs.setdefault((ROOM, CallId(command.address.call_id)), {})[node.device] = command.leg
                    envelope = self.envelope(node.device, command.address)
                    self.post(command.address.to, ev.Invite(envelope, "invite", 10.0, {}))
                case cmd.SendAnswer() if command.address.to in self.nodes:
                    self.legs.setdefault((ROOM, CallId(command.address.call_id)), {})[node.device] = command.leg
                    self.post(
                        command.address.to, ev.Answer(self.envelope(node.device, command.address), "answer", None)
                    )
                    self.post_connect(CallId(command.address.call_id))
                case cmd.SendReject() | cmd.SendHangup() if command.address.to in self.nodes:
                    envelope = self.envelope(node.device, command.address)
                    self.post(command.address.to, ev.Hangup(envelope, command.reason))
                case cmd.ChannelMetadata() | cmd.ChannelOffer() | cmd.ChannelSubscription() | cmd.ChannelAnswer():
                    self.channel(node, command)
                case cmd.Forward() | cmd.ForwardLayers():
                    assert command.leg in node.open
                    assert command.source in node.open
                    node.flows[command.leg, command.mid] = (command.source, command.source_mid)
                case cmd.StopForward():
                    node.flows.pop((command.leg, command.mid), None)
                case _:
                    pass

    def envelope(self, sender: Device, address: cmd.Address) -> ev.Envelope:
        remote = SessionId(address.remote_session) if address.remote_session else None
        return ev.Envelope(
            sender, CallId(address.call_id), ConfId(address.conf_id), address.room_id,
            SessionId(address.local_session), remote, address.seq, None,
        )  # fmt: skip

    def close(self, node: Node, leg: LegId) -> None:
        node.open.pop(leg, None)
        for to, source in list(node.flows.items()):
            if leg in (to[0], source[0]):
                del node.flows[to]
        other = node.link.pop(leg, None)
        if other is not None and other[1] in self.nodes[other[0]].open:  # its DTLS closes
            self.nodes[other[0]].link.pop(other[1], None)
            self.number += 1
            lost = ev.ConnectionLost(other[1], "user_hangup", "closed")
            heapq.heappush(self.queue, Delivery(self.now + 0.05, self.number, other[0], lost))

    def post_connect(self, call: CallId) -> None:
        """Both ends are known: ICE, DTLS and the channel come up, if both still stand by then."""
        ends = self.legs[ROOM, call]
        self.number += 1
        for device, leg in ends.items():
            ((other, other_leg),) = [(d, n) for d, n in ends.items() if d != device]
            self.nodes[device].link[leg] = (other, other_leg)
            for delay, event in ((0.5, ev.IceConnected(leg)), (0.55, ev.ChannelOpened(leg))):
                self.number += 1
                heapq.heappush(self.queue, Delivery(self.now + delay, self.number, device, event))

    def offer_applied(self, node: Node, command: cmd.ApplyOffer) -> ev.Event:
        peer = node.open[command.leg]
        sends = {send.slot: line_of(send.slot, node.device) for send in node.sends.get(command.leg, ())}
        if peer not in self.nodes:
            return ev.OfferApplied(command.leg, "answer", published(peer), sends)
        return ev.OfferApplied(command.leg, "answer", self.received(node, command.leg), sends)

    def received(self, node: Node, leg: LegId) -> tuple[ev.ReceivedTrack, ...]:
        """What the other end of a trunk sends here by its last offer."""
        other = node.link.get(leg)
        if other is None:
            return ()
        sends = self.nodes[other[0]].sends.get(other[1], ())
        return tuple(
            ev.ReceivedTrack(line_of(send.slot, other[0]), send.kind, send.stream_id, send.track_id, send.layers)
            for send in sends
        )

    def channel(
        self,
        node: Node,
        command: cmd.ChannelMetadata | cmd.ChannelOffer | cmd.ChannelSubscription | cmd.ChannelAnswer,
    ) -> None:
        leg = command.leg
        if node.open.get(leg) not in self.nodes:  # a participant: answers, and wants all that it is shown
            self.participant(node, command)
            return
        other = node.link.get(leg)
        if other is None:
            return
        to, far = other
        self.number += 1
        event: ev.Event
        match command:
            case cmd.ChannelMetadata():
                event = ev.MetadataChanged(far, metadata(command.metadata))
            case cmd.ChannelSubscription():
                event = ev.TrackSubscription(far, wanted(command.subscribe), wanted(command.unsubscribe))
            case cmd.ChannelOffer():
                if not command.again:
                    node.sends[leg] = command.sends
                if to in self.deaf:
                    return
                event = ev.ChannelNegotiate(far, "offer", "offer", metadata(command.metadata))
            case cmd.ChannelAnswer():
                self.settle_offer(node, leg, to, far)
                return
        heapq.heappush(self.queue, Delivery(self.now + 0.01, self.number, to, event))

    def settle_offer(self, node: Node, leg: LegId, to: Device, far: LegId) -> None:
        """The answer to the other side's offer: all its slots are taken."""
        sends = {send.slot: line_of(send.slot, to) for send in self.nodes[to].sends.get(far, ())}

        def answer() -> None:
            core = self.nodes[to].core
            commands = core.handle(ev.ChannelNegotiate(far, "answer", "answer", None), self.now)
            rest: list[cmd.Command] = [c for c in commands if not isinstance(c, cmd.ApplyAnswer)]
            if len(rest) != len(commands):
                rest += core.handle(ev.AnswerApplied(far, self.received(self.nodes[to], far), sends), self.now)
            self.carry_out(self.nodes[to], rest)

        answer()

    def participant(
        self,
        node: Node,
        command: cmd.ChannelMetadata | cmd.ChannelOffer | cmd.ChannelSubscription | cmd.ChannelAnswer,
    ) -> None:
        if isinstance(command, cmd.ChannelSubscription | cmd.ChannelAnswer):
            return
        leg = command.leg
        entries = tuple(
            ev.Wanted(stream, track, 320, 180) for stream, shown in command.metadata.items() for track in shown.tracks
        )
        self.carry_out(node, node.core.handle(ev.TrackSubscription(leg, entries, ()), self.now))
        if isinstance(command, cmd.ChannelOffer):
            sends = {send.slot: line_of(send.slot, node.device) for send in command.sends}
            commands = node.core.handle(ev.ChannelNegotiate(leg, "answer", "answer", None), self.now)
            rest: list[cmd.Command] = [c for c in commands if not isinstance(c, cmd.ApplyAnswer)]
            if len(rest) != len(commands):
                rest += node.core.handle(ev.AnswerApplied(leg, published(node.open[leg]), sends), self.now)
            self.carry_out(node, rest)

    # ------------------------------------------------------------ people

    def list_foci(self, person: Device, *foci: Device) -> None:
        """The person's member event reaches all homeservers, each a little later than the other."""
        self.active[person] = foci
        self.events += 1
        listed = (ev.CallDevice(CONF, person.device_id, SessionId("s"), 1e6, foci),) if foci else ()
        event_id = EventId(f"$e{self.events}")
        fact = ev.CallMemberChanged(ROOM, person.user_id, listed, event_id, None, self.events)
        for device in self.nodes:
            self.number += 1
            at = self.now + self.random.uniform(0.0, 0.2)
            heapq.heappush(self.queue, Delivery(at, self.number, device, fact))

    def call(self, person: Device, at: Device) -> None:
        self.calls[person] += 1
        call = CallId(f"{person.user_id}-{self.calls[person]}")
        envelope = ev.Envelope(person, call, CONF, ROOM, SessionId("s"), SessionId("sfu"), 0, None)
        self.feed(at, ev.Invite(envelope, "offer", 60.0, described(person)))
        legs = [v.leg for v in self.nodes[at].core.view(self.now).legs if v.peer == person and v.state == "connecting"]
        for leg in legs:
            self.feed(at, ev.IceConnected(leg))
            self.feed(at, ev.ChannelOpened(leg))

    def move(self, person: Device, *foci: Device) -> None:
        """List these foci, and have a leg at each (once the state has come)."""
        gone = set(self.active.get(person, ())) - set(foci)
        self.list_foci(person, *foci)
        self.run(0.3)
        for device in foci:
            if person not in self.nodes[device].open.values():
                self.call(person, device)
        for device in gone:
            for view in self.nodes[device].core.view(self.now).legs:
                if view.peer == person:
                    self.feed(device, ev.ConnectionLost(view.leg, "user_hangup", "moved"))

    # ------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Trunks are exactly those wanted; everybody is sent everybody else's tracks once; nothing loops."""
        homes = {device: [p for p, foci in self.active.items() if device in foci] for device in self.nodes}
        in_use = {device for device, people in homes.items() if people}
        for device, node in self.nodes.items():
            trunks = Counter(
                view.peer
                for view in node.core.view(self.now).legs
                if view.kind == "trunk" and view.state == "open" and view.grade == "full"
            )
            wanted = Counter(in_use - {device} if device in in_use else ())
            assert trunks == wanted, (device, trunks, wanted)
            self.check_flows(node)

    def check_flows(self, node: Node) -> None:
        views = {view.leg: view for view in node.core.view(self.now).legs}
        shown: dict[LegId, list[tuple[UserId, str]]] = {}
        for (to, _), source in node.flows.items():
            assert views[to].peer != views[source[0]].peer
            assert not (views[to].kind == views[source[0]].kind == "trunk"), "what came over a trunk goes over none"
            shown.setdefault(to, []).append(self.origin(node, source))
        everybody = {person for person, foci in self.active.items() if foci}
        for leg, view in views.items():
            if view.kind != "participant":
                continue
            got = Counter(shown.get(leg, ()))
            want = Counter((p.user_id, k) for p in everybody - {view.peer} for k in ("a", "v"))
            assert got == want, (node.device, view.peer, got - want, want - got)

    def sources(self, at: Device, viewer: Device) -> list[tuple[LegId, Mid]]:
        """From which legs and m-lines a participant of a focus is sent something."""
        node = self.nodes[at]
        return [source for (leg, _), source in node.flows.items() if node.open[leg] == viewer]

    def origin(self, node: Node, source: tuple[LegId, Mid]) -> tuple[UserId, str]:
        """Whose track a source is, followed over the trunk it came by."""
        leg, mid = source
        peer = node.open[leg]
        if peer not in self.nodes:
            return peer.user_id, "a" if mid == "0" else "v"
        far, far_leg = node.link[leg]
        return self.origin(self.nodes[far], self.nodes[far].flows[far_leg, mid])


def line_of(slot: Slot, opener: Device) -> Mid:
    return Mid(f"s{slot}")


def person(n: int) -> Device:
    return Device(UserId(f"@p{n}:hs0"), DeviceId("D"))


def described(owner: Device) -> ev.Metadata:
    name = owner.user_id
    tracks = {
        TrackId(f"{name}-a"): ev.TrackMetadata(Kind.AUDIO),
        TrackId(f"{name}-v"): ev.TrackMetadata(Kind.VIDEO, 640, 360),
    }
    return {StreamId(name): ev.StreamMetadata("m.usermedia", False, False, tracks)}


def published(owner: Device) -> tuple[ev.ReceivedTrack, ...]:
    name = owner.user_id
    return (
        ev.ReceivedTrack(Mid("0"), Kind.AUDIO, StreamId(name), TrackId(f"{name}-a")),
        ev.ReceivedTrack(Mid("1"), Kind.VIDEO, StreamId(name), TrackId(f"{name}-v"), ("f", "h")),
    )


def metadata(advertised: cmd.Advertised) -> ev.Metadata:
    return {
        stream_id: ev.StreamMetadata(
            stream.purpose,
            stream.audio_muted,
            stream.video_muted,
            {t: ev.TrackMetadata(track.kind, track.width, track.height) for t, track in stream.tracks.items()},
            stream.owner,
        )
        for stream_id, stream in advertised.items()
    }


def wanted(tracks: tuple[cmd.TrunkTrack, ...]) -> tuple[ev.Wanted, ...]:
    return tuple(ev.Wanted(track.stream_id, track.track_id, None, None, track.layers) for track in tracks)
