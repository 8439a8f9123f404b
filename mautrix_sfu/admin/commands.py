"""The commands that there are. A new one is a function and an entry here."""

from __future__ import annotations

from collections.abc import Sequence

from . import acts, showing
from .command import Command, Request, UsageError, nearest
from .operations import Operations
from .reply import Reply, code, paragraph, table


def find(name: str) -> Command | None:
    """The command of this name."""
    return next((command for command in COMMANDS if command.name == name.lower()), None)


def closest(word: str) -> Command | None:
    """The command that a mistyped word may have meant."""
    name = nearest(word, [command.name for command in COMMANDS])
    return find(name) if name is not None else None


async def _help(request: Request, _: Operations) -> Reply:
    match request.arguments:
        case []:
            return table(("command", "what it does"), [(command.usage, command.help) for command in COMMANDS])
        case [name]:
            command = find(name)
            if command is None:
                near = closest(name)
                said = paragraph(f"There is no command {name[:64]}; `help` lists all.")
                return said + paragraph("Did you mean:") + code(near.usage) if near else said
            return code(command.usage) + paragraph(command.help)
        case _:
            raise UsageError


def _always(_arguments: Sequence[str]) -> bool:
    return True


def _if_any(arguments: Sequence[str]) -> bool:
    return bool(arguments)


def _if_two(arguments: Sequence[str]) -> bool:
    return len(arguments) > 1


COMMANDS = (
    Command("help", "[command]", "Lists the commands, or explains one.", _help),
    Command(
        "status", "", "Shows how the focus is: what it does now, how much, and how close to its limits.", showing.status
    ),
    Command("calls", "", "Lists the calls.", showing.calls),
    Command("call", "<call or room>", "Shows who is in a call, from where, what flows and how well.", showing.call),
    Command("who", "<user>", "Shows where a user, or everybody whose id has this in it, is in calls.", showing.who),
    Command("foci", "", "Shows the trunks to other foci, and with whom there may be any.", showing.foci),
    Command(
        "kick",
        "<user> [device] [reason]",
        "Ends a user's connections and keeps them out for a while.",
        acts.kick,
        _always,
    ),
    Command("mute", "<user> [audio|video]", "Forwards nothing of a user's, of one kind or both.", acts.mute, _always),
    Command("unmute", "<user> [audio|video]", "Forwards it again.", acts.unmute, _always),
    Command("end", "<call or room>", "Ends a call; nobody joins it again for a while.", acts.end, _always),
    Command(
        "ban",
        "<user or homeserver> [duration] [reason]",
        "Serves a user, or all users and foci of a homeserver, no more; for 10m, 2h, 7d, or until `unban`.",
        acts.ban,
        _always,
    ),
    Command("unban", "<user or homeserver>", "Lifts a ban.", acts.unban, _always),
    Command("bans", "", "Lists who is banned.", acts.bans),
    Command(
        "limits",
        "[name value]",
        "Shows the limits, or changes one until the next start; the value `default` gives back what is configured.",
        acts.limits,
        _if_two,
    ),
    Command(
        "drain",
        "[on|off]",
        "Takes no new calls, so that the focus can be stopped; or takes them again.",
        acts.drain,
        _if_any,
    ),
    Command(
        "check",
        "[room id]",
        "Tests the installation, and says what to mend; with a room, also that.",
        showing.check,
        slow=True,
    ),
    Command("log", "[level]", f"Shows or sets how much is logged: {', '.join(acts.LEVELS)}.", acts.log_level, _if_any),
    Command("reload", "", "Takes the configuration file anew; one with a mistake is refused.", acts.reload, _always),
    Command("history", "[n]", "Shows the calls that ended last: length, people, bytes.", showing.history),
    Command("audit", "[n]", "Shows what admins did last.", showing.audit),
    Command(
        "notify",
        "[on|off]",
        "Tells this room unasked what happens: limits, outages, bans, restarts.",
        acts.notify,
        _if_any,
    ),
    Command("ping", "", "Answers, and says how quick the homeserver is.", showing.ping),
)
