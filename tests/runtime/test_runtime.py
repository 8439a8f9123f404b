"""The runtime with recording edges: fairness among senders, order of commands, what is stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from mautrix_sfu.core.commands import Command, ConferenceEnded, Count
from mautrix_sfu.core.events import ChannelOpened, Event, Invite, StoredLeg
from mautrix_sfu.core.fair_queue import MAX_QUEUED, MAX_QUEUED_PER_SENDER, FairQueue
from mautrix_sfu.core.focus import Focus
from mautrix_sfu.core.ids import Device, DeviceId, LegId, Mid, RoomId, UserId
from mautrix_sfu.core.orders import OverloadChanged
from mautrix_sfu.core.policy import Policy
from mautrix_sfu.matrix import Message
from mautrix_sfu.metrics import Metrics
from mautrix_sfu.runtime import Runtime
from mautrix_sfu.runtime import runtime as runtime_module
from mautrix_sfu.store import StoredFact
from mautrix_sfu.wire import room_events, to_device
from mautrix_sfu.wire.negotiation import LocalTransport
from mautrix_sfu.wire.plan import MediaPlan, RemoteTransport
from tests.wire.recordings import CAPTURES

FOCUS = Device(UserId("@sfu:hs"), DeviceId("SFU1"))
OFFER = (CAPTURES / "sdp" / "invite-audio-video-simulcast.sdp").read_bytes().decode()
ROOM = "!room"


class Edges:
    """All four edges, and the owner: each records what it was told, in one list."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.full_channel = False
        self.counted_bytes: list[tuple[LegId, int, int]] = []
        self.events: list[dict[str, Any]] = []
        self.fatal: list[str] = []

    # matrix
    def send_to_device(
        self, to: Device, event_type: str, content: dict[str, Any], after: Awaitable[None] | None = None
    ) -> None:
        self.done.append(("to_device", to.user_id, event_type, content, after))

    def request_snapshot(self, room_id: RoomId) -> None:
        self.done.append(("snapshot", room_id))

    # media
    def set_credentials(self, leg: LegId, ufrag: str, pwd: str) -> None:
        self.done.append(("credentials", leg, ufrag))

    def set_group(self, leg: LegId, group: int) -> None:
        self.done.append(("group", leg, group))

    def set_plan(self, leg: LegId, plan: MediaPlan) -> None:
        self.done.append(("plan", leg, plan))

    def describe_track(self, leg: LegId, mid: Mid, width: int | None, height: int | None, first: bool) -> None:
        self.done.append(("describe", leg, mid, width, height))

    def forward(
        self, leg: LegId, mid: Mid, source: LegId, source_mid: Mid, width: int | None, height: int | None
    ) -> None:
        self.done.append(("forward", leg, mid, source, source_mid))

    def forward_layers(
        self, leg: LegId, mid: Mid, source: LegId, source_mid: Mid, sizes: Sequence[tuple[int | None, int | None]]
    ) -> None:
        self.done.append(("forward_layers", leg, mid, source, source_mid, sizes))

    def connect(self, leg: LegId, ufrag: str, pwd: str, candidates: Sequence[tuple[str, int]]) -> None:
        self.done.append(("connect", leg, candidates))

    def stop_forward(self, leg: LegId, mid: Mid) -> None:
        self.done.append(("stop_forward", leg, mid))

    def set_bitrate(self, leg: LegId, bits_per_second: int | None) -> None:
        self.done.append(("set_bitrate", leg, bits_per_second))

    def traffic(self) -> Sequence[tuple[LegId, int, int]]:
        return self.counted_bytes

    def leg_stats(self, leg: LegId) -> dict[str, int] | None:
        return {"bytes_in_total": 1000, "bytes_out_total": 300}

    # rtc
    def open(self, leg: LegId, dials: bool = False) -> LocalTransport:
        self.done.append(("open", leg))
        return LocalTransport("u" * 8, "p" * 24, "sha-256 " + ":".join(["AB"] * 32), (("192.0.2.1", 4000),))

    def start(self, leg: LegId, remote: RemoteTransport) -> None:
        self.done.append(("start", leg))

    def ice_connected(self, leg: LegId) -> None:
        self.done.append(("ice_connected", leg))

    def feed_dtls(self, leg: LegId, datagram: bytes) -> None:
        self.done.append(("dtls", leg, datagram))

    def send(self, leg: LegId, text: str) -> bool:
        self.done.append(("channel", leg, text))
        return not self.full_channel

    def close(self, leg: LegId) -> None:
        self.done.append(("close", leg))

    # store
    async def flush(self) -> bool:
        return True

    def set_position(self, position: str) -> None:
        self.done.append(("position", position))

    def put_fact(self, room_id: str, event_type: str, state_key: str, event: dict[str, Any], received_ms: int) -> None:
        self.done.append(("fact", event_type, state_key, event))

    def replace_room(self, room_id: str, facts: Sequence[StoredFact]) -> None:
        self.done.append(("replace_room", room_id, list(facts)))

    def forget_room(self, room_id: str) -> None:
        self.done.append(("forget_room", room_id))

    def put_leg(self, leg: StoredLeg) -> asyncio.Future[None]:
        self.done.append(("put_leg", leg))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def delete_leg(self, leg: StoredLeg) -> None:
        self.done.append(("delete_leg", leg))

    # owner
    def matrix_failed(self, message: str) -> None:
        self.fatal.append(message)

    def media_failed(self, message: str) -> None:
        self.fatal.append(message)

    def homeserver_changed(self, up: bool) -> None:
        self.done.append(("homeserver", up))

    def counted(self, what: Count) -> None:
        self.done.append(("counted", what.counter.value, what.cause))

    def conference_ended(self, ended: ConferenceEnded, bytes_in: int, bytes_out: int) -> None:
        self.done.append(("ended", ended.conference, ended.people, bytes_in, bytes_out))

    def bot_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [each for each in self.done if each[0] == kind]


