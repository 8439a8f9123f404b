"""To-device events, data-channel messages and room events: recordings are understood, garbage is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import Device, DeviceId, EventId, Kind, LegId, RoomId, SessionId, StreamId, TrackId, UserId
from mautrix_sfu.core.policy import Limits
from mautrix_sfu.wire import channel, room_events, to_device
from mautrix_sfu.wire.fields import MalformedError

from .recordings import CAPTURES

FOCUS = Device(UserId("@sfu:localhost"), DeviceId("SFU1"))
LEG = LegId(1)
SFU = SessionId("sfu")
RECORDINGS = sorted(CAPTURES.glob("*.jsonl"))


def messages(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    keys = st.sampled_from(
        ["type", "content", "description", "sdp", "call_id", "conf_id", "device_id", "offer", "subscribe", "tracks"]
    ) | st.text(max_size=8)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=20
    )


# ---------------------------------------------------------------- recordings


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_recorded_message_of_the_deployed_client_is_understood(path: Path) -> None:
    understood = 0
    for message in messages(path):
        content = message["content"]
        match message["channel"], message["direction"]:
            case "to-device", "client>sfu":
                decoded = to_device.decode(message["sender"], message["type"], content)
                assert decoded.envelope.sender.device_id == content["device_id"]
                assert decoded.envelope.seq == content["seq"]
                if isinstance(decoded, ev.Invite):
                    assert decoded.sdp == content["offer"]["sdp"]
                    assert set(decoded.metadata) == set(content["org.matrix.msc3077.sdp_stream_metadata"])
                understood += 1
            case "dc", "client>sfu" if not message["type"].startswith("_"):
                text = json.dumps({"type": message["type"], "content": content})
                event = channel.decode(LEG, text)
                assert not isinstance(event, ev.BadMessage), event
                understood += 1
            case "as-event", _ if "content" in content:
                fact = room_events.parse(content, 0, 0)
                assert not isinstance(fact, room_events.Ignored), fact
                understood += 1
            case _:
                pass
    assert understood > 5


def test_a_recorded_member_event_lists_device_session_and_focus() -> None:
    event = next(
        m for m in messages(CAPTURES / "join.jsonl") if m["channel"] == "as-event" and m["type"].endswith("member")
    )["content"]
    device = event["content"]["m.calls"][0]["m.devices"][0]
    fact = room_events.parse(event, 0, device["expires_ts"] - 60_000)
    assert isinstance(fact, ev.CallMemberChanged)
    (listed,) = fact.devices
    assert (listed.device_id, listed.session_id, listed.active) == ("ALICE1", "M6W6wuohyy", (FOCUS,))
    assert event["replaces_state"] == fact.replaces


# ---------------------------------------------------------------- room events


def member_event(content: Any, **more: Any) -> dict[str, Any]:
    event = {
        "type": "org.matrix.msc3401.call.member",
        "room_id": "!r",
        "sender": "@a:hs",
        "state_key": "@a:hs",
        "event_id": "$1",
        "content": content,
    }
    return event | more


def calls(*devices: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"m.calls": [{"m.call_id": "c", "m.devices": list(devices)}], **beside}


def lasting(content: dict[str, Any], received_ms: int = 0, now_ms: int = 0) -> float:
    fact = room_events.parse(member_event(content), received_ms, now_ms)
    assert isinstance(fact, ev.CallMemberChanged)
    return fact.devices[0].lasts


def test_a_device_counts_until_a_minute_after_it_expires_and_a_day_at_most() -> None:
    assert lasting(calls({"device_id": "D", "expires_ts": 10_000})) == 70
    assert lasting(calls({"device_id": "D", "expires_ts": 10**15})) == 86400
    assert lasting(calls({"device_id": "D"})) == 86400
    assert lasting(calls({"device_id": "D", "expires_ts": 10_000}, **{"m.expires_ts": 5_000})) == 65
    assert lasting(calls({"device_id": "D", "expires_ts": 10_000}), now_ms=100_000) == -30
    assert lasting(calls({"device_id": "D"}), received_ms=0, now_ms=86_400_000) == 0


def test_another_format_under_the_same_type_is_ignored_without_a_word() -> None:
    element_call = member_event({}, state_key="_@a:hs_DEVICE_m.call")
    assert room_events.parse(element_call, 0, 0) is room_events.Ignored.NOT_OWN


def test_a_member_event_that_was_redacted_or_has_no_list_says_in_no_call() -> None:
    contents: list[Any] = [{}, {"m.calls": {}}, {"m.calls": None}, None]
    for content in contents:
        fact = room_events.parse(member_event(content), 0, 0)
        assert isinstance(fact, ev.CallMemberChanged)
        assert fact.devices == ()


def test_a_soft_failed_event_is_dropped() -> None:
    event = member_event(calls({"device_id": "D"}), unsigned={"io.element.synapse.soft_failed": True})
    assert room_events.parse(event, 0, 0) is room_events.Ignored.SOFT_FAILED


@pytest.mark.parametrize("prefix", ["m.foci", "org.matrix.msc3898.foci"])
def test_both_names_of_the_foci_are_read_and_two_count(prefix: str) -> None:
    foci = [{"user_id": f"@sfu{n}:hs", "device_id": "S"} for n in range(3)]
    fact = room_events.parse(member_event(calls({"device_id": "D", f"{prefix}.active": foci})), 0, 0)
    assert isinstance(fact, ev.CallMemberChanged)
    assert [focus.user_id for focus in fact.devices[0].active] == ["@sfu0:hs", "@sfu1:hs"]


def test_a_call_is_over_when_terminated_or_redacted() -> None:
    def over(content: dict[str, Any]) -> bool:
        event = {"type": "m.call", "room_id": "!r", "sender": "@a:hs", "state_key": "c", "event_id": "$1"}
        fact = room_events.parse(event | {"content": content}, 0, 0)
        assert isinstance(fact, ev.CallChanged)
        return fact.terminated

    assert not over({"m.intent": "m.room"})
    assert over({"m.intent": "m.room", "m.terminated": "ended"})
    assert over({})


def test_what_is_stored_parses_as_what_was_pushed() -> None:
    for message in messages(CAPTURES / "two-devices.jsonl"):
        if message["channel"] == "as-event" and "content" in message["content"]:
            event = message["content"]
            kept = json.loads(json.dumps(room_events.worth_storing(event)))
            assert room_events.parse(kept, 5, 7) == room_events.parse(event, 5, 7)


@given(
    st.dictionaries(
        st.sampled_from(["type", "room_id", "sender", "state_key", "event_id", "content", "unsigned"]),
        json_values() | st.sampled_from(sorted(room_events.STATE_TYPES)),
    )
)
def test_no_event_breaks_the_parser(event: dict[str, Any]) -> None:
    room_events.parse(event, 0, 0)
    room_events.parse(member_event(event), 0, 0)
    room_events.parse_redaction(event)


# ---------------------------------------------------------------- to-device


@given(st.sampled_from(sorted(to_device.TYPES)), st.dictionaries(st.text(max_size=10), json_values()), json_values())
def test_no_to_device_event_breaks_the_decoder(event_type: str, content: dict[str, Any], part: Any) -> None:
    filled = {"call_id": "c", "conf_id": "c", "device_id": "D", "offer": part, "description": part, **content}
    for tried in (content, filled):
        with contextlib.suppress(MalformedError):
            to_device.decode("@a:hs", event_type, tried)


def advertised(streams: int = 1) -> cmd.Advertised:
    owner = Device(UserId("@b:hs"), DeviceId("B"))
    return {
        StreamId(f"stream-{n}"): cmd.AdvertisedStream(
            owner, "m.usermedia", False, True, {TrackId("t"): cmd.AdvertisedTrack(Kind.VIDEO, 1280, 720)}
        )
        for n in range(streams)
    }


def address() -> cmd.Address:
    return cmd.Address(Device(UserId("@a:hs"), DeviceId("A")), "call", "conf", RoomId("!r"), "sfu", "s1", 0)


def test_an_answer_has_all_fields_that_the_deployed_client_demands() -> None:
    event_type, content = to_device.encode(cmd.SendAnswer(LEG, address(), "v=0", advertised()), FOCUS)
    assert event_type == "m.call.answer"
    assert content["answer"] == {"type": "answer", "sdp": "v=0"}
    assert content["party_id"] == content["device_id"] == "SFU1"
    assert (content["dest_session_id"], content["sender_session_id"], content["seq"]) == ("s1", "sfu", 0)
    metadata = content["org.matrix.msc3077.sdp_stream_metadata"]["stream-0"]
    assert (metadata["user_id"], metadata["device_id"], metadata["video_muted"]) == ("@b:hs", "B", True)
    assert metadata["tracks"] == {"t": {"kind": "video", "width": 1280, "height": 720}}


def test_metadata_that_is_written_piece_by_piece_is_the_json_that_it_would_be_in_one() -> None:
    writer = channel.MetadataWriter()
    streams = dict(advertised(3))
    names = (*streams, StreamId('sfu-1"\\'))
    streams = dict(zip(names, (*streams.values(), streams[StreamId("stream-0")]), strict=True))
    for shown in (streams, streams, dict(reversed(streams.items())), {}):
        metadata = to_device.metadata_json(shown)
        message = json.loads(writer.changed(shown))
        assert message == {
            "type": "m.call.sdp_stream_metadata_changed",
            "content": {"sdp_stream_metadata": metadata},
        }
        assert list(message["content"]["sdp_stream_metadata"]) == list(metadata)
        assert json.loads(writer.description("offer", 'v=0\r\ns="ü"', shown)) == {
            "type": "m.call.negotiate",
            "content": {"description": {"type": "offer", "sdp": 'v=0\r\ns="ü"'}, "sdp_stream_metadata": metadata},
        }


def test_the_writer_of_metadata_keeps_the_texts_of_a_bounded_number_of_streams() -> None:
    writer = channel.MetadataWriter()
    for _ in range(40):
        assert json.loads(writer.changed(advertised(300)))
        assert len(writer._texts) <= channel.MAX_TEXTS + 300


@pytest.mark.parametrize("bad", ["x" * 129, "a b", "x\r\na=evil:1", "ü", ""])
def test_a_stream_or_track_id_that_no_msid_can_have_is_refused_wherever_it_comes(bad: str) -> None:
    def code(event_type: str, **content: Any) -> str:
        event = channel.decode(LEG, json.dumps({"type": event_type, "content": content}))
        assert isinstance(event, ev.BadMessage), event
        return event.code

    fine = "x" * 128
    for stream, track in ((bad, fine), (fine, bad)):
        metadata = {stream: {"purpose": "m.usermedia", "tracks": {track: {"kind": "audio"}}}}
        assert code("m.call.sdp_stream_metadata_changed", sdp_stream_metadata=metadata) == "bad_id"
        wanted = [{"stream_id": stream, "track_id": track}]
        assert code("m.call.track_subscription", subscribe=wanted) == ("bad_id" if bad else "missing_field")
    metadata = {fine: {"purpose": "m.usermedia", "tracks": {fine: {"kind": "audio"}}}}
    event = channel.decode(
        LEG, json.dumps({"type": "m.call.sdp_stream_metadata_changed", "content": {"sdp_stream_metadata": metadata}})
    )
    assert isinstance(event, ev.MetadataChanged)


def test_an_answer_that_would_be_too_large_goes_without_its_metadata() -> None:
    _, content = to_device.encode(cmd.SendAnswer(LEG, address(), "x" * 20_000, advertised(300)), FOCUS)
    assert "org.matrix.msc3077.sdp_stream_metadata" not in content
    assert len(json.dumps(content)) < to_device.MAX_ANSWER_EVENT


def test_a_hangup_without_a_number_has_no_seq() -> None:
    unnumbered = cmd.Address(Device(UserId("@a:hs"), DeviceId("A")), "call", "conf", None, "sfu", "s1", None)
    event_type, content = to_device.encode(cmd.SendHangup(unnumbered, "replaced"), FOCUS)
    assert event_type == "m.call.hangup"
    assert "seq" not in content
    assert "org.matrix.msc3898.room_id" not in content


def test_who_is_kept_out_by_the_operator_is_told_why_and_nobody_else_is() -> None:
    removed = cmd.Removed("kicked", "too loud" * 100)
    _, content = to_device.encode(cmd.SendHangup(address(), "user_hangup", removed), FOCUS)
    assert content["org.matrix.msc3898.removed"] == {"cause": "kicked", "reason": ("too loud" * 100)[:200]}
    _, content = to_device.encode(cmd.SendReject(address(), "unknown_error", cmd.Removed("banned")), FOCUS)
    assert content["org.matrix.msc3898.removed"] == {"cause": "banned"}
    _, content = to_device.encode(cmd.SendReject(address(), "user_busy"), FOCUS)
    assert "org.matrix.msc3898.removed" not in content


def test_a_malformed_invite_is_refused_where_it_says_whose_it_is() -> None:
    content = {"call_id": "c", "conf_id": "x", "device_id": "D", "sender_session_id": "s"}
    refusal = to_device.refusal("@a:hs", "m.call.invite", content, SFU)
    assert refusal is not None
    assert refusal.address.to == Device(UserId("@a:hs"), DeviceId("D"))
    assert to_device.refusal("@a:hs", "m.call.invite", {}, SFU) is None
    assert to_device.refusal("@a:hs", "m.call.hangup", content, SFU) is None


# ---------------------------------------------------------------- data channel


@given(st.text(max_size=200) | json_values().map(json.dumps))
def test_no_channel_message_breaks_the_decoder(text: str) -> None:
    channel.decode(LEG, text)


@given(
    st.sampled_from(
        [
            "m.call.negotiate",
            "m.call.track_subscription",
            "m.call.sdp_stream_metadata_changed",
            "m.call.connect_to_focus",
            "m.call.ping",
        ]
    ),
    json_values(),
)
def test_known_types_with_any_content_are_understood_or_refused(event_type: str, content: Any) -> None:
    event = channel.decode(LEG, json.dumps({"type": event_type, "content": content}))
    if isinstance(event, ev.BadMessage):
        assert event.in_reply_to == event_type


def test_deeply_nested_json_is_refused_like_any_other() -> None:
    event = channel.decode(LEG, "[" * 200_000)
    assert isinstance(event, ev.BadMessage)
    assert event.code == "not_json"


def test_both_words_for_subscribing_are_taken_and_senseless_sizes_are_left_out() -> None:
    entry = {"stream_id": "s", "track_id": "t", "width": 330.4, "height": 0}
    event = channel.decode(
        LEG, json.dumps({"type": "m.call.track_subscription", "content": {"start": [entry], "stop": [entry]}})
    )
    wanted = ev.Wanted(StreamId("s"), TrackId("t"), 330, None)
    assert event == ev.TrackSubscription(LEG, (wanted,), (wanted,))


def test_the_two_names_of_the_metadata_are_read() -> None:
    metadata = {"s": {"purpose": "m.screenshare", "video_muted": True, "tracks": {"t": {}}}}
    for key in to_device.METADATA_KEYS:
        event = channel.decode(
            LEG, json.dumps({"type": "m.call.sdp_stream_metadata_changed", "content": {key: metadata}})
        )
        assert isinstance(event, ev.MetadataChanged)
        assert event.metadata[StreamId("s")].purpose == "m.screenshare"


@pytest.mark.parametrize("expires", [float("nan"), float("inf"), 10**400, -(10**400), -float("inf"), True, "soon"])
def test_an_expiry_that_is_no_time_makes_no_deadline_that_could_not_be_compared(expires: object) -> None:
    device = {"device_id": "D", "session_id": "s", "expires_ts": expires, "m.foci.active": []}
    event = {
        "type": "m.call.member",
        "room_id": "!r",
        "sender": "@a:hs",
        "state_key": "@a:hs",
        "event_id": "$1",
        "content": {"m.calls": [{"m.call_id": "x", "m.devices": [device]}]},
    }
    fact = room_events.parse(event, 0, 0)
    assert isinstance(fact, ev.CallMemberChanged)
    assert 0 <= fact.devices[0].lasts <= room_events.MAX_LASTING


HALF = "\ud800"  # of a surrogate pair: JSON's escapes can write it, UTF-8 cannot


@pytest.mark.parametrize(
    "field", ["call_id", "conf_id", "device_id", "party_id", "sender_session_id", "org.matrix.msgid"]
)
def test_what_could_not_be_sent_back_is_refused_when_it_comes(field: str) -> None:
    named = {"call_id": "c", "conf_id": "x", "party_id": "D", "offer": {"type": "offer", "sdp": "v=0"}}
    to_device.decode("@a:hs", "m.call.invite", named)
    with pytest.raises(MalformedError) as caught:
        to_device.decode("@a:hs", "m.call.invite", {**named, field: f"a{HALF}"})
    assert caught.value.code == "not_text"
    event = channel.decode(LEG, json.dumps({"type": HALF}))
    assert isinstance(event, ev.BadMessage)
    assert (event.code, event.in_reply_to) == ("not_text", None)


def test_identifiers_of_a_fact_come_from_the_event() -> None:
    event = {
        "type": "m.room.member",
        "room_id": "!r",
        "sender": "@mod:hs",
        "state_key": "@a:hs",
        "event_id": "$2",
        "content": {"membership": "ban"},
        "unsigned": {"replaces_state": "$1"},
    }
    assert room_events.parse(event, 0, 0) == ev.MembershipChanged(
        RoomId("!r"), UserId("@a:hs"), ev.Membership.BAN, EventId("$2"), EventId("$1")
    )


# ---------------------------------------------------------------- sizes that an operator sets


def content_of(**fields: Any) -> dict[str, Any]:
    return {"call_id": "c", "conf_id": "x", "device_id": "D"} | fields


@pytest.mark.parametrize(
    ("limit", "event_type", "content"),
    [
        ("invite_sdp", "m.call.invite", content_of(offer={"type": "offer", "sdp": "v" * 1001})),
        ("invite_sdp", "m.call.answer", content_of(answer={"type": "answer", "sdp": "v" * 1001})),
        ("invite_sdp", "m.call.negotiate", content_of(description={"type": "offer", "sdp": "v" * 1001})),
        ("candidates", "m.call.candidates", content_of(candidates=[{"candidate": "a"}] * 3)),
        ("candidate_size", "m.call.candidates", content_of(candidates=[{"candidate": "c" * 101}])),
    ],
)
def test_a_to_device_message_beyond_a_size_is_refused_with_the_limits_name(
    limit: str, event_type: str, content: dict[str, Any]
) -> None:
    limits = Limits(invite_sdp=1000, candidates=2, candidate_size=100)
    with pytest.raises(MalformedError) as caught:
        to_device.decode("@a:hs", event_type, content, limits)
    assert (caught.value.code, caught.value.bound) == ("too_large", limit)
    to_device.decode("@a:hs", event_type, content)


@pytest.mark.parametrize("filling", ["x", "\N{GRINNING FACE}"])
def test_a_channel_message_beyond_a_size_is_refused_with_the_limits_name(filling: str) -> None:
    filled = filling * (1000 // len(filling.encode()))
    text = json.dumps({"type": "m.call.ping", "content": {"x": filled}}, ensure_ascii=False)
    assert isinstance(channel.decode(LEG, text), ev.Ping)
    event = channel.decode(LEG, text, Limits(message_size=1000))
    assert isinstance(event, ev.BadMessage)
    assert (event.code, event.bound) == ("too_large", "message_size")


def test_a_description_on_the_channel_beyond_its_size_is_refused_with_the_limits_name() -> None:
    content = {"description": {"type": "offer", "sdp": "v" * 1001}}
    event = channel.decode(LEG, json.dumps({"type": "m.call.negotiate", "content": content}), Limits(channel_sdp=1000))
    assert isinstance(event, ev.BadMessage)
    assert (event.code, event.bound, event.in_reply_to) == ("too_large", "channel_sdp", "m.call.negotiate")
