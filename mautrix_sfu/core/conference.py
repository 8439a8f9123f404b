"""One call in one room: who is in it with media, what each sees of the others, what flows to whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .commands import (
    AdvertisedStream,
    AdvertisedTrack,
    ChannelSpeaker,
    ChannelSubscription,
    ChannelSuspension,
    ConferenceEnded,
    Counter,
    DescribeTrack,
    Forward,
    ForwardLayers,
    StopForward,
    TrunkTrack,
)
from .events import AnswerApplied, FlowChanged, Size, SpeakerChanged, SuspensionChanged, TrackSubscription
from .ids import ConferenceKey, Device, Kind, LegId, Mid, Slot, StreamId, TrackId, TrackKey, UserId
from .leg import Leg, State, Timer
from .mutes import Mutes
from .outbox import Outbox
from .subscriptions import Grant
from .tracks import SCREENSHARE, PublishedStream, PublishedTrack, RemotePublications
from .view import CallView
from .watched import Watched

MAX_ADVERTISED = 300  # streams shown to one participant
REMEMBERED_SPEAKERS = 50  # whose streams are shown first where there are too many
MAX_NAMED = 10_000  # people who are kept in mind for what is told when the call is over
MAX_SIZES = 8  # of one track, asked for over a trunk
WANTS_MERGE = 0.05  # changes of what is asked for over a trunk within this time go out as one
VIEW_MERGE = 0.1  # changes of what a participant sees within this time are worked off as one
VIEW_PACE = 50e-6  # in large calls that time grows, for each participant and stream: everybody is told of everything
UNDESCRIBED = (None, None, False)  # what the media core takes a track for: no size, nothing special


class Conference:
    """The full legs of one conference. Held legs are the focus's matter: they see and show nothing."""

    def __init__(self, key: ConferenceKey, out: Outbox, mutes: Mutes, now: float) -> None:
        self.key = key
        self.since = now
        self._mutes = mutes
        self.legs: dict[LegId, Leg] = {}  # in order of joining
        self._out = out
        self._described: dict[tuple[LegId, Mid], tuple[int | None, int | None, bool]] = {}
        self._speakers: list[LegId] = []  # newest first
        self._silent: set[tuple[LegId, TrackKey]] = set()  # sources that sent nothing when they should, and not since
        self._drawn: dict[tuple[Device, StreamId], tuple[PublishedStream, AdvertisedStream]] = {}  # for most viewers
        self._watched = Watched(out)
        self._people: set[UserId] = set()  # who was here, also beyond trunks
        self._peak = 0

    # ------------------------------------------------------------ coming and going

    @property
    def participants(self) -> list[Leg]:
        """The legs that are people."""
        return [leg for leg in self.legs.values() if not leg.trunk]

    @property
    def trunks(self) -> list[Leg]:
        """The legs that are other foci, the lowest first."""
        return sorted((leg for leg in self.legs.values() if leg.trunk), key=lambda leg: (leg.peer, leg.id))

    def join(self, leg: Leg, now: float) -> None:
        """This leg became full: it sees and is seen."""
        self.legs[leg.id] = leg
        self._keep_in_mind(leg)
        self.refresh(leg, now)
        self.publications_changed(leg, now)

    def leave(self, leg: Leg, now: float) -> None:
        """This leg is not full any more: nothing flows from it or to it."""
        del self.legs[leg.id]
        for grant in leg.subscriptions.revoke():
            self._stop(leg, grant, now)
        self._watched.left(leg)
        leg.shown = {}
        self._described = {place: said for place, said in self._described.items() if place[0] != leg.id}
        self._silent = {place for place in self._silent if place[0] != leg.id}
        self._speakers = [speaker for speaker in self._speakers if speaker != leg.id]
        self._wants_changed(now)
        self._draw_anew(leg)
        if leg.published.streams:
            self._others_see_anew(leg, now)

    def publications_changed(self, leg: Leg, now: float) -> None:
        """This leg publishes something else than before."""
        self._mutes.stale = self._mutes.stale or leg.trunk
        self._draw_anew(leg)
        leg.note_beyond("tracks_per_leg", leg.published.refused)
        self._watch_held(leg, now)
        if leg.trunk:
            self._keep_in_mind(leg)
        self._lines_ended(leg)
        gone = [place for place in self._silent if place[0] == leg.id and place[1] not in leg.published.tracks]
        self._silent.difference_update(gone)
        for track in leg.published.tracks.values():
            stream = leg.published.streams.get(track.stream_id)
            said = (track.width, track.height, stream is not None and stream.purpose == SCREENSHARE)
            if track.mid is not None and self._described.get((leg.id, track.mid), UNDESCRIBED) != said:
                self._described[leg.id, track.mid] = said
                self._out.put(DescribeTrack(leg.id, track.mid, *said))
        self._watched.publications_changed(leg, now)
        self._others_see_anew(leg, now)

    def _keep_in_mind(self, leg: Leg) -> None:
        """Note for `ended` who is here now that this leg joined, or brings others than before."""
        beyond = {stream.owner for trunk in self.trunks for stream in trunk.published.streams.values()}
        self._peak = max(self._peak, len({each.peer for each in self.participants} | beyond))
        if len(self._people) < MAX_NAMED:
            self._people |= {device.user_id for device in (beyond if leg.trunk else (leg.peer,))}

    def view(self, now: float) -> CallView:
        """What it has been so far."""
        return CallView(self.key, now - self.since, len(self._people), self._peak)

    def ended(self, now: float) -> None:
        """The last leg has left."""
        people = tuple(sorted(self._people))
        self._out.put(ConferenceEnded(self.key, now - self.since, people, self._peak))

    def _lines_ended(self, leg: Leg) -> None:
        """The media core forgot who takes what came on these m-lines: it is told anew if they come back."""
        ended, leg.published.ended = leg.published.ended, set()
        if ended:
            for mid in ended:
                self._described.pop((leg.id, mid), None)
            for viewer in self.legs.values():
                viewer.subscriptions.source_ended(leg.id, ended)

    def _draw_anew(self, leg: Leg) -> None:
        """Forget how streams of this leg, or of whoever is beyond it, are shown."""
        for place in [place for place in self._drawn if leg.trunk or place[0] == leg.peer]:
            del self._drawn[place]

    def _others_see_anew(self, leg: Leg, now: float) -> None:
        """Have the others see what changed, one after the other where they are many; each of them not too often."""
        streams = sum(len(each.published.streams) for each in self.legs.values())
        pace = VIEW_PACE * len(self.legs) * min(streams, MAX_ADVERTISED)
        apart = pace / 2 / len(self.legs) if pace > VIEW_MERGE else 0.0
        for place, other in enumerate(self.legs.values()):
            if other.peer != leg.peer and not (leg.trunk and other.trunk):
                other.set_timer_earlier(Timer.VIEW, max(now + VIEW_MERGE + place * apart, other.viewed_at + pace))

    def flow_changed(self, event: FlowChanged, now: float) -> None:
        """A source fell silent or sends again: who has another source of the same track takes that one."""
        source = self.legs.get(event.leg)
        tracks = source.published.tracks.values() if source is not None else ()
        track = next((track for track in tracks if track.mid == event.mid), None)
        if source is None or track is None:
            return
        if event.flowing:
            self._silent.discard((source.id, track.key))
        elif not source.trunk or source.asks_for(track):  # what is not asked for is silent for that reason
            self._silent.add((source.id, track.key))
        if any(leg.trunk for leg in self.legs.values()):
            for viewer in self.participants:
                viewer.set_timer_earlier(Timer.VIEW, now)

    # ------------------------------------------------------------ what one participant sees

    def refresh(self, viewer: Leg, now: float) -> None:
        """Work out anew what this leg is shown and sent; tell it of what changed."""
        viewer.cancel_timer(Timer.VIEW)
        viewer.viewed_at = now
        streams = self._visible(viewer)
        viewer.shown = {
            viewer.names.stream(stream.owner, stream.stream_id): self._advertised(viewer, stream) for stream in streams
        }
        self._grant(viewer, streams, now)
        viewer.poll_offers(now)  # an offer takes the metadata along
        viewer.tell()

    def _visible(self, viewer: Leg) -> list[PublishedStream]:
        """Every stream that this leg may subscribe to; a focus gets those of our own participants only."""
        others = [leg for leg in self.participants if leg.peer != viewer.peer]
        streams = [stream for leg in others for stream in leg.published.streams.values()]
        if not viewer.trunk and (trunks := self.trunks):
            streams = self._from_best_source(viewer, streams, trunks)
        if len(streams) > MAX_ADVERTISED:
            self._out.count(Counter.BOUNDS_HIT, "advertised_streams")
            return self._most_important(viewer, streams)
        return streams

    def _from_best_source(self, viewer: Leg, own: list[PublishedStream], trunks: list[Leg]) -> list[PublishedStream]:
        """One track is one track, however many foci offer it: own legs first, then the lowest focus that sends."""
        offered = own + [stream for leg in trunks for stream in leg.published.streams.values()]
        best: dict[TrackKey, PublishedTrack] = {}
        for stream in offered:
            for track in stream.tracks:
                chosen = best.get(track.key)
                if chosen is None or (self._is_silent(chosen) and not self._is_silent(track)):
                    best[track.key] = track
        merged: dict[tuple[Device, StreamId], PublishedStream] = {}
        for stream in offered:
            tracks = tuple(track for track in stream.tracks if best[track.key] is track)
            if not tracks or stream.owner == viewer.peer:
                continue
            place = (stream.owner, stream.stream_id)
            known = merged.get(place)
            merged[place] = replace(
                stream if known is None else known, tracks=(*(known.tracks if known else ()), *tracks)
            )
        return list(merged.values())

    def _is_silent(self, track: PublishedTrack) -> bool:
        return (track.leg, track.key) in self._silent

    def _most_important(self, viewer: Leg, streams: list[PublishedStream]) -> list[PublishedStream]:
        """Those it subscribes to, then screen shares, recent speakers, newest (docs/protocol.md, section 4)."""
        subscribed = viewer.subscriptions.granted
        speakers = {leg: place for place, leg in enumerate(self._speakers)}

        def rank(numbered: tuple[int, PublishedStream]) -> tuple[int, int]:
            age, stream = numbered
            if any(track.key in subscribed for track in stream.tracks):
                return (0, age)
            if stream.purpose == SCREENSHARE:
                return (1, age)
            spoke = speakers.get(stream.tracks[0].leg)
            return (3, age) if spoke is None else (2, spoke)

        chosen = sorted(enumerate(reversed(streams)), key=rank)[:MAX_ADVERTISED]
        return [stream for _, stream in chosen]

    def _advertised(self, viewer: Leg, stream: PublishedStream) -> AdvertisedStream:
        """How a stream is shown to this leg: the same object for all whose names for its tracks are its publisher's."""
        names = viewer.names
        ids = [names.track(track.key, stream.stream_id) for track in stream.tracks]
        user_id = stream.owner.user_id
        audio_muted = stream.audio_muted or self._mutes.mutes(user_id, Kind.AUDIO)
        video_muted = stream.video_muted or self._mutes.mutes(user_id, Kind.VIDEO)
        usual = all(track_id == track.key.track_id for track_id, track in zip(ids, stream.tracks, strict=True))
        place = (stream.owner, stream.stream_id)
        if usual and (known := self._drawn.get(place)) is not None:
            drawn_of, drawn = known
            same = drawn_of is stream or drawn_of == stream
            if same and (drawn.audio_muted, drawn.video_muted) == (audio_muted, video_muted):
                return drawn
        tracks: dict[TrackId, AdvertisedTrack] = {
            track_id: AdvertisedTrack(track.kind, track.width, track.height)
            for track_id, track in zip(ids, stream.tracks, strict=True)
        }
        made = AdvertisedStream(stream.owner, stream.purpose, audio_muted, video_muted, tracks)
        if usual:
            self._drawn[place] = (stream, made)
        return made

    # ------------------------------------------------------------ what flows to it

    def subscribe(self, viewer: Leg, event: TrackSubscription, now: float) -> None:
        """Take what this leg wants; what exists flows as soon as its m-line is agreed."""
        before = viewer.subscriptions.sizes()
        viewer.keep_subscriptions(event)
        streams = self._visible(viewer)
        for stream in streams:  # what is visible can be named
            for track in stream.tracks:
                viewer.names.track(track.key, stream.stream_id)
        self._grant(viewer, streams, now)
        after = viewer.subscriptions.sizes()
        changed = [grant for key, grant in viewer.subscriptions.granted.items() if before.get(key) != after.get(key)]
        self._forward(viewer, changed, after, now)
        viewer.poll_offers(now)

    def answer_applied(self, viewer: Leg, event: AnswerApplied, now: float) -> None:
        """The leg agreed to m-lines: let what was granted flow."""
        self._forward(viewer, viewer.answer_applied(event, now), viewer.subscriptions.sizes(), now)
        viewer.poll_offers(now)

    def _grant(self, viewer: Leg, streams: list[PublishedStream], now: float) -> None:
        visible = {track.key: track for stream in streams for track in stream.tracks}
        ended, moved = viewer.subscriptions.grant(visible, viewer.subscription_limit)
        viewer.note_beyond("subscriptions_per_leg", viewer.subscriptions.refused)
        for grant in ended:
            self._stop(viewer, grant, now)
        self._forward(viewer, moved, viewer.subscriptions.sizes(), now)
        if not viewer.trunk:
            self._wants_changed(now)

    def offer_applied(self, viewer: Leg, sends: Mapping[Slot, Mid], now: float) -> None:
        """The leg's own offer says on which m-lines it receives: some are on hold now, or go on."""
        held, resumed = viewer.subscriptions.receives(sends)
        for mid in held:
            self._out.put(StopForward(viewer.id, mid))
        for grant in viewer.subscriptions.granted.values() if held else ():
            if grant.on_hold:
                self._watched.dropped(self.legs.get(grant.track.leg), grant.track, now)
        self._forward(viewer, resumed, viewer.subscriptions.sizes(), now)
        if (held or resumed) and not viewer.trunk:
            self._wants_changed(now)

    def _forward(
        self, viewer: Leg, grants: Iterable[Grant], sizes: Mapping[TrackKey, tuple[Size, ...]], now: float
    ) -> None:
        for grant in grants:
            track = grant.track
            if track.leg not in self.legs:  # it has just left, and `refresh` will find who else has the track
                grant.track = track = replace(track, mid=None)
            wanted = sizes.get(track.key, ((None, None),))
            if not self._is_muted(track):
                self._watched.asked(self.legs.get(track.leg), track, wanted, now)
            if grant.mid is None or track.mid is None or self._is_muted(track):
                continue
            if viewer.trunk and track.rids:
                self._out.put(ForwardLayers(viewer.id, grant.mid, track.leg, track.mid, wanted))
            else:
                self._out.put(Forward(viewer.id, grant.mid, track.leg, track.mid, *wanted[0]))

    def _stop(self, viewer: Leg, grant: Grant, now: float) -> None:
        self._watched.dropped(self.legs.get(grant.track.leg), grant.track, now)
        if grant.mid is not None:
            self._out.put(StopForward(viewer.id, grant.mid))

    def review_layers(self, leg: Leg, now: float) -> None:
        """For a while nobody asked for less of what this leg publishes: it need not send what nobody watches."""
        muted = {key: self._is_muted(track) for key, track in leg.published.tracks.items()}
        self._watched.review(leg, self.legs.values(), muted, now)

    def _is_muted(self, track: PublishedTrack) -> bool:
        return self._mutes.mutes(track.key.owner.user_id, track.kind)

    def mutes_changed(self, user_id: UserId, now: float) -> None:
        """An operator muted or unmuted somebody, who may be here or beyond a trunk."""
        for viewer in self.legs.values():
            theirs = [
                grant for grant in viewer.subscriptions.granted.values() if grant.track.key.owner.user_id == user_id
            ]
            for grant in theirs:
                if self._is_muted(grant.track):
                    self._stop(viewer, grant, now)
            self._forward(viewer, theirs, viewer.subscriptions.sizes(), now)
            self.refresh(viewer, now)
        self._wants_changed(now)

    # ------------------------------------------------------------ what crosses the trunks

    def _wants_changed(self, now: float) -> None:
        for leg in self.legs.values():
            if leg.trunk:
                leg.set_timer_earlier(Timer.WANTS, now + WANTS_MERGE)

    def ask(self, trunk: Leg) -> None:
        """Ask another focus for exactly what local participants are granted of it, if that changed."""
        sizes: dict[tuple[StreamId, TrackId], set[Size]] = {}
        for viewer in self.participants:
            wanted = viewer.subscriptions.sizes()
            for key, grant in viewer.subscriptions.granted.items():
                if grant.track.leg == trunk.id and not grant.on_hold and not self._is_muted(grant.track):
                    place = (grant.track.stream_id, key.track_id)
                    asked = wanted.get(key, ()) if grant.track.kind is Kind.VIDEO else ()
                    sizes.setdefault(place, set()).update(asked)
        wants = tuple(
            TrunkTrack(stream_id, track_id, tuple(sorted(asked, key=_by_size)[:MAX_SIZES]))
            for (stream_id, track_id), asked in sorted(sizes.items())
        )
        if wants == trunk.wanted or trunk.state is not State.OPEN:
            return
        named = {(track.stream_id, track.track_id) for track in wants}
        gone = tuple(track for track in trunk.wanted if (track.stream_id, track.track_id) not in named)
        trunk.wanted = wants
        self._out.put(ChannelSubscription(trunk.id, wants, gone))

    def check_trunks(self, now: float) -> None:
        """Room state changed: streams over trunks may have become believable, or are not any more."""
        for trunk in self.trunks:
            self.check_trunk(trunk, now)

    def check_trunk(self, trunk: Leg, now: float) -> None:
        """Hold what one focus shows against room state."""
        published = trunk.published
        if not isinstance(published, RemotePublications):
            return
        if published.check(now):
            self.publications_changed(trunk, now)
        self._watch_held(trunk, now)
        for _ in range(published.dropped):
            self._out.count(Counter.BAD_MESSAGES, "stream_of_a_stranger")
        published.dropped = 0

    def _watch_held(self, leg: Leg, now: float) -> None:
        if isinstance(leg.published, RemotePublications) and (held := leg.published.held_until()) is not None:
            leg.set_timer(Timer.HELD_BACK, max(held, now + 0.01))

    # ------------------------------------------------------------ narrow links

    def suspension_changed(self, viewer: Leg, event: SuspensionChanged) -> None:
        """Tell a participant that a track pauses for its link's sake, or goes on."""
        grants = viewer.subscriptions.granted.values()
        track = next((grant.track for grant in grants if grant.mid == event.mid), None)
        if track is not None and not viewer.trunk:
            stream_id = viewer.names.stream(track.key.owner, track.stream_id)
            track_id = viewer.names.track(track.key, track.stream_id)
            self._out.put(ChannelSuspension(viewer.id, stream_id, track_id, event.suspended))

    # ------------------------------------------------------------ who speaks

    def speaker_changed(self, event: SpeakerChanged) -> None:
        """Tell everybody who may see the dominant speaker; other foci find their own."""
        source = self.legs.get(event.leg)
        if source is None:
            return
        self._speakers = [event.leg, *(leg for leg in self._speakers if leg != event.leg)][:REMEMBERED_SPEAKERS]
        track = next((t for t in source.published.tracks.values() if t.mid == event.mid), None)
        if track is None or self._is_muted(track):
            return
        owner = track.key.owner
        for viewer in self.participants:
            stream_id = viewer.names.stream(owner, track.stream_id)
            if viewer.peer != owner and stream_id in viewer.shown:
                self._out.put(ChannelSpeaker(viewer.id, stream_id, owner))


def _by_size(size: Size) -> tuple[int, int]:
    """Largest first; no size means the best there is."""
    return (-(size[0] or 1 << 20), -(size[1] or 1 << 20))
