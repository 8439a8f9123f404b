"""The bot: from a message in one of its rooms to an answer, and what it tells unasked. What it asks is `Operations`."""

from .bot import Bot
from .operations import AuditLine, Ban, Figures, Limit, Operations, PastCall, RefusedError, Status

__all__ = ["AuditLine", "Ban", "Bot", "Figures", "Limit", "Operations", "PastCall", "RefusedError", "Status"]
