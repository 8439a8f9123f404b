/** The page's side of Matrix: session, sync, rooms, state and to-device messages, by matrix-js-sdk. */

import {
  ClientEvent,
  HttpApiEvent,
  MatrixError,
  RoomEvent,
  RoomMemberEvent,
  RoomStateEvent,
  SyncState,
  createClient,
  type MatrixClient,
  type MatrixEvent,
  type Room,
} from "matrix-js-sdk";
import type { Logger } from "matrix-js-sdk/lib/logger.js";

import type { DeviceAddress, Signalling } from "../msc3898/index.js";
import type { StateEvent } from "./members.js";
import type { Session } from "./session.js";

export interface RoomSummary {
  readonly id: string;
  readonly name: string;
  readonly people: number;
}

const silent = (): void => undefined;
const quiet: Logger = {
  trace: silent,
  debug: silent,
  info: silent,
  warn: silent,
  error: (...words: unknown[]) => console.error(...words),
  getChild: () => quiet,
};

/** Logs in with a password. Rejects with the SDK's MatrixError, or a network error. */
export async function logIn(homeserver: string, user: string, password: string): Promise<Session> {
  const client = createClient({ baseUrl: homeserver, logger: quiet, disableVoip: true });
  const answer = await client.loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
    initial_device_display_name: "Call page",
  });
  return {
    homeserver: answer.well_known?.["m.homeserver"]?.base_url ?? homeserver,
    userId: answer.user_id,
    deviceId: answer.device_id,
    token: answer.access_token,
  };
}

export class Matrix implements Signalling {
  readonly session: Session;
  readonly #client: MatrixClient;
  readonly #listeners = new Set<() => void>();

  constructor(session: Session) {
    this.session = session;
    this.#client = createClient({
      baseUrl: session.homeserver,
      userId: session.userId,
      deviceId: session.deviceId,
      accessToken: session.token,
      logger: quiet,
      disableVoip: true, // its own calls would answer for ours
    });
  }

  get me(): DeviceAddress {
    return { userId: this.session.userId, deviceId: this.session.deviceId };
  }

  /**
   * Starts to sync and resolves when the rooms are known. Rejects when the session is over.
   * `online`: whether the homeserver answers, each time that this changes. `loggedOut`: the session has ended.
   */
  async start(online: (online: boolean) => void, loggedOut: () => void): Promise<void> {
    this.#client.on(HttpApiEvent.SessionLoggedOut, loggedOut);
    const changed = (): void => this.#listeners.forEach((listener) => listener());
    this.#client.on(RoomStateEvent.Events, changed);
    this.#client.on(RoomMemberEvent.Membership, changed);
    this.#client.on(RoomEvent.MyMembership, changed);
    const prepared = new Promise<void>((resolve, reject) => {
      this.#client.on(ClientEvent.Sync, (state, _previous, data) => {
        online(state !== SyncState.Reconnecting && state !== SyncState.Error);
        if (state === SyncState.Prepared) resolve();
        if (data?.error instanceof MatrixError && data.error.errcode === "M_UNKNOWN_TOKEN")
          reject(data.error);
      });
    });
    await this.#client.startClient({ initialSyncLimit: 1, lazyLoadMembers: false, disablePresence: true });
    await prepared;
  }

  stop(): void {
    this.#client.stopClient();
  }

  async logOut(): Promise<void> {
    this.stop();
    await this.#client.logout();
  }

  // ------------------------------------------------------------------ rooms

  /** Calls back when any room's state or membership has changed. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  rooms(): RoomSummary[] {
    return this.#client
      .getRooms()
      .filter((room) => room.getMyMembership() === "join" && !room.isSpaceRoom())
      .map((room) => ({ id: room.roomId, name: room.name, people: room.getJoinedMemberCount() }))
      .sort((a, b) => a.name.localeCompare(b.name));
  }

  isJoined(roomId: string): boolean {
    return this.#client.getRoom(roomId)?.getMyMembership() === "join";
  }

  /** Joins a room by its id or alias, and resolves with its id once its state is known. */
  async join(idOrAlias: string): Promise<string> {
    const known = this.#client.getRoom(idOrAlias);
    const roomId =
      known && this.isJoined(idOrAlias) ? idOrAlias : (await this.#client.joinRoom(idOrAlias)).roomId;
    await this.#synced(roomId);
    return roomId;
  }

  async #synced(roomId: string): Promise<void> {
    if (this.isJoined(roomId)) return;
    await new Promise<void>((resolve) => {
      const stop = this.onChange(() => {
        if (!this.isJoined(roomId)) return;
        stop();
        resolve();
      });
    });
  }

  roomName(roomId: string): string {
    return this.#client.getRoom(roomId)?.name ?? roomId;
  }

  displayName(roomId: string, userId: string): string {
    return this.#client.getRoom(roomId)?.getMember(userId)?.name ?? userId;
  }

  /** Who has joined the room. */
  joinedMembers(roomId: string): Set<string> {
    return new Set(
      this.#client
        .getRoom(roomId)
        ?.getJoinedMembers()
        .map((member) => member.userId),
    );
  }

  // ------------------------------------------------------------------ state

  state(roomId: string, types: readonly string[]): StateEvent[] {
    const room: Room | null = this.#client.getRoom(roomId);
    if (!room) return [];
    const read = (event: MatrixEvent): StateEvent => ({
      stateKey: event.getStateKey() ?? "",
      sender: event.getSender() ?? "",
      content: event.getContent(),
      timestamp: event.getTs(),
    });
    return types.flatMap((type) => room.currentState.getStateEvents(type).map(read));
  }

  /** Sends a state event. Rejects with the SDK's MatrixError, or a network error. */
  async sendState(roomId: string, type: string, stateKey: string, content: object): Promise<void> {
    await this.#client.sendStateEvent(roomId, type as never, content as never, stateKey);
  }

  // ------------------------------------------------------------------ to-device

  async sendToDevice(to: DeviceAddress, type: string, content: Record<string, unknown>): Promise<void> {
    await this.#client.sendToDevice(type, new Map([[to.userId, new Map([[to.deviceId, content]])]]));
  }

  onToDevice(listener: (sender: string, type: string, content: Record<string, unknown>) => void): () => void {
    const handle = (event: {
      message: { sender: string; type: string; content: Record<string, unknown> };
    }): void => listener(event.message.sender, event.message.type, event.message.content);
    this.#client.on(ClientEvent.ReceivedToDeviceMessage, handle);
    return () => this.#client.off(ClientEvent.ReceivedToDeviceMessage, handle);
  }

  // ------------------------------------------------------------------ going away

  /** Requests that outlive the page: the browser sends them even while the tab closes. */
  lastWords(requests: readonly { path: string; body: object }[]): void {
    for (const { path, body } of requests) {
      void fetch(`${this.session.homeserver}/_matrix/client/v3/${path}`, {
        method: "PUT",
        keepalive: true,
        headers: { Authorization: `Bearer ${this.session.token}`, "Content-Type": "application/json" },
        body: JSON.stringify(body),
      }).catch(() => undefined); // nobody is there any more to be told
    }
  }
}
