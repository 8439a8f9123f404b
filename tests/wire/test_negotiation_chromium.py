"""What Negotiation writes is taken by a real Chromium, and what Chromium writes is taken by Negotiation."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from mautrix_sfu.core.commands import SendTrack
from mautrix_sfu.core.ids import Kind, Slot, StreamId, TrackId
from mautrix_sfu.wire.codecs import VIDEO_CODECS
from mautrix_sfu.wire.negotiation import LocalTransport, Negotiation
from mautrix_sfu.wire.sdp_parser import parse

pytestmark = pytest.mark.browser

FINGERPRINT = "sha-256 " + ":".join(["AA"] * 32)
LOCAL = LocalTransport("ufrag123", "p" * 24, FINGERPRINT, (("127.0.0.1", 9),))
LAYERS = ["f", "h", "q"]

SCRIPT = """
const canvas = document.createElement('canvas');
canvas.getContext('2d').fillRect(0, 0, 10, 10);
window.videoTrack = () => canvas.captureStream(5).getVideoTracks()[0];
window.audioTrack = () => new AudioContext().createMediaStreamDestination().stream.getAudioTracks()[0];
window.pc = new RTCPeerConnection();
window.tracks = [];
pc.ontrack = event => tracks.push({mid: event.transceiver.mid, kind: event.track.kind, stream: event.streams[0]?.id});
window.open_channel = () => pc.createDataChannel('datachannel');
window.add_audio = () => pc.addTrack(audioTrack(), new MediaStream());
window.add_video = rids => pc.addTransceiver(videoTrack(), {
  direction: 'sendrecv', streams: [new MediaStream()],
  sendEncodings: rids.map((rid, index) => ({rid, scaleResolutionDownBy: 2 ** index})),
});
window.make_offer = async options => {
  await pc.setLocalDescription(await pc.createOffer(options));
  return pc.localDescription.sdp;
};
window.take_answer = sdp => pc.setRemoteDescription({type: 'answer', sdp});
window.take_offer = async sdp => {
  await pc.setRemoteDescription({type: 'offer', sdp});
  await pc.setLocalDescription(await pc.createAnswer());
  return pc.localDescription.sdp;
};
window.directions = () => Object.fromEntries(pc.getTransceivers().map(item => [item.mid, item.currentDirection]));
"""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = await browser.new_page()
        await opened.route("**/*", lambda route: route.fulfill(body="<html></html>", content_type="text/html"))
        await opened.goto("http://localhost/")
        await opened.evaluate(SCRIPT)
        yield opened
        await browser.close()


def tracks(*numbers: int) -> list[SendTrack]:
    """Even numbers are audio, odd ones video."""
    return [
        SendTrack(
            Slot(number),
            StreamId(f"stream{number // 2}"),
            TrackId(f"track{number}"),
            Kind.VIDEO if number % 2 else Kind.AUDIO,
        )
        for number in numbers
    ]


async def run(page: Page, code: str) -> Any:
    return await page.evaluate(code)


async def invited(
    page: Page, *, audio: bool = True, video: bool = True, codecs: tuple[str, ...] = VIDEO_CODECS
) -> Negotiation:
    """A session after the page's invite and its answer."""
    if audio:
        await run(page, "() => { add_audio() }")
    if video:
        await page.evaluate("rids => { add_video(rids) }", LAYERS)
    await run(page, "() => { open_channel() }")
    negotiation = Negotiation(LOCAL, random.Random(1), video_codecs=codecs)
    await answer_page(page, negotiation)
    return negotiation


async def answer_page(page: Page, negotiation: Negotiation, options: dict[str, Any] | None = None) -> str:
    """The page offers, the focus answers."""
    offer = await page.evaluate("options => make_offer(options)", options or {})
    answer, _ = negotiation.accept_offer(offer)
    await page.evaluate("sdp => take_answer(sdp)", answer)
    return str(offer)


async def offer_page(page: Page, negotiation: Negotiation, *numbers: int) -> dict[Slot, str]:
    """The focus offers, the page answers; gives the slots that the page receives."""
    answer = await page.evaluate("sdp => take_offer(sdp)", negotiation.make_offer(tracks(*numbers)))
    _, sends = negotiation.accept_answer(answer)
    return {slot: str(mid) for slot, mid in sends.items()}


async def directions(page: Page) -> dict[str, str]:
    return dict(await run(page, "() => directions()"))


async def test_tracks_are_added_removed_and_added_again(page: Page) -> None:
    negotiation = await invited(page)
    assert await directions(page) == {"0": "sendonly", "1": "sendonly"}
    assert await offer_page(page, negotiation, 2, 3) == {2: "s0", 3: "s1"}
    assert await offer_page(page, negotiation, 2) == {2: "s0"}
    assert (await directions(page))["s1"] == "inactive"
    assert await offer_page(page, negotiation, 2, 5, 6) == {2: "s0", 5: "s1", 6: "s2"}
    assert await directions(page) == {
        "0": "sendonly",
        "1": "sendonly",
        "s0": "recvonly",
        "s1": "recvonly",
        "s2": "recvonly",
    }
    told = await run(page, "() => tracks")
    assert [(track["mid"], track["stream"]) for track in told] == [
        ("s0", "stream1"),
        ("s1", "stream1"),
        ("s1", "stream2"),
        ("s2", "stream3"),
    ]
    encodings = await run(page, "() => pc.getSenders()[1].getParameters().encodings.map(item => item.rid)")
    assert encodings == LAYERS


