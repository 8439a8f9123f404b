"""What participants see of each other, what they are sent, and when they are told: protocol, sections 3 and 4."""

from __future__ import annotations

import pytest

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import conference
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import Device, DeviceId, Kind, LegId, Mid, StreamId, TrackId, UserId
from mautrix_sfu.core.subscriptions import MAX_UNFULFILLED

from .script import ALICE, BOB, CAROL, FOCUS, OTHER_FOCUS, Script, audio, camera, of, one, video


def streams(command: cmd.ChannelMetadata | cmd.ChannelOffer | cmd.SendAnswer) -> set[str]:
    return set(command.metadata)


def last_metadata(script: Script, leg: LegId) -> cmd.ChannelMetadata:
    return [c for c in script.commands if isinstance(c, cmd.ChannelMetadata) and c.leg == leg][-1]


def pair() -> tuple[Script, LegId, LegId]:
    script = Script()
    alice = script.join(ALICE, "a")
    bob = script.join(BOB, "b")
    script.wait(0.2)
    return script, alice, bob


def test_the_answer_tells_a_newcomer_of_everybody_and_the_channel_tells_everybody_of_the_newcomer() -> None:
    script = Script()
    alice = script.join(ALICE, "a")
    assert streams(last_metadata(script, alice)) == set(), "sent when the channel opens, even if empty"
    script.join(BOB, "b")
    answer = of(script.commands, cmd.SendAnswer)[-1]
    assert streams(answer) == {"a"}
    assert answer.metadata[StreamId("a")].owner == ALICE
    done = script.wait(0.2)
    told = one(done, cmd.ChannelMetadata)
    assert (told.leg, streams(told)) == (alice, {"b"})


def test_changes_of_metadata_are_merged_for_a_tenth_of_a_second() -> None:
    script, alice, bob = pair()
    for muted in (True, False, True):
        script.say(ev.MetadataChanged(bob, camera("b", "b-a", "b-v", muted=muted)))
    told = one(script.wait(0.15), cmd.ChannelMetadata)
    assert told.leg == alice
    assert told.metadata[StreamId("b")].video_muted


def large_call(monkeypatch: pytest.MonkeyPatch, people: int = 6) -> tuple[Script, list[LegId]]:
    """A call that takes as long to tell everybody of everybody as one of hundreds: a second or two."""
    monkeypatch.setattr(conference, "VIEW_PACE", 1.8 / people**2)
    script = Script()
    legs = [script.join(Device(UserId(f"@p{n}:hs"), DeviceId("D")), f"s{n}") for n in range(people)]
    script.wait(10)
    return script, legs


def test_in_a_large_call_people_are_told_of_a_newcomer_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    script, legs = large_call(monkeypatch)
    script.join(ALICE, "new")
    told: list[LegId] = []
    most = 0
    for _ in range(30):
        now = [command.leg for command in of(script.wait(0.05), cmd.ChannelMetadata)]
        told += now
        most = max(most, len(now))
    assert sorted(told) == legs, "each of them once, within a second and a half"
    assert most == 1
    assert all("new" in streams(last_metadata(script, leg)) for leg in legs)


def test_in_a_large_call_where_much_changes_nobody_is_told_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    script, legs = large_call(monkeypatch)
    before = len(of(script.commands, cmd.ChannelMetadata))
    for width in range(60):
        video_track = {TrackId("s0-v"): ev.TrackMetadata(Kind.VIDEO, 100 + width, 720)}
        stream = ev.StreamMetadata("m.usermedia", False, False, video_track)
        script.say(ev.MetadataChanged(legs[0], {StreamId("s0"): stream}))
        script.wait(0.1)
    told = of(script.commands, cmd.ChannelMetadata)[before:]
    assert all(2 <= sum(command.leg == leg for command in told) <= 5 for leg in legs[1:])
    script.say(ev.MetadataChanged(legs[0], camera("s0", "s0-a", "s0-v", muted=True)))
    script.wait(3)
    assert all(last_metadata(script, leg).metadata[StreamId("s0")].video_muted for leg in legs[1:])


def test_a_stream_is_drawn_once_for_all_and_apart_for_who_knows_its_ids_from_somebody_else() -> None:
    script, alice, bob = pair()
    carol = script.join(CAROL, "c")
    script.wait(0.5)
    shown = [last_metadata(script, leg).metadata[StreamId("c")] for leg in (alice, bob)]
    assert shown[0] is shown[1]
    dave = Device(UserId("@dave:hs"), DeviceId("D"))
    leg = script.join(dave, "d")
    script.publishes[dave] = (audio("a", "a-a"), video("a", "a-v"))  # ids that Alice has too
    script.offer(leg, metadata=camera("a", "a-a", "a-v"))
    script.wait(0.5)
    by_bob = last_metadata(script, bob).metadata
    assert by_bob[StreamId("a")].owner == ALICE
    made = next(stream for stream_id, stream in by_bob.items() if stream.owner.user_id == "@dave:hs")
    assert not set(made.tracks) & set(by_bob[StreamId("a")].tracks)
    assert last_metadata(script, carol).metadata[StreamId("a")] is by_bob[StreamId("a")]


