"""A homeserver that is down for minutes during a call of two foci, while other tests run: a process of its own.

    with LongOutage(directory) as outage:  # two homeservers, two foci, two people; one homeserver is killed
        …
        print(outage.result())  # waits until it is over

As a program (`python -m tests.support.long_outage DIRECTORY SECONDS`) it does all that and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .federation import Federation
from .federation_call import SMALL, FederatedCall, meet, see_and_hear
from .federation_watch import Silence, all_pairs
from .focus import ROOT, guarded

SECONDS = 300.0
AROUND = 240.0  # at most, for the homeservers' and foci's start, and for who joins afterwards
CHECKS_EVERY = 10.0  # seconds: that the homeserver is down, and that nobody was hung up


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen."""

    down: float  # seconds
    silent: dict[str, float]  # the longest silence of each stream during all of it, in seconds
    hung_up: list[str]  # why, of those in the call; empty if nobody was
    legs_ended: float  # at either focus, in that time
    late: bool  # somebody joined afterwards, through the homeserver that was down, and sees and hears the others


class LongOutage:
    """The process, from its start to its result; it ends with the `with`."""

    def __init__(self, directory: Path, seconds: float = SECONDS) -> None:
        self._command = guarded([sys.executable, "-m", "tests.support.long_outage", str(directory), str(seconds)])
        self._log = directory / "outage.log"
        self._limit = seconds + AROUND
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        self._deadline = time.monotonic() + self._limit
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def result(self) -> Result:
        """Wait for its end; AssertionError with its log if it failed or takes too long."""
        assert self._process is not None
        try:
            printed, _ = self._process.communicate(timeout=max(1.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self._log.read_text()[-3000:]}") from None
        assert self._process.returncode == 0, self._log.read_text()[-3000:]
        return Result(**json.loads(printed.splitlines()[-1]))


async def play(directory: Path, seconds: float) -> Result:
    """All of it."""
    federation = Federation(directory, 2)
    try:
        await federation.start()
        return await _call(federation, seconds)
    finally:
        await federation.stop()


async def _call(federation: Federation, seconds: float) -> Result:
    one, two = federation.sites
    async with FederatedCall(federation) as call:
        call.stopped_layers = {"f", "h"}  # so that it costs those who run beside it little
        late = await call.participant("late", at=two)
        people = await call.people(alice=one, bob=two)
        await meet(*people)
        ended = await _legs_ended(federation)
        async with Silence(all_pairs(*people)) as silence:
            two.synapse.kill()
            killed = time.monotonic()
            while (left := killed + seconds - time.monotonic()) > 0:
                await asyncio.sleep(min(left, CHECKS_EVERY))
                assert not two.synapse.running
            down = time.monotonic() - killed
            await two.synapse.start()
            await call.join(late)
            await late.subscribe_to(*people, size=SMALL)
            await asyncio.gather(*(see_and_hear(late, other) for other in people))
        return Result(
            down,
            silence.longest,
            [reason for person in people if (reason := person.hung_up) is not None],
            await _legs_ended(federation) - ended,
            late=True,
        )


async def _legs_ended(federation: Federation) -> float:
    return sum([await site.focus.total("mautrix_sfu_legs_ended_total") for site in federation.sites])


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(play(Path(sys.argv[1]), float(sys.argv[2]))))))
