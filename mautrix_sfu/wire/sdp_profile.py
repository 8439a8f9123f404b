"""Which codecs and header extensions the focus takes, and the numbers that they have in one session.

Payload types and extension ids mean the same on every m-line of a BUNDLE (RFC 8843, section 10.1.2) and never change in
a session: Chromium's tab crashes when `sdes:mid` moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..core.ids import Kind
from . import codecs as known
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
DEPENDENCY = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"

_TAKEN = {
    Kind.AUDIO: (MID, ABS_SEND_TIME, TRANSPORT_CC, AUDIO_LEVEL),
    Kind.VIDEO: (MID, ABS_SEND_TIME, TRANSPORT_CC, RID, REPAIRED_RID, VIDEO_ORIENTATION, PLAYOUT_DELAY),
}
_LAYERED = {MID, RID, REPAIRED_RID}  # what tells the layers of a simulcast apart
_SENT = {  # on m-lines that the focus opens; without rids where it sends one layer
    Kind.AUDIO: _TAKEN[Kind.AUDIO],
    Kind.VIDEO: tuple(uri for uri in _TAKEN[Kind.VIDEO] if uri not in (RID, REPAIRED_RID)),
}
_OF_CODEC = {known.AV1: (DEPENDENCY,)}  # where this is the (first) codec of the m-line

# Where free numbers are looked for: dynamic payload types (RFC 3551, section 6) and one-byte extension ids.
_FREE_PAYLOAD_TYPES = (*range(96, 128), *range(35, 64))
_FREE_IDS = tuple(range(1, 15))


@dataclass(frozen=True, slots=True)
class Profile:
    """The numbers of one session. Changing it gives a new one."""

    permitted: frozenset[str]  # forms of codecs
    codecs: Mapping[str, tuple[Codec, ...]] = field(default_factory=dict)  # by form: it, and its rtx or red, once seen
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
                takes = uri in _TAKEN[Kind.AUDIO] or uri in _TAKEN[Kind.VIDEO] or uri == DEPENDENCY
                if takes and uri not in extensions and number not in extensions.values():
                    extensions[uri] = number
                ids.add(number)
        return replace(
            self, extensions=extensions, used_payload_types=frozenset(payload_types), used_ids=frozenset(ids)
        )

    def take(
        self, line: MediaLine, kind: Kind, only: frozenset[str] | None = None
    ) -> tuple[Profile, tuple[Codec, ...], tuple[tuple[int, str], ...]]:
        """Choose codecs (of these forms `only`) and extensions of an offered m-line; no codecs: the focus takes none.

        The codecs are in the peer's order, each with what goes beside it: it sends in the first.
        """
        chosen = self._choose(line, kind, self.permitted if only is None else only)
        first = next(iter(chosen), "")
        extensions = tuple((number, uri) for number, uri in line.extensions if self._takes(kind, first, number, uri))
        more = {form: codecs for form, codecs in chosen.items() if len(codecs) > len(self.codecs.get(form, ()))}
        codecs = tuple(codec for of_form in chosen.values() for codec in of_form)
        return replace(self, codecs={**self.codecs, **more}) if more else self, codecs, extensions

    def complete(self, form: str, *, simulcast: bool = False) -> Profile:
        """Give free numbers to what an m-line of the focus needs and the peer has not offered yet."""
        extensions, used_ids = dict(self.extensions), set(self.used_ids)
        for uri in _uris(form, simulcast=simulcast):
            if uri not in extensions:
                free = next((number for number in _FREE_IDS if number not in used_ids), None)
                if free is not None:
                    extensions[uri] = free
                    used_ids.add(free)
        codecs, used = dict(self.codecs), set(self.used_payload_types)
        if form not in codecs:
            free_types = [pt for pt in _FREE_PAYLOAD_TYPES if pt not in used][:2]
            codecs[form] = known.own(form, free_types)
            used.update(codec.pt for codec in codecs[form])
        return Profile(self.permitted, codecs, extensions, frozenset(used), frozenset(used_ids))

    def sent_extensions(self, form: str, *, simulcast: bool = False) -> tuple[tuple[int, str], ...]:
        """The extensions of an m-line that the focus opens."""
        uris = _uris(form, simulcast=simulcast)
        return tuple((self.extensions[uri], uri) for uri in uris if uri in self.extensions)

    def can_send(self, form: str, *, simulcast: bool = False) -> bool:
        """Are there numbers for all that is needed to send this."""
        return bool(self.codecs.get(form)) and not (simulcast and _LAYERED - self.extensions.keys())

    def payloads(self) -> tuple[Payload, ...]:
        """All payload types in use."""
        return tuple(
            Payload(codec.pt, codec.name, codec.clock_rate, codec.apt)
            for codecs in self.codecs.values()
            for codec in codecs
        )

    def _takes(self, kind: Kind, first: str, number: int, uri: str) -> bool:
        return uri in (*_TAKEN[kind], *_OF_CODEC.get(first, ())) and self.extensions.get(uri) == number

    def _choose(self, line: MediaLine, kind: Kind, forms: frozenset[str]) -> dict[str, tuple[Codec, ...]]:
        chosen: dict[str, tuple[Codec, ...]] = {}
        for codec in line.codecs:
            form = known.form_of(codec, kind)
            if form is None or form not in forms or form in chosen:
                continue
            agreed = self.codecs.get(form, ())
            elsewhere = {other.pt for name, codecs in self.codecs.items() if name != form for other in codecs}
            if codec.pt in elsewhere or (agreed and codec.pt != agreed[0].pt):
                continue
            chosen[form] = (known.answered(form, codec), *self._beside(line, codec, kind, agreed, elsewhere))
        return chosen

    def _beside(
        self, line: MediaLine, main: Codec, kind: Kind, agreed: tuple[Codec, ...], elsewhere: set[int]
    ) -> tuple[Codec, ...]:
        for codec in line.codecs:
            fits = known.is_beside(codec, kind) and codec.apt == main.pt and codec.pt not in elsewhere
            if fits and (len(agreed) < 2 or codec.pt == agreed[1].pt):
                return (known.beside(kind, codec.pt, main.pt),)
        return ()


def _uris(form: str, *, simulcast: bool) -> tuple[str, ...]:
    return (*(_TAKEN if simulcast else _SENT)[known.kind_of(form)], *_OF_CODEC.get(form, ()))
