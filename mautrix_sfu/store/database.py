"""A database as the store needs it, whichever it is: reached by one process at a time, its errors in one clear line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import ExitCode, FatalError


class AwayError(Exception):
    """The database does not answer, and may do so again. The message is for the operator, without secrets."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code: ExitCode = exit_code  # of a process that does not wait for it

    def fatal(self) -> FatalError:
        """What ends a process that does not wait for it."""
        return FatalError(str(self), self.exit_code)


class Database(ABC):
    """One database, and the one connection over which this process holds and writes it."""

    name: str  # in messages; without a password
    dialect: str  # "sqlite" or "postgresql"
    insert: Callable[[Table], Any]  # the dialect's INSERT, that can also update
    heartbeat: float | None = None  # seconds after which it is asked whether it is still there; None: it always is
    command_timeout: float | None = None  # seconds after which it counts as away; None: it is waited for

    @abstractmethod
    async def connect(self, on_lost: Callable[[], None] = lambda: None) -> AsyncConnection:
        """Reach it, and keep every other focus out; `on_lost` may tell when it goes away.

        What an earlier call gave is given up. Raises FatalError, or AwayError.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let others in. Raises nothing."""

    @abstractmethod
    def explain(self, error: Exception) -> FatalError | AwayError:
        """What an error means that it gave."""


def original(error: BaseException) -> BaseException:
    """The driver's own error."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).partition("\n")[0] or type(error).__name__
