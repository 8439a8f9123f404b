"""The bot answers admins, and them only, whatever they type and however much there is to show."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mautrix_sfu.admin import Bot
from mautrix_sfu.admin.commands import COMMANDS
from mautrix_sfu.admin.reply import (
    MAX_BYTES,
    MAX_EVENTS,
    MAX_ROWS,
    MAX_TABLES,
    Reply,
    amount,
    duration,
    paragraph,
    table,
)
from mautrix_sfu.config import Permission
from mautrix_sfu.errors import ExitCode, FatalError

from .fake import ADMIN, BOT, ROOM, Fake, answers, ask, leg, said


class Tags(HTMLParser):
    """Collects what is markup and what is text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


# ---------------------------------------------------------------- who is answered


@pytest.mark.parametrize("sender", ["@user:x.org", "@stranger:y.org", BOT])
@pytest.mark.parametrize("text", ["help", "status", "kick @a:x.org", "nonsense", ""])
async def test_nobody_below_admin_is_ever_answered_or_obeyed(sender: str, text: str) -> None:
    operations = Fake(leg())
    assert await answers(operations, said(text, sender)) == []
    assert (operations.done, operations.kept) == ([], [])


async def test_several_admins_are_each_answered_in_reply_to_what_they_said() -> None:
    events = [{**said("ping", sender), "event_id": sender} for sender in (ADMIN, "@boss:admins.org")]
    sent = await answers(Fake(), *events)
    assert [each["m.relates_to"] for each in sent] == [
        {"m.in_reply_to": {"event_id": ADMIN}},
        {"m.in_reply_to": {"event_id": "@boss:admins.org"}},
    ]
    assert {each["msgtype"] for each in sent} == {"m.notice"}
    assert all(each["m.mentions"] == {} for each in sent), "whom it names is not called by it"


async def test_who_is_no_admin_any_more_when_a_command_is_worked_off_is_not_obeyed() -> None:
    operations, level = Fake(leg()), Permission.ADMIN
    bot = Bot(BOT, operations, lambda _: level, lambda *_: None, lambda _: False)
    bot.take(said("kick @a:x.org"))
    level = Permission.USE
    working = asyncio.create_task(bot.work())
    while not bot.idle:
        await asyncio.sleep(0)
    working.cancel()
    assert operations.done == []


# ---------------------------------------------------------------- what counts as said


async def test_commands_are_heard_with_and_without_a_name_in_any_case() -> None:
    plain = await ask("status", Fake())
    for text in ("!sfu STATUS", "  Status \n", "sfu: status", "@sfu:x.org: status", "@sfu, status"):
        assert await ask(text, Fake()) == plain, text
    assert await answers(Fake(), said("!sfu")) == []


async def test_in_a_room_with_calls_only_what_calls_it_by_name_is_for_the_bot() -> None:
    talk = [said(text) for text in ("status", "end of the day", "nobody calls it")]
    assert await answers(Fake(leg()), *talk, has_calls=True) == []
    assert len(await answers(Fake(leg()), said("!sfu status"), said("sfu: calls"), has_calls=True)) == 2


async def test_notices_pictures_and_edits_are_no_commands() -> None:
    edit: dict[str, Any] = {
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$old"},
        "m.new_content": {"body": "kick @a:x.org"},
    }
    events = [
        said("kick @a:x.org", msgtype="m.notice"),
        said("kick @a:x.org", msgtype="m.image"),
        said("kick @a:x.org", msgtype="m.emote"),
        said("* kick @a:x.org", **edit),
        said(["kick"]),
        {**said(""), "content": {"msgtype": "m.text"}},
    ]
    operations = Fake(leg())
    assert await answers(operations, *events) == []
    assert operations.done == []


