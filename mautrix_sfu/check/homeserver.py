"""Whether the homeserver answers, knows this application service, and tells the focus what it has to know."""

from __future__ import annotations

import email.utils
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from mautrix.api import Method, Path, SynapseAdminPath
from yarl import URL

from ..errors import FatalError
from ..findings import Finding, fail, ok, sentence, warn
from ..matrix import As, RefusedError, UnavailableError, introduce, marks_soft_failed, server_version
from .installation import FETCH_ERRORS, Installation, fetch, fetch_object

SKEW_NOTED = 5.0  # seconds; the Date header has whole ones
SKEW_HARMFUL = 60.0

CALL = "org.matrix.msc3401.call"
CALL_MEMBER = "org.matrix.msc3401.call.member"
STATE_DEFAULT = 50  # Matrix specification, m.room.power_levels
HOW_TO_PERMIT = (
    "in Element: Room settings, Roles & permissions; for new rooms: default_power_level_content_override in "
    "homeserver.yaml (docs/install.md, Power levels)"
)


async def answers(it: Installation) -> list[Finding]:
    """Whether a homeserver answers at `homeserver.address`, and what its clock says; the first finding decides."""
    url = it.config.homeserver.address
    try:
        answer = await fetch(it.http, f"{url}/_matrix/client/versions", it.config.homeserver.verify_ssl)
        now = time.time()
    except aiohttp.ClientConnectorCertificateError as error:
        return [fail(f"The certificate of {url} is not valid: {error.certificate_error}", "mend the certificate")]
    except FETCH_ERRORS as error:
        cause = str(error) or "no answer in time"
        return [fail(f"No homeserver answers at {url}: {cause}", "is homeserver.address right, and does it run?")]
    if not isinstance(answer.object.get("versions"), list):
        return [
            fail(
                f"What answers at {url} (HTTP {answer.status}) is not a homeserver",
                "homeserver.address must be the base URL of its client API, without /_matrix",
            )
        ]
    return [ok(f"The homeserver answers at {url}"), _clock(answer.date, now)]


def _clock(date: str | None, now: float) -> Finding:
    try:
        then = email.utils.parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return warn("The homeserver does not say what time it is (no Date header)", "compare the clocks yourself")
    skew = now - then - 0.5  # on average half a second was cut off
    if abs(skew) < SKEW_NOTED:
        return ok("The clocks of the homeserver and of this machine agree")
    what = f"This machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the homeserver's"
    remedy = "set both by NTP: participants' entries in the room state run out by the clock"
    return (fail if abs(skew) >= SKEW_HARMFUL else warn)(what, remedy)


async def knows_us(it: Installation) -> Finding:
    """Whether the homeserver takes the as_token, and lets the focus be its user and device."""
    try:
        await it.homeserver.request(Method.GET, str(Path.v3.account.whoami), who=As.SERVICE)
    except UnavailableError as error:
        return fail(f"The homeserver does not say who the as_token is: {error}", "look into its log")
    except RefusedError as error:
        if error.is_token:
            return await _token_refused(it)
        return fail(f"The homeserver refuses the as_token: {error}", "look into its log")
    try:
        await introduce(it.homeserver, 0.0)
    except FatalError as error:
        return fail(sentence(str(error)), "generate the registration again (-g), and restart the homeserver")
    return ok(f"The registration is loaded, the as_token right, and the focus is {it.homeserver.focus}")


async def _token_refused(it: Installation) -> Finding:
    """A homeserver says the same of a token that is wrong and of one that it never heard of; some tell more."""
    url = URL(it.config.homeserver.address) / "_matrix/client/v3/register/available"
    query = {"username": it.config.appservice.bot_username}
    found = await fetch_object(it.http, url.with_query(query), it.config.homeserver.verify_ssl)
    again = "generate it again (-g), copy it to where app_service_config_files names it, restart the homeserver"
    if found.get("errcode") == "M_EXCLUSIVE":
        return fail(
            f"The homeserver has a registration for {it.config.bot_user_id}, and refuses this as_token",
            f"the registration that it has read is not this configuration's: {again}",
        )
    if found.get("available") is True or found.get("errcode") == "M_USER_IN_USE":
        return fail(
            "The homeserver has not loaded the registration",
            "name registration.yaml under app_service_config_files in homeserver.yaml, and restart the homeserver",
        )
    return fail(  # it takes no new users, so it does not say which names are reserved
        "The homeserver refuses the as_token",
        "either registration.yaml is not named in app_service_config_files (or the homeserver was not restarted "
        f"since), or its tokens are not this configuration's: {again}",
    )


