"""One leg's offers and answers (RFC 9429, RFC 8843), as an SFU makes them: pure, no I/O, no clock.

The peer's own m-lines are only received on. What the focus sends goes on m-lines that it opens itself (mids "s0",
"s1", …) and reuses; on those the peer may start to send as well. A description that is refused changes nothing: the
whole session is one immutable value that is replaced when all of a description has been understood.

The focus is called, by browsers and by other foci, or dials another focus: `dialling` has all that differs.
"""

from __future__ import annotations

import random
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.commands import SendTrack
from ..core.events import ReceivedTrack
from ..core.ids import Kind, Mid, Slot
from .codecs import VIDEO_CODECS, kind_of, permitted
from .dialling import CALLED, DIALLING, End
from .plan import MediaPlan, RemoteTransport, SendLayer
from .sdp import Description, MediaLine, SdpError, Transport, write
from .sdp_lines import MAX_MESSAGE_SIZE, Line, Sending, describe, form_of, proposed, received
from .sdp_parser import MAX_MEDIA_LINES, is_id, parse
from .sdp_profile import Profile

MAX_REMOTE_CANDIDATES = 32  # kept of the peer's

_RTP_PROTOCOLS = ("UDP/TLS/RTP/SAVPF", "TCP/TLS/RTP/SAVPF", "RTP/SAVPF")  # RFC 9429, section 5.1.2
_SCTP_PROTOCOLS = ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP")  # RFC 8841, section 4
_ICE_CHARACTERS = string.ascii_letters + string.digits + "+/"
_HOST_PRIORITY = 126 << 24  # RFC 8445, section 5.1.2
_DEFAULT_MAX_MESSAGE_SIZE = 65_536  # RFC 8841, section 6.1


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """The focus's side of a leg's transport."""

    ufrag: str
    pwd: str
    fingerprint: str  # "sha-256 AA:BB:…"
    candidates: tuple[tuple[str, int], ...]  # (IPv4, port) to advertise


def make_credentials(source: random.Random) -> tuple[str, str]:
    """A new ICE ufrag (48 bits) and password (144 bits), RFC 8445, section 5.3."""
    return "".join(source.choices(_ICE_CHARACTERS, k=8)), "".join(source.choices(_ICE_CHARACTERS, k=24))


@dataclass(frozen=True, slots=True)
class _Session:
    """Everything that is agreed on."""

    local: LocalTransport
    profile: Profile
    remote: RemoteTransport | None = None
    lines: tuple[Line, ...] = ()
    allow_mixed: bool = False


@dataclass(frozen=True, slots=True)
class _Offer:
    """An own offer in flight, and the session as it would be if the peer took all of it."""

    sdp: str
    session: _Session


