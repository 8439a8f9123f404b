/** The recordings of the deployed client, for golden tests. */

import { readFileSync } from "node:fs";

export interface Recorded {
  client: string;
  channel: "state" | "as-event" | "to-device" | "dc";
  direction: string;
  type: string;
  sender?: string;
  state_key?: string;
  content: Record<string, unknown>;
}

const folder = new URL("../../../tests/captures/", import.meta.url);

export const CAPTURES = [
  "join", "glare", "ice-restart", "mute", "screenshare", "late-camera", "two-devices",
  "visibility", "page-close", "focus-of-another-member", "focus-silent",
]; // prettier-ignore

export function capture(name: string): Recorded[] {
  const text = readFileSync(new URL(`${name}.jsonl`, folder), "utf8");
  return text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Recorded);
}

export const capturedSdp = (name: string): string => readFileSync(new URL(`sdp/${name}.sdp`, folder), "utf8");
