"""A homeserver that is down for five minutes: mostly waiting, so other tests run beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.long_outage import AROUND, SECONDS, LongOutage

pytestmark = pytest.mark.synapse


@pytest.mark.timeout(SECONDS + AROUND + 20)
async def test_a_homeserver_that_is_down_for_five_minutes_changes_nothing_for_media(tmp_path: Path) -> None:
    with LongOutage(tmp_path) as outage:
        result = await asyncio.to_thread(outage.result)
    assert result.down >= 300
    assert len(result.silent) == 4, "audio and video, either way"
    assert not {name: seconds for name, seconds in result.silent.items() if seconds > 1}
    assert not result.hung_up
    assert not result.legs_ended
    assert result.late
