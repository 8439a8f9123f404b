"""Requests to the homeserver as the focus's own user and device, with two kinds of failure: refused, and try again."""

from __future__ import annotations

import asyncio
import logging
import random
from enum import Enum
from typing import Any, cast

import aiohttp
from mautrix.api import HTTPAPI, Method
from mautrix.errors import MatrixError, MatrixRequestError
from mautrix.types import UserID
from mautrix.util.logging import TraceLogger

from ..core.ids import Device
from .interface import Ended, Outcome, Time, Timed

REQUEST_TIMEOUT = 30.0  # seconds
BACKOFF_FIRST = 0.5  # seconds; doubled each time
BACKOFF_CEILING = 30.0

# Refusals of the registration or its token as a whole: nothing that is tried again will work.
_TOKEN_ERRORS = frozenset(("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"))


class As(Enum):
    """In whose name a request is made."""

    SERVICE = "service"
    USER = "user"
    DEVICE = "device"


class RefusedError(Exception):
    """The homeserver answered, and the answer is no (4xx)."""

    def __init__(self, status: int, errcode: str, message: str) -> None:
        super().__init__(f"{status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode

    @property
    def is_token(self) -> bool:
        """Whether the token itself was refused."""
        return self.errcode in _TOKEN_ERRORS


class UnavailableError(Exception):
    """No answer, or one that says to try again (5xx, 429)."""

    outcome = Outcome.UNREACHABLE

    def __init__(self, message: str, errcode: str = "", outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.errcode = errcode
        self.outcome = outcome or self.outcome


class NotMatrixError(UnavailableError):
    """A 4xx that no homeserver gave: a proxy's, while the homeserver is away or because it hides this path."""

    outcome = Outcome.NO_HOMESERVER


class Backoff:
    """Growing pauses with jitter, so that many waiters do not come back at once."""

    def __init__(self, first: float = BACKOFF_FIRST, ceiling: float = BACKOFF_CEILING) -> None:
        self._first = first
        self._ceiling = ceiling
        self._next = first

    async def pause(self) -> None:
        """Wait, longer each time."""
        pause = self._next * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)
        self._next = min(self._next * 2, self._ceiling)
        await asyncio.sleep(pause)

    def reset(self) -> None:
        """Start again with the first pause."""
        self._next = self._first


class Homeserver:
    """The client-server API over mautrix's HTTPAPI. Tokens stand in headers only, bodies never in the log."""

    def __init__(
        self,
        base_url: str,
        as_token: str,
        focus: Device,
        verify_ssl: bool = True,
        time: Time = lambda _what, _seconds: None,
        ended: Ended = lambda _outcome: None,
    ) -> None:
        self.url = base_url
        self.focus = focus
        self._token = as_token
        self._verify_ssl = verify_ssl
        self._time = time
        self._ended = ended
        self._session: aiohttp.ClientSession | None = None
        self._apis: dict[As, HTTPAPI] = {}

    def open(self) -> None:
        """Make the client of the running event loop."""
        self._session = session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=100, ssl=self._verify_ssl), cookie_jar=aiohttp.DummyCookieJar()
        )
        user_id, device_id = UserID(self.focus.user_id), UserID(self.focus.device_id)
        log = cast("TraceLogger", logging.getLogger(f"{__name__}.http"))

        def api(as_user_id: UserID | None, as_device_id: UserID | None) -> HTTPAPI:
            return HTTPAPI(
                self.url,
                self._token,
                client_session=session,
                log=log,
                as_user_id=as_user_id,
                as_device_id=as_device_id,
            )

        self._apis = {As.SERVICE: api(None, None), As.USER: api(user_id, None), As.DEVICE: api(user_id, device_id)}

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: Method,
        path: str,
        content: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        *,
        who: As = As.DEVICE,
        limit: float = REQUEST_TIMEOUT,
    ) -> dict[str, Any]:
        """Make one request and return the JSON object that answers it.

        `path` is already quoted. Who asks: the focus's device (user_id and device_id in the
        query), the focus's user (an unknown device is an error), or the application service itself.
        A list that answers is returned as `{"state": list}`. Raises RefusedError or UnavailableError.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            answer = await self._ask(method, path, content, query, who, limit)
        except RefusedError:
            self._ended(Outcome.REFUSED)
            raise
        except UnavailableError as error:
            self._ended(error.outcome)
            raise
        self._ended(Outcome.OK)
        if limit <= REQUEST_TIMEOUT:
            self._time(Timed.REQUEST, loop.time() - started)
        return answer

    async def _ask(
        self,
        method: Method,
        path: str,
        content: dict[str, Any] | None,
        query: dict[str, str] | None,
        who: As,
        limit: float,
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(limit):
                answer: Any = await self._apis[who].request(
                    method, path, content, query_params=query, sensitive=method is not Method.GET
                )
        except MatrixRequestError as error:
            raise _classify(error) from None
        except TimeoutError as error:
            raise UnavailableError(str(error) or type(error).__name__, outcome=Outcome.TIMEOUT) from None
        except (MatrixError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(str(error) or type(error).__name__) from None
        except (ValueError, TypeError, AttributeError) as error:  # no JSON, or none of the kind that mautrix reads
            what = f"not a homeserver's answer ({type(error).__name__})"
            raise UnavailableError(what, outcome=Outcome.UNREADABLE) from None
        if isinstance(answer, list):  # GET …/state
            return {"state": answer}
        if not isinstance(answer, dict):
            raise UnavailableError("not a homeserver's answer", outcome=Outcome.UNREADABLE)
        return answer


def _classify(error: MatrixRequestError) -> RefusedError | UnavailableError:
    errcode = error.errcode if isinstance(error.errcode, str) else ""
    message = str(error.message or "")[:300]
    if error.http_status >= 500 or error.http_status in (408, 429):
        outcome = Outcome.RATE_LIMITED if error.http_status == 429 else Outcome.SERVER_ERROR
        return UnavailableError(f"HTTP {error.http_status} {errcode} {message}".strip(), errcode, outcome)
    if not errcode:  # a proxy's 404 or 403, not the homeserver's
        return NotMatrixError(f"HTTP {error.http_status} without a Matrix error code")
    return RefusedError(error.http_status, errcode, message)
