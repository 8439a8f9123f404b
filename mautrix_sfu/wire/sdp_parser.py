"""Reads a peer's session description: bounded, in linear time, and never failing with anything but SdpError."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core.ids import StreamId, TrackId
from .sdp import Codec, Description, Direction, MediaLine, Msid, SdpError, Transport

MAX_BYTES = 256 * 1024  # as much as a data-channel message
MAX_LINES = 20_000
MAX_LINE_LENGTH = 4096  # characters; a BUNDLE group of all m-lines fits
MAX_MEDIA_LINES = 200  # each costs about 1 kB in an own offer, which must fit a data-channel message
MAX_ATTRIBUTES = 1000  # of one m-line
MAX_ID_LENGTH = 128  # of a stream or track id; RFC 8830 allows 64
MAX_MID_LENGTH = 16  # it goes into packets, in an element of at most 16 bytes (RFC 8285, section 4.2)
MAX_CANDIDATES = 64  # of one m-line

STRONG_HASHES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}  # digest sizes; weaker ones (RFC 8122) are not looked at

_WORD = r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+"  # RFC 8866, section 9: no space, separator or control character
_MEDIA = re.compile(rf"({_WORD}) ([0-9]{{1,5}})(?:/[0-9]+)? ([A-Za-z0-9/]{{1,64}}) ([ -~]+)")
_ORIGIN = re.compile(r"[!-~]{1,64} ([0-9]{1,20}) ([0-9]{1,20}) [ -~]+")
_ONE_WORD = re.compile(_WORD)
_ID = re.compile(r"[!-~]+")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")  # RFC 8839, section 5.4
_PWD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_FINGERPRINT = re.compile(r"([A-Za-z0-9\-]{1,16}) ([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*)")
_RTPMAP = re.compile(rf"([0-9]{{1,3}}) ({_WORD})/([0-9]{{1,7}})(?:/([0-9]{{1,2}}))?")
_PT_VALUE = re.compile(r"([0-9]{1,3}|\*) ([ -~]+)")
_EXTMAP = re.compile(r"([0-9]{1,5})(?:/[a-z]+)? ([!-~]{1,256})(?: [ -~]*)?")
_SSRC = re.compile(r"([0-9]{1,10}) ([a-z]+)(?::([ -~]*))?")
_SSRC_GROUP = re.compile(r"([A-Z\-]{1,16})((?: [0-9]{1,10}){1,32})")
_RID = re.compile(r"([A-Za-z0-9_\-]{1,16}) (send|recv)(?: [ -~]*)?")  # RFC 8851: ids go into packets, so they are short
_SIMULCAST = re.compile(r"(send|recv) ([A-Za-z0-9_\-;,~]+)")


def parse(text: str) -> Description:
    """Read an offer or answer. Raises SdpError, with a message for the peer, and nothing else."""
    if len(text) > MAX_BYTES:
        raise SdpError(f"the description is longer than {MAX_BYTES} characters")
    rows = text.split("\n", MAX_LINES)
    if len(rows) > MAX_LINES:
        raise SdpError(f"the description has more than {MAX_LINES} lines")
    sections: list[list[str]] = [[]]
    for row in rows:
        line = row.removesuffix("\r")
        if len(line) > MAX_LINE_LENGTH:
            raise SdpError(f"a line is longer than {MAX_LINE_LENGTH} characters")
        if line.startswith("m="):
            sections.append([])
        sections[-1].append(line)
    if sections[0][:1] != ["v=0"]:
        raise SdpError("the description does not start with v=0")
    if len(sections) - 1 > MAX_MEDIA_LINES:
        raise SdpError(f"the description has more than {MAX_MEDIA_LINES} m-lines")
    return _description(sections)


def _description(sections: list[list[str]]) -> Description:
    session = _Section(where="the session part")
    for line in sections[0]:
        session.read(line)
    lines = tuple(_media_line(index, rows, session) for index, rows in enumerate(sections[1:]))
    mids = [line.mid for line in lines if line.mid]
    if len(set(mids)) != len(mids):
        raise SdpError("two m-lines have the same mid")
    known = set(mids)
    bundled: set[str] = set()
    for mid in (mid for bundle in session.bundles for mid in bundle):
        if mid in bundled or mid not in known:
            raise SdpError("a BUNDLE group names a mid twice, or one that does not exist")
        bundled.add(mid)
    return Description(
        lines=lines,
        bundles=tuple(session.bundles),
        session_id=session.session_id,
        version=session.version,
        ice_lite=session.ice_lite,
        extmap_allow_mixed=session.extmap_allow_mixed,
    )


@dataclass(slots=True)
class _Section:
    """What was read so far of the session part or of one m-line."""

    where: str
    attributes: int = 0
    # session
    session_id: int = 0
    version: int = 0
    bundles: list[tuple[str, ...]] = field(default_factory=list)
    ice_lite: bool = False
    extmap_allow_mixed: bool = False
    # either
    ufrag: str | None = None
    pwd: str | None = None
    fingerprints: list[tuple[str, str]] = field(default_factory=list)
    has_fingerprint: bool = False  # also of weak ones: they still override the session's
    setup: str | None = None
    direction: Direction | None = None
    # m-line
    mid: str = ""
    bundle_only: bool = False
    rtcp_mux: bool = False
    rtpmaps: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    fmtps: dict[int, dict[str, None]] = field(default_factory=dict)
    feedback: dict[int | None, dict[str, None]] = field(default_factory=dict)  # None: for all payload types
    extensions: dict[int, str] = field(default_factory=dict)
    msids: dict[Msid, None] = field(default_factory=dict)
    ssrcs: dict[int, dict[str, str]] = field(default_factory=dict)
    groups: list[tuple[str, list[int]]] = field(default_factory=list)
    rids: dict[str, dict[str, None]] = field(default_factory=lambda: {"send": {}, "recv": {}})
    simulcast: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sctp_port: int | None = None
    max_message_size: int | None = None
    candidates: list[str] = field(default_factory=list)
    end_of_candidates: bool = False

    def read(self, line: str) -> None:
        """Take in one line; lines and attributes that an SFU does not need are passed over."""
        if line.startswith("o="):
            if match := _ORIGIN.fullmatch(line, 2):
                self.session_id, self.version = int(match[1]), int(match[2])
            return
        if not line.startswith("a="):
            return
        self.attributes += 1
        if self.attributes > MAX_ATTRIBUTES:
            raise SdpError(f"{self.where} has more than {MAX_ATTRIBUTES} attributes")
        name, _, value = line[2:].partition(":")
        reader = _READERS.get(name)
        if reader is not None:
            reader(self, value)

    def match(self, pattern: re.Pattern[str], name: str, value: str) -> re.Match[str]:
        """The value must fit the pattern."""
        found = pattern.fullmatch(value)
        if found is None:
            raise SdpError(f"{self.where}: malformed a={name}")
        return found

    def number(self, name: str, value: str, maximum: int) -> int:
        """The value must be a number up to a maximum."""
        if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > maximum:
            raise SdpError(f"{self.where}: malformed a={name}")
        return int(value)


def _read_group(section: _Section, value: str) -> None:
    semantics, *mids = value.split(" ")
    if semantics == "BUNDLE":
        section.bundles.append(tuple(mid for mid in mids if mid))


def _read_ice_lite(section: _Section, value: str) -> None:
    section.ice_lite = True


def _read_allow_mixed(section: _Section, value: str) -> None:
    section.extmap_allow_mixed = True


def _read_ufrag(section: _Section, value: str) -> None:
    section.ufrag = section.match(_UFRAG, "ice-ufrag", value)[0]


def _read_pwd(section: _Section, value: str) -> None:
    section.pwd = section.match(_PWD, "ice-pwd", value)[0]


def _read_fingerprint(section: _Section, value: str) -> None:
    match = section.match(_FINGERPRINT, "fingerprint", value)
    algorithm, digest = match[1].lower(), match[2].upper()
    section.has_fingerprint = True
    size = STRONG_HASHES.get(algorithm)
    if size is None:
        return
    if len(digest) != 3 * size - 1:
        raise SdpError(f"{section.where}: malformed a=fingerprint")
    section.fingerprints.append((algorithm, digest))


def _read_setup(section: _Section, value: str) -> None:
    if value not in ("active", "passive", "actpass", "holdconn"):
        raise SdpError(f"{section.where}: malformed a=setup")
    section.setup = value


def _read_mid(section: _Section, value: str) -> None:
    if len(value) > MAX_MID_LENGTH or section.mid:
        raise SdpError(f"{section.where}: malformed a=mid")
    section.mid = section.match(_ONE_WORD, "mid", value)[0]


def _read_bundle_only(section: _Section, value: str) -> None:
    section.bundle_only = True


def _read_rtcp_mux(section: _Section, value: str) -> None:
    section.rtcp_mux = True


def _read_rtpmap(section: _Section, value: str) -> None:
    match = section.match(_RTPMAP, "rtpmap", value)
    pt = section.number("rtpmap", match[1], 127)
    if pt in section.rtpmaps:
        raise SdpError(f"{section.where}: payload type {pt} is mapped twice")
    section.rtpmaps[pt] = (match[2], int(match[3]), int(match[4] or 1))


def _read_fmtp(section: _Section, value: str) -> None:
    match = section.match(_PT_VALUE, "fmtp", value)
    if match[1] == "*":
        return
    items = section.fmtps.setdefault(section.number("fmtp", match[1], 127), {})
    items.update(dict.fromkeys(item.strip() for item in match[2].split(";") if item.strip()))


def _read_feedback(section: _Section, value: str) -> None:
    match = section.match(_PT_VALUE, "rtcp-fb", value)
    pt = None if match[1] == "*" else section.number("rtcp-fb", match[1], 127)
    section.feedback.setdefault(pt, {})[match[2]] = None


def _read_extmap(section: _Section, value: str) -> None:
    match = section.match(_EXTMAP, "extmap", value)
    number = int(match[1])
    if number in section.extensions:
        raise SdpError(f"{section.where}: extension id {number} is mapped twice")
    if 1 <= number <= 255:  # RFC 8285: others are only placeholders in an offer
        section.extensions[number] = match[2]


def is_id(text: str) -> bool:
    """Can this be a stream or track id in an msid: more than RFC 8830 allows, and nothing that could end a line."""
    return len(text) <= MAX_ID_LENGTH and _ID.fullmatch(text) is not None


def _msid(value: str) -> Msid | None:
    stream_id, _, rest = value.partition(" ")
    track_id = rest.partition(" ")[0]
    if not is_id(stream_id) or not is_id(track_id):
        return None
    return Msid(StreamId(stream_id), TrackId(track_id))


def _read_msid(section: _Section, value: str) -> None:
    msid = _msid(value)
    if msid is None and " " in value.strip():  # without a track id (RFC 8830, section 2) it names nothing
        raise SdpError(f"{section.where}: an id in a=msid is not 1 to {MAX_ID_LENGTH} visible ASCII characters")
    if msid is not None:
        section.msids[msid] = None


def _read_ssrc(section: _Section, value: str) -> None:
    match = section.match(_SSRC, "ssrc", value)
    ssrc = section.number("ssrc", match[1], 0xFFFFFFFF)
    section.ssrcs.setdefault(ssrc, {})[match[2]] = match[3] or ""


def _read_ssrc_group(section: _Section, value: str) -> None:
    match = section.match(_SSRC_GROUP, "ssrc-group", value)
    section.groups.append((match[1], [section.number("ssrc-group", item, 0xFFFFFFFF) for item in match[2].split()]))


def _read_rid(section: _Section, value: str) -> None:
    match = section.match(_RID, "rid", value)
    section.rids[match[2]][match[1]] = None


def _read_simulcast(section: _Section, value: str) -> None:
    words = value.strip().split(" ")
    pairs = [" ".join(words[i : i + 2]) for i in range(0, len(words), 2)]
    for pair in pairs[:2]:
        match = section.match(_SIMULCAST, "simulcast", pair)
        streams = (alternatives.split(",")[0].removeprefix("~") for alternatives in match[2].split(";"))
        section.simulcast[match[1]] = tuple(dict.fromkeys(stream for stream in streams if stream))


def _read_sctp_port(section: _Section, value: str) -> None:
    section.sctp_port = section.number("sctp-port", value, 65535)


def _read_max_message_size(section: _Section, value: str) -> None:
    section.max_message_size = section.number("max-message-size", value, 2**33)


def _read_candidate(section: _Section, value: str) -> None:
    if len(section.candidates) < MAX_CANDIDATES and re.fullmatch(r"[ -~]{1,512}", value):
        section.candidates.append(value)


def _read_end_of_candidates(section: _Section, value: str) -> None:
    section.end_of_candidates = True


def _direction_reader(direction: Direction) -> Callable[[_Section, str], None]:
    def read(section: _Section, value: str) -> None:
        section.direction = direction

    return read


_READERS: dict[str, Callable[[_Section, str], None]] = {
    "group": _read_group,
    "ice-lite": _read_ice_lite,
    "extmap-allow-mixed": _read_allow_mixed,
    "ice-ufrag": _read_ufrag,
    "ice-pwd": _read_pwd,
    "fingerprint": _read_fingerprint,
    "setup": _read_setup,
    "mid": _read_mid,
    "bundle-only": _read_bundle_only,
    "rtcp-mux": _read_rtcp_mux,
    "rtpmap": _read_rtpmap,
    "fmtp": _read_fmtp,
    "rtcp-fb": _read_feedback,
    "extmap": _read_extmap,
    "msid": _read_msid,
    "ssrc": _read_ssrc,
    "ssrc-group": _read_ssrc_group,
    "rid": _read_rid,
    "simulcast": _read_simulcast,
    "sctp-port": _read_sctp_port,
    "max-message-size": _read_max_message_size,
    "candidate": _read_candidate,
    "end-of-candidates": _read_end_of_candidates,
    **{direction.value: _direction_reader(direction) for direction in Direction},
}


def _media_line(index: int, rows: list[str], session: _Section) -> MediaLine:
    section = _Section(where=f"m-line {index}")
    match = _MEDIA.fullmatch(rows[0], 2)
    if match is None or int(match[2]) > 65535:
        raise SdpError(f"m-line {index} is malformed")
    for row in rows[1:]:
        section.read(row)
    formats = tuple(match[4].split())
    ssrcs, fid = _sources(section)
    return MediaLine(
        kind=match[1],
        port=int(match[2]),
        protocol=match[3],
        formats=formats,
        mid=section.mid,
        direction=section.direction or session.direction or Direction.SENDRECV,
        transport=_transport(section, session),
        bundle_only=section.bundle_only,
        rtcp_mux=section.rtcp_mux,
        codecs=_codecs(section, formats),
        extensions=tuple({**session.extensions, **section.extensions}.items()),
        msids=tuple(section.msids) or _legacy_msids(section),
        ssrcs=ssrcs,
        cname=next((known["cname"] for known in section.ssrcs.values() if "cname" in known), None),
        fid=fid,
        send_rids=tuple(section.rids["send"]),
        receive_rids=tuple(section.rids["recv"]),
        simulcast_send=tuple(rid for rid in section.simulcast.get("send", ()) if rid in section.rids["send"]),
        simulcast_receive=tuple(rid for rid in section.simulcast.get("recv", ()) if rid in section.rids["recv"]),
        sctp_port=section.sctp_port,
        max_message_size=section.max_message_size,
        candidates=tuple(section.candidates),
        end_of_candidates=section.end_of_candidates,
    )


def _transport(section: _Section, session: _Section) -> Transport | None:
    ufrag, pwd = section.ufrag or session.ufrag, section.pwd or session.pwd
    if ufrag is None or pwd is None:
        return None
    source = section if section.has_fingerprint else session
    return Transport(ufrag, pwd, tuple(source.fingerprints), section.setup or session.setup or "actpass")


def _codecs(section: _Section, formats: tuple[str, ...]) -> tuple[Codec, ...]:
    """The mapped formats, in the m-line's order: that is the order of preference (RFC 8866, section 5.14)."""
    found: dict[int, Codec] = {}
    for item in formats:
        pt = int(item) if re.fullmatch(r"[0-9]{1,3}", item) else -1
        if pt not in section.rtpmaps or pt in found:
            continue
        name, clock_rate, channels = section.rtpmaps[pt]
        feedback = {**section.feedback.get(None, {}), **section.feedback.get(pt, {})}
        found[pt] = Codec(pt, name, clock_rate, channels, tuple(section.fmtps.get(pt, ())), tuple(feedback))
    return tuple(found.values())


def _sources(section: _Section) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """All signalled ssrcs, and those that repeat another (RFC 4588, RFC 5576)."""
    fid = {ids[0]: ids[1] for semantics, ids in section.groups if semantics == "FID" and len(ids) == 2}
    if any(ids[0] not in section.ssrcs or ids[1] not in section.ssrcs for ids in fid.items()):
        raise SdpError(f"{section.where}: an ssrc-group names an unknown ssrc")
    return tuple(section.ssrcs), tuple(fid.items())


def _legacy_msids(section: _Section) -> tuple[Msid, ...]:
    found = (_msid(known["msid"]) for known in section.ssrcs.values() if "msid" in known)
    return tuple(dict.fromkeys(msid for msid in found if msid is not None))
