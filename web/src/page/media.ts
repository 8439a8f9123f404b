/** This device's microphone, camera and screen. */

import type { Kind, LocalMedia } from "../msc3898/index.js";
import { mediaTrouble } from "./words.js";

export interface CameraSize {
  readonly width: number;
  readonly height: number;
}

/** `640x360` → that size; 1280x720 if there is none. */
export function readCameraSize(text: string | null): CameraSize {
  const [, width, height] = /^(\d{2,4})x(\d{2,4})$/.exec(text ?? "") ?? [];
  return width && height ? { width: Number(width), height: Number(height) } : { width: 1280, height: 720 };
}

/** How long whoever presses the button early waits for camera and microphone: the browser may be asking for them. */
const OPENING_MS = 5_000;

export class Devices {
  /** What is wrong with a device; null: nothing. */
  readonly trouble: Record<Kind, string | null> = { audio: null, video: null };
  /** What the person wants to send. */
  readonly on: Record<Kind, boolean> = { audio: true, video: true };
  readonly #size: CameraSize;
  readonly #changed: () => void;
  readonly #tracks: Record<Kind, MediaStreamTrack | null> = { audio: null, video: null };
  #screen: MediaStreamTrack | null = null;
  #opening: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(size: CameraSize, changed: () => void) {
    this.#size = size;
    this.#changed = changed;
  }

  /** The camera, for showing it to its owner; null while it is off. */
  get camera(): MediaStreamTrack | null {
    return this.#tracks.video;
  }

  get screen(): MediaStreamTrack | null {
    return this.#screen;
  }

  /** What goes into the call. A muted microphone stays open but silent; a muted camera is switched off. */
  get media(): LocalMedia {
    return {
      tracks: { ...this.#tracks },
      audioMuted: !this.on.audio || !this.#tracks.audio,
      videoMuted: !this.on.video || !this.#tracks.video,
    };
  }

  /** Opens microphone and camera; `opened` says when. */
  start(): void {
    this.#opening = this.#start();
  }

  /** They are open, or cannot be; or it takes so long that they had better follow into the call. */
  async opened(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const enough = new Promise<void>((resolve) => (timer = setTimeout(resolve, OPENING_MS)));
    await Promise.race([this.#opening, enough]);
    clearTimeout(timer);
  }

  /** Asks for both, then for each alone: a missing camera must not cost the microphone. */
  async #start(): Promise<void> {
    try {
      const stream = await this.#request({ audio: true, video: true });
      for (const track of stream.getTracks()) this.#use(track.kind as Kind, track);
    } catch {
      await this.#open("audio");
      await this.#open("video");
    }
    this.#changed();
  }

  async toggle(kind: Kind): Promise<void> {
    const track = this.#tracks[kind];
    this.on[kind] = !(this.on[kind] && track);
    if (kind === "audio" && track) track.enabled = this.on.audio;
    else if (!this.on[kind]) this.#drop(kind);
    else await this.#open(kind);
    this.#changed();
  }

  async toggleScreen(): Promise<void> {
    if (this.#screen) this.#dropScreen();
    else {
      try {
        const stream = await navigator.mediaDevices.getDisplayMedia({ video: true });
        this.#screen = stream.getVideoTracks()[0] ?? null;
        this.#screen?.addEventListener("ended", () => this.#dropScreen());
      } catch {
        // the person changed their mind
      }
    }
    this.#changed();
  }

  /** Closes all; what the browser opens only now is closed at once. */
  stop(): void {
    this.#stopped = true;
    this.#drop("audio");
    this.#drop("video");
    this.#screen?.stop();
    this.#screen = null;
  }

  async #open(kind: Kind): Promise<void> {
    try {
      const stream = await this.#request({ [kind]: true });
      this.#use(kind, stream.getTracks()[0]!);
    } catch (error) {
      this.trouble[kind] = mediaTrouble(kind, error);
    }
  }

  async #request(wanted: Partial<Record<Kind, true>>): Promise<MediaStream> {
    const { width, height } = this.#size;
    return navigator.mediaDevices.getUserMedia({
      ...(wanted.audio ? { audio: { echoCancellation: true, noiseSuppression: true } } : {}),
      ...(wanted.video ? { video: { width: { ideal: width }, height: { ideal: height } } } : {}),
    });
  }

  #use(kind: Kind, track: MediaStreamTrack): void {
    if (this.#stopped) return track.stop();
    this.#tracks[kind]?.stop();
    this.#tracks[kind] = track;
    this.trouble[kind] = null;
    track.addEventListener("ended", () => {
      if (this.#tracks[kind] !== track) return;
      this.#tracks[kind] = null;
      this.trouble[kind] = mediaTrouble(kind, new DOMException("unplugged", "AbortError"));
      this.#changed();
    });
    if (kind === "audio") track.enabled = this.on.audio;
    else if (!this.on.video) this.#drop("video");
  }

  #drop(kind: Kind): void {
    this.#tracks[kind]?.stop();
    this.#tracks[kind] = null;
  }

  #dropScreen(): void {
    this.#screen?.stop();
    this.#screen = null;
    this.#changed();
  }
}
