"""The built media core as Python sees it: real UDP on loopback, a small STUN client, the stubs, and stale binaries."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import inspect
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mautrix_sfu import _media, media  # noqa: TID251 (the binary itself is tested here)
from mautrix_sfu.config import MediaConfig
from mautrix_sfu.core.ids import Kind, LegId, Mid
from mautrix_sfu.logs import Concern
from mautrix_sfu.media import Media, open_media
from mautrix_sfu.wire.plan import Line, MediaPlan, Payload, Receive, Send, SendLayer

CRATE = Path(__file__).parent.parent / "media"
LEG = LegId(7)
UFRAG, PWD = "somebody", "a password of 22 and more"
GCM = "SRTP_AEAD_AES_128_GCM"
PLAN = MediaPlan(
    payloads=(Payload(96, "VP8", 90000), Payload(97, "rtx", 90000, 96)),
    extensions={"urn:ietf:params:rtp-hdrext:sdes:mid": 4},
    lines=(
        Line(Mid("0"), Kind.VIDEO, receive=Receive(("f", "h"), ((1, 2),)), send=Send(5, 6, 96, 97, "focus")),
        Line(Mid("1"), Kind.AUDIO),
    ),
)


SIMULCAST = Send(10, 11, 96, 97, "focus", (SendLayer("f", 10, 11), SendLayer("h", 12, 13)))


class Sink:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def concern(self, leg: LegId) -> Concern | None:
        return Concern(leg)

    def on_ice_connected(self, leg: LegId) -> None:
        self.told.append(("connected", leg))

    def on_ice_failed(self, leg: LegId) -> None:
        self.told.append(("failed to connect", leg))

    def on_ice_lost(self, leg: LegId) -> None:
        self.told.append(("lost", leg))

    def on_dtls(self, leg: LegId, datagram: bytes) -> None:
        self.told.append(("dtls", leg, datagram))

    def on_suspended(self, leg: LegId, mid: Mid, suspended: bool) -> None:
        self.told.append(("suspended", leg, mid, suspended))

    def on_speaker(self, leg: LegId, mid: Mid) -> None:
        self.told.append(("speaker", leg, mid))

    def on_flow(self, leg: LegId, mid: Mid, flowing: bool) -> None:
        self.told.append(("flow", leg, mid, flowing))

    def on_media_failed(self, message: str) -> None:
        self.told.append(("failed", message))


def binding_request(username: str, password: str) -> bytes:
    """A binding request that nominates, as a controlling agent sends it (RFC 8445, RFC 8489)."""

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)

    def header(length: int) -> bytes:
        return struct.pack("!HHI", 1, length, 0x2112A442) + b"transaction!"

    body = attribute(6, username.encode()) + attribute(0x802A, b"tiebreak") + attribute(0x25, b"")
    mac = hmac.new(password.encode(), header(len(body) + 24) + body, hashlib.sha1).digest()
    body += attribute(8, mac)
    crc = zlib.crc32(header(len(body) + 8) + body) ^ 0x5354554E
    return header(len(body) + 8) + body + attribute(0x8028, struct.pack("!I", crc))


@pytest.fixture
async def sink() -> Sink:
    return Sink()


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
async def core(request: pytest.FixtureRequest, sink: Sink) -> AsyncIterator[Media]:
    core = Media([("127.0.0.1", 0)], request.param)
    core.start(asyncio.get_running_loop(), sink)
    yield core
    core.shutdown()


@pytest.mark.parametrize("threads", [None, 3])
async def test_as_many_threads_as_configured_or_one_for_each_core(threads: int | None) -> None:
    opened = open_media(MediaConfig(addresses=("127.0.0.1",), port=0, advertise=(), threads=threads))
    expected = threads or len(os.sched_getaffinity(0))
    try:
        await until(
            lambda: sum(name == "thread_cpu_microseconds_total" for name, *_ in opened.published()[0]) == expected
        )
    finally:
        opened.shutdown()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(45):
        while not condition():
            await asyncio.sleep(0.002)


async def connected(core: Media, sink: Sink) -> socket.socket:
    """A leg whose peer nominated itself, and the peer's socket."""
    core.add_leg(LEG, UFRAG, PWD)
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.setblocking(False)
    peer.connect(core.local_addresses[0])
    peer.send(binding_request(f"{UFRAG}:me", PWD))
    loop = asyncio.get_running_loop()
    answer = await asyncio.wait_for(loop.sock_recv(peer, 2000), 5)
    assert answer[:2] == b"\x01\x01"
    assert answer[8:20] == b"transaction!"
    port = struct.unpack("!H", answer[26:28])[0] ^ 0x2112
    assert port == peer.getsockname()[1]
    await until(lambda: sink.told)
    assert sink.told == [("connected", LEG)]
    return peer


