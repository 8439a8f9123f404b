"""The listener for the homeserver's transactions: taken in raw, filtered, worked off in order, answered when kept."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from mautrix.appservice.as_handler import AppServiceServerMixin

from ..errors import cannot_listen
from .interface import Count, Counted, RawEvent

log = logging.getLogger(__name__)

MAX_BODY = 32 * 1024 * 1024  # bytes; Synapse sends at most 100 events of 64 KiB, each with its previous content
MAX_QUEUED = 20_000  # events that wait; beyond it transactions get a 503 and come again
SLICE = 50  # events worked off before others have their turn
MAX_AGE = 10**12  # milliseconds; JSON's numbers may be too large for a float
AGE_LOOKS_AT = 8  # last events of a transaction, for one of the own homeserver
SEEN = 8192  # event ids remembered to drop repeats

CALL_TYPES = ("org.matrix.msc3401.call", "m.call", "org.matrix.msc3401.call.member", "m.call.member")
ROOM_STATE_TYPES = (*CALL_TYPES, "m.room.member")

Interest = Callable[[RawEvent], bool]


async def _at_once() -> bool:
    return True


def always(_event: RawEvent) -> bool:
    """The interest in an event whose type says enough."""
    return True


class Listener(AppServiceServerMixin):
    """The application service's side of the push API (Matrix application service API, v1).

    Transaction ids are not looked at: Synapse starts again at 1 when it restarts. What repeats is known by its event
    id, which also holds when two deliveries of one transaction overlap.

    A transaction with events that concern us is answered when they are on disk: what was answered does not come again,
    and a focus that may not read a room would not know after a crash who was kicked from it.
    """

    def __init__(
        self,
        hs_token: str,
        interests: dict[str, Interest],
        handle: Callable[[RawEvent], None],
        count: Count,
        server_name: str,
    ) -> None:
        super().__init__(log=logging.getLogger(f"{__name__}.http"), hs_token=hs_token)
        self.on_lag: Callable[[float], None] = lambda _seconds: None  # age of a transaction's newest local event
        self.on_room_for_more: Callable[[], None] = lambda: None  # worked off after a 503: the homeserver may go on
        self.kept: Callable[[], Awaitable[bool]] = _at_once  # what was handed up is on disk
        self._token = hs_token.encode()
        self._interests = interests
        self._handle_event = handle
        self._count = count
        self._suffix = f":{server_name}"
        self._queue: deque[RawEvent | asyncio.Future[None]] = deque()  # a future: who waits for what is before it
        self._arrived = asyncio.Event()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._refused = False
        self._runner: web.AppRunner | None = None
        self.last_transaction = float("-inf")  # loop time
        self.last_age: float | None = None  # seconds; of the newest local event in the last transaction

    # ------------------------------------------------------------ the listener

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises FatalError if the address is taken or not ours."""
        app = web.Application(client_max_size=MAX_BODY)
        self.register_routes(app)
        # No access log: older homeservers put the hs_token into the query.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            where = f"{host}, TCP port {port}"
            raise cannot_listen("appservice.hostname and appservice.port", where, error) from error

    async def stop(self) -> None:
        """Stop listening; what is queued stays unhandled, and comes up again by a snapshot or not at all."""
        for waiting in self._queue:
            if isinstance(waiting, asyncio.Future):
                waiting.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def _check_token(self, request: web.Request) -> bool:
        """Compare in constant time; called by mautrix for every route."""
        if has_token(request, self._token):
            return True
        self._count(Counted.UNAUTHORIZED, 1)
        return False

    async def _http_handle_transaction(self, request: web.Request) -> web.Response:
        if not self._check_token(request):
            return _answer(401, "M_UNKNOWN_TOKEN", "wrong hs_token")
        if len(self._queue) >= MAX_QUEUED:
            self._refused = True
            self._count(Counted.TRANSACTIONS_REFUSED, 1)
            return _answer(503, "M_LIMIT_EXCEEDED", "too much to work off, try again")
        try:
            body = json.loads(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return self._unreadable(413, "M_TOO_LARGE", f"larger than {MAX_BODY} bytes")
        except (ValueError, RecursionError):
            return self._unreadable(400, "M_NOT_JSON", "not JSON")
        events = body.get("events") if isinstance(body, dict) else None
        if not isinstance(events, list):
            return self._unreadable(400, "M_BAD_JSON", "no list of events")
        self._count(Counted.TRANSACTIONS, 1)
        if self.take(events) and not await self._worked_off():
            return _answer(503, "M_UNKNOWN", "the focus stops")
        return web.json_response({})

    def _unreadable(self, status: int, errcode: str, error: str) -> web.Response:
        """Refuse what only a faulty homeserver sends; it will repeat it, and nothing else comes meanwhile."""
        self._count(Counted.MALFORMED, 1)
        log.error("A transaction of the homeserver cannot be read: %s", error)
        return _answer(status, errcode, error)

    # ------------------------------------------------------------ the queue

    def take(self, events: list[Any]) -> bool:
        """Queue what concerns calls or the bot; False if nothing did. Anything else costs a dictionary look-up."""
        interests = self._interests
        before = len(self._queue)
        for event in events:
            try:
                interest = interests.get(event["type"])
            except (TypeError, KeyError):
                self._count(Counted.MALFORMED, 1)
                continue
            if interest is None:
                continue
            if not _is_event(event):
                self._count(Counted.MALFORMED, 1)
            elif interest(event):
                self._queue.append(event)
        if self._queue:
            self._arrived.set()
        self.last_transaction = asyncio.get_running_loop().time()
        self.last_age = self._newest_age(events)
        if self.last_age is not None:
            self.on_lag(self.last_age)
        return len(self._queue) > before

    async def _worked_off(self) -> bool:
        """Wait until all that is queued now was handed up and is on disk; False if that will not be."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append(done)
        await asyncio.wait([done])
        return not done.cancelled() and await self.kept()

    @property
    def waiting(self) -> int:
        """How much was taken in and is not worked off."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether everything taken in has been worked off."""
        return not self._queue

    async def work(self) -> None:
        """Work the queue off, for ever."""
        while True:
            await self._arrived.wait()
            for _ in range(min(SLICE, len(self._queue))):
                event = self._queue.popleft()
                if not isinstance(event, asyncio.Future):
                    self._hand_up(event)
                elif not event.done():
                    event.set_result(None)
            if not self._queue:
                self._arrived.clear()
                if self._refused:
                    self._refused = False
                    self.on_room_for_more()
            await asyncio.sleep(0)

    def _hand_up(self, event: RawEvent) -> None:
        event_id = event["event_id"]
        if event_id in self._seen:
            self._count(Counted.EVENTS_REPEATED, 1)
            return
        self._seen[event_id] = None
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        try:
            self._handle_event(event)
        except Exception:
            self._count(Counted.HANDLER_FAILED, 1)
            log.exception("A room event could not be handled; going on with the next one")

    def _newest_age(self, events: list[Any]) -> float | None:
        """Return how long ago the newest event of the own homeserver was made, in seconds (its own reckoning)."""
        for event in reversed(events[-AGE_LOOKS_AT:]):
            match event:
                case {"sender": str(sender), "unsigned": {"age": int(age)}} if (
                    sender.endswith(self._suffix) and abs(age) < MAX_AGE
                ):
                    return age / 1000
        return None


def has_token(request: web.Request, token: bytes) -> bool:
    """Whether a request has this `hs_token`, in its header or as older homeservers send it; in constant time."""
    header = request.headers.get("Authorization", "")
    found = header.removeprefix("Bearer ") if header else request.query.get("access_token", "")
    return hmac.compare_digest(found.encode(errors="surrogateescape"), token)


def _is_event(event: RawEvent) -> bool:
    return (
        isinstance(event.get("event_id"), str)
        and isinstance(event.get("room_id"), str)
        and isinstance(event.get("sender"), str)
        and isinstance(event.get("content"), dict)
    )


def _answer(status: int, errcode: str, error: str) -> web.Response:
    return web.json_response({"errcode": errcode, "error": error}, status=status)
