"""The recordings played through wire, negotiation and core together: what others would be shown and sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import ConfId, Device, DeviceId, EventId, LegId, RoomId, SessionId, UserId
from mautrix_sfu.core.policy import Policy
from mautrix_sfu.wire import channel, room_events, to_device
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from tests.core.script import Script, of

from .recordings import CAPTURES

FOCUS = Device(UserId("@sfu:localhost"), DeviceId("SFU1"))
ROOM = RoomId("!recorded")
RECORDED_MS = 1_795_336_555_000  # when the first of the recordings was made
VIEWER = Device(UserId("@viewer:localhost"), DeviceId("V"))
LOCAL = LocalTransport("ufraglocal", "p" * 24, "sha-256 " + ":".join(["AB"] * 32), (("192.0.2.1", 4000),))


class Playback(Script):
    """Feeds a recording's client messages to a focus whose negotiations are real."""

    def __init__(self) -> None:
        self.negotiations: dict[LegId, Negotiation] = {}
        self.errors: list[cmd.Command] = []
        self.viewer: LegId | None = None
        self._sent = 0
        self._newest: dict[tuple[str, str], str] = {}
        super().__init__(Policy(FOCUS))

    def _settle(self, commands: list[cmd.Command]) -> list[cmd.Command]:
        found = super()._settle(commands)
        self.errors += [command for command in found if isinstance(command, cmd.ChannelError | cmd.SendReject)]
        return found

    def _offer_result(self, command: cmd.ApplyOffer) -> ev.Event:
        if command.sdp == "offer":  # the viewer's, who is no recording
            return super()._offer_result(command)
        negotiation = self.negotiations.setdefault(command.leg, Negotiation(LOCAL))
        answer, published = negotiation.accept_offer(command.sdp)
        self.publishes[self.peers[command.leg]] = published
        return ev.OfferApplied(command.leg, answer, published, negotiation.agreed)

    def leg_of(self, client: str) -> LegId | None:
        legs = [v for v in self.focus.view(self.now).legs if v.peer.user_id == f"@{client}:localhost"]
        return legs[-1].leg if legs else None

    def play(self, path: Path) -> None:
        """Play all of a recording in its own time; a participant of ours watches."""
        start = self.now
        watching = False
        for line in path.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            for _ in range(int(max(0.0, start + entry["t_ms"] / 1000 - self.now) / 5) + 1):
                self.wait(min(5.0, max(0.0, start + entry["t_ms"] / 1000 - self.now)))
                for view in self.focus.view(self.now).legs:  # all of them are alive
                    if view.state == "open":
                        self.say(ev.Pong(view.leg))
            self._play(entry)
            if not watching and entry["channel"] == "state" and entry["type"].endswith("call.member"):
                watching = self._watch(ROOM, entry)

    def _play(self, entry: dict[str, Any]) -> None:
        content = entry["content"]
        match entry["channel"], entry["direction"]:
            case "state", "client>hs":
                self._state(entry, content)
            case "to-device", "client>sfu":
                done = self.say(to_device.decode(entry["sender"], entry["type"], content))
                for opened in of(done, cmd.OpenLeg):
                    self.say(ev.IceConnected(opened.leg))
            case "dc", "client>sfu":
                leg = self.leg_of(entry["client"])
                if leg is None:
                    return
                if entry["type"] == "_open":
                    self.say(ev.ChannelOpened(leg))
                elif entry["type"] != "_close" and content.get("description", {}).get("type") != "answer":
                    self.say(channel.decode(leg, json.dumps({"type": entry["type"], "content": content})))
            case _:
                pass
        for command in of(self.commands, cmd.ChannelOffer)[-1:]:
            if any(view.leg == command.leg for view in self.focus.view(self.now).legs):
                self.answer(command.leg)

    def _state(self, entry: dict[str, Any], content: dict[str, Any]) -> None:
        """A state event as the homeserver pushes it; the recording's clock is not the script's."""
        self._sent += 1
        key = (entry["type"], entry["state_key"])
        unsigned = {"replaces_state": self._newest[key]} if key in self._newest else {}
        self._newest[key] = f"$sent{self._sent}"
        event = {
            "type": entry["type"],
            "room_id": ROOM,
            "sender": f"@{entry['client']}:localhost",
            "state_key": entry["state_key"],
            "event_id": f"$sent{self._sent}",
            "content": content,
            "unsigned": unsigned,
        }
        fact = room_events.parse(event, RECORDED_MS + self._sent, RECORDED_MS + self._sent)
        assert not isinstance(fact, room_events.Ignored)
        self.say(fact)

    def _watch(self, room: RoomId, event: dict[str, Any]) -> bool:
        conf = ConfId(event["content"]["m.calls"][0]["m.call_id"] if event["content"]["m.calls"] else "")
        if not conf:
            return False
        device = ev.CallDevice(conf, VIEWER.device_id, SessionId("s"), 3600, (FOCUS,))
        self.say(ev.CallMemberChanged(room, VIEWER.user_id, (device,), EventId("$viewer"), None, 1))
        invite = ev.Invite(self.envelope(VIEWER, "watch", room=room, conf=conf), "offer", 60, {})
        self.viewer = of(self.say(invite), cmd.OpenLeg)[0].leg
        self.say(ev.IceConnected(self.viewer))
        self.say(ev.ChannelOpened(self.viewer))
        return True

    def shown(self) -> list[cmd.Advertised]:
        """Every set of streams that the viewer was told of."""
        return [c.metadata for c in of(self.commands, cmd.ChannelMetadata) if c.leg == self.viewer]


