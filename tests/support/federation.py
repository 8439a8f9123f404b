"""Several federated homeservers on this machine, each with a focus of its own: what a cascade runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.certificates import make_certificate
from tests.support.focus import Deployment
from tests.support.synapse import TlsListener, free_port

# Here the foci reach each other over loopback, which no focus dials unless it is told to.
CASCADE: Mapping[str, Mapping[str, Any]] = {"cascade": {"allow_private": True}}


class Federation:
    """N homeservers that federate, and their foci. `sites` are in the order of the foci: an earlier one dials a later.

    It belongs to no event loop, as Synapse does not.
    """

    def __init__(
        self, directory: Path, count: int = 2, overrides: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        certificate, key = make_certificate(directory)
        listeners = [TlsListener(port, certificate, key) for port in _free_ports(count)]
        names = [f"site-{number}" for number in range(count)]
        self.sites: tuple[Deployment, ...] = tuple(
            Deployment(_made(directory / name), CASCADE if overrides is None else overrides, listener)
            for name, listener in zip(names, sorted(listeners, key=lambda it: it.server_name), strict=True)
        )

    async def start(self) -> None:
        """Start everything, the sites side by side; the foci are ready when this returns."""
        async with asyncio.TaskGroup() as group:
            for site in self.sites:
                group.create_task(site.start())

    async def restore(self) -> None:
        """Start again whatever a test left stopped or killed."""
        async with asyncio.TaskGroup() as group:
            for site in self.sites:
                group.create_task(_restore(site))

    async def stop(self) -> None:
        """Stop everything; the files stay."""
        async with asyncio.TaskGroup() as group:
            for site in self.sites:
                group.create_task(site.stop())

    async def close_http(self) -> None:
        """Close what the running loop's clients hold open."""
        for site in self.sites:
            await site.synapse.close_http()


async def _restore(site: Deployment) -> None:
    if not site.synapse.running:
        await site.synapse.start()
    if site.focus.exit_code is not None:
        await site.focus.start()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _free_ports(count: int) -> set[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return found
