"""What the core may ask for. The runtime carries commands out in the order in which they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .events import Size, StoredLeg
from .ids import ConferenceKey, ConfId, Device, Kind, LegId, Mid, RoomId, Slot, StreamId, TrackId, UserId


@dataclass(frozen=True, slots=True)
class OpenLeg:
    """Make a connection for a new leg (credentials, transport, negotiation) before its offer is applied."""

    leg: LegId
    peer: Device
    conf_id: ConfId
    room_id: RoomId | None  # None: more than one room qualifies
    dials: bool = False  # a trunk that this focus dials: the full ICE agent, the DTLS client


@dataclass(frozen=True, slots=True)
class MakeInvite:
    """Make the first offer of a leg that dials; gives InviteMade."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class BindLeg:
    """This leg belongs to this conference from now on: the media core keeps conferences apart."""

    leg: LegId
    conference: ConferenceKey


@dataclass(frozen=True, slots=True)
class CloseLeg:
    """End a leg's connection at once: no packet goes to it or is taken from it any more."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class ApplyOffer:
    """Parse and apply the peer's offer; gives OfferApplied or DescriptionFailed. Drops an own offer in flight."""

    leg: LegId
    sdp: str


@dataclass(frozen=True, slots=True)
class ApplyAnswer:
    """Parse and apply the peer's answer; gives AnswerApplied or DescriptionFailed."""

    leg: LegId
    sdp: str


@dataclass(frozen=True, slots=True)
class SendTrack:
    """A track that the focus wants to send on a leg, under the ids that this leg is shown."""

    slot: Slot
    stream_id: StreamId
    track_id: TrackId
    kind: Kind
    layers: tuple[str, ...] = ()  # rids of a video that is sent as simulcast, highest first: over trunks only
    codec: str | None = None  # of a video, as `wire.codecs` names its form; None: VP8


@dataclass(frozen=True, slots=True)
class AdvertisedTrack:
    """One track of an advertised stream."""

    kind: Kind
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class AdvertisedStream:
    """A stream as a participant is shown it; user and device are stamped by the focus."""

    owner: Device
    purpose: str
    audio_muted: bool
    video_muted: bool
    tracks: Mapping[TrackId, AdvertisedTrack] = field(default_factory=dict)


Advertised = Mapping[StreamId, AdvertisedStream]


# ---------------------------------------------------------------- to-device (protocol, section 2)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a to-device message of a leg goes, and the fields that all of them carry."""

    to: Device
    call_id: str
    conf_id: str
    room_id: RoomId | None
    local_session: str
    remote_session: str | None
    seq: int | None  # None: sent without one
    leg: LegId | None = None  # whose connection it is about, for the log


@dataclass(frozen=True, slots=True)
class SendInvite:
    """`m.call.invite` to another focus, once the leg is stored."""

    leg: LegId
    address: Address
    sdp: str
    lifetime: float  # seconds
    metadata: Advertised


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """`m.call.answer`, once the leg is stored."""

    leg: LegId
    address: Address
    sdp: str
    metadata: Advertised


@dataclass(frozen=True, slots=True)
class Removed:
    """Somebody is kept out by the operator's word: a client that tries again by itself does so in vain."""

    cause: str  # "kicked", "call_ended", "banned", "not_allowed", "guest"
    why: str = ""  # in the operator's words


@dataclass(frozen=True, slots=True)
class SendReject:
    """`m.call.reject`."""

    address: Address
    reason: str
    removed: Removed | None = None


@dataclass(frozen=True, slots=True)
class SendHangup:
    """`m.call.hangup`."""

    address: Address
    reason: str
    removed: Removed | None = None


@dataclass(frozen=True, slots=True)
class SendNegotiate:
    """`m.call.negotiate` with an answer, to-device: the reply to one that came so."""

    address: Address
    sdp: str
    metadata: Advertised


# ---------------------------------------------------------------- data channel (section 4)


@dataclass(frozen=True, slots=True)
class ChannelOffer:
    """Make an offer that sends exactly these tracks (or, `again`, repeat the one in flight) and send it."""

    leg: LegId
    sends: tuple[SendTrack, ...]
    metadata: Advertised
    again: bool = False


@dataclass(frozen=True, slots=True)
class ChannelAnswer:
    """Send an answer over the data channel."""

    leg: LegId
    sdp: str
    metadata: Advertised


@dataclass(frozen=True, slots=True)
class ChannelMetadata:
    """`m.call.sdp_stream_metadata_changed` with the whole set; replaces an unsent one where the channel is full."""

    leg: LegId
    metadata: Advertised


