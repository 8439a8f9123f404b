"""Reading a room's whole state, where the focus may: as a server admin, else as a member of the room."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from mautrix.api import Method, Path, SynapseAdminPath

from ..core.ids import RoomId
from .homeserver import As, Backoff, Homeserver, NotMatrixError, RefusedError, UnavailableError
from .interface import Count, Counted, RawEvent
from .transactions import ROOM_STATE_TYPES

log = logging.getLogger(__name__)

MAX_WAITING = 1000  # rooms that wait for their turn
REFUSED_FOR = 600.0  # seconds that a refusal is remembered; somebody may grant the permission meanwhile
MAX_REFUSED = 4096  # rooms whose refusal is remembered
TRIES = 5  # per snapshot, when the homeserver does not answer
RETAKES = 3  # when the room changed while its state was read
SHARE = 0.5  # of the time that goes into snapshots: after each a pause as long as it took
STATE_WITHIN = 60.0  # seconds; a large room takes long

HINT = (
    "The focus may not read the state of %s: calls and members from before it started are unknown there until their "
    "state changes. To allow it, make %s a server admin, or invite it to the room. (Said once.)"
)


class Snapshots:
    """One worker that reads rooms one after another; each room waits at most once."""

    def __init__(
        self,
        homeserver: Homeserver,
        deliver: Callable[[RoomId, list[RawEvent] | None], None],
        count: Count,
    ) -> None:
        self._homeserver = homeserver
        self._deliver = deliver
        self._count = count
        self._waiting: OrderedDict[RoomId, None] = OrderedDict()
        self._arrived = asyncio.Event()
        self._reading: RoomId | None = None
        self._stale = False  # the room that is being read changed meanwhile
        self._not_admin_until = float("-inf")
        self._refused: OrderedDict[RoomId, float] = OrderedDict()  # room → until when (loop time)
        self._hinted = False

    def request(self, room_id: RoomId) -> None:
        """Ask for a snapshot of a room. It is delivered later, or None is."""
        if room_id in self._waiting:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._count(Counted.SNAPSHOTS_REFUSED, 1)
            asyncio.get_running_loop().call_soon(self._deliver, room_id, None)
            return
        self._waiting[room_id] = None
        self._arrived.set()

    def changed(self, room_id: str) -> None:
        """Note a pushed event: state of this room that is being read now may be older than it."""
        if room_id == self._reading:
            self._stale = True

    def permitted(self, room_id: str) -> None:
        """Forget that a room was refused: the bot has joined it."""
        self._refused.pop(RoomId(room_id), None)

    async def work(self) -> None:
        """Take snapshots for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            room_id, _ = self._waiting.popitem(last=False)
            if not self._waiting:
                self._arrived.clear()
            started = loop.time()
            events = await self._take(room_id)
            self._count(Counted.SNAPSHOTS if events is not None else Counted.SNAPSHOTS_REFUSED, 1)
            try:
                self._deliver(room_id, events)
            except Exception:
                self._count(Counted.HANDLER_FAILED, 1)
                log.exception("A snapshot could not be handled; going on with the next one")
            await asyncio.sleep((loop.time() - started) * (1 - SHARE) / SHARE)

    async def _take(self, room_id: RoomId) -> list[RawEvent] | None:
        """Read a room until it stood still meanwhile; None if that is not permitted or fails again and again."""
        backoff = Backoff()
        tries = retakes = 0
        self._reading = room_id
        try:
            while True:
                self._stale = False
                try:
                    events = await self._read(room_id)
                except UnavailableError as error:
                    tries += 1
                    if tries >= TRIES:
                        log.warning("The state of %s could not be read: %s", room_id, error)
                        return None
                    await backoff.pause()
                    continue
                retakes += 1
                if events is None or not self._stale or retakes > RETAKES:
                    return events
        finally:
            self._reading = None

    async def _read(self, room_id: RoomId) -> list[RawEvent] | None:
        now = asyncio.get_running_loop().time()
        if now >= self._not_admin_until:
            try:
                return await self._ask(str(SynapseAdminPath.v1.rooms[room_id].state))
            except (RefusedError, NotMatrixError) as error:
                if (
                    isinstance(error, RefusedError) and error.errcode == "M_NOT_FOUND"
                ):  # what an admin is told: no such room
                    return None
                self._not_admin_until = now + REFUSED_FOR
        if now < self._refused.get(room_id, float("-inf")):
            return None
        try:
            return await self._ask(str(Path.v3.rooms[room_id].state))
        except RefusedError:
            self._remember(room_id, now + REFUSED_FOR)
            return None

    async def _ask(self, path: str) -> list[RawEvent]:
        answer = await self._homeserver.request(Method.GET, path, who=As.USER, limit=STATE_WITHIN)
        state = answer.get("state")
        if not isinstance(state, list):
            raise UnavailableError("no list of state events")
        return [event for event in state if isinstance(event, dict) and event.get("type") in ROOM_STATE_TYPES]

    def _remember(self, room_id: RoomId, until: float) -> None:
        self._refused[room_id] = until
        self._refused.move_to_end(room_id)
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
        if not self._hinted:
            self._hinted = True
            log.warning(HINT, room_id, self._homeserver.focus.user_id)
