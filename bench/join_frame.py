"""From a page's invite to the first decoded frame of somebody else: a real Synapse, focus and Chromium.

Somebody is in the call and sends recorded video; a page joins, waits for a frame (requestVideoFrameCallback), leaves,
and joins again. The page itself notes when it came how far.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.browser import Browser, CallPage, PageSession
from tests.support.calls import Call
from tests.support.focus import Deployment

WITHIN = 20.0
STAGES = ("answer", "ice", "open", "shown", "subscribed", "offer", "track", "agreed", "received", "frame")
MEANING = {
    "answer": "the focus's answer is there",
    "ice": "ICE is connected",
    "open": "the data channel is open",
    "shown": "the other's metadata",
    "subscribed": "the page subscribes",
    "offer": "the focus's offer",
    "track": "the track",
    "agreed": "the page's answer",
    "received": "the first frame has arrived",
    "frame": "the first frame is shown",
}

# Each stage's time since the invite in ms, as the page sees it.
_NOTES = """() => {
  const notes = (window.joinNotes = { at: {}, invited: null });
  const note = (name) => { if (notes.invited !== null) notes.at[name] ??= performance.now() - notes.invited; };
  const watched = new WeakSet();
  const { fetch } = window;
  window.fetch = (resource, ...rest) => {
    const address = String(resource?.url ?? resource);
    if (address.includes("/sendToDevice/m.call.invite/")) notes.invited ??= performance.now();
    return fetch(resource, ...rest);
  };
  const wrap = (prototype, name, before) => {
    const original = prototype[name];
    prototype[name] = function (...given) { before.call(this, ...given); return original.apply(this, given); };
  };
  wrap(RTCPeerConnection.prototype, "setRemoteDescription", function ({ type }) { note(type); });
  wrap(RTCPeerConnection.prototype, "createDataChannel", function () {
    this.addEventListener("iceconnectionstatechange", () => this.iceConnectionState === "connected" && note("ice"));
    this.addEventListener("track", () => note("track"));
  });
  wrap(RTCDataChannel.prototype, "send", (text) => {
    if (text.includes("m.call.track_subscription")) note("subscribed");
    else if (text.includes('"answer"')) note("agreed");
  });
  const { createDataChannel } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.createDataChannel = function (...given) {
    const channel = createDataChannel.apply(this, given);
    channel.addEventListener("open", () => note("open"));
    channel.addEventListener("message", ({ data }) => data.includes('"user_id"') && note("shown"));
    return channel;
  };
  new MutationObserver(() => {
    for (const video of document.querySelectorAll(".tile:not(.own) video")) {
      if (watched.has(video)) continue;
      watched.add(video);
      video.requestVideoFrameCallback((_, { receiveTime }) => {
        notes.at.received = receiveTime - notes.invited;
        note("frame");
      });
    }
  }).observe(document.documentElement, { childList: true, subtree: true, attributes: true });
}"""


@dataclass(frozen=True, slots=True)
class Joins:
    """Milliseconds from the invite to each stage, for each join."""

    stages: dict[str, list[float]]

    @property
    def whole(self) -> list[float]:
        """To the first frame."""
        return self.stages["frame"]


async def measure(joins: int) -> Joins:
    """One page joins so many times."""
    with tempfile.TemporaryDirectory() as directory:
        deployment = Deployment(Path(directory), {"conferences": {"limits": {"invites_per_user": 1000}}})
        await deployment.start()
        try:
            async with Call(deployment) as call, Browser() as browser:
                await call.join(await call.participant("alice"))
                client = await call.member("bob")
                session = PageSession(
                    deployment.synapse.base_url, client.user_id, client.device_id, client.token, call.room_id
                )
                page = await browser.open(deployment.focus.address, session)
                await page.page.evaluate(_NOTES)
                await _join(page)  # the first one loads what later ones have in memory
                found = [await _join(page) for _ in range(joins)]
        finally:
            await deployment.stop()
    return Joins({stage: [join[stage] for join in found] for stage in STAGES})


async def _join(page: CallPage) -> dict[str, float]:
    """Join, wait for a frame, leave; the notes of the page."""
    await page.page.evaluate("() => Object.assign(joinNotes, { at: {}, invited: null })")
    await page.page.locator("button.join").click(timeout=WITHIN * 1000)
    await page.page.wait_for_function("() => joinNotes.at.frame !== undefined", timeout=WITHIN * 1000)
    found: dict[str, float] = await page.page.evaluate("() => joinNotes.at")
    await page.leave()
    await asyncio.sleep(0.5)  # until the homeserver has told the focus that the page is gone
    return found
