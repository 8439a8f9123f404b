/** Everybody's tiles: as large as they get in the space there is, or one large and the others in a strip. */

import type { Size } from "../msc3898/index.js";
import { h } from "./dom.js";
import { Tile, type TileModel } from "./tile.js";

const GAP = 10; // pixels, as in the style sheet
const RATIO = 16 / 9;

export interface GridHooks {
  /** The video of this stream is shown in this size, or not at all. A muted one keeps its size for its return. */
  onSize(streamId: string, size: Size | null): void;
  /** The browser does not play sound before the person has clicked somewhere. */
  onSilent(): void;
}

/** How many columns make `count` tiles of 16:9 largest in a box of this size. */
export function bestColumns(count: number, width: number, height: number): number {
  let best = { columns: 1, tileWidth: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const byWidth = (width - GAP * (columns - 1)) / columns;
    const byHeight = ((height - GAP * (rows - 1)) / rows) * RATIO;
    const tileWidth = Math.min(byWidth, byHeight);
    if (tileWidth > best.tileWidth) best = { columns, tileWidth };
  }
  return best.columns;
}

/** Where the first tile of the last row starts, in half columns from 1, so that the row stands in the middle. */
export function lastRowStart(count: number, columns: number): number {
  const rest = count % columns;
  return rest === 0 ? 1 : columns - rest + 1;
}

export class Grid {
  readonly element = h("section", { class: "grid", "aria-label": "People in the call" });
  readonly #tiles = new Map<string, Tile>();
  readonly #hooks: GridHooks;
  readonly #resized = new ResizeObserver(() => this.#layOut());
  readonly #onVisibility = (): void => this.#tiles.forEach((tile) => tile.measure());
  #models: readonly TileModel[] = [];
  #enlarged: string | null = null;

  constructor(hooks: GridHooks) {
    this.#hooks = hooks;
    this.#resized.observe(this.element);
    document.addEventListener("visibilitychange", this.#onVisibility);
  }

  update(models: readonly TileModel[]): void {
    this.#models = models;
    const keys = new Set(models.map(({ key }) => key));
    if (this.#enlarged !== null && !keys.has(this.#enlarged)) this.#enlarged = null;
    for (const [key, tile] of this.#tiles) {
      if (keys.has(key)) continue;
      tile.remove();
      this.#tiles.delete(key);
    }
    for (const model of models) this.#tileOf(model.key).update(model, model.key === this.#enlarged);
    this.#layOut();
  }

  play(): void {
    for (const tile of this.#tiles.values()) tile.play();
  }

  close(): void {
    this.#resized.disconnect();
    document.removeEventListener("visibilitychange", this.#onVisibility);
    for (const tile of this.#tiles.values()) tile.remove();
    this.#tiles.clear();
  }

  #tileOf(key: string): Tile {
    let tile = this.#tiles.get(key);
    if (!tile) {
      tile = new Tile(
        () => this.#toggle(key),
        ({ model }, size) => model?.streamId && this.#hooks.onSize(model.streamId, size),
        () => this.#hooks.onSilent(),
      );
      this.#tiles.set(key, tile);
      this.element.append(tile.element);
    }
    return tile;
  }

  #toggle(key: string): void {
    this.#enlarged = this.#enlarged === key ? null : key;
    this.update(this.#models);
  }

  #layOut(): void {
    const { clientWidth, clientHeight, classList, style } = this.element;
    classList.toggle("spotlight", this.#enlarged !== null);
    const count = Math.max(1, this.#tiles.size);
    const columns = bestColumns(count, clientWidth, clientHeight);
    const rows = Math.ceil(count / columns);
    let index = 0;
    for (const [key, { element }] of this.#tiles) {
      element.classList.toggle("enlarged", key === this.#enlarged);
      const startsLastRow = index++ === (rows - 1) * columns;
      element.style.setProperty("--start", startsLastRow ? String(lastRowStart(count, columns)) : "auto");
    }
    style.setProperty("--columns", String(columns));
    style.setProperty("--rows", String(rows));
    style.setProperty("--others", String(Math.max(1, count - 1)));
  }
}
