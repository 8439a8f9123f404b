"""How long one event keeps the control plane's core busy, and how long parsing and answering SDP takes.

Twenty conferences of ten participants, each of whom sees all the others: two hundred legs. docs/decisions/0002.

    .venv/bin/python -m bench.core_events
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from pathlib import Path

from mautrix_sfu.core import events as ev
from mautrix_sfu.core.commands import Command, SendTrack
from mautrix_sfu.core.focus import Focus
from mautrix_sfu.core.ids import ConfId, Device, DeviceId, Kind, RoomId, Slot, StreamId, TrackId, UserId
from mautrix_sfu.core.policy import Policy
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from tests.core.script import FOCUS, Script

CONFERENCES = 20
PARTICIPANTS = 10
CAPTURED = Path(__file__).parent.parent / "tests/captures/sdp/invite-audio-video-simulcast.sdp"
TRACKS = 40  # of the large offer: what ten participants and their screens make


class TimedFocus(Focus):
    """A focus that notes how long each kind of event takes."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take in one event."""
        started = time.perf_counter()
        commands = super().handle(event, now)
        self.seconds[type(event).__name__].append(time.perf_counter() - started)
        return commands

    def handle_timeout(self, now: float) -> list[Command]:
        """Do what is due."""
        started = time.perf_counter()
        commands = super().handle_timeout(now)
        self.seconds["(timeout)"].append(time.perf_counter() - started)
        return commands


def play() -> dict[str, list[float]]:
    """Everybody joins, subscribes to everybody, mutes once, and leaves."""
    script = Script()
    script.focus = focus = TimedFocus(Policy(FOCUS))
    script.say(ev.CaughtUp())
    legs = {}
    for room in range(CONFERENCES):
        room_id = RoomId(f"!room{room}")
        script.call(room_id, ConfId("conf"))
        for one in range(PARTICIPANTS):
            name = f"u{room}x{one}"
            device = Device(UserId(f"@{name}:hs"), DeviceId(name))
            legs[name] = (room, device, script.join(device, name, room=room_id))
    script.wait(1)
    for name, (room, _, leg) in legs.items():
        others = [other for other, (where, _, _) in legs.items() if where == room and other != name]
        wanted = [(other, f"{other}-{kind}", 320, 180) for other in others for kind in "av"]
        script.subscribe(leg, *wanted)
        script.answer(leg)
    script.wait(20)
    for _, device, _ in legs.values():
        script.unlist(device, RoomId(f"!room{legs[device.device_id][0]}"))
    script.wait(1)
    return focus.seconds


def negotiate(rounds: int) -> dict[str, list[float]]:
    """Answering a captured invite, and making and repeating an offer of many tracks."""
    seconds: dict[str, list[float]] = defaultdict(list)
    sdp = CAPTURED.read_text()
    sends = [
        SendTrack(Slot(n), StreamId(f"s{n // 2}"), TrackId(f"t{n}"), Kind.VIDEO if n % 2 else Kind.AUDIO)
        for n in range(TRACKS)
    ]
    for _ in range(rounds):
        negotiation = Negotiation(LocalTransport("abcd", "p" * 24, "sha-256 " + "AA:" * 31 + "AA", (("192.0.2.1", 1),)))
        started = time.perf_counter()
        negotiation.accept_offer(sdp)
        seconds["answer the invite"].append(time.perf_counter() - started)
        started = time.perf_counter()
        negotiation.make_offer(sends)
        seconds[f"offer {TRACKS} tracks"].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure and print a table."""
    for title, seconds in (("the core", play()), ("SDP (wire.negotiation)", negotiate(50))):
        print(f"\n{title}: microseconds\n  {'':<22} {'count':>6} {'median':>8} {'longest':>8}")
        for name, times in sorted(seconds.items()):
            print(f"  {name:<22} {len(times):>6} {statistics.median(times) * 1e6:>8.0f} {max(times) * 1e6:>8.0f}")


if __name__ == "__main__":
    main()
