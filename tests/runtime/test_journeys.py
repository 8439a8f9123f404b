"""How long each stage of a connection took is measured once, whatever its peer does."""

from __future__ import annotations

from mautrix_sfu.core.ids import ConferenceKey, ConfId, Device, DeviceId, LegId, RoomId, UserId
from mautrix_sfu.metrics import Metrics
from mautrix_sfu.runtime.journeys import MAX_INVITES, PATIENCE, Journeys, Stage
from mautrix_sfu.tracing import Trace
from tests.support.exposition import values

ALICE = Device(UserId("@alice:hs"), DeviceId("A"))
LEG = LegId(1)


class World:
    """Journeys under a fake clock, one hour behind the wall's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.traces: list[Trace] = []
        self.metrics = Metrics("1")
        self.journeys = Journeys(
            self.metrics, lambda: self.now, lambda: int((self.now + 3600) * 1000), self.traces.append
        )

    def after(self, seconds: float, *stages: Stage, leg: LegId = LEG) -> None:
        self.now += seconds
        for stage in stages:
            self.journeys.reach(leg, stage)

    def measured(self, name: str) -> float | None:
        """The sum of a histogram, None if nothing was observed."""
        found = values(self.metrics)
        return found[f"mautrix_sfu_{name.replace('{', '_sum{')}"] if "{" in name else found[f"mautrix_sfu_{name}_sum"]


def test_each_stage_is_measured_from_the_end_of_the_one_that_it_waits_for() -> None:
    world = World()
    world.journeys.invited(ALICE, 99.0)
    world.journeys.opened(LEG, ALICE, dials=False)
    world.journeys.bound(LEG, ConferenceKey(RoomId("!r"), ConfId("c")))
    world.after(0.5, Stage.ANSWER)
    world.after(0.25, Stage.ICE)
    world.after(0.125, Stage.DTLS)
    world.after(1.0, Stage.MEDIA)
    world.after(1.0, Stage.CHANNEL, Stage.CHANNEL, Stage.ICE)
    stages = {stage: world.measured(f'leg_setup_seconds{{stage="{stage.value}"}}') for stage in Stage}
    assert stages == {
        Stage.ADMISSION: 1.0,
        Stage.ANSWER: 0.5,
        Stage.ICE: 0.25,
        Stage.DTLS: 0.125,
        Stage.MEDIA: 1.0,
        Stage.CHANNEL: 2.0,
    }
    assert world.measured("time_to_answer_seconds") == 1.5
    assert world.measured("time_to_media_seconds") == 2.875
    (trace,) = world.traces
    assert (trace.start, trace.end) == (int(3699e9), int(3702.875e9))
    assert trace.about == {"leg": "1", "peer": "@alice:hs/A", "outcome": "media", "room": "!r", "call": "c"}
    assert {step.name: (step.end - step.start) / 1e9 for step in trace.steps} == {
        stage.value: seconds for stage, seconds in stages.items()
    }


def test_who_leaves_on_the_way_is_traced_as_far_as_they_came() -> None:
    world = World()
    world.journeys.opened(LEG, ALICE, dials=False)
    world.after(0.5, Stage.ANSWER)
    world.after(2.0)
    world.journeys.ended(LEG)
    world.journeys.ended(LEG)
    (trace,) = world.traces
    assert [step.name for step in trace.steps] == ["admission", "answer"]
    assert trace.about["outcome"] == "ended"


def test_who_only_listens_is_not_waited_for() -> None:
    world = World()
    world.journeys.opened(LEG, ALICE, dials=False)
    world.after(1.0, Stage.ANSWER, Stage.ICE, Stage.DTLS, Stage.CHANNEL)
    world.after(PATIENCE)
    world.journeys.opened(LegId(2), ALICE, dials=False)
    assert [trace.about["outcome"] for trace in world.traces] == ["silent"]
    world.after(0, Stage.MEDIA)
    assert len(world.traces) == 1


def test_a_trunk_that_is_dialled_waits_for_no_invite() -> None:
    world = World()
    world.journeys.opened(LEG, ALICE, dials=True)
    world.after(3.0, Stage.ANSWER, Stage.ICE, Stage.DTLS, Stage.CHANNEL, Stage.MEDIA)
    assert world.measured('leg_setup_seconds{stage="answer"}') == 3.0
    assert world.measured("time_to_answer_seconds") == 0
    assert [trace.name for trace in world.traces] == ["trunk"]


def test_stages_out_of_order_say_nothing() -> None:
    world = World()
    world.journeys.opened(LEG, ALICE, dials=False)
    world.after(1.0, Stage.MEDIA, Stage.CHANNEL, Stage.DTLS)
    world.after(1.0, Stage.ICE, leg=LegId(9))
    world.journeys.ended(LEG)
    assert [step.name for step in world.traces[0].steps] == ["admission"]


def test_invites_that_open_no_leg_are_forgotten() -> None:
    world = World()
    for number in range(10 * MAX_INVITES):
        world.journeys.invited(Device(UserId(f"@u{number}:hs"), DeviceId("D")), world.now)
    world.after(100.0)
    world.journeys.invited(ALICE, world.now - 1)
    world.after(PATIENCE + 1)
    world.journeys.opened(LEG, ALICE, dials=False)
    assert world.measured('leg_setup_seconds{stage="admission"}') == 0
    assert len(world.journeys._invites) <= MAX_INVITES