class Negotiation:
    """The negotiation of one leg. The peer makes the first offer, unless this side `dials`."""

    def __init__(
        self,
        local: LocalTransport,
        source: random.Random | None = None,
        dials: bool = False,
        video_codecs: tuple[str, ...] = VIDEO_CODECS,
    ) -> None:
        self._source = source or secrets.SystemRandom()
        self._end = DIALLING if dials else CALLED
        self._session = _Session(local, Profile(permitted(video_codecs)))
        self._offer: _Offer | None = None
        self._session_id = self._source.getrandbits(62)
        self._version = 0  # of the last description written

    @property
    def local(self) -> LocalTransport:
        """The own side of the transport. Its ufrag and password change when the peer restarts ICE: the media core
        must know them before the answer goes out.
        """
        return self._session.local

    @property
    def remote(self) -> RemoteTransport | None:
        """The peer's side of the transport; None before its first description."""
        return self._session.remote

    @property
    def plan(self) -> MediaPlan:
        """All that the media core must know. Holds what both sides agreed on, never an offer in flight."""
        session = self._session
        lines = (line.plan() for line in session.lines)
        return MediaPlan(
            session.profile.payloads(), dict(session.profile.extensions), tuple(line for line in lines if line)
        )

    @property
    def agreed(self) -> dict[Slot, Mid]:
        """The slots that the peer receives now, and where."""
        return {
            line.sending.track.slot: Mid(line.mid)
            for line in self._session.lines
            if line.live and line.sending is not None and line.sending.accepted
        }

    # ------------------------------------------------------------ the peer's offers

    def accept_offer(self, sdp: str) -> tuple[str, tuple[ReceivedTrack, ...]]:
        """Answer the peer's offer: the SDP to send, and everything that the peer publishes now.

        An own offer in flight is rolled back: the peer is the impolite side, unless this one dials. Raises SdpError
        and leaves everything as it was, own offer included, if the offer cannot be used.
        """
        if not self._end.polite and (self._offer is not None or self._session.remote is None):
            raise SdpError("the dialling side's offer comes first")
        offer = parse(sdp)
        if len(offer.lines) < len(self._session.lines):
            raise SdpError("the offer leaves out m-lines of the session")
        bundle = _bundle(offer)
        remote = _remote(offer, bundle, self._session.remote, self._end)
        profile = self._session.profile.learn(offer.lines)
        lines: list[Line] = []
        for index, offered in enumerate(offer.lines):
            known = self._session.lines[index] if index < len(self._session.lines) else None
            profile, line = _answer_line(index, offered, known if known and known.live else None, bundle, profile)
            lines.append(line)
        _check(lines)
        local = self._session.local
        if self._session.remote and (self._session.remote.ufrag, self._session.remote.pwd) != (
            remote.ufrag,
            remote.pwd,
        ):
            ufrag, pwd = make_credentials(self._source)
            local = replace(local, ufrag=ufrag, pwd=pwd)
        self._session = _Session(local, profile, remote, tuple(lines), offer.extmap_allow_mixed)
        self._offer = None
        order = tuple(mid for mid in bundle if any(line.live and line.mid == mid for line in lines))
        return self._write(self._session, order, self._end.answers_with), received(lines)

    # ------------------------------------------------------------ own offers

    def make_invite(self) -> str:
        """The first offer of the dialling side: nothing but the data channel. Replaces one that is in flight.

        It names no candidates: the called side learns the address from the checks (RFC 8445, section 7.3.1.3).
        """
        if self._end.polite or self._session.remote is not None:
            raise RuntimeError("only the dialling side makes an invite, and only before it is answered")
        session = replace(self._session, lines=(Line("0", "application", _SCTP_PROTOCOLS[0], ("webrtc-datachannel",)),))
        self._offer = _Offer(self._write(session, ("0",), "actpass"), session)
        return self._offer.sdp

    def make_offer(self, sends: Sequence[SendTrack]) -> str:
        """Offer to send exactly these tracks, and to go on receiving what the peer sends.

        A track that has no place (too many m-lines, no payload type left, an msid that is not possible or already
        taken) is left out; its slot is then missing from the answer's. Replaces an own offer in flight.
        """
        if self._session.remote is None:
            raise RuntimeError("there is no session before the first answer")
        profile, lines = self._session.profile, list(self._session.lines)
        wanted = _possible(sends)
        for index, line in enumerate(lines):
            if line.sending is not None:
                track = wanted.get(line.sending.track.slot)
                was = line.sending.track
                if track is None or (track.layers, track.codec) != (was.layers, was.codec):
                    lines[index] = replace(line, sending=None)
                else:
                    lines[index] = replace(line, sending=replace(line.sending, track=track))
                    del wanted[track.slot]
        idle = [index for index, line in enumerate(self._session.lines) if line.idle]
        for track in wanted.values():
            profile = self._place(track, lines, idle, profile)
        session = replace(self._session, profile=profile, lines=tuple(lines))
        order = tuple(line.mid for line in lines if line.live)
        self._offer = _Offer(self._write(session, order, "actpass"), session)
        return self._offer.sdp

    def pending_offer(self) -> str | None:
        """The own offer in flight, to send again."""
        return None if self._offer is None else self._offer.sdp

    def accept_answer(self, sdp: str) -> tuple[tuple[ReceivedTrack, ...], dict[Slot, Mid]]:
        """Take the peer's answer to the offer in flight: all that it publishes, and the slots that it receives.

        Raises SdpError and leaves everything as it was, the offer still in flight, if the answer cannot be used.
        """
        if self._offer is None:
            raise SdpError("there is no offer to answer")
        answer = parse(sdp)
        offered = self._offer.session
        if len(answer.lines) != len(offered.lines):
            raise SdpError("the answer does not have the m-lines of the offer")
        bundle = _bundle(answer)
        remote = _remote(answer, bundle, offered.remote, self._end, answers=True)
        lines = [
            _answered_line(index, line, answered, bundle)
            for index, (line, answered) in enumerate(zip(offered.lines, answer.lines, strict=True))
        ]
        _check(lines)
        self._session = replace(offered, remote=remote, lines=tuple(lines))
        self._offer = None
        return received(lines), self.agreed

    # ------------------------------------------------------------ helpers

    def _place(self, track: SendTrack, lines: list[Line], idle: list[int], profile: Profile) -> Profile:
        """Find an m-line for a track, if there is one for it: `lines` and `idle` change."""
        simulcast, form = bool(track.layers), form_of(track)
        fits = (index for index in idle if lines[index].kind == track.kind.value)
        # One on which the peer sends keeps its codec.
        index = next((index for index in fits if form in lines[index].forms or lines[index].track is None), None)
        if index is None and len(lines) >= MAX_MEDIA_LINES:
            return profile
        if index is None or simulcast or form not in profile.codecs:
            profile = profile.complete(form, simulcast=simulcast)
        if not profile.can_send(form, simulcast=simulcast):
            return profile
        if index is None:
            lines.append(self._with_sending(_open_line(self._end, form, profile, lines), track, profile))
        else:
            idle.remove(index)
            line = lines[index]
            if form not in line.forms:
                line = _in_codec(line, form, profile)
            lines[index] = self._with_sending(line, track, profile)
        return profile

    def _with_sending(self, line: Line, track: SendTrack, profile: Profile) -> Line:
        form = form_of(track)
        rtx = any(codec.name == "rtx" for codec in line.forms[form])
        layers = tuple(SendLayer(rid, self._ssrc(), self._ssrc() if rtx else None) for rid in track.layers)
        if not layers:
            ssrc, rtx_ssrc = self._ssrc(), self._ssrc() if rtx else None
            return replace(line, sending=Sending(track, ssrc, rtx_ssrc, str(track.stream_id)))
        added = {uri: number for number, uri in profile.sent_extensions(form, simulcast=True)}
        known = {uri: number for number, uri in line.extensions}
        return replace(
            line,
            extensions=tuple((number, uri) for uri, number in {**known, **added}.items()),
            sending=Sending(track, layers[0].ssrc, layers[0].rtx_ssrc, str(track.stream_id), layers),
        )

    def _ssrc(self) -> int:
        return self._source.randrange(1, 0xFFFFFFFF)

    def _write(self, session: _Session, bundle: tuple[str, ...], setup: str) -> str:
        self._version += 1
        algorithm, _, digest = session.local.fingerprint.partition(" ")
        transport = Transport(session.local.ufrag, session.local.pwd, ((algorithm, digest),), setup)
        lines = [describe(line, transport, offers=setup == "actpass") for line in session.lines]
        if self._end.ice_lite:
            first = next(index for index, line in enumerate(session.lines) if line.mid == bundle[0])
            lines[first] = replace(lines[first], candidates=_candidates(session.local), end_of_candidates=True)
        return write(
            Description(
                tuple(lines), (bundle,), self._session_id, self._version, self._end.ice_lite, session.allow_mixed
            ),
        )


