"""What a command is, and how its arguments are read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from ..core.ids import ConferenceKey, UserId
from ..core.view import FocusView
from .operations import Operations, RefusedError
from .reply import Reply

LONGEST = 3650 * 86400.0  # seconds that a ban may last, if it is to end
MAX_NUMBER = 200  # of entries that a list command shows

_USER = re.compile(r"@[^:\s]+:[^\s]+")
_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")  # Matrix specification, appendices
_SPAN = re.compile(r"(?:[0-9]+[smhdw])+")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class UsageError(Exception):
    """The arguments are not what the command takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it was given."""

    sender: str
    room_id: str
    arguments: tuple[str, ...]
    age: float = 0.0  # seconds since it was written, as the homeserver reckons


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the bot."""

    name: str
    arguments: str  # as shown in its usage
    help: str  # one sentence or two
    run: Callable[[Request, Operations], Awaitable[Reply]]
    acts: Callable[[Sequence[str]], bool] = lambda _arguments: False  # whether it changes anything, and so is audited
    slow: bool = False  # others need not wait for it

    @property
    def usage(self) -> str:
        """How to type it."""
        return f"{self.name} {self.arguments}".rstrip()


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that a mistyped word may have meant."""
    found = difflib.get_close_matches(word[:64].lower(), list(names), n=1)
    return found[0] if found else None


# ---------------------------------------------------------------- arguments


def no_arguments(request: Request) -> None:
    """Raises UsageError if there are any."""
    if request.arguments:
        raise UsageError


def number(request: Request, default: int) -> int:
    """The only argument, how many entries to show; raises UsageError for anything else."""
    match request.arguments:
        case []:
            return default
        case [text] if text.isascii() and text.isdigit() and int(text[:6]) > 0:
            return min(int(text[:6]), MAX_NUMBER)
        case _:
            raise UsageError


def user_id(text: str) -> UserId:
    """A user id; raises RefusedError for what is none."""
    if _USER.fullmatch(text) is None:
        raise RefusedError(f"{text[:255]} is no user id; one looks like @name:example.org")
    return UserId(text)


def user_or_server(text: str) -> str:
    """A user id or a homeserver's name; raises RefusedError for what is neither."""
    if _USER.fullmatch(text) is None and _SERVER.fullmatch(text) is None:
        raise RefusedError(
            f"{text[:255]} is neither a user id (@name:example.org) nor a homeserver's name (example.org)"
        )
    return text


def span(text: str) -> float | None:
    """Seconds out of `90s`, `10m`, `2h`, `7d`, `1w` or several of them; None for what is no span of time."""
    if len(text) > 40 or _SPAN.fullmatch(text) is None:
        return None
    seconds = float(sum(int(digits) * _UNITS[unit] for digits, unit in re.findall(r"([0-9]+)([smhdw])", text)))
    if not 0 < seconds <= LONGEST:
        raise RefusedError(f"{text} is out of range: from 1s to {LONGEST / 86400:.0f}d")
    return seconds


def find_call(view: FocusView, text: str) -> ConferenceKey:
    """The call that an id, its room or the beginning of either names; raises RefusedError unless it is one."""
    keys = sorted(view.conferences)
    found = [key for key in keys if text in (key.conf_id, key.room_id)]
    found = found or [key for key in keys if key.conf_id.startswith(text) or key.room_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        near = nearest(text, [key.conf_id for key in keys])
        hint = f" Did you mean {near}?" if near else ""
        raise RefusedError(f"No call has the id or the room {text[:255]}; `calls` lists them all.{hint}")
    several = ", ".join(f"{key.conf_id} in {key.room_id}" for key in found[:5])
    raise RefusedError(f"{text[:255]} names {len(found)} calls: {several}. Say the whole id, or the room.")
