"""What is asked for is kept, in order and once, whatever ends the process; what cannot be kept is said in one line."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mautrix_sfu.core.ids import ConfId, Device, DeviceId, UserId
from mautrix_sfu.errors import ExitCode, FatalError
from mautrix_sfu.store import EndedCall, Store, Stored, StoredBan, StoredFact, migrate, statements
from mautrix_sfu.store.database import AwayError
from mautrix_sfu.store.store import MAX_TEXT
from mautrix_sfu.store.writer import Writer
from tests.store.conftest import CALL, ROOM, Fatal, Kept, entry, leg, python, reopened


async def test_a_new_database_is_empty(store: Store) -> None:
    assert await store.load() == Stored(None, [], [])


async def test_what_was_put_is_there_after_reopening(url: str) -> None:
    store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    event: dict[str, Any] = {"type": CALL, "content": {"a": [1, None, "ü\x00\ud800"]}}
    store.set_position("s1")
    store.set_position("s2")
    store.put_fact(ROOM, CALL, "conf", event, 5)
    store.put_leg(leg())
    store.put_leg(leg(room=None, call="call2"))
    await store.close()
    stored = await reopened(url)
    assert stored.position == "s2"
    assert stored.facts == [StoredFact(ROOM, CALL, "conf", event, 5)]
    assert sorted(stored.legs, key=lambda kept: kept.call_id) == [leg(), leg(room=None, call="call2")]


async def test_facts_come_back_in_order_of_receipt_even_if_the_clock_went_back(store: Store, url: str) -> None:
    for key, received in (("a", 30), ("b", 20), ("c", 10), ("a", 5)):
        store.put_fact(ROOM, CALL, key, {"received": received}, received)
    facts = (await store.load()).facts
    assert [(fact.state_key, fact.received_ms) for fact in facts] == [("b", 20), ("c", 10), ("a", 5)]
    await store.close()
    again = await Store.open(url, migrate=True, on_fatal=pytest.fail)
    again.put_fact(ROOM, CALL, "b", {}, 1)
    assert [fact.state_key for fact in (await again.load()).facts] == ["c", "a", "b"]
    await again.close()


async def test_writing_the_same_again_changes_nothing(store: Store) -> None:
    for _ in range(3):
        store.put_leg(leg())
        store.put_fact(ROOM, CALL, "conf", {}, 1)
    stored = await store.load()
    assert stored.legs == [leg()]
    assert len(stored.facts) == 1
    for _ in range(2):
        store.delete_leg(leg())
        store.forget_room(ROOM)
    assert await store.load() == Stored(None, [], [])


async def test_a_leg_is_one_row_when_it_is_bound_to_its_room(store: Store) -> None:
    store.put_leg(leg(room=None))
    store.put_leg(leg())
    store.put_leg(leg(user="@b:example.org"))
    assert set((await store.load()).legs) == {leg(), leg(user="@b:example.org")}
    store.delete_leg(leg(room=None))
    assert (await store.load()).legs == [leg(user="@b:example.org")]


async def test_a_room_is_replaced_whole_and_alone(store: Store) -> None:
    store.put_fact(ROOM, CALL, "old", {}, 1)
    store.put_fact("!other:example.org", CALL, "kept", {}, 2)
    store.replace_room(ROOM, [StoredFact(ROOM, CALL, "y", {}, 3), StoredFact(ROOM, CALL, "x", {}, 3)])
    store.put_fact(ROOM, CALL, "z", {}, 4)
    assert [fact.state_key for fact in (await store.load()).facts] == ["kept", "y", "x", "z"]


async def test_ids_that_are_not_valid_text_are_kept_like_any_other(store: Store) -> None:
    odd = leg(call="\ud800\x00'\\u0041;--")
    store.put_leg(odd)
    store.put_fact(ROOM, CALL, "\udfff\x00", {}, 1)
    stored = await store.load()
    assert stored.legs == [odd]
    assert stored.facts[0].state_key == "\udfff\x00"


async def test_ids_too_long_for_a_key_are_not_kept_and_harm_nothing_else(store: Store) -> None:
    long = "\U0010ffff" * 255  # the most that a message may say, and the longest to write down
    store.put_fact(ROOM, CALL, long, {}, 1)
    await store.put_leg(leg(call=long))
    store.delete_leg(leg(call=long))
    at_most = leg(call="c" * 255)
    at_most = replace(at_most, conf_id=ConfId("ü" * 255), peer=Device(UserId("@" + "u" * 254), DeviceId("d" * 255)))
    await store.put_leg(at_most)
    assert await store.load() == Stored(None, [], [at_most])


async def test_an_event_that_cannot_be_written_down_harms_nothing_else(store: Store, fatal: Fatal) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    store.put_fact(ROOM, CALL, "deep", deep, 1)
    store.put_fact(ROOM, CALL, "fine", {}, 1)
    assert [fact.state_key for fact in (await store.load()).facts] == ["fine"]
    assert not fatal.messages
    while deep:  # taken apart by hand: freeing it at once would recurse
        deep = deep.pop("a")


async def test_a_leg_that_is_reported_as_kept_is_on_disk(store: Store, kept: Kept) -> None:
    await store.put_leg(leg())
    assert await kept.rows("SELECT call_id FROM leg") == [("call1",)]


async def test_a_thousand_writes_become_few_transactions(store: Store) -> None:
    commits = 0
    original = store._writer._execute

    async def counted(writes: Any) -> None:
        nonlocal commits
        commits += 1
        await original(writes)

    store._writer._execute = counted  # type: ignore[method-assign]
    for number in range(1000):
        store.put_fact(ROOM, CALL, str(number % 100), {"n": number}, number)
    await store.flush()
    assert commits <= 2
    assert {fact.received_ms for fact in (await store.load()).facts} == set(range(900, 1000))


async def test_of_writes_to_one_row_the_last_counts_and_no_other_is_affected(store: Store) -> None:
    store.put_fact(ROOM, CALL, "before", {}, 1)
    store.put_leg(leg())
    store.forget_room(ROOM)
    store.put_fact(ROOM, CALL, "after", {}, 2)
    store.delete_leg(leg())
    store.put_leg(leg(call="other"))
    store.delete_leg(leg(call="other"))
    store.put_leg(leg(call="other"))
    for number in range(1000):
        store.set_position(str(number))
    assert len(store._writer._pending) == 6
    stored = await store.load()
    assert ([fact.state_key for fact in stored.facts], stored.legs) == (["after"], [leg(call="other")])
    assert stored.position == "999"


async def test_reading_and_writing_at_once_do_not_disturb_each_other(store: Store) -> None:
    async def write() -> None:
        for number in range(50):
            await store.put_leg(leg(call=str(number)))

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(20):
            group.create_task(store.load())
    assert len((await store.load()).legs) == 50


# ---------------------------------------------------------------- what operators look up


def ended(number: int) -> EndedCall:
    return EndedCall(ROOM, "conf", number - 5, number, people=3, peak=2, bytes_in=2**40, bytes_out=2**41)


async def test_bans_and_rooms_to_notify_survive_and_can_be_lifted(store: Store, url: str) -> None:
    ban = StoredBan("@mallory:example.org", None, "@admin:example.org", "spam ü\x00\ud800", 1)
    store.put_ban(ban)
    store.put_ban(StoredBan("evil.example", 99, "@admin:example.org", "", 2))
    renewed = StoredBan("evil.example", 200, "@other:example.org", "again", 3)
    store.put_ban(renewed)
    for room in (ROOM, ROOM, "!other:example.org"):
        store.put_notify_room(room, "@admin:example.org")
    await store.close()
    again = await Store.open(url, migrate=False, on_fatal=pytest.fail)
    stored = await again.load()
    assert stored.bans == [ban, renewed]
    assert stored.notify_rooms == dict.fromkeys(("!other:example.org", ROOM), "@admin:example.org")
    again.delete_ban("evil.example")
    again.delete_notify_room(ROOM)
    again.delete_notify_room("!unknown:example.org")
    stored = await again.load()
    assert stored.bans == [ban]
    assert stored.notify_rooms == {"!other:example.org": "@admin:example.org"}
    await again.close()


async def test_audit_and_ended_calls_come_newest_first_and_no_more_than_asked_for(store: Store, url: str) -> None:
    for number in range(5):
        store.put_audit(entry(number))
        store.put_ended_call(ended(number))
    assert await store.audit(2) == [entry(4), entry(3)]
    assert await store.ended_calls(2) == [ended(4), ended(3)]
    await store.close()
    again = await Store.open(url, migrate=False, on_fatal=pytest.fail)
    again.put_audit(entry(5))
    assert [found.at_ms for found in await again.audit(100)] == [5, 4, 3, 2, 1, 0]
    assert len(await again.ended_calls(100)) == 5
    await again.close()


async def test_what_operators_look_up_is_bounded_in_number_age_and_length(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "MAX_KEPT", 3)
    now = statements.MAX_AGE_MS * 2
    for number in (now, now, now, now + 1):
        store.put_audit(entry(number))
        store.put_ended_call(ended(number))
    assert [found.at_ms for found in await store.audit(100)] == [now + 1, now, now]
    assert len(await store.ended_calls(100)) == 3
    later = now + 2 + statements.MAX_AGE_MS
    store.put_audit(entry(later, command="x" * 10_000, outcome="y" * 10_000))
    store.put_ended_call(ended(later))
    (last,) = await store.audit(100)
    assert len(last.command) == len(last.outcome) == MAX_TEXT
    assert await store.ended_calls(100) == [ended(later)]


# ---------------------------------------------------------------- what ends it


WRITER = """
import asyncio, sys
from tests.store.conftest import Store, leg, ROOM, CALL
async def main():
    store = await Store.open(sys.argv[1], migrate=True, on_fatal=print)
    for number in range(1000000):
        store.put_fact(ROOM, CALL, str(number), {"number": number}, number)
        await store.put_leg(leg(call=str(number)))
        store.set_position(str(number))
        print(number, flush=True)