def play(name: str) -> Playback:
    playback = Playback()
    playback.play(CAPTURES / f"{name}.jsonl")
    assert not playback.errors
    assert any(playback.shown()), "the viewer sees somebody"
    return playback


def streams_ever(playback: Playback) -> set[tuple[str, str]]:
    return {(stream.owner.user_id, stream.purpose) for shown in playback.shown() for stream in shown.values()}


def test_every_recording_plays_without_a_refusal() -> None:
    for path in sorted(CAPTURES.glob("*.jsonl")):
        playback = play(path.stem)
        assert playback.counts["joins", "full"] >= 1, path.stem
        assert not [key for key in playback.counts if key[0] == "bad_messages"], path.stem


def test_who_leaves_and_comes_back_is_shown_gone_and_then_again() -> None:
    shown = [{str(s.owner.user_id) for s in each.values()} for each in play("join").shown()]
    alice, bob = "@alice:localhost", "@bob:localhost"
    order = [each for n, each in enumerate(shown) if n == 0 or each != shown[n - 1]]
    assert {alice, bob} in order
    first = order.index({alice, bob})
    assert {bob} in order[first:]
    assert {alice, bob} in order[first + 1 + order[first + 1 :].index({bob}) :]


def test_a_muted_camera_is_the_same_track_all_along() -> None:
    playback = play("mute")
    tracks: dict[str, set[str]] = {}
    for shown in playback.shown():
        for stream in shown.values():
            tracks.setdefault(stream.owner.user_id, set()).update(stream.tracks)
    assert all(len(found) == 2 for found in tracks.values()), "one audio and one video track each"
    assert {s.video_muted for shown in playback.shown() for s in shown.values()} == {False, True}


def test_a_camera_that_is_switched_on_late_becomes_part_of_its_users_stream() -> None:
    playback = play("late-camera")
    by_owner: dict[str, list[set[str]]] = {}
    for shown in playback.shown():
        for stream in shown.values():
            by_owner.setdefault(stream.owner.user_id, []).append({t.kind.value for t in stream.tracks.values()})
    assert {"audio"} in by_owner["@bob:localhost"]
    assert {"audio", "video"} in by_owner["@bob:localhost"]


def test_screen_shares_are_streams_of_their_own_that_come_and_go() -> None:
    playback = play("screenshare")
    counts = [sum(s.purpose == "m.screenshare" for s in shown.values()) for shown in playback.shown()]
    changes = [count for n, count in enumerate(counts) if n == 0 or count != counts[n - 1]]
    assert changes == [0, 1, 0, 1, 2, 1], "Alice starts, stops and starts again, then Bob starts and stops"
    assert ("@alice:localhost", "m.usermedia") in streams_ever(playback)


def test_two_devices_of_one_user_are_two_publishers() -> None:
    owners = {s.owner.device_id for shown in play("two-devices").shown() for s in shown.values()}
    assert {"ALICE1", "BOB1", "BOB2"} <= owners


def test_glare_ends_in_agreement() -> None:
    playback = play("glare")
    assert playback.counts["negotiations", "answered"] >= 1
    assert playback.counts["negotiations", "agreed"] >= 1
