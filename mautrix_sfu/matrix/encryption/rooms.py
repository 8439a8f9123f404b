"""Megolm: what is said in the bot's encrypted rooms, and what the bot says there."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mautrix.api import Method, Path
from mautrix.crypto import InboundGroupSession, OutboundGroupSession
from mautrix.crypto.account import OlmAccount
from mautrix.types import EventID, IdentityKey, RoomID, SessionID, SigningKey
from olm.group_session import OlmGroupSessionError

from ..homeserver import As, Backoff, Homeserver, RefusedError, UnavailableError
from ..interface import Count, Counted, RawEvent
from .database import KeyStore
from .devices import Devices, KnownDevice, is_keepable, is_key
from .sessions import ENCRYPTED, NoSessionError, Sessions

log = logging.getLogger(__name__)

MEGOLM = "m.megolm.v1.aes-sha2"
MAX_QUEUED = 256  # events that wait to be decrypted
MAX_KEYLESS = 64  # events whose key has not come yet
KEY_WITHIN = 10.0  # seconds that a key may come after the message
TRIES = 5  # while the homeserver does not answer
MAX_TOLD = 256  # sessions that the bot has complained of
MAX_DEVICES = 2000  # that are given the key of a room
SHARE_AT_ONCE = 20  # devices in one request: a message may be as large as 64 KiB, a key is 1 KiB
LOST = "I could not decrypt that: its key did not reach me. Please say it again."
PLAIN = "This room is encrypted, and what you said was not: I take it for nobody's. Please say it encrypted."

Content = dict[str, Any]


class NotReadableError(Exception):
    """An event that is not what it should be."""


@dataclass(slots=True)
class _Own:
    """The bot's own session in a room."""

    session: OutboundGroupSession
    shared_with: set[str] = field(default_factory=set)  # identity keys


