"""Messages by sender, taken in turns: one user's flood delays nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from .ids import UserId

MAX_QUEUED_PER_SENDER = 32  # messages; the oldest gives way

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A short queue for each sender; `pop` goes round the senders, and keeps each one's order."""

    def __init__(self) -> None:
        self._queues: dict[UserId, deque[T]] = {}  # in the order of whose turn is next; none is empty

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def heads(self) -> Iterator[T]:
        """The oldest message of each sender."""
        return (queue[0] for queue in self._queues.values())

    def full(self, sender: UserId) -> bool:
        """Whether one more message of this sender would push out its oldest."""
        queue = self._queues.get(sender)
        return queue is not None and len(queue) >= MAX_QUEUED_PER_SENDER

    def push(self, sender: UserId, message: T) -> bool:
        """Queue a message; False if the sender's oldest one was dropped for it."""
        queue = self._queues.get(sender)
        if queue is None:
            queue = self._queues[sender] = deque()
        room = len(queue) < MAX_QUEUED_PER_SENDER
        if not room:
            queue.popleft()
        queue.append(message)
        return room

    def pop(self) -> T:
        """The next message; raises KeyError if there is none."""
        sender = next(iter(self._queues), None)
        if sender is None:
            raise KeyError("empty")
        queue = self._queues.pop(sender)
        message = queue.popleft()
        if queue:
            self._queues[sender] = queue  # to the end: everybody else first
        return message
