"""Many foci in one process: the pure core of each, their participants, and a network that delivers what they send.

Everything that the cores decide is real; SDP, ICE and media are left out. Conferences are spread evenly over the foci,
and everybody subscribes to everybody else's audio and video: one large, the others small. Time is simulated, but for
how long each decision takes.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.focus import Focus
from mautrix_sfu.core.ids import (
    CallId,
    ConfId,
    Device,
    DeviceId,
    EventId,
    LegId,
    Mid,
    RoomId,
    SessionId,
    StreamId,
    TrackId,
    UserId,
)
from mautrix_sfu.core.policy import Policy
from tests.core.script import audio, camera, video
from tests.core.world import metadata, wanted

CONF = ConfId("conf")
LARGE, SMALL = (1280, 720), (320, 180)  # what is asked for
TO_DEVICE = (0.05, 0.15)  # seconds from homeserver to homeserver
STATE = (0.0, 0.2)  # of room state
CHANNEL = 0.02  # over a data channel
CONNECTING = 0.5  # from the answer to ICE
STRIDES = (1, 7, 13, 23, 37, 41, 3, 11, 17, 29)  # between the foci of one conference: each focus meets many others

_MESSAGES = (cmd.SendInvite, cmd.SendAnswer, cmd.SendReject, cmd.SendHangup, cmd.SendNegotiate)
_ChannelCommand = cmd.ChannelMetadata | cmd.ChannelOffer | cmd.ChannelSubscription | cmd.ChannelAnswer


@dataclass(frozen=True, slots=True)
class Shape:
    """What is simulated. The conferences' foci are chosen so that every focus has as many of them."""

    foci: int
    conferences: int
    foci_each: int
    people_each: int  # in a conference, evenly over its foci

    def foci_of(self, conference: int) -> list[int]:
        """The foci of one conference."""
        stride = STRIDES[conference // self.foci % len(STRIDES)]
        return [(conference + place * stride) % self.foci for place in range(self.foci_each)]


@dataclass(slots=True)
class Flow:
    """What is sent on one m-line of a leg."""

    source: tuple[LegId, Mid]
    sizes: tuple[ev.Size, ...]


@dataclass(slots=True)
class Node:
    """One focus: its core, and what its edges know."""

    device: Device
    core: Focus
    peers: dict[LegId, Device] = field(default_factory=dict)
    offered: dict[LegId, tuple[cmd.SendTrack, ...]] = field(default_factory=dict)
    receives: dict[LegId, tuple[ev.ReceivedTrack, ...]] = field(default_factory=dict)
    link: dict[LegId, tuple[Node, LegId]] = field(default_factory=dict)  # the other end of a trunk
    flows: dict[tuple[LegId, Mid], Flow] = field(default_factory=dict)
    wakes: float = float("inf")


@dataclass(slots=True)
class Person:
    """A participant with a camera."""

    device: Device
    room: RoomId
    conference: int
    node: Node
    calls: int = 0
    event_id: EventId | None = None

    @property
    def stream(self) -> str:
        """The id of the camera's stream; tracks begin with it."""
        return str(self.device.device_id)


@dataclass(slots=True)
class Tally:
    """What was counted and measured in one phase."""

    to_device: Counter[str] = field(default_factory=Counter)  # by kind, trunks' and people's apart
    channel: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)  # the core's own counters
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # of decisions, by event


