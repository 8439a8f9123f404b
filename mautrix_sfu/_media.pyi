"""The media core (Rust, crate in media/). `mautrix_sfu.media` is the only importer."""

from typing import Literal, final

__all__ = ["BUILD", "MediaCore"]

BUILD: str  # hash of the crate's sources at build time; media.py refuses a stale binary

# What poll() gives. The first item names the event.
_Event = (
    tuple[Literal["ice_connected"], int]  # leg: an authenticated nomination latched the first address
    | tuple[Literal["ice_failed"], int]  # leg: no candidate given to connect() answered within 10 s
    | tuple[Literal["ice_lost"], int]  # leg: no authenticated STUN for the consent time
    | tuple[Literal["dtls"], int, bytes]  # leg, a DTLS datagram from the latched address
    | tuple[Literal["speaker"], int, str]  # leg, mid: another dominant speaker in the leg's group
    | tuple[Literal["flow"], int, str, bool]  # leg, mid of a published track: packets come, or none for 500 ms
    | tuple[Literal["suspended"], int, str, bool]  # leg, mid of what it is sent: not sent, for its link is too narrow
    | tuple[Literal["failed"], str]  # message: a media thread panicked or lost its socket: the process must end
)

# Names say the unit; numbers whose name ends in _total only grow. Labels are words out of fixed sets.
_Labels = list[tuple[str, str]]
_Number = tuple[str, str, _Labels, int]  # name, help, labels, value
_Buckets = tuple[list[int], list[int], int]  # upper bounds; counts between them and beyond the last; sum
_Histogram = tuple[str, str, _Labels, _Buckets]

@final
class MediaCore:
    """Owns the UDP port and the media threads. Methods only queue a command; they never block on the network.

    Raises OSError when a socket cannot be bound, ValueError for arguments out of range,
    RuntimeError once a media thread has failed. Unknown legs and m-lines are ignored: they may just have ended.
    """

    def __new__(cls, binds: list[tuple[str, int]], threads: int = 1) -> MediaCore: ...
    def local_addresses(self) -> list[tuple[str, int]]: ...
    def event_fd(self) -> int: ...  # an eventfd: readable when poll() has something
    def poll(self) -> list[_Event]: ...
    def add_leg(self, leg: int, ufrag: str, pwd: str) -> None: ...
    def connect(
        self,
        leg: int,
        remote_ufrag: str,
        remote_pwd: str,
        candidates: list[tuple[str, int]],  # (IP address, port), best first; at most 8 are tried
    ) -> None: ...  # dials an ICE-lite peer for a leg that was added, over a socket of its own until remove_leg
    def set_credentials(self, leg: int, ufrag: str, pwd: str) -> None: ...  # ICE restart: the old hold until then
    def set_group(self, leg: int, group: int) -> None: ...  # legs of different groups never see each other's packets
    def set_bitrate(self, leg: int, bits_per_second: int | None) -> None: ...  # RTP beyond it is dropped
    def remove_leg(self, leg: int) -> None: ...  # when it returns, no further packet will be sent to this leg
    def send_dtls(self, leg: int, datagram: bytes) -> None: ...
    def set_keys(
        self,
        leg: int,
        profile: str,  # "SRTP_AEAD_AES_128_GCM" or "SRTP_AES128_CM_SHA1_80"
        local_key: bytes,
        local_salt: bytes,
        remote_key: bytes,
        remote_salt: bytes,
    ) -> None: ...
    def set_plan(
        self,
        leg: int,
        payloads: list[tuple[int, str, int, int | None]],  # (pt, codec, clock rate, apt of rtx and red)
        extensions: list[tuple[str, int]],  # (URI, id)
        lines: list[
            tuple[
                str,  # mid
                str,  # "audio" | "video"
                tuple[list[str], list[tuple[int, int | None]]] | None,  # receive: rids highest first, (ssrc, rtx ssrc)
                # send: ssrc, rtx ssrc, pt, rtx pt, cname; layers highest first: rid, ssrc, rtx ssrc; red pt. With
                # layers their ssrcs count and the first two are not looked at.
                tuple[int, int | None, int, int | None, str, list[tuple[str, int, int | None]], int | None] | None,
            ]
        ],
    ) -> None: ...  # the whole plan each time; what is missing from it ends
    def describe_track(
        self, leg: int, mid: str, width: int | None, height: int | None, first: bool
    ) -> None: ...  # first: before others where a subscriber's link is narrow
    def forward(
        self, leg: int, mid: str, source_leg: int, source_mid: str, width: int | None, height: int | None
    ) -> None: ...
    def forward_layers(
        self, leg: int, mid: str, source_leg: int, source_mid: str, sizes: list[tuple[int | None, int | None]]
    ) -> None: ...  # each layer that one of the sizes takes crosses once, under its rid; (None, None) is the best
    def set_loudest(self, voices: int) -> None: ...  # of each group so many voices are passed on; 0: all
    def stop_forward(self, leg: int, mid: str) -> None: ...
    def stats(self) -> dict[str, int]: ...  # process-wide counters, now; the media thread is asked
    # What was measured, as the media thread published it last (at most a second ago): it is not asked.
    def published(self) -> tuple[list[_Number], list[_Histogram]]: ...
    def leg_stats(self, leg: int) -> dict[str, int] | None: ...
    # Of each leg: bytes of RTP that came (those beyond its bitrate included), and bytes that were sent to it.
    def traffic(self) -> list[tuple[int, int, int]]: ...
    def shutdown(self) -> None: ...  # stops and joins the threads, closes the socket