def make() -> tuple[Runtime, Edges, Metrics]:
    edges, metrics = Edges(), Metrics("test")
    runtime = Runtime(Policy(FOCUS), metrics, edges)
    runtime.connect(edges, edges, edges, edges)
    runtime.on_caught_up()
    return runtime, edges, metrics


def member_event(user: str, number: int, device: str = "D", room: str = ROOM) -> dict[str, Any]:
    listed = {
        "device_id": device,
        "session_id": "s",
        "org.matrix.msc3898.foci.active": [{"user_id": FOCUS.user_id, "device_id": FOCUS.device_id}],
    }
    return {
        "type": "org.matrix.msc3401.call.member",
        "room_id": room,
        "sender": user,
        "state_key": user,
        "event_id": f"$m{number}",
        "content": {"m.calls": [{"m.call_id": "conf", "m.devices": [listed]}]},
    }


def invite(user: str, call: str, device: str = "D", sdp: str = OFFER, **more: Any) -> Message:
    content = {
        "call_id": call,
        "conf_id": "conf",
        "device_id": device,
        "party_id": device,
        "sender_session_id": "s",
        "dest_session_id": "sfu",
        "seq": 0,
        "lifetime": 60000,
        "offer": {"type": "offer", "sdp": sdp},
    }
    return Message(user, "m.call.invite", content | more)


def answers(edges: Edges, user: str) -> list[dict[str, Any]]:
    return [each[3] for each in edges.of("to_device") if each[1] == user and each[2] == "m.call.answer"]


async def test_a_flood_of_one_sender_is_cut_and_another_is_answered_among_the_first() -> None:
    runtime, edges, metrics = make()
    for n, user in enumerate(("@flood:hs", "@calm:hs")):
        runtime.on_room_event(member_event(user, n))
    flood = [invite("@flood:hs", f"c{n}", conf_id=f"other{n}", padding="x" * 60_000) for n in range(99)]
    runtime.on_to_device([*flood, invite("@calm:hs", "calm")], "p1")
    await asyncio.sleep(0.05)
    assert len(answers(edges, "@calm:hs")) == 1
    assert b'mautrix_sfu_bounds_hit_total{cause="parked_invites"}' in metrics.render()[0]
    runtime.stop()


async def test_that_a_senders_queue_was_full_is_counted_and_told() -> None:
    edges, metrics, ticks = Edges(), Metrics("test"), itertools.count()
    runtime = Runtime(
        Policy(FOCUS), metrics, edges, clock=lambda: float(next(ticks))
    )  # there is never time to make room
    runtime.connect(edges, edges, edges, edges)
    flood = [invite("@flood:hs", f"c{n}", conf_id=f"other{n}") for n in range(MAX_QUEUED_PER_SENDER + 1)]
    runtime.on_to_device(flood, "p1")
    assert edges.of("counted") == [("counted", "bounds_hit", "queued_messages")]
    assert b'mautrix_sfu_bounds_hit_total{cause="queued_messages"} 1.0' in metrics.render()[0]
    runtime.stop()


