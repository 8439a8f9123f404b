/** One leg of the client under fake timers, with the focus played by the test. */

import { afterEach, beforeEach, vi } from "vitest";

import { FocusConnection, type Ending } from "../../src/msc3898/connection.js";
import type { Publication } from "../../src/msc3898/publisher.js";
import {
  FakePeerConnection,
  FakeSignalling,
  FakeStream,
  fakeTrack,
  installFakes,
  type FakeChannel,
} from "./fakes.js";

export const FOCUS = { userId: "@sfu:x", deviceId: "SFU1" };
export const ME = { userId: "@ada:x", deviceId: "ADA1" };
export const SDP = "v=0\r\nm=audio 9 X\r\na=mid:s0\r\na=sendonly\r\na=msid:S a\r\n";
export const METADATA = {
  S: { purpose: "m.usermedia", user_id: "@bob:x", device_id: "B", tracks: { a: { kind: "audio" } } },
};

export let signalling: FakeSignalling;
export let connection: FocusConnection;
export let endings: Ending[];

export const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);
export const wait = (milliseconds: number): Promise<unknown> => vi.advanceTimersByTimeAsync(milliseconds);
export const pc = (): FakePeerConnection => FakePeerConnection.last;
export const channel = (): FakeChannel => pc().channel!;

export function camera(changes: Partial<Publication> = {}): Publication {
  return {
    purpose: "m.usermedia",
    stream: new FakeStream() as unknown as MediaStream,
    tracks: { audio: fakeTrack("audio"), video: fakeTrack("video") },
    audioMuted: false,
    videoMuted: false,
    ...changes,
  };
}

export function connect(publications: readonly Publication[]): void {
  signalling = new FakeSignalling();
  endings = [];
  connection = new FocusConnection({
    signalling,
    focus: FOCUS,
    me: ME,
    sessionId: "session",
    confId: "conf",
    roomId: "!room",
    publications,
  });
  connection.on("ended", (ending) => endings.push(ending));
}

/** A to-device message of the focus, as its envelope should be unless `changes` says otherwise. */
export function fromFocus(
  type: string,
  content: Record<string, unknown>,
  changes: Record<string, unknown> = {},
): void {
  signalling.receive(FOCUS.userId, type, {
    call_id: connection.callId,
    conf_id: "conf",
    version: "1",
    party_id: "SFU1",
    device_id: "SFU1",
    sender_session_id: "sfu",
    dest_session_id: "session",
    ...content,
    ...changes,
  });
}

export const answer = (changes: Record<string, unknown> = {}): void =>
  fromFocus("m.call.answer", { answer: { type: "answer", sdp: SDP }, seq: 0 }, changes);

export async function open(publications: readonly Publication[] = [camera()]): Promise<void> {
  connect(publications);
  void connection.start();
  await settle();
  answer();
  await settle();
  pc().become("connected");
  channel().open();
  await settle();
}

/** For each test of a file: fake timers, and fakes in place of the browser's parts. */
export function useFakes(): void {
  beforeEach(() => {
    vi.useFakeTimers();
    installFakes();
  });
  afterEach(() => {
    vi.useRealTimers();
  });
}
