"""Fixtures for every test: real parts, started when asked for and always ended."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.synapse import Registration, Synapse

settings.register_profile(  # wall time says nothing here; what CI finds, everybody finds
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("shared machine")

MakeSynapse = Callable[..., Awaitable[Synapse]]


@pytest.fixture
async def make_synapse(tmp_path: Path) -> AsyncIterator[MakeSynapse]:
    """Start as many Synapses as a test asks for; their logs stay in pytest's temporary directory."""
    started: list[Synapse] = []

    async def make(*registrations: Registration, **options: Any) -> Synapse:
        directory = tmp_path / f"synapse-{len(started)}"
        server = Synapse(registrations=registrations, directory=directory, **options)
        started.append(server)
        await server.start()
        return server

    yield make
    for server in started:
        await server.close_http()
        server.close(keep=True)
