"""The commands that change something: who may be in calls, what is heard of them, and how the focus runs."""

from __future__ import annotations

import time

from ..core.ids import DeviceId, Kind
from ..core.view import FocusView, LegView
from .command import Request, UsageError, find_call, nearest, no_arguments, span, user_id, user_or_server
from .operations import Limit, Operations, RefusedError
from .reply import Reply, duration, lines, moment, paragraph, some, table

LEVELS = ("debug", "info", "warning", "error")

# ---------------------------------------------------------------- people


async def kick(request: Request, operations: Operations) -> Reply:
    """End the connections of a user or of one device."""
    match request.arguments:
        case [name, *words]:
            user = user_id(name)
        case _:
            raise UsageError
    legs = _legs_of(user, operations.view())
    devices = {leg.peer.device_id for leg in legs}
    device: DeviceId | None = None
    if words and words[0] in devices:
        device = DeviceId(words.pop(0))
    elif words and words[0].isascii() and words[0].isupper() and len(words[0]) >= 6:  # as homeservers make device ids
        raise RefusedError(f"{user} is in no call with a device {words[0]}, but with {', '.join(sorted(devices))}.")
    operations.kick(user, device, " ".join(words))
    gone = [leg for leg in legs if device in (None, leg.peer.device_id)]
    return paragraph(f"{some(len(gone), 'connection')} of {user} ended; kept out for a while.")


def _legs_of(user: str, view: FocusView) -> list[LegView]:
    """A user's connections; raises RefusedError where there are none, with what there is instead."""
    legs = [leg for leg in view.legs if leg.peer.user_id == user]
    if legs:
        return legs
    for leg in view.legs:
        if any(device.user_id == user for device in leg.carries):
            raise RefusedError(f"{user} uses another focus, {leg.peer.user_id}: only who runs that can end it.")
    near = _near(user, view)
    raise RefusedError(f"{user} is in no call here.{f' Did you mean {near}?' if near else ''}")


def _near(user: str, view: FocusView) -> str | None:
    localpart = user.partition(":")[0]
    found = {leg.peer.user_id for leg in view.legs if leg.peer.user_id.partition(":")[0] == localpart}
    return found.pop() if len(found) == 1 else None


async def mute(request: Request, operations: Operations) -> Reply:
    """Forward nothing of a user's."""
    return _mute(request, operations, True)


async def unmute(request: Request, operations: Operations) -> Reply:
    """Forward it again."""
    return _mute(request, operations, False)


def _mute(request: Request, operations: Operations, muted: bool) -> Reply:
    match request.arguments:
        case [name]:
            kind = None
        case [name, ("audio" | "video") as word]:
            kind = Kind(word)
        case _:
            raise UsageError
    user, view = user_id(name), operations.view()
    kinds = view.muted.get(user, frozenset())
    what = "audio and video" if kind is None else kind.value
    if not muted:
        if not kinds & (set(Kind) if kind is None else {kind}):
            raise RefusedError(f"{user}'s {what} is not muted by an admin.")
    elif not any(user == device.user_id for leg in view.legs for device in (leg.peer, *leg.carries)):
        near = _near(user, view)
        raise RefusedError(f"{user} is in no call here.{f' Did you mean {near}?' if near else ''}")
    operations.mute(user, kind, muted)
    if not muted:
        return paragraph(f"{user}'s {what} is forwarded again.")
    return paragraph(f"{user}'s {what} is forwarded to nobody here until `unmute`, or until they have left.")


async def end(request: Request, operations: Operations) -> Reply:
    """End a call."""
    if not request.arguments:
        raise UsageError
    view = operations.view()
    key = find_call(view, " ".join(request.arguments))
    operations.end(key)
    legs = some(len(view.conferences[key]), "connection")
    return paragraph(f"Call {key.conf_id} in {key.room_id} ended: {legs}; nobody joins it again for a while.")


# ---------------------------------------------------------------- bans


async def ban(request: Request, operations: Operations) -> Reply:
    """Serve somebody no more."""
    match request.arguments:
        case [name, *words]:
            who = user_or_server(name)
        case _:
            raise UsageError
    seconds = span(words[0]) if words else None
    if seconds is not None:
        del words[0]
    before = {leg.leg for leg in operations.view().legs}
    operations.ban(who, seconds, request.sender, " ".join(words))
    ended = len(before - {leg.leg for leg in operations.view().legs})
    until = "until `unban`" if seconds is None else f"for {duration(seconds)}"
    return paragraph(f"{who} is banned {until}; {some(ended, 'connection')} ended.")


