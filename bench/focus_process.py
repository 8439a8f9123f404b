"""A focus without Matrix as a process of its own, for load: WebRTC edge, negotiation and media core.

Each line on stdin is a JSON object with `op`; each has one line of JSON as its answer on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any, cast

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.ids import LegId
from mautrix_sfu.media import Media
from mautrix_sfu.wire.negotiation import Negotiation
from tests.rtc.loopback import GROUP, FocusLeg, LoopbackFocus

PORT = 7881


class LoadedFocus(LoopbackFocus):
    """Takes and gives descriptions as texts."""

    def take_offer(self, leg: LegId, offer: str) -> str:
        """Open a leg. Gives the answer."""
        local = self.rtc.open(leg)
        self.media.set_group(leg, GROUP)
        found = self.legs[leg] = FocusLeg(Negotiation(local))
        sdp, found.receives = found.negotiation.accept_offer(offer)
        self.media.set_plan(leg, found.negotiation.plan)
        assert found.negotiation.remote is not None
        self.rtc.start(leg, found.negotiation.remote)
        return sdp

    def make_offer(self, leg: LegId, sources: list[LegId]) -> str:
        """Offer a leg all that these others publish."""
        wanted = self._wanted(tuple(sources))
        tracks = [SendTrack(slot, track.stream_id, track.track_id, track.kind) for slot, (_, track) in wanted.items()]
        return self.legs[leg].negotiation.make_offer(tracks)

    def take_answer(self, leg: LegId, sources: list[LegId], answer: str) -> None:
        """Its answer came: forward."""
        found = self.legs[leg]
        wanted = self._wanted(tuple(sources))
        found.receives, found.sends = found.negotiation.accept_answer(answer)
        self.media.set_plan(leg, found.negotiation.plan)
        for slot, mid in found.sends.items():
            source, track = wanted[slot]
            self.media.forward(leg, mid, source, track.mid, None, None)

    def handle(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry a line out."""
        leg = LegId(order.get("leg", 0))
        match order["op"]:
            case "join":
                return {"answer": self.take_offer(leg, order["offer"])}
            case "offer":
                return {"offer": self.make_offer(leg, order["sources"])}
            case "forward":
                self.take_answer(leg, order["sources"], order["answer"])
                return {}
            case "leave":
                for gone in order["legs"]:
                    self.rtc.close(LegId(gone))
                    del self.legs[LegId(gone)]
                return {}
            case "opened":
                return {"opened": self.legs[leg].opened}
            case "stats":
                return cast("dict[str, Any]", self.media.stats())
            case "leg":
                return self.media.leg_stats(leg) or {}
            case other:
                raise ValueError(f"no such order: {other}")


async def serve(host: str, threads: int) -> None:
    """Until stdin ends."""
    media = Media([(host, PORT)], threads)
    focus = LoadedFocus(media)
    loop = asyncio.get_running_loop()
    media.start(loop, focus)
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(focus.handle(json.loads(line))), flush=True)
    await focus.stop()
    media.shutdown()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.threads))


if __name__ == "__main__":
    main()