asyncio.run(main())
"""


def killed_after(reported: int, url: str) -> int:
    """Let a process write until it is killed; gives the last number that it reported as kept."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    last = -1
    for line in writer.stdout:
        last = int(line)
        if last == reported:
            writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    return last


async def test_what_was_reported_as_kept_survives_being_killed(url: str) -> None:
    last = killed_after(30, url)
    stored = await reopened(url)
    assert len(stored.legs) in (last + 1, last + 2)  # the next one may have been written, but not reported
    assert [fact.received_ms for fact in stored.facts] == list(range(len(stored.legs)))
    assert stored.position is not None
    assert int(stored.position) in (last - 1, last)


async def test_a_second_process_gets_one_clear_line(store: Store, url: str) -> None:
    code = (
        "import asyncio, sys; from mautrix_sfu.store import Store\n"
        "from mautrix_sfu.errors import FatalError\n"
        "try: asyncio.run(Store.open(sys.argv[1], True, print))\n"
        "except FatalError as error: print(error); sys.exit(error.exit_code)"
    )
    second = await asyncio.to_thread(python, code, url)
    assert second.returncode == ExitCode.DATABASE_LOCKED
    assert second.stdout.endswith(": in use by another process: is mautrix-sfu running already?\n")
    assert not second.stderr


async def test_a_server_that_goes_away_while_it_is_opened_is_one_clear_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise AwayError("database x: does not answer", ExitCode.DATABASE_UNREACHABLE)

    monkeypatch.setattr(Writer, "read", away)
    with pytest.raises(FatalError, match=r"^database x: does not answer$"):
        await Store.open(url, migrate=True, on_fatal=pytest.fail)


async def test_the_database_is_free_again_after_closing(url: str) -> None:
    for _ in range(2):
        store = await Store.open(url, migrate=True, on_fatal=pytest.fail)
        await store.close()


async def test_migrating_alone_leaves_a_whole_schema(url: str) -> None:
    await migrate(url)
    assert await reopened(url) == Stored(None, [], [])
