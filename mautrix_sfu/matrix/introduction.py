"""What the focus says to the homeserver at its start: its user, its device, and whether both are as they should be."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from mautrix.api import Method, Path

from ..errors import ExitCode, FatalError
from .homeserver import As, Backoff, Homeserver, RefusedError, UnavailableError

log = logging.getLogger(__name__)

TELL_EVERY = 4  # failed tries
MARKS_SOFT_FAILED = (1, 135)  # the first Synapse that marks soft-failed events for application services
TOO_OLD = (
    "This homeserver (%s) does not say which pushed events are soft-failed: somebody who was removed from a room can "
    "appear to be in it again, unless the focus may read room states. Synapse 1.135 or newer does."
)


async def introduce(
    homeserver: Homeserver,
    timeout: float,  # noqa: ASYNC109 (it ends in an error of its own)
    then: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Register the bot user and its device, then do `then`; a homeserver that is not up is waited for.

    That is for `timeout` seconds.

    Raises FatalError with one line when the homeserver does not come, or refuses.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    backoff = Backoff(ceiling=10.0)
    tries = 0
    while True:
        try:
            await _register(homeserver)
            await make_device(homeserver)
            await _check_identity(homeserver)
            if then is not None:
                await then()
            return
        except UnavailableError as error:
            tries += 1
            if loop.time() >= deadline:
                raise FatalError(
                    f"the homeserver at {homeserver.url} did not answer for {timeout:.0f} s: {error}",
                    ExitCode.HOMESERVER_UNREACHABLE,
                ) from None
            if tries % TELL_EVERY == 1:
                log.warning("The homeserver at %s does not answer yet (try %d): %s", homeserver.url, tries, error)
            await backoff.pause()
        except RefusedError as error:
            raise FatalError(refusal(homeserver, error), ExitCode.TOKEN_REFUSED) from None


async def _register(homeserver: Homeserver) -> None:
    localpart = homeserver.focus.user_id[1:].partition(":")[0]
    body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True}
    try:
        await homeserver.request(Method.POST, str(Path.v3.register), body, who=As.SERVICE)
        log.info("The user %s is registered", homeserver.focus.user_id)
    except RefusedError as error:
        if error.errcode != "M_USER_IN_USE":
            raise


async def make_device(homeserver: Homeserver) -> None:
    """Create the focus's device (MSC4190), or find that it is there. Raises RefusedError or UnavailableError."""
    path = str(Path.v3.devices[homeserver.focus.device_id])
    await homeserver.request(Method.PUT, path, {"display_name": "Calls (SFU)"}, who=As.USER)


async def remove_device(homeserver: Homeserver) -> None:
    """Remove the focus's device, and all its keys with it. Raises RefusedError or UnavailableError."""
    await homeserver.request(Method.DELETE, str(Path.v3.devices[homeserver.focus.device_id]), {}, who=As.USER)


async def own_keys(homeserver: Homeserver) -> dict[str, Any] | None:
    """Give the encryption keys that the homeserver has for the focus's device. Raises as `remove_device` does."""
    focus = homeserver.focus
    asked: dict[str, Any] = {"device_keys": {focus.user_id: []}}
    answer = await homeserver.request(Method.POST, "/_matrix/client/v3/keys/query", asked, who=As.USER)
    found = answer.get("device_keys")
    devices = found.get(focus.user_id) if isinstance(found, dict) else None
    keys = devices.get(focus.device_id) if isinstance(devices, dict) else None
    return keys if isinstance(keys, dict) else None


async def forget_keys(homeserver: Homeserver) -> None:
    """See that nobody encrypts for a focus that does not decrypt. Raises as `remove_device` does."""
    if await own_keys(homeserver) is not None:
        log.warning("Encryption is off: %s is made again without its keys", homeserver.focus)
        await remove_device(homeserver)
        await make_device(homeserver)


async def _check_identity(homeserver: Homeserver) -> None:
    answer = await homeserver.request(Method.GET, str(Path.v3.account.whoami))
    found = answer.get("user_id")
    if found != homeserver.focus.user_id:
        raise FatalError(
            f"the homeserver knows the focus as {found}, not as {homeserver.focus.user_id}: is its domain right?",
            ExitCode.TOKEN_REFUSED,
        )


def refusal(homeserver: Homeserver, error: RefusedError) -> str:
    """Return what a refusal of the token, the user or the device means, in one line."""
    if error.is_token:
        return (
            f"the homeserver refuses the as_token ({error.errcode}): is this focus's registration file still listed "
            "under app_service_config_files, with the same tokens as in the configuration?"
        )
    if error.errcode in ("M_NOT_FOUND", "M_UNRECOGNIZED"):
        return (
            f"the homeserver cannot make the device {homeserver.focus} for an application service ({error}): it must "
            "support MSC4190, as a current Synapse does"
        )
    return (
        f"the homeserver does not let the focus be {homeserver.focus} ({error}): its registration must have this user "
        "in namespaces.users, and not as sender_localpart"
    )


async def warn_if_too_old(homeserver: Homeserver) -> None:
    """Look at the homeserver's version and log a warning if it is too old to be believed about memberships."""
    found = await server_version(homeserver)
    if found is None:
        log.info("The homeserver does not tell its version: it should be Synapse 1.135 or newer")
    elif not marks_soft_failed(*found):
        log.warning(TOO_OLD, " ".join(found))


async def server_version(homeserver: Homeserver) -> tuple[str, str] | None:
    """The homeserver's name and version, where it tells them."""
    for path in ("/_synapse/admin/v1/server_version", "/_matrix/federation/v1/version"):
        try:
            answer = await homeserver.request(Method.GET, path, who=As.SERVICE)
        except (RefusedError, UnavailableError):
            continue
        server = answer.get("server")
        version = answer.get("server_version") or (server.get("version") if isinstance(server, dict) else None)
        name = server.get("name", "Synapse") if isinstance(server, dict) else "Synapse"
        if isinstance(version, str):
            return str(name)[:50], version[:50]
    return None


def marks_soft_failed(name: str, version: str) -> bool:
    """Whether a homeserver of this name and version marks soft-failed events."""
    number = re.match(r"(\d+)\.(\d+)", version)
    return name == "Synapse" and number is not None and (int(number[1]), int(number[2])) >= MARKS_SOFT_FAILED