class Rooms:
    """Commands count if the device that encrypted them belongs, by its signed keys, to the sender of the event.

    Answers are readable for all devices of the room's joined members, verified by somebody or not.
    """

    def __init__(
        self,
        homeserver: Homeserver,
        devices: Devices,
        may_command: Callable[[str], bool],
        hear: Callable[[RawEvent], None],
        say: Callable[[str, Content], None],
        count: Count,
    ) -> None:
        self._homeserver = homeserver
        self._devices = devices
        self._may_command = may_command
        self._hear = hear
        self._say = say
        self._count = count
        self._queue: asyncio.Queue[RawEvent] = asyncio.Queue(MAX_QUEUED)
        self._keyless: dict[tuple[str, str], list[RawEvent]] = {}
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._encrypted: dict[str, Content] = {}  # rooms known to be; never again otherwise
        self._own: dict[str, _Own] = {}
        self._prefix = secrets.token_hex(8)
        self._number = 0
        self._account: OlmAccount | None = None
        self._store: KeyStore | None = None
        self._sessions: Sessions | None = None

    def open(self, account: OlmAccount, store: KeyStore, sessions: Sessions) -> None:
        """Take what there is once the database is open."""
        self._account, self._store, self._sessions = account, store, sessions

    # ------------------------------------------------------------ what is said to the bot

    def take(self, event: RawEvent) -> None:
        """Queue an `m.room.message` or `m.room.encrypted` of somebody who may command the bot."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._count(Counted.ENCRYPTED_DROPPED, 1)

    async def work(self) -> None:
        """Hand up what is queued when it is decrypted, for ever."""
        while True:
            event = await self._queue.get()
            try:
                await self._try(event)
            except (NotReadableError, RefusedError, UnavailableError) as error:
                self._count(Counted.UNDECRYPTABLE, 1)
                log.info("A message of %s in %s cannot be read: %s", event["sender"], event["room_id"], error)
            except Exception:
                self._count(Counted.HANDLER_FAILED, 1)
                log.exception("A message to the bot could not be handled; going on with the next one")

    async def _try(self, event: RawEvent) -> None:
        backoff = Backoff()
        for _ in range(TRIES - 1):
            try:
                await self._open(event)
                return
            except UnavailableError:
                await backoff.pause()
        await self._open(event)

    async def _open(self, event: RawEvent) -> None:
        if event["type"] != ENCRYPTED:
            if await self._settings(event["room_id"]) is None:
                self._hear(event)
            else:
                self._count(Counted.DOWNGRADES, 1)
                self._complain(event["room_id"], f"plain text of {event['sender']}", PLAIN)
            return
        match event["content"]:
            case {"algorithm": str(kind), "session_id": str(session_id), "ciphertext": str(text)} if (
                kind == MEGOLM and is_key(session_id)
            ):
                pass
            case _:
                raise NotReadableError("not encrypted by Megolm")
        assert self._store is not None
        session = await self._store.get_group_session(RoomID(event["room_id"]), SessionID(session_id))
        if session is None:
            self._wait_for_key(event, session_id)
            return
        self._hear(await self._decrypted(event, session, text))

    async def _decrypted(self, event: RawEvent, session: InboundGroupSession, text: str) -> RawEvent:
        assert self._store is not None
        known = await self._devices.by_key(event["sender"], session.sender_key)
        if known is None or known.signing_key != session.signing_key:
            raise NotReadableError("its key came from a device that is not the sender's")
        try:
            plaintext, index = session.decrypt(text)
            payload = json.loads(plaintext)
        except (OlmGroupSessionError, ValueError, RecursionError) as error:
            raise NotReadableError(str(error)) from error
        sent = event.get("origin_server_ts")
        if not await self._store.validate_message_index(
            session.sender_key,
            SessionID(session.id),
            EventID(event["event_id"]),
            index,
            sent if isinstance(sent, int) else 0,
        ):
            raise NotReadableError("it was sent again under another event id")
        match payload:
            case {"room_id": str(room_id), "type": str(kind), "content": dict(content)} if room_id == event["room_id"]:
                self._count(Counted.DECRYPTED, 1)
                return {**event, "type": kind, "content": content}
        raise NotReadableError("its content is for another room, or none")

    async def key_came(self, known: KnownDevice, content: Content) -> None:
        """Take an `m.room_key` that a device sent encrypted, if its user may command the bot."""
        assert self._store is not None
        match content:
            case {"algorithm": str(kind), "room_id": str(room), "session_id": str(session_id), "session_key": str(key)}:
                pass
            case _:
                return
        if kind != MEGOLM or not is_keepable(room) or not self._may_command(known.device.user_id):
            return
        try:
            session = InboundGroupSession(
                key, SigningKey(known.signing_key), IdentityKey(known.identity_key), RoomID(room)
            )
        except (OlmGroupSessionError, ValueError):
            return
        if session.id != session_id:
            return
        if await self._store.get_group_session(RoomID(room), SessionID(session_id)) is None:
            await self._store.put_group_session(
                RoomID(room), IdentityKey(known.identity_key), SessionID(session_id), session
            )
        for event in self._keyless.pop((room, session_id), ()):
            self.take(event)

    def _wait_for_key(self, event: RawEvent, session_id: str) -> None:
        """Room keys and room events come by different ways."""
        key = (event["room_id"], session_id)
        if sum(map(len, self._keyless.values())) >= MAX_KEYLESS:
            self._count(Counted.ENCRYPTED_DROPPED, 1)
            return
        if key not in self._keyless:
            self._keyless[key] = []
            asyncio.get_running_loop().call_later(KEY_WITHIN, self._give_up, key)
        self._keyless[key].append(event)

    def _give_up(self, key: tuple[str, str]) -> None:
        lost = self._keyless.pop(key, None)
        if lost is not None:
            self._count(Counted.UNDECRYPTABLE, len(lost))
            self._complain(*key, LOST)

    def _complain(self, room_id: str, what: str, words: str) -> None:
        """Say it once."""
        if (room_id, what) in self._told:
            return
        self._told[room_id, what] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        self._say(room_id, {"msgtype": "m.notice", "body": words})

    # ------------------------------------------------------------ what the bot says

    async def seal(self, room_id: str, content: Content) -> tuple[str, Content]:
        """(type, content) of what to send to a room. Raises RefusedError or UnavailableError: nothing is sent then."""
        settings = await self._settings(room_id)
        if settings is None:
            return "m.room.message", content
        own = await self._shared(room_id, settings)
        payload = {"room_id": room_id, "type": "m.room.message", "content": content}
        assert self._account is not None
        self._count(Counted.ENCRYPTED, 1)
        relation = {"m.relates_to": content["m.relates_to"]} if "m.relates_to" in content else {}  # the server reads it
        return ENCRYPTED, relation | {
            "algorithm": MEGOLM,
            "sender_key": self._account.identity_key,
            "device_id": self._homeserver.focus.device_id,
            "session_id": own.session.id,
            "ciphertext": own.session.encrypt(json.dumps(payload)),  # type: ignore[no-untyped-call]
        }

    async def _settings(self, room_id: str) -> Content | None:
        """The room's `m.room.encryption`; None if it is not encrypted. Raises RefusedError or UnavailableError."""
        known = self._encrypted.get(room_id)
        if known is not None:
            return known
        path = Path.v3.rooms[room_id].state["m.room.encryption"]
        try:
            found = await self._homeserver.request(Method.GET, str(path), who=As.USER)
        except RefusedError as error:
            if error.errcode == "M_NOT_FOUND":
                return None
            raise
        self._encrypted[room_id] = found
        return found

    async def _shared(self, room_id: str, settings: Content) -> _Own:
        """The session for the next message: known to all devices of the members, and to nobody who left."""
        members = await self._members(room_id)
        there = {
            known.identity_key: known
            for known in (await self._devices.of(members))[:MAX_DEVICES]
            if known.device != self._homeserver.focus
        }
        own = self._own.get(room_id)
        if own is None or own.session.expired or own.shared_with - there.keys():
            own = self._own[room_id] = _Own(_new_session(room_id, settings))
        missing = [known for key, known in there.items() if key not in own.shared_with]
        silent: set[str] = set()
        for start in range(0, len(missing), SHARE_AT_ONCE):
            await self._share(own, missing[start : start + SHARE_AT_ONCE], silent)
        return own

    async def _members(self, room_id: str) -> list[str]:
        answer = await self._homeserver.request(Method.GET, str(Path.v3.rooms[room_id].joined_members), who=As.USER)
        joined = answer.get("joined")
        if not isinstance(joined, dict):
            raise UnavailableError("no joined members")
        return [user for user in joined if isinstance(user, str)]

    async def _share(self, own: _Own, devices: list[KnownDevice], silent: set[str]) -> None:
        """Give devices the session's key. Homeservers that do not answer are added to `silent`, and asked no more."""
        key = {
            "algorithm": MEGOLM,
            "room_id": own.session.room_id,
            "session_id": own.session.id,
            "session_key": own.session.session_key,
        }
        messages: dict[str, dict[str, Content]] = {}
        for known in devices:
            try:
                assert self._sessions is not None
                if known.device.homeserver in silent:
                    raise UnavailableError("its homeserver has just not answered")
                encrypted = await self._sessions.encrypt(known, "m.room_key", key)
            except (NoSessionError, RefusedError, UnavailableError) as error:
                if isinstance(error, UnavailableError):
                    silent.add(known.device.homeserver)
                log.info("%s will not be able to read the bot: %s", known.device, error)
            else:
                messages.setdefault(known.device.user_id, {})[known.device.device_id] = encrypted
        self._number += 1
        path = Path.v3.sendToDevice[ENCRYPTED][f"{self._prefix}-{self._number}"]
        await self._homeserver.request(Method.PUT, str(path), {"messages": messages})
        own.shared_with.update(known.identity_key for known in devices)


def _new_session(room_id: str, settings: Content) -> OutboundGroupSession:
    session = OutboundGroupSession(RoomID(room_id))
    session.shared = True
    messages, age = settings.get("rotation_period_msgs"), settings.get("rotation_period_ms")
    if isinstance(messages, int) and 0 < messages < session.max_messages:
        session.max_messages = messages
    if isinstance(age, int) and 0 < age < session.max_age.total_seconds() * 1000:
        session.max_age = timedelta(milliseconds=age)
    return session