async def test_a_peer_connects_and_dtls_goes_both_ways(core: Media, sink: Sink) -> None:
    peer = await connected(core, sink)
    with peer:
        core.send_dtls(LEG, b"\x16from the focus")
        received = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 2000), 5)
        assert received == b"\x16from the focus"
        peer.send(b"\x16from the peer")
        await until(lambda: len(sink.told) > 1)
        assert sink.told[1] == ("dtls", LEG, b"\x16from the peer")
        stats = core.leg_stats(LEG) or {}
        host, port = peer.getsockname()
        assert (stats["connected"], stats["peer_port"]) == (1, port)
        assert stats["peer_address"] == int.from_bytes(socket.inet_aton(host))
        assert core.stats()["stun_in_total"] == 1


async def test_what_was_measured_is_published_without_being_asked_for(core: Media, sink: Sink) -> None:
    def number(name: str) -> int:
        return sum(value for known, _, _, value in core.published()[0] if known == name)

    with await connected(core, sink):
        await until(lambda: number("stun_in_total"))
        assert number("legs_connected") == 1
        numbers, histograms = core.published()
        assert len({(name, *labels) for name, _, labels, _ in numbers}) == len(numbers)
        assert all(text.endswith(".") for _, text, _, _ in numbers)
        assert ("thread", "0") in next(labels for name, _, labels, _ in numbers if name.startswith("thread_cpu"))
        for _, _, _, (bounds, counts, _) in histograms:
            assert len(counts) == len(bounds) + 1
            assert bounds == sorted(bounds)
        batches = next(buckets for name, _, _, buckets in histograms if name == "receive_batch_datagrams")
        assert sum(batches[1]) > 0


async def test_nothing_goes_to_a_removed_leg(core: Media, sink: Sink) -> None:
    peer = await connected(core, sink)
    with peer:
        core.remove_leg(LEG)
        core.send_dtls(LEG, b"\x16late")
        peer.send(binding_request(f"{UFRAG}:me", PWD))
        assert core.leg_stats(LEG) is None
        await until(lambda: core.stats()["stun_rejected_total"])
        with pytest.raises(BlockingIOError):
            peer.recv(2000)


async def test_an_outsider_gets_no_answer(core: Media, sink: Sink) -> None:
    core.add_leg(LEG, UFRAG, PWD)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
        outsider.setblocking(False)
        outsider.connect(core.local_addresses[0])
        outsider.send(binding_request(f"{UFRAG}:me", "guessed"))
        outsider.send(b"\x16dtls")
        outsider.send(b"\x80rtp and nothing more")
        outsider.send(os.urandom(1200))
        await until(lambda: core.stats()["datagrams_in_total"] == 4)
        assert core.stats()["datagrams_out_total"] == 0
        assert sink.told == []


