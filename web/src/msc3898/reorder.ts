/** Puts numbered to-device messages back in order, without ever waiting for long. */

export const MAX_HELD = 16;
export const MAX_WAIT_MS = 5_000;
const MAX_REMEMBERED = 256;

/** Hands items over by `seq` from 0; one without `seq` at once; what came before never again. */
export class Reorder<Item> {
  readonly #deliver: (item: Item) => void;
  readonly #held = new Map<number, Item>();
  readonly #seen = new Set<string>();
  #next = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(deliver: (item: Item) => void) {
    this.#deliver = deliver;
  }

  push(seq: number | null, messageId: string | null, item: Item): void {
    if (messageId !== null) {
      if (this.#seen.has(messageId)) return;
      this.#seen.add(messageId);
      if (this.#seen.size > MAX_REMEMBERED) this.#seen.delete(this.#seen.values().next().value!);
    }
    if (seq === null) return this.#deliver(item);
    if (seq < this.#next || this.#held.has(seq)) return;
    this.#held.set(seq, item);
    if (this.#held.size > MAX_HELD) this.#skip();
    this.#drain();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#held.clear();
  }

  #drain(): void {
    const before = this.#next;
    for (let item = this.#held.get(this.#next); item !== undefined; item = this.#held.get(this.#next)) {
      this.#held.delete(this.#next++);
      this.#deliver(item);
    }
    if (this.#next !== before || this.#held.size === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    if (this.#held.size > 0) this.#timer ??= setTimeout(() => this.#giveUp(), MAX_WAIT_MS);
  }

  #giveUp(): void {
    this.#timer = undefined;
    this.#skip();
    this.#drain();
  }

  /** What is missing will not come any more. */
  #skip(): void {
    this.#next = Math.min(...this.#held.keys());
  }
}