async def unban(request: Request, operations: Operations) -> Reply:
    """Lift a ban."""
    match request.arguments:
        case [who]:
            pass
        case _:
            raise UsageError
    if all(one.who != who for one in operations.bans()):
        if who in operations.banned_by_configuration():
            raise RefusedError(
                f"{who} is banned by the configuration (conferences.banned): change it there, and reload."
            )
        raise RefusedError(f"{who[:255]} is not banned; `bans` lists who is.")
    operations.unban(who)
    if who in operations.banned_by_configuration():
        return paragraph(f"{who} stays banned by the configuration (conferences.banned); the ban by command is lifted.")
    return paragraph(f"{who} is banned no more.")


async def bans(request: Request, operations: Operations) -> Reply:
    """Who is banned."""
    if request.arguments:
        raise UsageError
    now_ms = time.time_ns() // 1_000_000
    rows: list[tuple[object, ...]] = []
    for one in sorted(operations.bans(), key=lambda one: one.since_ms):
        left = "" if one.until_ms is None else f" (in {duration(max(0, one.until_ms - now_ms) / 1000)})"
        until = "unban" if one.until_ms is None else moment(one.until_ms) + left
        rows.append((one.who, until, moment(one.since_ms), one.by, one.reason))
    rows += [(who, "it is changed", "", "the configuration", "") for who in operations.banned_by_configuration()]
    if not rows:
        return paragraph("Nobody is banned.")
    return table(("who", "until", "since", "by", "reason"), rows)


# ---------------------------------------------------------------- how it runs


async def limits(request: Request, operations: Operations) -> Reply:
    """Show the limits, or change one."""
    known = {limit.name: limit for limit in operations.limits()}
    match request.arguments:
        case []:
            return table(("limit", "value", "configured", "now", ""), [_limit_row(one) for one in known.values()])
        case [name] if name in known:
            return paragraph(f"{name} is {known[name].value} ({known[name].unit}).")
        case [name, value] if name in known:
            operations.set_limit(name, value)
            now = next(limit.value for limit in operations.limits() if limit.name == name)
            was = f"it was {known[name].value}"
            return paragraph(
                f"{name} is {now} now ({was}), until the next start; put it into the configuration to keep it."
            )
        case [name] | [name, _]:
            near = nearest(name, known)
            raise RefusedError(f"No limit is called {name[:64]}.{f' Did you mean {near}?' if near else ''}")
        case _:
            raise UsageError


def _limit_row(limit: Limit) -> tuple[object, ...]:
    configured = "" if limit.value == limit.configured else limit.configured
    return limit.name, limit.value, configured, f"{limit.now:.4g}", limit.unit


async def drain(request: Request, operations: Operations) -> Reply:
    """Take no new calls, or take them again, or say which."""
    match [word.lower() for word in request.arguments]:
        case []:
            pass
        case [("on" | "off") as word]:
            operations.drain(word == "on")
        case _:
            raise UsageError
    view = operations.view()
    if not view.draining:
        return paragraph("Not draining: new calls are taken.")
    left = "" if view.drain_left is None else f" In {duration(view.drain_left)} who is left is told to move."
    calls = some(len(view.conferences), "call")
    return paragraph(f"Draining: no new calls are taken; {calls} to go.{left}")


async def log_level(request: Request, operations: Operations) -> Reply:
    """Log more or less, or say how much."""
    words = [word.lower() for word in request.arguments]
    if words[:1] == ["level"]:
        del words[0]
    match words:
        case []:
            return paragraph(f"What is logged is at level {operations.log_level()} and above.")
        case [level] if level in LEVELS:
            operations.set_log_level(level)
            return paragraph(
                f"What is logged is at level {operations.log_level()} and above, until the next start or `reload`."
            )
        case _:
            raise UsageError


async def reload(request: Request, operations: Operations) -> Reply:
    """Take the configuration anew."""
    no_arguments(request)
    changed = await operations.reload()
    return paragraph("The configuration is in force.") + (lines(changed) if changed else paragraph("Nothing changed."))


async def notify(request: Request, operations: Operations) -> Reply:
    """Tell this room what happens, or not."""
    match [word.lower() for word in request.arguments]:
        case []:
            pass
        case [("on" | "off") as word]:
            operations.set_notify(request.room_id, request.sender if word == "on" else None)
        case _:
            raise UsageError
    on = operations.notifies(request.room_id)
    return paragraph(f"This room is told {'what happens' if on else 'nothing unasked'}.")