async def test_a_leg_dials_another_core_over_a_socket_of_its_own(core: Media, sink: Sink) -> None:
    called, called_sink = Media([("127.0.0.1", 0)]), Sink()
    called.start(asyncio.get_running_loop(), called_sink)
    try:
        called.add_leg(LEG, "called", PWD)
        core.add_leg(LEG, UFRAG, "a password of its own here")
        core.connect(LEG, "called", PWD, [("127.0.0.1", 1), *called.local_addresses])
        await until(lambda: sink.told and called_sink.told)
        assert sink.told == called_sink.told == [("connected", LEG)]
        for here, there, words in ((core, called_sink, b"\x16out"), (called, sink, b"\x16back")):
            here.send_dtls(LEG, words)
            await until(partial(there.told.__contains__, ("dtls", LEG, words)))
        assert (core.leg_stats(LEG) or {})["round_trip_microseconds"] > 0
        core.remove_leg(LEG)
        sent = core.stats()["datagrams_out_total"]
        called.send_dtls(LEG, b"\x16nobody listens")
        assert core.stats()["datagrams_out_total"] == sent
    finally:
        called.shutdown()


async def test_a_dial_without_candidates_fails_as_an_event(core: Media, sink: Sink) -> None:
    core.add_leg(LEG, UFRAG, PWD)
    core.connect(LEG, "called", PWD, [])
    await until(lambda: sink.told)
    assert sink.told == [("failed to connect", LEG)]


async def test_a_simulcast_line_is_taken_and_all_its_layers_forwarded(core: Media) -> None:
    core.add_leg(LEG, UFRAG, PWD)
    source = Line(Mid("v"), Kind.VIDEO, receive=Receive(("f", "h")))
    core.set_plan(LEG, MediaPlan(PLAN.payloads, PLAN.extensions, (source, Line(Mid("c0"), Kind.VIDEO, send=SIMULCAST))))
    core.forward_layers(LEG, Mid("c0"), LEG, Mid("v"), [(1280, 720), (None, None)])
    assert core.stats()["forwards"] == len(SIMULCAST.layers)
    core.forward_layers(LEG, Mid("c0"), LEG, Mid("v"), [])
    assert core.stats()["forwards"] == 0


async def test_a_whole_plan_is_taken(core: Media) -> None:
    core.add_leg(LEG, UFRAG, PWD)
    core.set_credentials(LEG, "another", PWD)
    core.set_group(LEG, 1)
    core.set_keys(LEG, GCM, bytes(16), bytes(12), bytes(16), bytes(12))
    core.set_plan(LEG, PLAN)
    core.describe_track(LEG, Mid("0"), 1280, None, False)
    core.forward(LEG, Mid("0"), LEG, Mid("0"), 640, 360)
    assert (core.stats()["tracks"], core.stats()["forwards"]) == (1, 1)
    core.stop_forward(LEG, Mid("0"))
    assert core.stats()["forwards"] == 0
    core.set_plan(LEG, MediaPlan())
    assert core.stats()["tracks"] == 0
    assert (core.leg_stats(LEG) or {})["keyed"] == 1


async def test_unknown_legs_and_lines_are_ignored(core: Media) -> None:
    nobody, line = LegId(99), Mid("none")
    core.set_group(nobody, 1)
    core.set_credentials(nobody, UFRAG, PWD)
    core.send_dtls(nobody, b"x")
    core.set_plan(nobody, PLAN)
    core.describe_track(nobody, line, 1, 1, True)
    core.forward(nobody, line, nobody, line, None, None)
    core.forward_layers(nobody, line, nobody, line, [(1, 1)])
    core.connect(nobody, UFRAG, PWD, [("127.0.0.1", 9)])
    core.stop_forward(nobody, line)
    core.remove_leg(nobody)
    assert core.stats()["legs"] == 0


