"""Two participants who talk: in each half second, what of it stopped, and whether this machine could tell.

As a program of its own (`python -m tests.support.pulse`) it plays both of them, so that a test that is busy
attacking the focus does not disturb what it measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mautrix_sfu.core.ids import Device
from tests.support.participant import Participant

WINDOW = 0.5  # seconds; in each of them packets and messages must come
LATE = 1.3  # times its length: a window that took longer was not measured
STARVED = 0.15  # seconds of a window in which the focus or we were ready to run and had no processor
MAX_UNMEASURED = 0.5  # of all windows, in which something stopped and it may be this machine's fault
SETTLE = 4.0  # seconds that a data channel may take to repeat what the measuring side itself lost (RFC 9260, 6.3)

Pair = tuple[Participant, Participant]


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen in half a second."""

    stopped: list[str]  # what did not come at all
    took: float
    starved: float  # seconds that the focus and we waited for a processor
    drops: int  # datagrams that the kernel could not give us, since the participants' sockets were opened
    hung_up: str | None
    picture_gaps: int

    @property
    def measured(self) -> bool:
        """Whether this machine let the focus and us run all the time."""
        return self.took <= LATE * WINDOW and self.starved <= STARVED

    def __str__(self) -> str:
        here = f"{self.took:.2f} s, starved {self.starved:.2f} s, {self.drops} lost here"
        return f"{', '.join(self.stopped) or 'nothing stopped'} ({here})"


async def windows(pair: Pair, focus_pid: int) -> AsyncIterator[Window]:
    """Measure for ever."""
    loop = asyncio.get_running_loop()
    while True:
        before, began, waited = _counts(pair), loop.time(), waited_for_processor(focus_pid, os.getpid())
        for one in pair:
            one.tell("m.call.ping")
        await asyncio.sleep(WINDOW)
        stopped = [name for name, count in _counts(pair).items() if count <= before[name]]
        one, other = pair
        yield Window(
            stopped,
            loop.time() - began,
            waited_for_processor(focus_pid, os.getpid()) - waited,
            sum(kernel_drops().get(each.connection.socket.address[1], 0) for each in pair),
            one.hung_up or other.hung_up,
            one.video_of(other).picture_gaps + other.video_of(one).picture_gaps,
        )


def judge(seen: Sequence[Window]) -> None:
    """AssertionError if in some window something stopped; or if too often this machine was too slow to tell."""
    assert seen
    bad, unmeasured = [], 0
    excused_until = 0.0
    drops, clock = seen[0].drops, 0.0
    for number, window in enumerate(seen):
        clock += window.took
        if window.drops > drops:
            drops, excused_until = window.drops, clock + SETTLE
        if window.stopped and (not window.measured or clock < excused_until):
            unmeasured += 1
        elif window.stopped:
            bad.append(f"window {number}: {window}")
        assert window.hung_up is None, f"a participant was hung up: {window.hung_up}"
    assert not bad, f"in {len(seen)} windows of {WINDOW:g} s: {bad}"
    slow = f"this machine is too slow to tell: {unmeasured} of {len(seen)} windows could not be measured"
    assert unmeasured <= max(1, MAX_UNMEASURED * len(seen)), slow
    if not unmeasured:
        assert seen[-1].picture_gaps == seen[0].picture_gaps, "pictures were lost"


def kernel_drops() -> dict[int, int]:
    """Datagrams that the kernel threw away because nobody fetched them, by local port."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return {int(words[1].partition(":")[2], 16): int(words[-1]) for words in map(str.split, lines)}


def waited_for_processor(*pids: int) -> float:
    """For how many seconds threads of these processes were ready to run and did not."""
    waited = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has just ended
                waited += int(thread.read_text().split()[1])
    return waited / 1e9


def _counts(pair: Pair) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one, other in (pair, pair[::-1]):
        name = one.device.user_id[1:].partition("-")[0]
        counts[f"{name}: video"] = one.video_of(other).packets
        counts[f"{name}: audio"] = one.audio_of(other).packets
        counts[f"{name}: messages"] = len(one.said("m.call.pong"))
    return counts


# ---------------------------------------------------------------- as a program


async def _main() -> None:
    """Play two participants as told by a line of JSON; write a line when they talk, and one for each window."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    focus = Device(*told["focus"])
    made = [
        Participant(told["homeserver"], user, device, focus, token=token) for user, device, token in told["devices"]
    ]
    one, other = made
    async with one, other:
        for each in made:
            await each.join(told["room_id"], told["conf_id"])
        for viewer, publisher in ((one, other), (other, one)):
            await viewer.subscribe_to(publisher)
            await viewer.until(lambda v=viewer, p=publisher: v.video_of(p).key_frames and v.audio_of(p).packets)  # type: ignore[misc]
        own = [sorted(each.connection.sender.encodings) for each in made]
        print(json.dumps({"ssrcs": own, "ufrags": [each.connection.ice._remote_ufrag for each in made]}), flush=True)
        async for window in windows((one, other), told["focus_pid"]):
            print(json.dumps(asdict(window)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
