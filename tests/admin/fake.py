"""Operations that record what is done, of a focus that a test describes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mautrix_sfu.admin import AuditLine, Ban, Bot, Figures, Limit, PastCall, RefusedError, Status
from mautrix_sfu.config import Permission
from mautrix_sfu.core.ids import ConferenceKey, ConfId, Device, DeviceId, Kind, LegId, RoomId, UserId
from mautrix_sfu.core.view import FocusView, LegView, LinkView, TrackView
from mautrix_sfu.findings import Finding, fail, ok, warn

BOT = "@sfu:x.org"
ADMIN = "@admin:x.org"
ROOM = "!ops:x.org"


def device(user: str, name: str = "DEV") -> Device:
    return Device(UserId(user), DeviceId(name))


def key(room: str = "!one:x.org", call: str = "c1") -> ConferenceKey:
    return ConferenceKey(RoomId(room), ConfId(call))


def leg(
    user: str = "@a:x.org",
    room: str | None = "!one:x.org",
    call: str = "c1",
    grade: str = "full",
    name: str = "DEV",
    number: int = 1,
    **more: Any,
) -> LegView:
    conference = None if room is None else key(room, call)
    return LegView(LegId(number), device(user, name), conference, grade, "open", 125.0, 2, 3, **more)


class Fake:
    """Has legs; writes down what it is told to do."""

    def __init__(self, *legs: LegView) -> None:
        self.seen = FocusView(legs, parked_invites=4, tracked_rooms=5, caught_up=True)
        self.done: list[tuple[Any, ...]] = []
        self.kept: list[AuditLine] = []
        self.not_ready: tuple[str, ...] = ()
        self.allowed: Sequence[str] | None = ()
        self.links_: list[LinkView] = []
        self.past: list[PastCall] = []
        self.banned: dict[str, Ban] = {}
        self.configured = ["@config:y.org"]
        self.limit = Limit("legs", "connections", 10, 10, 5)
        self.fault: BaseException | None = None
        self.tracks_: dict[LegId, tuple[TrackView, ...]] = {}
        self.figures_: dict[LegId, Figures] = {}
        self.level = "info"
        self.rooms: set[str] = set()
        self.bad_file = False
        self.changed: list[str] = []

    def status(self) -> Status:
        if self.fault is not None:
            raise self.fault
        return Status("1.2.3", 90_061.0, self.not_ready, 1_200_000.0, 950.0, 0.25, 0.003)

    def view(self) -> FocusView:
        return self.seen

    def tracks(self, leg: LegId) -> Sequence[TrackView]:
        return self.tracks_.get(leg, ())

    def figures(self, leg: LegId) -> Figures | None:
        return self.figures_.get(leg)

    def links(self) -> Sequence[LinkView]:
        return self.links_

    def limits(self) -> Sequence[Limit]:
        return [self.limit, Limit("invites_per_user", "a minute", 48, 48, 1)]

    def bans(self) -> Sequence[Ban]:
        return list(self.banned.values())

    def banned_by_configuration(self) -> Sequence[str]:
        return self.configured

    def peers(self) -> Sequence[str] | None:
        return self.allowed

    async def history(self, number: int) -> Sequence[PastCall]:
        return self.past[:number]

    async def audit(self, number: int) -> Sequence[AuditLine]:
        return list(reversed(self.kept))[:number]

    async def check(self, room_id: str | None) -> Sequence[Finding]:
        found = [ok("the token is right"), warn("no federation", "open 8448")]
        return [*found, fail(f"{room_id}: power levels", "let members send call events")] if room_id else found

    async def ping(self) -> float:
        return 0.004

    def log_level(self) -> str:
        return self.level

    def kick(self, user: UserId, device: DeviceId | None, reason: str) -> None:
        self.done.append(("kick", user, device, reason))

    def end(self, call: ConferenceKey) -> None:
        self.done.append(("end", call))

    def mute(self, user: UserId, kind: Kind | None, muted: bool) -> None:
        self.done.append(("mute", user, kind, muted))
        kinds = frozenset(Kind) if kind is None else frozenset((kind,))
        self.seen = replace(self.seen, muted={user: kinds} if muted else {})

    def ban(self, who: str, seconds: float | None, by: str, reason: str) -> None:
        if who == BOT:
            raise RefusedError("that is me")
        self.done.append(("ban", who, seconds))
        until = None if seconds is None else 4_000_000_000_000
        self.banned[who] = Ban(who, until, by, reason, 1_700_000_000_000)
        self.seen = replace(self.seen, legs=tuple(one for one in self.seen.legs if one.peer.user_id != who))

    def unban(self, who: str) -> None:
        self.done.append(("unban", who))
        del self.banned[who]

    def set_limit(self, name: str, value: str) -> None:
        if not value.isdigit():
            raise RefusedError(f"{name}: expected a whole number")
        self.done.append(("limit", name, value))
        self.limit = replace(self.limit, value=int(value))

    def drain(self, on: bool) -> None:
        self.done.append(("drain", on))
        self.seen = replace(self.seen, draining=on, drain_left=60.0 if on else None)

    def set_log_level(self, level: str) -> None:
        self.level = level

    async def reload(self) -> Sequence[str]:
        if self.bad_file:
            raise RefusedError("The file is refused: media.port")
        return self.changed

    def set_notify(self, room_id: str, by: str | None) -> None:
        (self.rooms.add if by is not None else self.rooms.discard)(room_id)

    def notifies(self, room_id: str) -> bool:
        return room_id in self.rooms

    def put_audit(self, by: str, room_id: str, command: str, outcome: str) -> None:
        self.kept.append(AuditLine(1_700_000_000_000, by, room_id, command, outcome))


def said(text: Any, sender: str = ADMIN, **content: Any) -> dict[str, Any]:
    """The event of a message."""
    return {
        "type": "m.room.message",
        "room_id": ROOM,
        "sender": sender,
        "event_id": "$asked",
        "content": {"msgtype": "m.text", "body": text, **content},
    }


def permission(user: str) -> Permission:
    """ADMIN and everybody of admins.org are admins; `use` is for anybody else of x.org."""
    if user == ADMIN or user.endswith(":admins.org"):
        return Permission.ADMIN
    return Permission.USE if user.endswith(":x.org") else Permission.NONE


async def answers(operations: Fake, *events: dict[str, Any], has_calls: bool = False) -> list[dict[str, Any]]:
    """The contents of all that the bot sends when these come, one after the other."""
    sent: list[dict[str, Any]] = []
    bot = Bot(BOT, operations, permission, lambda _room, content: sent.append(content), lambda _: has_calls)
    for event in events:
        bot.take(event)
    working = asyncio.create_task(bot.work())
    while not bot.idle:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return sent


async def ask(text: str, operations: Fake) -> str:
    """What the bot says to an admin, as plain text."""
    return "\n\n".join(content["body"] for content in await answers(operations, said(text)))
