"""What forwarding one packet costs: in the media core, on two paths in Python, and by aiortc's decoding and encoding.

The first three take the same 1200-byte SRTP packets of one VP8 publisher and send them to N subscribers on loopback,
where nobody reads. Reported is the CPU time of the forwarding thread alone, per delivered packet; the generator is
not in it. aiortc's own path decodes each frame and encodes it again for each subscriber; its cost is spread over the
packets of the frame. Machines are shared, so trust the ratios. Medians over rounds.

    make build && .venv/bin/python -m bench.packet_paths
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from aioice import stun
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, VpxPayloadDescriptor
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensionsMap, RtpPacket
from pylibsrtp import Policy, Session

from mautrix_sfu._media import MediaCore

PACKET = 1200  # bytes of RTP, before SRTP's tag
BURST = 50  # packets that lie in the receive buffer when a measurement starts
FRAME = 5  # packets of one video frame
PT = 96
SSRC = 0x11111111
KEY, SALT = 16, 12  # bytes, AES-128-GCM (RFC 7714)
EXTENSIONS = (
    ("urn:ietf:params:rtp-hdrext:sdes:mid", 1),
    ("http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", 2),
    ("http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", 3),
)
LOOPBACK = "127.0.0.1"
NOBODY = secrets.token_bytes(KEY + SALT)


def rtp(start: int, count: int) -> Iterator[bytes]:
    """RTP packets of a VP8 stream (RFC 7741) in frames of five packets; the first frame is a key frame."""
    for index in range(start, start + count):
        frame, part = divmod(index, FRAME)
        marker = 0x80 if part == FRAME - 1 else 0
        header = struct.pack("!BBHII", 0x80, marker | PT, index & 0xFFFF, frame * 3000 & 0xFFFFFFFF, SSRC)
        descriptor = struct.pack("!BBH", 0x90 if part == 0 else 0x80, 0x80, 0x8000 | frame & 0x7FFF)
        opening = b"" if part else b"\x10\x02\x00\x9d\x01\x2a\x80\x02\x68\x01" if frame == 0 else b"\x11\x02\x00"
        yield (header + descriptor + opening).ljust(PACKET, b"\x5a")


def srtp(master: bytes, ssrc_type: int) -> Session:
    """An SRTP session under AES-128-GCM."""
    return Session(Policy(key=master, ssrc_type=ssrc_type, srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM))


def udp(receive_buffer: int = 1 << 20) -> socket.socket:
    """A UDP socket on loopback. One that nobody reads fills its buffer; what comes then is dropped."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.bind((LOOPBACK, 0))
    return made


# ---------------------------------------------------------------- aiortc as it is


@dataclass(frozen=True, slots=True)
class Transcoding:
    """CPU seconds of one 640x360 VP8 frame, and the packets that it makes."""

    decode: float
    encode: float
    packets: float

    def per_packet(self, subscribers: int) -> float:
        """Seconds for each delivered packet: one decoding is shared, an encoding is not."""
        return (self.decode / subscribers + self.encode) / self.packets


