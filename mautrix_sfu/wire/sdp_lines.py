"""One m-line of a session: what is agreed on it, how it is described, and what it means for the media core."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..core.commands import SendTrack
from ..core.events import ReceivedTrack
from ..core.ids import Kind, Mid
from . import plan
from .codecs import OPUS, VP8, is_beside
from .codecs import form_of as codec_form
from .sdp import Codec, Direction, MediaLine, Msid, Transport
from .sdp_profile import MID, RID

SCTP_PORT = 5000
MAX_MESSAGE_SIZE = 262_144  # bytes of one data-channel message
MAX_LAYERS = 4  # of one simulcast track; Chromium has at most 3
MAX_SSRCS = 4  # of one track without rids

_NAMED_LAYERS = ("f", "h", "q")  # full, half, quarter: names that tell the order whatever order they are written in


@dataclass(frozen=True, slots=True)
class Sending:
    """What the focus offers to send on an m-line."""

    track: SendTrack
    ssrc: int
    rtx_ssrc: int | None
    cname: str
    layers: tuple[plan.SendLayer, ...] = ()  # of a simulcast, highest first; the first has `ssrc` and `rtx_ssrc`
    accepted: bool = False  # the peer agreed to receive it

    def agreed(self, remote: MediaLine, *, usable: bool, rtx: bool) -> Sending:
        """What of it the peer's description agrees to receive. Layers that it does not name are never sent."""
        accepted = usable and remote.direction.receives
        rtx_ssrc = self.rtx_ssrc if rtx else None
        if not self.layers:
            return replace(self, rtx_ssrc=rtx_ssrc, accepted=accepted)
        rids = remote.simulcast_receive or remote.receive_rids
        named = [layer for layer in self.layers if layer.rid in rids]
        if not accepted or not named:
            return replace(self, accepted=False)
        layers = tuple(replace(layer, rtx_ssrc=layer.rtx_ssrc if rtx else None) for layer in named)
        return replace(self, ssrc=layers[0].ssrc, rtx_ssrc=layers[0].rtx_ssrc, layers=layers, accepted=True)


@dataclass(frozen=True, slots=True)
class Line:
    """An m-line that stands for as long as the session; a refused one keeps only its place."""

    mid: str
    kind: str
    protocol: str
    formats: tuple[str, ...]
    ours: bool = False  # opened by the focus
    one_way: bool = False  # and the peer may not begin to send on it
    live: bool = True  # False: port 0
    codecs: tuple[Codec, ...] = ()  # in the peer's order, each with its rtx or red; it sends in the first
    extensions: tuple[tuple[int, str], ...] = ()
    rids: tuple[str, ...] = ()  # in the peer's order; they stay while it does not send
    track: ReceivedTrack | None = None  # what the peer sends now
    receive: plan.Receive | None = None  # set exactly when `track` is
    sending: Sending | None = None

    @property
    def idle(self) -> bool:
        """Can a new track be sent on it."""
        return self.ours and self.live and self.sending is None

    @property
    def form(self) -> str | None:
        """The codec that the peer sends in."""
        return next(iter(self.forms), None)

    @property
    def forms(self) -> dict[str, tuple[Codec, ...]]:
        """The codecs by form, each with its rtx or red."""
        return forms_of(self.codecs, Kind(self.kind)) if self.kind != "application" else {}

    @property
    def rtx(self) -> Codec | None:
        """What repairs of the video that is sent, or may be, go as (RFC 4588)."""
        return self._beside("rtx")

    @property
    def red(self) -> Codec | None:
        """What its audio goes as with copies of earlier packets (RFC 2198)."""
        return self._beside("red")

    def _beside(self, name: str) -> Codec | None:
        sent = self.forms.get(form_of(self.sending.track), ()) if self.sending is not None else self.codecs
        return next((codec for codec in sent[1:] if codec.name == name), None)

    def plan(self) -> plan.Line | None:
        """What the media core does on it; None: nothing."""
        send = None
        if self.sending is not None and self.sending.accepted:
            send = plan.Send(
                self.sending.ssrc,
                self.sending.rtx_ssrc,
                self.forms[form_of(self.sending.track)][0].pt,
                self.rtx.pt if self.rtx is not None and self.sending.rtx_ssrc is not None else None,
                self.sending.cname,
                self.sending.layers,
                self.red.pt if self.red is not None else None,
            )
        if self.receive is None and send is None:
            return None
        return plan.Line(Mid(self.mid), Kind(self.kind), self.receive, send)


def form_of(track: SendTrack) -> str:
    """The codec that a track is sent in."""
    return OPUS if track.kind is Kind.AUDIO else track.codec or VP8


def forms_of(codecs: Iterable[Codec], kind: Kind) -> dict[str, tuple[Codec, ...]]:
    """Codecs by form, in their order; what goes beside one that is not there is left out."""
    all_of_them = tuple(codecs)
    found: dict[str, tuple[Codec, ...]] = {}
    for codec in all_of_them:
        form = codec_form(codec, kind)
        if form is not None:
            found[form] = (codec, *(it for it in all_of_them if is_beside(it, kind) and it.apt == codec.pt))
    return found