async def test_a_reply_is_heard_without_what_it_quotes() -> None:
    operations = Fake(leg())
    quoted = f"> <{BOT}> kick <user>\n> and more\n\nkick @a:x.org"
    relation: dict[str, Any] = {"m.relates_to": {"m.in_reply_to": {"event_id": "$before"}}}
    await answers(operations, said(quoted, **relation))
    assert operations.done == [("kick", "@a:x.org", None, "")]


async def test_in_a_thread_the_answer_stays_there() -> None:
    relation = {"rel_type": "m.thread", "event_id": "$root", "m.in_reply_to": {"event_id": "$last"}}
    content: dict[str, Any] = {"m.relates_to": relation}
    (sent,) = await answers(Fake(), said("ping", **content))
    assert sent["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$asked"},
    }


@pytest.mark.parametrize(
    "content",
    [
        {"body": "kick https://matrix.to/#/@a:x.org?via=x.org gone"},
        {
            "body": "> <@b:x.org> hello\n\nkick Alice gone",
            "format": "org.matrix.custom.html",
            "formatted_body": '<mx-reply><a href="https://matrix.to/#/@b:x.org">Bob</a> hello</mx-reply>'
            'kick <a href="https://matrix.to/#/%40a%3Ax.org">Alice <b>the first</b></a> gone',
            "m.relates_to": {"m.in_reply_to": {"event_id": "$before"}},
        },
    ],
)
async def test_people_are_named_by_pill_and_link_too(content: dict[str, object]) -> None:
    operations = Fake(leg())
    event = said("")
    event["content"].update(content)
    await answers(operations, event)
    assert [each[1] for each in operations.done] == ["@a:x.org"]


async def test_what_was_said_long_ago_is_not_done_but_told_and_kept() -> None:
    operations = Fake(leg())
    (sent,) = await answers(operations, {**said("kick @a:x.org"), "unsigned": {"age": 3_600_000}})
    assert "1 h 0 min ago" in sent["body"]
    assert operations.done == []
    assert operations.kept[0].outcome == "refused: too old"


# ---------------------------------------------------------------- what was meant


async def test_help_lists_every_command_and_explains_one() -> None:
    listed = await ask("help", Fake())
    for command in COMMANDS:
        assert command.usage in listed
        assert command.help in await ask(f"help {command.name}", Fake())


async def test_an_unknown_command_names_the_nearest_and_its_usage() -> None:
    assert await ask("stauts", Fake()) == "No such command; `help` lists them. Did you mean:\n\nstatus"
    assert await ask("kcik @a:x.org", Fake()) == (
        "No such command; `help` lists them. Did you mean:\n\nkick <user> [device] [reason]"
    )
    assert await ask("xyzzy", Fake()) == "No such command; `help` lists them."
    assert (await ask("help stauts", Fake())).endswith("Did you mean:\n\nstatus")


@pytest.mark.parametrize(
    "text",
    [
        "help a b",
        "status now",
        "call",
        "who",
        "who a b",
        "foci x",
        "kick",
        "mute",
        "mute @a:x.org smell",
        "unmute",
        "end",
        "ban",
        "unban",
        "unban a b",
        "bans x",
        "limits a b c",
        "drain perhaps",
        "log loudly",
        "history 0",
        "history x",
        "audit -1",
        "audit ٣",
        "notify maybe",
        "ping pong",
        "check everything",
        "reload it",
    ],
)
async def test_a_malformed_command_is_answered_with_its_usage(text: str) -> None:
    operations = Fake(leg())
    usage = next(command.usage for command in COMMANDS if command.name == text.split()[0])
    assert await ask(text, operations) == f"That is not how it is used. Type:\n\n{usage}"
    assert operations.done == []


# ---------------------------------------------------------------- the audit


