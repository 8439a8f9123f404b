"""Two participants who talk and ping the focus all the time: how long each answer on the data channel took.

A program (`python -m tests.support.pings`), so that nothing that a test does meanwhile counts as the focus's time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from mautrix_sfu.core.ids import Device
from tests.support.participant import Participant

EVERY = 0.05  # seconds between two pings: well under the limit of messages


async def _main() -> None:
    """Play two participants as told by a line of JSON; write a line when they talk, and at the end of the input."""
    told: dict[str, Any] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    focus = Device(*told["focus"])
    made = [
        Participant(told["homeserver"], user, device, focus, token=token) for user, device, token in told["devices"]
    ]
    one, other = made
    async with one, other:
        for each in made:
            each.stopped_layers = {"f", "h"}
            await each.join(told["room_id"], told["conf_id"])
        for viewer, publisher in ((one, other), (other, one)):
            await viewer.subscribe_to(publisher)
            await viewer.until(lambda v=viewer, p=publisher: v.audio_of(p).packets)  # type: ignore[misc]
        print(json.dumps({"talking": True}), flush=True)
        end = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
        sent: dict[str, list[float]] = {each.device.user_id: [] for each in made}
        while not end.done():
            for each in made:
                sent[each.device.user_id].append(time.monotonic())
                each.tell("m.call.ping")
            await asyncio.sleep(EVERY)
        await asyncio.sleep(1.0)
        waits = []
        for each in made:
            pongs = [message.at for message in each.said("m.call.pong")]
            asked = sent[each.device.user_id]
            waits += [pong - ping for ping, pong in zip(asked, pongs, strict=False)]
        missing = sum(map(len, sent.values())) - len(waits)
        hung_up = [each.hung_up for each in made]
        print(json.dumps({"waits": waits, "missing": missing, "hung_up": hung_up}), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