def test_a_subscription_is_offered_agreed_and_flows_in_the_size_asked_for() -> None:
    script, alice, bob = pair()
    offer = one(script.subscribe(alice, ("b", "b-v", 320, 180), ("b", "b-a")), cmd.ChannelOffer)
    assert [(s.stream_id, s.track_id, s.kind) for s in offer.sends] == [
        ("b", "b-a", Kind.AUDIO),
        ("b", "b-v", Kind.VIDEO),
    ]
    assert streams(offer) == {"b"}, "the metadata that names a stream comes no later than the offer"
    assert not of(script.commands, cmd.Forward), "nothing flows before the answer"
    flows = of(script.answer(alice), cmd.Forward)
    assert {(f.leg, f.source, f.source_mid, f.width, f.height) for f in flows} == {
        (alice, bob, "0", None, None),
        (alice, bob, "1", 320, 180),
    }


def test_another_size_changes_the_layer_without_an_offer() -> None:
    script, alice, _bob = pair()
    script.subscribe(alice, ("b", "b-v", 320, 180))
    script.answer(alice)
    done = script.subscribe(alice, ("b", "b-v", 1280, 720))
    assert one(done, cmd.Forward).width == 1280
    script.wait(1)
    assert len(of(script.commands, cmd.ChannelOffer)) == 1
    assert not of(script.subscribe(alice, ("b", "b-v", 1280, 720)), cmd.Forward), "a repetition changes nothing"


def test_unsubscribing_stops_the_flow_at_once_and_the_line_with_the_next_offer() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, ("b", "b-v"), ("b", "b-a"))
    script.answer(alice)
    stopped = script.unsubscribe(alice, ("b", "b-v"))
    assert len(of(stopped, cmd.StopForward)) == 1
    offer = one(script.wait(1), cmd.ChannelOffer)
    assert [s.track_id for s in offer.sends] == ["b-a"]


def test_subscribing_to_what_does_not_exist_yet_is_fulfilled_when_it_appears() -> None:
    script = Script()
    alice = script.join(ALICE, "a")
    script.subscribe(alice, ("b", "b-v"))
    script.join(BOB, "b")
    offer = one(script.wait(1), cmd.ChannelOffer)
    assert [s.track_id for s in offer.sends] == ["b-v"]


def test_the_oldest_of_too_many_unfulfilled_subscriptions_gives_way() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, *((f"x{n}", f"y{n}") for n in range(MAX_UNFULFILLED + 5)))
    assert script.counts["bounds_hit", "unfulfilled_subscriptions"] == 5
    assert one(script.subscribe(alice, ("b", "b-v")), cmd.ChannelOffer), "what exists can still be had"


def test_nobody_is_shown_or_sent_what_the_own_device_publishes() -> None:
    script, alice, _ = pair()
    assert "a" not in last_metadata(script, alice).metadata
    script.subscribe(alice, ("a", "a-v"))
    script.wait(1)
    assert not [o for o in of(script.commands, cmd.ChannelOffer) if o.leg == alice]


def test_two_devices_of_one_user_see_each_other() -> None:
    script = Script()
    first, second = ALICE, Device(ALICE.user_id, DeviceId("ALICE2"))
    script.publishes = {first: (audio("x", "xa"),), second: (audio("y", "ya"),)}
    script.list_device(first, second)
    legs = [one(script.invite(device, f"c-{device.device_id}"), cmd.OpenLeg).leg for device in (first, second)]
    for leg in legs:
        script.say(ev.IceConnected(leg))
        script.say(ev.ChannelOpened(leg))
    script.wait(0.2)
    assert streams(last_metadata(script, legs[0])) == {"y"}
    assert streams(last_metadata(script, legs[1])) == {"x"}


