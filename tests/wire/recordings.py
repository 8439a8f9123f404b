"""Reads the recordings of the deployed client in tests/captures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPTURES = Path(__file__).parent.parent / "captures"
DESCRIPTIONS = sorted((CAPTURES / "sdp").glob("*.sdp"))
SEQUENCES = sorted(path for path in CAPTURES.glob("*.jsonl") if "sdp" in path.read_text())


@dataclass(frozen=True, slots=True)
class Recorded:
    """One description out of a recording."""

    client: str
    from_client: bool
    type: str  # "offer" or "answer"
    sdp: str
    leg: str  # the call id


def text_of(path: Path) -> str:
    """The SDP with its CRLF line ends; of a client's answer, fit for a focus that is the DTLS server."""
    return as_dtls_client(path.read_bytes().decode()) if "client-answer" in path.name else path.read_bytes().decode()


def as_dtls_client(answer: str) -> str:
    """The recorded focus was the DTLS client, ours is the server: the client's answers say so."""
    return answer.replace("a=setup:passive", "a=setup:active")


def descriptions(path: Path) -> list[Recorded]:
    """All offers and answers of a recording, in order.

    What goes over a data channel does not name its leg: it is known by its writer's ICE ufrag, or, after an ICE
    restart, is the newest leg of that client.
    """
    found: list[Recorded] = []
    legs: dict[str, str] = {}
    for line in path.read_text().splitlines():
        entry: dict[str, Any] = json.loads(line)
        content = entry["content"] if isinstance(entry.get("content"), dict) else {}
        for key in ("offer", "answer", "description"):
            if not isinstance(content.get(key), dict) or "sdp" not in content[key]:
                continue
            client, from_client = entry["client"], entry["direction"] == "client>sfu"
            kind, sdp = content[key]["type"], content[key]["sdp"]
            ufrag = sdp.split("a=ice-ufrag:")[1].split()[0]
            if "call_id" in content:
                legs[ufrag] = legs[client] = content["call_id"]
            leg = legs.get(ufrag, legs[client])
            found.append(
                Recorded(
                    client, from_client, kind, as_dtls_client(sdp) if from_client and kind == "answer" else sdp, leg
                )
            )
    return found