def _candidates(local: LocalTransport) -> tuple[str, ...]:
    return tuple(
        f"{index + 1} 1 udp {_HOST_PRIORITY + ((65535 - index) << 8) + 255} {address} {port} typ host"
        for index, (address, port) in enumerate(local.candidates)
    )


def _bundle(description: Description) -> tuple[str, ...]:
    """The BUNDLE group that holds the data channel: everything goes over its transport."""
    for bundle in description.bundles:
        if any(line.kind == "application" and line.mid in bundle for line in description.lines):
            return bundle
    raise SdpError("a data channel (m=application) in a BUNDLE group is required")


def _remote(
    description: Description,
    bundle: tuple[str, ...],
    known: RemoteTransport | None,
    end: End,
    *,
    answers: bool = False,
) -> RemoteTransport:
    """The peer's transport, from the first m-line of the group that describes it (RFC 8843, section 7.1.3)."""
    by_mid = {line.mid: line for line in description.lines}
    transport = next((found for mid in bundle if (found := by_mid[mid].transport) is not None), None)
    if transport is None:
        raise SdpError("the BUNDLE group has no ICE credentials")
    if not transport.fingerprints:
        raise SdpError("a fingerprint with SHA-256 or stronger is required")
    end.check(ice_lite=description.ice_lite, setup=transport.setup, answers=answers)
    if known is not None and not end.ice_lite and (known.ufrag, known.pwd) != (transport.ufrag, transport.pwd):
        raise SdpError("the called side may not restart ICE")
    if known is not None and known.fingerprints != transport.fingerprints:
        raise SdpError("the fingerprint may not change in a session")
    channel = next(line for line in description.lines if line.kind == "application" and line.mid in bundle)
    return RemoteTransport(
        transport.ufrag,
        transport.pwd,
        transport.setup,
        transport.fingerprints,
        channel.sctp_port,
        MAX_MESSAGE_SIZE if channel.max_message_size == 0 else channel.max_message_size or _DEFAULT_MAX_MESSAGE_SIZE,
        tuple(candidate for mid in bundle for candidate in by_mid[mid].candidates)[:MAX_REMOTE_CANDIDATES],
    )


