"""Deployments for end-to-end tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.federation import Federation
from tests.support.focus import Deployment


@pytest.fixture(scope="module")
def shared_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One Synapse and one focus for all tests of a module: each test has users and a room of its own."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))

    async def start() -> None:
        await deployment.start()
        await deployment.synapse.close_http()

    try:
        asyncio.run(start())
        yield deployment
    finally:
        asyncio.run(deployment.stop())


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A Synapse and a focus for one test, which may stop and kill them."""
    made = Deployment(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture(scope="module")
def shared_federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Three homeservers and foci for all tests of a module: each test has users and a room of its own."""
    made = Federation(tmp_path_factory.mktemp("federation"), 3)

    async def start() -> None:
        try:
            await made.start()
        finally:
            await made.close_http()

    try:
        asyncio.run(start())
        yield made
    finally:
        asyncio.run(made.stop())


@pytest.fixture
async def federation(shared_federation: Federation) -> AsyncIterator[Federation]:
    """The shared homeservers and foci, all running; a test may stop and kill them."""
    await shared_federation.restore()
    yield shared_federation
    await shared_federation.close_http()
