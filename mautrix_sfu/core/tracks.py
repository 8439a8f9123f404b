"""What one leg publishes: its tracks by the SDP, its streams by the metadata, each checked against the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .events import Metadata, ReceivedTrack, StreamMetadata
from .ids import Device, Kind, LegId, Mid, StreamId, TrackId, TrackKey

DEFAULT_PURPOSE = "m.usermedia"
SCREENSHARE = "m.screenshare"


@dataclass(frozen=True, slots=True)
class PublishedTrack:
    """A track that a leg publishes now, and where the media core finds it."""

    key: TrackKey
    leg: LegId
    mid: Mid
    kind: Kind
    stream_id: StreamId
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class PublishedStream:
    """A stream that a leg publishes now, with at least one track."""

    owner: Device
    stream_id: StreamId
    purpose: str
    audio_muted: bool
    video_muted: bool
    tracks: tuple[PublishedTrack, ...]


class Publications:
    """One leg's published tracks and streams. A track's stream is what the metadata says, else its msid.

    Metadata is always the whole set: a track that it described and no longer does is not shown, though it may flow on
    until the offer comes that ends it.
    """

    def __init__(self, owner: Device, leg: LegId) -> None:
        self._owner = owner
        self._leg = leg
        self._received: tuple[ReceivedTrack, ...] = ()
        self._metadata: Metadata = {}
        self._described: frozenset[TrackId] = frozenset()  # of the received tracks, those that ever were
        self.streams: Mapping[StreamId, PublishedStream] = {}
        self.tracks: Mapping[TrackKey, PublishedTrack] = {}

    def set_received(self, received: tuple[ReceivedTrack, ...]) -> bool:
        """Take what the peer's newest description publishes; True if that changes anything."""
        self._received = received
        return self._derive()

    def set_metadata(self, metadata: Metadata) -> bool:
        """Take the whole new metadata; entries of streams that this leg does not publish count for nothing."""
        self._metadata = metadata
        return self._derive()

    def _derive(self) -> bool:
        named: dict[TrackId, StreamId] = {}
        for stream_id, metadata in self._metadata.items():
            for track_id in metadata.tracks:
                named.setdefault(track_id, stream_id)
        tracks: dict[TrackKey, PublishedTrack] = {}
        by_stream: dict[StreamId, list[PublishedTrack]] = {}
        once_described, self._described = self._described, frozenset()
        for received in self._received:
            key = TrackKey(self._owner, received.track_id)
            if key in tracks:
                continue
            stream_id = named.get(received.track_id, received.stream_id)
            described = self._metadata.get(stream_id)
            if described is not None or received.track_id in once_described:
                self._described |= {received.track_id}
                if described is None:
                    continue
            size = described.tracks.get(received.track_id) if described is not None else None
            track = PublishedTrack(
                key,
                self._leg,
                received.mid,
                received.kind,
                stream_id,
                size.width if size else None,
                size.height if size else None,
            )
            tracks[key] = track
            by_stream.setdefault(stream_id, []).append(track)
        streams = {stream_id: self._stream(stream_id, tuple(found)) for stream_id, found in by_stream.items()}
        changed = streams != self.streams
        self.streams, self.tracks = streams, tracks
        return changed

    def _stream(self, stream_id: StreamId, tracks: tuple[PublishedTrack, ...]) -> PublishedStream:
        said = self._metadata.get(stream_id, StreamMetadata(DEFAULT_PURPOSE, False, False))
        return PublishedStream(self._owner, stream_id, said.purpose, said.audio_muted, said.video_muted, tracks)
