import { describe, expect, it } from "vitest";

import { Presence, RETURN_MS } from "../../src/page/presence.js";

const device = (userId: string, sessionId = "s") => ({ userId, deviceId: "D", sessionId, foci: [] });
const [ada, bob] = [device("@ada:x"), device("@bob:x")];
const nobody = () => false;
const everybody = () => true;

describe("who is shown without sending anything", () => {
  it("is everybody who has not sent yet, for as long as that takes", () => {
    const presence = new Presence();
    for (const now of [0, RETURN_MS, 100 * RETURN_MS]) {
      expect(presence.waiting([ada, bob], nobody, true, now)).toEqual([ada, bob]);
    }
  });

  it("is not who has stopped sending and does not come back", () => {
    const presence = new Presence();
    expect(presence.waiting([ada, bob], everybody, true, 0)).toEqual([]);
    const onlyBob = ({ userId }: { userId: string }) => userId === bob.userId;
    expect(presence.waiting([ada, bob], onlyBob, true, RETURN_MS - 1)).toEqual([ada]);
    expect(presence.waiting([ada, bob], onlyBob, true, RETURN_MS)).toEqual([]);
    expect(presence.waiting([device("@ada:x", "new"), bob], onlyBob, true, RETURN_MS)).toHaveLength(1);
  });

  it("is everybody while this page itself is cut off", () => {
    const presence = new Presence();
    presence.waiting([ada, bob], everybody, true, 0);
    expect(presence.waiting([ada, bob], nobody, false, 5 * RETURN_MS)).toEqual([ada, bob]);
    expect(presence.waiting([ada, bob], nobody, true, 6 * RETURN_MS - 1)).toEqual([ada, bob]);
    expect(presence.waiting([ada, bob], nobody, true, 6 * RETURN_MS)).toEqual([]);
  });
});
