/** A device's part in a group call through one focus: keeps a leg to it alive until it is told to stop. */

import { FocusConnection, type ConnectionOptions, type Ending, type Refusal } from "./connection.js";
import { Emitter } from "./emitter.js";
import { RemoteFeeds, type ReceivedTrack, type RemoteFeed } from "./feeds.js";
import type { Publication } from "./publisher.js";
import { Subscriptions, type Size } from "./subscriptions.js";
import { randomId, type DeviceAddress, type Metadata, type Purpose } from "./wire.js";

/** idle → connecting → connected ⇄ reconnecting → ended. */
export type CallState = "idle" | "connecting" | "connected" | "reconnecting" | "ended";

export interface CallEvents {
  state: [state: CallState];
  /** The feeds of others, or what is known of one of them, changed. */
  feeds: [feeds: readonly RemoteFeed[]];
  /** Who speaks most. */
  speaker: [speaker: DeviceAddress, streamId: string];
  /** A leg ended that was not ended from here. `retryIn`: milliseconds, or null when it is not tried again. */
  trouble: [ending: Ending, retryIn: number | null];
  /** The focus did not take a message. */
  refused: [refusal: Refusal];
  /** Milliseconds to the focus and back. */
  latency: [milliseconds: number];
}

export type CallOptions = Omit<ConnectionOptions, "publications" | "sessionId"> & {
  readonly sessionId?: string;
};

export type LocalMedia = Omit<Publication, "purpose" | "stream">;

/** Waits before each new invite after legs that never connected. */
const RETRY_MS = [0, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000];
/** A leg that lasted this long was a good one: the next is tried at once. */
const GOOD_AFTER_MS = 10_000;
/** Subscriptions change with every pixel while a window is resized: told this long after the first change. */
const SUBSCRIBE_AFTER_MS = 100;
/** This device calls from elsewhere: calling again would only throw that one out. */
const FINAL_REASONS = new Set(["new_session", "replaced", "answered_elsewhere"]);

export class FocusCall extends Emitter<CallEvents> {
  /** Goes into `m.call.member` as `session_id`, before the call is started. */
  readonly sessionId: string;

  readonly #options: CallOptions;
  readonly #feeds: RemoteFeeds;
  readonly #subscriptions = new Subscriptions();
  readonly #publications = new Map<Purpose, Publication>();
  #state: CallState = "idle";
  #connection: FocusConnection | null = null;
  #received: readonly ReceivedTrack[] = [];
  #attempt = 0;
  #connectedAt: number | null = null;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #subscribing: ReturnType<typeof setTimeout> | undefined;

  constructor(options: CallOptions) {
    super();
    this.#options = options;
    this.sessionId = options.sessionId ?? randomId(16);
    this.#feeds = new RemoteFeeds(options.focus);
  }

  get state(): CallState {
    return this.#state;
  }

  get feeds(): readonly RemoteFeed[] {
    return this.#feeds.list;
  }

  /** The leg of the moment, for statistics. */
  get connection(): FocusConnection | null {
    return this.#connection;
  }

  /** The tracks that arrive, each with the feed that it belongs to. */
  get received(): readonly (ReceivedTrack & { feed: RemoteFeed | undefined })[] {
    return this.#received.map((track) => ({ ...track, feed: this.#feeds.ownerOf(track) }));
  }