def test_equal_ids_of_two_publishers_are_told_apart_and_keep_their_names() -> None:
    script = Script()
    viewer = script.join(ALICE, "a")
    for device in (BOB, Device(UserId("@dan:hs"), DeviceId("D"))):
        script.publishes[device] = (audio("same", "track-a"), video("same", "track-v"))
        script.list_device(device)
        leg = one(
            script.invite(device, f"c-{device.device_id}", metadata=camera("same", "track-a", "track-v")), cmd.OpenLeg
        ).leg
        script.say(ev.IceConnected(leg))
        script.say(ev.ChannelOpened(leg))
        script.wait(0.2)
    shown = last_metadata(script, viewer).metadata
    assert {stream.owner for stream in shown.values()} == {BOB, Device(UserId("@dan:hs"), DeviceId("D"))}
    assert shown[StreamId("same")].owner == BOB, "the first keeps the id"
    made = next(stream for stream in shown if stream != "same")
    tracks = {track for stream in shown.values() for track in stream.tracks}
    assert len(tracks) == 4
    offer = one(script.subscribe(viewer, *((made, track) for track in shown[made].tracks)), cmd.ChannelOffer)
    assert {(send.stream_id) for send in offer.sends} == {made}
    flows = of(script.answer(viewer), cmd.Forward)
    dan = next(v.leg for v in script.focus.view(script.now).legs if v.peer.user_id == "@dan:hs")
    assert {flow.source for flow in flows} == {dan}


def test_metadata_of_streams_that_its_sender_does_not_publish_is_dropped() -> None:
    script, alice, bob = pair()
    forged = {**camera("b", "b-a", "b-v"), **camera("a", "a-a", "a-v", muted=True)}
    script.say(ev.MetadataChanged(bob, forged))
    script.wait(0.2)
    shown = last_metadata(script, alice).metadata
    assert set(shown) == {"b"}
    assert shown[StreamId("b")].owner == BOB
    bobs_view = last_metadata(script, bob).metadata
    assert not bobs_view[StreamId("a")].video_muted


def test_a_track_stays_itself_while_its_stream_id_flips() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    for stream in ("other", "b"):
        script.publishes[BOB] = (audio("b", "b-a"), video(stream, "b-v"))
        script.offer(bob, metadata=camera("b", "b-a", "b-v"))
        script.wait(0.3)
    assert not of(script.commands, cmd.StopForward)
    assert len([o for o in of(script.commands, cmd.ChannelOffer) if o.leg == alice]) == 1


def test_when_the_metadata_flips_too_the_subscription_follows_the_track() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    script.publishes[BOB] = (audio("c", "b-a"), video("c", "b-v"))
    script.offer(bob, metadata=camera("c", "b-a", "b-v"))
    offer = one(script.wait(1), cmd.ChannelOffer)
    assert [(s.stream_id, s.track_id) for s in offer.sends] == [("c", "b-v")]
    assert not of(script.commands, cmd.StopForward)


def test_a_late_camera_is_matched_by_its_track_id() -> None:
    script = Script()
    bob = script.join(BOB, "b")
    alice = script.join(ALICE, "a")
    script.wait(0.2)
    script.publishes[BOB] = (audio("b", "b-a"), video("elsewhere", "late", "s1", ()))
    metadata = camera("b", "b-a", "late")
    script.offer(bob, metadata=metadata)
    script.wait(0.2)
    shown = last_metadata(script, alice).metadata
    assert set(shown) == {"b"}
    assert set(shown[StreamId("b")].tracks) == {"b-a", "late"}
    script.subscribe(alice, ("b", "late"))
    assert one(script.answer(alice), cmd.Forward).source_mid == Mid("s1")


def test_a_stream_that_its_metadata_names_no_more_is_gone_before_its_offer_ends_it() -> None:
    script, alice, bob = pair()
    screen = {StreamId("s"): ev.StreamMetadata("m.screenshare", False, False)}
    both = {**camera("b", "b-a", "b-v"), **screen}
    script.publishes[BOB] = (audio("b", "b-a"), video("b", "b-v"), video("s", "s-v", "2"))
    script.offer(bob, metadata=both)
    script.wait(0.2)
    assert streams(last_metadata(script, alice)) == {"b", "s"}
    script.say(ev.MetadataChanged(bob, camera("b", "b-a", "b-v")))
    script.wait(0.2)
    assert streams(last_metadata(script, alice)) == {"b"}, "not a second camera"
    script.publishes[BOB] = (audio("b", "b-a"), video("b", "b-v"))
    script.offer(bob, metadata=camera("b", "b-a", "b-v"))
    script.publishes[BOB] = (audio("b", "b-a"), video("b", "b-v"), video("s", "s-v", "2"))
    script.offer(bob, metadata=both)
    script.wait(0.5)
    assert streams(last_metadata(script, alice)) == {"b", "s"}


def test_the_size_that_a_publisher_states_reaches_the_media_core() -> None:
    script, _, bob = pair()
    described = [c for c in of(script.commands, cmd.DescribeTrack) if c.leg == bob]
    assert [(c.mid, c.width, c.height) for c in described] == [("1", 1280, 720)]


