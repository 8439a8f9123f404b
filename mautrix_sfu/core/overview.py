"""What operators and metrics see of the focus: made out of the books when somebody asks."""

from __future__ import annotations

from collections import Counter as Tally

from .books import Books
from .entrance import Entrance
from .ids import Device, Kind, LegId, TrackKey
from .leg import Leg
from .rooms import Rooms
from .shares import Shares
from .view import FocusView, LegView, TrackView


class Overview:
    """Looks, and changes nothing."""

    def __init__(self, books: Books, rooms: Rooms, entrance: Entrance, shares: Shares) -> None:
        self._books = books
        self._rooms = rooms
        self._entrance = entrance
        self._shares = shares

    def view(self, now: float) -> FocusView:
        """All connections, and how the focus is."""
        legs = tuple(
            LegView(
                leg.id,
                leg.peer,
                leg.conference,
                leg.grade.value,
                leg.state.value,
                now - leg.since,
                len(leg.published.tracks),
                sum(grant.mid is not None for grant in leg.subscriptions.granted.values()),
                tuple(sorted(kind.value for kind in self._books.mutes.users.get(leg.peer.user_id, ()))),
                "trunk" if leg.trunk else "participant",
                leg.liveness.round_trip if leg.liveness is not None else None,
                self._carries(leg, now),
                *self._shares.bitrate(leg.id),
            )
            for leg in self._books.legs.values()
        )
        doors = self._books.doors
        return FocusView(
            legs,
            self._entrance.parked,
            len(self._rooms),
            self._books.caught_up,
            doors.draining,
            None if doors.drain_deadline is None else doors.drain_deadline - now,
            doors.overload,
            dict(self._books.mutes.users),
            self._books.peaks.largest(now),
        )

    def _carries(self, leg: Leg, now: float) -> tuple[Device, ...]:
        key = leg.conference
        room = self._rooms.get(key.room_id) if leg.trunk and key is not None else None
        return () if room is None or key is None else tuple(sorted(room.devices_at(key.conf_id, leg.peer, now)))

    def tracks(self, leg_id: LegId) -> tuple[TrackView, ...]:
        """What one leg publishes, or another focus shows."""
        leg = self._books.legs.get(leg_id)
        conference = self._books.conference_of(leg) if leg is not None else None
        viewers: Tally[TrackKey] = Tally()
        for other in conference.legs.values() if conference is not None else ():
            granted = other.subscriptions.granted.items()
            viewers.update(key for key, grant in granted if grant.mid is not None and grant.track.leg == leg_id)
        return tuple(
            TrackView(
                stream.owner,
                track.kind,
                stream.purpose,
                stream.audio_muted if track.kind is Kind.AUDIO else stream.video_muted,
                track.width,
                track.height,
                track.rids,
                viewers[track.key],
            )
            for stream in (leg.published.streams.values() if leg is not None else ())
            for track in stream.tracks
        )
