import { describe, expect, it } from "vitest";

import {
  callDevices,
  commonFocus,
  findCall,
  withDevice,
  withoutDevice,
  type StateEvent,
} from "../../src/page/members.js";
import { capture } from "../msc3898/captures.js";

const event = (stateKey: string, content: Record<string, unknown>, timestamp = 0): StateEvent => ({
  stateKey,
  sender: stateKey,
  content,
  timestamp,
});
const FOCUS = { userId: "@sfu:x", deviceId: "SFU1" };
const OWN = { deviceId: "D", sessionId: "s", expiresTs: 1000, purposes: ["m.usermedia"], focus: FOCUS };

describe("our own member event", () => {
  it("has what the deployed client writes", () => {
    const recorded = capture("join").filter(
      ({ channel, type, content }) =>
        channel === "state" &&
        type === "org.matrix.msc3401.call.member" &&
        (content["m.calls"] as []).length > 0,
    );
    expect(recorded.length).toBeGreaterThan(0);
    for (const { content } of recorded) {
      const [call] = content["m.calls"] as { "m.call_id": string; "m.devices": Record<string, unknown>[] }[];
      const device = call!["m.devices"][0]!;
      const written = withDevice({}, call!["m.call_id"], {
        deviceId: device["device_id"] as string,
        sessionId: device["session_id"] as string,
        expiresTs: device["expires_ts"] as number,
        purposes: ["m.usermedia"],
        focus: { userId: "@sfu:localhost", deviceId: "SFU1" },
      });
      expect(written).toEqual(content);
    }
  });

  it("keeps other devices and other calls", () => {
    const others = {
      "m.calls": [
        { "m.call_id": "conf", "m.devices": [{ device_id: "PHONE" }], "x.note": 1 },
        { "m.call_id": "other", "m.devices": [{ device_id: "PHONE" }] },
      ],
    };
    const joined = withDevice(withDevice(others, "conf", OWN), "conf", { ...OWN, sessionId: "t" });
    const calls = joined["m.calls"] as { "m.call_id": string; "m.devices": { device_id: string }[] }[];
    expect(calls.map((call) => [call["m.call_id"], call["m.devices"].map((d) => d.device_id)])).toEqual([
      ["other", ["PHONE"]],
      ["conf", ["PHONE", "D"]],
    ]);
    expect(withoutDevice(joined, "D")).toEqual({ "m.calls": [others["m.calls"][1], others["m.calls"][0]] });
  });

  it("survives content that makes no sense", () => {
    for (const content of [{}, { "m.calls": "x" }, { "m.calls": [null, 3, { "m.devices": {} }] }]) {
      expect(withoutDevice(withDevice(content, "conf", OWN), "D")).toEqual({ "m.calls": [] });
    }
  });
});

describe("the call of a room", () => {
  it("is the newest one that is not over", () => {
    const calls = [
      event("old", { "m.intent": "m.room" }, 1),
      event("new", { "m.intent": "m.room" }, 2),
      event("over", { "m.intent": "m.room", "m.terminated": "call_ended" }, 3),
      event("redacted", {}, 4),
    ];
    expect(findCall(calls)).toBe("new");
    expect(findCall([])).toBeNull();
  });

  it("has the devices that are not expired, each spoken for by its own user", () => {
    const entry = (device: string, expires?: number): object => ({
      device_id: device,
      ...(expires === undefined ? {} : { expires_ts: expires }),
      "org.matrix.msc3898.foci.active": [{ user_id: "@sfu:x", device_id: "SFU1" }],
    });
    const member = (...devices: object[]): Record<string, unknown> => ({
      "m.calls": [{ "m.call_id": "conf", "m.devices": devices }],
    });
    const members = [
      event("@a:x", member(entry("A1", 200), entry("A2", 50))),
      event("@b:x", member(entry("B1"))),
      { ...event("@c:x", member(entry("C1", 200))), sender: "@eve:x" },
      event("_@d:x_DEVICE", {}),
    ];
    const devices = callDevices(members, "conf", 100);
    expect(devices.map(({ userId, deviceId }) => [userId, deviceId])).toEqual([
      ["@a:x", "A1"],
      ["@b:x", "B1"],
    ]);
    expect(commonFocus(devices)).toEqual(FOCUS);
    expect(callDevices(members, "another", 100)).toEqual([]);
  });
});
