/** The screens around a call: logging in, choosing a room, looking into the mirror, and what went wrong. */

import { h, icon } from "./dom.js";
import type { Devices } from "./media.js";
import type { RoomSummary } from "./matrix.js";

function card(title: string, ...children: (Node | string | null | false)[]): HTMLElement {
  return h("main", { class: "card" }, h("h1", {}, title), ...children);
}

const alertLine = (): HTMLElement => h("p", { class: "trouble", role: "alert", hidden: true });

function show(line: HTMLElement, words: string | null): void {
  line.textContent = words ?? "";
  line.hidden = words === null;
}

/** Runs `action` with the form switched off; what it rejects with is shown, as `describe` puts it. */
async function submit(
  form: HTMLFormElement,
  line: HTMLElement,
  action: () => Promise<void>,
  describe: (error: unknown) => string,
): Promise<void> {
  const fields = form.querySelector("fieldset")!;
  fields.disabled = true;
  show(line, null);
  try {
    await action();
  } catch (error) {
    show(line, describe(error));
  } finally {
    fields.disabled = false;
  }
}

export function waitingScreen(words: string): HTMLElement {
  return h(
    "main",
    { class: "card waiting", role: "status" },
    h("div", { class: "spinner" }),
    h("p", {}, words),
  );
}

export function troubleScreen(title: string, words: string, label: string, retry: () => void): HTMLElement {
  return card(
    title,
    h("p", { role: "alert" }, words),
    h("button", { class: "primary", type: "button", onclick: retry }, label),
  );
}

export function loginScreen(
  homeserver: string,
  logIn: (homeserver: string, user: string, password: string) => Promise<void>,
  describe: (error: unknown) => string,
): HTMLElement {
  const trouble = alertLine();
  const server = h("input", { name: "homeserver", required: true, value: homeserver, autocomplete: "url" });
  const user = h("input", { name: "user", required: true, autocomplete: "username", autocapitalize: "none" });
  const password = h("input", {
    name: "password",
    type: "password",
    required: true,
    autocomplete: "current-password",
  });
  const form = h(
    "form",
    {},
    h(
      "fieldset",
      {},
      h("label", {}, "Homeserver", server),
      h("label", {}, "User name", user),
      h("label", {}, "Password", password),
      h("button", { class: "primary", type: "submit" }, "Log in"),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void submit(form, trouble, () => logIn(server.value, user.value, password.value), describe);
  });
  return card("Log in with Matrix", form, trouble);
}

export function roomsScreen(
  me: string,
  rooms: readonly RoomSummary[],
  choose: (room: string) => Promise<void>,
  logOut: () => void,
  describe: (error: unknown) => string,
): HTMLElement {
  const trouble = alertLine();
  const room = h("input", {
    name: "room",
    required: true,
    placeholder: "#room:example.org",
    autocapitalize: "none",
  });
  const form = h(
    "form",
    {},
    h(
      "fieldset",
      {},
      h("label", {}, "Another room, by its address or id", room),
      h("button", { type: "submit" }, "Open"),
    ),
  );
  const open = (id: string): void => void submit(form, trouble, () => choose(id), describe);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    open(room.value.trim());
  });
  const list = h(
    "ul",
    { class: "rooms" },
    ...rooms.map(({ id, name, people }) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", onclick: () => open(id) },
          h("span", { class: "name" }, name),
          h("span", { class: "people" }, `${people} ${people === 1 ? "member" : "members"}`),
        ),
      ),
    ),
  );
  return card(
    "Choose a room",
    h(
      "p",
      { class: "quiet" },
      `Logged in as ${me}. `,
      h("button", { class: "link", type: "button", onclick: logOut }, "Log out"),
    ),
    rooms.length > 0 ? list : h("p", {}, "You are in no room yet."),
    form,
    trouble,
  );
}

export interface LobbyHooks {
  join(): void;
  back(): void;
}

/** The mirror before the call: what others will see, who is there, and the button to join. */
export class LobbyScreen {
  readonly element: HTMLElement;
  readonly #devices: Devices;
  readonly #video = h("video", { autoplay: true, playsinline: true });
  readonly #words = h("p", { class: "quiet", role: "status", "aria-live": "polite" });
  readonly #trouble = h("div", { class: "trouble", role: "alert" });
  readonly #join: HTMLButtonElement;
  readonly #switches: Record<"audio" | "video", HTMLButtonElement>;

  constructor(roomName: string, devices: Devices, hooks: LobbyHooks) {
    this.#devices = devices;
    this.#video.muted = true;
    this.#join = h("button", { class: "primary join", type: "button", onclick: () => hooks.join() });
    const flip = (kind: "audio" | "video"): HTMLButtonElement =>
      h("button", { class: `control ${kind}`, type: "button", onclick: () => void devices.toggle(kind) });
    this.#switches = { audio: flip("audio"), video: flip("video") };
    this.element = card(
      roomName,
      this.#words,
      h(
        "div",
        { class: "mirror" },
        this.#video,
        h("div", { class: "controls" }, this.#switches.audio, this.#switches.video),
      ),
      this.#trouble,
      h(
        "div",
        { class: "row" },
        this.#join,
        h("button", { class: "link", type: "button", onclick: () => hooks.back() }, "Choose another room"),
      ),
    );
  }

  /** `there`: the names of those in the call; null: there is no call yet. `problem`: why joining failed last. */
  update(there: readonly string[] | null, problem: string | null): void {
    const { camera, media, trouble, on } = this.#devices;
    const stream = camera && new MediaStream([camera]);
    const shown =
      this.#video.srcObject instanceof MediaStream ? this.#video.srcObject.getVideoTracks()[0] : null;
    if (shown !== camera) this.#video.srcObject = stream;
    this.#video.hidden = !camera;
    this.#join.textContent = there === null ? "Start the call" : "Join the call";
    this.#words.textContent = describeCall(there);
    for (const kind of ["audio", "video"] as const) {
      const live = kind === "audio" ? !media.audioMuted : !media.videoMuted;
      const names = kind === "audio" ? (["mic", "mic-off"] as const) : (["camera", "camera-off"] as const);
      const device = kind === "audio" ? "microphone" : "camera";
      const button = this.#switches[kind];
      button.setAttribute("aria-label", `Switch the ${device} ${live ? "off" : "on"}`);
      button.title = button.getAttribute("aria-label")!;
      button.replaceChildren(icon(names[live ? 0 : 1]));
      button.classList.toggle("off", !live);
    }
    const lines = [problem, ...(["audio", "video"] as const).map((kind) => on[kind] && trouble[kind])];
    this.#trouble.replaceChildren(
      ...lines.filter((line) => !!line).map((line) => h("p", {}, line as string)),
    );
  }

  /** While joining, there is nothing to press. */
  busy(busy: boolean): void {
    this.#join.disabled = busy;
  }
}

function describeCall(there: readonly string[] | null): string {
  if (there === null) return "Nobody has started a call here yet.";
  if (there.length === 0) return "Nobody is in the call now.";
  const names = there.length > 4 ? [...there.slice(0, 3), `${there.length - 3} others`] : there;
  return `In the call: ${names.join(", ")}`;
}
