"""The WebRTC edge: DTLS, SCTP and one signalling data channel per leg, by aiortc over the media core's transport."""

from .edge import DatagramTransport, Rtc
from .leg import RtcSink

__all__ = ["DatagramTransport", "Rtc", "RtcSink"]