async def test_the_store_keeps_a_leg_before_its_answer_goes_out() -> None:
    runtime, edges, _ = make()
    runtime.on_room_event(member_event("@a:hs", 1))
    runtime.on_to_device([invite("@a:hs", "c")], "p1")
    await asyncio.sleep(0.05)
    kinds = [each[0] for each in edges.done]
    assert kinds.index("put_leg") < kinds.index("to_device")
    assert kinds.index("plan") < kinds.index("start") < kinds.index("to_device")
    answer = edges.of("to_device")[0]
    assert answer[2] == "m.call.answer"
    assert answer[4] is not None, "it waits for the disk"
    assert edges.of("position") == [("position", "p1")]
    runtime.stop()


async def test_only_rooms_with_calls_are_of_interest_and_stored() -> None:
    runtime, edges, _ = make()
    member = {
        "type": "m.room.member",
        "room_id": ROOM,
        "sender": "@b:hs",
        "state_key": "@b:hs",
        "event_id": "$j",
        "content": {"membership": "join"},
    }
    assert not runtime.wants_room(ROOM)
    runtime.on_room_event(member)
    assert not edges.of("fact")
    runtime.on_room_event(member_event("@a:hs", 1))
    assert runtime.wants_room(ROOM)
    runtime.on_room_event({**member, "event_id": "$j2"})
    assert [each[1] for each in edges.of("fact")] == ["org.matrix.msc3401.call.member", "m.room.member"]
    runtime.stop()


async def test_a_stored_leg_is_hung_up_after_a_restart_and_its_facts_count_again() -> None:
    before, edges, _ = make()
    before.on_room_event(member_event("@a:hs", 1))
    before.on_to_device([invite("@a:hs", "c")], "p1")
    await asyncio.sleep(0.05)
    before.stop()
    (leg,) = [each[1] for each in edges.of("put_leg")]
    kept = [(each[3], 0) for each in edges.of("fact")]

    after, edges, _ = make()
    after.restore([(event, _now_ms()) for event, _ in kept], (leg,))
    hangup = edges.of("to_device")[0]
    assert (hangup[1], hangup[2]) == ("@a:hs", "m.call.hangup")
    assert "seq" not in hangup[3]
    after.on_to_device([invite("@a:hs", "c2")], "p2")
    await asyncio.sleep(0.05)
    assert len(answers(edges, "@a:hs")) == 1
    assert after.view().legs[0].grade == "full"
    after.stop()


async def test_a_fork_against_a_known_ban_is_not_stored_so_that_it_does_not_count_after_a_restart_either() -> None:
    before, edges, _ = make()
    member = {"type": "m.room.member", "room_id": ROOM, "sender": "@a:hs", "state_key": "@a:hs"}
    before.on_room_event(member_event("@a:hs", 1))
    before.on_room_event({**member, "event_id": "$ban", "content": {"membership": "ban"}})
    forked = {"membership": "join"}
    before.on_room_event({**member, "event_id": "$f", "content": forked, "unsigned": {"replaces_state": "$older"}})
    before.stop()
    kept = {(each[1], each[2]): each[3] for each in edges.of("fact")}  # as the store does: one of a key
    assert kept["m.room.member", "@a:hs"]["event_id"] == "$ban"

    after, edges, _ = make()
    after.restore([(event, _now_ms()) for event in kept.values()], ())
    after.on_to_device([invite("@a:hs", "c")], "p")
    await asyncio.sleep(0.05)
    assert not answers(edges, "@a:hs")
    after.stop()


async def test_a_full_channel_gets_only_the_newest_metadata_when_there_is_room() -> None:
    runtime, edges, _ = make()
    for n, user in enumerate(("@a:hs", "@b:hs", "@c:hs")):
        runtime.on_room_event(member_event(user, n))
    runtime.on_to_device([invite("@a:hs", "ca")], "p1")
    await asyncio.sleep(0.02)
    leg = runtime.view().legs[0].leg
    runtime.on_ice_connected(leg)
    edges.full_channel = True
    runtime.on_rtc(ChannelOpened(leg))
    for user, sdp in (("@b:hs", OFFER), ("@c:hs", OFFER)):
        runtime.on_to_device([invite(user, user, sdp=sdp)], "p2")
        await asyncio.sleep(0.15)
    edges.done.clear()
    edges.full_channel = False
    await asyncio.sleep(0.3)
    sent = [text for _, to, text in edges.of("channel") if to == leg and "metadata_changed" in text]
    assert len(sent) == 1
    assert "@b:hs" in sent[0]
    assert "@c:hs" in sent[0]
    runtime.stop()


