"""What differs between the two ends of a connection, and whom a focus that dials another may send packets to.

Browsers are always the dialling end. A trunk (docs/protocol.md, section 6) has a focus at both: the one that dials
plays the browser, the called one behaves as it does towards browsers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from .plan import RemoteTransport
from .sdp import SdpError

MAX_DIALLED = 8  # candidates of one answer

_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class End:
    """How a focus negotiates at one end. The DTLS roles hold for the whole session (RFC 8842, section 5.5)."""

    ice_lite: bool  # exactly one end is: two lite agents never connect (RFC 8445, section 2.5)
    mids: str  # what the mids of the m-lines that it opens begin with
    answers_with: str  # its a=setup in answers; offers say "actpass" (RFC 8842, section 5.2)
    polite: bool  # its offer in flight gives way to one of the peer
    late_tracks: bool  # the peer may begin to send on the m-lines that it opened
    takes_offered: tuple[str, ...]  # the a=setup that the peer's offers may have
    takes_answered: tuple[str, ...]  # and its answers

    def check(self, *, ice_lite: bool, setup: str, answers: bool) -> None:
        """Raise SdpError if a description of the peer does not fit."""
        if ice_lite and self.ice_lite:
            raise SdpError("both sides would be ICE-lite")
        if not ice_lite and not self.ice_lite:
            raise SdpError("the called side must be ICE-lite")
        if setup not in (self.takes_answered if answers else self.takes_offered):
            role = "client" if self.answers_with == "passive" else "server"
            raise SdpError(f"the peer must be the DTLS {role}: a=setup is not fit for it")


CALLED = End(
    ice_lite=True,
    mids="s",
    answers_with="passive",
    polite=True,
    late_tracks=True,
    takes_offered=("active", "actpass"),
    takes_answered=("active",),
)
DIALLING = End(
    ice_lite=False,
    mids="c",
    answers_with="active",
    polite=False,
    late_tracks=False,
    takes_offered=("passive", "actpass"),
    takes_answered=("passive",),
)


def usable_candidates(remote: RemoteTransport, allow_private: bool) -> tuple[tuple[str, int], ...]:
    """The (IPv4, port) pairs of an answer that may be sent checks to: at most 8, the most preferred first.

    Only host and server-reflexive candidates over UDP count; IPv6 addresses and names are passed over. What is not a
    public address (loopback, link-local, private use, documentation…) counts only if `allow_private`; what is no
    single host's (multicast, unspecified, broadcast, reserved) never does.
    """
    found = sorted(filter(None, map(_parse, remote.candidates)), key=lambda candidate: -candidate[0])
    usable = ((str(address), port) for _, address, port in found if _is_usable(address, allow_private))
    return tuple(dict.fromkeys(usable))[:MAX_DIALLED]


def _parse(candidate: str) -> tuple[int, IPv4Address, int] | None:
    """Priority, address and port of a usable kind of candidate (RFC 8839, section 5.1)."""
    words = candidate.split()
    if len(words) < 8 or words[1] != "1" or words[2].lower() != "udp":
        return None
    if words[6] != "typ" or words[7] not in ("host", "srflx"):
        return None
    if not _NUMBER.fullmatch(words[3]) or not _NUMBER.fullmatch(words[5]) or not 0 < int(words[5]) < 65536:
        return None
    try:
        return int(words[3]), IPv4Address(words[4]), int(words[5])
    except AddressValueError:
        return None


def _is_usable(address: IPv4Address, allow_private: bool) -> bool:
    if address.is_multicast or address.is_reserved or address.packed[0] == 0:  # the broadcast address is reserved
        return False
    return allow_private or address.is_global
