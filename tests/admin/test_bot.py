"""The bot answers admins, and them only, whatever they type and however much there is to show."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mautrix_sfu.admin import Context, Reply, answer
from mautrix_sfu.admin.commands import COMMANDS
from mautrix_sfu.admin.reply import MAX_ROWS, duration
from mautrix_sfu.config import Permission
from mautrix_sfu.core.ids import ConferenceKey, ConfId, Device, DeviceId, LegId, RoomId, UserId
from mautrix_sfu.core.view import FocusView, LegView


def leg(user: str = "@a:x.org", room: str | None = "!one:x.org", call: str = "c1", grade: str = "full") -> LegView:
    key = None if room is None else ConferenceKey(RoomId(room), ConfId(call))
    return LegView(LegId(1), Device(UserId(user), DeviceId("DEV")), key, grade, "open", 125.0, 2, 3)


def context(*legs: LegView, not_ready: tuple[str, ...] = ()) -> Context:
    view = FocusView(legs, parked_invites=4, tracked_rooms=5, caught_up=True)
    return Context(view, "1.2.3", 90_061.0, not_ready, {"packets_in_total": 7})


def ask(text: str, *legs: LegView) -> Reply:
    reply = answer(text, Permission.ADMIN, context(*legs))
    assert reply is not None
    return reply


class Tags(HTMLParser):
    """Collects what is markup and what is text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


@pytest.mark.parametrize("level", [Permission.NONE, Permission.USE])
@pytest.mark.parametrize("text", ["help", "status", "nonsense", ""])
def test_nobody_below_admin_is_ever_answered(level: Permission, text: str) -> None:
    assert answer(text, level, context()) is None


def test_help_lists_every_command_and_explains_one() -> None:
    for command in COMMANDS:
        assert command.usage in ask("help").body
        assert command.help in ask(f"help {command.name}").body


def test_commands_are_heard_with_and_without_the_prefix_in_any_case() -> None:
    assert ask("!sfu STATUS") == ask("status") == ask("  Status \n")
    assert answer("!sfu", Permission.ADMIN, context()) is None


def test_status_says_how_the_focus_is() -> None:
    body = ask("status", leg(), leg(user="@b:x.org", grade="held"), leg(room=None, grade="held")).body
    assert "version: 1.2.3" in body
    assert "running for: 1 d 1 h" in body
    assert "ready: yes" in body
    assert "calls: 1" in body
    assert "connections: 1 in calls, 2 waiting" in body
    assert "tracks: 6 in, 9 out" in body
    assert "packets in  7" in body


def test_status_says_why_it_is_not_ready() -> None:
    reply = answer("status", Permission.ADMIN, context(not_ready=("the homeserver does not answer",)))
    assert reply is not None
    assert "ready: no: the homeserver does not answer" in reply.body


def test_calls_lists_each_call_with_who_is_in_it() -> None:
    legs = (leg(), leg(user="@b:x.org", grade="held"), leg(room="!two:x.org"), leg(room=None))
    lines = ask("calls", *legs).body.splitlines()
    assert lines[0].split() == [
        "room",
        "call",
        "in",
        "the",
        "call",
        "waiting",
        "trunks",
        "tracks",
        "in",
        "tracks",
        "out",
        "since",
    ]
    assert [line.split() for line in lines[1:]] == [
        ["!one:x.org", "c1", "1", "1", "0", "4", "6", "2", "min", "5", "s"],
        ["!two:x.org", "c1", "1", "0", "0", "2", "3", "2", "min", "5", "s"],
    ]
    assert ask("calls").body == "There are no calls."


@pytest.mark.parametrize("which", ["!one:x.org", "c1"])
def test_one_call_is_shown_with_its_participants(which: str) -> None:
    body = ask(f"calls {which}", leg(), leg(user="@b:x.org", grade="held")).body
    assert "@a:x.org  DEV     this focus  !one:x.org  open, full" in body
    assert "@b:x.org  DEV     this focus  !one:x.org  open, held" in body


def test_a_trunk_is_shown_with_its_round_trip_and_whom_it_brings() -> None:
    far = Device(UserId("@carol:y.org"), DeviceId("CAROL"))
    trunk = replace(leg(user="@sfu:y.org"), kind="trunk", round_trip=0.0234, carries=(far,))
    rows = [line.split() for line in ask("calls c1", leg(), trunk).body.splitlines()]
    assert [
        "@sfu:y.org",
        "DEV",
        "trunk",
        "!one:x.org",
        "open,",
        "full",
        "2",
        "3",
        "23",
        "ms",
        "2",
        "min",
        "5",
        "s",
    ] in rows
    assert ["@carol:y.org", "CAROL", "trunk", "to", "@sfu:y.org", "!one:x.org"] in rows
    assert ask("calls", leg(), trunk).body.splitlines()[1].split()[2:5] == ["1", "0", "1"]


def test_a_call_that_is_not_there_is_said() -> None:
    assert "No call has the id or the room !none:x.org" in ask("calls !none:x.org", leg()).body


def test_an_unknown_command_names_the_nearest_and_its_usage() -> None:
    reply = ask("stauts")
    assert reply.body == "No such command; `help` lists them. Did you mean:\n\nstatus"
    assert ask("xyzzy").body == "No such command; `help` lists them."
    assert ask("status now please").body.endswith("Type:\n\nstatus")
    assert ask("help xyzzy").body.endswith("help [command]")


def test_a_table_is_one_in_html_and_aligned_in_plain_text() -> None:
    reply = ask("calls", leg(), leg(room="!longer-name:x.org"))
    assert Tags(reply.html).tags == {"table", "thead", "tbody", "tr", "th", "td"}
    starts = {line.index("c1") for line in reply.body.splitlines()[1:]}
    assert len(starts) == 1


def test_long_lists_are_cut_and_fit_an_event() -> None:
    legs = [leg(user=f"@{'u' * 200}{number}:x.org", room=f"!{'r' * 200}{number}:x.org") for number in range(2000)]
    for text in ("calls", "calls c1"):
        reply = ask(text, *legs)
        assert f"… and {2000 - MAX_ROWS} more" in reply.body
        assert len(json.dumps([reply.body, reply.html])) < 50_000


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=100))
def test_ids_are_text_whatever_they_hold(room: str, call: str, typed: str) -> None:
    for text in ("calls", f"calls {typed}", f"help {typed}", typed or "x"):
        reply = answer(text, Permission.ADMIN, context(leg(room=f"!{room}<b>&", call=f"{call}<script>")))
        if reply is None:
            continue
        allowed = {"table", "thead", "tbody", "tr", "th", "td", "p", "pre", "code", "ul", "li", "b"}
        assert Tags(reply.html).tags <= allowed
        if text == "calls":
            assert len(reply.body.splitlines()) == 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (86400 * 3 + 7200, "3 d 2 h")],
)
def test_spans_of_time_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
