"""Deployments that outlive the event loop of one test: what fixtures for a module or package share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class _Startable(Protocol):
    """A deployment, or several."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def close_http(self) -> None: ...


T = TypeVar("T", bound=_Startable)


@contextmanager
def running(made: T, prepare: Callable[[], Awaitable[object]] | None = None) -> Iterator[T]:
    """Start it, and `prepare` what its tests need, in an event loop of its own; stop it in the end."""

    async def start() -> None:
        try:
            await made.start()
            if prepare is not None:
                await prepare()
        finally:
            await made.close_http()

    try:
        asyncio.run(start())
        yield made
    finally:
        asyncio.run(made.stop())
