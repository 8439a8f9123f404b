"""The media core as the control plane uses it: typed calls down, typed events up, and no stale binary.

The only importer of `_media`, the Rust extension built from media/.
"""

from __future__ import annotations

import logging
import os
import zlib
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

from .config import MediaConfig
from .core.ids import LegId, Mid
from .errors import cannot_listen
from .logs import Concern, concerning
from .wire.plan import Line, MediaPlan

try:
    from . import _media
except ImportError as error:
    raise ImportError(f"the media core is not built or does not fit this Python ({error}): run `make build`") from error

if TYPE_CHECKING:
    from ._media import _Event, _Histogram, _Number

log = logging.getLogger(__name__)


def source_hash(crate: Path) -> str:
    """The hash of the crate's sources as its build.rs computes it: CRC-32 of names and contents, and the total size."""
    files = {str(path.relative_to(crate)): path for path in (crate / "src").rglob("*.rs")}
    files |= {name: crate / name for name in ("Cargo.toml", "build.rs")}
    crc, length = 0, 0
    for name in sorted(files):
        content = files[name].read_bytes()
        crc = zlib.crc32(content, zlib.crc32(name.encode() + b"\0", crc))
        length += len(content)
    return f"{crc:08x}-{length}"


def refuse_stale(build: str, crate: Path) -> None:
    """Raises ImportError if the sources lie beside the package (a checkout) and the binary was built from others."""
    if (crate / "Cargo.toml").is_file() and source_hash(crate) != build:
        raise ImportError("the media core was built from other sources than those in media/: run `make build`")


refuse_stale(_media.BUILD, Path(__file__).resolve().parent.parent / "media")

ANY = "0.0.0.0"  # noqa: S104  media is for everybody; the media core answers each from the address that was asked


class MediaSink(Protocol):
    """Who is told what happens in the media core; called in the event loop."""

    def concern(self, leg: LegId) -> Concern | None:
        """What lines in the log about this leg are to say."""

    def on_ice_connected(self, leg: LegId) -> None:
        """An authenticated nomination, the peer's or ours, latched the leg's first address."""

    def on_ice_failed(self, leg: LegId) -> None:
        """No candidate that the leg dialled answered within 10 s."""

    def on_ice_lost(self, leg: LegId) -> None:
        """The peer stopped proving its consent (RFC 7675)."""

    def on_dtls(self, leg: LegId, datagram: bytes) -> None:
        """A DTLS datagram came from the latched address."""

    def on_suspended(self, leg: LegId, mid: Mid, suspended: bool) -> None:
        """What is sent to a leg on this m-line is not, because its link is too narrow; or is again."""

    def on_speaker(self, leg: LegId, mid: Mid) -> None:
        """The leg's group has another dominant speaker: what it publishes on this m-line."""

    def on_flow(self, leg: LegId, mid: Mid, flowing: bool) -> None:
        """Packets come on a published m-line (also for the first time), or none came for 500 ms."""

    def on_media_failed(self, message: str) -> None:
        """A media thread panicked or lost its socket: the process must end."""


