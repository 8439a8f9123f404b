"""What may be said to the core: room state, signalling, the fate of connections. All times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .ids import (
    CallId,
    ConfId,
    Device,
    DeviceId,
    EventId,
    Kind,
    LegId,
    Mid,
    RoomId,
    SessionId,
    Slot,
    StreamId,
    TrackId,
    UserId,
)
from .orders import OperatorEvent, Traffic

# ---------------------------------------------------------------- room state (protocol, section 1)


class Membership(Enum):
    """`m.room.member`'s membership."""

    JOIN = "join"
    INVITE = "invite"
    KNOCK = "knock"
    LEAVE = "leave"
    BAN = "ban"


@dataclass(frozen=True, slots=True)
class CallDevice:
    """One device of one call out of an `m.call.member` event."""

    conf_id: ConfId
    device_id: DeviceId
    session_id: SessionId | None  # None: the session test is skipped
    lasts: float  # seconds from now that it still counts; zero or less: expired
    active: tuple[Device, ...] = ()  # m.foci.active
    preferred: tuple[Device, ...] = ()  # m.foci.preferred


@dataclass(frozen=True, slots=True)
class CallChanged:
    """An `m.call` state event: a call exists in a room, or is over."""

    room_id: RoomId
    conf_id: ConfId
    terminated: bool
    event_id: EventId
    replaces: EventId | None  # `unsigned.replaces_state`
    stable: bool = False  # which of the two names of its type: each is a state event of its own


@dataclass(frozen=True, slots=True)
class CallMemberChanged:
    """An `m.call.member` state event, whose state key is its sender."""

    room_id: RoomId
    user_id: UserId
    devices: tuple[CallDevice, ...]  # of every call; empty: in no call of ours
    event_id: EventId
    replaces: EventId | None
    received_ms: int  # wall clock; orders the events of one device across rooms
    stable: bool = False


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """An `m.room.member` state event."""

    room_id: RoomId
    user_id: UserId  # its state key
    membership: Membership
    event_id: EventId
    replaces: EventId | None


@dataclass(frozen=True, slots=True)
class Redacted:
    """A redaction of some event, which the homeserver may or may not have applied."""

    room_id: RoomId
    sender: UserId
    event_id: EventId  # the event that it redacts


RoomFact = CallChanged | CallMemberChanged | MembershipChanged


@dataclass(frozen=True, slots=True)
class RoomSnapshot:
    """The whole current state of a room, as far as it concerns calls: replaces what was known."""

    room_id: RoomId
    facts: tuple[RoomFact, ...]


@dataclass(frozen=True, slots=True)
class SnapshotRefused:
    """The focus may not (or could not) read this room's state."""

    room_id: RoomId


@dataclass(frozen=True, slots=True)
class HomeserverLost:
    """The homeserver does not answer, or its transactions lag: expiries freeze."""


@dataclass(frozen=True, slots=True)
class HomeserverBack:
    """The homeserver answers again."""


# ---------------------------------------------------------------- restart


@dataclass(frozen=True, slots=True)
class StoredLeg:
    """What the store keeps of a leg over a restart (protocol, section 3)."""

    room_id: RoomId | None  # None: not yet bound to a room
    conf_id: ConfId
    peer: Device
    call_id: CallId
    remote_session: SessionId | None
    local_session: SessionId
    kind: str = "participant"


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store held at start. Nobody becomes full on it before `CaughtUp`."""

    facts: tuple[RoomFact, ...]
    legs: tuple[StoredLeg, ...]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The homeserver answered the ping and its backlog of transactions is worked off."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The process is told to end: everybody is told, and nobody is taken any more."""


# ---------------------------------------------------------------- stream metadata (MSC3077, MSC3291, MSC3898)


@dataclass(frozen=True, slots=True)
class TrackMetadata:
    """One track of a stream's metadata; the size is that of the whole picture as published."""

    kind: Kind | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class StreamMetadata:
    """One stream's metadata. Whose it is, the focus knows from the leg, not from the message."""

    purpose: str
    audio_muted: bool
    video_muted: bool
    tracks: Mapping[TrackId, TrackMetadata] = field(default_factory=dict)
    owner: Device | None = None  # what the message claims; looked at on trunks only, and checked there


Metadata = Mapping[StreamId, StreamMetadata]


# ---------------------------------------------------------------- to-device signalling (section 2)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields of every to-device event of a leg."""

    sender: Device  # user vouched for by the homeserver, device claimed by the message (unless `proven`)
    call_id: CallId
    conf_id: ConfId
    room_id: RoomId | None
    session_id: SessionId | None  # sender_session_id
    dest_session_id: SessionId | None
    seq: int | None
    msgid: str | None
    proven: bool = False  # it came encrypted, by this very device


@dataclass(frozen=True, slots=True)
class Invite:
    """`m.call.invite`. The SDP is not looked at before rules 1 to 3 hold."""

    envelope: Envelope
    sdp: str
    lifetime: float  # seconds from receipt
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Hangup:
    """`m.call.hangup` or `m.call.reject` from the peer."""

    envelope: Envelope
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceNegotiate:
    """`m.call.negotiate` that came as a to-device event."""

    envelope: Envelope
    description_type: str  # "offer" or "answer"
    sdp: str
    metadata: Metadata | None


