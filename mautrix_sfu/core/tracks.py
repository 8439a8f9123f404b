"""What one leg publishes: its tracks by the SDP, its streams by the metadata, each checked against the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .events import Metadata, ReceivedTrack, StreamMetadata
from .ids import Device, Kind, LegId, Mid, StreamId, TrackId, TrackKey

DEFAULT_PURPOSE = "m.usermedia"
SCREENSHARE = "m.screenshare"
HELD_BACK = 10.0  # seconds that a stream over a trunk waits for the state that makes it believable


@dataclass(frozen=True, slots=True)
class PublishedTrack:
    """A track that a leg publishes now, and where the media core finds it."""

    key: TrackKey
    leg: LegId
    mid: Mid | None  # None: over a trunk, and not sent yet
    kind: Kind
    stream_id: StreamId
    width: int | None = None
    height: int | None = None
    rids: tuple[str, ...] = ()  # its simulcast layers, highest first
    codec: str | None = None  # of a video; None: VP8


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

    def __init__(self, owner: Device, leg: LegId, limit: int) -> None:
        self._limit = limit
        self.refused = 0  # tracks beyond the limit, which count for nothing
        self._owner = owner
        self._leg = leg
        self._received: tuple[ReceivedTrack, ...] = ()
        self._metadata: Metadata = {}
        self._described: frozenset[TrackId] = frozenset()  # of the received tracks, those that ever were
        self.streams: Mapping[StreamId, PublishedStream] = {}
        self.tracks: Mapping[TrackKey, PublishedTrack] = {}
        self.ended: set[Mid] = set()  # m-lines that stopped since it was last read, whatever came on them again

    def set_received(self, received: tuple[ReceivedTrack, ...], now: float = 0.0) -> bool:
        """Take what the peer's newest description publishes; True if that changes anything."""
        self.ended |= _ended(self._received, received)
        self._received = received
        return self._derive()

    def set_limit(self, limit: int) -> bool:
        """Another number of tracks counts from now on; True if that changes anything."""
        self._limit = limit
        return self._derive()

    def set_metadata(self, metadata: Metadata, now: float = 0.0) -> bool:
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
        self.refused = 0
        for received in self._received:
            key = TrackKey(self._owner, received.track_id)
            if key in tracks:
                continue
            if len(tracks) >= self._limit:
                self.refused += 1
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
                received.rids,
                received.codec,
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


class RemotePublications:
    """What another focus shows over a trunk: streams of its own participants, as its metadata says.

    A track is known before it flows: it gets its m-line once this focus has asked for it. A stream counts
    only while room state says that its owner uses that focus; one that does not is held back for a while,
    as its state may be on the way, and then dropped until something changes.
    """

    def __init__(self, leg: LegId, peer: Device, believes: Callable[[Device, float], bool]) -> None:
        self._leg = leg
        self._peer = peer
        self._believes = believes
        self._received: tuple[ReceivedTrack, ...] = ()
        self._metadata: Metadata = {}
        self._held: dict[StreamId, float] = {}  # since when a stream is not believed
        self.streams: Mapping[StreamId, PublishedStream] = {}
        self.tracks: Mapping[TrackKey, PublishedTrack] = {}
        self.ended: set[Mid] = set()  # m-lines that stopped since it was last read, whatever came on them again
        self.refused = 0  # what it shows is bounded by its messages
        self.dropped = 0  # streams given up since it was last read

    def set_received(self, received: tuple[ReceivedTrack, ...], now: float) -> bool:
        """Take what the peer's newest description sends; True if that changes anything."""
        self.ended |= _ended(self._received, received)
        self._received = received
        return self.check(now)

    def set_metadata(self, metadata: Metadata, now: float) -> bool:
        """Take the whole new metadata."""
        self._metadata = metadata
        self._held = {stream: since for stream, since in self._held.items() if stream in metadata}
        return self.check(now)

    def held_until(self) -> float | None:
        """When the next stream that is held back is given up."""
        return min((since + HELD_BACK for since in self._held.values() if since > 0), default=None)

    def check(self, now: float) -> bool:
        """Hold the streams against room state again; True if that changes anything."""
        mids = {(track.stream_id, track.track_id): track for track in self._received}
        streams: dict[StreamId, PublishedStream] = {}
        tracks: dict[TrackKey, PublishedTrack] = {}
        for stream_id, said in self._metadata.items():
            owner = said.owner
            if owner is None or owner == self._peer or not self._believes(owner, now):
                self._hold(stream_id, now)
                continue
            self._held.pop(stream_id, None)
            found: list[PublishedTrack] = []
            for track_id, size in said.tracks.items():
                key = TrackKey(owner, track_id)
                if size.kind is None or key in tracks:
                    continue
                at = mids.get((stream_id, track_id))
                fits = at is not None and at.kind is size.kind
                track = PublishedTrack(
                    key,
                    self._leg,
                    at.mid if at is not None and fits else None,
                    size.kind,
                    stream_id,
                    size.width,
                    size.height,
                    at.rids if at is not None and fits else (),
                    at.codec if at is not None and fits else None,
                )
                tracks[key] = track
                found.append(track)
            if found:
                streams[stream_id] = PublishedStream(
                    owner, stream_id, said.purpose, said.audio_muted, said.video_muted, tuple(found)
                )
        changed = streams != self.streams
        self.streams, self.tracks = streams, tracks
        return changed

    def _hold(self, stream_id: StreamId, now: float) -> None:
        since = self._held.setdefault(stream_id, now)
        if 0 < since <= now - HELD_BACK:
            self._held[stream_id] = 0.0  # given up, and counted once
            self.dropped += 1


def _ended(before: tuple[ReceivedTrack, ...], now: tuple[ReceivedTrack, ...]) -> set[Mid]:
    return {track.mid for track in before} - {track.mid for track in now}
