"""Whatever happens in whatever order: what must never flow, and what must hold in the end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import ConfId, Device, DeviceId, LegId, Mid, RoomId, UserId

from .script import FOCUS, OTHER_FOCUS, Script, audio, camera, video

PEOPLE = [Device(UserId(f"@{name}:hs"), DeviceId("D")) for name in ("ann", "ben", "cat")]
ROOMS = [RoomId("!one"), RoomId("!two")]
people = st.sampled_from(PEOPLE)
rooms = st.sampled_from(ROOMS)
names = st.sampled_from(["x", "y"])  # two stream names for everybody: they collide


class Conference(RuleBasedStateMachine):
    """Three people and two rooms with one call id; a model of what flows follows the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.script = Script()
        self.open: set[LegId] = set()
        self.flows: dict[tuple[LegId, Mid], tuple[LegId, Mid]] = {}
        self.read = 0
        self.calls = 0

    # ------------------------------------------------------------ what happens

    @rule(device=people, room=rooms, active=st.booleans())
    def lists_itself(self, device: Device, room: RoomId, active: bool) -> None:
        self.script.list_device(device, room=room, active=(FOCUS,) if active else (OTHER_FOCUS,))

    @rule(device=people, room=rooms)
    def unlists_itself(self, device: Device, room: RoomId) -> None:
        self.script.unlist(device, room)

    @rule(device=people, room=rooms, value=st.sampled_from([ev.Membership.JOIN, ev.Membership.LEAVE]))
    def membership(self, device: Device, room: RoomId, value: ev.Membership) -> None:
        self.script.membership(device, value, room)

    @rule(room=rooms, terminated=st.booleans())
    def call(self, room: RoomId, terminated: bool) -> None:
        self.script.call(room, ConfId("conf"), terminated=terminated)

    @rule(device=people, room=rooms, name=names)
    def invites(self, device: Device, room: RoomId, name: str) -> None:
        self.calls += 1
        self.script.publishes[device] = (audio(name, f"{name}-a"), video(name, f"{name}-v"))
        self.script.invite(device, f"c{self.calls}", room=room, metadata=camera(name, f"{name}-a", f"{name}-v"))
        for view in self.script.focus.view(self.script.now).legs:
            if view.state == "connecting":
                self.script.say(ev.IceConnected(view.leg))
                self.script.say(ev.ChannelOpened(view.leg))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), name=names, size=st.none() | st.just((320, 180)))
    def subscribes(self, data: st.DataObject, name: str, size: tuple[int, int] | None) -> None:
        leg = data.draw(st.sampled_from(sorted(self.open)))
        made = data.draw(st.sampled_from([(name, f"{name}-v"), (name, f"{name}-a"), ("sfu-1", "sfu-2")]))
        self.script.subscribe(leg, (*made, *size) if size else made)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), name=names)
    def unsubscribes(self, data: st.DataObject, name: str) -> None:
        self.script.unsubscribe(data.draw(st.sampled_from(sorted(self.open))), (name, f"{name}-v"))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answers(self, data: st.DataObject) -> None:
        self.script.answer(data.draw(st.sampled_from(sorted(self.open))))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def offers(self, data: st.DataObject) -> None:
        self.script.offer(data.draw(st.sampled_from(sorted(self.open))))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def breaks(self, data: st.DataObject) -> None:
        self.script.say(ev.ConnectionLost(data.draw(st.sampled_from(sorted(self.open))), "ice_failed", "test"))

    @rule(seconds=st.sampled_from([0.05, 0.3, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.script.wait(seconds)
        for view in self.script.focus.view(self.script.now).legs:
            self.script.say(ev.Pong(view.leg))

    # ------------------------------------------------------------ what must hold

    def _follow(self) -> None:
        for command in self.script.commands[self.read :]:
            match command:
                case cmd.OpenLeg():
                    self.open.add(command.leg)
                case cmd.CloseLeg():
                    self.open.discard(command.leg)
                    self.flows = {
                        to: source for to, source in self.flows.items() if command.leg not in (to[0], source[0])
                    }
                case cmd.Forward():
                    assert command.leg in self.open
                    assert command.source in self.open
                    self.flows[command.leg, command.mid] = (command.source, command.source_mid)
                case cmd.StopForward():
                    self.flows.pop((command.leg, command.mid), None)
                case _:
                    pass
        self.read = len(self.script.commands)

    @invariant()
    def only_full_legs_of_one_conference_send_to_each_other(self) -> None:
        self._follow()
        legs = {view.leg: view for view in self.script.focus.view(self.script.now).legs}
        assert set(legs) == self.open
        for (to, _), (source, _) in self.flows.items():
            assert legs[to].grade == legs[source].grade == "full"
            assert legs[to].conference == legs[source].conference
            assert legs[to].peer != legs[source].peer, "nobody is sent what the own device publishes"

    @invariant()
    def no_track_reaches_a_leg_twice(self) -> None:
        sources = [(to, source) for (to, _), source in self.flows.items()]
        assert len(sources) == len(set(sources))

    @invariant()
    def nobody_has_two_legs_in_a_conference(self) -> None:
        bound = [(v.peer, v.conference) for v in self.script.focus.view(self.script.now).legs if v.conference]
        assert len(bound) == len(set(bound))


TestConference = Conference.TestCase
TestConference.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
