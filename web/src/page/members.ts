/** The room state of a call: reading and writing `m.call.member` (MSC3401), pure. */

import type { DeviceAddress } from "../msc3898/index.js";

export const CALL_TYPES = ["org.matrix.msc3401.call", "m.call"] as const;
export const MEMBER_TYPES = ["org.matrix.msc3401.call.member", "m.call.member"] as const;
export const CALL_TYPE = CALL_TYPES[0];
export const MEMBER_TYPE = MEMBER_TYPES[0];

const ACTIVE_NAMES = ["org.matrix.msc3898.foci.active", "m.foci.active"] as const;
const PREFERRED_NAMES = ["org.matrix.msc3898.foci.preferred", "m.foci.preferred"] as const;
/** How long a device may count that gives no time (protocol, section 1). */
const LONGEST_MS = 24 * 3600 * 1000;

type Json = Record<string, unknown>;

/** A state event, as far as it matters here. */
export interface StateEvent {
  readonly stateKey: string;
  readonly sender: string;
  readonly content: Json;
  readonly timestamp: number; // ms
}

/** One device that takes part in a call. */
export interface CallDevice extends DeviceAddress {
  readonly sessionId: string | null;
  readonly foci: readonly DeviceAddress[]; // active
}

/** What this client says of its own device. */
export interface OwnDevice {
  readonly deviceId: string;
  readonly sessionId: string;
  readonly expiresTs: number; // ms
  readonly purposes: readonly string[];
  readonly focus: DeviceAddress;
}

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const objects = (value: unknown): Json[] => (Array.isArray(value) ? value.filter(isObject) : []);

/** The newest call that is not over; null if there is none. */
export function findCall(calls: readonly StateEvent[]): string | null {
  const live = calls.filter(({ content }) => "m.intent" in content && !isTerminated(content));
  return live.sort((a, b) => b.timestamp - a.timestamp)[0]?.stateKey ?? null;
}

export const isTerminated = (call: Json): boolean => Boolean(call["m.terminated"]);

function readFoci(device: Json): DeviceAddress[] {
  const listed = ACTIVE_NAMES.map((name) => device[name]).find(Array.isArray);
  return objects(listed).flatMap(({ user_id: userId, device_id: deviceId }) =>
    typeof userId === "string" && typeof deviceId === "string" ? [{ userId, deviceId }] : [],
  );
}

/** The devices that take part in the call `confId` at `now` (ms). */
export function callDevices(members: readonly StateEvent[], confId: string, now: number): CallDevice[] {
  return members.flatMap(({ stateKey, sender, content, timestamp }) => {
    if (stateKey !== sender) return [];
    const calls = objects(content["m.calls"]).filter((call) => call["m.call_id"] === confId);
    return calls
      .flatMap((call) => objects(call["m.devices"]))
      .flatMap((device) => {
        const expires = device["expires_ts"] ?? content["m.expires_ts"];
        const ends = Math.min(
          typeof expires === "number" ? expires : Infinity,
          timestamp + LONGEST_MS, // by the homeserver's clock: near enough for showing who is there
        );
        const deviceId = device["device_id"];
        if (typeof deviceId !== "string" || ends <= now) return [];
        const sessionId = device["session_id"];
        return [
          {
            userId: sender,
            deviceId,
            sessionId: typeof sessionId === "string" ? sessionId : null,
            foci: readFoci(device),
          },
        ];
      });
  });
}

/** The focus that most of these devices use. */
export function commonFocus(devices: readonly CallDevice[]): DeviceAddress | null {
  const votes = new Map<string, { focus: DeviceAddress; count: number }>();
  for (const focus of devices.flatMap((device) => device.foci.slice(0, 1))) {
    const key = JSON.stringify([focus.userId, focus.deviceId]);
    votes.set(key, { focus, count: (votes.get(key)?.count ?? 0) + 1 });
  }
  return [...votes.values()].sort((a, b) => b.count - a.count)[0]?.focus ?? null;
}

/** `content` of our own member event with this device in the call; other calls and devices stay as they are. */
export function withDevice(content: Json, confId: string, device: OwnDevice): Json {
  const { "m.calls": calls } = withoutDevice(content, device.deviceId) as { "m.calls": Json[] };
  const entry = {
    device_id: device.deviceId,
    session_id: device.sessionId,
    expires_ts: device.expiresTs,
    feeds: device.purposes.map((purpose) => ({ purpose })),
    [ACTIVE_NAMES[0]]: [{ user_id: device.focus.userId, device_id: device.focus.deviceId }],
    [PREFERRED_NAMES[0]]: [],
  };
  const call = calls.find((other) => other["m.call_id"] === confId);
  const changed = { ...call, "m.call_id": confId, "m.devices": [...objects(call?.["m.devices"]), entry] };
  return { "m.calls": [...calls.filter((other) => other !== call), changed] };
}

/** `content` of our own member event without this device. */
export function withoutDevice(content: Json, deviceId: string): Json {
  const calls = objects(content["m.calls"]).map((call) => ({
    ...call,
    "m.devices": objects(call["m.devices"]).filter((device) => device["device_id"] !== deviceId),
  }));
  return { "m.calls": calls.filter((call) => call["m.devices"].length > 0) };
}
