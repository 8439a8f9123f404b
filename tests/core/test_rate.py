"""Token buckets, and the invites that they are for."""

from __future__ import annotations

from mautrix_sfu.core import commands as cmd
from mautrix_sfu.core import events as ev
from mautrix_sfu.core.ids import Device
from mautrix_sfu.core.rate import REMEMBERED, Rate

from .script import ALICE, BOB, Script, of


def test_a_burst_is_allowed_and_then_only_so_many_per_second() -> None:
    rate = Rate(burst=3, per_second=0.5)
    assert [rate.allow("a", 10.0) for _ in range(4)] == [True, True, True, False]
    assert not rate.allow("a", 11.9)
    assert rate.allow("a", 12.1)
    assert not rate.allow("a", 12.2)


def test_each_has_a_bucket_of_their_own_that_never_overflows() -> None:
    rate = Rate(burst=2, per_second=1)
    assert [rate.allow("a", 0.0) for _ in range(3)] == [True, True, False]
    assert rate.allow("b", 0.0)
    assert [rate.allow("a", 1e6) for _ in range(3)] == [True, True, False]


def test_not_everybody_is_remembered() -> None:
    rate = Rate(burst=1, per_second=0)
    assert all(rate.allow(number, 0.0) for number in range(REMEMBERED + 1))
    assert rate.allow(0, 0.0)
    assert not rate.allow(REMEMBERED, 0.0)


def test_a_user_who_invites_without_end_gets_no_answer_any_more_and_others_do() -> None:
    script = Script()
    script.call()
    for device in (ALICE, BOB):
        script.membership(device, ev.Membership.JOIN)
        script.list_device(device)

    def answers(device: Device, call: str) -> int:
        return len(of(script.invite(device, call), cmd.SendAnswer))

    allowed = script.policy.limits.invites_per_user
    assert [answers(ALICE, f"call-{number}") for number in range(allowed + 20)] == [1] * allowed + [0] * 20
    assert script.counts["bounds_hit", "invites_per_user"] == 20
    assert answers(BOB, "bob") == 1
    script.wait(60 / allowed)
    assert answers(ALICE, "later") == 1


def test_an_answer_that_is_asked_for_again_and_again_is_given_so_often_and_no_more() -> None:
    script = Script()
    script.call()
    script.membership(ALICE, ev.Membership.JOIN)
    script.list_device(ALICE)
    allowed = script.policy.limits.invites_per_user
    found = [command for _ in range(allowed + 20) for command in script.invite(ALICE, "same", seq=0)]
    assert len(of(found, cmd.SendAnswer)) == allowed
