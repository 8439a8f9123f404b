"""What admins do to a focus reaches its core and outlives a restart; what happens reaches the rooms that asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from mautrix_sfu.admin import RefusedError
from mautrix_sfu.app import policy_of
from mautrix_sfu.config import Config, Limits, parse
from mautrix_sfu.config.options import load_yaml
from mautrix_sfu.core import orders
from mautrix_sfu.core.commands import ConferenceEnded, Count, Counter
from mautrix_sfu.core.ids import ConferenceKey, ConfId, Device, DeviceId, LegId, RoomId, UserId
from mautrix_sfu.core.usage import PASSING
from mautrix_sfu.core.view import CallView, FocusView, LegView, LinkView
from mautrix_sfu.errors import ExitCode
from mautrix_sfu.operations import FocusOperations, Parts, Reloaded
from mautrix_sfu.operations.history import KEEP, History
from mautrix_sfu.operations.load import WINDOW, Number, Rates, limits_of
from mautrix_sfu.operations.watch import Watch
from mautrix_sfu.store import AwayError, Store

CONFIG = """\
homeserver: {address: https://matrix.example.org, domain: example.org}
appservice: {as_token: as-secret-1, hs_token: hs-secret-1}
conferences: {banned: [config.org]}
bot: {permissions: {"*": use, "@admin:example.org": admin}, notices: {interval: 60, repeat: 600, outage: 60}}
"""
ADMIN = "@admin:example.org"
KEY = ConferenceKey(RoomId("!r:example.org"), ConfId("c"))
MALLORY = Device(UserId("@mallory:evil.org"), DeviceId("D"))


class Runtime:
    """Keeps the newest policy, and what else is said to it."""

    def __init__(self, config: Config) -> None:
        self.policy = policy_of(config)
        self.said: list[orders.OperatorEvent] = []
        self.links_: list[LinkView] = []
        self.calls_: list[tuple[CallView, int, int]] = []

    def operate(self, event: orders.OperatorEvent) -> None:
        self.said.append(event)
        if isinstance(event, orders.PolicyChanged):
            self.policy = event.policy

    def view(self) -> FocusView:
        return FocusView((), 0, 0, True)

    def links(self) -> list[LinkView]:
        return self.links_

    def calls(self) -> list[tuple[CallView, int, int]]:
        return self.calls_


class Matrix:
    """Is in two rooms, and writes down what is sent to them."""

    def __init__(self) -> None:
        self.bot_rooms = frozenset(("!ops:example.org", "!other:example.org"))
        self.sent: list[tuple[str, str]] = []

    def send_message(self, room_id: str, content: dict[str, Any]) -> None:
        self.sent.append((room_id, content["body"]))


class Focus:
    """Operations over a real store, beside parts that record."""

    def __init__(self, store: Store) -> None:
        config = parse(load_yaml(CONFIG))
        self.runtime, self.matrix, self.store = Runtime(config), Matrix(), store
        media = SimpleNamespace(published=lambda: ([], []), leg_stats=lambda _: None)
        parts = cast("Parts", SimpleNamespace(
            runtime=self.runtime, matrix=self.matrix, media=media, store=store, metrics=SimpleNamespace(worst_lag=None)
        ))  # fmt: skip
        self.operations = FocusOperations(config, parts, policy_of, tuple, lambda: 0, lambda: self.reloaded)
        self.reloaded = Reloaded()


Start = Callable[[], Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start (again) with the same database."""
    stores: list[Store] = []

    async def make() -> Focus:
        if stores:
            await stores[-1].close()
        stores.append(await Store.open(f"sqlite:///{tmp_path / 'focus.db'}", True, lambda _: None))
        focus = Focus(stores[-1])
        focus.operations.restore(await stores[-1].load())
        return focus

    yield make
    await stores[-1].close()


# ---------------------------------------------------------------- bans


async def test_bans_join_those_of_the_configuration_outlive_a_restart_and_are_lifted(start: Start) -> None:
    focus = await start()
    assert focus.runtime.policy.banned == {"config.org"}
    focus.operations.ban("evil.org", None, ADMIN, "spam")
    focus.operations.ban("@a:example.org", 3600, ADMIN, "")
    assert focus.runtime.policy.banned == {"config.org", "evil.org", "@a:example.org"}
    again = await start()
    assert again.runtime.policy.banned == {"config.org", "evil.org", "@a:example.org"}
    assert [(ban.who, ban.by, ban.reason) for ban in again.operations.bans()] == [
        ("evil.org", ADMIN, "spam"),
        ("@a:example.org", ADMIN, ""),
    ]
    again.operations.unban("evil.org")
    assert again.runtime.policy.banned == {"config.org", "@a:example.org"}
    assert [ban.who for ban in (await start()).operations.bans()] == ["@a:example.org"]


async def test_a_ban_ends_by_itself_also_while_the_focus_does_not_run(start: Start) -> None:
    focus = await start()
    focus.operations.ban("evil.org", 0.05, ADMIN, "")
    focus.operations.ban("worse.org", 0.01, ADMIN, "")
    working = asyncio.create_task(focus.operations.work())
    async with asyncio.timeout(45):
        while focus.runtime.policy.banned != {"config.org"}:
            await asyncio.sleep(0.02)
    working.cancel()
    focus.operations.ban("evil.org", 0.01, ADMIN, "")
    await asyncio.sleep(0.02)
    again = await start()
    assert again.runtime.policy.banned == {"config.org"}
    assert (await start()).operations.bans() == []


async def test_the_focus_does_not_ban_itself(start: Start) -> None:
    with pytest.raises(RefusedError):
        (await start()).operations.ban("@sfu:example.org", None, ADMIN, "")


# ---------------------------------------------------------------- limits, log, calls


async def test_a_limit_is_changed_and_given_back_and_nonsense_is_refused(start: Start) -> None:
    focus = await start()
    focus.operations.set_limit("legs", "7")
    assert focus.runtime.policy.limits.legs == 7
    assert next(limit for limit in focus.operations.limits() if limit.name == "legs").configured == 2000
    for value in ("0", "-1", "1e3", "x", "9" * 10, "9" * 9000):
        with pytest.raises(RefusedError):
            focus.operations.set_limit("legs", value)
    assert focus.runtime.policy.limits.legs == 7
    focus.operations.set_limit("legs", "default")
    assert focus.runtime.policy.limits.legs == 2000


async def test_another_configuration_leaves_bans_and_changed_limits_but_what_the_file_changes_counts(
    start: Start,
) -> None:
    focus = await start()
    focus.operations.ban("evil.org", None, ADMIN, "")
    focus.operations.set_limit("legs", "7")
    focus.operations.set_limit("held_legs", "8")
    changed = CONFIG.replace("config.org", "other.org, third.org").replace(
        "conferences: {", "conferences: {limits: {legs: 50}, "
    )
    focus.operations.reconfigure(parse(load_yaml(changed)))
    assert focus.runtime.policy.banned == {"other.org", "third.org", "evil.org"}
    assert (focus.runtime.policy.limits.legs, focus.runtime.policy.limits.held_legs) == (50, 8)


@pytest.mark.parametrize(("deadline", "given"), [(600, 600.0), (0, None)])
async def test_a_drain_has_the_deadline_that_is_configured(start: Start, deadline: int, given: float | None) -> None:
    focus = await start()
    focus.operations.reconfigure(parse(load_yaml(f"{CONFIG}drain: {{deadline: {deadline}}}")))
    focus.operations.drain(True)
    focus.operations.drain(False)
    assert focus.runtime.said[-2:] == [orders.DrainChanged(True, given), orders.DrainChanged(False, None)]


async def test_reload_tells_what_changed_and_refuses_what_is_wrong(start: Start) -> None:
    focus = await start()
    focus.reloaded = Reloaded(("bot.permissions",), ("media.port",))
    assert await focus.operations.reload() == ["in force now: bot.permissions", "in force after a restart: media.port"]
    focus.reloaded = Reloaded(problems=("config.yaml: media.port: too large",))
    with pytest.raises(RefusedError, match="everything is as before"):
        await focus.operations.reload()


async def test_how_much_is_logged_can_be_changed(start: Start) -> None:
    focus, log = await start(), logging.getLogger("mautrix_sfu")
    before = log.level
    try:
        focus.operations.set_log_level("error")
        assert (focus.operations.log_level(), log.isEnabledFor(logging.WARNING)) == ("error", False)
    finally:
        log.setLevel(before)


async def test_ended_calls_and_the_audit_are_kept(start: Start) -> None:
    focus = await start()
    people = (UserId("@a:example.org"), UserId("@b:example.org"))
    focus.operations.conference_ended(ConferenceEnded(KEY, 90.0, people, 3), 1000, 2000)
    focus.operations.put_audit(ADMIN, "!ops", "kick @a", "refused")
    again = await start()
    (call,) = await again.operations.history(5)
    assert (call.conf_id, call.ended_ms - call.started_ms, call.people, call.peak) == ("c", 90_000, 2, 3)
    assert (call.bytes_in, call.bytes_out) == (1000, 2000)
    (line,) = await again.operations.audit(5)
    assert (line.by, line.room_id, line.command, line.outcome) == (ADMIN, "!ops", "kick @a", "refused")


async def test_a_call_that_a_kill_cuts_is_in_the_history_as_it_was_last(start: Start, tmp_path: Path) -> None:
    focus = await start()
    history = History(focus.store)
    history.look([(CallView(KEY, 5.0, 1, 1), 10, 20)], 100.0, 1_000_000)
    history.look([(CallView(KEY, 9.0, 2, 2), 50, 60)], 104.0, 1_004_000)  # too early to be kept
    assert await focus.operations.history(5) == [], "it goes on"
    history.look([(CallView(KEY, 95.0, 4, 3), 100, 200)], 100.0 + KEEP, 1_090_000)
    (call,) = await (await start()).operations.history(5)
    assert (call.conf_id, call.started_ms, call.ended_ms) == ("c", 995_000, 1_090_000)
    assert (call.people, call.peak, call.bytes_in, call.bytes_out) == (4, 3, 100, 200)


async def test_a_call_that_ends_is_in_the_history_once_in_the_order_of_ends(start: Start) -> None:
    focus = await start()
    history, other = History(focus.store), ConferenceKey(RoomId("!r:example.org"), ConfId("other"))
    for key in (KEY, other):
        history.look([(CallView(key, 1.0, 1, 1), 0, 0)], 1.0, 1_000_000)
    history.ended(CallView(other, 2.0, 1, 1), 1, 1, 1_001_000)
    history.ended(CallView(KEY, 3.0, 1, 1), 2, 2, 1_002_000)
    assert [call.conf_id for call in await (await start()).operations.history(5)] == ["c", "other"]


# ---------------------------------------------------------------- what is told unasked


async def test_rooms_that_asked_are_told_of_a_start_and_the_end_also_after_a_restart(start: Start) -> None:
    focus = await start()
    focus.operations.set_notify("!ops:example.org", ADMIN)
    focus.operations.set_notify("!left:example.org", ADMIN)  # the bot is not in it any more
    again = await start()
    working = asyncio.create_task(again.operations.work())
    async with asyncio.timeout(45):
        while not again.matrix.sent:
            await asyncio.sleep(0.05)
    working.cancel()
    again.operations.stopping()
    assert [room for room, _ in again.matrix.sent] == ["!ops:example.org"] * 2
    assert "has started." in again.matrix.sent[0][1]
    assert "is stopping" in again.matrix.sent[1][1]
    again.operations.set_notify("!ops:example.org", None)
    assert not (await start()).operations.notifies("!ops:example.org")


async def test_a_room_is_told_nothing_more_when_who_asked_is_no_admin_any_more(start: Start) -> None:
    focus = await start()
    focus.operations.set_notify("!ops:example.org", ADMIN)
    focus.operations.reconfigure(parse(load_yaml(CONFIG.replace(f'"{ADMIN}": admin', '"@other:example.org": admin'))))
    assert not focus.operations.notifies("!ops:example.org")
    focus.operations.stopping()
    assert focus.matrix.sent == []
    focus.operations.set_notify("!ops:example.org", "@other:example.org")
    focus.operations.stopping()
    assert [room for room, _ in focus.matrix.sent] == ["!ops:example.org"]


def watch() -> Watch:
    return Watch(parse(load_yaml(CONFIG)).bot.notices)


def test_limits_and_banned_people_are_told_with_who() -> None:
    seen = watch()
    for _ in range(2):
        seen.counted(Count(Counter.BOUNDS_HIT, "legs_per_user"), 0.0)
        seen.counted(Count(Counter.REFUSALS, "legs_per_user", MALLORY), 0.0)
    seen.counted(Count(Counter.REFUSALS, "banned", MALLORY), 0.0)
    seen.counted(Count(Counter.REFUSALS, "overload_processor", MALLORY), 0.0)
    seen.counted(Count(Counter.REFUSALS, "not_a_member", MALLORY), 0.0)
    seen.counted(Count(Counter.JOINS, "full"), 0.0)
    assert seen.notices.take(2.0) == [
        "The limit legs_per_user was reached (2 times in 2 s): @mallory:evil.org 2 times",
        "Somebody banned tried to join a call: @mallory:evil.org",
        "Too much load (processor): somebody was refused: @mallory:evil.org",
    ]


def test_the_homeservers_absence_is_told_when_it_is_back_if_it_was_long() -> None:
    seen = watch()
    seen.homeserver(False, 0.0)
    seen.homeserver(False, 30.0)
    seen.homeserver(True, 59.0)
    assert seen.notices.take(100.0) == []
    seen.homeserver(False, 200.0)
    seen.homeserver(True, 320.0)
    assert seen.notices.take(330.0) == ["The homeserver did not answer for 2 min 0 s."]


def test_a_database_that_is_away_is_told_once_and_so_is_its_return() -> None:
    seen = watch()
    seen.database("database sfu on db: does not answer", 0.0)
    seen.counted(Count(Counter.REFUSALS, "overload_database", MALLORY), 1.0)
    assert seen.notices.take(100.0) == ["Calls go on, but new ones are refused: database sfu on db: does not answer"]
    seen.database(None, 200.0)
    assert seen.notices.take(300.0) == ["The database answers again"]


async def test_what_is_looked_up_while_the_database_is_away_is_refused_with_the_reason(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: int) -> NoReturn:
        raise AwayError("database sfu on db: does not answer", ExitCode.DATABASE_UNREACHABLE)

    focus = await start()
    for looked_up in ("audit", "ended_calls"):
        monkeypatch.setattr(focus.store, looked_up, away)
    for ask in (focus.operations.audit, focus.operations.history):
        with pytest.raises(RefusedError, match="Not now: database sfu on db: does not answer"):
            await ask(10)


def test_a_trunk_that_is_down_for_long_is_told_once_and_that_it_is_up_again() -> None:
    seen = watch()
    down = LinkView(KEY, MALLORY, None, 59.0, 3, 5.0)
    seen.links([down], 0.0)
    assert seen.notices.take(10.0) == []
    for now in (10.0, 11.0, 12.0):
        seen.links([replace(down, down_for=60.0 + now)], now)
    assert seen.notices.take(20.0) == ["A trunk has been down for 1 min 10 s: @mallory:evil.org"]
    seen.links([replace(down, up=LegId(1), down_for=None)], 700.0)
    assert seen.notices.take(710.0) == ["A trunk is up again: @mallory:evil.org"]
    seen.links([replace(down, down_for=70.0)], 1400.0)
    seen.links([], 1401.0)
    assert seen.notices.take(1410.0) == ["A trunk has been down for 1 min 10 s: @mallory:evil.org"]
    assert seen.notices.next_deadline() is None, "nobody wants it any more"


# ---------------------------------------------------------------- load


def moved(came: int, went: int) -> list[Number]:
    """As the media core publishes it: by direction and kind, among other numbers."""
    numbers = [("in", "audio", came // 2), ("in", "video", came - came // 2), ("out", "video", went)]
    rtp = [("rtp_bytes_total", "", [("direction", way), ("kind", kind)], value) for way, kind, value in numbers]
    return [("legs", "", [], 3), *rtp]


def test_rates_are_over_the_last_seconds() -> None:
    rates = Rates()
    rates.sample(0.0, moved(1000, 0), 1.0)
    assert rates.bits_in is None
    rates.sample(WINDOW / 2, moved(9999, 9999), 9.0)
    rates.sample(10.0, moved(11_000, 5000), 3.5)
    assert [rates.bits_in, rates.bits_out, rates.processor] == [8000.0, 4000.0, 0.25], "that in between was too early"


def test_limits_are_held_against_what_is_in_use() -> None:
    def leg(number: int, user: str, grade: str = "full", kind: str = "participant") -> LegView:
        peer = Device(UserId(user), DeviceId(str(number)))
        return LegView(LegId(number), peer, KEY, grade, "open", 1.0, 0, 0, kind=kind)

    legs = (leg(1, "@a"), leg(2, "@a", "held"), leg(3, "@b"), leg(4, "@sfu", kind="trunk"))
    view = FocusView(legs, 0, 0, True, peaks=dict.fromkeys(PASSING, 7.0))
    found = {limit.name: limit for limit in limits_of(Limits(legs=5), Limits(), view.used)}
    used = {name: limit.now for name, limit in found.items()}
    assert (found["legs"].value, found["legs"].configured) == (5, Limits().legs)
    assert (used["legs"], used["legs_per_user"], used["legs_per_conference"]) == (3, 2, 3)
    assert (used["held_legs"], used["held_legs_per_user"], used["trunks"]) == (1, 1, 1)
    assert (used["conferences"], used["legs_per_homeserver"], used["invite_sdp"]) == (1, 3, 7)