async def test_what_a_calls_connections_sent_and_received_is_added_up_and_told_when_it_is_over() -> None:
    runtime, edges, _ = make()
    for n, user in enumerate(("@a:hs", "@b:hs")):
        runtime.on_room_event(member_event(user, n))
        runtime.on_to_device([invite(user, user)], "p")
    await asyncio.sleep(0.05)
    for n, user in enumerate(("@a:hs", "@b:hs")):
        assert not edges.of("ended")
        runtime.on_room_event({**member_event(user, 10 + n), "content": {"m.calls": []}})
    ((_, conference, people, came, went),) = edges.of("ended")
    assert (conference.room_id, conference.conf_id, people) == (ROOM, "conf", ("@a:hs", "@b:hs"))
    assert (came, went) == (2000, 600)
    runtime.stop()


async def test_a_malformed_invite_is_counted_and_refused() -> None:
    runtime, edges, metrics = make()
    runtime.on_to_device([invite("@a:hs", "c", offer=None), Message("@a:hs", "m.call.hangup", {})], "p1")
    assert [each[2] for each in edges.of("to_device")] == ["m.call.reject"]
    assert b'mautrix_sfu_bad_messages_total{cause="missing_field"} 2.0' in metrics.render()[0]
    runtime.stop()


def internal_errors(metrics: Metrics) -> set[str]:
    found = metrics.render()[0].decode().splitlines()
    return {line.split('"')[1] for line in found if line.startswith("mautrix_sfu_internal_errors_total{")}


async def test_a_fault_of_the_core_costs_one_message_and_not_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, edges, metrics = make()
    for n, user in enumerate(("@bad:hs", "@good:hs")):
        runtime.on_room_event(member_event(user, n))
    handle = Focus.handle

    def faulty(focus: Focus, event: Event, now: float) -> list[Command]:
        if isinstance(event, Invite) and event.envelope.sender.user_id == "@bad:hs":
            raise AssertionError("a broken invariant")
        return handle(focus, event, now)

    monkeypatch.setattr(Focus, "handle", faulty)
    runtime.on_to_device([invite("@bad:hs", "c"), invite("@good:hs", "c")], "p1")
    await asyncio.sleep(0.05)
    assert not answers(edges, "@bad:hs")
    assert answers(edges, "@good:hs")
    assert internal_errors(metrics) == {"Invite"}
    runtime.stop()


async def test_what_cannot_be_read_because_of_a_fault_costs_nobody_else_and_no_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, parse = to_device.decode, room_events.parse

    def faulty_decode(sender: str, *more: Any) -> Any:
        assert sender != "@bad:hs", "a fault"
        return decode(sender, *more)

    def faulty_parse(event: dict[str, Any], *more: Any) -> Any:
        assert event["sender"] != "@bad:hs", "a fault"
        return parse(event, *more)

    monkeypatch.setattr(to_device, "decode", faulty_decode)
    monkeypatch.setattr(room_events, "parse", faulty_parse)
    runtime, edges, metrics = make()
    facts = [member_event(user, n) for n, user in enumerate(("@bad:hs", "@good:hs"))]
    runtime.restore([(fact, _now_ms()) for fact in facts], ())
    runtime.on_room_event(facts[0])
    runtime.on_to_device([invite("@bad:hs", "c"), invite("@good:hs", "c")], "p1")
    await asyncio.sleep(0.05)
    assert not answers(edges, "@bad:hs")
    assert answers(edges, "@good:hs")
    assert internal_errors(metrics) == {"room event", "m.call.invite"}
    runtime.stop()


async def test_a_fault_in_a_timer_delays_the_others_and_stops_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "FAULT_PAUSE", 0.2)
    edges, metrics = Edges(), Metrics("test")
    runtime = Runtime(Policy(FOCUS, invite_wait=0.01), metrics, edges)
    runtime.connect(edges, edges, edges, edges)
    handle_timeout, calls = Focus.handle_timeout, 0

    def faulty(focus: Focus, now: float) -> list[Command]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise AssertionError("a broken invariant")
        return handle_timeout(focus, now)

    monkeypatch.setattr(Focus, "handle_timeout", faulty)
    runtime.on_to_device([invite("@nobody:hs", "c")], "p1")  # waits for room state, and is refused by a timer
    await asyncio.sleep(0.1)
    assert (calls, edges.of("to_device")) == (1, [])
    async with asyncio.timeout(10):
        while not edges.of("to_device"):
            await asyncio.sleep(0.01)
    assert internal_errors(metrics) == {"timeout"}
    runtime.stop()