class Media:
    """The UDP port and the media threads.

    Calls are queued and never block on the network; unknown legs and m-lines are ignored, as they may just have ended.
    OSError when a socket cannot be bound, ValueError for arguments out of range, RuntimeError once a thread has failed.
    """

    def __init__(self, binds: Sequence[tuple[str, int]], threads: int = 1) -> None:
        """Binds these (IP address, port) pairs; 0.0.0.0 stands for each local IPv4 address, port 0 for a free one."""
        self._core = _media.MediaCore(list(binds), threads)
        self._loop: AbstractEventLoop | None = None
        self._sink: MediaSink | None = None

    def start(self, loop: AbstractEventLoop, sink: MediaSink) -> None:
        """Events go to `sink` from now on, in `loop`."""
        self._loop, self._sink = loop, sink
        loop.add_reader(self._core.event_fd(), self._poll)

    @property
    def local_addresses(self) -> tuple[tuple[str, int], ...]:
        """The (IP address, port) pairs that are bound."""
        return tuple(self._core.local_addresses())

    def add_leg(self, leg: LegId, ufrag: str, pwd: str) -> None:
        """The leg's peer will send binding requests to this local ufrag (RFC 8445)."""
        self._core.add_leg(leg, ufrag, pwd)

    def connect(self, leg: LegId, ufrag: str, pwd: str, candidates: Sequence[tuple[str, int]]) -> None:
        """Dials an ICE-lite peer for a leg that was added: with its credentials, at these (IP address, port) pairs.

        The leg gets a UDP socket of its own until `remove_leg`; OSError if none can be bound. Of the candidates at most
        8 are tried, best first, paced at 50 ms (RFC 8445, section 14.2); which networks they may be in is the caller's
        to say. Then `on_ice_connected`, or `on_ice_failed` after 10 s; without any candidate at once. Called again it
        starts anew.
        """
        self._core.connect(leg, ufrag, pwd, list(candidates))

    def set_credentials(self, leg: LegId, ufrag: str, pwd: str) -> None:
        """ICE restart: the old credentials hold until the peer uses the new ones."""
        self._core.set_credentials(leg, ufrag, pwd)

    def set_group(self, leg: LegId, group: int) -> None:
        """Legs of different groups never see each other's packets; without a group, a leg sees and shows none."""
        self._core.set_group(leg, group)

    def set_bitrate(self, leg: LegId, bits_per_second: int | None) -> None:
        """How much RTP the peer may send: what is beyond is dropped, pictures before voices. None: no bound."""
        self._core.set_bitrate(leg, bits_per_second)

    def remove_leg(self, leg: LegId) -> None:
        """When it returns no further packet will be sent to this leg."""
        self._core.remove_leg(leg)

    def send_dtls(self, leg: LegId, datagram: bytes) -> None:
        """Sends a DTLS datagram to the leg's latched address; without one it is dropped."""
        self._core.send_dtls(leg, datagram)

    def set_keys(
        self, leg: LegId, profile: str, local_key: bytes, local_salt: bytes, remote_key: bytes, remote_salt: bytes
    ) -> None:
        """SRTP master keys and salts (RFC 5764) of `SRTP_AEAD_AES_128_GCM` or `SRTP_AES128_CM_SHA1_80`."""
        self._core.set_keys(leg, profile, local_key, local_salt, remote_key, remote_salt)

    def set_plan(self, leg: LegId, plan: MediaPlan) -> None:
        """The leg's negotiated session, whole; lines that are missing from it end, with all that they forward."""
        payloads = [(payload.pt, payload.codec, payload.clock_rate, payload.apt) for payload in plan.payloads]
        self._core.set_plan(leg, payloads, list(plan.extensions.items()), [_line(line) for line in plan.lines])

    def describe_track(self, leg: LegId, mid: Mid, width: int | None, height: int | None, first: bool) -> None:
        """The full picture size of a published m-line by its metadata, used until key frames tell."""
        self._core.describe_track(leg, mid, width, height, first)

    def forward(
        self, leg: LegId, mid: Mid, source_leg: LegId, source_mid: Mid, width: int | None, height: int | None
    ) -> None:
        """Sends what is published on (source_leg, source_mid) on (leg, mid), in the layer that covers this size.

        Repeated it changes the size only; no size is the best there is.
        """
        self._core.forward(leg, mid, source_leg, source_mid, width, height)

    def forward_layers(
        self, leg: LegId, mid: Mid, source_leg: LegId, source_mid: Mid, sizes: Sequence[tuple[int | None, int | None]]
    ) -> None:
        """Sends on a simulcast m-line each layer of (source_leg, source_mid) that one of these sizes takes, once.

        Each keeps its layer, under the rid of the same name or else the same place, and starts at a key frame; one that
        no size takes any more ends when those in its place have begun. On an m-line without layers the highest is sent.
        Repeated it changes the sizes only; without any nothing is sent.
        """
        self._core.forward_layers(leg, mid, source_leg, source_mid, list(sizes))

    def set_loudest(self, voices: int) -> None:
        """Passes on only the voices of so many of each group, the loudest by their audio level; 0: all."""
        self._core.set_loudest(voices)

    def stop_forward(self, leg: LegId, mid: Mid) -> None:
        """Sends nothing more on this m-line."""
        self._core.stop_forward(leg, mid)

    def stats(self) -> dict[str, int]:
        """Process-wide numbers as they are now; names ending in `_total` only grow. Empty after `shutdown`.

        Asks the media thread and waits for it: for tests and tools. Who looks again and again takes `published`.
        """
        return self._core.stats()

    def published(self) -> tuple[list[_Number], list[_Histogram]]:
        """What the media threads measured, as they published it last, at most a second ago; costs them nothing."""
        return self._core.published()

    def leg_stats(self, leg: LegId) -> dict[str, int] | None:
        """What is known of one leg; None if there is no such leg."""
        return self._core.leg_stats(leg)

    def traffic(self) -> list[tuple[LegId, int, int]]:
        """Of each leg the bytes of RTP that came, those beyond its bitrate included, and that were sent to it."""
        return [(LegId(leg), received, sent) for leg, received, sent in self._core.traffic()]

    def shutdown(self) -> None:
        """Stops and joins the threads and closes the sockets; may be called again."""
        if self._loop is not None:
            self._loop.remove_reader(self._core.event_fd())
            self._loop = None
        self._core.shutdown()

    def _poll(self) -> None:
        if self._sink is None:
            return
        for event in self._core.poll():
            try:
                _dispatch(event, self._sink)
            except Exception:  # one leg's trouble must not cost the others their events
                with concerning(self._sink.concern(LegId(event[1])) if isinstance(event[1], int) else None):
                    log.exception("Handling the media event %s failed", event[0])


