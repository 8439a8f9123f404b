import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { Devices } from "../../src/page/media.js";

class FakeTrack extends EventTarget {
  enabled = true;
  stopped = false;

  constructor(readonly kind: string) {
    super();
  }

  stop(): void {
    this.stopped = true;
  }
}

describe("camera and microphone", () => {
  let give: (tracks: FakeTrack[]) => void;
  let changes: number;
  let devices: Devices;
  const tracks = (): FakeTrack[] => [new FakeTrack("audio"), new FakeTrack("video")];

  beforeEach(() => {
    vi.useFakeTimers();
    const getUserMedia = (): Promise<unknown> =>
      new Promise((resolve) => (give = (found) => resolve({ getTracks: () => found })));
    vi.stubGlobal("navigator", { mediaDevices: { getUserMedia } });
    changes = 0;
    devices = new Devices({ width: 640, height: 360 }, () => changes++);
    devices.start();
  });

  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  async function isOpened(): Promise<() => boolean> {
    let over = false;
    void devices.opened().then(() => (over = true));
    await vi.advanceTimersByTimeAsync(0);
    return () => over;
  }

  it("are waited for by whoever joins while they are opened", async () => {
    const over = await isOpened();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(over()).toBe(false);
    give(tracks());
    await vi.advanceTimersByTimeAsync(0);
    expect(over()).toBe(true);
    expect(devices.media).toMatchObject({ audioMuted: false, videoMuted: false });
  });

  it("are not waited for as long as a question stays unanswered; they follow", async () => {
    const over = await isOpened();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(over()).toBe(true);
    expect([changes, devices.media.videoMuted]).toEqual([0, true]);
    give(tracks());
    await vi.advanceTimersByTimeAsync(0);
    expect([changes, devices.media.videoMuted]).toEqual([1, false]);
  });

  it("that open only after the person has gone are closed at once", async () => {
    devices.stop();
    const late = tracks();
    give(late);
    await vi.advanceTimersByTimeAsync(0);
    expect(late.map(({ stopped }) => stopped)).toEqual([true, true]);
    expect(devices.camera).toBeNull();
  });
});
