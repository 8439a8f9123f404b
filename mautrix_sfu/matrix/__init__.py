"""Matrix edge: transactions, to-device messages in order, room state, the bot's room."""

from .edge import Matrix
from .homeserver import As, Homeserver, RefusedError, UnavailableError
from .interface import (
    Count,
    Counted,
    EncryptionSettings,
    MatrixSettings,
    MatrixSink,
    Message,
    Outcome,
    RawEvent,
    Timed,
)
from .introduction import introduce, marks_soft_failed, server_version
from .ping import PING_ERRORS, ping_path
from .transactions import MAX_BODY, has_token

__all__ = [
    "MAX_BODY",
    "PING_ERRORS",
    "As",
    "Count",
    "Counted",
    "EncryptionSettings",
    "Homeserver",
    "Matrix",
    "MatrixSettings",
    "MatrixSink",
    "Message",
    "Outcome",
    "RawEvent",
    "RefusedError",
    "Timed",
    "UnavailableError",
    "has_token",
    "introduce",
    "marks_soft_failed",
    "ping_path",
    "server_version",
]
