"""Every codec from one connection of a real Chromium to another, through negotiation, DTLS and the media core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.ids import Kind, LegId, Mid, Slot, StreamId, TrackId
from mautrix_sfu.media import Media
from mautrix_sfu.wire.negotiation import Negotiation
from tests.support.browser import chromium_path

from .loopback import GROUP, FocusLeg, LoopbackFocus

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PUBLISHER, SUBSCRIBER = LegId(1), LegId(2)
WIDTH, HEIGHT = 960, 544  # less has no three spatial layers; a quarter of both is even, as H.264 needs
SMALL, LARGE = (WIDTH // 4, HEIGHT // 4), (WIDTH, HEIGHT)
PATIENCE = 60  # seconds; encoders of several layers in software share the processor with other tests

SCRIPT = """
(() => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [960, 544];
  const context = canvas.getContext('2d');
  let drawn = 0;
  setInterval(() => {
    context.fillStyle = `hsl(${drawn++ * 7 % 360} 80% 50%)`;
    context.fillRect(drawn * 13 % canvas.width, drawn * 7 % canvas.height, 60, 40);
  }, 100);
  window.join = name => {
    const pc = window[name] = new RTCPeerConnection();
    pc.createDataChannel('datachannel');
    pc.ontrack = event => {
      const video = pc.video = document.createElement('video');
      video.muted = video.autoplay = true;
      video.srcObject = new MediaStream([event.track]);
    };
  };
  window.publish = (mimeType, profile, encodings) => {
    const track = canvas.captureStream(10).getVideoTracks()[0];
    const options = {direction: 'sendonly', streams: [new MediaStream()], sendEncodings: encodings};
    const transceiver = publisher.addTransceiver(track, options);
    const all = RTCRtpSender.getCapabilities('video').codecs;
    const wanted = all.filter(item => item.mimeType === mimeType && (item.sdpFmtpLine ?? '').includes(profile));
    const repairs = all.filter(item => item.mimeType === 'video/rtx');
    if (!wanted.length) return false;
    transceiver.setCodecPreferences([...wanted, ...repairs]);
    return true;
  };
  window.offer_of = async name => {
    const pc = window[name];
    await pc.setLocalDescription(await pc.createOffer());
    return pc.localDescription.sdp;
  };
  window.take_answer = (name, sdp) => window[name].setRemoteDescription({type: 'answer', sdp});
  window.take_offer = async (name, sdp) => {
    const pc = window[name];
    await pc.setRemoteDescription({type: 'offer', sdp});
    await pc.setLocalDescription(await pc.createAnswer());
    return pc.localDescription.sdp;
  };
  window.stats = async (name, type) => [...(await window[name].getStats()).values()].filter(item => item.type === type);
  window.leave = () => { publisher.close(); subscriber.close(); };
})();
"""


@dataclass
class Call:
    """A publisher and a subscriber of one page."""

    page: Page
    focus: LoopbackFocus
    mid: Mid | None = None

    async def join(self, name: str, leg: LegId) -> None:
        offer = await self.page.evaluate("name => offer_of(name)", name)
        if leg not in self.focus.legs:
            local = self.focus.rtc.open(leg)
            self.focus.media.set_group(leg, GROUP)
            self.focus.legs[leg] = FocusLeg(Negotiation(local))
        found = self.focus.legs[leg]
        answer, found.receives = found.negotiation.accept_offer(offer)
        self.focus.media.set_plan(leg, found.negotiation.plan)
        assert found.negotiation.remote is not None
        self.focus.rtc.start(leg, found.negotiation.remote)
        await self.page.evaluate("([name, sdp]) => take_answer(name, sdp)", [name, answer])

    async def begin(self, mime_type: str, profile: str, encodings: list[dict[str, Any]]) -> None:
        """Publish in this codec, and let the subscriber have it."""
        await self.page.evaluate("() => { join('publisher'); join('subscriber') }")
        found = await self.page.evaluate(
            "([type, profile, all]) => publish(type, profile, all)", [mime_type, profile, encodings]
        )
        if not found:
            pytest.skip(f"this Chromium has no {mime_type}")
        await self.join("publisher", PUBLISHER)
        await self.join("subscriber", SUBSCRIBER)
        (track,) = self.focus.legs[PUBLISHER].receives
        self.focus.media.describe_track(PUBLISHER, track.mid, WIDTH, HEIGHT, False)
        negotiation = self.focus.legs[SUBSCRIBER].negotiation
        sends = [SendTrack(Slot(1), StreamId("stream"), TrackId("track"), Kind.VIDEO, (), track.codec)]
        offer = negotiation.make_offer(sends)
        answer = await self.page.evaluate("([name, sdp]) => take_offer(name, sdp)", ["subscriber", offer])
        _, agreed = negotiation.accept_answer(answer)
        self.focus.media.set_plan(SUBSCRIBER, negotiation.plan)
        self.mid = agreed[Slot(1)]

    def show(self, size: tuple[int, int]) -> None:
        """The subscriber shows the picture in this size."""
        (track,) = self.focus.legs[PUBLISHER].receives
        assert self.mid is not None
        self.focus.media.forward(SUBSCRIBER, self.mid, PUBLISHER, track.mid, *size)

    async def received(self) -> dict[str, Any]:
        found = await self.page.evaluate("() => stats('subscriber', 'inbound-rtp')")
        codecs = {
            item["id"]: item["mimeType"] for item in await self.page.evaluate("() => stats('subscriber', 'codec')")
        }
        for item in found:
            if item["kind"] == "video":
                return {**item, "codec": codecs.get(item.get("codecId"))}
        return {}

    async def until(self, what: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        latest: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal latest
            latest = await self.received()
            return bool(latest) and condition(latest)

        await until(look, lambda: f"{what}: {latest}")
        return latest

    async def decodes(self, width: int) -> dict[str, Any]:
        """Wait until pictures of this width are decoded, and go on being."""
        first = await self.until(f"a picture {width} wide", lambda item: item.get("frameWidth") == width)
        return await self.until(
            f"more pictures {width} wide",
            lambda item: item["frameWidth"] == width and item["framesDecoded"] >= first["framesDecoded"] + 5,
        )


async def until(condition: Callable[[], Awaitable[bool]], describe: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, describe()
        await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=flags)
        opened = await browser.new_page()
        await opened.route("**/*", lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
        await opened.goto("http://localhost/")
        await opened.evaluate(SCRIPT)
        yield opened
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def call(page: Page) -> AsyncIterator[Call]:
    media = Media([("127.0.0.1", 0)], 1)
    focus = LoopbackFocus(media)
    media.start(asyncio.get_running_loop(), focus)
    yield Call(page, focus)
    await page.evaluate("() => leave()")
    await focus.stop()
    media.shutdown()


def layers(mode: str) -> list[dict[str, Any]]:
    """A small and a large simulcast layer; real ones also in codecs that have layers of their own."""
    return [
        {"rid": "h", "maxBitrate": 600_000, "scalabilityMode": mode},
        {"rid": "q", "scaleResolutionDownBy": 4, "maxBitrate": 100_000, "scalabilityMode": mode},
    ]


@pytest.mark.parametrize(
    ("mime_type", "profile"),
    [
        ("video/VP9", "profile-id=0"),
        ("video/H264", "packetization-mode=1;profile-level-id=42e01f"),
        ("video/AV1", "profile=0"),
    ],
)
async def test_two_layers_of_simulcast_are_shown_in_the_size_of_the_tile(
    call: Call, mime_type: str, profile: str
) -> None:
    await call.begin(mime_type, profile, layers("L1T1"))
    call.show(SMALL)
    seen = await call.decodes(WIDTH // 4)
    assert seen["codec"] == mime_type
    call.show(LARGE)
    await call.decodes(WIDTH)


@pytest.mark.parametrize(
    ("mime_type", "profile", "mode"),
    [("video/VP9", "profile-id=0", "L3T3_KEY"), ("video/AV1", "profile=0", "L3T3")],
)
async def test_of_spatial_layers_a_small_tile_gets_the_lowest_and_a_large_one_all(
    call: Call, mime_type: str, profile: str, mode: str
) -> None:
    await call.begin(mime_type, profile, [{"maxBitrate": 900_000, "scalabilityMode": mode}])
    call.show(LARGE)
    seen = await call.decodes(WIDTH)
    assert seen["codec"] == mime_type
    call.show(SMALL)
    small = await call.decodes(WIDTH // 4)
    assert small["packetsLost"] == seen["packetsLost"], "what is left out leaves no gap"
    call.show(LARGE)
    await call.decodes(WIDTH)