def _answer_line(
    index: int, offered: MediaLine, known: Line | None, bundle: tuple[str, ...], profile: Profile
) -> tuple[Profile, Line]:
    """What becomes of an offered m-line, `known` if it was live before."""
    if known is not None and (known.mid, known.kind) != (offered.mid, offered.kind):
        raise SdpError(f"m-line {index} is another one than before, though it was not closed")
    refused = Line(offered.mid, offered.kind, offered.protocol, offered.formats, live=False)
    if not offered.mid or offered.mid not in bundle or (offered.port == 0 and not offered.bundle_only):
        return profile, refused
    if offered.kind == "application":
        fits = offered.protocol in _SCTP_PROTOCOLS and offered.sctp_port is not None
        fits = fits and offered.formats == ("webrtc-datachannel",)
        return profile, replace(refused, live=fits)
    if offered.kind not in ("audio", "video") or offered.protocol not in _RTP_PROTOCOLS or not offered.rtcp_mux:
        return profile, refused
    kind = Kind(offered.kind)
    # An m-line of the focus stays in its codec: an offer with all codecs of all its lines would be too large.
    only = frozenset(known.forms) if known is not None and known.ours else None
    profile, codecs, extensions = profile.take(offered, kind, only)
    if not codecs:
        return profile, refused
    line = replace(
        known or refused,
        live=True,
        formats=tuple(str(codec.pt) for codec in codecs),
        codecs=codecs,
        extensions=extensions,
    )
    return profile, proposed(line, offered)


def _answered_line(index: int, line: Line, answered: MediaLine, bundle: tuple[str, ...]) -> Line:
    """What becomes of an m-line of the own offer."""
    if answered.kind != line.kind or (answered.mid != line.mid and (line.live or answered.mid)):
        raise SdpError(f"m-line {index} of the answer is another one than in the offer")
    if not line.live or answered.port == 0:
        return replace(line, live=False, sending=None, track=None, receive=None)
    if line.mid not in bundle:
        raise SdpError(f"m-line {index} of the answer is not in the BUNDLE group")
    if line.kind == "application":
        return line
    return proposed(line, answered)


def _check(lines: list[Line]) -> None:
    """What must hold over all m-lines of a description."""
    if sum(line.live and line.kind == "application" for line in lines) != 1:
        raise SdpError("exactly one data channel over UDP/DTLS/SCTP is required")
    ssrcs = [ssrc for line in lines if line.receive for pair in line.receive.ssrcs for ssrc in pair if ssrc is not None]
    if len(set(ssrcs)) != len(ssrcs):
        raise SdpError("an ssrc is on two m-lines")


def _open_line(end: End, form: str, profile: Profile, lines: list[Line]) -> Line:
    taken = {line.mid for line in lines}
    line = Line(
        next(name for number in range(len(lines) + 1) if (name := f"{end.mids}{number}") not in taken),
        kind_of(form).value,
        _RTP_PROTOCOLS[0],
        (),
        ours=True,
        one_way=not end.late_tracks,
    )
    return _in_codec(line, form, profile)


def _in_codec(line: Line, form: str, profile: Profile) -> Line:
    """The m-line of the focus in this codec."""
    codecs = profile.codecs[form]
    formats = tuple(str(codec.pt) for codec in codecs)
    added = {uri: number for number, uri in profile.sent_extensions(form)}
    uris = {**{uri: number for number, uri in line.extensions}, **added}
    extensions = tuple((number, uri) for uri, number in uris.items())
    return replace(line, formats=formats, codecs=codecs, extensions=extensions)


def _possible(sends: Sequence[SendTrack]) -> dict[Slot, SendTrack]:
    """The tracks by slot, each msid once, in order."""
    by_msid: dict[tuple[str, str], SendTrack] = {}
    for track in sends:
        if is_id(track.stream_id) and is_id(track.track_id):
            by_msid.setdefault((track.stream_id, track.track_id), track)
    return {track.slot: track for track in by_msid.values()}
