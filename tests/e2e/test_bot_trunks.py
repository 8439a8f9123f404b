"""What an admin sees and does of people at another homeserver's focus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.test_bot import command_room, eventually, row
from tests.support.federation import Federation
from tests.support.federation_call import FederatedCall, meet
from tests.support.focus import ADMIN
from tests.support.running import running

pytestmark = pytest.mark.synapse


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Two homeservers, their foci, and an admin of the first."""
    made = Federation(tmp_path_factory.mktemp("pair"), 2)
    with running(made, lambda: made.sites[0].synapse.register_user(ADMIN)):
        yield made


@pytest.fixture
async def pair(shared_pair: Federation) -> AsyncIterator[Federation]:
    yield shared_pair
    await shared_pair.close_http()


async def test_trunks_and_who_is_beyond_them_are_shown_muted_and_banned(pair: Federation) -> None:
    one, two = pair.sites
    async with FederatedCall(pair) as call, command_room(call) as operator:
        alice, bob = await call.people(alice=one, bob=two)
        await meet(alice, bob)
        focus, user = str(two.focus.device), bob.device.user_id

        shown = await operator.ask(f"call {call.conf_id}")
        assert "1 device here, 1 over trunks" in shown
        assert f"trunk to {two.focus.device.user_id}" in row(shown, user)
        assert "camera 640×360" in row(shown, user)  # noqa: RUF001
        trunk = row(shown, focus)
        assert "open, full" in trunk
        assert "127.0.0.1:" in trunk
        assert " ms " in trunk
        assert "up for" in row(await operator.ask("foci"), focus)
        assert "trunk to" in row(await operator.ask(f"who {user}"), user)

        assert "uses another focus" in await operator.ask(f"kick {user}")
        assert "is forwarded to nobody" in await operator.ask(f"mute {user}")
        await alice.until(lambda: all(s["audio_muted"] for s in alice.streams_of(bob).values()), what="shown as muted")
        await asyncio.sleep(0.5)
        heard = alice.audio_of(bob).packets
        await bob.until(lambda: bob.audio_of(alice).packets > 30, what="the other way it goes on")
        assert alice.audio_of(bob).packets == heard
        await operator.ask(f"unmute {user}")
        await alice.until(lambda: alice.audio_of(bob).packets > heard + 20, what="heard again")

        server = two.focus.device.homeserver
        assert "1 connection ended" in await operator.ask(f"ban {server} 1h")
        await alice.until(lambda: not alice.streams_of(bob), what="nobody of a banned homeserver is shown")
        assert alice.hung_up is None
        assert await operator.ask(f"unban {server}") == f"{server} is banned no more."
        await eventually(lambda shown: "up for" in row(shown, focus), lambda: operator.ask("foci"), within=45)
        await alice.until(lambda: alice.streams_of(bob), timeout=45, what="shown again")