  /** Calls the focus. The room state must name this device, session and focus by now. */
  start(): void {
    if (this.#state !== "idle") return;
    this.#setState("connecting");
    this.#connect();
  }

  /** Publishes this, and changes it later; null: no more. May be called before the call is started. */
  publish(purpose: Purpose, media: LocalMedia | null): void {
    const stream = this.#publications.get(purpose)?.stream ?? new MediaStream();
    if (media) this.#publications.set(purpose, { purpose, stream, ...media });
    else this.#publications.delete(purpose);
    this.#connection?.publish([...this.#publications.values()]);
  }

  /** Wants the video of this stream in this size, in pixels of the screen; null: does not show it. */
  show(streamId: string, size: Size | null): void {
    if (this.#subscriptions.show(streamId, size)) this.#subscribeSoon();
  }

  /** The network has changed: the browser says so earlier than ICE can find out. */
  networkChanged(): void {
    if (this.#connection?.state === "connected") this.#connection.restartIce();
    else if (this.#state === "reconnecting" && this.#connection === null) this.#connect();
  }

  /** Leaves the call. */
  stop(): void {
    if (this.#state === "ended") return;
    clearTimeout(this.#retry);
    clearTimeout(this.#subscribing);
    const connection = this.#connection;
    this.#connection = null;
    connection?.hangup();
    this.#forgetFeeds();
    this.#setState("ended");
  }

  #connect(): void {
    clearTimeout(this.#retry);
    const connection = new FocusConnection({
      ...this.#options,
      sessionId: this.sessionId,
      publications: [...this.#publications.values()],
    });
    this.#connection = connection;
    this.#subscriptions.reset();
    this.#feeds.resume();
    connection.on("state", (state) => state === "connected" && this.#onConnected());
    connection.on("metadata", (metadata) => this.#onMetadata(metadata));
    connection.on("received", (tracks) => {
      this.#received = tracks;
      this.#feeds.setReceived(tracks);
      this.emit("feeds", this.feeds);
    });
    connection.on("speaker", (speaker, streamId) => this.emit("speaker", speaker, streamId));
    connection.on("suspended", (streamId, trackId, suspended) => {
      this.#feeds.setSuspended(streamId, trackId, suspended);
      this.emit("feeds", this.feeds);
    });
    connection.on("refused", (refusal) => this.emit("refused", refusal));
    connection.on("latency", (milliseconds) => this.emit("latency", milliseconds));
    connection.on("ended", (ending) => this.#onEnded(connection, ending));
    void connection.start();
  }

  #onConnected(): void {
    this.#connectedAt = performance.now();
    this.#setState("connected");
    this.#subscribe();
  }

  #onMetadata(metadata: Metadata): void {
    this.#feeds.setMetadata(metadata);
    this.emit("feeds", this.feeds);
    this.#subscribeSoon();
  }

  #onEnded(connection: FocusConnection, ending: Ending): void {
    if (connection !== this.#connection) return;
    this.#connection = null;
    if (ending.by === "focus" && (FINAL_REASONS.has(ending.reason) || ending.removal)) {
      this.#forgetFeeds();
      this.#setState("ended");
      return this.emit("trouble", ending, null);
    }
    if (this.#connectedAt !== null && performance.now() - this.#connectedAt >= GOOD_AFTER_MS)
      this.#attempt = 0;
    this.#connectedAt = null;
    const step = RETRY_MS[Math.min(this.#attempt, RETRY_MS.length - 1)]!;
    const wait = Math.round(step * (0.75 + Math.random() / 2)); // not everybody at once
    this.#attempt++;
    this.#setState("reconnecting");
    this.emit("trouble", ending, wait);
    if (this.#state === "reconnecting") this.#retry = setTimeout(() => this.#connect(), wait);
  }

  #subscribeSoon(): void {
    this.#subscribing ??= setTimeout(() => this.#subscribe(), SUBSCRIBE_AFTER_MS);
  }

  #subscribe(): void {
    clearTimeout(this.#subscribing);
    this.#subscribing = undefined;
    if (this.#connection?.state !== "connected") return;
    const change = this.#subscriptions.change(this.feeds);
    if (!change) return;
    this.#connection.send("m.call.track_subscription", { ...change });
    for (const { stream_id, track_id } of change.unsubscribe)
      this.#feeds.setSuspended(stream_id, track_id, false); // nobody will say that it flows again
  }

  #forgetFeeds(): void {
    this.#received = [];
    this.#feeds.setMetadata({});
    this.#feeds.setReceived([]);
    this.emit("feeds", this.feeds);
  }

  #setState(state: CallState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.emit("state", state);
  }
}
