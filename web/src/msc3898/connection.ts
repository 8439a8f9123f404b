/** One leg to a focus, from the invite to the hangup: signalling, negotiation, data channel, liveness. */

import { Emitter } from "./emitter.js";
import type { ReceivedTrack } from "./feeds.js";
import { Negotiator, type Route } from "./negotiator.js";
import { Outbox, type LegAddress } from "./outbox.js";
import { Publisher, type Publication } from "./publisher.js";
import { Reorder } from "./reorder.js";
import { sentMsids } from "./sdp.js";
import {
  CHANNEL_LABEL,
  CHANNEL_METADATA,
  INVITE_LIFETIME_MS,
  TO_DEVICE_METADATA,
  randomId,
  readChannelMessage,
  readEnvelope,
  readFocusMessage,
  type ChannelMessage,
  type Description,
  type DeviceAddress,
  type FocusMessage,
  type Metadata,
  type Removal,
  type Signalling,
} from "./wire.js";

/** new → inviting → connecting (answered) → connected (the data channel is open) → ended. */
export type ConnectionState = "new" | "inviting" | "connecting" | "connected" | "ended";

/** Why a leg ended: by whom, and with what reason (MSC2746, MSC3898). */
export type Ending =
  | { readonly by: "us"; readonly reason: string }
  | {
      readonly by: "focus";
      readonly how: "hangup" | "reject";
      readonly reason: string;
      readonly removal?: Removal;
    }
  | { readonly by: "failure"; readonly reason: FailureReason; readonly error?: unknown };

export type FailureReason =
  | "invite_timeout"
  | "ice_failed"
  | "ice_timeout"
  | "keep_alive_timeout"
  | "signalling_failed"
  | "negotiation_failed"
  | "channel_closed";

/** An error event of the focus: a message of ours that it did not take. */
export interface Refusal {
  readonly code: string;
  readonly message: string;
  readonly inReplyTo: string | null;
}

export interface ConnectionEvents {
  state: [state: ConnectionState];
  metadata: [metadata: Metadata];
  received: [tracks: readonly ReceivedTrack[]];
  speaker: [speaker: DeviceAddress, streamId: string];
  /** What is sent of this track pauses because the link is too narrow, or flows again. */
  suspended: [streamId: string, trackId: string, suspended: boolean];
  refused: [refusal: Refusal];
  latency: [milliseconds: number];
  ended: [ending: Ending];
}

export interface ConnectionOptions {
  readonly signalling: Signalling;
  readonly focus: DeviceAddress;
  readonly me: DeviceAddress;
  readonly sessionId: string;
  readonly confId: string;
  readonly roomId: string;
  readonly publications: readonly Publication[];
  readonly iceServers?: readonly RTCIceServer[];
}

/** The invite is said again while no answer comes: a focus that was away finds it, one that was not answers again. */
const INVITE_AGAIN_MS = 15_000;
/** From the answer to an open data channel. */
const CONNECT_TIMEOUT_MS = 20_000;
/** The focus pings every 30 s or more often: when it has said nothing for this long it is gone. */
const SILENCE_MS = 35_000;
/** After this much silence we ask. */
const ASK_AFTER_MS = 12_000;
/** A connection that is only disturbed comes back by itself. */
const DISTURBED_MS = 4_000;
const ICE_RESTART_MS = 8_000;
const CANDIDATES_AFTER_MS = 100;

type Timer = ReturnType<typeof setTimeout>;

export class FocusConnection extends Emitter<ConnectionEvents> {
  readonly callId = randomId();
  readonly peerConnection: RTCPeerConnection;

  readonly #options: ConnectionOptions;
  readonly #channel: RTCDataChannel;
  readonly #outbox: Outbox;
  readonly #inbox: Reorder<FocusMessage>;
  readonly #negotiator: Negotiator;
  readonly #publisher: Publisher;
  readonly #stopListening: () => void;
  readonly #timers = new Map<string, Timer>();
  #state: ConnectionState = "new";
  #focusParty: string | null = null; // who answered
  #candidates: RTCIceCandidateInit[] = [];
  #told = ""; // the metadata that the focus was last sent
  #lastHeard = 0;
  #askedAt: number | null = null;

