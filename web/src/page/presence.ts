/** Who has stopped sending without leaving: the room's state names them for an hour, their tile should not. */

import type { CallDevice } from "./members.js";

/** So long somebody is shown who sends nothing any more: they may be on the way back. */
export const RETURN_MS = 15_000;

const keyOf = ({ userId, deviceId, sessionId }: CallDevice): string =>
  JSON.stringify([userId, deviceId, sessionId]);

export class Presence {
  /** When each device was last seen to send, by its session; who never sent anything is not in here. */
  #sent = new Map<string, number>();

  /**
   * Those of `others` to show at `now` (ms) although they send nothing. `sends`: whether a device sends now.
   * `connected`: false while this page itself is cut off, which says nothing of the others.
   */
  waiting(
    others: readonly CallDevice[],
    sends: (device: CallDevice) => boolean,
    connected: boolean,
    now: number,
  ): CallDevice[] {
    const sent = new Map<string, number>();
    for (const device of others) {
      const before = this.#sent.get(keyOf(device));
      if (sends(device) || (before !== undefined && !connected)) sent.set(keyOf(device), now);
      else if (before !== undefined) sent.set(keyOf(device), before);
    }
    this.#sent = sent;
    return others.filter((device) => !sends(device) && now - (sent.get(keyOf(device)) ?? now) < RETURN_MS);
  }
}
