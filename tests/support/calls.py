"""A room with a call and its participants, and a watch over two of them that nothing may disturb."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from tests.support.focus import CALL_MEMBER, Deployment, FocusProcess
from tests.support.participant import Mischief, Participant
from tests.support.synapse import Client

WINDOW = 0.5  # seconds; in each of them packets and messages must come


class Call:
    """A room with a call, and its participants: each a device of a new user."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.conf_id = secrets.token_hex(6)
        self.room_id = ""
        self.host: Client  # who made the room
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.host = await self.user("host")
        self.room_id = await self.deployment.room_with_call(self.conf_id, self.host)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await self.deployment.synapse.close_http()

    async def user(self, name: str) -> Client:
        """A user who has nothing to do with the room."""
        return await self.deployment.synapse.register_user(f"{name}-{secrets.token_hex(3)}")

    async def member(self, name: str) -> Client:
        """A user who is joined to the room."""
        client = await self.user(name)
        await self.host.invite(self.room_id, client.user_id)
        await client.join(self.room_id)
        return client

    async def participant(self, name: str, *, member: bool = True, mischief: Mischief | None = None) -> Participant:
        """A device of a new user; it has not joined the call."""
        return await self.device(await (self.member if member else self.user)(name), mischief=mischief)

    async def device(self, client: Client, *, mischief: Mischief | None = None) -> Participant:
        """A user's device; it has not joined the call."""
        made = Participant(
            self.deployment.synapse.base_url,
            client.user_id,
            client.device_id,
            self.deployment.focus.device,
            token=client.token,
            mischief=mischief,
        )
        return await self._stack.enter_async_context(made)

    async def join(self, *participants: Participant, **options: Any) -> None:
        """Let them join one after the other."""
        for participant in participants:
            await participant.join(self.room_id, self.conf_id, **options)

    async def joined(self, *names: str) -> list[Participant]:
        """New participants who are in the call and see and hear each other."""
        made = [await self.participant(name) for name in names]
        await self.join(*made)
        for one in made:
            await one.subscribe_to(*(other for other in made if other is not one))
        for one in made:
            for other in made:
                if one is not other:
                    await one.until(lambda one=one, other=other: one.video_of(other).key_frames, what="video")  # type: ignore[misc]
        return made


class Raw:
    """A member's device that sends the focus whatever a test likes, without WebRTC behind it."""

    def __init__(self, call: Call, client: Client) -> None:
        self.call = call
        self.client = client
        self.session_id = secrets.token_hex(5)

    async def list_itself(self) -> None:
        """Publish the call member event that makes its legs full."""
        focus = self.call.deployment.focus.device
        foci = [{"user_id": focus.user_id, "device_id": focus.device_id}]
        device = {
            "device_id": self.client.device_id,
            "session_id": self.session_id,
            "expires_ts": 2**52,
            "feeds": [{"purpose": "m.usermedia"}],
            "org.matrix.msc3898.foci.active": foci,
            "org.matrix.msc3898.foci.preferred": foci,
        }
        calls = [{"m.call_id": self.call.conf_id, "m.devices": [device]}]
        await self.client.send_state(self.call.room_id, CALL_MEMBER, self.client.user_id, {"m.calls": calls})

    def fields(self, **content: Any) -> dict[str, Any]:
        """The content of a to-device message: what each of them has, and more."""
        return {
            "call_id": secrets.token_hex(8),
            "conf_id": self.call.conf_id,
            "version": "1",
            "party_id": self.client.device_id,
            "device_id": self.client.device_id,
            "sender_session_id": self.session_id,
            "dest_session_id": "sfu",
            "seq": 0,
            "org.matrix.msgid": secrets.token_hex(8),
            "org.matrix.msc3898.room_id": self.call.room_id,
            **content,
        }

    def invite(self, sdp: Any, **content: Any) -> dict[str, Any]:
        """The content of an invite with this SDP."""
        return self.fields(offer={"type": "offer", "sdp": sdp}, lifetime=60_000, **content)

    async def send(self, event_type: str, content: Any) -> None:
        """Send a to-device message to the focus."""
        focus = self.call.deployment.focus.device
        await self.client.send_to_device(event_type, focus.user_id, focus.device_id, content)

    async def replies(self, call_id: str, within: float = 15.0) -> list[dict[str, Any]]:
        """The first messages that come about one of its calls."""
        async with asyncio.timeout(within):
            while True:
                events = await self.client.to_device(1, within)
                if found := [event for event in events if event["content"].get("call_id") == call_id]:
                    return found


class Watch:
    """Two participants who talk; at the end AssertionError if for a moment anything of it stopped.

    In each window each of them must receive the other's audio and video, and an answer to a ping of its own.
    """

    def __init__(self, one: Participant, other: Participant, focus: FocusProcess) -> None:
        self._pair = (one, other)
        self._focus = focus
        self._log_start = 0
        self._task: asyncio.Task[None] | None = None
        self.gaps: list[str] = []
        self.windows = 0

    async def __aenter__(self) -> Self:
        self._log_start = len(self._focus.log_tail(10**9))
        self._task = asyncio.get_running_loop().create_task(self._work())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        seen = self.windows
        while kind is None and self.windows < max(seen + 1, 2) and not self._task.done():
            await asyncio.sleep(0.05)  # what happens just after counts too
        self._task.cancel()
        await asyncio.wait([self._task])
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise AssertionError if something stopped, or if the focus had trouble."""
        drops = kernel_drops()
        print("drops", drops.get(self._focus.udp_port), [drops.get(p.connection.socket.address[1]) for p in self._pair])
        assert not self.gaps, f"in {self.windows} windows of {WINDOW:g} s: {self.gaps}"
        assert self._focus.exit_code is None, f"the focus ended with {self._focus.exit_code}"
        for one, other in self._directions():
            assert one.hung_up is None, f"{one.device} was hung up: {one.hung_up}"
            assert one.video_of(other).picture_gaps == 0
        log = self._focus.log_tail(10**9)[self._log_start :]
        assert not (trouble := troubles(log)), trouble

    def _directions(self) -> Iterator[tuple[Participant, Participant]]:
        one, other = self._pair
        yield one, other
        yield other, one

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for one, other in self._directions():
            name = one.device.user_id[1:].partition("-")[0]
            counts[f"{name}: video"] = one.video_of(other).packets
            counts[f"{name}: audio"] = one.audio_of(other).packets
            counts[f"{name}: messages"] = len(one.said("m.call.pong"))
        return counts

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before, began = self._counts(), loop.time()
            for one in self._pair:
                one.tell("m.call.ping")
            await asyncio.sleep(WINDOW)
            took = loop.time() - began
            stopped = [name for name, count in self._counts().items() if count <= before[name]]
            if stopped:
                self.gaps.append(f"window {self.windows} ({took:.2f} s): {', '.join(stopped)}")
            self.windows += 1


def troubles(log: str) -> list[str]:
    """The lines of a focus's log that tell of a fault of its own."""
    return [
        line
        for line in log.splitlines()
        if re.search(
            r"Traceback|internal error|[Uu]nhandled|could not be handled|never retrieved|was never awaited|panicked",
            line,
        )
    ]


def kernel_drops() -> dict[int, int]:
    """Datagrams that the kernel threw away, by local port."""
    drops = {}
    with open("/proc/net/udp") as table:
        for line in list(table)[1:]:
            words = line.split()
            drops[int(words[1].partition(":")[2], 16)] = int(words[-1])
    return drops
