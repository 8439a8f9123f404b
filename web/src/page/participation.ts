/** Taking part in a room's call: the room state around a `FocusCall`, in the order that the protocol wants. */

import { FocusCall, type CallState, type DeviceAddress, type Ending } from "../msc3898/index.js";
import type { Devices } from "./media.js";
import type { Matrix } from "./matrix.js";
import {
  CALL_TYPE,
  CALL_TYPES,
  MEMBER_TYPE,
  MEMBER_TYPES,
  callDevices,
  commonFocus,
  findCall,
  isTerminated,
  withDevice,
  withoutDevice,
  type CallDevice,
  type StateEvent,
} from "./members.js";
import { NO_FOCUS, NO_PERMISSION, endingWords, homeserverTrouble } from "./words.js";

const EXPIRES_MS = 3600 * 1000;
const REFRESH_MS = 45 * 60 * 1000;
/** When the homeserver did not take a refresh. */
const REFRESH_AGAIN_MS = 60 * 1000;
/** Trouble may come from an event that expired while the computer slept: older than this, it is sent again. */
const FRESH_MS = 5 * 60 * 1000;

/** A call server that answers does so well within this time. */
const PATIENCE_MS = 8_000;

/** Something that keeps a person out of the call, in words for that person. */
export class CallProblem extends Error {}

export interface ParticipationHooks {
  /** Feeds, people, or the call's state changed: look again. */
  changed(): void;
  /** What is to be told now; null: all is well. */
  status(words: string | null): void;
  /** The call is over for us, for this reason. */
  ended(words: string): void;
}

/** The call of a room as its state tells it: which one, and who is in it. */
export function callOf(matrix: Matrix, roomId: string): { confId: string | null; devices: CallDevice[] } {
  const confId = findCall(matrix.state(roomId, CALL_TYPES));
  if (confId === null) return { confId, devices: [] };
  const joined = matrix.joinedMembers(roomId);
  const members = matrix.state(roomId, MEMBER_TYPES).filter(({ stateKey }) => joined.has(stateKey));
  return { confId, devices: distinct(callDevices(members, confId, Date.now())) };
}

function distinct(devices: CallDevice[]): CallDevice[] {
  return [...new Map(devices.map((device) => [`${device.userId} ${device.deviceId}`, device])).values()];
}

export class Participation {
  readonly call: FocusCall;
  readonly confId: string;
  readonly roomId: string;
  readonly focus: DeviceAddress;

  readonly #matrix: Matrix;
  readonly #hooks: ParticipationHooks;
  readonly #devices: Devices;
  readonly #stops: (() => void)[] = [];
  #refresh: ReturnType<typeof setTimeout> | undefined;
  #impatience: ReturnType<typeof setTimeout> | undefined;
  #published = false;
  #publishedAt = 0; // ms

  private constructor(
    matrix: Matrix,
    devices: Devices,
    hooks: ParticipationHooks,
    where: { roomId: string; confId: string; focus: DeviceAddress },
  ) {
    this.#matrix = matrix;
    this.#devices = devices;
    this.#hooks = hooks;
    this.roomId = where.roomId;
    this.confId = where.confId;
    this.focus = where.focus;
    this.call = new FocusCall({ signalling: matrix, me: matrix.me, ...where });
  }

  /** Joins the room's call, starting one where there is none. Rejects with a CallProblem. */
  static async join(
    matrix: Matrix,
    roomId: string,
    devices: Devices,
    preferred: DeviceAddress | null,
    hooks: ParticipationHooks,
  ): Promise<Participation> {
    const { confId, devices: others } = callOf(matrix, roomId);
    const focus = preferred ?? commonFocus(others);
    if (!focus) throw new CallProblem(NO_FOCUS);
    const started = confId ?? (await startCall(matrix, roomId));
    const participation = new Participation(matrix, devices, hooks, { roomId, confId: started, focus });
    await participation.#start();
    return participation;
  }

  get state(): CallState {
    return this.call.state;
  }

  /** Everybody else in the call, by the room's state. */
  get others(): CallDevice[] {
    const { userId, deviceId } = this.#matrix.me;
    return callOf(this.#matrix, this.roomId).devices.filter(
      (device) => device.userId !== userId || device.deviceId !== deviceId,
    );
  }

