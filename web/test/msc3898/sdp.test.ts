import { describe, expect, it } from "vitest";

import { sentMsids } from "../../src/msc3898/sdp.js";
import { simulcastEncodings } from "../../src/msc3898/simulcast.js";
import { capturedSdp } from "./captures.js";

describe("the msids of an SDP", () => {
  it("are those of the lines that the focus sends on", () => {
    expect([...sentMsids(capturedSdp("sfu-offer-two-tracks")).keys()]).toEqual(["s0", "s1"]);
    expect(sentMsids(capturedSdp("sfu-offer-two-tracks")).get("s0")).toEqual({
      streamId: "3607de3a-159e-43bc-9fa9-ede5dfb350c3",
      trackId: "8ae2824b-f000-4ebc-8951-825f9a6090da",
    });
  });

  it("are gone when the focus stops sending", () => {
    expect(sentMsids(capturedSdp("sfu-offer-tracks-removed")).size).toBe(0);
  });

  it("are found in what the browser itself offers", () => {
    const streams = [...sentMsids(capturedSdp("invite-audio-video-simulcast")).values()].map(
      (m) => m.streamId,
    );
    expect(streams).toHaveLength(2);
    expect(new Set(streams).size).toBe(1);
  });
});

describe("simulcast", () => {
  const rids = (width: number, height: number): (string | undefined)[] =>
    simulcastEncodings(width, height).map(({ rid }) => rid);

  it("has as many layers as Chromium sends for that size, highest first", () => {
    expect(rids(1280, 720)).toEqual(["f", "h", "q"]);
    expect(rids(960, 540)).toEqual(["f", "h", "q"]);
    expect(rids(640, 360)).toEqual(["f", "h"]);
    expect(rids(640, 480)).toEqual(["f", "h"]);
    expect(rids(360, 640)).toEqual(["f", "h"]);
    expect(rids(320, 180)).toEqual([undefined]);
  });

  it("gives each layer what it needs and no more", () => {
    expect(simulcastEncodings(1280, 720).map(({ maxBitrate }) => maxBitrate)).toEqual([
      1_700_000, 500_000, 150_000,
    ]);
  });
});
