/** `window.sfuCall`: what tests and curious people may ask of a running call. */

import type { Participation } from "./participation.js";

type Stats = Record<string, unknown>;

const INBOUND = [
  "frameWidth", "frameHeight", "framesPerSecond", "framesDecoded", "keyFramesDecoded", "framesDropped",
  "freezeCount", "packetsReceived", "packetsLost", "bytesReceived", "jitter", "totalAudioEnergy",
  "totalSamplesDuration", "concealedSamples", "nackCount", "pliCount",
]; // prettier-ignore
const OUTBOUND = [
  "rid", "active", "frameWidth", "frameHeight", "framesPerSecond", "framesEncoded", "keyFramesEncoded",
  "packetsSent", "bytesSent", "targetBitrate", "qualityLimitationReason", "qualityLimitationDurations",
  "nackCount", "pliCount",
]; // prettier-ignore

const pick = (from: Stats, names: readonly string[]): Stats =>
  Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]));

/** The statistics of the leg of the moment, by whose feed they are. Null: there is no leg. */
export async function callStats(participation: Participation | null): Promise<Stats | null> {
  const connection = participation?.call.connection;
  if (!participation || !connection) return null;
  const report = await connection.peerConnection.getStats();
  const all = [...report.values()] as Stats[];
  const received = new Map(participation.call.received.map((track) => [track.mid, track]));
  const inbound = all
    .filter(({ type }) => type === "inbound-rtp")
    .map((stats) => {
      const track = received.get(String(stats["mid"]));
      return {
        kind: stats["kind"],
        mid: stats["mid"],
        user: track?.feed?.owner.userId ?? null,
        device: track?.feed?.owner.deviceId ?? null,
        purpose: track?.feed?.purpose ?? null,
        streamId: track?.streamId ?? null,
        trackId: track?.trackId ?? null,
        ...pick(stats, INBOUND),
      };
    });
  const outbound = all
    .filter(({ type }) => type === "outbound-rtp")
    .map((stats) => ({ kind: stats["kind"], mid: stats["mid"], ...pick(stats, OUTBOUND) }));
  const pair = all.find(
    ({ type, nominated, state }) => type === "candidate-pair" && nominated && state === "succeeded",
  );
  return {
    state: participation.state,
    connection: connection.state,
    callId: connection.callId,
    silentFor: connection.silentFor,
    inbound,
    outbound,
    transport: pair
      ? pick(pair, ["currentRoundTripTime", "availableOutgoingBitrate", "bytesSent", "bytesReceived"])
      : null,
  };
}

/** The handle itself: everything it gives can be copied out of the page. */
export function debugHandle(current: () => Participation | null): object {
  return {
    state: () => current()?.state ?? "idle",
    session: () => current()?.call.sessionId ?? null,
    feeds: () =>
      (current()?.call.feeds ?? []).map(
        ({ streamId, owner, purpose, audioMuted, videoMuted, tracks, stream }) => ({
          streamId,
          user: owner.userId,
          device: owner.deviceId,
          purpose,
          audioMuted,
          videoMuted,
          tracks: structuredClone(tracks),
          arriving: stream.getTracks().map(({ kind }) => kind),
        }),
      ),
    stats: () => callStats(current()),
    /** What the focus was last told of our own streams. */
    published: () => current()?.call.connection?.localMetadata ?? null,
    /** What the focus last described: it changes with each negotiation. */
    remoteSdp: () => current()?.call.connection?.peerConnection.remoteDescription?.sdp ?? null,
    /** Sends anything over the data channel. */
    send: (type: string, content: Record<string, unknown>) =>
      current()?.call.connection?.send(type, content) ?? false,
    /** As if the network had changed. */
    restartIce: () => current()?.call.networkChanged(),
  };
}
