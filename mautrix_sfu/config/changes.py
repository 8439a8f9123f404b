"""What is different between two configurations, and which of it can change while the focus runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from .model import Config

# What the running focus reads anew; everything else is a port, an identity or a file that is open.
LIVE = ("bot", "cascade", "conferences", "drain", "logging", "overload")


@dataclass(frozen=True, slots=True)
class Changes:
    """Options by their path."""

    live: tuple[str, ...]
    restart: tuple[str, ...]  # they need one


def changes(old: Config, new: Config) -> Changes:
    """What changed from one configuration to the other."""
    found = sorted(_differences(old, new, ""))
    live = tuple(path for path in found if path.partition(".")[0] in LIVE)
    return Changes(live, tuple(path for path in found if path not in live))


def with_live(old: Config, new: Config) -> Config:
    """The old configuration with what can change while the focus runs from the new one."""
    return replace(old, **{name: getattr(new, name) for name in LIVE})


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if is_dataclass(old) and type(old) is type(new):
        for field in fields(old):
            below = f"{path}.{field.name}" if path else field.name
            yield from _differences(getattr(old, field.name), getattr(new, field.name), below)
    elif old != new:
        yield path
