"""Whether the homeserver counts as there: its answers to `/sync`, and how old what it pushes is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

LOST_AFTER = 5.0  # seconds of failures
LAG = 10.0  # seconds; age of a pushed event from which transactions count as late
LAG_OVER_AFTER = 5.0  # seconds without any transaction: nothing lags any more


class Health:
    """Turns failures and ages into one signal, up or down, reported on change only."""

    def __init__(self, report: Callable[[bool], None]) -> None:
        self._report = report
        self._up = True
        self._lost = False
        self._lagging = False
        self._loss: asyncio.TimerHandle | None = None  # runs while requests fail
        self._lag_end: asyncio.TimerHandle | None = None  # runs while transactions lag

    def failed(self) -> None:
        """A request failed."""
        if self._loss is None:
            self._loss = asyncio.get_running_loop().call_later(LOST_AFTER, self._set_lost, True)

    def answered(self) -> None:
        """A request was answered."""
        if self._loss is not None:
            self._loss.cancel()
            self._loss = None
            self._set_lost(False)

    def pushed(self, age: float) -> None:
        """A transaction came whose newest event of the homeserver's own users is `age` seconds old."""
        if self._lag_end is not None:
            self._lag_end.cancel()
            self._lag_end = None
        late = age > LAG
        if late:
            self._lag_end = asyncio.get_running_loop().call_later(LAG_OVER_AFTER, self._set_lagging, False)
        self._set_lagging(late)

    def close(self) -> None:
        """Stop judging."""
        for timer in (self._loss, self._lag_end):
            if timer is not None:
                timer.cancel()

    def _set_lost(self, lost: bool) -> None:
        self._lost = lost
        self._judge()

    def _set_lagging(self, lagging: bool) -> None:
        self._lagging = lagging
        self._judge()

    def _judge(self) -> None:
        up = not self._lost and not self._lagging
        if up == self._up:
            return
        self._up = up
        if up:
            log.info("The homeserver is back")
        else:
            log.warning("The homeserver %s", "does not answer" if self._lost else "is late with its transactions")
        self._report(up)
