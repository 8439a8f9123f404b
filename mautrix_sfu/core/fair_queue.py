"""Messages by sender, taken in turns: one user's flood delays nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from .ids import UserId

MAX_QUEUED_PER_SENDER = 32  # messages; the oldest gives way
MAX_QUEUED = 4096  # in all: a homeserver can have as many users as it likes

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A short queue for each sender; `pop` goes round the senders, and keeps each one's order."""

    def __init__(self) -> None:
        self._queues: dict[UserId, deque[T]] = {}  # in the order of whose turn is next; none is empty
        self._total = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __len__(self) -> int:
        return self._total

    def heads(self) -> Iterator[T]:
        """The oldest message of each sender."""
        return (queue[0] for queue in self._queues.values())

    def full(self, sender: UserId) -> bool:
        """Whether one more message of this sender would push out its oldest, or find no room."""
        queue = self._queues.get(sender)
        return self._total >= MAX_QUEUED or (queue is not None and len(queue) >= MAX_QUEUED_PER_SENDER)

    def push(self, sender: UserId, message: T) -> bool:
        """Queue a message; False if the sender's oldest one was dropped for it, or it was itself."""
        full, queue = self.full(sender), self._queues.get(sender)
        if full and queue is None:
            return False
        if queue is None:
            queue = self._queues[sender] = deque()
        if full:
            queue.popleft()
            self._total -= 1
        queue.append(message)
        self._total += 1
        return not full

    def pop(self) -> T:
        """The next message; raises KeyError if there is none."""
        sender = next(iter(self._queues), None)
        if sender is None:
            raise KeyError("empty")
        queue = self._queues.pop(sender)
        message = queue.popleft()
        self._total -= 1
        if queue:
            self._queues[sender] = queue  # to the end: everybody else first
        return message
