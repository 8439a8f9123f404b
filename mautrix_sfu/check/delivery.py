"""Whether what concerns the focus reaches it: the homeserver's pushes, an own event, a to-device message to itself."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator

from mautrix.api import Method, Path

from ..core.ids import Device, DeviceId
from ..findings import Finding, fail, ok, warn
from ..matrix import PING_ERRORS, As, Homeserver, RefusedError, UnavailableError, ping_path
from .homeserver import not_permitted
from .installation import Count, Installation
from .receiver import Receiver

EVENT_TYPE = "org.mautrix.sfu.check"
PINGED_WITHIN = 60.0  # seconds; the homeserver gives up before
PUSHED_WITHIN = 10.0  # seconds
SYNCED_WITHIN = 10.0
LOOK_EVERY = 0.2

_NOTHING = {"not_types": ["*"]}
_FILTER = json.dumps({"presence": _NOTHING, "account_data": _NOTHING, "room": {"rooms": []}})


async def pushes(it: Installation, receiver: Receiver | None) -> AsyncIterator[Finding]:
    """Whether the homeserver reaches the focus with the right hs_token; the last finding says."""
    service = it.config.appservice
    transaction = secrets.token_hex(8)
    where = f"{service.address} (appservice.address)"
    fresh = "generate the registration again (-g), copy it to the homeserver, and restart the homeserver"
    try:
        await _ping(it, transaction)
    except UnavailableError as error:
        if error.errcode == "M_BAD_STATUS" and (receiver.unauthorized if receiver else " 401 " in f"{error} "):
            yield fail("The homeserver reaches the focus with another hs_token than the configuration's", fresh)
        elif error.errcode in PING_ERRORS:
            yield fail(
                f"Room events cannot come: {PING_ERRORS[error.errcode]}",
                f"the homeserver must reach {where}; it listens on {service.hostname} port {service.port}, which may "
                "be too little if the homeserver is another machine or container",
            )
        else:
            yield fail(f"The homeserver's ping failed: {error}", "look into its log")
    except RefusedError as error:
        if error.errcode in PING_ERRORS:
            yield fail(f"Room events cannot come: {PING_ERRORS[error.errcode]}", fresh)
        elif error.errcode == "M_UNRECOGNIZED":
            yield warn("The homeserver knows no ping", "use a current Synapse; the next finding says more")
        else:
            yield fail(f"The homeserver refuses to ping application service {service.id}: {error}", fresh)
    else:
        if receiver is not None and transaction not in receiver.pings:
            yield fail(f"Something else than this configuration's focus answers at {where}", fresh)
        else:
            yield ok(f"The homeserver reaches the focus at {service.address} with the right hs_token")


async def _ping(it: Installation, transaction: str) -> None:
    """Ask for a ping; once more if the homeserver tried a connection that an earlier focus had left open."""
    path = ping_path(it.config.appservice.id)
    for tries_left in (1, 0):
        try:
            await it.homeserver.request(
                Method.POST, path, {"transaction_id": transaction}, who=As.SERVICE, limit=PINGED_WITHIN
            )
        except UnavailableError as error:
            if error.errcode != "M_CONNECTION_FAILED" or not tries_left:
                raise
            await asyncio.sleep(LOOK_EVERY)
        else:
            return


async def own_event(it: Installation, room_id: str, count: Count, standing_in: bool) -> Finding:
    """Whether an event that the focus makes comes back to it in a transaction.

    While this test stands in for the focus any transaction will do: there may be a backlog, of which it takes none.
    """
    before = 0 if standing_in else await count()
    if before is None:
        return warn("It cannot be seen from outside whether events reach the running focus", "enable metrics")
    path = str(Path.v3.rooms[room_id].send[EVENT_TYPE][secrets.token_hex(8)])
    try:
        await it.homeserver.request(Method.PUT, path, {}, who=As.USER)
    except (RefusedError, UnavailableError) as error:
        return fail(f"The focus cannot send an event to its own room: {error}", "look into the homeserver's log")
    deadline = time.monotonic() + PUSHED_WITHIN
    while ((await count()) or 0) <= before:
        if time.monotonic() > deadline:
            return fail(
                f"The homeserver reaches the focus, but pushed no event within {PUSHED_WITHIN:.0f} s",
                "does the homeserver push at all? With workers, notify_appservices_from_worker must name one that runs",
            )
        await asyncio.sleep(LOOK_EVERY)
    return ok("The homeserver pushes events to the focus")


async def own_room(it: Installation) -> str | Finding:
    """A room that the focus keeps to itself, made when first needed."""
    user = it.config.bot_user_id
    note = str(Path.v3.user[user].account_data[EVENT_TYPE])
    try:
        room_id = (await it.homeserver.request(Method.GET, note, who=As.USER)).get("room_id")
        if isinstance(room_id, str):
            found = await it.homeserver.request(Method.GET, str(Path.v3.rooms[room_id].state), who=As.USER)
            if not not_permitted(found.get("state")):
                return room_id
            await _forget(it, room_id)  # a new one shows what the homeserver's defaults are now
    except RefusedError:
        pass  # there was none, or it is not the focus's any more
    except UnavailableError as error:
        return fail(f"The homeserver does not find the focus's own room: {error}", "look into its log")
    body = {
        "name": "Installation test",
        "preset": "private_chat",
        "creation_content": {"m.federate": False, "type": EVENT_TYPE},
    }
    try:
        made = str((await it.homeserver.request(Method.POST, str(Path.v3.createRoom), body, who=As.USER))["room_id"])
        await it.homeserver.request(Method.PUT, note, {"room_id": made}, who=As.USER)
    except (RefusedError, UnavailableError, KeyError) as error:
        return fail(f"The focus cannot make a room to test with: {error}", "let it, or read the rest of this list")
    return made


async def _forget(it: Installation, room_id: str) -> None:
    """Leave a room for good."""
    for verb in ("leave", "forget"):
        try:
            await it.homeserver.request(Method.POST, str(Path.v3.rooms[room_id][verb]), {}, who=As.USER)
        except (RefusedError, UnavailableError):
            return


async def to_device(it: Installation) -> Finding:
    """Whether a to-device message of the focus to itself arrives by `/sync`, at a device made for this."""
    user = it.homeserver.focus.user_id
    device = Device(user, DeviceId(f"{it.homeserver.focus.device_id}_CHECK"))
    config = it.config
    own = Homeserver(config.homeserver.address, config.appservice.as_token, device, config.homeserver.verify_ssl)
    own.open()
    path = str(Path.v3.devices[device.device_id])
    try:
        await own.request(Method.PUT, path, {"display_name": "Installation test"}, who=As.USER)
        try:
            took = await _round(own, device)
        finally:
            await own.request(Method.DELETE, path, {}, who=As.USER)
    except RefusedError as error:
        return fail(f"The homeserver refuses to-device messages by /sync: {error}", "it should be a current Synapse")
    except UnavailableError as error:
        return fail(f"/sync fails: {error}", "look into the homeserver's log")
    finally:
        await own.close()
    if took is None:
        return fail(
            f"A to-device message of the focus to itself did not arrive within {SYNCED_WITHIN:.0f} s",
            "look into the homeserver's log; with workers, the to_device stream must have a writer that runs",
        )
    return ok(f"To-device messages arrive (one to itself took {took * 1000:.0f} ms)")


async def _round(own: Homeserver, device: Device) -> float | None:
    """How many seconds a message to this device takes; None if it does not come."""
    sync = "/_matrix/client/v3/sync"
    query = {"filter": _FILTER, "timeout": "0", "set_presence": "offline"}
    since = str((await own.request(Method.GET, sync, query=query)).get("next_batch"))
    nonce = secrets.token_hex(8)
    content = {"messages": {device.user_id: {device.device_id: {"nonce": nonce}}}}
    began = time.monotonic()
    await own.request(Method.PUT, str(Path.v3.sendToDevice[EVENT_TYPE][nonce]), content, who=As.USER)
    while (left := began + SYNCED_WITHIN - time.monotonic()) > 0:
        answer = await own.request(
            Method.GET, sync, query={**query, "since": since, "timeout": str(int(left * 1000))}, limit=left + 10
        )
        since = str(answer.get("next_batch"))
        inbox = answer.get("to_device")
        found = inbox.get("events", []) if isinstance(inbox, dict) else []
        if any(isinstance(event, dict) and event.get("content") == {"nonce": nonce} for event in found):
            return time.monotonic() - began
    return None
