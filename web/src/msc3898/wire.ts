/** The protocol's messages: their names, their shapes, and readers that take nothing on trust. */

export interface DeviceAddress {
  readonly userId: string;
  readonly deviceId: string;
}

/** How to-device messages travel; the application brings it (see `matrix-js-sdk`'s `sendToDevice`). */
export interface Signalling {
  /** Resolves once the homeserver has taken the message; rejects if it did not. */
  sendToDevice(to: DeviceAddress, type: string, content: Record<string, unknown>): Promise<void>;
  /** Calls back with every to-device message, in order of arrival; the result stops it. */
  onToDevice(listener: (sender: string, type: string, content: Record<string, unknown>) => void): () => void;
}

export const TO_DEVICE_METADATA = "org.matrix.msc3077.sdp_stream_metadata";
export const CHANNEL_METADATA = "sdp_stream_metadata";
export const CHANNEL_LABEL = "datachannel";
export const INVITE_LIFETIME_MS = 60_000;
/** What a focus is called before it has told its session; deployed foci keep the name. */
export const FOCUS_SESSION = "sfu";

export type Kind = "audio" | "video";
export type Purpose = "m.usermedia" | "m.screenshare";

export interface TrackMetadata {
  kind?: Kind;
  width?: number;
  height?: number;
}

export interface StreamMetadata {
  purpose: string;
  user_id?: string;
  device_id?: string;
  audio_muted: boolean;
  video_muted: boolean;
  tracks: Record<string, TrackMetadata>;
}

/** Stream id → what it is (MSC3077, MSC3291). */
export type Metadata = Record<string, StreamMetadata>;

export interface Description {
  readonly type: "offer" | "answer";
  readonly sdp: string;
}

/** What came to-device from the focus, out of its envelope. */
export type FocusMessage =
  | { type: "m.call.answer"; answer: Description; metadata: Metadata | null }
  | { type: "m.call.negotiate"; description: Description; metadata: Metadata | null }
  | { type: "m.call.candidates"; candidates: RTCIceCandidateInit[] }
  | { type: "m.call.hangup"; reason: string; removal: Removal | null }
  | { type: "m.call.reject"; reason: string; removal: Removal | null };

/** The focus's operator keeps this device out: to try again by itself is in vain. */
export interface Removal {
  /** kicked, call_ended, banned, not_allowed or guest. */
  readonly cause: string;
  /** In the operator's words; may be empty. */
  readonly why: string;
}

/** The fields that every to-device message of a call carries (protocol, section 2). */
export interface Envelope {
  callId: string;
  confId: string;
  partyId: string | null;
  deviceId: string | null;
  senderSessionId: string | null;
  destSessionId: string | null;
  seq: number | null; // null: to be taken at once
  messageId: string | null;
}

/** What came over the data channel from the focus. */
export type ChannelMessage =
  | { type: "m.call.negotiate"; description: Description; metadata: Metadata | null }
  | { type: "m.call.sdp_stream_metadata_changed"; metadata: Metadata }
  | { type: "m.call.ping" }
  | { type: "m.call.pong" }
  | { type: "org.matrix.msc3898.active_speaker"; streamId: string; speaker: DeviceAddress }
  | { type: "org.matrix.msc3898.track_suspended"; streamId: string; trackId: string; suspended: boolean }
  | { type: "org.matrix.msc3898.layers_watched"; streamId: string; trackId: string; layers: string[] }
  | { type: "org.matrix.msc3898.error"; code: string; message: string; inReplyTo: string | null };

type Json = Record<string, unknown>;

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const text = (value: unknown): string | null => (typeof value === "string" ? value : null);

const size = (value: unknown): number | null =>
  typeof value === "number" && Number.isInteger(value) && value > 0 ? value : null;

function readTrack(value: unknown): TrackMetadata {
  if (!isObject(value)) return {};
  const track: TrackMetadata = {};
  if (value["kind"] === "audio" || value["kind"] === "video") track.kind = value["kind"];
  const [width, height] = [size(value["width"]), size(value["height"])];
  if (width !== null && height !== null) Object.assign(track, { width, height });
  return track;
}

/** Stream metadata, under whichever of its two keys it stands; null if there is none. Bad entries are left out. */
export function readMetadata(content: Json): Metadata | null {
  const found = content[TO_DEVICE_METADATA] ?? content[CHANNEL_METADATA];
  if (!isObject(found)) return null;
  const metadata: Metadata = {};
  for (const [streamId, stream] of Object.entries(found)) {
    if (!isObject(stream)) continue;
    const tracks = isObject(stream["tracks"]) ? stream["tracks"] : {};
    const userId = text(stream["user_id"]);
    const deviceId = text(stream["device_id"]);
    metadata[streamId] = {
      purpose: text(stream["purpose"]) ?? "m.usermedia",
      ...(userId === null ? {} : { user_id: userId }),
      ...(deviceId === null ? {} : { device_id: deviceId }),
      audio_muted: stream["audio_muted"] === true,
      video_muted: stream["video_muted"] === true,
      tracks: Object.fromEntries(Object.entries(tracks).map(([id, track]) => [id, readTrack(track)])),
    };
  }
  return metadata;
}