class Simulation:
    """The foci of a shape and the people on them."""

    def __init__(self, shape: Shape, seed: int = 1) -> None:
        self.shape = shape
        self.now = 0.0
        self.tally = Tally()
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._ends: dict[CallId, list[tuple[Node, LegId]]] = {}  # of a trunk, by its call id
        self.nodes = [self._focus(number) for number in range(shape.foci)]
        self._by_device = {node.device: node for node in self.nodes}
        self.people = [
            self._person(conference, place)
            for conference in range(shape.conferences)
            for place in range(shape.people_each)
        ]
        self._by_person = {person.device: person for person in self.people}

    def _focus(self, number: int) -> Node:
        device = Device(UserId(f"@sfu:hs{number:03}"), DeviceId("SFU"))
        policy = Policy(device, ping_interval=1e9, ping_timeout=1e9, trunk_session=SessionId(f"f{number}"))
        node = Node(device, Focus(policy))
        node.core.handle(ev.CaughtUp(), 0.0)
        return node

    def _person(self, conference: int, place: int) -> Person:
        foci = self.shape.foci_of(conference)
        home = foci[place % len(foci)]
        name = f"p{conference}x{place}"
        device = Device(UserId(f"@{name}:hs{home:03}"), DeviceId(name))
        return Person(device, RoomId(f"!room{conference}"), conference, self.nodes[home])

    # ------------------------------------------------------------ time

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this in so many seconds."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), action))

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        until = self.now + seconds
        gc.collect()
        gc.disable()  # its pauses would be those of all the foci together
        try:
            while self._queue and self._queue[0][0] <= until:
                at, _, action = heapq.heappop(self._queue)
                self.now = max(self.now, at)
                action()
        finally:
            gc.enable()
        self.now = until

    def feed(self, node: Node, event: ev.Event) -> None:
        """Give one focus an event, and carry out what it decides."""
        started = time.perf_counter()
        commands = node.core.handle(event, self.now)
        self.tally.seconds[type(event).__name__].append(time.perf_counter() - started)
        self._carry_out(node, commands)
        self._watch(node)

    def _watch(self, node: Node) -> None:
        deadline = node.core.next_deadline()
        if deadline is not None and deadline < node.wakes:
            node.wakes = deadline
            self.later(max(0.0, deadline - self.now), lambda: self._wake(node, deadline))

    def _wake(self, node: Node, planned: float) -> None:
        if planned != node.wakes:
            return  # something earlier was planned meanwhile, and has been seen to
        node.wakes = float("inf")
        deadline = node.core.next_deadline()
        if deadline is not None and deadline <= self.now:
            started = time.perf_counter()
            commands = node.core.handle_timeout(self.now)
            self.tally.seconds["(timeout)"].append(time.perf_counter() - started)
            self._carry_out(node, commands)
        self._watch(node)

    def place(self, node: Node, leg: LegId) -> int:
        """Whose leg this is: the person's place in the list of all people."""
        return self.people.index(self._by_person[node.peers[leg]])

    # ------------------------------------------------------------ people

    def begin(self, over: float, dice: random.Random) -> None:
        """All conferences begin within this time; the people of each come within 5 s."""
        starts = [dice.uniform(0, over) for _ in range(self.shape.conferences)]
        for person in self.people:
            at = starts[person.conference] + dice.uniform(0, 5)
            self.later(at, lambda person=person: self.arrive(person, person.node))  # type: ignore[misc]

    def arrive(self, person: Person, node: Node) -> None:
        """List this focus, and call it once the state is there; a leg at another one ends then."""
        before, person.node = person.node, node
        self._list(person, (node.device,))
        self.later(0.3, lambda: self._call(person, node))
        if before is not node:
            self.later(0.6, lambda: self._hang_up(person, before))

    def leave(self, person: Person) -> None:
        """List nothing any more."""
        self._list(person, ())

    def _list(self, person: Person, active: tuple[Device, ...]) -> None:
        listed = (ev.CallDevice(CONF, person.device.device_id, SessionId("s"), 1e6, active),) if active else ()
        number = next(self._number)
        event_id, replaces = EventId(f"$e{number}"), person.event_id
        person.event_id = event_id
        fact = ev.CallMemberChanged(person.room, person.device.user_id, listed, event_id, replaces, number)
        for focus in self.shape.foci_of(person.conference):
            node = self.nodes[focus]
            self.later(self._random.uniform(*STATE), lambda node=node: self.feed(node, fact))  # type: ignore[misc]

    def _call(self, person: Person, node: Node) -> None:
        person.calls += 1
        call = CallId(f"{person.stream}-{person.calls}")
        envelope = ev.Envelope(person.device, call, CONF, person.room, SessionId("s"), SessionId("sfu"), 0, None)
        shown = camera(person.stream, f"{person.stream}-a", f"{person.stream}-v")
        self.feed(node, ev.Invite(envelope, "offer", 60.0, shown))

    def _hang_up(self, person: Person, node: Node) -> None:
        for leg, peer in list(node.peers.items()):
            if peer == person.device:
                self.feed(node, ev.ConnectionLost(leg, "user_hangup", "moved"))

    # ------------------------------------------------------------ a focus's edges

    def _carry_out(self, node: Node, commands: Sequence[cmd.Command]) -> None:
        for command in commands:
            if isinstance(command, _MESSAGES):
                whose = "trunk" if command.address.to in self._by_device else "person"
                self.tally.to_device[f"{whose} {type(command).__name__}"] += 1
            match command:
                case cmd.OpenLeg():
                    node.peers[command.leg] = command.peer
                case cmd.CloseLeg():
                    self._close(node, command.leg)
                case cmd.MakeInvite():
                    self.feed(node, ev.InviteMade(command.leg, "invite"))
                case cmd.ApplyOffer():
                    self._apply_offer(node, command.leg)
                case cmd.ApplyAnswer():
                    sends = {send.slot: Mid(f"s{send.slot}") for send in node.offered.get(command.leg, ())}
                    self.feed(node, ev.AnswerApplied(command.leg, node.receives.get(command.leg, ()), sends))
                case cmd.SendInvite():
                    self._ends[CallId(command.address.call_id)] = [(node, command.leg)]
                    self._post(node, command.address, lambda e: ev.Invite(e, "invite", 10.0, {}))
                case cmd.SendAnswer():
                    self._answered(node, command)
                case cmd.SendReject() | cmd.SendHangup():
                    reason = command.reason
                    self._post(node, command.address, lambda e, reason=reason: ev.Hangup(e, reason))  # type: ignore[misc]
                case cmd.ChannelMetadata() | cmd.ChannelOffer() | cmd.ChannelSubscription() | cmd.ChannelAnswer():
                    self._channel(node, command)
                case cmd.Forward():
                    size = (command.width, command.height)
                    node.flows[command.leg, command.mid] = Flow((command.source, command.source_mid), (size,))
                case cmd.ForwardLayers():
                    node.flows[command.leg, command.mid] = Flow((command.source, command.source_mid), command.sizes)
                case cmd.StopForward():
                    node.flows.pop((command.leg, command.mid), None)
                case cmd.Count():
                    self.tally.counted[f"{command.counter.value} {command.cause}"] += 1
                case _:
                    pass

    def _post(self, node: Node, address: cmd.Address, make: Callable[[ev.Envelope], ev.Event]) -> None:
        to = self._by_device.get(address.to)
        if to is None:
            return
        remote = SessionId(address.remote_session) if address.remote_session else None
        envelope = ev.Envelope(
            node.device, CallId(address.call_id), CONF, address.room_id,
            SessionId(address.local_session), remote, address.seq, None,
        )  # fmt: skip
        self.later(self._random.uniform(*TO_DEVICE), lambda: self.feed(to, make(envelope)))

    def _answered(self, node: Node, command: cmd.SendAnswer) -> None:
        """Both ends know each other: the connection comes up."""
        ends = [(node, command.leg)]
        if command.address.to in self._by_device:
            self._post(node, command.address, lambda e: ev.Answer(e, "answer", None))
            ends += self._ends.pop(CallId(command.address.call_id))
            (one, one_leg), (two, two_leg) = ends
            one.link[one_leg], two.link[two_leg] = (two, two_leg), (one, one_leg)
        for at, leg in ends:
            self.later(CONNECTING, lambda at=at, leg=leg: self.feed(at, ev.IceConnected(leg)))  # type: ignore[misc]
            self.later(CONNECTING + 0.05, lambda at=at, leg=leg: self.feed(at, ev.ChannelOpened(leg)))  # type: ignore[misc]

    def _close(self, node: Node, leg: LegId) -> None:
        for book in (node.peers, node.offered, node.receives):
            book.pop(leg, None)
        for place in [p for p, flow in node.flows.items() if leg in (p[0], flow.source[0])]:
            del node.flows[place]
        other = node.link.pop(leg, None)
        if other is not None:
            far, far_leg = other
            self.later(0.05, lambda: self.feed(far, ev.ConnectionLost(far_leg, "user_hangup", "closed")))

    def _apply_offer(self, node: Node, leg: LegId) -> None:
        peer = self._by_person.get(node.peers[leg])
        if peer is not None:
            name = peer.stream
            node.receives[leg] = (audio(name, f"{name}-a"), video(name, f"{name}-v"))
        elif (other := node.link.get(leg)) is not None:
            node.receives[leg] = tuple(
                ev.ReceivedTrack(Mid(f"s{send.slot}"), send.kind, send.stream_id, send.track_id, send.layers)
                for send in other[0].offered.get(other[1], ())
            )
        sends = {send.slot: Mid(f"s{send.slot}") for send in node.offered.get(leg, ())}
        self.feed(node, ev.OfferApplied(leg, "answer", node.receives.get(leg, ()), sends))

    # ------------------------------------------------------------ data channels

    def _channel(self, node: Node, command: _ChannelCommand) -> None:
        leg, other = command.leg, node.link.get(command.leg)
        person = self._by_person.get(node.peers.get(leg, node.device))
        self.tally.channel[f"{'trunk' if person is None else 'person'} {type(command).__name__}"] += 1
        if isinstance(command, cmd.ChannelOffer):
            node.offered[leg] = command.sends
        if person is not None:
            self._person_reacts(node, command)
        elif other is not None:
            far, far_leg = other
            event = _across(command, far_leg)
            self.later(CHANNEL, lambda: self.feed(far, event))

    def _person_reacts(self, node: Node, command: _ChannelCommand) -> None:
        """A client subscribes to what it is newly shown, and answers offers."""
        leg = command.leg
        if isinstance(command, cmd.ChannelMetadata | cmd.ChannelOffer):
            subscription = ev.TrackSubscription(leg, _grid(command.metadata), ())
            self.later(2 * CHANNEL, lambda: self.feed(node, subscription))
        if isinstance(command, cmd.ChannelOffer):
            self.later(2 * CHANNEL, lambda: self.feed(node, ev.ChannelNegotiate(leg, "answer", "answer", None)))

    # ------------------------------------------------------------ what came of it

    def trunks(self) -> int:
        """Trunks that are up at both ends."""
        ends = sum(v.kind == "trunk" and v.state == "open" for n in self.nodes for v in n.core.view(self.now).legs)
        assert ends % 2 == 0, "a trunk has two ends"
        return ends // 2

    def check(self) -> None:
        """Every two foci that have people in a call have one trunk for it; all are sent everybody else's two tracks."""
        used: dict[int, set[str]] = defaultdict(set)
        for person in self.people:
            used[person.conference].add(person.node.device.user_id)
        assert self.trunks() == sum(len(foci) * (len(foci) - 1) // 2 for foci in used.values())
        expected = 2 * (self.shape.people_each - 1)
        for node in self.nodes:
            sent = Counter(leg for leg, _ in node.flows)
            for leg, peer in node.peers.items():
                if peer in self._by_person:
                    assert sent[leg] == expected, f"{peer} is sent {sent[leg]} tracks, not {expected}"


def _grid(advertised: cmd.Advertised) -> tuple[ev.Wanted, ...]:
    """All tracks: the first stream large, the others small."""
    entries: list[ev.Wanted] = []
    for place, (stream, shown) in enumerate(sorted(advertised.items())):
        size = LARGE if place == 0 else SMALL
        entries += (_entry(stream, track, found, size) for track, found in shown.tracks.items())
    return tuple(entries)


def _entry(stream: StreamId, track: TrackId, shown: cmd.AdvertisedTrack, size: tuple[int, int]) -> ev.Wanted:
    return ev.Wanted(stream, track, *size) if shown.kind.value == "video" else ev.Wanted(stream, track)


def _across(command: _ChannelCommand, leg: LegId) -> ev.Event:
    """What the other end of a trunk is told."""
    match command:
        case cmd.ChannelMetadata():
            return ev.MetadataChanged(leg, metadata(command.metadata))
        case cmd.ChannelSubscription():
            return ev.TrackSubscription(leg, wanted(command.subscribe), wanted(command.unsubscribe))
        case cmd.ChannelOffer():
            return ev.ChannelNegotiate(leg, "offer", "offer", metadata(command.metadata))
        case cmd.ChannelAnswer():
            return ev.ChannelNegotiate(leg, "answer", "answer", None)


# ---------------------------------------------------------------- one run


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a run, and how much it was."""

    name: str
    simulated: float  # seconds
    trunks: int  # at its end
    tally: Tally


def play(shape: Shape, over: float = 60.0, churn: float = 0.1) -> list[Phase]:
    """Conferences begin, spread over a time; then a share of the people change focus, and as many leave and return."""
    simulation = Simulation(shape)
    dice = random.Random(2)
    phases: list[Phase] = []

    def phase(name: str, seconds: float) -> None:
        simulation.tally = Tally()
        simulation.run(seconds)
        phases.append(Phase(name, seconds, simulation.trunks(), simulation.tally))

    simulation.begin(over, dice)
    phase("set-up", over + 20)
    simulation.check()
    count = int(churn * len(simulation.people))
    restless = dice.sample(simulation.people, 2 * count)
    for person in restless[:count]:
        places = [simulation.nodes[place] for place in shape.foci_of(person.conference)]
        to = dice.choice([node for node in places if node is not person.node] or places)
        simulation.later(dice.uniform(0, over), lambda p=person, to=to: simulation.arrive(p, to))  # type: ignore[misc]
    for person in restless[count:]:
        at = dice.uniform(0, over)
        simulation.later(at, lambda person=person: simulation.leave(person))  # type: ignore[misc]
        simulation.later(at + 3, lambda person=person: simulation.arrive(person, person.node))  # type: ignore[misc]
    phase("churn", over + 20)
    simulation.check()
    for person in simulation.people:
        simulation.later(dice.uniform(0, 10), lambda person=person: simulation.leave(person))  # type: ignore[misc]
    phase("all leave", 30)
    assert simulation.trunks() == 0
    return phases
