"""How long it takes after a crash of the focus until all legs are open, and everybody is shown to everybody.

The focus is killed (SIGKILL) and started again at once, on a core of its own. Each headless client does as the protocol
says: it calls again when the focus's hangup comes. Once with a real Synapse, once with a stand-in that costs nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from mautrix_sfu.core.ids import Device
from tests.support.focus import CALL, Deployment
from tests.support.participant import Participant, RefusedError
from tests.support.participant_matrix import HomeserverClient
from tests.support.synapse import Client

from .join_people import Person
from .join_rate import CONF_ID, OVERRIDES, PATIENCE, Site
from .network import SERVER_CORE, process_cpu

AT_ONCE = 16
AGAIN = 1.0  # seconds until somebody who was refused, or got no leg, calls again; doubled each time
LONGEST_PAUSE = 8.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from the SIGKILL on; CPU seconds from there until all were back."""

    homeserver: str
    people: int
    ready: float  # until the focus says that it takes calls
    hung_up: float  # until the last was told
    half: float  # until half of the legs were open
    open: float  # until all were
    whole: float  # until everybody was shown everybody
    invites: int  # that it took
    focus_cpu: float
    homeserver_cpu: float  # with the clients' where the stand-in lives in their process
    clients_cpu: float


class Rejoiner(Person):
    """Calls again when the focus ends its leg."""

    def __init__(self, matrix: HomeserverClient, focus: Device) -> None:
        super().__init__(matrix, focus)
        self.told = asyncio.Event()
        self.told_at = 0.0
        self.opened_at = 0.0
        self.seen = 0  # others, in the newest metadata
        self.seen_all_at = 0.0
        self.wanted = 0
        self.invites = 0

    def expect(self, others: int) -> None:
        """Note from now on when so many are shown, and call again when told to."""
        self.wanted, self.seen, self.invites = others, 0, 0
        self.told_at = self.opened_at = self.seen_all_at = 0.0
        self.told.clear()

    async def rejoin(self, room_id: str, conf_id: str) -> None:
        """Wait for the focus's word, then join by all means."""
        await self.told.wait()
        self.told_at = time.monotonic()
        self.mischief = replace(self.mischief, publish_state=False)  # the room's state still lists it
        pause = AGAIN
        while True:
            self.invites += 1
            try:
                await self.join(room_id, conf_id, create_call=False, timeout=PATIENCE)
            except (RefusedError, TimeoutError, ConnectionError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self.opened_at = time.monotonic()
                return

    def on_hangup(self) -> None:
        """The focus ended the leg."""
        self.told.set()

    def on_metadata(self, text: str) -> None:
        """The others, as the focus shows them."""
        self.seen = text.count('"user_id"')
        if self.seen >= self.wanted and not self.seen_all_at:
            self.seen_all_at = time.monotonic()


class WithStandIn:
    """A focus and its stand-in homeserver."""

    name = "stand-in"

    def __init__(self, directory: Path) -> None:
        self._site = Site(directory)
        self.focus = self._site.focus
        self.room_id, self.conf_id = self._site.homeserver.room_id, CONF_ID

    async def start(self, people: int) -> list[Rejoiner]:
        """Start both; people who are members of the room."""
        await self._site.start()
        return [self._site.person(f"p{number}", Rejoiner) for number in range(people)]

    def cpu(self) -> float:
        """CPU seconds of the homeserver."""
        return 0.0

    async def stop(self) -> None:
        """End both."""
        await self._site.stop()


class WithSynapse:
    """A focus and a real Synapse."""

    name = "Synapse"

    def __init__(self, directory: Path) -> None:
        self._deployment = Deployment(directory, OVERRIDES)
        self.focus = self._deployment.focus
        self.focus.inside = ("taskset", "-c", str(SERVER_CORE))
        self.room_id, self.conf_id = "", secrets.token_hex(6)

    async def start(self, people: int) -> list[Rejoiner]:
        """Start both; people who are members of a room."""
        await self._deployment.start()
        synapse = self._deployment.synapse
        host = await synapse.register_user("host")
        self.room_id = await host.create_room("A call", public=True)
        await host.send_state(self.room_id, CALL, self.conf_id, {"m.intent": "m.room", "m.type": "m.video"})
        clients: list[Client] = []
        for number in range(people):
            client = await synapse.register_user(f"p{number}")
            await client.join(self.room_id)
            clients.append(client)
        return [
            Rejoiner(HomeserverClient(synapse.base_url, who.user_id, who.device_id, who.token), self.focus.device)
            for who in clients
        ]

    def cpu(self) -> float:
        """CPU seconds of the homeserver."""
        return process_cpu(self._deployment.synapse.pid)

    async def stop(self) -> None:
        """End both."""
        await self._deployment.stop()


async def measure(people: int, homeserver: str) -> Restart:
    """Everybody joins; the focus is killed; everybody is back."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = WithSynapse(directory) if homeserver == "Synapse" else WithStandIn(directory)
        stack.push_async_callback(stage.stop)
        everybody = await stage.start(people)
        for person in everybody:
            person.expect(people - 1)
            await stack.enter_async_context(person)
        await _joined(everybody, stage.room_id, stage.conf_id)
        await _until(lambda: all(person.seen_all_at for person in everybody))
        return await _killed(stage, everybody)


async def _joined(everybody: Sequence[Participant], room_id: str, conf_id: str) -> None:
    waiting = iter(everybody)

    async def some() -> None:
        for person in waiting:
            await person.join(room_id, conf_id, create_call=False, timeout=PATIENCE)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2 * PATIENCE):
        while not condition():  # noqa: ASYNC110 (times are noted where they arise)
            await asyncio.sleep(0.05)


async def _killed(stage: WithSynapse | WithStandIn, everybody: Sequence[Rejoiner]) -> Restart:
    for person in everybody:
        person.expect(len(everybody) - 1)
    homeserver, own = stage.cpu(), time.process_time()
    stage.focus.kill()
    began = time.monotonic()
    rejoining = [
        asyncio.get_running_loop().create_task(person.rejoin(stage.room_id, stage.conf_id)) for person in everybody
    ]
    await stage.focus.start()
    ready = time.monotonic() - began
    await asyncio.gather(*rejoining)
    await _until(lambda: all(person.seen_all_at for person in everybody))
    opened = sorted(person.opened_at - began for person in everybody)
    return Restart(
        stage.name,
        len(everybody),
        ready,
        max(person.told_at for person in everybody) - began,
        opened[len(opened) // 2],
        opened[-1],
        max(person.seen_all_at for person in everybody) - began,
        sum(person.invites for person in everybody),
        process_cpu(stage.focus.pid),
        stage.cpu() - homeserver,
        time.process_time() - own,
    )