def _dispatch(event: _Event, sink: MediaSink) -> None:
    match event:
        case ("ice_connected", leg):
            sink.on_ice_connected(LegId(leg))
        case ("ice_failed", leg):
            sink.on_ice_failed(LegId(leg))
        case ("ice_lost", leg):
            sink.on_ice_lost(LegId(leg))
        case ("dtls", leg, datagram):
            sink.on_dtls(LegId(leg), datagram)
        case ("speaker", leg, mid):
            sink.on_speaker(LegId(leg), Mid(mid))
        case ("flow", leg, mid, flowing):
            sink.on_flow(LegId(leg), Mid(mid), flowing)
        case ("suspended", leg, mid, suspended):
            sink.on_suspended(LegId(leg), Mid(mid), suspended)
        case ("failed", message):
            sink.on_media_failed(message)
        case _:
            assert_never(event)


_Receive = tuple[list[str], list[tuple[int, int | None]]]
_Layer = tuple[str, int, int | None]
_Send = tuple[int, int | None, int, int | None, str, list[_Layer], int | None]


def _line(line: Line) -> tuple[str, str, _Receive | None, _Send | None]:
    receive: _Receive | None = None
    if line.receive is not None:
        receive = list(line.receive.rids), list(line.receive.ssrcs)
    send: _Send | None = None
    if line.send is not None:
        layers = [(layer.rid, layer.ssrc, layer.rtx_ssrc) for layer in line.send.layers]
        sent = line.send
        send = sent.ssrc, sent.rtx_ssrc, sent.pt, sent.rtx_pt, sent.cname, layers, sent.red_pt
    return line.mid, line.kind.value, receive, send


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def open_media(config: MediaConfig) -> Media:
    """The media core on the addresses and the port of the configuration; raises FatalError."""
    binds = [(address, config.port) for address in config.addresses or (ANY,)]
    try:
        return Media(binds, config.threads or cores())
    except OSError as error:
        where = f"{', '.join(address for address, _ in binds)}, UDP port {config.port}"
        raise cannot_listen("media.addresses and media.port", where, error) from error


def advertised(config: MediaConfig, bound: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The addresses that clients are told: those configured (behind 1:1 NAT), else what is bound, loopback last."""
    if config.advertise:
        port = bound[0][1]
        return tuple((address, port) for address in config.advertise)
    public = tuple(address for address in bound if not address[0].startswith("127."))
    return public or tuple(bound)
