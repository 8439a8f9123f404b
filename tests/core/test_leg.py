"""One leg: its order of messages, offers, liveness, replacement and end: protocol, sections 2 and 4."""

from __future__ import annotations

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import ConfId, LegId, SessionId, Slot

from .script import ALICE, BOB, CONF, Script, camera, of, one


def pair() -> tuple[Script, LegId, LegId]:
    script = Script()
    alice, bob = script.join(ALICE, "a"), script.join(BOB, "b")
    script.wait(0.3)
    return script, alice, bob


# ---------------------------------------------------------------- to-device


def test_a_repeated_invite_gets_the_stored_answer_again() -> None:
    script = Script()
    script.list_device(ALICE)
    first = one(script.invite(ALICE, "c", seq=0), cmd.SendAnswer)
    again = script.invite(ALICE, "c", seq=0)
    assert one(again, cmd.SendAnswer) == first
    assert not of(again, cmd.OpenLeg)


def test_another_invite_of_the_same_session_replaces_the_leg_once_it_is_answered() -> None:
    script = Script()
    old = script.join(ALICE, "a")
    done = script.invite(ALICE, "second")
    assert one(done, cmd.CloseLeg).leg == old
    assert one(done, cmd.SendHangup).reason == "replaced"
    assert one(done, cmd.SendAnswer).address.call_id == "second"


def test_an_invite_that_cannot_be_parsed_replaces_nothing() -> None:
    script = Script()
    script.join(ALICE, "a")
    script.bad_sdp.add("garbage")
    done = script.invite(ALICE, "second", sdp="garbage")
    assert of(done, cmd.SendReject)
    assert not of(done, cmd.SendHangup)
    assert len(script.focus.view(script.now).legs) == 1


def test_an_invite_of_another_session_waits_while_the_state_names_the_live_one() -> None:
    script = Script()
    old = script.join(ALICE, "a")
    assert not of(script.invite(ALICE, "reload", session="s2"), cmd.OpenLeg)
    done = script.list_device(ALICE, session="s2")
    assert of(done, cmd.CloseLeg)[0].leg == old
    assert one(done, cmd.SendHangup).reason == "new_session"
    assert one(done, cmd.SendAnswer).address.call_id == "reload"


def test_legs_in_different_conferences_do_not_end_each_other() -> None:
    script = Script()
    script.join(ALICE, "a")
    other = ConfId("other-call")
    script.call(conf=other)
    done = script.invite(ALICE, "second", conf=other)
    assert of(done, cmd.SendAnswer)
    assert not of(done, cmd.CloseLeg)


def test_messages_are_put_in_order_and_a_gap_is_given_up_after_five_seconds() -> None:
    script = Script()
    script.join(ALICE, "a")
    hangup = ev.Hangup(script.envelope(ALICE, "call-a", seq=3), "user_hangup")
    assert not script.say(hangup)
    assert not of(script.wait(4.9), cmd.CloseLeg)
    assert of(script.wait(0.2), cmd.CloseLeg)


def test_a_message_without_seq_is_taken_at_once_and_a_repeated_one_once() -> None:
    script = Script()
    script.list_device(ALICE)
    invite = ev.Invite(script.envelope(ALICE, "c", seq=None, msgid="m1"), "offer", 60, {})
    assert of(script.say(invite), cmd.SendAnswer)
    assert not script.say(invite)


def test_a_message_for_another_session_is_dropped_and_counted() -> None:
    script = Script()
    script.list_device(ALICE)
    envelope = script.envelope(ALICE, "c")
    stranger = ev.Envelope(
        envelope.sender,
        envelope.call_id,
        CONF,
        None,
        envelope.session_id,
        SessionId("not-us"),
        0,
        None,
    )
    assert not script.say(ev.Invite(stranger, "offer", 60, {}))
    assert script.counts["bad_messages", "other_session"] == 1


