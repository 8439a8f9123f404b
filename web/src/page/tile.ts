/** One picture in the grid: somebody's camera or screen, or their initials. */

import type { Size } from "../msc3898/index.js";
import { h, hue, icon, initials } from "./dom.js";

export interface TileModel {
  /** The same for as long as it is the same picture. */
  readonly key: string;
  readonly userId: string;
  readonly deviceId: string;
  readonly purpose: string;
  readonly name: string;
  readonly own: boolean;
  /** Null: in the call, but (not yet) sending anything. */
  readonly stream: MediaStream | null;
  /** The stream's id at the focus; null for one's own, and where there is none. */
  readonly streamId: string | null;
  readonly hasVideo: boolean;
  /** It has video that is not sent here: the link is too narrow. */
  readonly paused: boolean;
  readonly audioMuted: boolean;
  readonly speaking: boolean;
}

const SIZE_SETTLES_MS = 150;

export class Tile {
  readonly element: HTMLElement;
  readonly #video: HTMLVideoElement;
  readonly #avatar: HTMLElement;
  readonly #name: HTMLElement;
  readonly #muted: HTMLElement;
  readonly #paused: HTMLElement;
  readonly #enlarge: HTMLButtonElement;
  readonly #resized: ResizeObserver;
  readonly #seen: IntersectionObserver;
  readonly #onSize: (tile: Tile, size: Size | null) => void;
  #model: TileModel | null = null;
  #visible = true;
  #settling: ReturnType<typeof setTimeout> | undefined;

  /** `onSize`: the size in which the picture is shown, in pixels of the screen; null while it is out of sight. */
  constructor(onEnlarge: () => void, onSize: (tile: Tile, size: Size | null) => void, onSilent: () => void) {
    this.#onSize = onSize;
    this.#video = h("video", { autoplay: true, playsinline: true });
    this.#avatar = h("div", { class: "avatar", "aria-hidden": "true" });
    this.#name = h("span", { class: "name" });
    this.#muted = h("span", { class: "muted", role: "img", "aria-label": "microphone off" }, icon("mic-off"));
    this.#paused = h("p", { class: "paused" }, "Video paused: your connection is slow");
    this.#enlarge = h("button", { class: "enlarge", type: "button", onclick: onEnlarge });
    this.element = h(
      "article",
      { class: "tile" },
      this.#video,
      this.#avatar,
      this.#paused,
      h("div", { class: "caption" }, this.#muted, this.#name),
      this.#enlarge,
    );
    this.#resized = new ResizeObserver(() => this.#measureSoon());
    this.#resized.observe(this.element);
    this.#seen = new IntersectionObserver(([entry]) => {
      this.#visible = entry?.isIntersecting ?? true;
      this.#measureSoon();
    });
    this.#seen.observe(this.element);
    // Browsers may refuse to play sound before the person has touched the page.
    this.#video.addEventListener("loadedmetadata", () => void this.#video.play().catch(onSilent));
  }

  get model(): TileModel | null {
    return this.#model;
  }

  /** Tries again to play, now that the person has touched the page. */
  play(): void {
    void this.#video.play().catch(() => undefined);
  }

  update(model: TileModel, enlarged: boolean): void {
    const before = this.#model;
    this.#model = model;
    const { dataset, classList } = this.element;
    Object.assign(dataset, { user: model.userId, device: model.deviceId, purpose: model.purpose });
    this.element.setAttribute("aria-label", model.name);
    this.#name.textContent = model.own ? `${model.name} (you)` : model.name;
    this.#avatar.textContent = initials(model.name);
    this.element.style.setProperty("--hue", String(hue(model.userId)));
    this.#video.muted = model.own;
    if (this.#video.srcObject !== model.stream) this.#video.srcObject = model.stream;
    classList.toggle("own", model.own);
    classList.toggle("screen", model.purpose === "m.screenshare");
    classList.toggle("no-video", !model.hasVideo || model.paused);
    classList.toggle("speaking", model.speaking);
    classList.toggle("waiting", model.stream === null);
    this.#muted.hidden = !model.audioMuted;
    this.#paused.hidden = !(model.hasVideo && model.paused);
    const label = `${enlarged ? "Shrink" : "Enlarge"} ${model.name}`;
    if (this.#enlarge.getAttribute("aria-label") !== label) {
      this.#enlarge.setAttribute("aria-label", label);
      this.#enlarge.title = label;
      this.#enlarge.replaceChildren(icon(enlarged ? "shrink" : "enlarge"));
    }
    if (before?.streamId !== model.streamId) this.#measureSoon();
  }

  remove(): void {
    clearTimeout(this.#settling);
    this.#resized.disconnect();
    this.#seen.disconnect();
    this.#video.srcObject = null;
    this.element.remove();
  }

  /** Says the size again: the page came back to the front, or went away. */
  measure(hidden = document.hidden): void {
    const { clientWidth, clientHeight } = this.element;
    const shown = this.#visible && !hidden && clientWidth > 0 && clientHeight > 0;
    const ratio = devicePixelRatio || 1;
    this.#onSize(this, shown ? { width: clientWidth * ratio, height: clientHeight * ratio } : null);
  }

  #measureSoon(): void {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.measure(), SIZE_SETTLES_MS);
  }
}
