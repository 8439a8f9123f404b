"""Where the parts of the core put what they ask for, in order, until `Focus.handle` returns it."""

from __future__ import annotations

from .commands import About, Command, Count, Counter, Level, Log
from .ids import Device

NOTHING = About()


class Outbox:
    """An ordered list of commands that is emptied by taking it."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def put(self, command: Command) -> None:
        """Ask for one thing more."""
        self._commands.append(command)

    def count(self, counter: Counter, cause: str, peer: Device | None = None) -> None:
        """Ask for one more in a counter."""
        self._commands.append(Count(counter, cause, peer))

    def log(self, level: Level, message: str, about: About = NOTHING) -> None:
        """Ask for a line in the log."""
        self._commands.append(Log(level, message, about))

    def take(self) -> list[Command]:
        """Everything asked for since the last take."""
        commands, self._commands = self._commands, []
        return commands
