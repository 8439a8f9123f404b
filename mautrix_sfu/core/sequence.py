"""To-device messages of one leg in the order of their `seq`, each once (docs/protocol.md, section 2)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .events import Hangup, Invite, ToDevice
from .ids import CallId, Device, UserId
from .timers import Timers

REORDER_MESSAGES = 16  # held back per sender
REORDER_SECONDS = 5.0  # how long a gap is waited for
REMEMBERED_CALLS = 4096  # calls whose next `seq` is known
REMEMBERED_MSGIDS = 64  # per sender
REMEMBERED_SENDERS = 4096

CallKey = tuple[Device, CallId]


@dataclass(slots=True)
class _Stream:
    """The messages of one call of one sender."""

    expected: int = 0
    held: dict[int, ToDevice] = field(default_factory=dict)


@dataclass(slots=True)
class _Sender:
    """What is remembered of one user."""

    held: int = 0  # messages held back, of all calls
    msgids: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_MSGIDS))


class Sequencer:
    """Puts messages in order. A message without `seq` is never held; a gap is given up after a time."""

    def __init__(self) -> None:
        self._streams: OrderedDict[CallKey, _Stream] = OrderedDict()
        self._senders: OrderedDict[UserId, _Sender] = OrderedDict()
        self._timers: Timers[CallKey] = Timers()
        self.overflowed = 0  # messages whose predecessors were given up for want of room; taken by the caller

    def accept(self, message: ToDevice, now: float) -> list[ToDevice]:
        """What may be worked on now, in order: nothing, this message, or it and those that waited for it."""
        envelope = message.envelope
        sender = self._sender(envelope.sender.user_id)
        if envelope.msgid is not None:
            if envelope.msgid in sender.msgids:
                return []
            sender.msgids.append(envelope.msgid)
        if envelope.seq is None:
            return [message]
        key = (envelope.sender, envelope.call_id)
        stream = self._stream(key)
        if envelope.seq < stream.expected:
            # An invite that comes again is answered again; anything else that does is a repeat.
            return [message] if isinstance(message, Invite) else []
        if envelope.seq > stream.expected:
            if envelope.seq in stream.held:
                return []
            if sender.held >= REORDER_MESSAGES:
                self.overflowed += 1
                return self._give_up_gap(key, stream, message)
            stream.held[envelope.seq] = message
            sender.held += 1
            self._timers.set_earlier(key, now + REORDER_SECONDS)
            return []
        stream.expected += 1
        return [message, *self._follow(key, stream)]

    def next_deadline(self) -> float | None:
        """When the next gap is given up."""
        return self._timers.next_deadline()

    def handle_timeout(self, now: float) -> list[ToDevice]:
        """The messages behind gaps that were waited for long enough."""
        ready: list[ToDevice] = []
        while (key := self._timers.pop_due(now)) is not None:
            stream = self._streams.get(key)
            if stream is not None and stream.held:
                stream.expected = min(stream.held)
                ready += self._follow(key, stream)
                if stream.held:
                    self._timers.set(key, now + REORDER_SECONDS)
        return ready

    def _give_up_gap(self, key: CallKey, stream: _Stream, message: ToDevice) -> list[ToDevice]:
        """Take what this call holds, and the message, as they are: there is no room to wait."""
        waiting = [stream.held[seq] for seq in sorted(stream.held)]
        self._release(key, len(stream.held))
        stream.held.clear()
        self._timers.cancel(key)
        waiting.append(message)
        waiting.sort(key=lambda each: each.envelope.seq or 0)
        stream.expected = (waiting[-1].envelope.seq or 0) + 1
        return waiting

    def _follow(self, key: CallKey, stream: _Stream) -> list[ToDevice]:
        ready: list[ToDevice] = []
        while (message := stream.held.pop(stream.expected, None)) is not None:
            ready.append(message)
            stream.expected += 1
        self._release(key, len(ready))
        if not stream.held:
            self._timers.cancel(key)
        return ready

    def _release(self, key: CallKey, count: int) -> None:
        sender = self._senders.get(key[0].user_id)
        if sender is not None:
            sender.held = max(0, sender.held - count)

    def _stream(self, key: CallKey) -> _Stream:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream()
            if len(self._streams) > REMEMBERED_CALLS:
                old, gone = self._streams.popitem(last=False)
                self._release(old, len(gone.held))
                self._timers.cancel(old)
        self._streams.move_to_end(key)
        return stream

    def _sender(self, user: UserId) -> _Sender:
        sender = self._senders.get(user)
        if sender is None:
            sender = self._senders[user] = _Sender()
            if len(self._senders) > REMEMBERED_SENDERS:
                self._senders.popitem(last=False)
        self._senders.move_to_end(user)
        return sender


def without_stale_invites(batch: Iterable[ToDevice]) -> list[ToDevice]:
    """A backlog without the invites that its later messages make pointless.

    Only the newest invite of a device for a call counts, and not one that its hangup follows.
    """
    kept: list[ToDevice] = []
    ended: set[CallKey] = set()
    invited: dict[tuple[Device, str, str | None], CallId] = {}
    for message in reversed(list(batch)):
        envelope = message.envelope
        call = (envelope.sender, envelope.call_id)
        match message:
            case Hangup():
                ended.add(call)
            case Invite():
                newest = invited.setdefault((envelope.sender, envelope.conf_id, envelope.room_id), envelope.call_id)
                if call in ended or newest != envelope.call_id:
                    continue
            case _:
                pass
        kept.append(message)
    kept.reverse()
    return kept
