"""A participant whose to-device messages are Olm-encrypted, as a client with encryption sends them."""

from __future__ import annotations

from typing import Any, Self

from .calls import Call
from .federation_call import FederatedCall, Roamer
from .focus import Deployment
from .olm import ENCRYPTED, OlmDevice
from .synapse import Client


class EncryptingParticipant(Roamer):
    """Encrypts what it says, and hears only what is encrypted for it."""

    olm: OlmDevice

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.plain: list[dict[str, Any]] = []  # what came in plain text all the same
        self.encrypted = 0  # messages of the focus that were decrypted
        self.pretends: str | None = None  # another device's id, in what it encrypts
        self.claims: dict[str, Any] = {}  # in the Olm payload

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.olm = OlmDevice(self.matrix.request, self.device.user_id, self.device.device_id)
        await self.olm.publish()
        return self

    async def _send(self, message_type: str, content: dict[str, Any]) -> None:
        if self.pretends is not None:
            content = {**content, "device_id": self.pretends, "party_id": self.pretends}
        focus = self.focus.user_id, self.focus.device_id
        encrypted = await self.olm.encrypt(*focus, message_type, content, **self.claims)
        await self.matrix.send_to_device(*focus, ENCRYPTED, encrypted)

    def _on_to_device(self, event: dict[str, Any]) -> None:
        if event["type"] != ENCRYPTED:
            self.plain.append(event)
            return
        payload = self.olm.decrypt(event)
        assert payload["sender_device"] == self.focus.device_id
        self.encrypted += 1
        super()._on_to_device({**event, "type": payload["type"], "content": payload["content"]})


async def encrypting(call: Call, name: str, *, at: Deployment | None = None) -> EncryptingParticipant:
    """A device of a new member, which encrypts; it has not joined the call."""
    client = await (call.member(name, at) if isinstance(call, FederatedCall) else call.member(name))
    return await encrypting_device(call, client, at or call.deployment)


async def encrypting_device(call: Call, client: Client, at: Deployment) -> EncryptingParticipant:
    """A user's device, which encrypts; it has not joined the call."""
    made = EncryptingParticipant(
        client.server.base_url, client.user_id, client.device_id, at.focus.device, token=client.token
    )
    return await call.enter(made)