async def test_arguments_out_of_range_are_value_errors(core: Media) -> None:
    def line(*sends: Send) -> MediaPlan:
        return MediaPlan(lines=tuple(Line(Mid(str(n)), Kind.AUDIO, send=send) for n, send in enumerate(sends)))

    send = Send(1, None, 100, None, "focus")
    wrong: list[Callable[[], object]] = [
        lambda: core.add_leg(LegId(-1), UFRAG, PWD),
        lambda: core.add_leg(LEG, "", PWD),
        lambda: core.add_leg(LEG, "with:colon", PWD),
        lambda: core.set_keys(LEG, "SRTP_NULL", bytes(16), bytes(12), bytes(16), bytes(12)),
        lambda: core.set_keys(LEG, GCM, bytes(16), bytes(14), bytes(16), bytes(12)),
        lambda: core.set_plan(LEG, MediaPlan(payloads=(Payload(128, "opus", 48000),))),
        lambda: core.set_plan(LEG, MediaPlan(extensions={"urn:x": 0})),
        lambda: core.set_plan(LEG, MediaPlan(extensions={"urn:x": 256})),
        lambda: core.set_plan(LEG, line(Send(2**32, None, 100, None, "focus"))),
        lambda: core.set_plan(LEG, line(Send(1, 2, 100, None, "focus"))),
        lambda: core.set_plan(LEG, line(send, send)),
        lambda: core.set_plan(LEG, line(replace(SIMULCAST, layers=SIMULCAST.layers[:1] * 2))),
        lambda: core.set_plan(LEG, line(replace(SIMULCAST, layers=(SendLayer("", 1, 2),)))),
        lambda: core.set_plan(LEG, line(replace(SIMULCAST, rtx_pt=None))),
        lambda: core.forward_layers(LEG, Mid("0"), LEG, Mid("1"), [(-1, 1)]),
        lambda: core.connect(LEG, "", PWD, []),
        lambda: core.connect(LEG, UFRAG, PWD, [("focus.example", 9)]),
        lambda: core.connect(LEG, UFRAG, PWD, [("127.0.0.1", 70000)]),
        lambda: core.set_plan(LEG, MediaPlan(lines=(Line(Mid("0"), Kind.AUDIO), Line(Mid("0"), Kind.VIDEO)))),
        lambda: Media([("focus.example", 0)]),
        lambda: Media([("127.0.0.1", 70000)]),
        lambda: Media([("127.0.0.1", 0)], threads=0),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match=r"\S"):
            call()


def test_a_taken_port_is_an_os_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use") as refused:
            Media([taken.getsockname()])
        assert refused.value.errno == errno.EADDRINUSE


async def test_one_failing_handler_costs_the_others_nothing(core: Media, sink: Sink) -> None:
    def fail(leg: LegId) -> None:
        raise RuntimeError("as asked")

    sink.on_ice_connected = fail  # type: ignore[method-assign]
    core.add_leg(LEG, UFRAG, PWD)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.connect(core.local_addresses[0])
        peer.send(binding_request(f"{UFRAG}:me", PWD))
        peer.send(b"\x16dtls")
        await until(lambda: sink.told)
    assert sink.told == [("dtls", LEG, b"\x16dtls")]


def test_shutdown_may_be_called_twice_and_ends_in_silence() -> None:
    core = Media([("127.0.0.1", 0)])
    core.shutdown()
    core.shutdown()
    core.remove_leg(LEG)
    assert core.stats() == {}


def test_every_method_of_the_stub_is_wrapped() -> None:
    wrapped = {name for name, _ in inspect.getmembers(Media) if not name.startswith("_")}
    bare = {name for name, _ in inspect.getmembers(_media.MediaCore) if not name.startswith("_")}
    assert bare - wrapped == {"event_fd", "poll"}


def test_the_stub_says_what_the_binary_has() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "mautrix_sfu._media"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CRATE.parent, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_stale_binary_is_refused_and_the_command_is_named(tmp_path: Path) -> None:
    crate = tmp_path / "media"
    media.refuse_stale("anything", crate)  # an installed wheel has no sources beside it
    shutil.copytree(CRATE, crate, ignore=shutil.ignore_patterns("target", "fuzz"))
    media.refuse_stale(_media.BUILD, crate)
    with (crate / "src" / "lib.rs").open("a") as source:
        source.write("\n")
    with pytest.raises(ImportError, match="make build"):
        media.refuse_stale(_media.BUILD, crate)
