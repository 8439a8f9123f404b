"""How far each leg has come and how long each stage took: from an invite's receipt to the first packet of media."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from ..core.ids import ConferenceKey, Device, LegId
from ..metrics import Metrics
from ..tracing import Step, Trace

MAX_INVITES = 1024  # remembered until their legs open
INVITE_PATIENCE = 60.0  # seconds; older ones have nothing to do with a leg that opens now
PATIENCE = 60.0  # seconds from its beginning after which a leg that shows nothing is not waited for any more


class Stage(Enum):
    """What a leg goes through (metrics.STAGES explains each)."""

    ADMISSION = "admission"
    ANSWER = "answer"
    ICE = "ice"
    DTLS = "dtls"
    CHANNEL = "channel"
    MEDIA = "media"


# Each stage begins when this one ends.
_AFTER = {
    Stage.ANSWER: Stage.ADMISSION,
    Stage.ICE: Stage.ANSWER,
    Stage.DTLS: Stage.ICE,
    Stage.CHANNEL: Stage.DTLS,
    Stage.MEDIA: Stage.DTLS,
}


@dataclass(slots=True)
class _Journey:
    """One leg's way. Times are the runtime's clock."""

    peer: Device
    dials: bool
    began: float
    reached: dict[Stage, float] = field(default_factory=dict)
    conference: ConferenceKey | None = None


class Journeys:
    """All legs that are on their way. Each stage counts once; a leg is forgotten when it has arrived, or ends."""

    def __init__(
        self, metrics: Metrics, clock: Callable[[], float], wall_ms: Callable[[], int], trace: Callable[[Trace], None]
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._wall_ms = wall_ms
        self._trace = trace
        self._invites: OrderedDict[Device, float] = OrderedDict()  # when the newest one of each device came
        self._legs: dict[LegId, _Journey] = {}

    def invited(self, sender: Device, at: float) -> None:
        """Take an invite that was received at this time, before it is handed to the core."""
        self._invites.pop(sender, None)
        self._invites[sender] = at
        if len(self._invites) > MAX_INVITES:
            self._invites.popitem(last=False)

    def opened(self, leg: LegId, peer: Device, dials: bool) -> None:
        """A leg was opened, for the newest invite of this device unless this focus dials."""
        now = self._clock()
        for other, journey in list(self._legs.items()):
            if now - journey.began > PATIENCE:
                self._finish(other, "silent" if Stage.CHANNEL in journey.reached else "stuck")
        received = now if dials else self._invites.pop(peer, now)
        if now - received > INVITE_PATIENCE:
            received = now
        self._legs[leg] = _Journey(peer, dials, received)
        if dials:
            self._legs[leg].reached[Stage.ADMISSION] = now
        else:
            self.reach(leg, Stage.ADMISSION)

    def bound(self, leg: LegId, conference: ConferenceKey) -> None:
        """It is known which conference the leg belongs to."""
        if leg in self._legs:
            self._legs[leg].conference = conference

    def reach(self, leg: LegId, stage: Stage) -> None:
        """A stage has ended, now."""
        journey = self._legs.get(leg)
        if journey is None or stage in journey.reached:
            return
        now = self._clock()
        before = _AFTER.get(stage)
        since = journey.began if before is None else journey.reached.get(before)
        if since is None:
            return  # a stage was left out: nothing can be said of this one
        journey.reached[stage] = now
        self._metrics.observe_stage(stage.value, now - since)
        if not journey.dials and stage is Stage.ANSWER:
            self._metrics.observe_answer(now - journey.began)
        if not journey.dials and stage is Stage.MEDIA:
            self._metrics.observe_media(now - journey.began)
        if Stage.CHANNEL in journey.reached and Stage.MEDIA in journey.reached:
            self._finish(leg, "media")

    def ended(self, leg: LegId) -> None:
        """A leg is closed."""
        if leg in self._legs:
            self._finish(leg, "ended")

    def _finish(self, leg: LegId, outcome: str) -> None:
        journey = self._legs.pop(leg)
        now = self._clock()
        offset = self._wall_ms() / 1000 - now  # of the wall clock: what traces are dated by

        def at(time: float) -> int:
            return int((time + offset) * 1e9)

        steps = []
        for stage, end in journey.reached.items():
            before = _AFTER.get(stage)
            start = journey.began if before is None else journey.reached[before]
            steps.append(Step(stage.value, at(start), at(end)))
        last = max(journey.reached.values(), default=now) if outcome == "media" else now
        about = {"leg": str(leg), "peer": str(journey.peer), "outcome": outcome}
        if journey.conference is not None:
            about |= {"room": journey.conference.room_id, "call": journey.conference.conf_id}
        self._trace(Trace("trunk" if journey.dials else "leg", at(journey.began), at(last), about, tuple(steps)))
