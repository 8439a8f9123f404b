"""A stand-in for the media core, in Python and with the same methods: enough to test a participant without Rust.

It answers STUN, passes DTLS on, decrypts SRTP and forwards a source's lowest numbered ssrc of an m-line; it chooses no
layers, repairs nothing and terminates no RTCP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pylibsrtp
from aioice import stun
from aiortc.rtcdtlstransport import SRTP_PROFILES
from pylibsrtp import Policy, Session

from mautrix_sfu.core.ids import LegId, Mid
from mautrix_sfu.wire.plan import MediaPlan
from mautrix_sfu.wire.sdp_profile import MID, RID
from tests.support.participant_ice import Socket, classify
from tests.support.participant_rtp import RtpPacket, is_rtcp, picture_loss

Address = tuple[str, int]


@dataclass
class _Leg:
    passwords: dict[str, str]  # by ufrag
    address: Address | None = None
    inbound: Session | None = None
    outbound: Session | None = None
    plan: MediaPlan = field(default_factory=MediaPlan)
    forwards: dict[Mid, tuple[LegId, Mid]] = field(default_factory=dict)
    chosen: dict[Mid, int] = field(default_factory=dict)  # the ssrc that is forwarded of an m-line


class PythonMedia:
    """See the module."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._legs: dict[LegId, _Leg] = {}
        self._by_address: dict[Address, LegId] = {}
        self._socket: _Port | None = None
        self._sink: Any = None

    async def open(self, sink: Any) -> None:
        """Bind a port of 127.0.0.1."""
        self._sink = sink
        port = self._socket = _Port(self)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: port, local_addr=("127.0.0.1", 0))

    @property
    def local_addresses(self) -> list[Address]:
        assert self._socket is not None
        return [self._socket.address]

    def add_leg(self, leg: LegId, ufrag: str, pwd: str) -> None:
        self._legs[leg] = _Leg({ufrag: pwd})

    def set_credentials(self, leg: LegId, ufrag: str, pwd: str) -> None:
        self._legs[leg].passwords[ufrag] = pwd

    def set_group(self, leg: LegId, group: int) -> None:
        pass

    def remove_leg(self, leg: LegId) -> None:
        self._legs.pop(leg, None)
        self._by_address = {address: found for address, found in self._by_address.items() if found != leg}

    def send_dtls(self, leg: LegId, datagram: bytes) -> None:
        self._send(leg, datagram)

    def set_keys(
        self, leg: LegId, profile: str, local_key: bytes, local_salt: bytes, remote_key: bytes, remote_salt: bytes
    ) -> None:
        known = next(item for item in SRTP_PROFILES if item.openssl_profile.decode() == profile).libsrtp_profile
        found = self._legs[leg]
        found.inbound = Session(Policy(remote_key + remote_salt, Policy.SSRC_ANY_INBOUND, srtp_profile=known))
        found.outbound = Session(Policy(local_key + local_salt, Policy.SSRC_ANY_OUTBOUND, srtp_profile=known))

    def set_plan(self, leg: LegId, plan: MediaPlan) -> None:
        if leg in self._legs:
            self._legs[leg].plan = plan

    def forward(
        self, leg: LegId, mid: Mid, source: LegId, source_mid: Mid, width: int | None, height: int | None
    ) -> None:
        self._legs[leg].forwards[mid] = (source, source_mid)
        chosen = self._legs[source].chosen.get(source_mid)
        if chosen is not None:
            self._send_rtp(source, picture_loss(1, chosen))

    def stop_forward(self, leg: LegId, mid: Mid) -> None:
        self._legs[leg].forwards.pop(mid, None)

    def shutdown(self) -> None:
        if self._socket is not None:
            self._socket.close()

    # ------------------------------------------------------------ packets

    def receive(self, data: bytes, address: Address) -> None:
        kind = classify(data)
        self.counts[kind] += 1
        leg = self._by_address.get(address)
        if kind == "stun":
            self._on_stun(data, address)
        elif kind == "dtls" and leg is not None:
            self._sink.on_dtls(leg, data)
        elif kind == "rtp" and leg is not None:
            self._on_srtp(leg, data)

    def _on_stun(self, data: bytes, address: Address) -> None:
        try:
            request = stun.parse_message(data)
            ufrag = request.attributes["USERNAME"].split(":")[0]
        except (ValueError, KeyError):
            return
        for leg, found in self._legs.items():
            pwd = found.passwords.get(ufrag)
            if pwd is None or not request.check_message_integrity(pwd.encode()):
                continue
            response = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
            response.attributes["XOR-MAPPED-ADDRESS"] = address
            response.add_message_integrity(pwd.encode())
            response.add_fingerprint()
            assert self._socket is not None
            self._socket.send(bytes(response), address)
            if "USE-CANDIDATE" in request.attributes and found.address != address:
                found.address = address
                self._by_address[address] = leg
                self._sink.on_ice_connected(leg)
            return

    def _on_srtp(self, leg: LegId, data: bytes) -> None:
        session = self._legs[leg].inbound
        if session is None:
            return
        try:
            if is_rtcp(data):
                session.unprotect_rtcp(data)
            else:
                self._route(leg, RtpPacket.parse(session.unprotect(data)))
        except pylibsrtp.Error:
            self.counts["undecryptable"] += 1

    def _route(self, leg: LegId, packet: RtpPacket) -> None:
        plan = self._legs[leg].plan
        mid = Mid(packet.extensions.get(plan.extensions.get(MID, 0), b"").decode("ascii", "replace"))
        line = next((line for line in plan.lines if line.mid == mid and line.receive is not None), None)
        if line is None:
            self.counts["unrouted"] += 1
            return
        self.counts[f"received {line.kind.value}"] += 1
        rid = packet.extensions.get(plan.extensions.get(RID, 0), b"").decode("ascii", "replace")
        assert line.receive is not None
        if not line.receive.rids or rid == line.receive.rids[-1]:
            self._legs[leg].chosen[mid] = packet.ssrc
            for other, found in self._legs.items():
                for target, source in found.forwards.items():
                    if source == (leg, mid):
                        self._forward(other, target, packet)

    def _forward(self, leg: LegId, mid: Mid, packet: RtpPacket) -> None:
        line = next((line for line in self._legs[leg].plan.lines if line.mid == mid), None)
        if line is not None and line.send is not None:
            rewritten = replace(packet, ssrc=line.send.ssrc, pt=line.send.pt, extensions={})
            self._send_rtp(leg, bytes(rewritten))

    def _send_rtp(self, leg: LegId, packet: bytes) -> None:
        session = self._legs[leg].outbound
        if session is not None:
            self._send(leg, session.protect_rtcp(packet) if is_rtcp(packet) else session.protect(packet))

    def _send(self, leg: LegId, datagram: bytes) -> None:
        found = self._legs.get(leg)
        if found is not None and found.address is not None and self._socket is not None:
            self._socket.send(datagram, found.address)


class _Port(Socket):
    """The one UDP port of everybody."""

    def __init__(self, media: PythonMedia) -> None:
        super().__init__(lambda data: None)
        self._media = media

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._media.receive(data, addr)