@pytest.mark.parametrize(("what", "command"), [("open", "OpenLeg"), ("set_plan", "ApplyOffer")])
async def test_a_leg_whose_opening_meets_a_fault_ends_and_takes_nobodys_place(
    monkeypatch: pytest.MonkeyPatch, what: str, command: str
) -> None:
    runtime, edges, metrics = make()
    runtime.on_room_event(member_event("@a:hs", 0))

    def fails(*_: object) -> None:
        raise ValueError("what was said makes no connection")

    monkeypatch.setattr(edges, what, fails)
    runtime.on_to_device([invite("@a:hs", "c")], "p1")
    await asyncio.sleep(0.05)
    assert runtime.view().legs == ()
    assert [each[2] for each in edges.of("to_device")] == ["m.call.hangup"]
    assert command in internal_errors(metrics)
    runtime.stop()


async def test_a_state_event_from_before_all_time_is_kept_as_one_of_the_beginning() -> None:
    runtime, edges, _ = make()
    runtime.on_snapshot(RoomId(ROOM), [member_event("@a:hs", 0) | {"origin_server_ts": -(10**30)}])
    ((_, _, (fact,)),) = edges.of("replace_room")
    assert fact.received_ms == 0
    runtime.stop()


async def test_no_leg_is_opened_while_the_database_is_away_whatever_the_load_says() -> None:
    runtime, edges, metrics = make()
    runtime.on_room_event(member_event("@a:hs", 0))
    runtime.on_database(False)
    runtime.operate(OverloadChanged("loop"))
    runtime.operate(OverloadChanged(None))
    runtime.on_to_device([invite("@a:hs", "c1")], "p1")
    await asyncio.sleep(0.05)
    assert [each[2] for each in edges.of("to_device")] == ["m.call.reject"]
    assert b'mautrix_sfu_refusals_total{cause="overload_database"} 1.0' in metrics.render()[0]
    runtime.on_database(True)
    runtime.on_to_device([invite("@a:hs", "c2")], "p2")
    await asyncio.sleep(0.05)
    assert [each[2] for each in edges.of("to_device")] == ["m.call.reject", "m.call.answer"]
    runtime.stop()


async def test_a_failed_media_thread_or_a_refused_token_ends_the_process() -> None:
    runtime, edges, _ = make()
    runtime.on_media_failed("panic")
    runtime.on_fatal("token refused")
    assert edges.fatal == ["panic", "token refused"]
    runtime.stop()


def test_the_queue_goes_round_its_senders_and_keeps_each_ones_order() -> None:
    queue: FairQueue[str] = FairQueue()
    a, b = UserId("@a:hs"), UserId("@b:hs")
    for n in range(3):
        queue.push(a, f"a{n}")
    queue.push(b, "b0")
    assert [queue.pop() for _ in range(4)] == ["a0", "b0", "a1", "a2"]
    assert not queue


def test_a_full_queue_drops_its_oldest() -> None:
    queue: FairQueue[int] = FairQueue()
    a = UserId("@a:hs")
    taken = [queue.push(a, n) for n in range(MAX_QUEUED_PER_SENDER + 1)]
    assert taken.count(False) == 1
    assert queue.full(a)
    assert queue.pop() == 1


def test_a_queue_of_many_senders_is_bounded_in_all_and_each_keeps_its_turn() -> None:
    queue: FairQueue[int] = FairQueue()
    senders = [UserId(f"@u{n}:hs") for n in range(MAX_QUEUED + 10)]
    taken = [queue.push(sender, n) for n, sender in enumerate(senders)]
    assert taken == [True] * MAX_QUEUED + [False] * 10
    assert not queue.push(senders[0], -1), "it pushes out its own"
    assert len(queue) == MAX_QUEUED
    assert queue.pop() == -1
    assert queue.push(senders[-1], 7)
    assert [queue.pop() for _ in range(len(queue))] == [*range(1, MAX_QUEUED), 7]
    assert not queue


def _now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000
