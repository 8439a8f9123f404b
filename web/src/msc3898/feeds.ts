/** What others send: the streams that the focus advertises, joined with the tracks that arrive. */

import type { DeviceAddress, Kind, Metadata, StreamMetadata, TrackMetadata } from "./wire.js";

/** A track that arrives, under the ids that its SDP gives it. */
export interface ReceivedTrack {
  readonly streamId: string;
  readonly trackId: string;
  readonly mid: string;
  readonly track: MediaStreamTrack;
}

/** One stream of one device of somebody else. The same object for as long as it is advertised. */
export interface RemoteFeed {
  readonly streamId: string;
  readonly owner: DeviceAddress;
  readonly purpose: string;
  readonly audioMuted: boolean;
  readonly videoMuted: boolean;
  /** Its video pauses because this client's link is too narrow for it. */
  readonly paused: boolean;
  readonly tracks: Readonly<Record<string, TrackMetadata>>;
  /** Its tracks come and go; the stream itself stays, so that it can be shown once and for all. */
  readonly stream: MediaStream;
}

type Mutable<T> = { -readonly [name in keyof T]: T[name] };

export class RemoteFeeds {
  readonly #feeds = new Map<string, Mutable<RemoteFeed>>();
  readonly #fallback: DeviceAddress;
  #received: readonly ReceivedTrack[] = [];
  #suspended: { readonly streamId: string; readonly trackId: string }[] = [];

  /** A stream whose metadata names nobody is the focus's own: `fallback`. */
  constructor(fallback: DeviceAddress) {
    this.#fallback = fallback;
  }

  get list(): readonly RemoteFeed[] {
    return [...this.#feeds.values()];
  }

  /** The whole set, as the focus sends it: what is missing is gone. */
  setMetadata(metadata: Metadata): void {
    for (const streamId of this.#feeds.keys()) {
      if (!Object.hasOwn(metadata, streamId)) this.#feeds.delete(streamId);
    }
    for (const [streamId, stream] of Object.entries(metadata)) this.#describe(streamId, stream);
    this.#suspended = this.#suspended.filter(({ streamId, trackId }) =>
      Object.hasOwn(this.#feeds.get(streamId)?.tracks ?? {}, trackId),
    );
    this.#pause();
    this.#connect();
  }

  /** What is sent of this track pauses, or flows again. */
  setSuspended(streamId: string, trackId: string, suspended: boolean): void {
    this.#suspended = this.#suspended.filter(
      (each) => each.streamId !== streamId || each.trackId !== trackId,
    );
    if (suspended) this.#suspended.push({ streamId, trackId });
    this.#pause();
  }

  /** A new leg: nothing pauses on it. */
  resume(): void {
    this.#suspended = [];
    this.#pause();
  }

  /** All tracks that arrive now. */
  setReceived(received: readonly ReceivedTrack[]): void {
    this.#received = received;
    this.#connect();
  }

  /** The feed that an arriving track belongs to; the track id decides if the stream id is another one. */
  ownerOf(received: ReceivedTrack): RemoteFeed | undefined {
    const named = this.#feeds.get(received.streamId);
    if (named && Object.hasOwn(named.tracks, received.trackId)) return named;
    return this.list.find((feed) => Object.hasOwn(feed.tracks, received.trackId)) ?? named;
  }

  #describe(streamId: string, metadata: StreamMetadata): void {
    const known = {
      owner: {
        userId: metadata.user_id ?? this.#fallback.userId,
        deviceId: metadata.device_id ?? this.#fallback.deviceId,
      },
      purpose: metadata.purpose,
      audioMuted: metadata.audio_muted,
      videoMuted: metadata.video_muted,
      tracks: metadata.tracks,
    };
    const feed = this.#feeds.get(streamId);
    if (feed) Object.assign(feed, known);
    else this.#feeds.set(streamId, { streamId, stream: new MediaStream(), paused: false, ...known });
  }

  #pause(): void {
    for (const feed of this.#feeds.values()) {
      const video = trackIds(feed, "video");
      feed.paused = this.#suspended.some(
        ({ streamId, trackId }) => streamId === feed.streamId && video.includes(trackId),
      );
    }
  }

  #connect(): void {
    const wanted = new Map<RemoteFeed, Set<MediaStreamTrack>>(this.list.map((feed) => [feed, new Set()]));
    for (const received of this.#received) {
      const feed = this.ownerOf(received);
      if (feed) wanted.get(feed)!.add(received.track);
    }
    for (const [feed, tracks] of wanted) {
      for (const track of feed.stream.getTracks()) if (!tracks.has(track)) feed.stream.removeTrack(track);
      for (const track of tracks) feed.stream.addTrack(track); // adding it twice changes nothing
    }
  }
}

/** The ids of a feed's tracks of one kind. */
export function trackIds(feed: RemoteFeed, kind: Kind): string[] {
  return Object.keys(feed.tracks).filter((id) => feed.tracks[id]!.kind === kind);
}
