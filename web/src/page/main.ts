/** The call page: which screen is shown when. */

import "./style.css";
import { CallScreen } from "./call-screen.js";
import { debugHandle } from "./debug.js";
import { Devices, readCameraSize } from "./media.js";
import { Matrix, logIn } from "./matrix.js";
import { CallProblem, Participation, callOf } from "./participation.js";
import { LobbyScreen, loginScreen, roomsScreen, troubleScreen, waitingScreen } from "./screens.js";
import {
  findHomeserver,
  loadConfig,
  saveRoom,
  saveSession,
  savedRoom,
  savedSession,
  setInCall,
  takeFragment,
  wasInCall,
  type PageConfig,
  type Session,
} from "./session.js";
import { homeserverTrouble } from "./words.js";

const root = document.getElementById("app")!;
const query = new URLSearchParams(location.search);

let config: PageConfig;
let matrix: Matrix;
let participation: Participation | null = null;
let devices: Devices | null = null; // of the room that is open
let offline: HTMLElement | null = null;

Object.assign(window, { sfuCall: debugHandle(() => participation) });

function show(screen: HTMLElement, title = "Call"): void {
  document.title = title;
  root.replaceChildren(screen);
}

async function begin(): Promise<void> {
  takeFragment();
  show(waitingScreen("Loading…"));
  config = await loadConfig();
  const session = savedSession();
  if (session) await useSession(session);
  else askToLogIn();
}

function askToLogIn(): void {
  const suggestion = config.homeserver ?? config.focus?.userId.replace(/^[^:]*:/, "") ?? "";
  const enter = async (homeserver: string, user: string, password: string): Promise<void> => {
    const session = await logIn(await findHomeserver(homeserver), user, password);
    saveSession(session);
    await useSession(session);
  };
  show(loginScreen(suggestion, enter, homeserverTrouble), "Log in");
}

async function useSession(session: Session): Promise<void> {
  show(waitingScreen("Connecting to the homeserver…"));
  matrix = new Matrix(session);
  const waiting = setTimeout(
    () => show(waitingScreen(`The homeserver ${session.homeserver} does not answer. Still trying…`)),
    8_000,
  );
  try {
    await matrix.start(showOnline, () => sessionOver("The homeserver has ended this session."));
  } catch (error) {
    return sessionOver(homeserverTrouble(error));
  } finally {
    clearTimeout(waiting);
  }
  const room = savedRoom();
  if (room) await openRoom(room).catch((error: unknown) => chooseRoom(homeserverTrouble(error)));
  else chooseRoom();
}

function sessionOver(words: string): void {
  participation?.call.stop();
  participation = null;
  devices?.stop();
  matrix.stop();
  saveSession(null);
  showOnline(true);
  show(troubleScreen("Logged out", words, "Log in", askToLogIn));
}

/** The line that says that the homeserver is away; media does not need it. */
function showOnline(online: boolean): void {
  if (online === (offline === null)) return;
  offline?.remove();
  offline = null;
  if (online) return;
  offline = document.createElement("p");
  offline.className = "offline";
  offline.setAttribute("role", "status");
  offline.textContent = "The homeserver cannot be reached. Trying again…";
  document.body.append(offline);
}

function chooseRoom(problem?: string): void {
  saveRoom(null);
  const screen = roomsScreen(
    matrix.session.userId,
    matrix.rooms(),
    openRoom,
    () => void logOut(),
    homeserverTrouble,
  );
  const line = screen.querySelector<HTMLElement>(".trouble");
  if (problem && line) {
    line.textContent = problem;
    line.hidden = false;
  }
  show(screen, "Choose a room");
}

async function logOut(): Promise<void> {
  await matrix.logOut().catch(() => undefined);
  saveSession(null);
  askToLogIn();
}

async function openRoom(idOrAlias: string): Promise<void> {
  const roomId = await matrix.join(idOrAlias);
  saveRoom(roomId);
  await lobby(roomId);
}

async function lobby(roomId: string, problem: string | null = null): Promise<void> {
  const name = matrix.roomName(roomId);
  const returning = wasInCall(); // asked now: who presses the button before the camera is ready is in the call, too
  let update = (): void => undefined;
  const own = new Devices(readCameraSize(query.get("camera")), () => update());
  devices = own;
  let words = problem;
  let open = true; // nobody has chosen another room yet
  const screen = new LobbyScreen(name, own, {
    join: () => void join(),
    back: () => {
      open = false;
      stop();
      own.stop();
      chooseRoom();
    },
  });
  const there = (): string[] | null => {
    const { confId, devices: inCall } = callOf(matrix, roomId);
    const others = inCall.filter(
      ({ deviceId, userId }) => deviceId !== matrix.me.deviceId || userId !== matrix.me.userId,
    );
    return confId === null ? null : others.map(({ userId }) => matrix.displayName(roomId, userId));
  };
  const paint = (): void => screen.update(there(), words);
  update = paint;
  const stop = matrix.onChange(paint);
  const join = async (): Promise<void> => {
    screen.busy(true);
    try {
      await own.opened();
      if (!open) return;
      const view = await enterCall(roomId, own);
      stop();
      update = view;
    } catch (error) {
      words = error instanceof CallProblem ? error.message : homeserverTrouble(error);
      setInCall(false);
      paint();
    } finally {
      screen.busy(false);
    }
  };
  if (returning) show(waitingScreen("Going back into the call…"), name);
  else show(screen.element, name);
  paint();
  own.start();
  if (!returning) return;
  await join();
  if (!participation) show(screen.element, name);
}

/** Joins, and shows the call; gives what is to be done when a device of ours changes. */
async function enterCall(roomId: string, devices: Devices): Promise<() => void> {
  const finish = (words: string | null): void => {
    participation = null;
    setInCall(false);
    devices.stop();
    screen.close();
    void lobby(roomId, words);
  };
  const screen = new CallScreen(matrix, devices, matrix.roomName(roomId), () => {
    void participation?.leave();
    finish(null);
  });
  participation = await Participation.join(matrix, roomId, devices, config.focus, {
    changed: () => screen.update(),
    status: (words) => screen.status(words),
    ended: finish,
  });
  setInCall(true);
  show(screen.element, matrix.roomName(roomId));
  screen.attach(participation);
  return () => {
    participation?.publish();
    screen.update();
  };
}

addEventListener("pagehide", (event) => {
  if (event.persisted) return; // kept for the way back: the leg ends by itself if that takes long
  participation?.goAway();
});

void begin();
