/** A peer connection that keeps the rules of the real one, for tests of ours. What it cannot show, the browser tests do. */

import type { Signalling, DeviceAddress } from "../../src/msc3898/wire.js";

export class FakeStream {
  static #count = 0;
  readonly id = `stream-${FakeStream.#count++}`;
  tracks: MediaStreamTrack[] = [];
  getTracks = (): MediaStreamTrack[] => [...this.tracks];
  addTrack(track: MediaStreamTrack): void {
    if (!this.tracks.includes(track)) this.tracks.push(track);
  }
  removeTrack(track: MediaStreamTrack): void {
    this.tracks = this.tracks.filter((other) => other !== track);
  }
}

export const fakeTrack = (kind: "audio" | "video", width = 640, height = 360): MediaStreamTrack =>
  ({ kind, getSettings: () => (kind === "video" ? { width, height } : {}) }) as unknown as MediaStreamTrack;

class FakeTransceiver {
  mid: string | null = null;
  readonly receiver = { track: fakeTrack("video") };
  readonly sender: {
    track: MediaStreamTrack | null;
    replaceTrack(track: MediaStreamTrack | null): Promise<void>;
    getParameters(): { encodings: RTCRtpEncodingParameters[] };
    setParameters(parameters: { encodings: RTCRtpEncodingParameters[] }): Promise<void>;
  };
  direction: RTCRtpTransceiverDirection;
  constructor(
    track: MediaStreamTrack,
    readonly init: RTCRtpTransceiverInit,
    readonly msid: string,
  ) {
    this.direction = init.direction ?? "sendrecv";
    let encodings = init.sendEncodings ?? [{}];
    this.sender = {
      getParameters: () => ({ encodings: encodings.map((encoding) => ({ active: true, ...encoding })) }),
      setParameters: async (parameters): Promise<void> => {
        await Promise.resolve();
        encodings = parameters.encodings;
      },
      track,
      replaceTrack: async (other): Promise<void> => {
        this.sender.track = other;
      },
    };
  }
}

export class FakeChannel {
  readyState: RTCDataChannelState = "connecting";
  onopen: (() => void) | null = null;
  onclose: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  readonly sent: { type: string; content: Record<string, unknown> }[] = [];
  constructor(readonly label: string) {}
  send(text: string): void {
    this.sent.push(JSON.parse(text) as { type: string; content: Record<string, unknown> });
  }
  open(): void {
    this.readyState = "open";
    this.onopen?.();
  }
  receive(type: string, content: Record<string, unknown> = {}): void {
    this.onmessage?.({ data: JSON.stringify({ type, content }) });
  }
  take(type: string): { type: string; content: Record<string, unknown> }[] {
    return this.sent.filter((message) => message.type === type);
  }
}

export class FakePeerConnection {
  static all: FakePeerConnection[] = [];
  static get last(): FakePeerConnection {
    return FakePeerConnection.all.at(-1)!;
  }
  signalingState: RTCSignalingState = "stable";
  connectionState: RTCPeerConnectionState = "new";
  localDescription: { type: string; sdp: string } | null = null;
  remoteDescription: { type: string; sdp: string } | null = null;
  onicecandidate: ((event: { candidate: unknown }) => void) | null = null;
  onconnectionstatechange: (() => void) | null = null;
  channel: FakeChannel | null = null;
  transceivers: FakeTransceiver[] = [];
  iceRestarts = 0;
  rejects: Set<string> = new Set(); // remote descriptions that it does not take
  #stableLocal: { type: string; sdp: string } | null = null;
  #version = 0;

  constructor() {
    FakePeerConnection.all.push(this);
  }

  createDataChannel(label: string): FakeChannel {
    return (this.channel = new FakeChannel(label));
  }

  addTransceiver(track: MediaStreamTrack, init: RTCRtpTransceiverInit): FakeTransceiver {
    const transceiver = new FakeTransceiver(
      track,
      init,
      `${init.streams![0]!.id} track-${this.transceivers.length}`,
    );
    this.transceivers.push(transceiver);
    return transceiver;
  }

  getTransceivers(): FakeTransceiver[] {
    return this.transceivers;
  }

  async setLocalDescription(description?: { type: string }): Promise<void> {
    await Promise.resolve();
    if (this.signalingState === "closed") throw new Error("closed");
    if (description?.type === "rollback") {
      if (this.signalingState !== "have-local-offer") throw new Error("nothing to roll back");
      this.signalingState = "stable";
      this.localDescription = this.#stableLocal;
      return;
    }
    const type = this.signalingState === "have-remote-offer" ? "answer" : "offer";
    if (type === "offer" && this.signalingState !== "stable")
      throw new Error(`offer in ${this.signalingState}`);
    this.transceivers.forEach((transceiver, index) => (transceiver.mid ??= String(index)));
    const lines = this.transceivers.map(
      ({ mid, direction, msid }) => `m=video 9 X\r\na=mid:${mid}\r\na=${direction}\r\na=msid:${msid}\r\n`,
    );
    this.localDescription = { type, sdp: `v=0\r\no=- ${this.#version++}\r\n${lines.join("")}` };
    this.signalingState = type === "offer" ? "have-local-offer" : "stable";
    if (type === "answer") this.#stableLocal = this.localDescription;
  }

  async setRemoteDescription(description: { type: string; sdp: string }): Promise<void> {
    await Promise.resolve();
    if (this.rejects.has(description.sdp)) throw new Error("bad description");
    const due = description.type === "offer" ? "stable" : "have-local-offer";
    if (this.signalingState !== due) throw new Error(`${description.type} in ${this.signalingState}`);
    this.remoteDescription = description;
    this.signalingState = description.type === "offer" ? "have-remote-offer" : "stable";
    if (description.type === "answer") this.#stableLocal = this.localDescription;
  }

  async addIceCandidate(): Promise<void> {}

  restartIce(): void {
    this.iceRestarts++;
  }

  become(state: RTCPeerConnectionState): void {
    this.connectionState = state;
    this.onconnectionstatechange?.();
  }

  close(): void {
    this.signalingState = "closed";
    this.connectionState = "closed";
  }
}

export function installFakes(): void {
  FakePeerConnection.all = [];
  Object.assign(globalThis, { MediaStream: FakeStream, RTCPeerConnection: FakePeerConnection });
}

export class FakeSignalling implements Signalling {
  readonly sent: { to: DeviceAddress; type: string; content: Record<string, unknown> }[] = [];
  failures = 0; // how many of the next messages the homeserver does not take
  readonly #listeners = new Set<Parameters<Signalling["onToDevice"]>[0]>();

  async sendToDevice(to: DeviceAddress, type: string, content: Record<string, unknown>): Promise<void> {
    await Promise.resolve();
    if (this.failures > 0) {
      this.failures--;
      throw new Error("the homeserver is away");
    }
    this.sent.push({ to, type, content });
  }

  onToDevice(listener: Parameters<Signalling["onToDevice"]>[0]): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  receive(sender: string, type: string, content: Record<string, unknown>): void {
    for (const listener of [...this.#listeners]) listener(sender, type, content);
  }

  take(type: string): Record<string, unknown>[] {
    return this.sent.filter((message) => message.type === type).map(({ content }) => content);
  }
}
