"""The ids under which one participant is shown the streams and tracks of others.

Ids are their publisher's choice and may collide. The first (user, device) that a participant sees
with an id keeps it; another one that uses the same is shown under an id made here, for the leg's life.
"""

from __future__ import annotations

from .ids import Device, StreamId, TrackId, TrackKey

MAX_NAMES = 4096  # of one leg; a publisher that makes up ids without end is forgotten from the oldest on


class Names:
    """One leg's view: (owner, id) ↔ shown id, for streams and tracks."""

    def __init__(self) -> None:
        self._streams: dict[tuple[Device, StreamId], StreamId] = {}
        self._stream_owner: dict[StreamId, tuple[Device, StreamId]] = {}
        self._tracks: dict[TrackKey, TrackId] = {}
        self._track_owner: dict[TrackId, TrackKey] = {}
        self._pairs: dict[tuple[StreamId, TrackId], TrackKey] = {}  # every pair ever shown
        self._made = 0
        self.version = 0  # another one whenever `resolve` may say something else than before

    def stream(self, owner: Device, stream_id: StreamId) -> StreamId:
        """The id under which this stream is shown."""
        key = (owner, stream_id)
        shown = self._streams.get(key)
        if shown is None:
            shown = stream_id
            while shown in self._stream_owner:
                shown = StreamId(self._make())
            self._streams[key] = shown
            self._stream_owner[shown] = key
            if len(self._streams) > MAX_NAMES:
                old = next(iter(self._streams))
                del self._stream_owner[self._streams.pop(old)]
        return shown

    def track(self, key: TrackKey, stream_id: StreamId) -> TrackId:
        """The id under which this track is shown, in the stream of its owner that is named."""
        shown = self._tracks.get(key)
        if shown is None:
            shown = key.track_id
            while shown in self._track_owner:
                shown = TrackId(self._make())
            self._tracks[key] = shown
            self._track_owner[shown] = key
            if len(self._tracks) > MAX_NAMES:
                old = next(iter(self._tracks))
                del self._track_owner[self._tracks.pop(old)]
        pair = (self.stream(key.owner, stream_id), shown)
        if self._pairs.get(pair) != key:
            self._pairs[pair] = key
            self.version += 1
            if len(self._pairs) > MAX_NAMES:
                del self._pairs[next(iter(self._pairs))]
        return shown

    def resolve(self, stream_id: StreamId, track_id: TrackId) -> TrackKey | None:
        """Whose track was ever shown as this pair; a track keeps its id when its stream's changes."""
        return self._pairs.get((stream_id, track_id))

    def _make(self) -> str:
        self._made += 1
        return f"sfu-{self._made}"
