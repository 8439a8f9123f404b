"""What one leg wants to receive, apart from what it was granted; offers follow from the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .commands import SendTrack
from .events import Size, Wanted
from .ids import LegId, Mid, Slot, StreamId, TrackId, TrackKey
from .names import Names
from .tracks import PublishedTrack

MAX_UNFULFILLED = 200  # subscriptions of a leg to what does not exist (yet)

Pair = tuple[StreamId, TrackId]


@dataclass(slots=True)
class Grant:
    """One track that is sent, or will be once the peer has agreed to its m-line."""

    slot: Slot
    track: PublishedTrack
    mid: Mid | None = None  # None: not agreed yet, or on hold
    on_hold: bool = False  # agreed once, but the peer's last offer does not receive it


class Subscriptions:
    """Desired: what the peer asked for, by the ids it was shown. Granted: what exists and may be sent."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._desired: dict[Pair, Wanted] = {}
        self._sizes: tuple[int, dict[TrackKey, tuple[Size, ...]]] | None = None  # with the names' version
        self._next_slot = 0
        self.granted: dict[TrackKey, Grant] = {}
        self.refused = 0  # tracks that are there and beyond the limit

    def subscribe(self, wanted: Wanted) -> bool:
        """Ask for a track, or for another size of it; False if the oldest one unfulfilled was dropped for it."""
        self._sizes = None
        pair = (wanted.stream_id, wanted.track_id)
        room = pair in self._desired or len(self._desired) - len(self.granted) < MAX_UNFULFILLED
        if not room:
            oldest = next((p for p in self._desired if self._names.resolve(*p) not in self.granted), None)
            if oldest is not None:
                del self._desired[oldest]
        self._desired[pair] = wanted
        return room

    def unsubscribe(self, wanted: Wanted) -> None:
        """Ask for a track no more, under whichever of its streams' ids it was asked for."""
        self._sizes = None
        pair = (wanted.stream_id, wanted.track_id)
        key = self._names.resolve(*pair)
        self._desired.pop(pair, None)
        if key is not None:
            for other in [p for p in self._desired if self._names.resolve(*p) == key]:
                del self._desired[other]

    def forget(self, key: TrackKey) -> None:
        """The peer refused this track's m-line: it has to ask again."""
        self._sizes = None
        for pair in [p for p in self._desired if self._names.resolve(*p) == key]:
            del self._desired[pair]
        self.granted.pop(key, None)

    def sizes(self) -> Mapping[TrackKey, tuple[Size, ...]]:
        """The sizes asked for last of every track that could be told: one, or over a trunk any number.

        Worked out only when something changed: whoever asks must not change it.
        """
        if self._sizes is not None and self._sizes[0] == self._names.version:
            return self._sizes[1]
        found: dict[TrackKey, tuple[Size, ...]] = {}
        for pair, wanted in self._desired.items():
            key = self._names.resolve(*pair)
            if key is not None:
                found[key] = wanted.layers or ((wanted.width, wanted.height),)
        self._sizes = self._names.version, found
        return found

    def grant(
        self, visible: Mapping[TrackKey, PublishedTrack], limit: int | None = None
    ) -> tuple[list[Grant], list[Grant]]:
        """Bring what is granted in line with what is desired and visible, at most `limit`: who came first stays.

        Returns what is not sent any more, and what goes on from another m-line or leg than before.
        """
        wanted = self.sizes().keys() & visible.keys()
        self.refused = 0
        if limit is not None and len(wanted) > limit:
            self.refused = len(wanted) - limit
            wanted = set(sorted(wanted, key=lambda key: (key not in self.granted, key))[:limit])
        ended = [self.granted.pop(key) for key in [k for k in self.granted if k not in wanted]]
        moved: list[Grant] = []
        for key in sorted(wanted):
            track = visible[key]
            grant = self.granted.get(key)
            if grant is None:
                self.granted[key] = Grant(self._slot(), track)
            elif grant.track != track:
                moves = (grant.track.leg, grant.track.mid) != (track.leg, track.mid)
                grant.track = track
                if moves:
                    moved.append(grant)
        return ended, moved

    def source_ended(self, leg: LegId, mids: set[Mid]) -> None:
        """Nothing flows from these m-lines of a leg any more: what is sent from them must be started anew."""
        for grant in self.granted.values():
            if grant.track.leg == leg and grant.track.mid in mids:
                grant.track = replace(grant.track, mid=None)

    def receives(self, sends: Mapping[Slot, Mid]) -> tuple[list[Mid], list[Grant]]:
        """Take the m-lines that the peer receives on by its own offer.

        Returns the m-lines that it put on hold, and what it takes up again.
        """
        held: list[Mid] = []
        resumed: list[Grant] = []
        for grant in self.granted.values():
            if grant.mid is not None and grant.slot not in sends:
                held.append(grant.mid)
                grant.mid, grant.on_hold = None, True
            elif grant.on_hold and grant.slot in sends:
                grant.mid, grant.on_hold = sends[grant.slot], False
                resumed.append(grant)
        return held, resumed

    def revoke(self) -> list[Grant]:
        """Send nothing any more; what is desired is kept."""
        ended = list(self.granted.values())
        self.granted = {}
        return ended

    def sends(self, *, simulcast: bool = False) -> tuple[SendTrack, ...]:
        """What an offer made now should send, under the ids that the peer is shown; `simulcast` with all layers."""
        return tuple(
            SendTrack(
                grant.slot,
                self._names.stream(key.owner, grant.track.stream_id),
                self._names.track(key, grant.track.stream_id),
                grant.track.kind,
                grant.track.rids if simulcast else (),
                grant.track.codec,
            )
            for key, grant in self.granted.items()
        )

    def _slot(self) -> Slot:
        self._next_slot += 1
        return Slot(self._next_slot)
