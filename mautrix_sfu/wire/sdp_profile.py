"""Which codecs and header extensions the focus takes, and the numbers that they have in one session.

Payload types and extension ids mean the same on every m-line of a BUNDLE (RFC 8843, section 10.1.2) and never change in
a session: Chromium's tab crashes when `sdes:mid` moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..core.ids import Kind
from .plan import Payload
from .sdp import Codec, MediaLine

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
VIDEO_ORIENTATION = "urn:3gpp:video-orientation"
PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"

_TAKEN = {
    Kind.AUDIO: (MID, ABS_SEND_TIME, TRANSPORT_CC, AUDIO_LEVEL),
    Kind.VIDEO: (MID, ABS_SEND_TIME, TRANSPORT_CC, RID, REPAIRED_RID, VIDEO_ORIENTATION, PLAYOUT_DELAY),
}
_LAYERED = {MID, RID, REPAIRED_RID}  # what tells the layers of a simulcast apart
_SENT = {  # on m-lines that the focus opens; without rids where it sends one layer
    Kind.AUDIO: _TAKEN[Kind.AUDIO],
    Kind.VIDEO: tuple(uri for uri in _TAKEN[Kind.VIDEO] if uri not in (RID, REPAIRED_RID)),
}
_FEEDBACK = {Kind.AUDIO: ("transport-cc",), Kind.VIDEO: ("ccm fir", "nack", "nack pli", "transport-cc")}
_REMB = "goog-remb"
_OPUS = {  # the parameters of RFC 7587, section 6.1, that say how the other side is to encode, and their ranges
    "minptime": (3, 120),
    "useinbandfec": (0, 1),
    "usedtx": (0, 1),
    "stereo": (0, 1),
    "cbr": (0, 1),
    "maxaveragebitrate": (6_000, 510_000),
    "maxplaybackrate": (8_000, 48_000),
}

# Where free numbers are looked for: dynamic payload types (RFC 3551, section 6) and one-byte extension ids.
_FREE_PAYLOAD_TYPES = (*range(96, 128), *range(35, 64))
_FREE_IDS = tuple(range(1, 15))


@dataclass(frozen=True, slots=True)
class Profile:
    """The numbers of one session. Changing it gives a new one."""

    codecs: Mapping[Kind, tuple[Codec, ...]] = field(default_factory=dict)  # opus and red; VP8 and rtx, once seen
    extensions: Mapping[str, int] = field(default_factory=dict)  # URI → id, of those that the focus takes
    used_payload_types: frozenset[int] = frozenset()  # by either side, for whatever
    used_ids: frozenset[int] = frozenset()

    def learn(self, lines: Iterable[MediaLine]) -> Profile:
        """Note what the peer uses its numbers for, before any of its lines is answered."""
        payload_types, ids = set(self.used_payload_types), set(self.used_ids)
        extensions = dict(self.extensions)
        for line in lines:
            payload_types.update(int(item) for item in line.formats if len(item) <= 3 and item.isdecimal())
            for number, uri in line.extensions:
                known = uri in _TAKEN[Kind.AUDIO] or uri in _TAKEN[Kind.VIDEO]
                if known and uri not in extensions and number not in extensions.values():
                    extensions[uri] = number
                ids.add(number)
        return replace(
            self, extensions=extensions, used_payload_types=frozenset(payload_types), used_ids=frozenset(ids)
        )

    def take(self, line: MediaLine, kind: Kind) -> tuple[Profile, tuple[Codec, ...], tuple[tuple[int, str], ...]]:
        """Choose codecs and extensions of an offered m-line; no codecs: there is none that the focus takes."""
        codecs = self._choose(line, kind)
        extensions = tuple((number, uri) for number, uri in line.extensions if self._takes(kind, number, uri))
        if len(codecs) <= len(self.codecs.get(kind, ())):
            return self, codecs, extensions
        return replace(self, codecs={**self.codecs, kind: codecs}), codecs, extensions

    def complete(self, kind: Kind, *, simulcast: bool = False) -> Profile:
        """Give free numbers to what an m-line of the focus needs and the peer has not offered yet."""
        extensions, used_ids = dict(self.extensions), set(self.used_ids)
        for uri in (_TAKEN if simulcast else _SENT)[kind]:
            if uri not in extensions:
                free = next((number for number in _FREE_IDS if number not in used_ids), None)
                if free is not None:
                    extensions[uri] = free
                    used_ids.add(free)
        codecs, used = dict(self.codecs), set(self.used_payload_types)
        if kind not in codecs:
            free_types = [pt for pt in _FREE_PAYLOAD_TYPES if pt not in used][:2]
            codecs[kind] = _own_codecs(kind, free_types)
            used.update(codec.pt for codec in codecs[kind])
        return Profile(codecs, extensions, frozenset(used), frozenset(used_ids))

    def sent_extensions(self, kind: Kind, *, simulcast: bool = False) -> tuple[tuple[int, str], ...]:
        """The extensions of an m-line that the focus opens."""
        uris = (_TAKEN if simulcast else _SENT)[kind]
        return tuple((self.extensions[uri], uri) for uri in uris if uri in self.extensions)

    def can_send(self, kind: Kind, *, simulcast: bool = False) -> bool:
        """Are there numbers for all that is needed to send this."""
        return bool(self.codecs.get(kind)) and not (simulcast and _LAYERED - self.extensions.keys())

    def payloads(self) -> tuple[Payload, ...]:
        """All payload types in use."""
        return tuple(
            Payload(codec.pt, codec.name, codec.clock_rate, codec.apt)
            for codecs in self.codecs.values()
            for codec in codecs
        )

    def _takes(self, kind: Kind, number: int, uri: str) -> bool:
        return uri in _TAKEN[kind] and self.extensions.get(uri) == number

    def _choose(self, line: MediaLine, kind: Kind) -> tuple[Codec, ...]:
        agreed = self.codecs.get(kind, ())
        elsewhere = {codec.pt for other, codecs in self.codecs.items() if other is not kind for codec in codecs}
        for codec in line.codecs:
            if not _is_main(codec, kind) or codec.pt in elsewhere or (agreed and codec.pt != agreed[0].pt):
                continue
            main = _answer(codec, kind)
            for beside in line.codecs:
                if not _is_beside(beside, kind) or beside.apt != codec.pt or beside.pt in elsewhere:
                    continue
                if len(agreed) < 2 or beside.pt == agreed[1].pt:
                    return main, _beside(kind, beside.pt, codec.pt)
            return (main,)
        return ()


def _is_main(codec: Codec, kind: Kind) -> bool:
    described = (codec.name.lower(), codec.clock_rate, codec.channels)
    return described == (("opus", 48000, 2) if kind is Kind.AUDIO else ("vp8", 90000, 1))


def _is_beside(codec: Codec, kind: Kind) -> bool:
    described = (codec.name.lower(), codec.clock_rate, codec.channels)
    return described == (("red", 48000, 2) if kind is Kind.AUDIO else ("rtx", 90000, 1))


def _answer(codec: Codec, kind: Kind) -> Codec:
    feedback = tuple(item for item in _FEEDBACK[kind] if item in codec.feedback)
    if kind is Kind.VIDEO and "transport-cc" not in feedback and _REMB in codec.feedback:
        feedback = (*feedback, _REMB)
    if kind is Kind.VIDEO:
        return Codec(codec.pt, "VP8", 90000, 1, (), feedback)
    return _opus(codec.pt, codec.parameters, feedback)


def _opus(pt: int, offered: Mapping[str, str], feedback: tuple[str, ...]) -> Codec:
    """Opus as the peer is to send it: as it says that it likes it itself, with in-band FEC unless it says no."""
    fmtp = {"minptime": "10", "useinbandfec": "1"}
    for name, (least, most) in _OPUS.items():
        value = offered.get(name, "")
        if re.fullmatch("[0-9]{1,6}", value) and least <= int(value) <= most:
            fmtp[name] = value
    return Codec(pt, "opus", 48000, 2, tuple(f"{name}={value}" for name, value in fmtp.items()), feedback)


def _beside(kind: Kind, pt: int, apt: int) -> Codec:
    if kind is Kind.AUDIO:
        return Codec(pt, "red", 48000, 2, (f"{apt}/{apt}",))
    return Codec(pt, "rtx", 90000, 1, (f"apt={apt}",))


def _own_codecs(kind: Kind, free: list[int]) -> tuple[Codec, ...]:
    if not free:
        return ()
    if kind is Kind.AUDIO:
        main = _opus(free[0], {}, _FEEDBACK[kind])
    else:
        main = Codec(free[0], "VP8", 90000, 1, (), _FEEDBACK[kind])
    return (main, _beside(kind, free[1], main.pt)) if len(free) > 1 else (main,)
