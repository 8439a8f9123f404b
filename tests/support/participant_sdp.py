"""The descriptions of a test participant, as Chromium with the deployed client would write them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from mautrix_sfu.core.ids import StreamId, TrackId
from mautrix_sfu.wire.sdp import Codec, Description, Direction, MediaLine, Msid, Transport, write
from mautrix_sfu.wire.sdp_profile import ABS_SEND_TIME, AUDIO_LEVEL, MID, REPAIRED_RID, RID, TRANSPORT_CC

from .participant_media import LAYERS

OPUS, VP8, RTX = 111, 96, 97
EXTENSION_IDS = {AUDIO_LEVEL: 1, ABS_SEND_TIME: 2, TRANSPORT_CC: 3, MID: 4, RID: 10, REPAIRED_RID: 11}
_AUDIO = (AUDIO_LEVEL, ABS_SEND_TIME, TRANSPORT_CC, MID)
_VIDEO = (ABS_SEND_TIME, TRANSPORT_CC, MID, RID, REPAIRED_RID)
_FEEDBACK = ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")
_PROTOCOL = "UDP/TLS/RTP/SAVPF"


@dataclass(slots=True)
class Published:
    """One track that the participant publishes, on an m-line of its own."""

    mid: str
    kind: str
    stream_id: str
    track_id: str
    ssrcs: dict[str, int] = field(default_factory=dict)  # by rid; "" for audio
    active: bool = True


def new_track(mid: str, kind: str, stream_id: str, rids: tuple[str, ...] | None = None) -> Published:
    """A track with fresh ids and ssrcs."""
    layers = ("",) if kind == "audio" else tuple(layer.rid for layer in LAYERS) if rids is None else rids
    ssrcs = {rid: secrets.randbelow(2**32 - 2) + 1 for rid in layers}
    return Published(mid, kind, stream_id, secrets.token_hex(8), ssrcs)


class Descriptions:
    """All m-lines of the session, from the participant's side."""

    def __init__(self, fingerprint: tuple[str, str]) -> None:
        self.fingerprint = fingerprint  # what the descriptions claim
        self.lines: tuple[MediaLine, ...] = ()
        self._session_id = secrets.randbits(62)
        self._version = 1

    def offer(self, published: list[Published], ufrag: str, pwd: str) -> str:
        """An offer of everything: the m-lines of the session, then new ones, the data channel first among these."""
        own = {track.mid: track for track in published}
        lines = [_own_line(own.pop(line.mid), line) if line.mid in own else _answered(line) for line in self.lines]
        lines += [_own_line(track) for track in own.values()]
        if not any(line.kind == "application" for line in lines):
            mid = str(len(lines))
            formats = ("webrtc-datachannel",)
            lines.append(
                MediaLine("application", 9, "UDP/DTLS/SCTP", formats, mid, sctp_port=5000, max_message_size=262144)
            )
        self.lines = tuple(lines)
        return self._write(ufrag, pwd, "actpass")

    def answer(self, offer: Description, published: list[Published], ufrag: str, pwd: str) -> str:
        """An answer that receives all that is offered, and sends what is published."""
        own = {track.mid: track for track in published}
        self.lines = tuple(
            _answering(own[line.mid], line) if line.mid in own and line.port else _answered(_mirrored(line))
            for line in offer.lines
        )
        return self._write(ufrag, pwd, "active")

    def _write(self, ufrag: str, pwd: str, setup: str) -> str:
        transport = Transport(ufrag, pwd, (self.fingerprint,), setup)
        lines = tuple(replace(line, transport=transport) for line in self.lines)
        bundle = tuple(line.mid for line in lines if line.port)
        self._version += 1
        return write(Description(lines, (bundle,), self._session_id, self._version, extmap_allow_mixed=True))


def _own_line(track: Published, line: MediaLine | None = None) -> MediaLine:
    """The m-line of a published track; in the session's numbers where `line` has them."""
    video = track.kind == "video"
    codecs = line.codecs if line else _codecs(video)
    uris = _VIDEO if video else _AUDIO
    rids = tuple(rid for rid in track.ssrcs if rid)
    audio_ssrcs = () if rids else tuple(track.ssrcs.values())
    return MediaLine(
        track.kind,
        9,
        _PROTOCOL,
        tuple(str(codec.pt) for codec in codecs),
        track.mid,
        Direction.SENDRECV if track.active else Direction.INACTIVE,
        rtcp_mux=True,
        codecs=codecs,
        extensions=line.extensions if line else tuple((EXTENSION_IDS[uri], uri) for uri in uris),
        msids=(Msid(StreamId(track.stream_id), TrackId(track.track_id)),),
        ssrcs=audio_ssrcs if track.active else (),
        cname="participant" if audio_ssrcs else None,
        send_rids=rids,
        simulcast_send=rids,
    )


def _codecs(video: bool) -> tuple[Codec, ...]:
    if not video:
        fmtp = ("minptime=10", "usedtx=1", "useinbandfec=1")
        return (Codec(OPUS, "opus", 48000, 2, fmtp, ("transport-cc",)),)
    return (Codec(VP8, "VP8", 90000, feedback=_FEEDBACK), Codec(RTX, "rtx", 90000, fmtp=(f"apt={VP8}",)))


def _mirrored(line: MediaLine) -> MediaLine:
    """The focus's m-line, seen from here."""
    return replace(
        line,
        direction=Direction.of(sends=False, receives=line.direction.sends),
        msids=(),
        ssrcs=(),
        cname=None,
        fid=(),
        candidates=(),
        end_of_candidates=False,
    )


def _answered(line: MediaLine) -> MediaLine:
    return replace(line, receive_rids=(), simulcast_receive=())


def _answering(track: Published, offered: MediaLine) -> MediaLine:
    direction = Direction.of(sends=track.active and offered.direction.receives, receives=offered.direction.sends)
    return replace(_own_line(track, offered), direction=direction)
