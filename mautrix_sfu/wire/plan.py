"""What a negotiation settled, as the media core needs it: payload types, extension ids and lines of one leg."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.ids import Kind, Mid


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload type of a leg; payload types mean the same on every m-line of a BUNDLE."""

    pt: int
    codec: str  # "opus", "VP8", "rtx" or "red"
    clock_rate: int
    apt: int | None = None  # for rtx and red: the payload type that it repeats (RFC 4588, RFC 2198)


@dataclass(frozen=True, slots=True)
class Receive:
    """What the peer sends on an m-line."""

    rids: tuple[str, ...] = ()  # highest layer first; empty: one layer
    ssrcs: tuple[tuple[int, int | None], ...] = ()  # signalled (ssrc, rtx ssrc); empty: learnt by mid and rid


@dataclass(frozen=True, slots=True)
class SendLayer:
    """One simulcast layer that the focus sends (RFC 8853): over trunks only."""

    rid: str
    ssrc: int
    rtx_ssrc: int | None


@dataclass(frozen=True, slots=True)
class Send:
    """What the focus sends on an m-line."""

    ssrc: int
    rtx_ssrc: int | None
    pt: int
    rtx_pt: int | None
    cname: str
    layers: tuple[SendLayer, ...] = ()  # highest first; empty: one stream, by `ssrc`
    red_pt: int | None = None  # of audio with copies of earlier packets, if the peer takes that


@dataclass(frozen=True, slots=True)
class Line:
    """One m-line with media. Both directions may be in use at once."""

    mid: Mid
    kind: Kind
    receive: Receive | None = None
    send: Send | None = None


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """Everything that the media core must know of a leg's negotiated session. Always the whole of it."""

    payloads: tuple[Payload, ...] = ()
    extensions: dict[str, int] = field(default_factory=dict)  # URI → id (RFC 8285)
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteTransport:
    """The peer's side of the transport, from its offer or answer."""

    ufrag: str
    pwd: str
    setup: str  # its a=setup (RFC 8842)
    fingerprints: tuple[tuple[str, str], ...]  # (algorithm, value), SHA-256 or stronger only
    sctp_port: int | None
    max_message_size: int
    candidates: tuple[str, ...] = ()  # a=candidate values; an ICE-lite focus ignores them
