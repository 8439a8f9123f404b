"""The codecs that the focus passes on, in which forms (RFC 7587, 7741, 6184, 9628, AV1), and what is said of each.

A form is what must be the same at both ends for one to decode what the other sends; the focus never transcodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..core.ids import Kind
from .sdp import Codec

OPUS = "opus"
VP8 = "VP8"
H264 = "H264"
H264_BASELINE = "H264-baseline"  # that is not constrained: browsers take it for another one
VP9 = "VP9"
AV1 = "AV1"
VIDEO_CODECS = (VP8, VP9, H264, AV1)  # as operators name them

FEEDBACK = {Kind.AUDIO: ("transport-cc",), Kind.VIDEO: ("ccm fir", "nack", "nack pli", "transport-cc")}
_REMB = "goog-remb"
_OPUS_FMTP = {  # the parameters of RFC 7587, section 6.1, that say how the other side is to encode, and their ranges
    "minptime": (3, 120),
    "useinbandfec": (0, 1),
    "usedtx": (0, 1),
    "stereo": (0, 1),
    "cbr": (0, 1),
    "maxaveragebitrate": (6_000, 510_000),
    "maxplaybackrate": (8_000, 48_000),
}
_LEVEL_ID = re.compile(r"(42)([0-9a-f]{2})([0-9a-f]{2})", re.IGNORECASE)
_CONSTRAINED = 0x40  # constraint_set1_flag


@dataclass(frozen=True, slots=True)
class _Form:
    """One form of a codec."""

    name: str  # in SDP
    fmtp: tuple[str, ...]  # in an own offer
    fits: Callable[[Mapping[str, str]], bool]  # an offered one, by its parameters
    said: tuple[str, ...] = ()  # parameters of an offered one that the answer repeats


def _is_h264(parameters: Mapping[str, str], *, constrained: bool) -> bool:
    """Baseline in packetization mode 1 (RFC 6184, section 8.1); any level: the focus only passes on."""
    level_id = _LEVEL_ID.fullmatch(parameters.get("profile-level-id", "42000a"))
    if level_id is None or parameters.get("packetization-mode", "0") != "1":
        return False
    return bool(int(level_id[2], 16) & _CONSTRAINED) is constrained


_H264_SAID = ("level-asymmetry-allowed", "packetization-mode", "profile-level-id")
_FORMS = {
    VP8: _Form("VP8", (), lambda parameters: True),
    VP9: _Form("VP9", ("profile-id=0",), lambda parameters: parameters.get("profile-id", "0") == "0", ("profile-id",)),
    H264: _Form(
        "H264",
        ("level-asymmetry-allowed=1", "packetization-mode=1", "profile-level-id=42e01f"),
        lambda parameters: _is_h264(parameters, constrained=True),
        _H264_SAID,
    ),
    H264_BASELINE: _Form(
        "H264",
        ("level-asymmetry-allowed=1", "packetization-mode=1", "profile-level-id=42001f"),
        lambda parameters: _is_h264(parameters, constrained=False),
        _H264_SAID,
    ),
    AV1: _Form(
        "AV1",
        ("level-idx=5", "profile=0", "tier=0"),
        lambda parameters: parameters.get("profile", "0") == "0",
        ("level-idx", "profile", "tier"),
    ),
}


def kind_of(form: str) -> Kind:
    """What a form is for."""
    return Kind.AUDIO if form == OPUS else Kind.VIDEO


def permitted(names: tuple[str, ...]) -> frozenset[str]:
    """The forms of these video codecs; voices need no permission."""
    return frozenset((OPUS, *names, *((H264_BASELINE,) if H264 in names else ())))


def form_of(codec: Codec, kind: Kind) -> str | None:
    """The form that a payload type stands for; None: the focus does not take it."""
    described = (codec.name.lower(), codec.clock_rate, codec.channels)
    if kind is Kind.AUDIO:
        return OPUS if described == (OPUS, 48000, 2) else None
    for name, form in _FORMS.items():
        if described == (form.name.lower(), 90000, 1) and form.fits(codec.parameters):
            return name
    return None


def is_beside(codec: Codec, kind: Kind) -> bool:
    """Is it what goes beside a main codec: repeats of video (RFC 4588), copies of audio (RFC 2198)."""
    described = (codec.name.lower(), codec.clock_rate, codec.channels)
    return described == (("red", 48000, 2) if kind is Kind.AUDIO else ("rtx", 90000, 1))


def beside(kind: Kind, pt: int, apt: int) -> Codec:
    """What goes beside this payload type, as own descriptions have it."""
    if kind is Kind.AUDIO:
        return Codec(pt, "red", 48000, 2, (f"{apt}/{apt}",))
    return Codec(pt, "rtx", 90000, 1, (f"apt={apt}",))


def answered(form: str, offered: Codec) -> Codec:
    """An offered codec as it is answered."""
    kind = kind_of(form)
    feedback = tuple(item for item in FEEDBACK[kind] if item in offered.feedback)
    if kind is Kind.AUDIO:
        return _opus(offered.pt, offered.parameters, feedback)
    if "transport-cc" not in feedback and _REMB in offered.feedback:
        feedback = (*feedback, _REMB)
    known, parameters = _FORMS[form], offered.parameters
    fmtp = tuple(f"{key}={parameters[key]}" for key in known.said if key in parameters)
    return Codec(offered.pt, known.name, 90000, 1, fmtp, feedback)


def own(form: str, free: list[int]) -> tuple[Codec, ...]:
    """A codec that the peer has not named, under the first of these payload types, and what goes beside it."""
    if not free:
        return ()
    kind = kind_of(form)
    if kind is Kind.AUDIO:
        main = _opus(free[0], {}, FEEDBACK[kind])
    else:
        main = Codec(free[0], _FORMS[form].name, 90000, 1, _FORMS[form].fmtp, FEEDBACK[kind])
    return (main, beside(kind, free[1], main.pt)) if len(free) > 1 else (main,)


def _opus(pt: int, offered: Mapping[str, str], feedback: tuple[str, ...]) -> Codec:
    """Opus as the peer is to send it: as it says that it likes it itself, with in-band FEC unless it says no."""
    fmtp = {"minptime": "10", "useinbandfec": "1"}
    for name, (least, most) in _OPUS_FMTP.items():
        value = offered.get(name, "")
        if re.fullmatch("[0-9]{1,6}", value) and least <= int(value) <= most:
            fmtp[name] = value
    return Codec(pt, "opus", 48000, 2, tuple(f"{name}={value}" for name, value in fmtp.items()), feedback)
