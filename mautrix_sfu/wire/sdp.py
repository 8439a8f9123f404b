"""The part of the Session Description Protocol (RFC 8866) that an SFU negotiates with, as plain data, and its writer.

`sdp_parser.parse` makes these from text; `write` makes text from them. What is not represented here has no meaning
for an SFU and is lost on the way. (No library fits: aiortc's parser drops rids, simulcast and msids in several
places, sdp-transform is untyped and unbounded.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ..core.ids import StreamId, TrackId


class SdpError(ValueError):
    """A description that cannot be used; the message is fit to be shown to the peer."""


class Direction(Enum):
    """An m-line's direction, as its writer sees it (RFC 8866, section 6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @classmethod
    def of(cls, *, sends: bool, receives: bool) -> Direction:
        """The direction of a side that sends and receives, or does not."""
        if sends:
            return cls.SENDRECV if receives else cls.SENDONLY
        return cls.RECVONLY if receives else cls.INACTIVE

    @property
    def sends(self) -> bool:
        """Does the writer send."""
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        """Does the writer receive."""
        return self in (Direction.SENDRECV, Direction.RECVONLY)


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload type of an m-line: `a=rtpmap`, `a=fmtp` and `a=rtcp-fb`."""

    pt: int
    name: str  # as written; compared without case
    clock_rate: int
    channels: int = 1
    fmtp: tuple[str, ...] = ()  # "key=value" or a bare word, without repeats
    feedback: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """The format parameters by name; a bare word has the value ""."""
        return {key: value for key, _, value in (item.partition("=") for item in self.fmtp)}

    @property
    def apt(self) -> int | None:
        """The payload type that an rtx codec repeats (RFC 4588, section 8.6), and a red one (RFC 2198, section 5)."""
        if self.name.lower() == "red":
            types = set(self.fmtp[0].split("/")) if len(self.fmtp) == 1 else set()
            value = types.pop() if len(types) == 1 else ""  # one codec with copies of itself
        else:
            value = self.parameters.get("apt", "")
        return int(value) if re.fullmatch(r"[0-9]{1,3}", value) else None


class Msid(NamedTuple):
    """A track's ids (RFC 8830)."""

    stream_id: StreamId
    track_id: TrackId


@dataclass(frozen=True, slots=True)
class Transport:
    """The ICE and DTLS attributes of an m-line."""

    ufrag: str
    pwd: str
    fingerprints: tuple[tuple[str, str], ...] = ()  # (algorithm in lower case, value in upper case)
    setup: str = "actpass"


@dataclass(frozen=True, slots=True)
class MediaLine:
    """One m-line and its attributes."""

    kind: str  # "audio", "video", "application", or what else was offered
    port: int
    protocol: str
    formats: tuple[str, ...]
    mid: str = ""  # "": none was given
    direction: Direction = Direction.SENDRECV
    transport: Transport | None = None
    bundle_only: bool = False  # port 0 that is no refusal (RFC 8843, section 6)
    rtcp_mux: bool = False
    codecs: tuple[Codec, ...] = ()  # in order of preference
    extensions: tuple[tuple[int, str], ...] = ()  # (id, URI), RFC 8285
    msids: tuple[Msid, ...] = ()
    ssrcs: tuple[int, ...] = ()
    cname: str | None = None
    fid: tuple[tuple[int, int], ...] = ()  # (ssrc, rtx ssrc)
    send_rids: tuple[str, ...] = ()  # RFC 8851
    receive_rids: tuple[str, ...] = ()
    simulcast_send: tuple[str, ...] = ()  # rids in order of preference, RFC 8853
    simulcast_receive: tuple[str, ...] = ()
    sctp_port: int | None = None  # RFC 8841
    max_message_size: int | None = None
    candidates: tuple[str, ...] = ()  # the values of a=candidate
    end_of_candidates: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """An offer or answer."""

    lines: tuple[MediaLine, ...]
    bundles: tuple[tuple[str, ...], ...] = ()  # the mids of each BUNDLE group, RFC 8843
    session_id: int = 0
    version: int = 0
    ice_lite: bool = False
    extmap_allow_mixed: bool = False


