"""What ends the process: one clear line for the operator and one exit code per cause.

Exception
└── FatalError          one line, and the exit code that belongs to its cause

| code | name                 | cause                                                                   |
| ---: | -------------------- | ----------------------------------------------------------------------- |
|    1 | INTERNAL             | a fault of this program: the log has the traceback                      |
|    2 | (argparse)           | a wrong command line                                                    |
|   10 | CONFIG               | an option is missing or wrong, or a file of the configuration unreadable |
|   11 | PORT_TAKEN           | an address and port to listen on is not available                       |
|   12 | DATABASE_LOCKED      | another process uses the database                                       |
|   13 | DATABASE_UNREACHABLE | the database cannot be reached, opened, read or written                 |
|   14 | DATABASE_SCHEMA      | the database's schema is not this version's                             |
|   15 | DISK_FULL            | the database cannot grow                                                |
|   16 | TOKEN_REFUSED        | the homeserver refuses the token, the bot user or its device            |
|   17 | HOMESERVER_UNREACHABLE | the homeserver did not answer at start                                |
|   18 | MEDIA_FAILED         | a media thread failed, or the media core cannot be loaded               |
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit code of each cause (see the table above)."""

    INTERNAL = 1
    CONFIG = 10
    PORT_TAKEN = 11
    DATABASE_LOCKED = 12
    DATABASE_UNREACHABLE = 13
    DATABASE_SCHEMA = 14
    DISK_FULL = 15
    TOKEN_REFUSED = 16
    HOMESERVER_UNREACHABLE = 17
    MEDIA_FAILED = 18


class FatalError(Exception):
    """The process must end. The message is for the operator: what is wrong and what to do, without secrets."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code: ExitCode = exit_code


def cannot_listen(options: str, where: str, error: OSError) -> FatalError:
    """What to raise when the operator's `options` name an address that is not to be had."""
    if error.errno == errno.EADDRINUSE:
        cause = "another program listens there"
    else:
        cause = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
    return FatalError(f"{options}: cannot listen on {where}: {cause}", ExitCode.PORT_TAKEN)