function readDescription(value: unknown, type?: Description["type"]): Description | null {
  if (!isObject(value)) return null;
  const sdp = text(value["sdp"]);
  const found = value["type"];
  if (sdp === null || (found !== "offer" && found !== "answer")) return null;
  return type === undefined || found === type ? { type: found, sdp } : null;
}

function readCandidates(value: unknown): RTCIceCandidateInit[] {
  if (!Array.isArray(value)) return [];
  return value.filter(isObject).flatMap((entry) => {
    const candidate = text(entry["candidate"]);
    if (!candidate) return [];
    const index = entry["sdpMLineIndex"];
    return [
      { candidate, sdpMid: text(entry["sdpMid"]), sdpMLineIndex: typeof index === "number" ? index : null },
    ];
  });
}

function readRemoval(content: Json): Removal | null {
  const found = content["org.matrix.msc3898.removed"];
  if (!isObject(found)) return null;
  return { cause: text(found["cause"]) ?? "", why: text(found["reason"]) ?? "" };
}

/** The envelope of a to-device message of a call; null if it is none. */
export function readEnvelope(content: Json): Envelope | null {
  const callId = text(content["call_id"]);
  const confId = text(content["conf_id"]);
  if (callId === null || confId === null) return null;
  const seq = content["seq"];
  return {
    callId,
    confId,
    partyId: text(content["party_id"]),
    deviceId: text(content["device_id"]),
    senderSessionId: text(content["sender_session_id"]),
    destSessionId: text(content["dest_session_id"]),
    seq: typeof seq === "number" && Number.isInteger(seq) && seq >= 0 ? seq : null,
    messageId: text(content["org.matrix.msgid"]),
  };
}

/** A to-device message of the focus; null if it is not one, or malformed. */
export function readFocusMessage(type: string, content: Json): FocusMessage | null {
  const metadata = readMetadata(content);
  switch (type) {
    case "m.call.answer": {
      const answer = readDescription(content["answer"], "answer");
      return answer && { type, answer, metadata };
    }
    case "m.call.negotiate": {
      const description = readDescription(content["description"]);
      return description && { type, description, metadata };
    }
    case "m.call.candidates":
      return { type, candidates: readCandidates(content["candidates"]) };
    case "m.call.hangup":
    case "m.call.reject":
      return { type, reason: text(content["reason"]) ?? "unknown_error", removal: readRemoval(content) };
    default:
      return null;
  }
}

/** A message of the data channel; null if it is not JSON, of an unknown type, or malformed. */
export function readChannelMessage(data: unknown): ChannelMessage | null {
  if (typeof data !== "string") return null;
  let message: unknown;
  try {
    message = JSON.parse(data);
  } catch {
    return null;
  }
  if (!isObject(message)) return null;
  const content = isObject(message["content"]) ? message["content"] : {};
  const type = message["type"];
  switch (type) {
    case "m.call.negotiate": {
      const description = readDescription(content["description"]);
      return description && { type, description, metadata: readMetadata(content) };
    }
    case "m.call.sdp_stream_metadata_changed": {
      const metadata = readMetadata(content);
      return metadata && { type, metadata };
    }
    case "m.call.ping":
    case "m.call.pong":
      return { type };
    case "org.matrix.msc3898.active_speaker": {
      const streamId = text(content["stream_id"]);
      const [userId, deviceId] = [text(content["user_id"]), text(content["device_id"])];
      if (streamId === null || userId === null || deviceId === null) return null;
      return { type, streamId, speaker: { userId, deviceId } };
    }
    case "org.matrix.msc3898.track_suspended": {
      const [streamId, trackId] = [text(content["stream_id"]), text(content["track_id"])];
      const suspended = content["suspended"];
      if (streamId === null || trackId === null || typeof suspended !== "boolean") return null;
      return { type, streamId, trackId, suspended };
    }
    case "org.matrix.msc3898.layers_watched": {
      const [streamId, trackId] = [text(content["stream_id"]), text(content["track_id"])];
      const layers = content["layers"];
      if (streamId === null || trackId === null || !Array.isArray(layers)) return null;
      if (!layers.every((layer) => typeof layer === "string")) return null;
      return { type, streamId, trackId, layers };
    }
    case "org.matrix.msc3898.error":
      return {
        type,
        code: text(content["code"]) ?? "unknown",
        message: text(content["message"]) ?? "",
        inReplyTo: text(content["in_reply_to"]),
      };
    default:
      return null;
  }
}

/** `length` random letters and digits; works where `crypto.randomUUID` does not (plain http). */
export function randomId(length = 20): string {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => alphabet[byte & 63]).join("");
}