  /** Sends what the devices give now. */
  publish(): void {
    this.call.publish("m.usermedia", this.#devices.media);
    const screen = this.#devices.screen;
    this.call.publish(
      "m.screenshare",
      screen && { tracks: { audio: null, video: screen }, audioMuted: true, videoMuted: false },
    );
  }

  async leave(): Promise<void> {
    this.#close();
    this.call.stop();
    if (!this.#published) return;
    this.#published = false;
    const content = withoutDevice(this.#ownContent(), this.#matrix.me.deviceId);
    await this.#matrix
      .sendState(this.roomId, MEMBER_TYPE, this.#matrix.me.userId, content)
      .catch(() => undefined);
  }

  /** The tab closes: what must be said is said without waiting. */
  goAway(): void {
    if (!this.#published) return;
    const { userId, deviceId } = this.#matrix.me;
    const [room, type, key] = [this.roomId, MEMBER_TYPE, userId].map(encodeURIComponent);
    const requests = [
      { path: `rooms/${room}/state/${type}/${key}`, body: withoutDevice(this.#ownContent(), deviceId) },
    ];
    const farewell = this.call.connection?.farewell();
    if (farewell) {
      requests.push({
        path: `sendToDevice/${farewell.type}/${crypto.getRandomValues(new Uint32Array(2)).join("-")}`,
        body: { messages: { [this.focus.userId]: { [this.focus.deviceId]: farewell.content } } },
      });
    }
    this.#matrix.lastWords(requests);
  }

  async #start(): Promise<void> {
    this.call.on("state", (state) => this.#onState(state));
    this.call.on("feeds", () => this.#hooks.changed());
    this.call.on("trouble", (ending, retryIn) => this.#onTrouble(ending, retryIn));
    this.#stops.push(this.#matrix.onChange(() => this.#onRoomChange()));
    const networkChanged = (): void => this.call.networkChanged();
    addEventListener("online", networkChanged);
    this.#stops.push(() => removeEventListener("online", networkChanged));
    this.#hooks.status("Joining the call…");
    try {
      await this.#publishDevice();
    } catch (error) {
      this.#close();
      throw new CallProblem(stateTrouble(error));
    }
    this.#refreshAfter(REFRESH_MS);
    this.publish();
    this.call.start();
  }

  async #publishDevice(): Promise<void> {
    const content = withDevice(this.#ownContent(), this.confId, {
      deviceId: this.#matrix.me.deviceId,
      sessionId: this.call.sessionId,
      expiresTs: Date.now() + EXPIRES_MS,
      purposes: ["m.usermedia"],
      focus: this.focus,
    });
    await this.#matrix.sendState(this.roomId, MEMBER_TYPE, this.#matrix.me.userId, content);
    this.#published = true;
    this.#publishedAt = Date.now();
  }

  #refreshAfter(milliseconds: number): void {
    clearTimeout(this.#refresh);
    this.#refresh = setTimeout(() => {
      this.#publishDevice().then(
        () => this.#refreshAfter(REFRESH_MS),
        () => this.#refreshAfter(REFRESH_AGAIN_MS),
      );
    }, milliseconds);
  }

  #ownContent(): Record<string, unknown> {
    const { userId } = this.#matrix.me;
    const own = (event: StateEvent): boolean => event.stateKey === userId && event.sender === userId;
    return this.#matrix.state(this.roomId, [MEMBER_TYPE]).find(own)?.content ?? {};
  }

  #onState(state: CallState): void {
    clearTimeout(this.#impatience);
    if (state === "connected") this.#hooks.status(null);
    if (state === "connecting") {
      const words = "The call server does not answer. Still trying…";
      this.#impatience = setTimeout(() => this.#hooks.status(words), PATIENCE_MS);
    }
    this.#hooks.changed();
  }

  #onTrouble(ending: Ending, retryIn: number | null): void {
    const words = endingWords(ending);
    if (retryIn === null) return this.#end(words);
    this.#hooks.status(`${words} Connecting again…`);
    if (Date.now() - this.#publishedAt > FRESH_MS) this.#refreshAfter(0);
  }

  #onRoomChange(): void {
    if (!this.#published) return;
    if (!this.#matrix.isJoined(this.roomId)) return this.#end("You are no longer in this room.");
    const call = this.#matrix.state(this.roomId, CALL_TYPES).find((event) => event.stateKey === this.confId);
    if (call && isTerminated(call.content)) return this.#end("The call was ended.");
    this.#hooks.changed();
  }

  #end(words: string): void {
    void this.leave();
    this.#hooks.ended(words);
  }

  #close(): void {
    clearTimeout(this.#refresh);
    clearTimeout(this.#impatience);
    for (const stop of this.#stops.splice(0)) stop();
  }
}

async function startCall(matrix: Matrix, roomId: string): Promise<string> {
  const confId = `${Date.now()}${Math.random().toString(36).slice(2, 10)}`;
  try {
    await matrix.sendState(roomId, CALL_TYPE, confId, { "m.intent": "m.room", "m.type": "m.video" });
  } catch (error) {
    throw new CallProblem(stateTrouble(error));
  }
  return confId;
}

function stateTrouble(error: unknown): string {
  return (error as { errcode?: string }).errcode === "M_FORBIDDEN" ? NO_PERMISSION : homeserverTrouble(error);
}