@dataclass(frozen=True, slots=True)
class TrunkTrack:
    """A track asked for over a trunk, in the sizes that local participants are shown."""

    stream_id: StreamId
    track_id: TrackId
    layers: tuple[Size, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelSubscription:
    """`m.call.track_subscription` to another focus: the full list, and what is not on it any more."""

    leg: LegId
    subscribe: tuple[TrunkTrack, ...]
    unsubscribe: tuple[TrunkTrack, ...]


@dataclass(frozen=True, slots=True)
class ChannelPing:
    """`m.call.ping`."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class ChannelPong:
    """`m.call.pong`."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class ChannelSpeaker:
    """`org.matrix.msc3898.active_speaker`."""

    leg: LegId
    stream_id: StreamId
    speaker: Device


@dataclass(frozen=True, slots=True)
class ChannelSuspension:
    """`org.matrix.msc3898.track_suspended`: the participant's link is too narrow for this track, or no longer."""

    leg: LegId
    stream_id: StreamId
    track_id: TrackId
    suspended: bool


@dataclass(frozen=True, slots=True)
class ChannelLayers:
    """`org.matrix.msc3898.layers_watched`: the simulcast layers of a publisher's track that somebody may be sent."""

    leg: LegId
    stream_id: StreamId
    track_id: TrackId
    layers: tuple[str, ...]  # rids, highest first


@dataclass(frozen=True, slots=True)
class ChannelError:
    """`org.matrix.msc3898.error`."""

    leg: LegId
    code: str
    message: str
    in_reply_to: str | None


# ---------------------------------------------------------------- media core


@dataclass(frozen=True, slots=True)
class Forward:
    """Send what `source` publishes on its m-line to `leg` on its m-line; sizes choose the layer.

    Said again with another size it changes the layer. No size means the best there is.
    """

    leg: LegId
    mid: Mid
    source: LegId
    source_mid: Mid
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class ForwardLayers:
    """Send the layers that these sizes choose, each once, on an m-line that sends simulcast (trunks)."""

    leg: LegId
    mid: Mid
    source: LegId
    source_mid: Mid
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class StopForward:
    """Stop sending on this m-line of `leg`."""

    leg: LegId
    mid: Mid


@dataclass(frozen=True, slots=True)
class CapLeg:
    """What this leg may send from now on; the media core drops what is beyond."""

    leg: LegId
    kbits: int | None  # kbit/s; None: anything


@dataclass(frozen=True, slots=True)
class DescribeTrack:
    """Tell the media core what the publisher says of a track: the size of its highest layer, and what it is."""

    leg: LegId
    mid: Mid
    width: int | None
    height: int | None
    first: bool  # it comes before others where a link is narrow: a screen share


# ---------------------------------------------------------------- store, state, operation


@dataclass(frozen=True, slots=True)
class StoreLeg:
    """Keep this leg over a restart, before anything is sent to its peer."""

    leg: LegId
    stored: StoredLeg


@dataclass(frozen=True, slots=True)
class ForgetLeg:
    """Remove a leg from the store."""

    stored: StoredLeg


@dataclass(frozen=True, slots=True)
class RequestSnapshot:
    """Read this room's state if that is permitted; gives RoomSnapshot or SnapshotRefused."""

    room_id: RoomId


@dataclass(frozen=True, slots=True)
class ForgetRoom:
    """Keep nothing of this room's state: there are too many of which something was heard since."""

    room_id: RoomId


@dataclass(frozen=True, slots=True)
class ConferenceEnded:
    """Nobody is in this conference any more. Who was, counts those whom other foci brought."""

    conference: ConferenceKey
    seconds: float  # since somebody was in it
    people: tuple[UserId, ...]  # everybody who was, each once
    peak: int  # devices at a time


class Level(Enum):
    """How loud a log line is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class About:
    """What a line of the log is about, as far as it is known."""

    leg: LegId | None = None
    peer: Device | None = None
    room_id: RoomId | None = None
    conf_id: ConfId | None = None

    @classmethod
    def call(cls, key: ConferenceKey) -> About:
        """A whole call."""
        return cls(room_id=key.room_id, conf_id=key.conf_id)


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log. Never holds SDP, keys or tokens."""

    level: Level
    message: str
    about: About


class Counter(Enum):
    """What the core counts, each by a cause out of a fixed set."""

    JOINS = "joins"  # by grade reached
    REFUSALS = "refusals"  # by cause
    LEGS_ENDED = "legs_ended"  # by reason
    BOUNDS_HIT = "bounds_hit"  # by the bound's name
    BAD_MESSAGES = "bad_messages"  # by code
    NEGOTIATIONS = "negotiations"  # by outcome


@dataclass(frozen=True, slots=True)
class Count:
    """Add one to a counter."""

    counter: Counter
    cause: str
    peer: Device | None = None  # who brought it about, where that is worth telling an operator


Command = (
    OpenLeg
    | MakeInvite
    | BindLeg
    | CloseLeg
    | ApplyOffer
    | ApplyAnswer
    | SendInvite
    | SendAnswer
    | SendReject
    | SendHangup
    | SendNegotiate
    | ChannelOffer
    | ChannelAnswer
    | ChannelMetadata
    | ChannelSubscription
    | ChannelPing
    | ChannelPong
    | ChannelSpeaker
    | ChannelSuspension
    | ChannelLayers
    | ChannelError
    | Forward
    | ForwardLayers
    | StopForward
    | CapLeg
    | DescribeTrack
    | StoreLeg
    | ForgetLeg
    | RequestSnapshot
    | ForgetRoom
    | ConferenceEnded
    | Log
    | Count
)
