/** What a client sends: the tracks of its camera, microphone and screen, on the transceivers of one leg. */

import { simulcastEncodings } from "./simulcast.js";
import { sentMsids } from "./sdp.js";
import type { DeviceAddress, Kind, Metadata, Purpose, TrackMetadata } from "./wire.js";

/** One stream that this client publishes, as it should be now. */
export interface Publication {
  readonly purpose: Purpose;
  /** Gives the stream its id; its own tracks don't matter. */
  readonly stream: MediaStream;
  /** A muted camera is null here: it is switched off, and its m-line stays. */
  readonly tracks: Readonly<Record<Kind, MediaStreamTrack | null>>;
  readonly audioMuted: boolean;
  readonly videoMuted: boolean;
}

const KINDS: readonly Kind[] = ["audio", "video"];

export class Publisher {
  readonly #connection: RTCPeerConnection;
  readonly #owner: DeviceAddress;
  readonly #transceivers = new Map<string, RTCRtpTransceiver>();
  #publications: readonly Publication[] = [];
  #settings: Promise<void> = Promise.resolve();

  constructor(connection: RTCPeerConnection, owner: DeviceAddress) {
    this.#connection = connection;
    this.#owner = owner;
  }

  /** Makes the connection send exactly this. True: it must be negotiated. */
  publish(publications: readonly Publication[]): boolean {
    this.#publications = publications;
    let changed = false;
    const live = new Set<string>();
    for (const publication of publications) {
      for (const kind of KINDS) {
        const key = `${publication.purpose} ${kind}`;
        live.add(key);
        changed = this.#send(key, kind, publication) || changed;
      }
    }
    for (const [key, transceiver] of this.#transceivers) {
      if (live.has(key) || ["inactive", "stopped"].includes(transceiver.direction)) continue;
      void transceiver.sender.replaceTrack(null);
      transceiver.direction = "inactive"; // kept for the next time: never stopped, so never port 0
      changed = true;
    }
    return changed;
  }

  /** The metadata of what is sent, by the ids that stand in the SDP. */
  metadata(): Metadata {
    const msids = sentMsids(this.#connection.localDescription?.sdp ?? "");
    const metadata: Metadata = {};
    for (const publication of this.#publications) {
      const tracks: Record<string, TrackMetadata> = {};
      let streamId: string | undefined;
      for (const kind of KINDS) {
        const mid = this.#transceivers.get(`${publication.purpose} ${kind}`)?.mid;
        const msid = mid == null ? undefined : msids.get(mid);
        if (!msid) continue;
        streamId = msid.streamId;
        const { width, height } = publication.tracks[kind]?.getSettings() ?? {};
        tracks[msid.trackId] = { kind, ...(kind === "video" && width && height ? { width, height } : {}) };
      }
      if (streamId === undefined) continue;
      metadata[streamId] = {
        purpose: publication.purpose,
        user_id: this.#owner.userId,
        device_id: this.#owner.deviceId,
        audio_muted: publication.audioMuted,
        video_muted: publication.videoMuted,
        tracks,
      };
    }
    return metadata;
  }

  /**
   * Sends only those of a track's simulcast layers that somebody watches, by their rids; and the smallest, so that who
   * begins to watch sees a picture at once.
   */
  setWatched(streamId: string, trackId: string, layers: readonly string[]): void {
    const msids = sentMsids(this.#connection.localDescription?.sdp ?? "");
    for (const transceiver of this.#transceivers.values()) {
      const msid = transceiver.mid === null ? undefined : msids.get(transceiver.mid);
      if (msid?.streamId === streamId && msid.trackId === trackId) this.#activate(transceiver.sender, layers);
    }
  }

  /** Switches a sender's layers on and off; null: all on. */
  #activate(sender: RTCRtpSender, layers: readonly string[] | null): void {
    this.#settings = this.#settings.then(async () => {
      const parameters = sender.getParameters();
      const { encodings } = parameters;
      if (encodings.length < 2) return;
      encodings.forEach((encoding, place) => {
        const smallest = place === encodings.length - 1;
        encoding.active = smallest || layers === null || layers.includes(encoding.rid ?? "");
      });
      await sender.setParameters(parameters).catch(() => undefined); // it has just ended
    });
  }

  #send(key: string, kind: Kind, publication: Publication): boolean {
    const track = publication.tracks[kind];
    const transceiver = this.#transceivers.get(key);
    if (!transceiver) {
      if (!track) return false;
      this.#transceivers.set(key, this.#add(kind, track, publication.stream));
      return true;
    }
    if (transceiver.direction === "stopped") return false; // the focus rejected this m-line
    if (transceiver.sender.track !== track) void transceiver.sender.replaceTrack(track);
    if (transceiver.direction === "sendonly") return false;
    transceiver.direction = "sendonly";
    if (kind === "video") this.#activate(transceiver.sender, null); // to the focus this is another track
    return true;
  }

  #add(kind: Kind, track: MediaStreamTrack, stream: MediaStream): RTCRtpTransceiver {
    const { width = 1280, height = 720 } = track.getSettings();
    return this.#connection.addTransceiver(track, {
      direction: "sendonly",
      streams: [stream],
      ...(kind === "video" ? { sendEncodings: simulcastEncodings(width, height) } : {}),
    });
  }
}
