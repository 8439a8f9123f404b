/** The screen of a call: the grid, the controls, and what is to be said. */

import type { RemoteFeed } from "../msc3898/index.js";
import { trackIds } from "../msc3898/feeds.js";
import { h, icon, type IconName } from "./dom.js";
import { Grid } from "./grid.js";
import type { Devices } from "./media.js";
import type { Matrix } from "./matrix.js";
import type { Participation } from "./participation.js";
import { Presence, RETURN_MS } from "./presence.js";
import type { TileModel } from "./tile.js";

const ERROR_SHOWN_MS = 8_000;

export class CallScreen {
  readonly element: HTMLElement;
  readonly #matrix: Matrix;
  readonly #devices: Devices;
  readonly #grid: Grid;
  readonly #status = h("p", { class: "status", role: "status", "aria-live": "polite", hidden: true });
  readonly #notice = h("p", { class: "notice", role: "alert", hidden: true });
  readonly #people = h("span", { class: "people" });
  readonly #controls: Record<"audio" | "video" | "screen", HTMLButtonElement>;
  readonly #presence = new Presence();
  readonly #ownCamera = new MediaStream();
  readonly #ownScreen = new MediaStream();
  #participation: Participation | null = null;
  #speaker: string | null = null; // its stream's id
  #clearNotice: ReturnType<typeof setTimeout> | undefined;
  #lookAgain: ReturnType<typeof setTimeout> | undefined;

