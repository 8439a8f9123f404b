"""One deployment for everything about outsiders, and in each test two participants who talk all the time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.calls import Call
from tests.support.focus import Deployment
from tests.support.running import running

from .support import Talk

LEGS_PER_USER, LEGS_PER_CONFERENCE, HELD_LEGS_PER_USER = 2, 5, 1
_LIMITS = {
    "legs_per_user": LEGS_PER_USER,
    "legs_per_conference": LEGS_PER_CONFERENCE,
    "held_legs_per_user": HELD_LEGS_PER_USER,
}


@pytest.fixture(scope="package")
def shared_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A Synapse, and a focus that soon refuses what it waits for in vain, with limits that tests can reach."""
    overrides = {"conferences": {"invite_wait": 1.5, "limits": _LIMITS}}
    with running(Deployment(tmp_path_factory.mktemp("outsiders"), overrides)) as made:
        yield made


@pytest.fixture
async def call(shared_deployment: Deployment) -> AsyncIterator[Call]:
    """A call that nobody has joined."""
    async with Call(shared_deployment) as made:
        made.stopped_layers = {"f", "h"}
        yield made


@pytest.fixture
async def talk(call: Call) -> AsyncIterator[Talk]:
    """Alice and Bob in a call. Whatever happens, neither may miss the other for a second."""
    alice, bob = await call.joined("alice", "bob")
    async with Talk(call, alice, bob) as made:
        yield made
