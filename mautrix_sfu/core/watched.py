"""Which simulcast layers of a published track somebody may be sent: its publisher need not send those above.

Smaller layers than the largest that is asked for count as watched: who has a narrow link is sent them instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .commands import ChannelLayers
from .events import Size
from .ids import Kind, LegId, TrackKey
from .leg import Leg, State, Timer
from .outbox import Outbox
from .subscriptions import Subscriptions
from .tracks import PublishedTrack

UNWATCHED = 5.0  # seconds that nobody asks for a layer before its publisher is told


def has_layers(track: PublishedTrack) -> bool:
    """Can its publisher leave layers out."""
    return track.kind is Kind.VIDEO and len(track.rids) > 1


def unneeded(track: PublishedTrack, sizes: Iterable[Size]) -> int:
    """How many of the track's layers, from the largest on, are larger than each of these sizes needs."""
    return min((_largest_unneeded(track, size) for size in sizes), default=len(track.rids))


def _largest_unneeded(track: PublishedTrack, size: Size) -> int:
    (width, height), (has_width, has_height) = size, (track.width, track.height)
    if width is None or height is None or has_width is None or has_height is None:
        return 0  # the best, or whatever it may be
    covering = [n for n in range(len(track.rids)) if has_width >> n >= width and has_height >> n >= height]
    return max(covering, default=0)


class Watched:
    """What the publishers of one conference were told of their layers, and when they are told anew."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._left_out: dict[tuple[LegId, TrackKey], int] = {}  # layers that the publisher was told nobody watches

    def publications_changed(self, publisher: Leg, now: float) -> None:
        """What ended is forgotten: published again it is sent in all layers."""
        tracks = publisher.published.tracks
        ended = [place for place in self._left_out if place[0] == publisher.id and place[1] not in tracks]
        for place in ended:
            del self._left_out[place]
        if not publisher.trunk and any(has_layers(track) for track in tracks.values()):
            publisher.set_timer_earlier(Timer.LAYERS, now + UNWATCHED)

    def left(self, leg: Leg) -> None:
        """This leg publishes nothing any more."""
        self._left_out = {place: number for place, number in self._left_out.items() if place[0] != leg.id}
        leg.cancel_timer(Timer.LAYERS)

    def asked(self, publisher: Leg | None, track: PublishedTrack, sizes: Iterable[Size], now: float) -> None:
        """Somebody asks for a track in these sizes: a layer that was left out is wanted at once."""
        if publisher is None or publisher.trunk or not has_layers(track):
            return
        left_out = self._left_out.get((publisher.id, track.key), 0)
        if (number := unneeded(track, sizes)) < left_out:
            self._tell(publisher, track, number)
        self.dropped(publisher, track, now)  # it may have been asked for in a larger size before

    def dropped(self, publisher: Leg | None, track: PublishedTrack, now: float) -> None:
        """Somebody asks for a track no more, or perhaps for less of it: see later whether that lasts."""
        if publisher is not None and not publisher.trunk and has_layers(track):
            publisher.set_timer(Timer.LAYERS, now + UNWATCHED)

    def review(self, publisher: Leg, viewers: Iterable[Leg], muted: Mapping[TrackKey, bool], now: float) -> None:
        """Tell a publisher what of its layers nobody watches."""
        if publisher.state is not State.OPEN:
            publisher.set_timer(Timer.LAYERS, now + UNWATCHED)
            return
        watching: list[Subscriptions] = [viewer.subscriptions for viewer in viewers if viewer is not publisher]
        for key, track in publisher.published.tracks.items():
            if not has_layers(track):
                continue
            sizes: set[Size] = set()
            for subscriptions in watching:
                grant = subscriptions.granted.get(key)
                if grant is not None and grant.track.leg == publisher.id and not grant.on_hold and not muted.get(key):
                    sizes.update(subscriptions.sizes().get(key, ((None, None),)))
            if (number := unneeded(track, sizes)) != self._left_out.get((publisher.id, key), 0):
                self._tell(publisher, track, number)

    def _tell(self, publisher: Leg, track: PublishedTrack, left_out: int) -> None:
        self._left_out[publisher.id, track.key] = left_out
        layers = track.rids[left_out:]
        self._out.put(ChannelLayers(publisher.id, track.stream_id, track.key.track_id, layers))
