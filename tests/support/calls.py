"""A room with a call and its participants, and a watch over two of them that nothing may disturb."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.focus import CALL_MEMBER, ROOT, Deployment, FocusProcess, guarded
from tests.support.participant import Mischief, Participant
from tests.support.pulse import Window, judge, windows
from tests.support.synapse import Client

P = TypeVar("P", bound=Participant)

_TROUBLE = re.compile(
    "Traceback|CRITICAL|internal error|[Uu]nhandled|could not be handled|never retrieved|never awaited|panicked"
)


class Call:
    """A room with a call, and its participants: each a device of a new user."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.conf_id = secrets.token_hex(6)
        self.room_id = ""
        self.stopped_layers: set[str] = set()  # rids that no participant sends: less to do where layers do not matter
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
        made.stopped_layers = self.stopped_layers
        return await self._stack.enter_async_context(made)

    async def enter(self, participant: P) -> P:
        """Begin with a participant that was made elsewhere; it ends with the call."""
        await self._stack.enter_async_context(participant)
        return participant

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

    async def replies(self, call_id: str, within: float = 30.0) -> list[dict[str, Any]]:
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
        self._log = FocusLog(focus)
        self._task: asyncio.Task[None] | None = None
        self.windows: list[Window] = []

    async def __aenter__(self) -> Self:
        self._log.start()
        self._task = asyncio.get_running_loop().create_task(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        enough = max(len(self.windows) + 1, 2)  # what happens just after counts too
        while kind is None and len(self.windows) < enough and not self._task.done():
            await asyncio.sleep(0.05)
        self._task.cancel()
        await asyncio.wait([self._task])
        if kind is None:
            judge(self.windows)
            self._log.check()

    async def _work(self) -> None:
        async for window in windows(self._pair, self._focus.pid):
            self.windows.append(window)


class Talkers:
    """Two participants in a process of their own who talk all the time."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.windows: list[Window] = []
        self.ssrcs: list[int] = []  # what they send
        self.ufrags: list[str] = []  # of the focus, towards them

    async def __aenter__(self) -> Self:
        deployment, call = self._call.deployment, self._call
        members = [await call.member(name) for name in ("alice", "bob")]
        told = {
            "homeserver": deployment.synapse.base_url,
            "focus": (deployment.focus.device.user_id, deployment.focus.device.device_id),
            "focus_pid": deployment.focus.pid,
            "room_id": call.room_id,
            "conf_id": call.conf_id,
            "devices": [(who.user_id, who.device_id, who.token) for who in members],
        }
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *guarded([sys.executable, "-m", "tests.support.pulse"]), cwd=ROOT, stdin=pipe, stdout=pipe
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        assert line, "the talkers could not begin; their trouble is on stderr"
        ready = json.loads(line)
        self.ssrcs, self.ufrags = [ssrc for each in ready["ssrcs"] for ssrc in each], ready["ufrags"]
        self._reader = asyncio.get_running_loop().create_task(self._read(self._process.stdout))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self._reader is not None:
            await self._reader

    async def _read(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            self.windows.append(Window(**json.loads(line)))

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """At the end AssertionError if for a moment anything of their talk stopped, or the focus had trouble."""
        log = FocusLog(self._call.deployment.focus)
        log.start()
        first = len(self.windows)
        yield
        enough = len(self.windows) + 2  # the one that has begun, and what happens just after
        async with asyncio.timeout(45):
            while len(self.windows) < enough:
                await asyncio.sleep(0.05)
        judge(self.windows[first:])
        log.check()


class FocusLog:
    """What a focus logs from now on must not tell of a fault of its own."""

    def __init__(self, focus: FocusProcess) -> None:
        self._focus = focus
        self._start = 0

    def start(self) -> None:
        """What was logged before does not count."""
        self._start = self._focus.log.stat().st_size

    def check(self) -> None:
        """AssertionError if it does, or if the focus is no more."""
        assert self._focus.exit_code is None, f"the focus ended with {self._focus.exit_code}"
        with self._focus.log.open("rb") as log:
            log.seek(self._start)
            text = log.read().decode(errors="replace")
        found = [line for line in text.splitlines() if _TROUBLE.search(line)]
        assert not found, found