  constructor(options: ConnectionOptions) {
    super();
    this.#options = options;
    const { signalling, me } = options;
    const pc = new RTCPeerConnection({
      bundlePolicy: "max-bundle",
      iceServers: [...(options.iceServers ?? [])],
    });
    this.peerConnection = pc;
    const address: LegAddress = { callId: this.callId, ...options };
    this.#outbox = new Outbox(signalling, address, (error) => this.#fail("signalling_failed", error));
    this.#inbox = new Reorder((message) => this.#onMessage(message));
    this.#publisher = new Publisher(pc, me);
    this.#negotiator = new Negotiator(pc, {
      send: (description, route) => this.#sendDescription(description, route),
      applied: () => this.emit("received", this.#received()),
      ready: () => this.#state === "connected",
      failed: (error) => this.#fail("negotiation_failed", error),
    });
    pc.onicecandidate = ({ candidate }) => this.#onCandidate(candidate);
    pc.onconnectionstatechange = () => this.#onConnectionState();
    this.#channel = pc.createDataChannel(CHANNEL_LABEL);
    this.#channel.onopen = () => this.#onOpen();
    this.#channel.onclose = () => this.#fail("channel_closed");
    this.#channel.onmessage = ({ data }) => this.#onChannelData(data);
    this.#stopListening = signalling.onToDevice((sender, type, content) =>
      this.#onToDevice(sender, type, content),
    );
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** What this client publishes, as the focus was last told. */
  get localMetadata(): Metadata {
    return this.#publisher.metadata();
  }

  /** Sends the invite. */
  async start(): Promise<void> {
    this.#setState("inviting");
    this.#publisher.publish(this.#options.publications);
    try {
      const offer = await this.#negotiator.firstOffer();
      if (this.#state === "inviting") this.#invite(offer, INVITE_LIFETIME_MS);
    } catch (error) {
      this.#fail("negotiation_failed", error);
    }
  }

  /** Makes this leg send exactly this. */
  publish(publications: readonly Publication[]): void {
    if (this.#state === "ended") return;
    const negotiate = this.#publisher.publish(publications);
    if (negotiate) this.#negotiator.offer();
    else if (this.#state === "connected") this.#sendMetadata();
  }

  /** Sends a message over the data channel; false if it is not open. */
  send(type: string, content: Record<string, unknown>): boolean {
    if (this.#channel.readyState !== "open") return false;
    this.#channel.send(JSON.stringify({ type, content }));
    return true;
  }

  /** The network has changed: find a new way to the focus at once. */
  restartIce(): void {
    if (this.#state !== "connected" || this.#timers.has("restart")) return;
    this.#cancel("disturbed");
    this.#after("restart", ICE_RESTART_MS, () => this.#fail("ice_failed"));
    this.#negotiator.restartIce();
  }

  /** Ends the leg and says so. */
  hangup(reason = "user_hangup"): void {
    this.#end({ by: "us", reason }, reason);
  }

  /** A hangup to be sent by other means: when the page goes away there is no time to wait. */
  farewell(reason = "user_hangup"): { type: string; content: Record<string, unknown> } | null {
    if (this.#state === "new" || this.#state === "ended") return null;
    return { type: "m.call.hangup", content: this.#outbox.stamp({ reason }) };
  }

  // ------------------------------------------------------------------ out

  #invite(offer: Description, lifetime: number): void {
    const metadata = this.#publisher.metadata();
    this.#told = JSON.stringify(metadata);
    this.#outbox.send("m.call.invite", {
      offer,
      lifetime,
      invitee: this.#options.focus.userId,
      capabilities: { "m.call.transferee": false, "m.call.dtmf": false },
      [TO_DEVICE_METADATA]: metadata,
    });
    const left = lifetime - INVITE_AGAIN_MS;
    this.#after("invite", INVITE_AGAIN_MS, () =>
      left > 0 ? this.#invite(offer, left) : this.#fail("invite_timeout"),
    );
  }

  #onCandidate(candidate: RTCIceCandidate | null): void {
    if (this.#state === "ended") return;
    this.#candidates.push(candidate?.toJSON() ?? { candidate: "" });
    if (!this.#timers.has("candidates"))
      this.#after("candidates", CANDIDATES_AFTER_MS, () => this.#flushCandidates());
  }

  #flushCandidates(): void {
    this.#outbox.send("m.call.candidates", { candidates: this.#candidates });
    this.#candidates = [];
  }

  #sendDescription(description: Description, route: Route): void {
    const metadata = this.#publisher.metadata();
    this.#told = JSON.stringify(metadata);
    if (route === "to-device") {
      this.#outbox.send("m.call.negotiate", { description, [TO_DEVICE_METADATA]: metadata });
    } else {
      this.send("m.call.negotiate", { description, [CHANNEL_METADATA]: metadata });
    }
  }

  /** Says what is published, unless the focus knows it already. */
  #sendMetadata(): void {
    const metadata = this.#publisher.metadata();
    const told = JSON.stringify(metadata);
    if (told === this.#told) return;
    this.#told = told;
    this.send("m.call.sdp_stream_metadata_changed", { [CHANNEL_METADATA]: metadata });
  }

  // ------------------------------------------------------------------ in, to-device

  #onToDevice(sender: string, type: string, content: Record<string, unknown>): void {
    const { focus, confId, sessionId, me } = this.#options;
    if (sender !== focus.userId || !type.startsWith("m.call.")) return;
    const envelope = readEnvelope(content);
    if (envelope === null || envelope.callId !== this.callId || envelope.confId !== confId) return;
    if (envelope.deviceId !== null && envelope.deviceId !== focus.deviceId) return;
    if (envelope.destSessionId !== null && envelope.destSessionId !== sessionId) return;
    if (envelope.partyId === me.deviceId && focus.userId === me.userId) return; // our own echo
    const message = readFocusMessage(type, content);
    if (message === null) return;
    if (message.type === "m.call.answer" && this.#focusParty === null) {
      this.#focusParty = envelope.partyId ?? focus.deviceId;
      if (envelope.senderSessionId !== null) this.#outbox.setFocusSession(envelope.senderSessionId);
    }
    this.#inbox.push(envelope.seq, envelope.messageId, message);
  }

  #onMessage(message: FocusMessage): void {
    if (this.#state === "new" || this.#state === "ended") return;
    switch (message.type) {
      case "m.call.answer":
        return this.#onAnswer(message.answer, message.metadata);
      case "m.call.negotiate":
        if (message.metadata) this.emit("metadata", message.metadata);
        return this.#negotiator.receive(message.description, "to-device");
      case "m.call.candidates":
        for (const candidate of message.candidates) {
          this.peerConnection.addIceCandidate(candidate).catch(() => undefined); // one that is unusable is no loss
        }
        return;
      case "m.call.hangup":
      case "m.call.reject":
        return this.#end({
          by: "focus",
          how: message.type === "m.call.hangup" ? "hangup" : "reject",
          reason: message.reason,
          ...(message.removal && { removal: message.removal }),
        });
    }
  }

  #onAnswer(answer: Description, metadata: Metadata | null): void {
    if (this.#state !== "inviting") return; // the answer to an invite that was said again
    this.#cancel("invite");
    this.#outbox.send("m.call.select_answer", { selected_party_id: this.#focusParty });
    this.#setState("connecting");
    this.#after("connect", CONNECT_TIMEOUT_MS, () => this.#fail("ice_timeout"));
    if (metadata) this.emit("metadata", metadata);
    this.#negotiator.receive(answer, "to-device");
  }

  // ------------------------------------------------------------------ in, data channel

  #onOpen(): void {
    if (this.#state === "ended") return;
    this.#cancel("connect");
    this.#setState("connected");
    this.#heard();
    this.#sendMetadata(); // what was muted meanwhile
    this.#negotiator.resume();
  }

  #onChannelData(data: unknown): void {
    if (this.#state === "ended") return;
    this.#heard();
    const message = readChannelMessage(data);
    if (message) this.#onChannelMessage(message);
  }

  #onChannelMessage(message: ChannelMessage): void {
    switch (message.type) {
      case "m.call.negotiate":
        if (message.metadata) this.emit("metadata", message.metadata);
        return this.#negotiator.receive(message.description, "channel");
      case "m.call.sdp_stream_metadata_changed":
        return this.emit("metadata", message.metadata);
      case "m.call.ping":
        this.send("m.call.pong", {});
        return;
      case "m.call.pong":
        if (this.#askedAt !== null) this.emit("latency", performance.now() - this.#askedAt);
        this.#askedAt = null;
        return;
      case "org.matrix.msc3898.active_speaker":
        return this.emit("speaker", message.speaker, message.streamId);
      case "org.matrix.msc3898.track_suspended":
        return this.emit("suspended", message.streamId, message.trackId, message.suspended);
      case "org.matrix.msc3898.layers_watched":
        return this.#publisher.setWatched(message.streamId, message.trackId, message.layers);
      case "org.matrix.msc3898.error":
        if (message.inReplyTo === "m.call.negotiate") this.#negotiator.refused();
        return this.emit("refused", message);
    }
  }

  /** The tracks that arrive, by what the focus's own SDP says: a track's id does not follow when an m-line is reused. */
  #received(): ReceivedTrack[] {
    const msids = sentMsids(this.peerConnection.remoteDescription?.sdp ?? "");
    return this.peerConnection.getTransceivers().flatMap((transceiver) => {
      const msid = transceiver.mid === null ? undefined : msids.get(transceiver.mid);
      return msid ? [{ ...msid, mid: transceiver.mid!, track: transceiver.receiver.track }] : [];
    });
  }

  // ------------------------------------------------------------------ liveness

  #heard(): void {
    this.#lastHeard = performance.now();
    this.#after("ask", ASK_AFTER_MS, () => this.#ask());
    this.#after("silence", SILENCE_MS, () => this.#fail("keep_alive_timeout"));
  }

  #ask(): void {
    this.#askedAt = performance.now();
    this.send("m.call.ping", {});
  }

  /** Milliseconds since the focus was last heard over the data channel. */
  get silentFor(): number {
    return performance.now() - this.#lastHeard;
  }

  #onConnectionState(): void {
    switch (this.peerConnection.connectionState) {
      case "connected":
        this.#cancel("disturbed");
        this.#cancel("restart");
        return;
      case "disconnected":
        return this.#after("disturbed", DISTURBED_MS, () => this.restartIce());
      case "failed":
        if (this.#state === "connected") return this.restartIce();
        return this.#fail("ice_failed");
      default:
        return;
    }
  }

  // ------------------------------------------------------------------ ending

  #fail(reason: FailureReason, error?: unknown): void {
    const said = reason === "invite_timeout" || reason === "keep_alive_timeout" || reason.startsWith("ice_");
    this.#end({ by: "failure", reason, error }, said ? reason : "unknown_error");
  }

  /** `say`: the reason of the hangup that goes to the focus; none if it ended the leg itself. */
  #end(ending: Ending, say?: string): void {
    if (this.#state === "ended") return;
    const started = this.#state !== "new";
    this.#setState("ended");
    if (say !== undefined && started) this.#outbox.send("m.call.hangup", { reason: say });
    this.#outbox.close();
    this.#inbox.close();
    this.#negotiator.close();
    this.#stopListening();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.peerConnection.close();
    this.emit("ended", ending);
  }

  #setState(state: ConnectionState): void {
    this.#state = state;
    this.emit("state", state);
  }

  #after(name: string, milliseconds: number, action: () => void): void {
    clearTimeout(this.#timers.get(name));
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      action();
    }, milliseconds);
    this.#timers.set(name, timer);
  }

  #cancel(name: string): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