async def test_twenty_audio_and_twenty_video_tracks_fit(page: Page) -> None:
    negotiation = await invited(page)
    assert len(await offer_page(page, negotiation, *range(2, 42))) == 40
    await answer_page(page, negotiation)
    assert len([line for line in negotiation.plan.lines if line.send]) == 40
    assert len(await offer_page(page, negotiation, *range(2, 22))) == 20


async def test_a_camera_switched_on_late_uses_the_focuss_m_line(page: Page) -> None:
    negotiation = await invited(page, video=False)
    assert await offer_page(page, negotiation, 3) == {3: "s0"}
    await run(page, "() => { pc.addTrack(videoTrack(), new MediaStream()) }")
    await answer_page(page, negotiation)
    assert (await directions(page))["s0"] == "sendrecv"
    (line,) = [line for line in negotiation.plan.lines if line.mid == "s0"]
    assert line.send is not None
    assert line.receive is not None
    assert line.receive.ssrcs
    assert await offer_page(page, negotiation) == {}
    assert (await directions(page))["s0"] == "sendonly"
    assert await offer_page(page, negotiation, 5) == {5: "s0"}
    assert (await directions(page))["s0"] == "sendrecv"


async def test_in_glare_the_pages_offer_wins_and_the_next_own_one_is_taken(page: Page) -> None:
    negotiation = await invited(page)
    await offer_page(page, negotiation, 2)
    negotiation.make_offer(tracks(2, 3))
    await page.evaluate("rids => { add_video(rids) }", LAYERS)
    await answer_page(page, negotiation)
    assert (await directions(page))["3"] == "sendonly"
    assert await offer_page(page, negotiation, 2, 3) == {2: "s0", 3: "s1"}


async def test_screen_shares_stop_and_start_again(page: Page) -> None:
    negotiation = await invited(page)
    for mid in ("3", "4"):
        await page.evaluate("rids => { window.screen_share = add_video(rids) }", LAYERS)
        await answer_page(page, negotiation)
        assert (await directions(page))[mid] == "sendonly"
        await offer_page(page, negotiation, 3)
        await run(page, "() => { pc.removeTrack(screen_share.sender); screen_share.direction = 'inactive' }")
        await answer_page(page, negotiation)
        assert (await directions(page))[mid] == "inactive"
        await offer_page(page, negotiation)


async def test_a_stopped_transceivers_m_line_is_recycled(page: Page) -> None:
    negotiation = await invited(page)
    await offer_page(page, negotiation, 2)
    await run(page, "() => { pc.getTransceivers()[1].stop() }")
    closing = await answer_page(page, negotiation)
    assert parse(closing).lines[1].port == 0
    await offer_page(page, negotiation, 2, 3)
    await run(page, "() => { pc.addTransceiver(videoTrack(), {streams: [new MediaStream()]}) }")
    opening = await answer_page(page, negotiation)
    assert parse(opening).lines[1].mid not in ("1", "")
    assert [line.mid for line in negotiation.plan.lines if line.receive] == ["0", parse(opening).lines[1].mid]
    assert await offer_page(page, negotiation, 2) == {2: "s0"}


async def test_a_codec_that_is_not_taken_costs_only_its_m_line(page: Page) -> None:
    negotiation = await invited(page, codecs=("VP8",))
    await run(
        page,
        """() => {
          const codecs = RTCRtpReceiver.getCapabilities('video').codecs.filter(item => item.mimeType === 'video/VP9');
          add_video(['f']).setCodecPreferences(codecs);
        }""",
    )
    await answer_page(page, negotiation)
    assert "3" not in await directions(page)
    assert await offer_page(page, negotiation, 2, 3) == {2: "s0", 3: "s1"}


async def test_an_ice_restart_is_answered_with_new_credentials(page: Page) -> None:
    negotiation = await invited(page)
    await offer_page(page, negotiation, 2)
    await answer_page(page, negotiation, {"iceRestart": True})
    assert negotiation.local.ufrag != LOCAL.ufrag
    assert negotiation.local.ufrag in await run(page, "() => pc.remoteDescription.sdp")
    assert await offer_page(page, negotiation, 2, 3) == {2: "s0", 3: "s1"}


async def test_a_slot_held_without_media_gets_media_later(page: Page) -> None:
    negotiation = await invited(page, audio=False, video=False)
    assert await offer_page(page, negotiation, 2, 3) == {2: "s0", 3: "s1"}
    await page.evaluate("rids => { add_audio(); pc.addTransceiver('video', {sendEncodings: [{rid: 'f'}]}) }", LAYERS)
    await answer_page(page, negotiation)
    assert len([line for line in negotiation.plan.lines if line.receive]) == 2


async def test_a_track_may_be_sent_on_after_the_page_stops_receiving_it(page: Page) -> None:
    negotiation = await invited(page)
    await offer_page(page, negotiation, 3)
    await run(page, "() => { pc.getTransceivers().find(item => item.mid === 's0').direction = 'inactive' }")
    await answer_page(page, negotiation)
    assert [line.mid for line in negotiation.plan.lines if line.send] == []
    assert await offer_page(page, negotiation, 3) == {}
    await run(page, "() => { pc.getTransceivers().find(item => item.mid === 's0').direction = 'recvonly' }")
    assert await offer_page(page, negotiation, 3) == {3: "s0"}
