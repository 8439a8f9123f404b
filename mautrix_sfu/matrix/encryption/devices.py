"""Whose keys are whose: the devices of users by their signed device keys, asked for seldom and remembered."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from mautrix.api import Method
from mautrix.crypto.signature import canonical_json
from olm.utility import OlmVerifyError, ed25519_verify

from ...core.ids import Device, DeviceId, UserId
from ...core.rate import Rate
from ...wire.fields import MAX_ID
from ..homeserver import Homeserver, UnavailableError
from ..interface import Count, Counted

log = logging.getLogger(__name__)

FRESH_FOR = 3600.0  # seconds; of a user who shares no room with the focus no change is announced
UNANSWERED_FOR = 60.0  # seconds for which a homeserver that did not answer is not asked again without need
MAX_USERS = 4096  # remembered
MAX_DEVICES = 500  # of one user
USER_QUERIES = (4, 1 / 15)  # of one user: at once, and per second
ALL_QUERIES = (100, 20)
REMOTE_WITHIN = 5000  # milliseconds that the homeserver waits for another
LOCKS = 64

_ALL = ""
_KEY = re.compile(r"[A-Za-z0-9+/]{43}")  # 32 bytes in unpadded base64: of either curve, and of a Megolm session


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device whose keys carry its own signature."""

    device: Device
    identity_key: str  # curve25519
    signing_key: str  # ed25519


@dataclass(frozen=True, slots=True)
class _User:
    devices: tuple[KnownDevice, ...]
    asked: float  # loop time
    complete: bool  # False: the user's homeserver did not answer, this is what was known before


class Devices:
    """The device keys of users, as their homeservers publish them."""

    def __init__(self, homeserver: Homeserver, count: Count, clock: Callable[[], float] = time.monotonic) -> None:
        self._homeserver = homeserver
        self._count = count
        self._clock = clock
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._per_user = Rate(*USER_QUERIES)
        self._overall = Rate(*ALL_QUERIES)
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    async def by_key(self, user: str, identity_key: str) -> KnownDevice | None:
        """The device of this user that has this key, None also while too much is asked.

        Raises RefusedError or UnavailableError.
        """
        found, _ = await self._find(user, FRESH_FOR, lambda known: known.identity_key == identity_key)
        return found

    async def by_id(self, device: Device, fresh_for: float = FRESH_FOR) -> KnownDevice | None:
        """A device, if it has keys. Raises RefusedError, or UnavailableError: also where too much is asked to know."""
        found, asked = await self._find(device.user_id, fresh_for, lambda known: known.device == device)
        if found is None and not asked:
            raise UnavailableError(f"too many questions for keys to ask for those of {device}")
        return found

    async def of(self, users: Iterable[str]) -> list[KnownDevice]:
        """All devices of these users that have keys. Raises RefusedError or UnavailableError."""
        wanted = list(users)
        stale = [user for user in wanted if not self._fresh(user, FRESH_FOR)]
        if stale:
            await self._query(stale)
        return [known for user in wanted if (entry := self._users.get(user)) for known in entry.devices]

    def changed(self, users: Iterable[str]) -> None:
        """These users' devices changed: ask again when they matter."""
        for user in users:
            self._users.pop(user, None)

    async def _find(
        self, user: str, fresh_for: float, fits: Callable[[KnownDevice], bool]
    ) -> tuple[KnownDevice | None, bool]:
        """The device that fits, and whether that is certain: False where its homeserver should have been asked."""
        async with self._locks[hash(user) % LOCKS]:
            found = self._look(user, fits)
            if found is not None and self._fresh(user, fresh_for):
                return found, True
            now = self._clock()
            if not self._per_user.allow(user, now) or not self._overall.allow(_ALL, now):
                self._count(Counted.KEY_QUERIES_LIMITED, 1)
                return found, False
            await self._query([user])
            return self._look(user, fits), True

    def _look(self, user: str, fits: Callable[[KnownDevice], bool]) -> KnownDevice | None:
        entry = self._users.get(user)
        return next((known for known in entry.devices if fits(known)), None) if entry is not None else None

    def _fresh(self, user: str, within: float) -> bool:
        entry = self._users.get(user)
        if entry is None:
            return False
        return self._clock() - entry.asked < (within if entry.complete else min(within, UNANSWERED_FOR))

    async def _query(self, users: list[str]) -> None:
        self._count(Counted.KEY_QUERIES, 1)
        answer = await self._homeserver.request(
            Method.POST,
            "/_matrix/client/v3/keys/query",
            {"device_keys": {user: [] for user in users}, "timeout": REMOTE_WITHIN},
        )
        found = answer.get("device_keys")
        failed = answer.get("failures")
        if not isinstance(found, dict):
            raise UnavailableError("/keys/query answered without device_keys")
        servers = set(failed) if isinstance(failed, dict) else set()
        for user in users:
            if user.partition(":")[2] in servers and user not in found:
                before = self._users.get(user)
                self._remember(user, before.devices if before else (), complete=False)
            else:
                self._remember(user, _signed_devices(user, found.get(user)), complete=True)

    def _remember(self, user: str, devices: tuple[KnownDevice, ...], *, complete: bool) -> None:
        before = {known.device: known for known in entry.devices} if (entry := self._users.pop(user, None)) else {}
        for known in devices:
            old = before.get(known.device)
            if old is not None and old.signing_key != known.signing_key:
                self._count(Counted.DEVICE_KEYS_CHANGED, 1)
                log.warning("The device %s has other keys than before: its homeserver vouches for them", known.device)
        self._users[user] = _User(devices, self._clock(), complete)
        if len(self._users) > MAX_USERS:
            self._users.popitem(last=False)