def test_the_focus_numbers_what_it_sends_without_gaps() -> None:
    script = Script()
    leg = script.join(ALICE, "a")
    script.say(ev.ConnectionLost(leg, "ice_failed", "test"))
    sent = [c.address.seq for c in script.commands if isinstance(c, cmd.SendAnswer | cmd.SendHangup)]
    assert sent == [0, 1]


def test_an_invite_delivered_again_after_its_leg_ended_opens_nothing() -> None:
    script = Script()
    script.join(ALICE, "a")
    script.say(ev.Hangup(script.envelope(ALICE, "call-a"), "user_hangup"))
    assert not of(script.invite(ALICE, "call-a", seq=0), cmd.OpenLeg)
    assert of(script.invite(ALICE, "new"), cmd.OpenLeg)


def test_a_hangup_takes_a_parked_invite_with_it() -> None:
    script = Script()
    script.invite(ALICE, "c")
    script.say(ev.Hangup(script.envelope(ALICE, "c"), "user_hangup"))
    assert script.focus.view(script.now).parked_invites == 0


# ---------------------------------------------------------------- offers


def test_an_offer_waits_a_quarter_of_a_second_after_an_answer() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    assert not of(script.subscribe(alice, ("b", "b-a")), cmd.ChannelOffer)
    assert not of(script.wait(0.24), cmd.ChannelOffer)
    assert of(script.wait(0.02), cmd.ChannelOffer)


def test_one_offer_is_in_flight_and_what_is_asked_meanwhile_goes_into_the_next() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, ("b", "b-v"))
    assert not of(script.subscribe(alice, ("b", "b-a")), cmd.ChannelOffer)
    script.answer(alice)
    assert {s.track_id for s in one(script.wait(0.3), cmd.ChannelOffer).sends} == {"b-v", "b-a"}


def test_an_unanswered_offer_is_repeated_ever_more_rarely_and_no_other_takes_its_place() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))

    def wait(seconds: int) -> list[cmd.ChannelOffer]:
        done: list[cmd.Command] = []
        for _ in range(seconds):
            done += script.wait(1)
            done += [*script.say(ev.Pong(alice)), *script.say(ev.Pong(bob))]
        return of(done, cmd.ChannelOffer)

    assert [offer.again for offer in wait(10)] == [True] * 4
    script.subscribe(alice, ("b", "b-a"))
    assert [offer.again for offer in wait(100)] == [True] * 5
    assert script.counts["negotiations", "timed_out"] == 1
    assert [forward.mid for forward in of(script.answer(alice), cmd.Forward)] == ["s0"], "an answer is never too late"
    (fresh,) = wait(1)
    assert not fresh.again
    assert {send.track_id for send in fresh.sends} == {"b-v", "b-a"}


def test_an_answer_that_cannot_be_used_leaves_the_offer_standing() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.say(ev.DescriptionFailed(alice, "answer", "nonsense"))
    assert not of(script.wait(19), cmd.ChannelOffer)
    assert one(script.wait(2), cmd.ChannelOffer).again
    assert of(script.answer(alice), cmd.Forward)


def test_a_line_on_which_the_clients_own_offer_does_not_receive_is_on_hold() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, ("b", "b-v"), ("b", "b-a"))
    script.answer(alice)
    video = Slot(2)
    mid = script.slots[alice].pop(video)
    assert [stop.mid for stop in of(script.offer(alice), cmd.StopForward)] == [mid]
    script.subscribe(alice, ("b", "b-v", 320, 180))
    done = script.wait(1)
    assert not of(done, cmd.ChannelOffer), "it is agreed as it is"
    assert not of(done, cmd.Forward)
    script.slots[alice][video] = mid
    (resumed,) = of(script.offer(alice), cmd.Forward)
    assert (resumed.mid, resumed.width) == (mid, 320)


