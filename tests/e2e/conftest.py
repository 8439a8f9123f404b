"""Deployments for end-to-end tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.federation import Federation
from tests.support.focus import ROOT, Deployment
from tests.support.packaging import build_wheel
from tests.support.running import running

LONGEST = ("test_cascade_outage.py", "test_cascade.py", "test_cascade_failures.py", "test_cascade_impostors.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules that take longest begin, so that no process works on one of them when all others are through."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="module")
def shared_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One Synapse and one focus for all tests of a module: each test has users and a room of its own."""
    with running(Deployment(tmp_path_factory.mktemp("deployment"))) as made:
        yield made


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
    with running(Federation(tmp_path_factory.mktemp("federation"), 3)) as made:
        yield made


@pytest.fixture
async def federation(shared_federation: Federation) -> AsyncIterator[Federation]:
    """The shared homeservers and foci, all running; a test may stop and kill them."""
    await shared_federation.restore()
    yield shared_federation
    await shared_federation.close_http()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make wheel` builds, from the crate's build folder (so that CI compiles it once)."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))
