"""The focus's own keys at the homeserver: device keys, one-time keys and the fallback key, there and filled."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mautrix.api import Method
from mautrix.crypto.account import OlmAccount
from mautrix.crypto.signature import sign_olm
from mautrix.types import DeviceID, UserID

from ...core.ids import Device
from ..homeserver import Backoff, Homeserver, RefusedError, UnavailableError
from ..interface import Count, Counted
from ..introduction import make_device, own_keys, remove_device
from .database import KeyStore
from .devices import signed_device

log = logging.getLogger(__name__)

UPLOAD = "/_matrix/client/v3/keys/upload"
KIND = "signed_curve25519"
REFILL_BELOW = 0.7  # of what should be there
OLD_FALLBACK_FOR = 3600.0  # seconds that messages with the fallback key before this one are still taken


class Publication:
    """Keeps the homeserver supplied; told by `/sync` how many one-time keys are left."""

    def __init__(
        self,
        homeserver: Homeserver,
        account: OlmAccount,
        store: KeyStore,
        count: Count,
    ) -> None:
        self._homeserver = homeserver
        self._focus: Device = homeserver.focus
        self._account = account
        self._store = store
        self._count = count
        self._wanted = asyncio.Event()
        self._fallback_used = False
        self._old_fallback: float | None = None  # loop time until which the one before is kept

    @property
    def _target(self) -> int:
        return int(self._account.max_one_time_keys // 2)

    async def publish(self) -> None:
        """See that the homeserver has this device's keys and no others. Raises RefusedError or UnavailableError."""
        keys = await own_keys(self._homeserver)
        found = signed_device(self._focus.user_id, self._focus.device_id, keys)
        ours = found is not None and (found.identity_key, found.signing_key) == (
            self._account.identity_key,
            self._account.signing_key,
        )
        if keys is not None and not ours:
            log.warning(
                "The homeserver has other encryption keys for %s: the focus's database was lost, replaced or is an old "
                "one. The device is made again with the keys of this database; who has a call encrypted with the old "
                "keys has to call again",
                self._focus,
            )
            await self._renew_device()
        if not ours:
            device_keys = self._account.get_device_keys(
                UserID(self._focus.user_id), DeviceID(self._focus.device_id)
            ).serialize()
            await self._homeserver.request(Method.POST, UPLOAD, {"device_keys": device_keys})
            log.info("The encryption keys of %s are published: ed25519 %s", self._focus, self._account.fingerprint)
        self._account.shared = True
        await self._fill()

    def learned(self, one_time_keys: int | None, fallback_unused: bool | None) -> None:
        """Take from `/sync` how many one-time keys are left and whether the fallback key is still there."""
        if fallback_unused is False:
            self._fallback_used = True
            self._wanted.set()
        if one_time_keys is not None and one_time_keys < self._target * REFILL_BELOW:
            self._wanted.set()

    async def work(self) -> None:
        """Fill up when it is needed, for ever."""
        backoff = Backoff()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._fill()
            except Exception as error:
                faulty = not isinstance(error, RefusedError | UnavailableError)
                log.warning("One-time keys could not be published, trying again: %s", error, exc_info=faulty)
                self._wanted.set()
                await backoff.pause()
            else:
                backoff.reset()

    async def _renew_device(self) -> None:
        await remove_device(self._homeserver)
        await make_device(self._homeserver)
        self._account.mark_keys_as_published()  # what was unpublished belongs to the device that is gone

    async def _fill(self) -> None:
        """Upload what is missing: of one-time keys as many as the homeserver says, and a fallback key."""
        answer = await self._homeserver.request(Method.POST, UPLOAD, {})
        counts = answer.get("one_time_key_counts")
        there = counts.get(KIND) if isinstance(counts, dict) else None
        body = await self._made(there if isinstance(there, int) else 0)
        if not body:
            return
        try:
            await self._homeserver.request(Method.POST, UPLOAD, body)
        except RefusedError as error:
            if error.status != 400 or "already exists" not in str(error):
                raise
            log.warning(
                "The homeserver has one-time keys of %s that this database does not know: it is an old one. The device "
                "is made again",
                self._focus,
            )
            await self._renew_device()
            await self._store.put_account(self._account)
            await self.publish()
            return
        self._account.mark_keys_as_published()
        await self._store.put_account(self._account)
        self._count(Counted.KEYS_PUBLISHED, len(body.get("one_time_keys", ())) + len(body.get("fallback_keys", ())))

    async def _made(self, there: int) -> dict[str, Any]:
        """The keys to upload; stored before anybody can use them."""
        loop = asyncio.get_running_loop()
        body: dict[str, Any] = {}
        missing = self._target - there
        waiting = self._account.one_time_keys.get("curve25519", {})
        if missing > len(waiting):
            self._account.generate_one_time_keys(missing - len(waiting))
            waiting = self._account.one_time_keys.get("curve25519", {})
        if waiting:
            body["one_time_keys"] = {f"{KIND}:{key_id}": self._signed({"key": key}) for key_id, key in waiting.items()}
        if self._old_fallback is not None and loop.time() > self._old_fallback:
            self._account.forget_old_fallback_key()
            self._old_fallback = None
        if self._fallback_used:
            if not self._account.fallback_key.get("curve25519"):
                self._account.generate_fallback_key()
            self._fallback_used = False
            self._old_fallback = loop.time() + OLD_FALLBACK_FOR
        unpublished = self._account.fallback_key.get("curve25519", {})
        if unpublished:
            body["fallback_keys"] = {
                f"{KIND}:{key_id}": self._signed({"key": key, "fallback": True}) for key_id, key in unpublished.items()
            }
        if body:
            await self._store.put_account(self._account)
        return body

    def _signed(self, content: dict[str, Any]) -> dict[str, Any]:
        signature = sign_olm(dict(content), self._account)
        return content | {"signatures": {self._focus.user_id: {f"ed25519:{self._focus.device_id}": signature}}}
