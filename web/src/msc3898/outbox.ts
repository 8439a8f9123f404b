/** Sends the to-device messages of one leg: stamped, numbered without gaps, one after the other. */

import { FOCUS_SESSION, randomId, type DeviceAddress, type Signalling } from "./wire.js";

export interface LegAddress {
  readonly callId: string;
  readonly confId: string;
  readonly roomId: string;
  readonly me: DeviceAddress;
  readonly sessionId: string;
  readonly focus: DeviceAddress;
}

/** Waits before each further try of a message that the homeserver did not take. */
const RETRY_MS = [500, 1_000, 2_000, 4_000, 8_000];

export class Outbox {
  readonly #signalling: Signalling;
  readonly #address: LegAddress;
  readonly #failed: (error: unknown) => void;
  #focusSession = FOCUS_SESSION;
  #seq = 0;
  #tail: Promise<void> = Promise.resolve();
  #closed = false;

  /** `failed` is told when a message could not be sent at all: the leg is then of no more use. */
  constructor(signalling: Signalling, address: LegAddress, failed: (error: unknown) => void) {
    this.#signalling = signalling;
    this.#address = address;
    this.#failed = failed;
  }

  /** The focus has told its session: what follows is addressed to that one. */
  setFocusSession(sessionId: string): void {
    this.#focusSession = sessionId;
  }

  send(type: string, content: Record<string, unknown>): void {
    const stamped = this.stamp(content);
    this.#tail = this.#tail.then(() => this.#deliver(type, stamped));
  }

  /** `content` with the fields that every message of this leg carries; takes the next number. */
  stamp(content: Record<string, unknown>): Record<string, unknown> {
    const { callId, confId, roomId, me, sessionId } = this.#address;
    return {
      call_id: callId,
      conf_id: confId,
      "org.matrix.msc3898.room_id": roomId,
      version: "1",
      party_id: me.deviceId,
      device_id: me.deviceId,
      sender_session_id: sessionId,
      dest_session_id: this.#focusSession,
      seq: this.#seq++,
      "org.matrix.msgid": randomId(),
      ...content,
    };
  }

  /** No further tries: what is in the queue is still sent once. */
  close(): void {
    this.#closed = true;
  }

  async #deliver(type: string, content: Record<string, unknown>): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#signalling.sendToDevice(this.#address.focus, type, content);
      } catch (error) {
        const wait = RETRY_MS[attempt];
        if (this.#closed) return;
        if (wait === undefined) return this.#failed(error);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }
}
