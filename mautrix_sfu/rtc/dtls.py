"""One leg's end of DTLS (RFC 8842, RFC 5764): aiortc's, over the media core's datagrams; gives its SRTP keys."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from aiortc.rtcdtlstransport import (
    SRTP_AEAD_AES_128_GCM,
    SRTP_AES128_CM_SHA1_80,
    RTCCertificate,
    RTCDtlsParameters,
    RTCDtlsTransport,
    SRTPProtectionProfile,
    State,
)
from aiortc.rtcicetransport import RTCIceTransport
from OpenSSL import SSL

MAX_DATAGRAMS = 128  # of one leg, taken but not looked at yet: a ClientHello is two, a full SCTP window some 100
_SRTP_PROFILES = [SRTP_AEAD_AES_128_GCM, SRTP_AES128_CM_SHA1_80]  # the server chooses: AES-GCM is the cheaper one
_EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"  # RFC 5764, section 4.2


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """What a handshake gave: the keys of both directions."""

    profile: str  # "SRTP_AEAD_AES_128_GCM" or "SRTP_AES128_CM_SHA1_80"
    local_key: bytes
    local_salt: bytes
    remote_key: bytes
    remote_salt: bytes


class Certificate(RTCCertificate):
    """The certificate of this process. All legs share it and its SSL context: both cost time to make."""

    _context: SSL.Context | None = None

    @property
    def fingerprint(self) -> str:
        """As in an SDP: "sha-256 AA:BB:…"."""
        found = next(item for item in self.getFingerprints() if item.algorithm == "sha-256")
        return f"{found.algorithm} {found.value}"

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        if self._context is None:
            self._context = super()._create_ssl_context(srtp_profiles)
            self._context.set_options(SSL.OP_NO_RENEGOTIATION)
            self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        return self._context


class Pipe:
    """What aiortc takes for its ICE transport: a bounded inbox, and a function that sends."""

    role = "controlled"

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send_datagram = send
        self._inbox: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def feed(self, datagram: bytes) -> bool:
        """Take a datagram; False if it was dropped."""
        if self._closed or not datagram or len(self._inbox) >= MAX_DATAGRAMS:
            return False
        self._inbox.append(datagram)
        self._changed.set()
        return True

    def close(self) -> None:
        """Make the reader stop."""
        self._closed = True
        self._changed.set()

    async def _recv(self) -> bytes:
        while True:
            if self._closed:
                raise ConnectionError
            if self._inbox:
                return self._inbox.popleft()
            self._changed.clear()
            await self._changed.wait()

    async def _send(self, datagram: bytes) -> None:
        self._send_datagram(datagram)


class Dtls(RTCDtlsTransport):
    """aiortc's DTLS transport, without its SRTP sessions: the server, or the client where the focus dials."""

    def __init__(self, pipe: Pipe, certificate: Certificate, dials: bool = False) -> None:
        super().__init__(cast("RTCIceTransport", pipe), [certificate])
        self._set_role("client" if dials else "server")
        self._srtp_profiles = _SRTP_PROFILES
        self.keys: SrtpKeys | None = None  # set once the peer's certificate matched its fingerprint
        self.impostor = False  # its certificate did not match

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:  # noqa: N803
        """Called by aiortc when the handshake is done."""
        super()._validate_peer_identity(remoteParameters)
        self.impostor = self._state == State.FAILED

    def _setup_srtp(self) -> None:
        """Called by aiortc when the certificate is checked."""
        assert self._ssl is not None
        chosen = self._ssl.get_selected_srtp_profile()
        profile = next((item for item in _SRTP_PROFILES if item.openssl_profile == chosen), None)
        if profile is None:
            self._set_state(State.FAILED)
            return
        material = self._ssl.export_keying_material(_EXPORTER_LABEL, 2 * (profile.key_length + profile.salt_length))
        client, server = (profile.get_key_and_salt(material, index) for index in (0, 1))
        local, remote = (server, client) if self._role == "server" else (client, server)
        size = profile.key_length
        self.keys = SrtpKeys(chosen.decode(), local[:size], local[size:], remote[:size], remote[size:])

    async def _send_data(self, data: bytes) -> None:
        """Called by aiortc's SCTP, also out of its timers: what cannot be sent any more is dropped, not raised."""
        if self._state != State.CONNECTED or self._ssl is None:
            return
        try:
            self._ssl.send(data)
        except SSL.Error:
            return
        await self._write_ssl()

    async def wait_closed(self) -> None:
        """Until the peer or `Pipe.close` ends it. Raises what broke in between."""
        if self._task is not None:
            await self._task
