/** Who uses this page: from the address's fragment, from the tab's own storage, or nobody yet. */

import type { DeviceAddress } from "../msc3898/index.js";

export interface Session {
  readonly homeserver: string; // address
  readonly userId: string;
  readonly deviceId: string;
  readonly token: string;
}

/** What the focus that serves this page says of itself (`config.json` beside the page). */
export interface PageConfig {
  readonly homeserver: string | null;
  readonly focus: DeviceAddress | null;
}

const SESSION_KEY = "sfu.session";
const ROOM_KEY = "sfu.room";
const IN_CALL_KEY = "sfu.in-call";

type Json = Record<string, unknown>;

/** A session out of a fragment such as `#homeserver=…&user=…&device=…&token=…`; null if something is missing. */
export function readFragment(fragment: string): { session: Session | null; room: string | null } {
  const values = new URLSearchParams(fragment.replace(/^#/, ""));
  const [homeserver, userId, deviceId, token] = ["homeserver", "user", "device", "token"].map((name) =>
    values.get(name),
  );
  const session = homeserver && userId && deviceId && token ? { homeserver, userId, deviceId, token } : null;
  return { session, room: values.get("room") };
}

/** Takes the session and the room out of the address bar, where a token must not stay. */
export function takeFragment(): void {
  const { session, room } = readFragment(location.hash);
  if (session) {
    saveSession(session);
    setInCall(false);
  }
  if (room) saveRoom(room);
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
}

export function savedSession(): Session | null {
  try {
    return JSON.parse(sessionStorage.getItem(SESSION_KEY) ?? "null") as Session | null;
  } catch {
    return null;
  }
}

export function saveSession(session: Session | null): void {
  if (session) sessionStorage.setItem(SESSION_KEY, JSON.stringify(session));
  else for (const key of [SESSION_KEY, ROOM_KEY, IN_CALL_KEY]) sessionStorage.removeItem(key);
}

export const savedRoom = (): string | null => sessionStorage.getItem(ROOM_KEY);

export function saveRoom(room: string | null): void {
  if (room) sessionStorage.setItem(ROOM_KEY, room);
  else sessionStorage.removeItem(ROOM_KEY);
}

/** Whether this tab was in the call when it was reloaded: then it goes back. */
export const wasInCall = (): boolean => sessionStorage.getItem(IN_CALL_KEY) !== null;

export function setInCall(inCall: boolean): void {
  if (inCall) sessionStorage.setItem(IN_CALL_KEY, "yes");
  else sessionStorage.removeItem(IN_CALL_KEY);
}

/** The page's configuration; empty where it is served by something that has none. */
export async function loadConfig(): Promise<PageConfig> {
  try {
    const response = await fetch("config.json", { cache: "no-store" });
    if (response.ok) return readConfig((await response.json()) as unknown);
  } catch {
    // served by something else than a focus
  }
  return { homeserver: null, focus: null };
}

export function readConfig(json: unknown): PageConfig {
  const { homeserver, focus } = (json ?? {}) as { homeserver?: unknown; focus?: Json };
  const [userId, deviceId] = [focus?.["user_id"], focus?.["device_id"]];
  return {
    homeserver: typeof homeserver === "string" && homeserver ? homeserver : null,
    focus: typeof userId === "string" && typeof deviceId === "string" ? { userId, deviceId } : null,
  };
}

/** The client API's address for what a person types: an address, a server's name, or a user id. */
export async function findHomeserver(typed: string): Promise<string> {
  const name = typed.trim().replace(/^@[^:]*:/, "");
  if (/^https?:\/\//.test(name)) return name.replace(/\/+$/, "");
  try {
    const response = await fetch(`https://${name}/.well-known/matrix/client`);
    const found = (await response.json()) as { "m.homeserver"?: { base_url?: string } };
    const address = found["m.homeserver"]?.base_url;
    if (address) return address.replace(/\/+$/, "");
  } catch {
    // no such file: the name itself is the address
  }
  return `https://${name}`;
}