def received(lines: Iterable[Line]) -> tuple[ReceivedTrack, ...]:
    """Everything that the peer publishes."""
    return tuple(line.track for line in lines if line.track is not None)


def proposed(line: Line, remote: MediaLine) -> Line:
    """The m-line once the peer's description of it, offer or answer, is taken."""
    forms = forms_of((codec for codec in line.codecs if _has(remote, codec)), Kind(line.kind))
    usable = bool(forms)
    codecs = tuple(codec for of_form in forms.values() for codec in of_form) if usable else line.codecs
    sending = line.sending
    if sending is not None:
        sent = forms.get(form_of(sending.track), ())
        sending = sending.agreed(remote, usable=bool(sent), rtx=any(codec.name == "rtx" for codec in sent))
    line = replace(line, codecs=codecs, formats=_formats(codecs, remote), sending=sending)
    if line.one_way:
        return line
    line = replace(line, rids=_layers(line, remote))
    if not usable or not remote.direction.sends or not remote.msids:
        return replace(line, track=None, receive=None)
    msid = remote.msids[0]
    rids = _highest_first(line.rids)
    codec = line.form if line.kind == "video" and line.form != VP8 else None
    track = ReceivedTrack(Mid(line.mid), Kind(line.kind), msid.stream_id, msid.track_id, rids, codec)
    return replace(line, track=track, receive=plan.Receive(rids, () if rids else _ssrcs(line, remote)))


def describe(line: Line, transport: Transport, *, offers: bool) -> MediaLine:
    """The m-line in an own offer or answer. Only an offer names what the peer has not agreed to receive."""
    if not line.live:
        return MediaLine(line.kind, 0, line.protocol, line.formats, line.mid, Direction.INACTIVE)
    if line.kind == "application":
        return MediaLine(
            line.kind,
            9,
            line.protocol,
            line.formats,
            line.mid,
            transport=transport,
            sctp_port=SCTP_PORT,
            max_message_size=MAX_MESSAGE_SIZE,
        )
    sending = line.sending if line.sending is not None and (offers or line.sending.accepted) else None
    layers = sending.layers if sending is not None else ()
    main = (sending.ssrc, sending.rtx_ssrc) if sending is not None and not layers else ()
    ssrcs = tuple(ssrc for ssrc in main if ssrc is not None)
    rids = tuple(layer.rid for layer in layers)
    return MediaLine(
        line.kind,
        9,
        line.protocol,
        line.formats,
        line.mid,
        Direction.of(sends=sending is not None, receives=line.track is not None),
        transport,
        rtcp_mux=True,
        codecs=line.codecs,
        extensions=line.extensions,
        msids=(Msid(sending.track.stream_id, sending.track.track_id),) if sending else (),
        ssrcs=ssrcs,
        cname=sending.cname if sending and ssrcs else None,
        fid=((ssrcs[0], ssrcs[1]),) if len(ssrcs) == 2 else (),
        send_rids=rids,
        simulcast_send=rids,
        receive_rids=line.rids,
        simulcast_receive=line.rids,
    )


def _formats(codecs: tuple[Codec, ...], remote: MediaLine) -> tuple[str, ...]:
    """The payload types in the order that the peer prefers: with red before opus a browser sends redundancy."""
    ours = [str(codec.pt) for codec in codecs]
    return tuple(sorted(ours, key=lambda item: remote.formats.index(item) if item in remote.formats else len(ours)))


def _has(remote: MediaLine, codec: Codec) -> bool:
    return any(
        other.pt == codec.pt and other.name.lower() == codec.name.lower() and other.apt == codec.apt
        for other in remote.codecs
    )


def _layers(line: Line, remote: MediaLine) -> tuple[str, ...]:
    """The peer's rids; none where the extensions that tell layers apart are missing."""
    uris = {uri for _, uri in line.extensions}
    if line.kind != "video" or not {MID, RID} <= uris:
        return ()
    rids = (remote.simulcast_send or remote.send_rids)[:MAX_LAYERS]
    return rids if rids or remote.direction.sends else line.rids


def _highest_first(rids: tuple[str, ...]) -> tuple[str, ...]:
    """The preferred layer comes first (RFC 8853, section 5.2), but some pages begin with the smallest."""
    if all(rid in _NAMED_LAYERS for rid in rids):
        return tuple(sorted(rids, key=_NAMED_LAYERS.index))
    return rids


def _ssrcs(line: Line, remote: MediaLine) -> tuple[tuple[int, int | None], ...]:
    repeats = dict(remote.fid)
    others = set(repeats.values())
    main = [ssrc for ssrc in remote.ssrcs if ssrc not in others][:MAX_SSRCS]
    repaired = any(codec.name == "rtx" for codec in line.codecs)
    return tuple((ssrc, repeats.get(ssrc) if repaired else None) for ssrc in main)
