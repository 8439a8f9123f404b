"""The bot's commands: from a message and the state of the focus to a reply, without I/O."""

from .bot import answer
from .commands import Context
from .reply import Reply

__all__ = ["Context", "Reply", "answer"]
