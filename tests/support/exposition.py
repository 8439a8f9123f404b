"""The real /metrics of a focus that was just made: every part that has metrics, none of it simulated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mautrix_sfu.core.focus import Focus
from mautrix_sfu.core.ids import Device, DeviceId, UserId
from mautrix_sfu.core.policy import Policy
from mautrix_sfu.media import Media
from mautrix_sfu.metrics import COUNTERS, MatrixLoad, Metrics

FOCUS = Device(UserId("@sfu:hs"), DeviceId("SFU1"))


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name as in queries (counters with `_total`, histograms without a suffix), labels and help."""

    name: str
    kind: str
    labels: frozenset[str]
    help: str


@contextmanager
def whole() -> Iterator[Metrics]:
    """Everything that can be scraped, with a media core that runs; each counter by cause has counted once."""
    metrics = Metrics("1.2.3")
    focus = Focus(Policy(FOCUS))
    media = Media([("127.0.0.1", 0)])
    try:
        metrics.watch_focus(lambda: focus.view(0.0), lambda: focus.links(0.0), lambda: asdict(focus.policy.limits))
        metrics.watch_media(media.published)
        metrics.watch_matrix(lambda: MatrixLoad(0, 0.0, 0, 0.0, 0))
        metrics.watch_store(lambda: True, lambda: 0)
        for name in COUNTERS:
            metrics.count(name, "cause")
        deadline = time.monotonic() + 5
        while not media.published()[0]:
            assert time.monotonic() < deadline, "the media core publishes nothing"
            time.sleep(0.01)
        yield metrics
    finally:
        media.shutdown()


def families(text: str) -> dict[str, Family]:
    """The metrics of an exposition, by name."""
    found: dict[str, Family] = {}
    parsed: list[Any] = list(text_string_to_metric_families(text))
    for family in parsed:
        suffix = "_total" if family.type == "counter" else "_info" if family.type == "info" else ""
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.name + suffix] = Family(family.name + suffix, family.type, frozenset(labels), family.documentation)
    return found


def values(metrics: Metrics) -> dict[str, float]:
    """All samples, named as in the exposition: `name{label="value"}`."""
    lines = (line.rpartition(" ") for line in metrics.render()[0].decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