  constructor(matrix: Matrix, devices: Devices, roomName: string, leave: () => void) {
    this.#matrix = matrix;
    this.#devices = devices;
    this.#grid = new Grid({
      onSize: (streamId, size) => this.#participation?.call.show(streamId, size),
      onSilent: () => this.#askForClick(),
    });
    this.#controls = {
      audio: control("audio", () => void devices.toggle("audio")),
      video: control("video", () => void devices.toggle("video")),
      screen: control("screen", () => void devices.toggleScreen()),
    };
    this.element = h(
      "main",
      { class: "call" },
      h("header", {}, h("h1", {}, roomName), this.#people, this.#status),
      this.#grid.element,
      this.#notice,
      h(
        "nav",
        { class: "controls", "aria-label": "Call controls" },
        this.#controls.audio,
        this.#controls.video,
        "getDisplayMedia" in (navigator.mediaDevices ?? {}) && this.#controls.screen,
        h(
          "button",
          { class: "leave", type: "button", title: "Leave the call", onclick: leave },
          icon("leave"),
          "Leave",
        ),
      ),
    );
  }

  /** The call is joined: shows who is in it. */
  attach(participation: Participation): void {
    this.#participation = participation;
    participation.call.on("speaker", (_, streamId) => {
      this.#speaker = streamId;
      this.update();
    });
    participation.call.on("refused", ({ message, code }) =>
      this.notify(`The call server refused a request: ${message || code}`),
    );
    this.update();
  }

  /** What is going on while it is not all well; null: it is. */
  status(words: string | null): void {
    this.#status.textContent = words ?? "";
    this.#status.hidden = words === null;
  }

  /** Says something once. */
  notify(words: string): void {
    clearTimeout(this.#clearNotice);
    this.#notice.replaceChildren(words);
    this.#notice.hidden = false;
    this.#clearNotice = setTimeout(() => (this.#notice.hidden = true), ERROR_SHOWN_MS);
  }

  update(): void {
    const { on, trouble, media } = this.#devices;
    paint(this.#controls.audio, !media.audioMuted, "mic", "Mute the microphone", "Unmute the microphone");
    paint(this.#controls.video, !media.videoMuted, "camera", "Switch the camera off", "Switch the camera on");
    const sharing = this.#devices.screen !== null;
    paint(this.#controls.screen, sharing, "screen", "Stop sharing the screen", "Share the screen");
    for (const kind of ["audio", "video"] as const) {
      const words = on[kind] ? trouble[kind] : null;
      this.#controls[kind].classList.toggle("trouble", words !== null);
      if (words) this.#controls[kind].title = words;
    }
    const tiles = this.#tiles();
    this.#grid.update(tiles);
    const people = new Set(tiles.map(({ userId, deviceId }) => `${userId} ${deviceId}`)).size;
    this.#people.textContent = people === 1 ? "only you" : `${people} people`;
  }

  close(): void {
    clearTimeout(this.#clearNotice);
    clearTimeout(this.#lookAgain);
    this.#grid.close();
    this.element.remove();
  }

  #tiles(): TileModel[] {
    const participation = this.#participation;
    const feeds = participation?.call.feeds ?? [];
    const seen = new Set(feeds.map(({ owner }) => `${owner.userId} ${owner.deviceId}`));
    const waiting = this.#presence.waiting(
      participation?.others ?? [],
      ({ userId, deviceId }) => seen.has(`${userId} ${deviceId}`),
      participation?.state === "connected",
      performance.now(),
    );
    clearTimeout(this.#lookAgain);
    if (waiting.length > 0) this.#lookAgain = setTimeout(() => this.update(), RETURN_MS);
    return [
      ...this.#ownTiles(),
      ...feeds.map((feed) => this.#remoteTile(feed)),
      ...waiting.map(({ userId, deviceId }) => ({
        ...this.#blank(userId, deviceId),
        key: `waiting ${userId} ${deviceId}`,
      })),
    ];
  }

  #ownTiles(): TileModel[] {
    const { camera, screen, media } = this.#devices;
    const { userId, deviceId } = this.#matrix.me;
    const blank = { ...this.#blank(userId, deviceId), own: true };
    const own = {
      ...blank,
      key: "own",
      stream: holding(this.#ownCamera, camera),
      hasVideo: camera !== null,
      audioMuted: media.audioMuted,
    };
    if (!screen) return [own];
    const stream = holding(this.#ownScreen, screen);
    return [own, { ...blank, key: "own screen", purpose: "m.screenshare", stream, hasVideo: true }];
  }

  #remoteTile(feed: RemoteFeed): TileModel {
    const screen = feed.purpose === "m.screenshare";
    const { owner, purpose, stream, streamId, audioMuted, videoMuted, paused } = feed;
    const blank = this.#blank(owner.userId, owner.deviceId);
    return {
      ...blank,
      key: streamId,
      name: screen ? `${blank.name}'s screen` : blank.name,
      purpose,
      stream,
      streamId,
      hasVideo: !videoMuted && trackIds(feed, "video").length > 0,
      paused,
      audioMuted: !screen && (audioMuted || trackIds(feed, "audio").length === 0),
      speaking: this.#speaker === streamId && !audioMuted,
    };
  }

  #blank(userId: string, deviceId: string): Omit<TileModel, "key"> {
    return {
      userId,
      deviceId,
      purpose: "m.usermedia",
      name: this.#matrix.displayName(this.#participation?.roomId ?? "", userId),
      own: false,
      stream: null,
      streamId: null,
      hasVideo: false,
      paused: false,
      audioMuted: false,
      speaking: false,
    };
  }

  #askForClick(): void {
    clearTimeout(this.#clearNotice);
    const play = (): void => {
      this.#grid.play();
      this.#notice.hidden = true;
    };
    this.#notice.replaceChildren(
      "The browser holds back the sound. ",
      h("button", { type: "button", onclick: play }, "Play it"),
    );
    this.#notice.hidden = false;
  }
}

function control(name: string, onclick: () => void): HTMLButtonElement {
  return h("button", { class: `control ${name}`, type: "button", onclick });
}

/** Shows a switch: what it does when pressed is its label. */
function paint(
  button: HTMLButtonElement,
  on: boolean,
  name: IconName,
  whenOn: string,
  whenOff: string,
): void {
  const off: Partial<Record<IconName, IconName>> = { mic: "mic-off", camera: "camera-off" };
  const label = on ? whenOn : whenOff;
  if (button.getAttribute("aria-label") !== label) {
    button.setAttribute("aria-label", label);
    button.replaceChildren(icon(on ? name : (off[name] ?? name)));
  }
  button.title = label;
  button.classList.toggle("off", !on);
}

function holding(stream: MediaStream, track: MediaStreamTrack | null): MediaStream {
  for (const other of stream.getTracks()) if (other !== track) stream.removeTrack(other);
  if (track) stream.addTrack(track);
  return stream;
}
