"""A device's Olm for tests, over vodozemac: nothing in it is what the focus uses."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

from vodozemac import (
    Account,
    AnyOlmMessage,
    Curve25519PublicKey,
    Ed25519PublicKey,
    Ed25519Signature,
    OlmDecryptionException,
    PreKeyMessage,
    Session,
    SessionCreationException,
)

ALGORITHM = "m.olm.v1.curve25519-aes-sha2"
ENCRYPTED = "m.room.encrypted"

Request = Callable[[str, str, Any], Awaitable[dict[str, Any]]]


def canonical(content: dict[str, Any]) -> bytes:
    """Canonical JSON (Matrix specification, appendices)."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def is_signed(content: dict[str, Any], user_id: str, device_id: str, key: str) -> bool:
    """Whether this device signed it."""
    signature = content["signatures"][user_id][f"ed25519:{device_id}"]
    unsigned = {name: value for name, value in content.items() if name not in ("signatures", "unsigned")}
    try:
        Ed25519PublicKey.from_base64(key).verify_signature(canonical(unsigned), Ed25519Signature.from_base64(signature))
    except Exception:
        return False
    return True


class OlmDevice:
    """One device: its keys are published by `publish`."""

    def __init__(self, request: Request, user_id: str, device_id: str) -> None:
        self._request = request
        self.user_id, self.device_id = user_id, device_id
        self.account = Account()
        self.sessions: dict[str, list[Session]] = {}  # by the other's curve25519 key; the one to use last
        self.signing_keys: dict[str, str] = {}  # of others, by their curve25519 key

    @property
    def identity_key(self) -> str:
        return str(self.account.curve25519_key.to_base64())

    @property
    def signing_key(self) -> str:
        return str(self.account.ed25519_key.to_base64())

    def signed(self, content: dict[str, Any]) -> dict[str, Any]:
        signature = self.account.sign(canonical(content)).to_base64()
        return {**content, "signatures": {self.user_id: {f"ed25519:{self.device_id}": signature}}}

    def device_keys(self) -> dict[str, Any]:
        return self.signed(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": [ALGORITHM, "m.megolm.v1.aes-sha2"],
                "keys": {
                    f"curve25519:{self.device_id}": self.identity_key,
                    f"ed25519:{self.device_id}": self.signing_key,
                },
            }
        )

    async def publish(self, one_time_keys: int = 20) -> None:
        """Publish the device's keys."""
        self.account.generate_one_time_keys(one_time_keys)
        keys = {
            f"signed_curve25519:{key_id}": self.signed({"key": key.to_base64()})
            for key_id, key in self.account.one_time_keys.items()
        }
        body = {"device_keys": self.device_keys(), "one_time_keys": keys}
        await self._request("POST", "/_matrix/client/v3/keys/upload", body)
        self.account.mark_keys_as_published()

    async def keys_of(self, user_id: str, device_id: str) -> tuple[str, str]:
        """(curve25519, ed25519) of a device, whose signature is checked."""
        answer = await self._request("POST", "/_matrix/client/v3/keys/query", {"device_keys": {user_id: []}})
        keys = answer["device_keys"][user_id][device_id]
        found = keys["keys"]
        curve, ed = found[f"curve25519:{device_id}"], found[f"ed25519:{device_id}"]
        assert is_signed(keys, user_id, device_id, ed)
        self.signing_keys[curve] = ed
        return curve, ed

    async def claim(self, user_id: str, device_id: str) -> dict[str, Any]:
        """A one-time key of a device: its id and the signed key; AssertionError if there is none."""
        body = {"one_time_keys": {user_id: {device_id: "signed_curve25519"}}}
        answer = await self._request("POST", "/_matrix/client/v3/keys/claim", body)
        claimed: dict[str, Any] = answer["one_time_keys"].get(user_id, {}).get(device_id, {})
        assert claimed, f"{device_id} has no one-time key"
        return claimed

    async def begin(self, user_id: str, device_id: str) -> str:
        """A new session with a device; its curve25519 key."""
        curve, ed = await self.keys_of(user_id, device_id)
        (key,) = (await self.claim(user_id, device_id)).values()
        assert is_signed(key, user_id, device_id, ed)
        session = self.account.create_outbound_session(
            Curve25519PublicKey.from_base64(curve), Curve25519PublicKey.from_base64(key["key"])
        )
        self.sessions.setdefault(curve, []).append(session)
        return curve

    async def encrypt(
        self, user_id: str, device_id: str, event_type: str, content: dict[str, Any], **claims: Any
    ) -> dict[str, Any]:
        """The content of `m.room.encrypted` for a device; `claims` replace fields of what is encrypted."""
        curve, ed = await self.keys_of(user_id, device_id)
        if not self.sessions.get(curve):
            await self.begin(user_id, device_id)
        payload = {
            "type": event_type,
            "content": content,
            "sender": self.user_id,
            "sender_device": self.device_id,
            "keys": {"ed25519": self.signing_key},
            "recipient": user_id,
            "recipient_keys": {"ed25519": ed},
            **claims,
        }
        kind, body = self.sessions[curve][-1].encrypt(json.dumps(payload).encode()).to_parts()
        encoded = base64.b64encode(body).decode().rstrip("=")
        return {
            "algorithm": ALGORITHM,
            "sender_key": self.identity_key,
            "ciphertext": {curve: {"type": kind, "body": encoded}},
        }

    def decrypt(self, event: dict[str, Any]) -> dict[str, Any]:
        """The payload of an `m.room.encrypted`; AssertionError where anything in it is not as it must be."""
        content = event["content"]
        assert content["algorithm"] == ALGORITHM
        sender_key = content["sender_key"]
        mine = content["ciphertext"][self.identity_key]
        body = base64.b64decode(mine["body"] + "===")
        message = AnyOlmMessage.from_parts(mine["type"], body)
        plaintext = self._decrypt(sender_key, message)
        payload: dict[str, Any] = json.loads(plaintext)
        assert payload["sender"] == event["sender"]
        assert payload["recipient"] == self.user_id
        assert payload["recipient_keys"]["ed25519"] == self.signing_key
        if sender_key in self.signing_keys:
            assert payload["keys"]["ed25519"] == self.signing_keys[sender_key]
        return payload

    def _decrypt(self, sender_key: str, message: AnyOlmMessage) -> bytes:
        sessions = self.sessions.setdefault(sender_key, [])
        for session in reversed(sessions):
            try:
                plaintext: bytes = session.decrypt(message)
            except OlmDecryptionException:
                continue
            sessions.remove(session)
            sessions.append(session)
            return plaintext
        prekey: PreKeyMessage | None = message.to_pre_key()
        assert prekey is not None, "no session of ours"
        try:
            made = self.account.create_inbound_session(Curve25519PublicKey.from_base64(sender_key), prekey)
        except SessionCreationException as error:
            raise AssertionError(f"no session can be made: {error}") from error
        session, opened = made
        sessions.append(session)
        return bytes(opened)