async def version(it: Installation) -> Finding:
    """Whether this homeserver marks soft-failed events."""
    found = await server_version(it.homeserver)
    if found is None:
        return warn("The homeserver does not tell its version", "Synapse should be 1.135 or newer")
    name, number = found
    if marks_soft_failed(name, number):
        return ok(f"{name} {number} says which events are soft-failed")
    return warn(
        f"{name} {number} does not say which events are soft-failed: who was removed from a room can appear to be back",
        "Synapse 1.135 or newer does; or let the focus read rooms (docs/install.md, What the focus may read)",
    )


async def state(it: Installation, own_room: str | None) -> AsyncIterator[Finding]:
    """Which rooms' state the focus may read, and whether members may send call events where it can be seen."""
    user = it.config.bot_user_id
    room_id = it.room_id or own_room
    if room_id is None:
        return
    if await _state(it, str(SynapseAdminPath.v1.rooms[room_id].state)) is not None:
        yield ok("The focus may read the state of every room (it is a server admin)")
    else:
        yield warn(
            "The focus may read the state only of rooms that it has joined: elsewhere calls that are older than itself "
            "are unknown to it until somebody joins them",
            f"if that matters: make {user} a server admin, or invite it (docs/install.md, What the focus may read)",
        )
    if it.room_id is not None:
        yield await _room(it, it.room_id)
    if own_room is not None:
        yield _defaults(await _state(it, str(Path.v3.rooms[own_room].state)) or [])


async def _room(it: Installation, room_id: str) -> Finding:
    events = await _state(it, str(SynapseAdminPath.v1.rooms[room_id].state))
    if events is None:
        events = await _state(it, str(Path.v3.rooms[room_id].state))
    if events is None:
        return warn(
            f"The state of {room_id} cannot be read, so its power levels are not known",
            f"invite {it.config.bot_user_id} to it, or look in the client: {HOW_TO_PERMIT}",
        )
    refused = not_permitted(events)
    if not refused:
        return ok(f"Members of {room_id} may start and join calls")
    return fail(f"In {room_id} {refused}", HOW_TO_PERMIT)


def _defaults(events: list[Any]) -> Finding:
    """What holds in the room that the focus made for itself holds in others with the homeserver's defaults."""
    refused = not_permitted(events)
    if not refused:
        return ok("In new rooms of this homeserver everybody may start and join calls")
    return warn(f"In new rooms of this homeserver {refused}", HOW_TO_PERMIT)


def not_permitted(events: object) -> str:
    """What ordinary members may not do according to a room's state, as the end of a sentence; empty: nothing."""
    state = [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []
    levels = next((event.get("content") for event in state if event.get("type") == "m.room.power_levels"), None)
    if not isinstance(levels, dict):
        return ""  # without power levels everybody may send state
    own = levels.get("events")
    needed = own if isinstance(own, dict) else {}
    default = _level(levels.get("state_default"), STATE_DEFAULT)
    have = _level(levels.get("users_default"), 0)
    join, start = (_level(needed.get(kind), default) for kind in (CALL_MEMBER, CALL))
    if join > have:
        return f"members may not join calls: {CALL_MEMBER} needs power level {join}, they have {have}"
    if start > have:
        return f"members may join calls, but not start them: {CALL} needs power level {start}, they have {have}"
    return ""


def _level(value: Any, default: int) -> int:
    try:
        return default if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


async def _state(it: Installation, path: str) -> list[Any] | None:
    try:
        found = (await it.homeserver.request(Method.GET, path, who=As.USER)).get("state")
    except (RefusedError, UnavailableError):
        return None
    return [event for event in found if isinstance(event, dict)] if isinstance(found, list) else None


async def clock(it: Installation) -> list[Finding]:
    """The clock alone, for a start: the rest of `answers` ends a start anyway."""
    findings = await answers(it)
    return findings[1:]
