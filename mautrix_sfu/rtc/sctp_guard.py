"""Says which SCTP packets (RFC 9260) may be shown to aiortc's stack: some that a peer can make would stop the process.

A parameter of length 0 sends its parser into an endless loop; a SACK that claims 65535 chunks in each of 300 blocks
costs seconds; chunks that never complete a message are kept without end.
"""

from __future__ import annotations

import struct

MAX_TSN_GAP = 2048  # chunks ahead of what is acknowledged; a full window has some 900
_COMMON_HEADER = 12
_CHUNK_HEADER = 4
_DATA, _INIT, _INIT_ACK, _SACK, _HEARTBEAT, _ABORT, _ERROR, _RECONFIG, _FORWARD_TSN = 0, 1, 2, 3, 4, 6, 9, 130, 192
_FIXED_PART = {_INIT: 16, _INIT_ACK: 16, _HEARTBEAT: 0, _ABORT: 0, _ERROR: 0, _RECONFIG: 0}  # before the parameters


def fault(packet: bytes) -> str | None:
    """What is wrong with a packet, if anything."""
    position = _COMMON_HEADER
    while position + _CHUNK_HEADER <= len(packet):
        kind, _, length = struct.unpack_from("!BBH", packet, position)
        if length < _CHUNK_HEADER or position + length > len(packet):
            return "a chunk of an impossible length"
        body = packet[position + _CHUNK_HEADER : position + length]
        found = _chunk_fault(kind, body)
        if found is not None:
            return found
        position += (length + 3) // 4 * 4
    return None


def _chunk_fault(kind: int, body: bytes) -> str | None:
    if kind == _DATA:
        return None if len(body) > 12 else "a DATA chunk without data"
    if kind == _SACK:
        return _sack_fault(body)
    if kind == _FORWARD_TSN:  # not negotiated: the channel is reliable
        return "a FORWARD-TSN chunk"
    if kind in _FIXED_PART:
        return _parameters_fault(body, _FIXED_PART[kind])
    return None


def _sack_fault(body: bytes) -> str | None:
    if len(body) < 12:
        return "a short SACK chunk"
    gaps, duplicates = struct.unpack_from("!HH", body, 8)
    if len(body) < 12 + 4 * (gaps + duplicates):
        return "a short SACK chunk"
    reached = 0
    for index in range(gaps):
        start, end = struct.unpack_from("!HH", body, 12 + 4 * index)
        if not reached < start <= end <= MAX_TSN_GAP:
            return "a SACK chunk for what was never sent"
        reached = end
    return None


def _parameters_fault(body: bytes, position: int) -> str | None:
    if len(body) < position:
        return "a short chunk"
    while position + 4 <= len(body):
        (length,) = struct.unpack_from("!H", body, position + 2)
        if length < 4 or position + length > len(body):
            return "a parameter of an impossible length"
        position += (length + 3) // 4 * 4
    return None