def _signed_devices(user: str, devices: Any) -> tuple[KnownDevice, ...]:
    if not isinstance(devices, dict):
        return ()
    return tuple(
        known
        for device_id, keys in list(devices.items())[:MAX_DEVICES]
        if isinstance(device_id, str) and (known := signed_device(user, device_id, keys)) is not None
    )


def signed_device(user: str, device_id: str, keys: Any) -> KnownDevice | None:
    """A device out of `/keys/query`, if it is the one that was asked for and its keys are signed by itself."""
    match keys:
        case {"user_id": str(found_user), "device_id": str(found_device), "keys": dict(found)}:
            identity, signing = found.get(f"curve25519:{device_id}"), found.get(f"ed25519:{device_id}")
            if (
                (found_user, found_device) == (user, device_id)
                and is_keepable(device_id)
                and is_key(identity)
                and is_key(signing)
                and is_signed(keys, user, device_id, signing)
            ):
                return KnownDevice(Device(UserId(user), DeviceId(device_id)), identity, signing)
    return None


def is_key(value: object) -> TypeGuard[str]:
    """Whether this is written as a public key, or as the id of a Megolm session."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def is_keepable(name: str) -> bool:
    """Whether this id can be written to any database: it is its maker's choice, and need not even be Unicode."""
    return len(name) <= MAX_ID and name.isprintable()


def is_signed(content: dict[str, Any], user: str, device_id: str, signing_key: str) -> bool:
    """Whether signed JSON (Matrix specification, appendices) has a valid signature of this device."""
    signatures = content.get("signatures")
    by_user = signatures.get(user) if isinstance(signatures, dict) else None
    signature = by_user.get(f"ed25519:{device_id}") if isinstance(by_user, dict) else None
    if not isinstance(signature, str):
        return False
    message = canonical_json({key: value for key, value in content.items() if key not in ("signatures", "unsigned")})
    try:
        ed25519_verify(signing_key, message, signature)
    except (OlmVerifyError, ValueError):  # ValueError: what cannot be written as UTF-8
        return False
    return True
