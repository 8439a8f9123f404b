"""What tests about outsiders share: the talk that goes on, what an outsider tries, and proof that it got nothing."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from itertools import pairwise
from typing import Any, Self

import aiohttp
from ruamel.yaml import YAML

from mautrix_sfu.wire.sdp_parser import parse
from tests.support.calls import Call, FocusLog
from tests.support.focus import FocusProcess
from tests.support.participant import Participant
from tests.support.pulse import Window, windows

SOFT_FAILED = "io.element.synapse.soft_failed"
PRYING = 1.0  # seconds in which some 100 packets flow to each of the others


class Talk:
    """A call with two participants who talk all the time.

    At the end AssertionError if for two windows running one of them missed the other's audio or video.
    """

    def __init__(self, call: Call, alice: Participant, bob: Participant) -> None:
        self.call = call
        self.alice = alice
        self.bob = bob
        self._log = FocusLog(call.deployment.focus)
        self._windows: list[Window] = []

    async def __aenter__(self) -> Self:
        self._log.start()
        self._task = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        while kind is None and len(self._windows) < 2 and not self._task.done():
            await asyncio.sleep(0.05)
        self._task.cancel()
        await asyncio.wait([self._task])
        if kind is None:
            self._judge()

    async def _watch(self) -> None:
        async for window in windows((self.alice, self.bob), self.call.deployment.focus.pid):
            self._windows.append(window)

    def _judge(self) -> None:
        stopped = [
            {what for what in window.stopped if "messages" not in what and window.measured} for window in self._windows
        ]
        silent = [number for number, (one, other) in enumerate(pairwise(stopped)) if one & other]
        assert not silent, [str(window) for window in self._windows]
        assert self.alice.hung_up is self.bob.hung_up is None
        self._log.check()

    @property
    def focus(self) -> FocusProcess:
        """The focus that carries the call."""
        return self.call.deployment.focus


def tracks(publisher: Participant) -> list[tuple[str, str]]:
    """The (stream id, track id) of everything that somebody publishes: an outsider may have guessed them."""
    return [(track.stream_id, track.track_id) for track in publisher.connection.published]


def traces(messages_of: Participant, subject: Participant) -> list[str]:
    """What the focus's messages to one participant say of another: its ids, wherever they stand."""
    told = json.dumps([message.content for message in messages_of.messages])
    ids = {subject.device.user_id, *(each for pair in tracks(subject) for each in pair)}
    return [each for each in ids if each in told]


def heard_of(viewer: Participant, publisher: Participant) -> int:
    """How many packets came on m-lines that ever carried a publisher's tracks, by all that the focus offered."""
    published = {track_id for _, track_id in tracks(publisher)}
    offers = (message.content["description"] for message in viewer.said("m.call.negotiate"))
    lines = [line for offer in offers if offer["type"] == "offer" for line in parse(offer["sdp"]).lines]
    mids = {line.mid for line in lines for msid in line.msids if msid.track_id in published}
    return sum(source.packets for (mid, _), source in viewer.received.items() if mid in mids)


async def pry(outsider: Participant, *others: Participant) -> None:
    """Ask for everything that others publish, by their true ids, while packets flow to those who may have them."""
    wanted = [pair for other in others for pair in tracks(other)]
    outsider.subscribe(*wanted, size=(640, 360))
    await asyncio.sleep(PRYING / 2)
    outsider.subscribe(*wanted)
    outsider.negotiate()
    await asyncio.sleep(PRYING / 2)


def assert_got_nothing(outsider: Participant, *others: Participant) -> None:
    """No packet of media came to its socket, and no message named anybody or anything of the call."""
    counts = outsider.connection.socket.counts
    assert counts["rtp"] == 0, counts
    assert not outsider.received
    assert not outsider.metadata
    for other in others:
        assert not traces(outsider, other)


def assert_never_shown(outsider: Participant, *others: Participant) -> None:
    """Nobody was told of the outsider or of anything that it publishes."""
    for other in others:
        assert not traces(other, outsider)


async def sees_and_hears(viewer: Participant, *others: Participant, timeout: float = 45.0) -> None:
    """The control: who is let in gets media, so that getting nothing means something."""
    await viewer.subscribe_to(*others)
    for other in others:
        before = viewer.video_of(other).packets, viewer.audio_of(other).packets
        await viewer.until(
            lambda other=other, before=before: (  # type: ignore[misc]
                viewer.video_of(other).packets > before[0] and viewer.audio_of(other).packets > before[1]
            ),
            timeout,
            f"{viewer.device.user_id} receives {other.device.user_id}",
        )


def state_event(room_id: str, event_type: str, sender: str, state_key: str, content: dict[str, Any]) -> dict[str, Any]:
    """A state event as a homeserver pushes it."""
    return {
        "type": event_type,
        "room_id": room_id,
        "sender": sender,
        "state_key": state_key,
        "content": content,
        "event_id": f"${secrets.token_urlsafe(32)}",
        "origin_server_ts": int(time.time() * 1000),
    }


async def push(focus: FocusProcess, *events: dict[str, Any]) -> None:
    """Give the focus a transaction of these events, as its homeserver would."""
    with focus.registration.open() as file:
        registration = YAML(typ="safe", pure=True).load(file)
    url = f"{registration['url']}/_matrix/app/v1/transactions/{secrets.token_hex(8)}"
    headers = {"Authorization": f"Bearer {registration['hs_token']}"}
    async with aiohttp.ClientSession() as http, http.put(url, json={"events": events}, headers=headers) as response:
        response.raise_for_status()
