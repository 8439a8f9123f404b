"""Foci that are not what they say: one that dials and lies, and one that is dialled and answers with bad addresses."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from types import TracebackType
from typing import Any, Self

from mautrix_sfu.core.ids import Device

from .federation_call import FederatedCall, Roamer
from .focus import CALL_MEMBER, Deployment
from .participant import FOCI_ACTIVE, HOUR_MS, Mischief
from .participant_sdp import Published, new_track
from .synapse import Client

_ANSWER = """v=0
o=- {number} 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0
a=ice-lite
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:{pwd}
a=fingerprint:sha-256 {fingerprint}
a=setup:passive
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
{candidates}
a=end-of-candidates
"""


class Impostor(Roamer):
    """A user's device that dials a focus as a focus does: without state of its own, and first without media."""

    def __init__(self, client: Client, target: Device) -> None:
        super().__init__(
            client.server.base_url,
            client.user_id,
            client.device_id,
            target,
            token=client.token,
            mischief=Mischief(publish_state=False),
        )
        self._owners: dict[str, Device] = {}  # of its streams, as it claims

    async def dial(self, room_id: str, conf_id: str) -> None:
        """As `join`."""
        await self.join(room_id, conf_id, audio=False, video=False, create_call=False)

    def publish_as(self, owner: Device, shown: tuple[str, str] | None = None) -> Published:
        """Publish video and say that it is somebody's; under the ids of one of his tracks, or new ones."""
        mid = str(sum(not line.mid.startswith("s") for line in self.connection.descriptions.lines))
        track = new_track(mid, "video", secrets.token_hex(8))
        if shown is not None:
            track.stream_id, track.track_id = shown
        self.connection.published.append(track)
        self._owners[track.stream_id] = owner
        self.negotiate()
        return track

    def own_metadata(self) -> dict[str, Any]:
        """What it claims."""
        found = super().own_metadata()
        for stream_id, owner in self._owners.items():
            if stream_id in found:
                claim = {"user_id": owner.user_id, "device_id": owner.device_id, "purpose": "m.usermedia"}
                found[stream_id].update(claim)
        return found


class DeadEnd:
    """A user's device that is listed as a focus: counts what it is sent, and answers only if asked to."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.device = Device(client.user_id, client.device_id)  # type: ignore[arg-type]
        self.received: list[dict[str, Any]] = []

    async def listen(self, seconds: float) -> None:
        """Take to-device messages for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            answer = await self.client.sync(wait=min(left, 1.0))
            self.received += answer.get("to_device", {}).get("events", [])

    @property
    def others(self) -> list[str]:
        """The types of what it received that is no invite."""
        return [event["type"] for event in self.received if event["type"] != "m.call.invite"]

    def invites(self, focus: Device) -> list[dict[str, Any]]:
        """The contents of the invites of a focus."""
        return [
            event["content"]
            for event in self.received
            if (event["type"], event["sender"]) == ("m.call.invite", focus.user_id)
        ]

    async def answer(self, focus: Device, *addresses: tuple[str, int]) -> None:
        """Wait for the focus's invite and answer it with these candidates."""
        async with asyncio.timeout(45):
            while not self.invites(focus):
                await self.listen(0.2)
        invite = self.invites(focus)[0]
        candidates = "\n".join(
            f"a=candidate:{number} 1 udp {2130706431 - number} {host} {port} typ host"
            for number, (host, port) in enumerate(addresses)
        )
        sdp = _ANSWER.format(
            number=secrets.randbits(62),
            ufrag=secrets.token_hex(4),
            pwd=secrets.token_hex(12),
            fingerprint=":".join(["AB"] * 32),
            candidates=candidates,
        ).replace("\n", "\r\n")
        names = ("call_id", "conf_id", "version", "org.matrix.msc3898.room_id")
        content = {name: invite[name] for name in names if name in invite} | {
            "party_id": self.device.device_id,
            "device_id": self.device.device_id,
            "sender_session_id": secrets.token_hex(5),
            "dest_session_id": invite["sender_session_id"],
            "seq": 0,
            "org.matrix.msgid": secrets.token_hex(8),
            "answer": {"type": "answer", "sdp": sdp},
        }
        await self.client.send_to_device("m.call.answer", focus.user_id, focus.device_id, content)


class Crowd:
    """UDP sockets on loopback that count what they get and answer nothing."""

    def __init__(self, size: int) -> None:
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(size)]
        self._counts = [0] * size

    async def __aenter__(self) -> Self:
        for made in self._sockets:
            made.bind(("127.0.0.1", 0))
            made.setblocking(False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for made in self._sockets:
            made.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where they are."""
        return [made.getsockname() for made in self._sockets]

    @property
    def counts(self) -> list[int]:
        """Datagrams that each of them got so far."""
        for number, made in enumerate(self._sockets):
            with contextlib.suppress(BlockingIOError):
                while made.recv(2000):
                    self._counts[number] += 1
        return list(self._counts)


async def dead_end(call: FederatedCall, name: str, at: Deployment) -> DeadEnd:
    """A new user's; its name decides whether it is dialled (above `sfu`) or expected to dial."""
    return DeadEnd(await call.user(name, at))


async def list_foci(call: FederatedCall, member: Client, *devices: list[Device]) -> None:
    """A member's event with as many devices as there are lists of active foci."""
    entries = [
        {
            "device_id": member.device_id if number == 0 else f"D{number}",
            "session_id": "s",
            "expires_ts": int(time.time() * 1000) + HOUR_MS,
            FOCI_ACTIVE: [{"user_id": focus.user_id, "device_id": focus.device_id} for focus in foci],
        }
        for number, foci in enumerate(devices)
    ]
    content = {"m.calls": [{"m.call_id": call.conf_id, "m.devices": entries}]}
    await member.send_state(call.room_id, CALL_MEMBER, member.user_id, content)