def test_in_glare_the_focus_answers_and_offers_again_afterwards() -> None:
    script, alice, _ = pair()
    script.subscribe(alice, ("b", "b-v"))
    done = script.offer(alice, metadata=camera("a", "a-a", "a-v"))
    assert of(done, cmd.ChannelAnswer)
    assert not of(done, cmd.ChannelOffer)
    offer = one(script.wait(0.3), cmd.ChannelOffer)
    assert not offer.again
    assert [s.track_id for s in offer.sends] == ["b-v"]
    assert of(script.answer(alice), cmd.Forward)


def test_an_answer_to_nothing_changes_nothing() -> None:
    script, alice, _ = pair()
    assert not script.answer(alice)
    assert script.counts["negotiations", "answer_to_nothing"] == 1


def test_a_bad_offer_over_the_channel_gets_an_error_and_changes_nothing() -> None:
    script, alice, bob = pair()
    script.bad_sdp.add("garbage")
    done = script.offer(bob, "garbage", camera("b", "b-a", "b-v", muted=True))
    error = one(done, cmd.ChannelError)
    assert (error.leg, error.code, error.in_reply_to) == (bob, "bad_sdp", "m.call.negotiate")
    assert not script.wait(0.2)
    assert alice


# ---------------------------------------------------------------- life and death


def test_a_leg_without_ice_or_without_a_channel_ends() -> None:
    script = Script()
    script.list_device(ALICE)
    script.invite(ALICE, "one")
    assert one(script.wait(31), cmd.SendHangup).reason == "ice_timeout"
    leg = one(script.invite(ALICE, "two"), cmd.OpenLeg).leg
    script.say(ev.IceConnected(leg))
    assert not of(script.wait(14), cmd.SendHangup)
    assert one(script.wait(2), cmd.SendHangup).reason == "signalling_timeout"


def test_the_focus_pings_every_ten_seconds_and_hangs_up_on_silence() -> None:
    script = Script()
    leg = script.join(ALICE, "a")
    assert of(script.commands, cmd.ChannelPing), "the first when the channel opens"
    assert len(of(script.wait(20), cmd.ChannelPing)) == 2
    script.say(ev.Pong(leg))
    assert not of(script.wait(29.5), cmd.SendHangup)
    assert one(script.wait(1), cmd.SendHangup).reason == "keep_alive_timeout"


def test_a_ping_gets_a_pong() -> None:
    script = Script()
    leg = script.join(ALICE, "a")
    assert one(script.say(ev.Ping(leg)), cmd.ChannelPong).leg == leg


def test_bad_messages_get_errors_until_there_are_too_many() -> None:
    script, alice, bob = pair()
    for _ in range(20):
        assert of(script.say(ev.BadMessage(bob, "not_json", "message is not JSON", None)), cmd.ChannelError)
    done = script.say(ev.BadMessage(bob, "not_json", "message is not JSON", None))
    assert one(done, cmd.CloseLeg).leg == bob
    assert [v.leg for v in script.focus.view(script.now).legs] == [alice]


def test_lost_consent_ends_the_leg_and_the_others_see_it() -> None:
    script, alice, bob = pair()
    script.subscribe(alice, ("b", "b-v"))
    script.answer(alice)
    done = script.say(ev.ConnectionLost(bob, "ice_failed", "no consent"))
    assert one(done, cmd.SendHangup).reason == "ice_failed"
    assert one(done, cmd.ForgetLeg)
    done += script.wait(0.3)
    offer = one(done, cmd.ChannelOffer)
    assert (offer.leg, offer.sends, dict(offer.metadata)) == (alice, (), {})


def test_what_comes_for_a_leg_that_has_ended_is_ignored() -> None:
    script, _, bob = pair()
    script.say(ev.ConnectionLost(bob, "ice_failed", "test"))
    for event in (ev.Pong(bob), ev.ChannelOpened(bob), ev.IceConnected(bob), ev.ConnectionLost(bob, "x", "y")):
        assert not script.say(event)