@dataclass(frozen=True, slots=True)
class Answer:
    """`m.call.answer` of a focus that was dialled."""

    envelope: Envelope
    sdp: str
    metadata: Metadata | None


@dataclass(frozen=True, slots=True)
class Noted:
    """A message of a leg that changes nothing (candidates, select_answer) but counts in `seq`."""

    envelope: Envelope
    type: str
    candidates: int = 0  # how many it names
    longest: int = 0  # characters of the longest of them


ToDevice = Invite | Answer | Hangup | DeviceNegotiate | Noted


# ---------------------------------------------------------------- negotiation's results (wire.negotiation)


@dataclass(frozen=True, slots=True)
class ReceivedTrack:
    """A track that the peer publishes on an m-line, as its offer or answer says."""

    mid: Mid
    kind: Kind
    stream_id: StreamId  # from the msid; the metadata may name another
    track_id: TrackId
    rids: tuple[str, ...] = ()  # simulcast layers, highest first (RFC 8853); empty: one layer
    codec: str | None = None  # of a video, as `wire.codecs` names its form; None: VP8


@dataclass(frozen=True, slots=True)
class InviteMade:
    """The first offer of a trunk that this focus dials."""

    leg: LegId
    sdp: str


@dataclass(frozen=True, slots=True)
class OfferApplied:
    """The peer's offer was taken. `answer` is the SDP to send."""

    leg: LegId
    answer: str
    receives: tuple[ReceivedTrack, ...]  # everything the peer publishes now
    sends: Mapping[Slot, Mid]  # the slots that the peer receives, and where


@dataclass(frozen=True, slots=True)
class AnswerApplied:
    """The peer's answer was taken."""

    leg: LegId
    receives: tuple[ReceivedTrack, ...]
    sends: Mapping[Slot, Mid]  # the slots that the peer agreed to receive, and where


@dataclass(frozen=True, slots=True)
class DescriptionFailed:
    """An offer or answer of the peer could not be used; nothing has changed."""

    leg: LegId
    description_type: str
    message: str  # fit to be shown to the peer


# ---------------------------------------------------------------- connection (media core, rtc edge)


@dataclass(frozen=True, slots=True)
class IceConnected:
    """An authenticated binding request with USE-CANDIDATE came: the address is latched."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Consent ran out, DTLS failed or was closed, or SCTP aborted."""

    leg: LegId
    reason: str  # a hangup reason: ice_failed, ice_timeout, user_hangup, unknown_error
    detail: str  # for the log


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """The signalling data channel is open."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class SpeakerChanged:
    """The media core found another dominant speaker in the conference of this leg."""

    leg: LegId  # the speaker's
    mid: Mid


@dataclass(frozen=True, slots=True)
class SuspensionChanged:
    """A leg's link is too narrow for what it is sent on this m-line, so that nothing is; or wide enough again."""

    leg: LegId
    mid: Mid
    suspended: bool


@dataclass(frozen=True, slots=True)
class FlowChanged:
    """A published track fell silent (no media packet for 500 ms), or sends (again)."""

    leg: LegId
    mid: Mid
    flowing: bool


# ---------------------------------------------------------------- data channel (section 4)


@dataclass(frozen=True, slots=True)
class ChannelNegotiate:
    """`m.call.negotiate` over the data channel."""

    leg: LegId
    description_type: str
    sdp: str
    metadata: Metadata | None


@dataclass(frozen=True, slots=True)
class MetadataChanged:
    """`m.call.sdp_stream_metadata_changed`: the whole new set."""

    leg: LegId
    metadata: Metadata


Size = tuple[int | None, int | None]  # (width, height) in pixels; None: the best there is


@dataclass(frozen=True, slots=True)
class Wanted:
    """One entry of a subscription; no size means the best there is."""

    stream_id: StreamId
    track_id: TrackId
    width: int | None = None
    height: int | None = None
    layers: tuple[Size, ...] = ()  # between foci: the sizes that its participants are shown (section 6)


@dataclass(frozen=True, slots=True)
class TrackSubscription:
    """`m.call.track_subscription`."""

    leg: LegId
    subscribe: tuple[Wanted, ...]
    unsubscribe: tuple[Wanted, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """`m.call.ping` from the peer: answered with a pong."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class Pong:
    """`m.call.pong`."""

    leg: LegId


@dataclass(frozen=True, slots=True)
class ConnectToFocus:
    """`m.call.connect_to_focus` (section 6)."""

    leg: LegId
    focus: Device


@dataclass(frozen=True, slots=True)
class BadMessage:
    """A data-channel message that could not be understood: answered with an error event."""

    leg: LegId
    code: str
    message: str
    in_reply_to: str | None  # the type of the message, where it could be read
    bound: str | None = None  # the limit that it is beyond, if it is that


ChannelMessage = ChannelNegotiate | MetadataChanged | TrackSubscription | Ping | Pong | ConnectToFocus | BadMessage

Event = (
    RoomFact
    | Redacted
    | RoomSnapshot
    | SnapshotRefused
    | HomeserverLost
    | HomeserverBack
    | Restored
    | CaughtUp
    | Stopping
    | OperatorEvent
    | Traffic
    | ToDevice
    | InviteMade
    | OfferApplied
    | AnswerApplied
    | DescriptionFailed
    | IceConnected
    | ConnectionLost
    | ChannelOpened
    | SpeakerChanged
    | FlowChanged
    | SuspensionChanged
    | ChannelMessage
)
