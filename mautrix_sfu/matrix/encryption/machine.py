"""Encrypted signalling as a whole: what comes in is opened and its device proven, what goes out is sealed in kind."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mautrix.api import Method, Path

from ...core.cascade import ANSWER_TIMEOUT
from ...core.ids import Device
from ...core.rate import Rate
from ..homeserver import Homeserver, RefusedError, UnavailableError
from ..interface import Count, Counted, EncryptionSettings, Message, RawEvent
from .database import open_store
from .devices import Devices, KnownDevice, is_keepable
from .intake import Intake
from .publication import Publication
from .rooms import Content, Rooms
from .seals import Seals
from .sessions import ENCRYPTED, NoSessionError, Sessions, UndecryptableError, sender_key

log = logging.getLogger(__name__)

SIGNALLING = "m.call."
DIAL_FRESH_FOR = ANSWER_TIMEOUT - 1.0  # seconds; keys of a focus: who dials it again in vain has asked for them anew
RENEW_AFTER = 3600.0  # seconds between new sessions with one device that cannot be understood
RENEWALS = (20, 1)  # in all: at once, and per second
MAX_REMEMBERED = 4096  # devices: those muted, and those with a new session
MAX_RENEWING = 256  # that wait
FAILURES = (30, 1)  # messages of one device that may fail: at once, and per second
WARNINGS = (3, 1 / 60)  # lines in the log about one user's messages: at once, and per second
MUTED_FOR = 10.0  # seconds for which a device that exceeds this is not listened to
TRIES, RETRY_FIRST = 4, 0.25  # for the keys of a sender, while the homeserver does not answer; seconds


class Encryption:
    """Olm for the focus's device. `start` before anything else."""

    def __init__(
        self,
        homeserver: Homeserver,
        settings: EncryptionSettings,
        deliver: Callable[[list[Message]], None],
        count: Count,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._homeserver = homeserver
        self._settings = settings
        self._count = count
        self._clock = clock
        self._devices = Devices(homeserver, count, clock)
        self._intake = Intake(self._open, deliver, count)
        self._failures = Rate(*FAILURES)
        self._warnings = Rate(*WARNINGS)
        self._muted: OrderedDict[Device, float] = OrderedDict()  # until when
        self._renewals = Rate(*RENEWALS)
        self._renewed: OrderedDict[Device, float] = OrderedDict()
        self._renewing: asyncio.Queue[KnownDevice] = asyncio.Queue(MAX_RENEWING)
        self._prefix = secrets.token_hex(8)
        self._number = 0
        self._parts: _Parts | None = None
        self._rooms: Rooms | None = None

    def serve_rooms(
        self, may_command: Callable[[str], bool], hear: Callable[[RawEvent], None], say: Callable[[str, Content], None]
    ) -> Rooms:
        """Make what decrypts and encrypts in the bot's rooms, before the start."""
        self._rooms = Rooms(self._homeserver, self._devices, may_command, hear, say, self._count)
        return self._rooms

    async def start(self) -> None:
        """Open the database and publish the keys. Raises FatalError, RefusedError or UnavailableError."""
        if self._parts is None:
            focus = self._homeserver.focus
            store, account = await open_store(self._settings.database, focus, self._settings.pickle_key)
            publication = Publication(self._homeserver, account, store, self._count)
            seals = Seals(store)
            await seals.load()
            sessions = Sessions(self._homeserver, focus, account, store)
            self._parts = _Parts(sessions, publication, seals, store.db.stop)
            if self._rooms is not None:
                self._rooms.open(account, store, sessions)
        await self._parts.publication.publish()

    async def close(self) -> None:
        """Close the database."""
        if self._parts is not None:
            await self._parts.close()

    async def work(self) -> None:
        """Open messages, keep keys filled and renew sessions, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._intake.work())
            group.create_task(self._started.publication.work())
            group.create_task(self._renew_sessions())
            if self._rooms is not None:
                group.create_task(self._rooms.work())

    @property
    def _started(self) -> _Parts:
        assert self._parts is not None, "encryption was not started"
        return self._parts

    async def publish_again(self) -> None:
        """Publish the keys of a device that was made again. Raises RefusedError or UnavailableError."""
        await self._started.publication.publish()

    def synced(self, answer: dict[str, Any]) -> None:
        """Take what `/sync` says of keys: whose devices changed, and how many of the own ones are left."""
        lists = answer.get("device_lists")
        if isinstance(lists, dict):
            for which in ("changed", "left"):
                users = lists.get(which)
                if isinstance(users, list):
                    self._devices.changed(user for user in users if isinstance(user, str))
        counts = answer.get("device_one_time_keys_count")
        left = counts.get("signed_curve25519", 0) if isinstance(counts, dict) else None
        unused = answer.get("device_unused_fallback_key_types")
        self._started.publication.learned(
            left if isinstance(left, int) else None,
            "signed_curve25519" in unused if isinstance(unused, list) else None,
        )

    # ------------------------------------------------------------ what comes in

    def take(self, messages: list[Message]) -> list[Message]:
        """Keep what is encrypted, and what its senders sent after it; returns what can go up at once."""
        return [message for message in self._intake.take(messages) if not self._is_downgrade(message)]

    async def _open(self, message: Message) -> Message | None:
        """Make of a message what may be believed of it; None if nothing."""
        if message.type != ENCRYPTED:
            return None if self._is_downgrade(message) else message
        try:
            return await self._decrypt(message)
        except (UndecryptableError, RefusedError, UnavailableError) as error:
            self._count(Counted.UNDECRYPTABLE, 1)
            log.debug("A message of %s cannot be decrypted: %s", message.sender, error)
        except Exception:
            self._count(Counted.HANDLER_FAILED, 1)
            log.exception("A message could not be decrypted because of a fault; going on with the next one")
        return None

    async def _decrypt(self, message: Message) -> Message | None:
        key = sender_key(message.content)
        if key is None:
            raise UndecryptableError("not an Olm message")
        known = await self._patiently(lambda: self._devices.by_key(message.sender, key))
        if known is None:
            raise UndecryptableError("its sender has no such device")
        if self._clock() < self._muted.get(known.device, 0.0):
            raise UndecryptableError("too many of this device failed")
        try:
            event_type, content = await self._started.sessions.decrypt(known, message.content)
        except UndecryptableError as error:
            self._failed(known.device)
            if error.wedged:
                self._renew(known)
            raise
        self._count(Counted.DECRYPTED, 1)
        if event_type == "m.room_key" and self._rooms is not None:
            await self._rooms.key_came(known, content)
        if not event_type.startswith(SIGNALLING):
            return None
        own_id = known.device.device_id
        if any(content.get(name, own_id) != own_id for name in ("device_id", "party_id")):
            self._count(Counted.DEVICE_LIES, 1)
            self._warn("%s encrypted a message in which it claims to be another device: dropped", known.device)
            return None
        conf_id = content.get("conf_id")
        if isinstance(conf_id, str):
            if not is_keepable(conf_id):
                self._count(Counted.MALFORMED, 1)
                return None
            await self._started.seals.put(known.device, conf_id)
        return Message(message.sender, event_type, content, proven=True)

    def _failed(self, device: Device) -> None:
        now = self._clock()
        if not self._failures.allow(device, now):
            self._muted[device] = now + MUTED_FOR
            if len(self._muted) > MAX_REMEMBERED:
                self._muted.popitem(last=False)

    def _is_downgrade(self, message: Message) -> bool:
        """Whether something in plain text speaks for a device in a call that it signals encrypted."""
        if not message.type.startswith(SIGNALLING):
            return False
        conf_id = message.content.get("conf_id")
        for name in ("device_id", "party_id"):
            device_id = message.content.get(name)
            if isinstance(device_id, str) and isinstance(conf_id, str):
                device = Device(message.sender, device_id)  # type: ignore[arg-type]
                if self._started.seals.holds(device, conf_id):
                    self._count(Counted.DOWNGRADES, 1)
                    self._warn("A message in plain text claims to be of %s, whose call is encrypted: dropped", device)
                    return True
        return False

    def _warn(self, what: str, device: Device) -> None:
        """Log what a user's message is worth; the counters tell the rest."""
        if self._warnings.allow(device.user_id, self._clock()):
            log.warning(what, device)

    async def _patiently(self, ask: Callable[[], Awaitable[KnownDevice | None]]) -> KnownDevice | None:
        pause = RETRY_FIRST
        for _ in range(TRIES - 1):
            try:
                return await ask()
            except UnavailableError:
                await asyncio.sleep(pause)
                pause *= 2
        return await ask()

    # ------------------------------------------------------------ what goes out

    async def seal(self, to: Device, event_type: str, content: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """(type, content) to send instead: encrypted where the call is, or where a focus that is dialled has keys.

        None if it must not be sent in plain text and cannot be encrypted. Raises UnavailableError to try again.
        """
        conf_id = content.get("conf_id")
        sealed = self._started.seals.holds(to, conf_id)
        dials = event_type == "m.call.invite"
        if not event_type.startswith(SIGNALLING) or not (sealed or dials):
            return event_type, content
        try:
            known = await self._devices.by_id(to, DIAL_FRESH_FOR) if dials else await self._devices.by_id(to)
            if known is None and dials and not sealed and not self._settings.require:
                return event_type, content
            if known is None:
                raise NoSessionError(f"{to} has no keys")
            encrypted = await self._started.sessions.encrypt(known, event_type, content)
            if isinstance(conf_id, str):
                await self._started.seals.put(to, conf_id)
        except (NoSessionError, RefusedError) as error:
            self._count(Counted.UNENCRYPTABLE, 1)
            log.warning("A message (%s) to %s cannot be encrypted and is not sent: %s", event_type, to, error)
            return None
        except UnavailableError:
            raise
        except Exception:
            self._count(Counted.HANDLER_FAILED, 1)
            log.exception("A message (%s) to %s could not be encrypted because of a fault", event_type, to)
            return None
        self._count(Counted.ENCRYPTED, 1)
        return ENCRYPTED, encrypted

    # ------------------------------------------------------------ sessions that are of no use any more

    def _renew(self, known: KnownDevice) -> None:
        """Ask for a new session with a device that cannot be understood, seldom (specification, 11.12.4.2)."""
        now = self._clock()
        last = self._renewed.get(known.device)
        if (last is not None and now - last < RENEW_AFTER) or not self._renewals.allow("", now):
            return
        if self._renewing.full():
            return
        self._renewed[known.device] = now
        self._renewed.move_to_end(known.device)
        if len(self._renewed) > MAX_REMEMBERED:
            self._renewed.popitem(last=False)
        self._renewing.put_nowait(known)

    async def _renew_sessions(self) -> None:
        while True:
            known = await self._renewing.get()
            try:
                content = await self._started.sessions.encrypt(known, "m.dummy", {}, new_session=True)
                self._number += 1
                path = Path.v3.sendToDevice[ENCRYPTED][f"{self._prefix}-{self._number}"]
                messages = {known.device.user_id: {known.device.device_id: content}}
                await self._homeserver.request(Method.PUT, str(path), {"messages": messages})
            except Exception as error:  # it is for the better only
                log.info("No new session with %s could be begun: %s", known.device, error)
            else:
                self._count(Counted.SESSIONS_RENEWED, 1)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What there is once the database is open."""

    sessions: Sessions
    publication: Publication
    seals: Seals
    close: Callable[[], Awaitable[None]]
