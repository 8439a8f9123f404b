/**
 * Offers and answers of one peer connection, one at a time (protocol, section 4).
 *
 * The client is the impolite side: an offer of the focus that meets one of ours in flight is left alone; the
 * focus then drops it, answers ours, and offers again.
 */

import type { Description } from "./wire.js";

/** How long an offer may stay unanswered before the leg is given up. */
export const ANSWER_TIMEOUT_MS = 15_000;

export type Route = "channel" | "to-device";

export interface NegotiatorHooks {
  /** Send this description; an answer goes the way its offer came. */
  send(description: Description, route: Route): void;
  /** A description of the focus has been applied. */
  applied(): void;
  /** May an offer go out over the data channel now? */
  ready(): boolean;
  /** Negotiation cannot go on. */
  failed(error: unknown): void;
}

export class Negotiator {
  readonly #connection: RTCPeerConnection;
  readonly #hooks: NegotiatorHooks;
  #tail: Promise<void> = Promise.resolve();
  #wanted = false;
  #deadline: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  constructor(connection: RTCPeerConnection, hooks: NegotiatorHooks) {
    this.#connection = connection;
    this.#hooks = hooks;
  }

  /** The description of the invite. It has no time limit here: the invite has one of its own. */
  async firstOffer(): Promise<Description> {
    await this.#connection.setLocalDescription();
    return this.#local("offer");
  }

  /** The connection has changed: offer, now or as soon as the current round is over. */
  offer(): void {
    this.#wanted = true;
    this.resume();
  }

  /** Offers may go out now: here is the one that had to wait, if there is one. */
  resume(): void {
    this.#enqueue(() => this.#offer());
  }

  /** New ICE credentials, over a way that still works while the connection does not. */
  restartIce(): void {
    this.#enqueue(async () => {
      await this.#rollBack();
      this.#connection.restartIce();
      await this.#makeOffer("to-device");
    });
  }

  /** A description of the focus; one that is not due is left alone. */
  receive(description: Description, route: Route): void {
    this.#enqueue(() =>
      description.type === "offer" ? this.#answer(description, route) : this.#accept(description),
    );
  }

  /** The focus refused our offer: as if it had never been made. What it asked for is asked again later. */
  refused(): void {
    this.#enqueue(() => this.#rollBack());
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#deadline);
  }

  #enqueue(step: () => Promise<void>): void {
    this.#tail = this.#tail.then(async () => {
      if (this.#closed) return;
      try {
        await step();
      } catch (error) {
        if (!this.#closed) this.#hooks.failed(error);
      }
    });
  }

  async #offer(): Promise<void> {
    if (!this.#wanted || this.#connection.signalingState !== "stable" || !this.#hooks.ready()) return;
    await this.#makeOffer("channel");
  }

  async #makeOffer(route: Route): Promise<void> {
    this.#wanted = false;
    await this.#connection.setLocalDescription();
    this.#hooks.send(this.#local("offer"), route);
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(
      () => this.#hooks.failed(new Error("the focus did not answer an offer")),
      ANSWER_TIMEOUT_MS,
    );
  }

  async #answer(offer: Description, route: Route): Promise<void> {
    if (this.#connection.signalingState !== "stable") return; // glare
    await this.#connection.setRemoteDescription(offer);
    await this.#connection.setLocalDescription();
    this.#hooks.send(this.#local("answer"), route);
    this.#hooks.applied();
    await this.#offer();
  }

  async #accept(answer: Description): Promise<void> {
    if (this.#connection.signalingState !== "have-local-offer") return;
    await this.#connection.setRemoteDescription(answer);
    clearTimeout(this.#deadline);
    this.#hooks.applied();
    await this.#offer();
  }

  async #rollBack(): Promise<void> {
    clearTimeout(this.#deadline);
    if (this.#connection.signalingState !== "have-local-offer") return;
    await this.#connection.setLocalDescription({ type: "rollback" });
    this.#wanted = true;
  }

  #local(type: Description["type"]): Description {
    const description = this.#connection.localDescription;
    if (description?.type !== type) throw new Error(`no local ${type}`);
    return { type, sdp: description.sdp };
  }
}