def test_a_track_that_stops_and_comes_back_on_its_line_at_once_is_forwarded_and_described_anew() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    published = script.publishes[BOB]
    script.publishes[BOB] = published[:1]
    done = script.offer(bob, metadata=camera("b", "b-a"))
    script.publishes[BOB] = published
    done += script.offer(bob, metadata=camera("b", "b-a", "b-v"))
    assert [told.mid for told in of(done, cmd.DescribeTrack)] == ["1"]
    done += script.wait(0.2)  # before this nobody was told of anything
    assert not of(done, cmd.ChannelOffer)
    assert [(flow.source, flow.source_mid) for flow in of(done, cmd.Forward)] == [(bob, "1")]


def test_a_held_leg_sees_and_shows_nothing_and_its_subscriptions_wait() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    done = script.list_device(BOB, active=(OTHER_FOCUS,))
    done += script.wait(0.2)
    assert of(done, cmd.StopForward)
    assert streams(last_metadata(script, alice)) == set()
    assert streams(last_metadata(script, bob)) == set()
    script.subscribe(bob, ("a", "a-v"))
    script.wait(1)
    assert not [o for o in of(script.commands, cmd.ChannelOffer) if o.leg == bob]
    script.list_device(BOB, active=(FOCUS,))
    script.wait(1)
    assert [o for o in of(script.commands, cmd.ChannelOffer) if o.leg == bob]


def test_everybody_but_the_speaker_hears_who_speaks() -> None:
    script, alice, bob = pair()
    told = one(script.say(ev.SpeakerChanged(bob, Mid("0"))), cmd.ChannelSpeaker)
    assert (told.leg, told.stream_id, told.speaker) == (alice, "b", BOB)


def test_who_has_a_narrow_link_is_told_which_track_pauses_and_when_it_goes_on() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    mid = one(script.commands, cmd.Forward).mid
    told = one(script.say(ev.SuspensionChanged(alice, mid, True)), cmd.ChannelSuspension)
    assert told == cmd.ChannelSuspension(alice, StreamId("b"), TrackId("b-v"), True)
    assert not one(script.say(ev.SuspensionChanged(alice, mid, False)), cmd.ChannelSuspension).suspended
    assert not of(script.say(ev.SuspensionChanged(bob, Mid("s7"), True)), cmd.ChannelSuspension)


def test_a_focus_that_nobody_lists_is_not_dialled_for_a_participant_and_one_in_the_set_is_dialled_once() -> None:
    script, alice, bob = pair()
    refused = script.say(ev.ConnectToFocus(alice, OTHER_FOCUS)) + script.wait(6)
    assert (told := one(refused, cmd.ChannelError)).leg == alice
    assert (told.code, told.in_reply_to) == ("focus_not_in_set", "m.call.connect_to_focus")
    assert not of(refused, cmd.SendInvite)
    dialled = script.list_device(BOB, active=(FOCUS, OTHER_FOCUS)) + script.wait(6)
    assert len(of(dialled, cmd.MakeInvite)) == 1, "the state is reason enough"
    again = script.say(ev.ConnectToFocus(bob, OTHER_FOCUS)) + script.wait(1)
    assert not of(again, cmd.ChannelError)
    assert not of(again, cmd.MakeInvite)


def test_no_more_than_300_streams_are_shown_and_those_subscribed_to_stay() -> None:
    script = Script()
    viewer = script.join(ALICE, "a")
    for n in range(110):
        device = Device(UserId(f"@u{n}:hs"), DeviceId("D"))
        script.publishes[device] = tuple(audio(f"st{n}-{k}", f"t{n}-{k}", str(k)) for k in range(3))
        script.list_device(device)
        script.invite(device, f"c{n}")
        if n == 0:
            script.wait(0.2)
            script.subscribe(viewer, ("st0-0", "t0-0"))
    script.say(ev.Pong(viewer))
    script.wait(0.2)
    shown = last_metadata(script, viewer).metadata
    assert len(shown) == 300
    assert "st0-0" in shown, "subscribed to"
    assert "st0-1" not in shown, "oldest"
    assert "st109-2" in shown, "newest"


def test_a_refused_line_is_not_offered_again_until_it_is_asked_for_again() -> None:
    script, alice, _ = pair()
    offer = one(script.subscribe(alice, ("b", "b-v"), ("b", "b-a")), cmd.ChannelOffer)
    script.refused_slots = {send.slot for send in offer.sends if send.track_id == "b-v"}
    assert len(of(script.answer(alice), cmd.Forward)) == 1
    again = one(script.wait(1), cmd.ChannelOffer)
    assert [s.track_id for s in again.sends] == ["b-a"]


def test_an_answer_that_comes_just_after_a_publisher_left_forwards_nothing_from_there() -> None:
    script, _, bob = pair()
    script.subscribe(bob, ("a", "a-a"), ("a", "a-v"))
    script.unlist(ALICE)
    assert not of(script.answer(bob), cmd.Forward)
    assert not of(script.wait(0.2), cmd.Forward)
