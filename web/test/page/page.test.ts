import { describe, expect, it } from "vitest";

import { initials } from "../../src/page/dom.js";
import { bestColumns, lastRowStart } from "../../src/page/grid.js";
import { readCameraSize } from "../../src/page/media.js";
import { readConfig, readFragment } from "../../src/page/session.js";
import { endingWords, mediaTrouble } from "../../src/page/words.js";

describe("the address", () => {
  it("may bring a whole session and a room", () => {
    const fragment = "#homeserver=http%3A%2F%2F127.0.0.1%3A8008&user=%40ada%3Ax&device=D&token=t&room=!r%3Ax";
    expect(readFragment(fragment)).toEqual({
      session: { homeserver: "http://127.0.0.1:8008", userId: "@ada:x", deviceId: "D", token: "t" },
      room: "!r:x",
    });
  });

  it("brings no half session", () => {
    expect(readFragment("#user=%40ada%3Ax&token=t")).toEqual({ session: null, room: null });
  });

  it("may ask for a size of the camera", () => {
    expect(readCameraSize("640x360")).toEqual({ width: 640, height: 360 });
    expect(readCameraSize("huge")).toEqual({ width: 1280, height: 720 });
  });
});

describe("the page's configuration", () => {
  it("names homeserver and focus, or neither", () => {
    expect(readConfig({ homeserver: "http://h", focus: { user_id: "@sfu:x", device_id: "SFU1" } })).toEqual({
      homeserver: "http://h",
      focus: { userId: "@sfu:x", deviceId: "SFU1" },
    });
    for (const nothing of [null, {}, { homeserver: 3, focus: { user_id: "@sfu:x" } }]) {
      expect(readConfig(nothing)).toEqual({ homeserver: null, focus: null });
    }
  });
});

describe("the grid", () => {
  it("makes tiles as large as they get", () => {
    expect(bestColumns(1, 1280, 720)).toBe(1);
    expect(bestColumns(2, 1280, 720)).toBe(2);
    expect(bestColumns(2, 400, 800)).toBe(1);
    expect(bestColumns(4, 1280, 720)).toBe(2);
    expect(bestColumns(9, 1280, 720)).toBe(3);
  });

  it("puts a last row that is not full in the middle", () => {
    expect([4, 6].map((count) => lastRowStart(count, 2))).toEqual([1, 1]);
    expect(lastRowStart(3, 2)).toBe(2); // half columns 2 and 3 of 4
    expect([7, 8].map((count) => lastRowStart(count, 3))).toEqual([3, 2]);
  });
});

describe("words", () => {
  it("say whose initials", () => {
    expect(["Ada Lovelace", "@bob:example.org", "carol", ""].map(initials)).toEqual(["AL", "B", "C", "?"]);
  });

  it("tell a refused camera from a missing one", () => {
    Object.assign(globalThis, { isSecureContext: true });
    const [refused, missing] = ["NotAllowedError", "NotFoundError"].map((name) =>
      mediaTrouble("video", new DOMException("", name)),
    );
    expect(refused).toContain("not allowed to use the camera");
    expect(missing).toBe("No camera was found.");
  });

  it("exist for every ending", () => {
    expect(endingWords({ by: "focus", how: "reject", reason: "user_busy" })).toContain("user_busy");
    const kicked = { cause: "kicked", why: "too loud" };
    expect(endingWords({ by: "focus", how: "hangup", reason: "user_hangup", removal: kicked })).toContain(
      "too loud",
    );
    const banned = { cause: "banned", why: "" };
    expect(endingWords({ by: "focus", how: "reject", reason: "unknown_error", removal: banned })).toBe(
      "You may not use this call server.",
    );
    expect(endingWords({ by: "failure", reason: "invite_timeout" })).toBe("The call server does not answer.");
    expect(endingWords({ by: "focus", how: "hangup", reason: "replaced" })).toContain("another window");
  });
});
