import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { FocusCall } from "../../src/msc3898/call.js";
import type { Ending } from "../../src/msc3898/connection.js";
import { FakePeerConnection, FakeSignalling, fakeTrack, installFakes, type FakeChannel } from "./fakes.js";

const FOCUS = { userId: "@sfu:x", deviceId: "SFU1" };
const SDP = "v=0\r\nm=audio 9 X\r\na=mid:s0\r\na=sendonly\r\na=msid:S a\r\n";
const METADATA = {
  S: {
    purpose: "m.usermedia",
    user_id: "@bob:x",
    device_id: "B",
    tracks: { a: { kind: "audio" }, v: { kind: "video" } },
  },
};

let signalling: FakeSignalling;
let call: FocusCall;
let troubles: [Ending, number | null][];

const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);
const wait = (milliseconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(milliseconds);
const channel = (): FakeChannel => FakePeerConnection.last.channel!;
const invites = (): Record<string, unknown>[] => signalling.take("m.call.invite");

function fromFocus(type: string, content: Record<string, unknown>): void {
  signalling.receive(FOCUS.userId, type, {
    call_id: invites().at(-1)!["call_id"],
    conf_id: "conf",
    party_id: "SFU1",
    device_id: "SFU1",
    sender_session_id: "sfu",
    dest_session_id: call.sessionId,
    ...content,
  });
}

async function answered(): Promise<void> {
  await settle();
  fromFocus("m.call.answer", {
    answer: { type: "answer", sdp: SDP },
    "org.matrix.msc3077.sdp_stream_metadata": METADATA,
  });
  await settle();
  channel().open();
  await settle();
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0.5); // no spread
  installFakes();
  signalling = new FakeSignalling();
  troubles = [];
  call = new FocusCall({
    signalling,
    focus: FOCUS,
    me: { userId: "@ada:x", deviceId: "ADA1" },
    confId: "conf",
    roomId: "!room",
  });
  call.on("trouble", (ending, retryIn) => troubles.push([ending, retryIn]));
});
afterEach(() => {
  call.stop();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe("a call", () => {
  it("goes through its states", async () => {
    const states: string[] = [];
    call.on("state", (state) => states.push(state));
    call.start();
    await answered();
    call.stop();
    await settle();
    expect(states).toEqual(["connecting", "connected", "ended"]);
    expect(signalling.take("m.call.hangup")[0]).toMatchObject({ reason: "user_hangup" });
  });

  it("subscribes to all sound as soon as it can, and to what is shown", async () => {
    call.start();
    call.show("S", { width: 320, height: 180 });
    await answered();
    expect(
      channel()
        .take("m.call.track_subscription")
        .map(({ content }) => content),
    ).toEqual([
      {
        subscribe: [
          { stream_id: "S", track_id: "a" },
          { stream_id: "S", track_id: "v", width: 320, height: 180 },
        ],
        unsubscribe: [],
      },
    ]);
  });

  it("gathers changes of size for a moment", async () => {
    call.start();
    await answered();
    for (let width = 100; width <= 400; width += 10) call.show("S", { width, height: width / 2 });
    await wait(200);
    expect(channel().take("m.call.track_subscription")).toHaveLength(2);
  });

  it("calls again at once, under a new call id in the same session, when the focus has restarted", async () => {
    call.start();
    await answered();
    await wait(11_000);
    fromFocus("m.call.hangup", { reason: "unknown_error" });
    expect(call.state).toBe("reconnecting");
    await settle();
    expect(invites()).toHaveLength(2);
    const [first, second] = invites();
    expect(second!["call_id"]).not.toBe(first!["call_id"]);
    expect(second!["sender_session_id"]).toBe(first!["sender_session_id"]);
    expect(second!["seq"]).toBe(0);
    await answered();
    expect(call.state).toBe("connected");
    expect(channel().take("m.call.track_subscription")).toHaveLength(1);
  });

  it("sends what it published before on the new leg too", async () => {
    call.publish("m.usermedia", {
      tracks: { audio: fakeTrack("audio"), video: null },
      audioMuted: false,
      videoMuted: true,
    });
    call.start();
    await answered();
    fromFocus("m.call.hangup", { reason: "unknown_error" });
    await wait(2_000);
    const metadata = invites()[1]!["org.matrix.msc3077.sdp_stream_metadata"] as object;
    expect(Object.values(metadata)[0]).toMatchObject({
      video_muted: true,
      tracks: { "track-0": { kind: "audio" } },
    });
  });

  it("tries a focus that refuses ever more rarely", async () => {
    call.start();
    for (let round = 0; round < 5; round++) {
      await settle();
      fromFocus("m.call.reject", { reason: "user_busy" });
      await wait(troubles.at(-1)![1]!);
    }
    expect(troubles.map(([, retryIn]) => retryIn)).toEqual([0, 1_000, 2_000, 4_000, 8_000]);
  });

  it("does not go in circles with a focus that takes it and hangs up at once", async () => {
    call.start();
    for (let round = 0; round < 3; round++) {
      await answered();
      fromFocus("m.call.hangup", { reason: "unknown_error" });
      await wait(troubles.at(-1)![1]!);
    }
    expect(troubles.map(([, retryIn]) => retryIn)).toEqual([0, 1_000, 2_000]);
  });

  it.each(["replaced", "new_session"])(
    "does not fight for its place with another window (%s)",
    async (reason) => {
      call.start();
      await answered();
      fromFocus("m.call.hangup", { reason });
      await wait(60_000);
      expect(troubles).toEqual([[{ by: "focus", how: "hangup", reason }, null]]);
      expect(call.state).toBe("ended");
      expect(invites()).toHaveLength(1);
    },
  );

  it.each(["m.call.hangup", "m.call.reject"])(
    "does not try again where the operator keeps it out (%s), and says why",
    async (type) => {
      call.start();
      await (type === "m.call.hangup" ? answered() : settle());
      fromFocus(type, {
        reason: "user_hangup",
        "org.matrix.msc3898.removed": { cause: "kicked", reason: "too loud" },
      });
      await wait(60_000);
      const removal = { cause: "kicked", why: "too loud" };
      expect(troubles).toMatchObject([[{ by: "focus", removal }, null]]);
      expect(call.state).toBe("ended");
      expect(invites()).toHaveLength(1);
    },
  );

  it("knows which pictures pause, until they flow again, are not wanted, or come over a new leg", async () => {
    const suspend = (suspended: boolean): void =>
      channel().receive("org.matrix.msc3898.track_suspended", { stream_id: "S", track_id: "v", suspended });
    const paused = (): boolean => call.feeds[0]?.paused ?? false;
    const seen: boolean[] = [];
    call.show("S", { width: 320, height: 180 });
    call.start();
    await answered();
    call.on("feeds", () => seen.push(paused()));
    suspend(true);
    suspend(false);
    expect(seen).toEqual([true, false]);
    suspend(true);
    call.show("S", null);
    await wait(200);
    expect(paused()).toBe(false);
    call.show("S", { width: 320, height: 180 });
    await wait(200);
    suspend(true);
    expect(paused()).toBe(true);
    fromFocus("m.call.hangup", { reason: "unknown_error" });
    await wait(2_000);
    await answered();
    expect(paused()).toBe(false);
  });

  it("does not call again after it was left", async () => {
    call.start();
    await settle();
    fromFocus("m.call.reject", { reason: "user_busy" });
    call.stop();
    await wait(60_000);
    expect(invites()).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("calls at once when the network is back, instead of waiting its time", async () => {
    call.start();
    for (let round = 0; round < 4; round++) {
      await settle();
      fromFocus("m.call.reject", { reason: "user_busy" });
      if (round < 3) await wait(troubles.at(-1)![1]!);
    }
    expect(invites()).toHaveLength(4);
    call.networkChanged();
    await settle();
    expect(invites()).toHaveLength(5);
  });

  it("says who speaks", async () => {
    const speaker = vi.fn();
    call.on("speaker", speaker);
    call.start();
    await answered();
    channel().receive("org.matrix.msc3898.active_speaker", {
      stream_id: "S",
      user_id: "@bob:x",
      device_id: "B",
    });
    expect(speaker).toHaveBeenCalledWith({ userId: "@bob:x", deviceId: "B" }, "S");
  });
});
