"""One call in one room: who is in it with media, what each sees of the others, what flows to whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .commands import (
    AdvertisedStream,
    AdvertisedTrack,
    ChannelSpeaker,
    Counter,
    DescribeTrack,
    Forward,
    StopForward,
)
from .events import AnswerApplied, SpeakerChanged, TrackSubscription
from .ids import ConferenceKey, LegId, Mid, StreamId, TrackId, TrackKey
from .leg import Leg, Timer
from .outbox import Outbox
from .subscriptions import Grant
from .tracks import SCREENSHARE, PublishedStream, PublishedTrack

MAX_ADVERTISED = 300  # streams shown to one participant
REMEMBERED_SPEAKERS = 50  # whose streams are shown first where there are too many
VIEW_MERGE = 0.1  # changes of what a participant sees within this time are worked off as one


class Conference:
    """The full legs of one conference. Held legs are the focus's matter: they see and show nothing."""

    def __init__(self, key: ConferenceKey, out: Outbox) -> None:
        self.key = key
        self.legs: dict[LegId, Leg] = {}  # in order of joining
        self._out = out
        self._described: dict[tuple[LegId, Mid], tuple[int | None, int | None]] = {}
        self._speakers: list[LegId] = []  # newest first

    # ------------------------------------------------------------ coming and going

    def join(self, leg: Leg, now: float) -> None:
        """This leg became full: it sees and is seen."""
        self.legs[leg.id] = leg
        self.refresh(leg, now)
        self.publications_changed(leg, now)

    def leave(self, leg: Leg, now: float) -> None:
        """This leg is not full any more: nothing flows from it or to it."""
        del self.legs[leg.id]
        for grant in leg.subscriptions.revoke():
            self._stop(leg, grant)
        leg.shown = {}
        self._described = {place: size for place, size in self._described.items() if place[0] != leg.id}
        self._speakers = [speaker for speaker in self._speakers if speaker != leg.id]
        if leg.published.streams:
            self._others_see_anew(leg, now)

    def publications_changed(self, leg: Leg, now: float) -> None:
        """This leg publishes something else than before."""
        for track in leg.published.tracks.values():
            size = (track.width, track.height)
            if self._described.get((leg.id, track.mid), (None, None)) != size:
                self._described[leg.id, track.mid] = size
                self._out.put(DescribeTrack(leg.id, track.mid, *size))
        self._others_see_anew(leg, now)

    def _others_see_anew(self, leg: Leg, now: float) -> None:
        for other in self.legs.values():
            if other.peer != leg.peer:
                other.set_timer_earlier(Timer.VIEW, now + VIEW_MERGE)

    # ------------------------------------------------------------ what one participant sees

    def refresh(self, viewer: Leg, now: float) -> None:
        """Work out anew what this leg is shown and sent; tell it of what changed."""
        viewer.cancel_timer(Timer.VIEW)
        streams = list(self._visible(viewer))
        viewer.shown = {
            viewer.names.stream(stream.owner, stream.stream_id): _advertised(viewer, stream) for stream in streams
        }
        self._grant(viewer, {track.key: track for stream in streams for track in stream.tracks})
        viewer.poll_offers(now)  # an offer takes the metadata along
        viewer.tell()

    def _visible(self, viewer: Leg) -> Iterator[PublishedStream]:
        others = [leg for leg in self.legs.values() if leg.peer != viewer.peer]
        if sum(len(leg.published.streams) for leg in others) <= MAX_ADVERTISED:
            return (stream for leg in others for stream in leg.published.streams.values())
        return iter(self._most_important(viewer, others))

    def _most_important(self, viewer: Leg, others: list[Leg]) -> list[PublishedStream]:
        """Those it subscribes to, then screen shares, recent speakers, newest (docs/protocol.md, section 4)."""
        self._out.count(Counter.BOUNDS_HIT, "advertised_streams")
        subscribed = viewer.subscriptions.granted
        rank: dict[tuple[LegId, StreamId], tuple[int, int]] = {}
        streams: list[tuple[tuple[LegId, StreamId], PublishedStream]] = []
        for age, leg in enumerate(reversed(others)):
            for stream in leg.published.streams.values():
                if any(track.key in subscribed for track in stream.tracks):
                    order = (0, age)
                elif stream.purpose == SCREENSHARE:
                    order = (1, age)
                elif leg.id in self._speakers:
                    order = (2, self._speakers.index(leg.id))
                else:
                    order = (3, age)
                rank[leg.id, stream.stream_id] = order
                streams.append(((leg.id, stream.stream_id), stream))
        chosen = sorted(rank, key=rank.__getitem__)[:MAX_ADVERTISED]
        kept = frozenset(chosen)
        return [stream for place, stream in streams if place in kept]

    # ------------------------------------------------------------ what flows to it

    def subscribe(self, viewer: Leg, event: TrackSubscription, now: float) -> None:
        """Take what this leg wants; what exists flows as soon as its m-line is agreed."""
        before = viewer.subscriptions.sizes()
        viewer.keep_subscriptions(event)
        self._grant(viewer, {track.key: track for stream in self._visible(viewer) for track in stream.tracks})
        after = viewer.subscriptions.sizes()
        for key, grant in viewer.subscriptions.granted.items():
            if grant.mid is not None and before.get(key) != after.get(key):
                self._forward(viewer, [grant], after)
        viewer.poll_offers(now)

    def answer_applied(self, viewer: Leg, event: AnswerApplied, now: float) -> None:
        """The leg agreed to m-lines: let what was granted flow."""
        self._forward(viewer, viewer.answer_applied(event, now), viewer.subscriptions.sizes())
        viewer.poll_offers(now)

    def _grant(self, viewer: Leg, visible: dict[TrackKey, PublishedTrack]) -> None:
        ended, moved = viewer.subscriptions.grant(visible)
        for grant in ended:
            self._stop(viewer, grant)
        self._forward(viewer, (grant for grant in moved if grant.mid is not None), viewer.subscriptions.sizes())

    def _forward(
        self, viewer: Leg, grants: Iterable[Grant], sizes: dict[TrackKey, tuple[int | None, int | None]]
    ) -> None:
        for grant in grants:
            if grant.mid is not None:
                width, height = sizes.get(grant.track.key, (None, None))
                self._out.put(Forward(viewer.id, grant.mid, grant.track.leg, grant.track.mid, width, height))

    def _stop(self, viewer: Leg, grant: Grant) -> None:
        if grant.mid is not None:
            self._out.put(StopForward(viewer.id, grant.mid))

    # ------------------------------------------------------------ who speaks

    def speaker_changed(self, event: SpeakerChanged) -> None:
        """Tell everybody who may see the dominant speaker."""
        speaker = self.legs.get(event.leg)
        if speaker is None:
            return
        self._speakers = [event.leg, *(leg for leg in self._speakers if leg != event.leg)][:REMEMBERED_SPEAKERS]
        track = next((t for t in speaker.published.tracks.values() if t.mid == event.mid), None)
        if track is None:
            return
        for viewer in self.legs.values():
            stream_id = viewer.names.stream(speaker.peer, track.stream_id)
            if viewer.peer != speaker.peer and stream_id in viewer.shown:
                self._out.put(ChannelSpeaker(viewer.id, stream_id, speaker.peer))


def _advertised(viewer: Leg, stream: PublishedStream) -> AdvertisedStream:
    tracks: dict[TrackId, AdvertisedTrack] = {
        viewer.names.track(track.key, stream.stream_id): AdvertisedTrack(track.kind, track.width, track.height)
        for track in stream.tracks
    }
    return AdvertisedStream(stream.owner, stream.purpose, stream.audio_muted, stream.video_muted, tracks)
