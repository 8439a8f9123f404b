"""The log: each line says which leg, peer, room and call it concerns, as text or as JSON."""

from __future__ import annotations

import copy
import json
import logging
import logging.config
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_FIELDS = ("leg", "peer", "room", "call")


@dataclass(slots=True)
class Concern:
    """What lines are about. It may become known bit by bit: whoever works under it sees what is known by then."""

    leg: int | None = None
    peer: str | None = None
    room: str | None = None
    call: str | None = None

    def known(self) -> dict[str, int | str | None]:
        """Its fields that have a value, in the order of a line; a leg's always say room and call."""
        found = ((name, getattr(self, name)) for name in _FIELDS)
        always = () if self.leg is None else ("room", "call")
        return {name: value for name, value in found if value is not None or name in always}


_current: ContextVar[Concern | None] = ContextVar("concern", default=None)


def current() -> Concern | None:
    """What lines are about now, to take along to where they are written later."""
    return _current.get()


@contextmanager
def concerning(concern: Concern | None) -> Iterator[None]:
    """Lines inside, and those of tasks that begin inside, are about this; None: about nothing in particular."""
    token = _current.set(concern)
    try:
        yield
    finally:
        _current.reset(token)


class Record(logging.LogRecord):
    """A line that knows what it is about, also where another thread writes it down."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        concern = _current.get()
        self.concerns: Mapping[str, int | str | None] = {} if concern is None else concern.known()


def _concerns(record: logging.LogRecord) -> Mapping[str, int | str | None]:
    return getattr(record, "concerns", {})


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class TextFormatter(logging.Formatter):
    """As Python's own, with `leg=… peer=… room=… call=…` behind the line, before a traceback; `?`: not known yet."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Write the line; it stays one, whatever a peer calls itself."""
        about = "".join(f" {name}={'?' if value is None else value}" for name, value in _concerns(record).items())
        line = super().formatMessage(record) + about
        return line if line.isprintable() else "".join(map(_printable, line))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; leg, peer, room and call where it is about one.

    What is not known of a leg yet is null.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_concerns(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        written = json.dumps(line, ensure_ascii=False, default=str)
        return written.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, written as JSON does


def configure(settings: Mapping[str, Any]) -> None:
    """Set up the log as `logging.config.dictConfig` does; formatters that name no class are `TextFormatter`s.

    Raises what dictConfig raises: ValueError, TypeError, AttributeError, ImportError.
    """
    wanted = copy.deepcopy(dict(settings))
    formatters = wanted.get("formatters")
    for formatter in formatters.values() if isinstance(formatters, dict) else ():
        if isinstance(formatter, dict) and "()" not in formatter:
            formatter.setdefault("class", f"{__name__}.{TextFormatter.__name__}")
    logging.config.dictConfig(wanted)
    logging.setLogRecordFactory(Record)
