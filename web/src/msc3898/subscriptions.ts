/** What this client wants to receive, and what the focus has been told of it (protocol, section 4). */

import { trackIds, type RemoteFeed } from "./feeds.js";

/** In pixels of the screen. */
export interface Size {
  readonly width: number;
  readonly height: number;
}

interface Entry {
  readonly stream_id: string;
  readonly track_id: string;
  readonly width?: number;
  readonly height?: number;
}

export interface SubscriptionChange {
  readonly subscribe: Entry[];
  readonly unsubscribe: Entry[];
}

/** Audio is always wanted; video while it is shown, in the size in which it is shown. */
export class Subscriptions {
  readonly #shown = new Map<string, Size>();
  #told = new Map<string, Entry>();

  /** Shows the video of this stream at this size; null: not at all. True: that is news. */
  show(streamId: string, size: Size | null): boolean {
    const before = this.#shown.get(streamId);
    if (size === null) return this.#shown.delete(streamId);
    const whole = { width: Math.ceil(size.width), height: Math.ceil(size.height) };
    this.#shown.set(streamId, whole);
    return before?.width !== whole.width || before.height !== whole.height;
  }

  /** A new leg: its focus has been told nothing. */
  reset(): void {
    this.#told.clear();
  }

  /** What must be said so that the focus knows all that is wanted; null if it does. */
  change(feeds: readonly RemoteFeed[]): SubscriptionChange | null {
    const wanted = this.#wanted(feeds);
    const subscribe = [...wanted]
      .filter(([key, entry]) => !same(this.#told.get(key), entry))
      .map(([, e]) => e);
    const advertised = new Set(
      feeds.flatMap((feed) => Object.keys(feed.tracks).map((trackId) => keyOf(feed.streamId, trackId))),
    );
    const unsubscribe = [...this.#told]
      .filter(([key]) => !wanted.has(key) && advertised.has(key)) // a stream that is gone needs no word
      .map(([, { stream_id, track_id }]) => ({ stream_id, track_id }));
    this.#told = wanted;
    return subscribe.length + unsubscribe.length > 0 ? { subscribe, unsubscribe } : null;
  }

  #wanted(feeds: readonly RemoteFeed[]): Map<string, Entry> {
    const wanted = new Map<string, Entry>();
    for (const feed of feeds) {
      const { streamId: stream_id } = feed;
      for (const track_id of trackIds(feed, "audio")) {
        wanted.set(keyOf(stream_id, track_id), { stream_id, track_id });
      }
      const size = this.#shown.get(stream_id);
      if (!size) continue;
      for (const track_id of trackIds(feed, "video")) {
        wanted.set(keyOf(stream_id, track_id), { stream_id, track_id, ...size });
      }
    }
    return wanted;
  }
}

const keyOf = (streamId: string, trackId: string): string => JSON.stringify([streamId, trackId]);

const same = (a: Entry | undefined, b: Entry): boolean =>
  a?.width === b.width && a?.height === b.height && !!a;
