"""What is encrypted and what is not: protocol, section 2."""

from __future__ import annotations

from dataclasses import replace

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.policy import Policy

from .script import ALICE, BOB, FOCUS, Script, of, one


def test_where_encryption_is_demanded_an_invite_in_plain_text_is_refused_and_a_proven_one_answered() -> None:
    script = Script(Policy(FOCUS, require_encryption=True))
    script.list_device(ALICE)
    script.list_device(BOB)
    refusal = one(script.invite(ALICE, "plain"), cmd.SendReject)
    assert refusal.reason == "encryption_required"
    assert script.counts["refusals", "not_encrypted"] == 1
    envelope = replace(script.envelope(BOB, "proven"), proven=True)
    assert of(script.say(ev.Invite(envelope, "offer", 60, {})), cmd.OpenLeg)


def test_a_leg_that_began_encrypted_does_not_hear_plain_text() -> None:
    script = Script()
    script.list_device(ALICE)
    envelope = replace(script.envelope(ALICE, "c"), proven=True)
    leg = one(script.say(ev.Invite(envelope, "offer", 60, {})), cmd.OpenLeg).leg
    assert not of(script.say(ev.Hangup(script.envelope(ALICE, "c"), "user_hangup")), cmd.CloseLeg)
    assert not script.invite(ALICE, "another"), "nor does plain text take its place"
    hangup = ev.Hangup(replace(script.envelope(ALICE, "c"), proven=True), "user_hangup")
    assert one(script.say(hangup), cmd.CloseLeg).leg == leg