def transcoding(frames: int) -> Transcoding:
    """Measure aiortc's VP8 encoder and decoder on a moving texture at its highest bit rate."""
    texture = random.Random(1).randbytes(4096)
    encoder, decoder = Vp8Encoder(), Vp8Decoder()
    encoder.target_bitrate = 1_500_000
    encode, decode, packets = [], [], []
    for number in range(frames):
        picture = av.VideoFrame(640, 360, "yuv420p")
        for plane in picture.planes:
            rows = (texture[(row + number) % 64 * 16 :][: plane.line_size // 8] for row in range(plane.height))
            plane.update(b"".join(bytes(value for value in row for _ in range(8)) for row in rows))
        picture.pts, picture.time_base = number * 3000, Fraction(1, 90000)
        started = time.process_time()
        payloads, _ = encoder.encode(picture)
        encode.append(time.process_time() - started)
        packets.append(len(payloads))
        # Each payload opens with a descriptor of four bytes, of three when the picture id is short.
        data = b"".join(payload[4 if payload[2] & 0x80 else 3 :] for payload in payloads)
        started = time.process_time()
        decoded = decoder.decode(JitterFrame(data=data, timestamp=number * 3000))
        decode.append(time.process_time() - started)
        assert decoded, "what was encoded must be decodable, or the figure means nothing"
    return Transcoding(statistics.median(decode), statistics.median(encode), statistics.mean(packets))


# ---------------------------------------------------------------- packets in Python


def kernel_alone(subscribers: int, rounds: int) -> list[float]:
    """CPU seconds for handing a datagram of that size to the kernel, which every path pays."""
    port = udp()
    sinks = [udp(2048) for _ in range(subscribers)]
    addresses = [sink.getsockname() for sink in sinks]
    datagram = bytes(PACKET + 16)
    costs = []
    for _ in range(rounds):
        started = time.thread_time()
        for _ in range(BURST):
            for address in addresses:
                port.sendto(datagram, address)
        costs.append((time.thread_time() - started) / (BURST * subscribers))
    for opened in (port, *sinks):
        opened.close()
    return costs


def bare_loop(subscribers: int, rounds: int) -> list[float]:
    """CPU seconds per delivered packet: receive, unprotect, then rewrite, protect and send for each subscriber.

    No event loop, no asyncio, no lookup of routes, no RTCP: whatever a real one adds comes on top.
    """
    master = secrets.token_bytes(KEY + SALT)
    sender, receiver = srtp(master, Policy.SSRC_ANY_OUTBOUND), srtp(master, Policy.SSRC_ANY_INBOUND)
    port, source = udp(), udp()
    sinks = [udp(2048) for _ in range(subscribers)]
    sessions = [
        (0x22222222 + n, srtp(secrets.token_bytes(KEY + SALT), Policy.SSRC_ANY_OUTBOUND), sink.getsockname())
        for n, sink in enumerate(sinks)
    ]
    costs = []
    for turn in range(rounds):
        for packet in rtp(turn * BURST, BURST):
            source.sendto(sender.protect(packet), port.getsockname())
        started = time.thread_time()
        for _ in range(BURST):
            plain = bytearray(receiver.unprotect(port.recv(2048)))
            sequence, timestamp = struct.unpack_from("!HI", plain, 2)
            for ssrc, session, address in sessions:
                struct.pack_into("!HII", plain, 2, sequence + 7 & 0xFFFF, timestamp + 9 & 0xFFFFFFFF, ssrc)
                port.sendto(session.protect(bytes(plain)), address)
        costs.append((time.thread_time() - started) / (BURST * subscribers))
    for opened in (port, source, *sinks):
        opened.close()
    return costs


@dataclass(slots=True)
class Subscriber:
    """What one subscriber's packets need: its ids, its numbering, and what it may ask for again."""

    ssrc: int
    session: Session
    address: tuple[str, int]
    sequence: int = 7
    transport_sequence: int = 0
    packets: int = 0
    octets: int = 0
    cache: dict[int, bytes] = field(default_factory=dict)


class Forwarder(asyncio.DatagramProtocol):
    """Does for each packet what the media core does, with aiortc's parts and asyncio's transport."""

    def __init__(self, receiver: Session, subscribers: list[Subscriber]) -> None:
        self.receiver, self.subscribers = receiver, subscribers
        self.extensions = HeaderExtensionsMap()
        self.extensions.configure(
            RTCRtpParameters(
                headerExtensions=[RTCRtpHeaderExtensionParameters(number, uri) for uri, number in EXTENSIONS]
            )
        )
        self.transport: asyncio.DatagramTransport | None = None
        self.left = 0
        self.finished = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.DatagramTransport", transport)  # not a subclass before Python 3.12

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Forward one packet to everybody."""
        packet = RtpPacket.parse(self.receiver.unprotect(data), self.extensions)
        descriptor, rest = VpxPayloadDescriptor.parse(packet.payload)
        timestamp, picture = packet.timestamp, descriptor.picture_id or 0
        for subscriber in self.subscribers:
            self._forward(subscriber, packet, descriptor, rest, timestamp, picture)
        self.left -= 1
        if not self.left:
            self.finished.set()

    def _forward(
        self,
        subscriber: Subscriber,
        packet: RtpPacket,
        descriptor: VpxPayloadDescriptor,
        rest: bytes,
        timestamp: int,
        picture: int,
    ) -> None:
        assert self.transport is not None
        descriptor.picture_id = picture + 3 & 0x7FFF
        packet.payload = bytes(descriptor) + rest
        packet.ssrc = subscriber.ssrc
        packet.sequence_number = subscriber.sequence
        packet.timestamp = timestamp + 9 & 0xFFFFFFFF
        packet.extensions.mid = "v"
        packet.extensions.abs_send_time = int(time.time() * (1 << 18)) & 0xFFFFFF
        packet.extensions.transport_sequence_number = subscriber.transport_sequence
        plain = packet.serialize(self.extensions)
        subscriber.cache[subscriber.sequence & 511] = plain
        self.transport.sendto(subscriber.session.protect(plain), subscriber.address)
        subscriber.sequence = subscriber.sequence + 1 & 0xFFFF
        subscriber.transport_sequence = subscriber.transport_sequence + 1 & 0xFFFF
        subscriber.packets += 1
        subscriber.octets += len(packet.payload)


def aiortc_parts(subscribers: int, rounds: int) -> list[float]:
    """CPU seconds per delivered packet for the media core's work, done with aiortc's parts; without any RTCP."""
    return asyncio.run(_aiortc_parts(subscribers, rounds))


async def _aiortc_parts(subscribers: int, rounds: int) -> list[float]:
    master = secrets.token_bytes(KEY + SALT)
    sender, receiver = srtp(master, Policy.SSRC_ANY_OUTBOUND), srtp(master, Policy.SSRC_ANY_INBOUND)
    port, source = udp(), udp()
    sinks = [udp(2048) for _ in range(subscribers)]
    forwarder = Forwarder(
        receiver,
        [
            Subscriber(
                0x22222222 + n, srtp(secrets.token_bytes(KEY + SALT), Policy.SSRC_ANY_OUTBOUND), sink.getsockname()
            )
            for n, sink in enumerate(sinks)
        ],
    )
    address = port.getsockname()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: forwarder, sock=port)
    costs = []
    for turn in range(rounds):
        forwarder.left = BURST
        forwarder.finished.clear()
        for packet in rtp(turn * BURST, BURST):
            source.sendto(sender.protect(packet), address)
        started = time.thread_time()
        await forwarder.finished.wait()
        costs.append((time.thread_time() - started) / (BURST * subscribers))
    transport.close()
    for opened in (source, *sinks):
        opened.close()
    return costs


# ---------------------------------------------------------------- the media core


def latch(peer: socket.socket, focus: tuple[str, int], ufrag: str, pwd: str) -> None:
    """One authenticated binding request with USE-CANDIDATE (RFC 8445), and its answer."""
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    request.attributes.update({"USERNAME": f"{ufrag}:peer", "PRIORITY": 1, "ICE-CONTROLLING": 1, "USE-CANDIDATE": None})
    request.add_message_integrity(pwd.encode())
    peer.sendto(bytes(request), focus)
    peer.settimeout(5)
    peer.recv(2048)


def cpu(threads: set[str]) -> float:
    """CPU seconds that these threads of this process have used (proc(5), schedstat)."""
    return sum(int(Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[0]) for tid in threads) / 1e9


def rust_path(subscribers: int, rounds: int) -> list[float]:
    """CPU seconds of the media threads per delivered packet, for the same packets to as many subscribers."""
    before = set(os.listdir("/proc/self/task"))
    core = MediaCore([(LOOPBACK, 0)], 1)
    threads = set(os.listdir("/proc/self/task")) - before
    assert threads, "the media core has a thread of its own"
    focus = core.local_addresses()[0]
    master = secrets.token_bytes(KEY + SALT)
    sender = srtp(master, Policy.SSRC_ANY_OUTBOUND)
    peers = [udp(), *(udp(4096) for _ in range(subscribers))]
    for leg, peer in enumerate(peers, start=1):
        ufrag, pwd = f"ufrag{leg:04}", secrets.token_hex(16)
        core.add_leg(leg, ufrag, pwd)
        core.set_group(leg, 1)
        latch(peer, focus, ufrag, pwd)
        local = secrets.token_bytes(KEY + SALT)
        remote = master if leg == 1 else NOBODY
        core.set_keys(leg, "SRTP_AEAD_AES_128_GCM", local[:KEY], local[KEY:], remote[:KEY], remote[KEY:])
        receive: tuple[list[str], list[tuple[int, int | None]]] | None = ([], [(SSRC, None)]) if leg == 1 else None
        send: tuple[int, int | None, int, int | None, str, list[tuple[str, int, int | None]], int | None] | None = None
        if leg > 1:
            send = 0x22222222 + leg, None, PT, None, "focus", [], None
        core.set_plan(leg, [(PT, "VP8", 90000, None)], list(EXTENSIONS), [("v", "video", receive, send)])
        if leg > 1:
            core.forward(leg, "v", 1, "v", None, None)
    costs = []
    for turn in range(rounds):
        burst = [sender.protect(packet) for packet in rtp(turn * BURST, BURST)]
        sent, started = core.stats()["rtp_out_total"], cpu(threads)
        for packet in burst:
            peers[0].sendto(packet, focus)
        deadline = time.monotonic() + 5
        while core.stats()["rtp_out_total"] - sent < BURST * subscribers and time.monotonic() < deadline:
            time.sleep(0.001)
        delivered = core.stats()["rtp_out_total"] - sent
        assert delivered == BURST * subscribers, f"{delivered} packets of {BURST * subscribers} were forwarded"
        costs.append((cpu(threads) - started) / delivered)
    core.shutdown()
    for peer in peers:
        peer.close()
    return costs


def main() -> None:
    """Measure and print a table; the figures are microseconds of CPU per delivered packet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    transcoded = transcoding(frames=rounds)
    decode, encode = transcoded.decode * 1e3, transcoded.encode * 1e3
    print(
        f"aiortc, a 640x360 frame of {transcoded.packets:.0f} packets: decode {decode:.2f} ms, encode {encode:.2f} ms\n"
    )
    print("us of CPU per delivered packet, median (10th to 90th percentile), and packets a second of one core")
    for subscribers in (10, 50):
        print(f"\n{subscribers} subscribers")
        base = 0.0
        for name, costs in (
            ("sendto alone", kernel_alone(subscribers, rounds)),
            ("media core", rust_path(subscribers, rounds)),
            ("bare loop in Python", bare_loop(subscribers, rounds)),
            ("same work in Python", aiortc_parts(subscribers, rounds)),
            ("aiortc, transcoding", [transcoded.per_packet(subscribers)]),
        ):
            middle = statistics.median(costs)
            base = middle if name == "media core" else base
            ratio = f"x{middle / base:.1f}" if base else ""
            low, *_, high = statistics.quantiles(costs, n=10) if len(costs) > 1 else (middle, middle)
            spread = f"({low * 1e6:.2f} to {high * 1e6:.2f})" if len(costs) > 1 else ""
            print(f"  {name:<20} {middle * 1e6:9.2f} {spread:<18} {1 / middle:10.0f}/s  {ratio}")


if __name__ == "__main__":
    main()
