import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { MAX_HELD, MAX_WAIT_MS, Reorder } from "../../src/msc3898/reorder.js";

describe("to-device messages", () => {
  let taken: string[];
  let reorder: Reorder<string>;

  beforeEach(() => {
    vi.useFakeTimers();
    taken = [];
    reorder = new Reorder((item) => taken.push(item));
  });
  afterEach(() => vi.useRealTimers());

  it("are taken in the order of their numbers", () => {
    for (const seq of [2, 0, 1, 3]) reorder.push(seq, null, `m${seq}`);
    expect(taken).toEqual(["m0", "m1", "m2", "m3"]);
  });

  it("are taken at once without a number", () => {
    reorder.push(1, null, "later");
    reorder.push(null, null, "hangup");
    expect(taken).toEqual(["hangup"]);
  });

  it("are taken once, by number and by id", () => {
    reorder.push(0, "a", "m0");
    reorder.push(0, "b", "again");
    reorder.push(1, "c", "m1");
    reorder.push(2, "c", "again");
    reorder.push(null, "a", "again");
    expect(taken).toEqual(["m0", "m1"]);
  });

  it("don't wait longer than a while for one that is lost, however many follow it", () => {
    reorder.push(1, null, "m1");
    vi.advanceTimersByTime(MAX_WAIT_MS - 1);
    reorder.push(2, null, "m2");
    expect(taken).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(taken).toEqual(["m1", "m2"]);
    reorder.push(0, null, "too late");
    reorder.push(3, null, "m3");
    expect(taken).toEqual(["m1", "m2", "m3"]);
  });

  it("are not held back without bound", () => {
    for (let seq = 1; seq <= MAX_HELD; seq++) reorder.push(seq, null, `m${seq}`);
    expect(taken).toEqual([]);
    reorder.push(MAX_HELD + 1, null, "one more");
    expect(taken).toHaveLength(MAX_HELD + 1);
  });

  it("are not taken after the leg has ended", () => {
    reorder.push(1, null, "m1");
    reorder.close();
    vi.advanceTimersByTime(MAX_WAIT_MS);
    expect(taken).toEqual([]);
  });
});
