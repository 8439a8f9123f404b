"""What each command shows, does and refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mautrix_sfu.admin import Figures, PastCall, RefusedError
from mautrix_sfu.admin.command import span
from mautrix_sfu.core.ids import Kind, LegId
from mautrix_sfu.core.view import LinkView, TrackView

from .fake import ADMIN, BOT, ROOM, Fake, ask, device, key, leg

FAR = device("@carol:y.org", "CAROL")


def with_trunk() -> Fake:
    """A call with two people here and one over a trunk."""
    trunk = leg("@sfu:y.org", name="SFU1", number=3, kind="trunk", round_trip=0.0234, carries=(FAR,))
    operations = Fake(leg(), leg("@b:x.org", grade="held", name="BOB", number=2), trunk)
    alice = device("@a:x.org")
    operations.tracks_ = {
        LegId(1): (
            TrackView(alice, Kind.AUDIO, "m.usermedia", True, None, None, (), 1),
            TrackView(alice, Kind.VIDEO, "m.usermedia", False, 1280, 720, ("f", "h", "q"), 2),
        ),
        LegId(3): (TrackView(FAR, Kind.VIDEO, "m.screenshare", False, 1920, 1080, (), 1),),
    }
    operations.figures_ = {LegId(1): Figures("192.0.2.7:4000", 12_000_000, 3_400, 100, 7, 0.05, 0.021)}
    operations.links_ = [
        LinkView(key(), device("@sfu:y.org", "SFU1"), LegId(3), None, 0, None),
        LinkView(key(), device("@sfu:z.org", "SFU1"), None, 95.0, 3, 12.0),
    ]
    return operations


def row(shown: str, word: str) -> str:
    """The line that begins with a word."""
    return next(line for line in shown.splitlines() if line.startswith(word))


# ---------------------------------------------------------------- to see


async def test_status_says_how_the_focus_is() -> None:
    operations = Fake(leg(), leg(user="@b:x.org", grade="held"), leg(room=None, grade="held"), leg(name="OTHER"))
    shown = await ask("status", operations)
    for line in (
        "version: 1.2.3",
        "running for: 1 d 1 h",
        "ready: yes",
        "calls: 1",
        "people: 1 on 2 devices",
        "connections: 2 in calls, 2 waiting",
        "tracks: 8 in, 12 out",
        "bandwidth: 1.2 Mbit/s in, 950 bit/s out",
        "processor: 25 % of a core",
        "event loop: 3 ms late at worst",
    ):
        assert line in shown.splitlines(), line
    assert row(shown, "legs").split() == ["legs", "5", "10", "connections", "50", "%"]
    assert row(shown, "invites_per_user").split()[-2:] == ["2", "%"]


async def test_status_says_why_it_is_not_ready_and_what_it_refuses() -> None:
    operations = Fake()
    operations.not_ready = ("the homeserver does not answer",)
    operations.seen = replace(operations.seen, draining=True, drain_left=120.0, overload="processor")
    shown = await ask("status", operations)
    assert "ready: no: the homeserver does not answer" in shown
    assert "draining: no new calls; who is left is told to move in 2 min 0 s" in shown
    assert "overload: processor: no new connections" in shown


async def test_calls_lists_each_call() -> None:
    legs = (leg(), leg(user="@b:x.org", grade="held"), leg(room="!two:x.org"), leg(room=None))
    lines = (await ask("calls", Fake(*legs))).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["!one:x.org", "c1", "1", "1", "0", "4", "6", "2", "min", "5", "s"],
        ["!two:x.org", "c1", "1", "0", "0", "2", "3", "2", "min", "5", "s"],
    ]
    assert await ask("calls", Fake()) == "There are no calls."


@pytest.mark.parametrize("which", ["!one:x.org", "c1", "c", "!one"])
async def test_one_call_is_shown_with_everybody_and_what_flows(which: str) -> None:
    shown = await ask(f"call {which}", with_trunk())
    assert shown.startswith("Call c1 in !one:x.org: 2 devices here, 1 over trunks; for 2 min 5 s.")
    alice = row(shown, "@a:x.org")
    assert "DEV     this focus           192.0.2.7:4000  2 min 5 s  open, full" in alice
    assert "microphone to 1, muted; camera 1280×720 f/h/q to 2" in alice  # noqa: RUF001
    assert "5.0 % now, 7 in all" in alice
    assert "21 ms" in alice
    assert alice.endswith("12 MB  3.4 kB")
    assert "open, held" in row(shown, "@b:x.org")
    assert "trunk to @sfu:y.org  y.org" in row(shown, "@carol:y.org")
    assert "screen 1920×1080 to 1" in row(shown, "@carol:y.org")  # noqa: RUF001
    trunk = row(shown, "@sfu:y.org/SFU1")
    assert "open, full" in trunk
    assert "23 ms" in trunk, "the data channel tells it where reports do not"
    assert await ask(f"calls {which}", with_trunk()) == shown


async def test_a_call_that_is_not_there_or_not_told_apart_is_said() -> None:
    operations = Fake(leg(), leg(room="!two:x.org"), leg(room="!three:x.org", call="meeting"))
    assert "No call has the id or the room !none:x.org" in await ask("call !none:x.org", operations)
    assert "Did you mean meeting?" in await ask("end meetign", operations)
    assert "c1 names 2 calls: c1 in !one:x.org, c1 in !two:x.org" in await ask("end c1", operations)
    assert operations.done == []
    await ask("end !two:x.org", operations)
    assert operations.done == [("end", key("!two:x.org"))]


async def test_who_finds_people_here_and_beyond_trunks() -> None:
    shown = await ask("who @a:x.org", with_trunk())
    assert "@a:x.org/DEV" in shown
    assert "192.0.2.7:4000" in shown
    assert "@b" not in shown
    assert "trunk to @sfu:y.org" in row(await ask("who CAROL", with_trunk()), "@carol:y.org/CAROL")
    assert await ask("who @nobody:x.org", with_trunk()) == "@nobody:x.org is in no call here."


async def test_foci_shows_trunks_up_and_down_and_who_may_have_any() -> None:
    shown = await ask("foci", with_trunk())
    assert "every focus that a member of a call names" in shown
    assert "up for 2 min 5 s" in row(shown, "@sfu:y.org/SFU1")
    assert "down for 1 min 35 s (dials in 12 s)  3" in row(shown, "@sfu:z.org/SFU1")
    operations = Fake()
    operations.allowed = ("y.org",)
    assert await ask("foci", operations) == "Trunks are allowed with y.org. No call has any now."
    operations.allowed = None
    assert "Cascading is off" in await ask("foci", operations)


async def test_history_shows_so_many_ended_calls() -> None:
    operations = Fake()
    assert await ask("history", operations) == "No call has ended yet."
    ended = 1_700_000_000_000
    operations.past = [
        PastCall("!one:x.org", f"c{n}", ended - 90_000, ended, 3, 2, 5_000_000, 60_000_000) for n in range(9)
    ]
    shown = await ask("history 2", operations)
    assert len(shown.splitlines()) == 3
    assert "2023-11-14 22:13:20 UTC  !one:x.org  c0    1 min 30 s  3       2        5.0 MB  60 MB" in shown


async def test_check_lists_what_the_installation_test_finds_also_for_a_room() -> None:
    shown = await ask("check", Fake())
    assert "ok    the token is right" in shown
    assert "warn  no federation -> open 8448" in shown
    assert shown.endswith("Nothing to mend; 1 to know about.")
    shown = await ask("check !one:x.org", Fake())
    assert "FAIL  !one:x.org: power levels -> let members send call events" in shown
    assert shown.endswith("1 to mend; 1 to know about.")


async def test_ping_says_how_quick_everything_is() -> None:
    assert await ask("ping", Fake()) == "Pong: heard; the homeserver answers in 4 ms."


# ---------------------------------------------------------------- people


@pytest.mark.parametrize(
    ("typed", "device_id", "reason"),
    [
        ("", None, ""),
        (" DEV", "DEV", ""),
        (" being rude", None, "being rude"),
        (" DEV being rude", "DEV", "being rude"),
    ],
)
async def test_kick_takes_a_device_if_it_is_one_of_theirs_and_else_a_reason(
    typed: str, device_id: str | None, reason: str
) -> None:
    operations = Fake(leg(), leg(name="OTHERDEVICE"))
    shown = await ask(f"kick @a:x.org{typed}", operations)
    assert operations.done == [("kick", "@a:x.org", device_id, reason)]
    assert shown.startswith("1 connection" if device_id else "2 connections")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("kick alice", "alice is no user id; one looks like @name:example.org"),
        ("kick @a:y.org", "@a:y.org is in no call here. Did you mean @a:x.org?"),
        ("kick @a:x.org DEVV", "1 connection of @a:x.org ended"),
        ("kick @a:x.org OTHRDEVICE", "@a:x.org is in no call with a device OTHRDEVICE, but with DEV."),
        ("kick @carol:y.org", "@carol:y.org uses another focus, @sfu:y.org"),
        ("mute @nobody:x.org", "@nobody:x.org is in no call here."),
        ("unmute @a:x.org", "@a:x.org's audio and video is not muted by an admin."),
    ],
)
async def test_whom_it_cannot_concern_is_said_and_nobody_is_hit_by_mistake(text: str, answer: str) -> None:
    operations = with_trunk()
    assert (await ask(text, operations)).startswith(answer)
    assert len(operations.done) == (1 if "ended" in answer else 0)


async def test_mute_and_unmute_one_kind_or_both_here_and_beyond_trunks() -> None:
    operations = with_trunk()
    assert "audio is forwarded to nobody" in await ask("mute @a:x.org audio", operations)
    assert "audio muted by an admin" in row(await ask("call c1", operations), "@a:x.org")
    assert "@a:x.org's video is not muted by an admin." in await ask("unmute @a:x.org video", operations)
    assert "is forwarded again" in await ask("unmute @a:x.org", operations)
    await ask("mute @carol:y.org", operations)
    assert operations.done == [
        ("mute", "@a:x.org", Kind.AUDIO, True),
        ("mute", "@a:x.org", None, False),
        ("mute", "@carol:y.org", None, True),
    ]


# ---------------------------------------------------------------- bans


async def test_bans_have_a_duration_and_a_reason_or_not_and_say_who_went() -> None:
    operations = Fake(leg(), leg(name="OTHER", number=2), leg("@b:x.org", number=3))
    assert await ask("bans", _nobody_banned()) == "Nobody is banned."
    shown = await ask("ban @a:x.org 1d12h being rude", operations)
    assert shown == "@a:x.org is banned for 1 d 12 h; 2 connections ended."
    assert await ask("ban evil.org", operations) == "evil.org is banned until `unban`; 0 connections ended."
    assert operations.done == [("ban", "@a:x.org", 129_600.0), ("ban", "evil.org", None)]
    listed = await ask("bans", operations)
    assert f"{ADMIN}       being rude" in row(listed, "@a:x.org")
    assert "unban" in row(listed, "evil.org")
    assert "the configuration" in row(listed, "@config:y.org")
    assert await ask("unban @a:x.org", operations) == "@a:x.org is banned no more."


def _nobody_banned() -> Fake:
    operations = Fake()
    operations.configured = []
    return operations


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ban a/b", "a/b is neither a user id (@name:example.org) nor a homeserver's name (example.org)"),
        ("ban @a", "@a is neither"),
        ("ban evil.org 0s", "0s is out of range: from 1s to 3650d"),
        ("ban evil.org 99999d", "99999d is out of range"),
        (f"ban {BOT}", "that is me"),
        ("unban @config:y.org", "@config:y.org is banned by the configuration (conferences.banned)"),
        ("unban evil.org", "evil.org is not banned; `bans` lists who is."),
    ],
)
async def test_a_ban_that_cannot_be_is_refused(text: str, answer: str) -> None:
    operations = Fake()
    assert (await ask(text, operations)).startswith(answer)
    assert operations.done == []


async def test_who_is_banned_by_the_configuration_too_stays_so() -> None:
    operations = Fake()
    await ask("ban @config:y.org", operations)
    assert "stays banned by the configuration" in await ask("unban @config:y.org", operations)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600.0), ("2h", 7200.0), ("7d", 604_800.0), ("1w", 604_800.0), ("90s", 90.0), ("1h30m", 5400.0)],
)
def test_spans_are_read(text: str, seconds: float) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize("text", ["rude", "10", "m", "1.5h", "-1h", "1h rude", "1y", "٣m", ""])
def test_what_is_no_span_is_the_reason(text: str) -> None:
    assert span(text) is None


def test_a_span_of_absurd_length_costs_nothing() -> None:
    assert span("9" * 5000 + "d") is None
    with pytest.raises(RefusedError):
        span("9" * 30 + "d")


# ---------------------------------------------------------------- how it runs


async def test_limits_are_shown_changed_and_refused() -> None:
    operations = Fake()
    assert row(await ask("limits", operations), "legs").split() == ["legs", "10", "5", "connections"]
    assert await ask("limits legs", operations) == "legs is 10 (connections)."
    assert "legs is 20 now (it was 10), until the next start" in await ask("limits legs 20", operations)
    assert row(await ask("limits", operations), "legs").split() == ["legs", "20", "10", "5", "connections"]
    assert "expected a whole number" in await ask("limits legs many", operations)
    assert await ask("limits lgs 5", operations) == "No limit is called lgs. Did you mean legs?"
    assert operations.done == [("limit", "legs", "20")]


async def test_drain_is_shown_switched_on_and_off() -> None:
    operations = Fake(leg())
    assert await ask("drain", operations) == "Not draining: new calls are taken."
    assert "no new calls are taken; 1 call to go. In 1 min 0 s" in await ask("drain on", operations)
    assert (await ask("drain", operations)).startswith("Draining")
    assert "Not draining" in await ask("drain OFF", operations)
    assert operations.done == [("drain", True), ("drain", False)]


async def test_reload_says_what_changed_or_why_nothing_did() -> None:
    operations = Fake()
    assert await ask("reload", operations) == "The configuration is in force.\n\nNothing changed."
    operations.changed = ["in force now: conferences.guests"]
    assert (await ask("reload", operations)).endswith("in force now: conferences.guests")
    operations.bad_file = True
    assert await ask("reload", operations) == "The file is refused: media.port"
    assert [line.outcome for line in operations.kept][-1] == "refused: The file is refused: media.port"


async def test_the_logs_level_is_shown_and_set() -> None:
    operations = Fake()
    assert "at level info" in await ask("log", operations)
    assert "at level debug" in await ask("log debug", operations)
    assert "at level warning" in await ask("log level WARNING", operations)
    assert operations.level == "warning"


async def test_a_room_asks_to_be_told_what_happens_and_no_more() -> None:
    operations = Fake()
    assert await ask("notify", operations) == "This room is told nothing unasked."
    assert await ask("notify on", operations) == "This room is told what happens."
    assert operations.rooms == {ROOM}
    await ask("notify off", operations)
    assert operations.rooms == set()
