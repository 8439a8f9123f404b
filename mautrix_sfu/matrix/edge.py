"""The Matrix edge as a whole: built from its parts, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from mautrix.api import Method, Path

from ..core.ids import Device, RoomId
from .bot_room import BotRooms
from .health import Health
from .homeserver import As, Backoff, Homeserver, RefusedError, UnavailableError
from .interface import Counted, MatrixSettings, MatrixSink, Message, RawEvent, Timed
from .introduction import forget_keys, introduce, make_device, refusal, warn_if_too_old
from .outgoing import Outgoing, in_plain_text
from .ping import Pinger
from .snapshots import Snapshots
from .to_device import Inbox
from .transactions import CALL_TYPES, Interest, Listener, always

if TYPE_CHECKING:
    from .encryption import Encryption

log = logging.getLogger(__name__)

LOAD_TRIES = 6  # for the bot's rooms, at the start: quarter of a minute
LAST_WORDS = 2.0  # seconds for what is still to be sent when stopping


class Matrix:
    """The focus's side of its homeserver.

    Room events come by transactions, to-device messages by `/sync`; both are handed to the sink in order, on the event
    loop. What goes out is queued and never blocks.
    """

    def __init__(self, settings: MatrixSettings, sink: MatrixSink, position: str | None) -> None:
        """`position` is what the sink's `on_to_device` was last given, None at the first start."""
        self._settings = settings
        self._sink = sink
        self._tasks: list[asyncio.Task[None]] = []
        count, focus = settings.count, settings.focus
        self._homeserver = homeserver = Homeserver(
            settings.homeserver_url, settings.as_token, focus, settings.verify_ssl, settings.time, settings.ended
        )
        self._health = Health(sink.on_homeserver)
        self._snapshots = Snapshots(homeserver, sink.on_snapshot, count)
        self._encryption = encryption = self._make_encryption()
        seal = encryption.seal if encryption is not None else in_plain_text
        self._outgoing = Outgoing(homeserver, count, seal, settings.time)
        self._bot = BotRooms(homeserver, settings.may_command, sink.on_bot_event, self._snapshots.permitted, count)
        interests: dict[str, Interest] = dict.fromkeys((*CALL_TYPES, "m.room.member", "m.room.redaction"), always)
        interests |= {"m.room.message": self._bot.concerns, "m.room.encrypted": self._bot.concerns}
        self._listener = Listener(settings.hs_token, interests, self._handle, count, focus.homeserver)
        self._pinger = Pinger(homeserver, settings.appservice_id, self._listener, sink.on_caught_up)
        self._inbox = Inbox(homeserver, self._health, self._on_messages, self._restore_device, count, position)
        self._listener.kept = sink.kept
        self._listener.on_lag = self._on_lag
        self._listener.on_room_for_more = self._pinger.want
        self._inbox.on_back = self._pinger.want
        if encryption is not None:
            self._inbox.on_answer = encryption.synced
            rooms = encryption.serve_rooms(settings.may_command, self._bot.hear, self._bot.send)
            self._bot.seal, self._bot.unseal, self._bot.listen = rooms.seal, rooms.take, rooms.take

    async def start(self) -> None:
        """Listen, register, and begin to read. Raises FatalError with one line if that cannot be.

        What is asked for before (messages, snapshots) waits until then.
        """
        self._homeserver.open()
        try:
            await self._listener.start(self._settings.listen_host, self._settings.listen_port)
            await introduce(self._homeserver, self._settings.start_timeout, self._see_to_keys)
            await warn_if_too_old(self._homeserver)
            await self._load_rooms()
        except BaseException:
            await self.stop()
            raise
        self._pinger.want()
        self._outgoing.open()
        for name, work in (
            ("transactions", self._listener.work()),
            ("to-device", self._inbox.work()),
            ("ping", self._pinger.work()),
            ("snapshots", self._snapshots.work()),
            ("bot", self._bot.work()),
            *(() if self._encryption is None else (("encryption", self._encryption.work()),)),
        ):
            self._tasks.append(asyncio.get_running_loop().create_task(self._supervise(name, work), name=name))

    async def stop(self) -> None:
        """Send what still waits, for two seconds at most, and end everything. Does no harm when said again."""
        if self._tasks:
            await asyncio.gather(self._outgoing.stop(LAST_WORDS), self._bot.finish(LAST_WORDS))
        else:
            await self._outgoing.stop(0.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._health.close()
        await self._listener.stop()
        await self._homeserver.close()
        if self._encryption is not None:
            await self._encryption.close()

    # ------------------------------------------------------------ what the runtime asks for

    def send_to_device(
        self, to: Device, event_type: str, content: dict[str, Any], after: Awaitable[None] | None = None
    ) -> None:
        """Queue a to-device message; it goes out after those to the same user, and when `after` is done."""
        self._outgoing.send(to, event_type, content, after)

    def request_snapshot(self, room_id: RoomId) -> None:
        """Ask for a room's state; the sink's `on_snapshot` answers, with None where it is not permitted."""
        self._snapshots.request(room_id)

    def send_message(self, room_id: str, content: dict[str, Any]) -> None:
        """Queue an `m.room.message` of the bot to a room, encrypted where the room is."""
        self._bot.send(room_id, content)

    @property
    def bot_rooms(self) -> frozenset[str]:
        """The rooms that the bot is in."""
        return self._bot.rooms

    async def round_trip(self) -> float:
        """How long the homeserver takes to answer a small question, in seconds; RefusedError or UnavailableError."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        await self._homeserver.request(Method.GET, str(Path.v3.account.whoami), who=As.USER)
        return loop.time() - asked

    @property
    def outgoing(self) -> tuple[int, float]:
        """How many to-device messages wait to be taken by the homeserver, and how long the oldest does in seconds."""
        return self._outgoing.waiting, self._outgoing.age

    @property
    def unhandled_events(self) -> int:
        """How many room events wait to be worked off."""
        return self._listener.waiting

    # ------------------------------------------------------------ what comes in

    def _on_lag(self, age: float) -> None:
        self._settings.time(Timed.TRANSACTION_AGE, age)
        self._health.pushed(age)

    def _on_messages(self, messages: list[Message], position: str) -> None:
        """Hand up what is as it came, at once; what is encrypted follows when it is open."""
        if self._encryption is not None:
            messages = self._encryption.take(messages)
        self._sink.on_to_device(messages, position)

    def _make_encryption(self) -> Encryption | None:
        if self._settings.encryption is None:
            return None
        from .encryption import Encryption  # late: its libraries are not there where it is off

        def deliver(messages: list[Message]) -> None:
            self._sink.on_to_device(messages, self._inbox.position)

        return Encryption(self._homeserver, self._settings.encryption, deliver, self._settings.count)

    async def _see_to_keys(self) -> None:
        if self._encryption is not None:
            await self._encryption.start()
        else:
            await forget_keys(self._homeserver)

    async def _restore_device(self) -> None:
        await make_device(self._homeserver)
        if self._encryption is not None:
            await self._encryption.publish_again()

    def _handle(self, event: RawEvent) -> None:
        kind, room_id = event["type"], event["room_id"]
        if kind in ("m.room.message", "m.room.encrypted"):
            self._bot.handle(event)
            return
        if kind == "m.room.member" and event.get("state_key") == self._settings.focus.user_id:
            self._bot.handle(event)
        if kind in ("m.room.member", "m.room.redaction") and not self._sink.wants_room(room_id):
            return
        self._snapshots.changed(room_id)
        self._settings.count(Counted.EVENTS, 1)
        self._sink.on_room_event(event)

    # ------------------------------------------------------------ parts

    async def _load_rooms(self) -> None:
        backoff = Backoff()
        for tries_left in reversed(range(LOAD_TRIES)):
            try:
                await self._bot.load()
                return
            except (RefusedError, UnavailableError) as error:
                if isinstance(error, RefusedError) or not tries_left:
                    log.warning("The bot's rooms could not be read; it hears no commands in them: %s", error)
                    return
            await backoff.pause()

    async def _supervise(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a part that should never end; if it does, nothing goes on as if it had not."""
        try:
            await work
        except RefusedError as error:
            self._sink.on_fatal(refusal(self._homeserver, error))
        except Exception as error:
            log.exception("The part of the Matrix edge that does %s failed", name)
            self._sink.on_fatal(f"a fault in the Matrix edge ({name}: {type(error).__name__}); the log has its trace")