async def test_every_act_is_kept_with_who_where_and_how_it_went_and_looking_is_not() -> None:
    operations = Fake(leg())
    events = ("kick @a:x.org", "kick @nobody:x.org", "kick", "limits", "limits legs", "drain", "status", "bans")
    await answers(operations, *(said(text) for text in events))
    assert [(line.by, line.room_id) for line in operations.kept] == [(ADMIN, ROOM)] * 3
    assert [(line.command, line.outcome) for line in operations.kept] == [
        ("kick @a:x.org", "1 connection of @a:x.org ended; kept out for a while."),
        ("kick @nobody:x.org", "refused: @nobody:x.org is in no call here."),
        ("kick", "refused: malformed"),
    ]
    shown = await ask("audit 2", operations)
    assert "refused: malformed" in shown
    assert "2023-11-14 22:13:20 UTC" in shown
    assert "ended; kept out" not in shown, "only the last two"


async def test_a_fault_is_said_kept_and_costs_the_next_command_nothing(caplog: pytest.LogCaptureFixture) -> None:
    operations = Fake()
    operations.fault = ZeroDivisionError("!")
    sent = await answers(operations, said("status"), said("ping"))
    assert "fault of this program" in sent[0]["body"]
    assert sent[1]["body"].startswith("Pong")
    assert "ZeroDivisionError" in caplog.text
    operations.fault = FatalError("database x: away", ExitCode.DATABASE_UNREACHABLE)
    assert await ask("status", operations) == "That is not possible now: database x: away"


# ---------------------------------------------------------------- how it is shown


async def test_a_table_is_one_in_html_and_aligned_in_plain_text() -> None:
    (sent,) = await answers(Fake(leg(), leg(room="!longer-name:x.org")), said("calls"))
    assert Tags(sent["formatted_body"]).tags == {"table", "thead", "tbody", "tr", "th", "td"}
    starts = {line.index("c1") for line in sent["body"].splitlines()[1:]}
    assert len(starts) == 1


async def test_long_lists_go_over_several_events_that_fit_and_the_rest_is_counted() -> None:
    legs = [leg(user=f"@{'ü' * 200}{number}:x.org", room=f"!{'<' * 200}{number}:x.org") for number in range(2000)]
    for text in ("calls", "who x.org"):
        sent = await answers(Fake(*legs), said(text))
        assert len(sent) > 1
        for each in sent:
            assert len(json.dumps(each, ensure_ascii=False).encode()) < MAX_BYTES + 1000
        shown = sum(each["body"].count("2 min 5 s") for each in sent)
        assert f"… and {2000 - shown} more" in sent[-1]["body"]


def test_a_table_of_ordinary_rows_has_so_many_in_one_event() -> None:
    reply = table(("a", "b"), [("x", number) for number in range(MAX_ROWS * MAX_TABLES)])
    assert len(reply.blocks) == MAX_TABLES
    assert len(reply.contents()) == 1, "they fit, all together"
    assert "more" not in reply.body


def test_what_is_more_than_a_few_events_is_cut() -> None:
    reply = Reply(())
    for _ in range(40):
        reply += paragraph("ä" * 4000)
    contents = reply.contents()
    assert len(contents) == MAX_EVENTS
    assert contents[-1]["body"] == "… and more than fits."


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=100))
def test_ids_are_text_whatever_they_hold(room: str, call: str, typed: str) -> None:
    operations = Fake(leg(room=f"!{room}<b>&", call=f"{call}<script>"))
    allowed = {"table", "thead", "tbody", "tr", "th", "td", "p", "pre", "code", "ul", "li", "b"}

    async def run() -> None:
        for text in ("calls", f"calls {typed}", f"help {typed}", f"kick {typed}", f"ban {typed}", typed or "x"):
            for each in await answers(operations, said(text)):
                assert Tags(each["formatted_body"]).tags <= allowed
                each["body"].encode()
                if text == "calls":
                    assert len(each["body"].splitlines()) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (86400 * 3 + 7200, "3 d 2 h")],
)
def test_spans_of_time_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (56_789, "57 kB"), (3e15, "3000.0 TB")]
)
def test_amounts_are_shown_with_a_prefix(number: float, shown: str) -> None:
    assert amount(number, "B") == shown
