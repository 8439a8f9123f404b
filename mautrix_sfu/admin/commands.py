"""The commands that there are. A new one is a function and an entry in COMMANDS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.ids import ConferenceKey
from ..core.view import FocusView, LegView
from .reply import Reply, code, duration, pairs, paragraph, table


@dataclass(frozen=True, slots=True)
class Context:
    """What a command may look at."""

    view: FocusView
    version: str
    uptime: float  # seconds
    not_ready: Sequence[str] = ()  # why the focus cannot carry calls now
    media: Mapping[str, int] = field(default_factory=dict)  # the media core's counters


class UsageError(Exception):
    """The arguments are not what the command takes."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the bot."""

    name: str
    arguments: str  # as shown in its usage
    help: str  # one sentence
    run: Callable[[Sequence[str], Context], Reply]

    @property
    def usage(self) -> str:
        """How to type it."""
        return f"{self.name} {self.arguments}".rstrip()


def find(name: str) -> Command | None:
    """The command of this name."""
    return next((command for command in COMMANDS if command.name == name.lower()), None)


def _help(arguments: Sequence[str], _: Context) -> Reply:
    match arguments:
        case []:
            return table(("command", "what it does"), [(command.usage, command.help) for command in COMMANDS])
        case [name]:
            command = find(name)
            if command is None:
                raise UsageError
            return code(command.usage) + paragraph(command.help)
        case _:
            raise UsageError


def _status(arguments: Sequence[str], context: Context) -> Reply:
    if arguments:
        raise UsageError
    view = context.view
    grades = [leg.grade for leg in view.legs]
    facts: list[tuple[str, object]] = [
        ("version", context.version),
        ("running for", duration(context.uptime)),
        ("ready", f"no: {', '.join(context.not_ready)}" if context.not_ready else "yes"),
        ("calls", len(view.conferences)),
        ("connections", f"{grades.count('full')} in calls, {grades.count('held')} waiting"),
        ("tracks", f"{sum(leg.published for leg in view.legs)} in, {sum(leg.sent for leg in view.legs)} out"),
        ("invites waiting for room state", view.parked_invites),
        ("rooms known", view.tracked_rooms),
    ]
    media = [(name.removesuffix("_total").replace("_", " "), count) for name, count in sorted(context.media.items())]
    return pairs(facts) + table(("media", "count"), media) if media else pairs(facts)


def _calls(arguments: Sequence[str], context: Context) -> Reply:
    conferences = context.view.conferences
    match arguments:
        case []:
            if not conferences:
                return paragraph("There are no calls.")
            return table(
                ("room", "call", "in the call", "waiting", "trunks", "tracks in", "tracks out", "since"),
                [_call_row(key, legs) for key, legs in sorted(conferences.items())],
            )
        case [which]:
            chosen = {key: legs for key, legs in conferences.items() if which in (key.room_id, key.conf_id)}
            if not chosen:
                return paragraph(f"No call has the id or the room {which[:255]}; `calls` lists them all.")
            columns = ("user", "device", "by", "room", "state", "tracks in", "tracks out", "round trip", "since")
            return table(columns, [row for _, legs in sorted(chosen.items()) for leg in legs for row in _leg_rows(leg)])
        case _:
            raise UsageError


def _call_row(key: ConferenceKey, legs: Sequence[LegView]) -> tuple[object, ...]:
    grades = [leg.grade for leg in legs]
    return (
        key.room_id,
        key.conf_id,
        sum(leg.grade == "full" and leg.kind == "participant" for leg in legs),
        grades.count("held"),
        sum(leg.kind == "trunk" for leg in legs),
        sum(leg.published for leg in legs),
        sum(leg.sent for leg in legs),
        duration(max(leg.age for leg in legs)),
    )


def _leg_rows(leg: LegView) -> list[tuple[object, ...]]:
    """A participant or a trunk, and under a trunk the people whom it brings."""
    room = leg.conference.room_id if leg.conference is not None else ""
    state = f"{leg.state}, {leg.grade}"
    by = "trunk" if leg.kind == "trunk" else "this focus"
    trip = "" if leg.round_trip is None else f"{leg.round_trip * 1000:.0f} ms"
    who = (leg.peer.user_id, leg.peer.device_id)
    rows: list[tuple[object, ...]] = [
        (*who, by, room, state, leg.published, leg.sent, trip, duration(leg.age)),
    ]
    beyond = f"trunk to {leg.peer.user_id}"
    rows += [(one.user_id, one.device_id, beyond, room, "", "", "", "", "") for one in leg.carries]
    return rows


COMMANDS = (
    Command("help", "[command]", "Lists the commands, or explains one.", _help),
    Command("status", "", "Shows how the focus is.", _status),
    Command("calls", "[room or call id]", "Lists the calls, or who is in one.", _calls),
)
