/** Makes elements, and the few icons of the page. */

type Child = Node | string | null | false;
type Attributes = Record<string, string | boolean | ((event: Event) => void)>;

/** `h("button", { class: "x", onclick: … }, "text")`. False attributes are left out. */
export function h<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Name] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.replace(/^on/, ""), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child): child is Node | string => child !== null && child !== false));
  return element;
}

const PATHS = {
  mic: "M12 15a3 3 0 0 0 3-3V6a3 3 0 0 0-6 0v6a3 3 0 0 0 3 3Zm7-3a7 7 0 0 1-14 0m7 7v3",
  "mic-off":
    "M4 3l16 17M9 9v3a3 3 0 0 0 5 2.2M15 11V6a3 3 0 0 0-5.8-1M5 12a7 7 0 0 0 11 5.7M19 12a7 7 0 0 1-.6 2.8M12 19v3",
  camera: "M3 7h12v10H3zm12 4 6-3.5v9L15 13",
  "camera-off": "M4 3l16 18M3 7h3m5 0h4v4l6-3.5v9L15 13M15 17H3V7",
  screen: "M3 5h18v11H3zm5 15h8m-4-4v4M12 13V8m-2.5 2L12 7.5 14.5 10",
  leave: "M3 15c5-6 13-6 18 0l-2.5 2.5-3.500-1.700v-3c-2-.7-4-.7-6 0v3l-3.500 1.700Z",
  enlarge: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  shrink: "M9 4v5H4M15 4v5h5M9 20v-5H4M15 20v-5h5",
} as const;

export type IconName = keyof typeof PATHS;

/** An icon without words: whatever holds it must have a label. */
export function icon(name: IconName): SVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** `Ada Lovelace` → `AL`; `@bob:example.org` → `B`. */
export function initials(name: string): string {
  const words = name
    .replace(/^@/, "")
    .split(/:.*|[\s._-]+/)
    .filter(Boolean);
  const letters = [words[0], words.length > 1 ? words.at(-1) : undefined].map(
    (word) => [...(word ?? "")][0] ?? "",
  );
  return letters.join("").toUpperCase() || "?";
}

/** A colour that always is the same for the same text. */
export function hue(text: string): number {
  return [...text].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)!) % 360, 7);
}
