"""Olm: one device's messages decrypted and encrypted (Matrix specification, m.olm.v1.curve25519-aes-sha2)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, cast

from mautrix.api import Method
from mautrix.crypto import Session
from mautrix.crypto.account import OlmAccount
from mautrix.types import IdentityKey, OlmCiphertext, OlmMsgType
from olm.account import OlmAccountError
from olm.session import OlmSessionError

from ...core.ids import Device
from ..homeserver import Homeserver, UnavailableError
from .database import KeyStore
from .devices import REMOTE_WITHIN, KnownDevice, is_key, is_signed

log = logging.getLogger(__name__)

OLM = "m.olm.v1.curve25519-aes-sha2"
ENCRYPTED = "m.room.encrypted"
LOCKS = 256


class UndecryptableError(Exception):
    """A message that could not be decrypted; `wedged` if a new session would help."""

    def __init__(self, message: str, *, wedged: bool = False) -> None:
        super().__init__(message)
        self.wedged = wedged


class NoSessionError(Exception):
    """A device has no key left with which a session could begin."""


class Sessions:
    """The Olm sessions of this device with others. Each is used by one caller at a time."""

    def __init__(self, homeserver: Homeserver, focus: Device, account: OlmAccount, store: KeyStore) -> None:
        self._homeserver = homeserver
        self._focus = focus
        self._account = account
        self._store = store
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    # ------------------------------------------------------------ what comes in

    async def decrypt(self, known: KnownDevice, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """(type, content) of a message that this device encrypted; raises UndecryptableError, and database errors."""
        async with self._lock(known):
            plaintext = await self._decrypt(known, _ciphertext(content, self._account.identity_key))
        try:
            payload = json.loads(plaintext)
        except (ValueError, RecursionError) as error:
            raise UndecryptableError("not JSON") from error
        return self._checked(known, payload)

    async def _decrypt(self, known: KnownDevice, message: OlmCiphertext) -> str:
        key = IdentityKey(known.identity_key)
        try:
            prekey = message.type == OlmMsgType.PREKEY
            for session in await self._store.get_sessions(key):
                if prekey and not session.matches(message.body):
                    continue
                try:
                    plaintext = session.decrypt(message)
                except OlmSessionError as error:
                    if prekey:
                        raise UndecryptableError(f"its session does not fit: {error}", wedged=True) from error
                    continue
                await self._store.update_session(key, session)
                return str(plaintext)
            if not prekey:
                raise UndecryptableError("no session", wedged=True)
            session = self._account.new_inbound_session(key, message.body)
            plaintext = session.decrypt(message)
        except (OlmSessionError, OlmAccountError, ValueError) as error:
            raise UndecryptableError(str(error), wedged=True) from error
        await self._store.put_account(self._account)
        await self._store.add_session(key, session)
        return str(plaintext)

    def _checked(self, known: KnownDevice, payload: Any) -> tuple[str, dict[str, Any]]:
        """What the payload claims about who encrypted it for whom must be true (specification, 11.12.4.2)."""
        match payload:
            case {
                "type": str(event_type),
                "content": dict(content),
                "sender": str(sender),
                "recipient": str(recipient),
                "recipient_keys": {"ed25519": str(recipient_key)},
                "keys": {"ed25519": str(signing_key)},
            }:
                pass
            case _:
                raise UndecryptableError("a payload without the fields that it needs")
        if (recipient, recipient_key) != (self._focus.user_id, self._account.signing_key):
            raise UndecryptableError("it was encrypted for somebody else")
        if (sender, signing_key) != (known.device.user_id, known.signing_key):
            raise UndecryptableError("its sender is not who encrypted it")
        return event_type, content

    # ------------------------------------------------------------ what goes out

    async def encrypt(
        self, known: KnownDevice, event_type: str, content: dict[str, Any], *, new_session: bool = False
    ) -> dict[str, Any]:
        """The content of `m.room.encrypted` for a device, over the session that it used last.

        Raises NoSessionError, RefusedError, UnavailableError, and database errors.
        """
        key = IdentityKey(known.identity_key)
        payload = {
            "type": event_type,
            "content": content,
            "sender": self._focus.user_id,
            "sender_device": self._focus.device_id,
            "keys": {"ed25519": self._account.signing_key},
            "recipient": known.device.user_id,
            "recipient_keys": {"ed25519": known.signing_key},
        }
        async with self._lock(known):
            session = None if new_session else await self._store.get_latest_session(key)
            if session is None:
                session = await self._begin(known)
            message = session.encrypt(json.dumps(payload, separators=(",", ":")))
            await self._store.update_session(key, session)
        return {
            "algorithm": OLM,
            "sender_key": self._account.identity_key,
            "ciphertext": {known.identity_key: {"type": message.type.value, "body": message.body}},
        }

    async def _begin(self, known: KnownDevice) -> Session:
        user, device_id = known.device.user_id, known.device.device_id
        answer = await self._homeserver.request(
            Method.POST,
            "/_matrix/client/v3/keys/claim",
            {"one_time_keys": {user: {device_id: "signed_curve25519"}}, "timeout": REMOTE_WITHIN},
        )
        claimed = _claimed(answer, user, device_id)
        match answer:
            case _ if claimed is not None:
                pass
            case {"failures": dict(failures)} if known.device.homeserver in failures:
                raise UnavailableError(f"{known.device.homeserver} does not give a one-time key")
            case _:
                raise NoSessionError(f"{known.device} has no one-time key left")
        if not (
            isinstance(claimed, dict)
            and is_key(claimed.get("key"))
            and is_signed(claimed, user, device_id, known.signing_key)
        ):
            raise NoSessionError(f"the one-time key of {known.device} is not signed by it")
        key = IdentityKey(known.identity_key)
        try:
            session = self._account.new_outbound_session(key, IdentityKey(claimed["key"]))
        except (OlmSessionError, ValueError) as error:
            raise NoSessionError(f"the keys of {known.device} are none: {error}") from error
        await self._store.add_session(key, session)
        return session

    def _lock(self, known: KnownDevice) -> asyncio.Lock:
        return self._locks[hash(known.identity_key) % LOCKS]


def sender_key(content: dict[str, Any]) -> str | None:
    """The key that an Olm message says encrypted it; None for anything else."""
    key = content.get("sender_key")
    return key if content.get("algorithm") == OLM and isinstance(key, str) else None


def _claimed(answer: dict[str, Any], user: str, device_id: str) -> object:
    """The one-time key in the answer to `/keys/claim`, which hands on what another homeserver says; None: none."""
    found: object = answer.get("one_time_keys")
    for name in (user, device_id):
        found = found.get(name) if isinstance(found, dict) else None
    return next(iter(found.values()), None) if isinstance(found, dict) else None


def _ciphertext(content: dict[str, Any], identity_key: str) -> OlmCiphertext:
    """The part of an Olm message that is for this device; raises UndecryptableError."""
    ciphertext = content.get("ciphertext")
    match ciphertext.get(identity_key) if isinstance(ciphertext, dict) else None:
        case {"type": 0 | 1 as kind, "body": str(body)} if body.isascii():
            return OlmCiphertext(body=body, type=OlmMsgType(cast("int", kind)))
    raise UndecryptableError("nothing in it is for this device's keys", wedged=True)