def write(description: Description) -> str:
    """The description as text, with CRLF line ends (RFC 8866, section 5)."""
    return "".join(f"{line}\r\n" for line in _lines(description))


def _lines(description: Description) -> Iterator[str]:
    yield "v=0"
    yield f"o=- {description.session_id} {description.version} IN IP4 0.0.0.0"
    yield "s=-"
    yield "t=0 0"
    if description.ice_lite:
        yield "a=ice-lite"
    for bundle in description.bundles:
        yield " ".join(["a=group:BUNDLE", *bundle])
    if description.extmap_allow_mixed:
        yield "a=extmap-allow-mixed"
    yield "a=msid-semantic: WMS *"
    for line in description.lines:
        yield from _media_lines(line)


def _media_lines(line: MediaLine) -> Iterator[str]:
    yield " ".join([f"m={line.kind}", str(line.port), line.protocol, *line.formats])
    yield "c=IN IP4 0.0.0.0"
    if line.mid:
        yield f"a=mid:{line.mid}"
    if line.bundle_only:
        yield "a=bundle-only"
    yield from _transport_lines(line)
    if line.kind != "application":
        yield f"a={line.direction.value}"
    if line.rtcp_mux:
        yield "a=rtcp-mux"
        yield "a=rtcp-rsize"
    for number, uri in line.extensions:
        yield f"a=extmap:{number} {uri}"
    for codec in line.codecs:
        yield from _codec_lines(codec)
    yield from _source_lines(line)
    if line.sctp_port is not None:
        yield f"a=sctp-port:{line.sctp_port}"
    if line.max_message_size is not None:
        yield f"a=max-message-size:{line.max_message_size}"


def _transport_lines(line: MediaLine) -> Iterator[str]:
    if line.transport is not None:
        yield f"a=ice-ufrag:{line.transport.ufrag}"
        yield f"a=ice-pwd:{line.transport.pwd}"
        for algorithm, value in line.transport.fingerprints:
            yield f"a=fingerprint:{algorithm} {value}"
        yield f"a=setup:{line.transport.setup}"
    for candidate in line.candidates:
        yield f"a=candidate:{candidate}"
    if line.end_of_candidates:
        yield "a=end-of-candidates"


def _codec_lines(codec: Codec) -> Iterator[str]:
    channels = f"/{codec.channels}" if codec.channels != 1 else ""
    yield f"a=rtpmap:{codec.pt} {codec.name}/{codec.clock_rate}{channels}"
    if codec.fmtp:
        yield f"a=fmtp:{codec.pt} {';'.join(codec.fmtp)}"
    for feedback in codec.feedback:
        yield f"a=rtcp-fb:{codec.pt} {feedback}"


def _source_lines(line: MediaLine) -> Iterator[str]:
    for msid in line.msids:
        yield f"a=msid:{msid.stream_id} {msid.track_id}"
    for ssrc, rtx_ssrc in line.fid:
        yield f"a=ssrc-group:FID {ssrc} {rtx_ssrc}"
    for ssrc in line.ssrcs:
        yield f"a=ssrc:{ssrc} cname:{line.cname or '-'}"
    for rid in line.send_rids:
        yield f"a=rid:{rid} send"
    for rid in line.receive_rids:
        yield f"a=rid:{rid} recv"
    if line.simulcast_send or line.simulcast_receive:
        yield "a=simulcast:" + " ".join(_simulcast(line))


def _simulcast(line: MediaLine) -> Iterable[str]:
    if line.simulcast_send:
        yield "send " + ";".join(line.simulcast_send)
    if line.simulcast_receive:
        yield "recv " + ";".join(line.simulcast_receive)
