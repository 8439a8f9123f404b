"""Matrix edge: transactions, to-device messages in order, room state, the bot's room."""

from .edge import Matrix
from .interface import Count, Counted, MatrixSettings, MatrixSink, RawEvent

__all__ = ["Count", "Counted", "Matrix", "MatrixSettings", "MatrixSink", "RawEvent"]
