import { beforeEach, describe, expect, it, vi } from "vitest";

import type { Metadata } from "../../src/msc3898/wire.js";
import {
  answer,
  camera,
  channel,
  connect,
  connection,
  endings,
  FOCUS,
  fromFocus,
  METADATA,
  open,
  pc,
  SDP,
  settle,
  signalling,
  wait,
  useFakes,
} from "./leg.js";

useFakes();

describe("an invite", () => {
  it("has every field that the protocol asks for", async () => {
    connect([camera()]);
    void connection.start();
    await settle();
    expect(signalling.sent).toHaveLength(1);
    const { to, type, content } = signalling.sent[0]!;
    expect(to).toEqual(FOCUS);
    expect(type).toBe("m.call.invite");
    expect(content).toMatchObject({
      call_id: connection.callId,
      conf_id: "conf",
      "org.matrix.msc3898.room_id": "!room",
      version: "1",
      party_id: "ADA1",
      device_id: "ADA1",
      sender_session_id: "session",
      dest_session_id: "sfu",
      seq: 0,
      lifetime: 60_000,
      invitee: "@sfu:x",
      offer: { type: "offer" },
    });
    expect(content["org.matrix.msgid"]).toEqual(expect.any(String));
    expect(channel().label).toBe("datachannel");
  });

  it("describes its tracks by the ids that stand in its SDP", async () => {
    const publication = camera({ audioMuted: true });
    connect([publication]);
    void connection.start();
    await settle();
    const { offer, ...content } = signalling.sent[0]!.content as { offer: { sdp: string } } & Record<
      string,
      unknown
    >;
    const metadata = content["org.matrix.msc3077.sdp_stream_metadata"] as Metadata;
    const [streamId] = Object.keys(metadata);
    expect(metadata[streamId!]).toMatchObject({ user_id: "@ada:x", device_id: "ADA1", audio_muted: true });
    for (const trackId of Object.keys(metadata[streamId!]!.tracks)) {
      expect(offer.sdp).toContain(`a=msid:${streamId} ${trackId}`);
    }
    expect(Object.values(metadata[streamId!]!.tracks)).toEqual([
      { kind: "audio" },
      { kind: "video", width: 640, height: 360 },
    ]);
    expect(pc().transceivers[1]!.init.sendEncodings!.map(({ rid }) => rid)).toEqual(["f", "h"]);
  });

  it("can go without camera and microphone", async () => {
    connect([camera({ tracks: { audio: null, video: null } })]);
    void connection.start();
    await settle();
    expect(signalling.take("m.call.invite")[0]!["org.matrix.msc3077.sdp_stream_metadata"]).toEqual({});
  });

  it("is said again under the same call id while no answer comes, and given up after its lifetime", async () => {
    connect([]);
    void connection.start();
    await wait(46_000);
    const invites = signalling.take("m.call.invite");
    expect(invites.map(({ seq }) => seq)).toEqual([0, 1, 2, 3]);
    expect(new Set(invites.map(({ call_id }) => call_id)).size).toBe(1);
    expect(new Set(invites.map((content) => content["org.matrix.msgid"])).size).toBe(4);
    await wait(15_000);
    expect(endings).toEqual([{ by: "failure", reason: "invite_timeout", error: undefined }]);
    expect(signalling.take("m.call.hangup")[0]).toMatchObject({ reason: "invite_timeout", seq: 4 });
  });

  it("is sent again when the homeserver did not take it, and nothing overtakes it", async () => {
    connect([]);
    signalling.failures = 2;
    void connection.start();
    await settle();
    pc().onicecandidate!({ candidate: null });
    await wait(5_000);
    expect(signalling.sent.map(({ type, content }) => [type, content["seq"]])).toEqual([
      ["m.call.invite", 0],
      ["m.call.candidates", 1],
    ]);
  });

  it("ends the leg when the homeserver takes nothing", async () => {
    connect([]);
    signalling.failures = 1000;
    void connection.start();
    await wait(30_000);
    expect(endings[0]).toMatchObject({ by: "failure", reason: "signalling_failed" });
  });
});

describe("candidates", () => {
  it("go together, and end with an empty one", async () => {
    connect([]);
    void connection.start();
    await settle();
    const candidate = { candidate: "candidate:1", sdpMid: "0", sdpMLineIndex: 0 };
    pc().onicecandidate!({ candidate: { toJSON: () => candidate } });
    pc().onicecandidate!({ candidate: null });
    await wait(200);
    expect(signalling.take("m.call.candidates").map(({ candidates }) => candidates)).toEqual([
      [candidate, { candidate: "" }],
    ]);
  });
});

describe("an answer", () => {
  beforeEach(async () => {
    connect([camera()]);
    void connection.start();
    await settle();
  });

  it("is selected, and names the session that further messages go to", async () => {
    answer({ sender_session_id: "another" });
    await settle();
    expect(connection.state).toBe("connecting");
    connection.hangup();
    await settle();
    expect(signalling.take("m.call.select_answer")[0]).toMatchObject({ selected_party_id: "SFU1", seq: 1 });
    expect(signalling.take("m.call.hangup")[0]).toMatchObject({ dest_session_id: "another", seq: 2 });
  });

  it.each([
    ["another call", { call_id: "other" }],
    ["another group call", { conf_id: "other" }],
    ["another session of ours", { dest_session_id: "other" }],
    ["another device of that user", { device_id: "OTHER" }],
  ])("is not taken if it is for, or from, %s", async (_, changes) => {
    answer(changes);
    await settle();
    expect(connection.state).toBe("inviting");
  });

  it("is not taken from anybody else", async () => {
    signalling.receive("@eve:x", "m.call.answer", {
      call_id: connection.callId,
      conf_id: "conf",
      device_id: "SFU1",
      answer: { type: "answer", sdp: SDP },
    });
    await settle();
    expect(connection.state).toBe("inviting");
  });

  it("that comes a second time changes nothing", async () => {
    answer();
    answer({ seq: 1 });
    await settle();
    expect(signalling.take("m.call.select_answer")).toHaveLength(1);
    expect(endings).toEqual([]);
  });

  it("brings metadata and tracks", async () => {
    const [metadata, tracks] = [vi.fn(), vi.fn()];
    connection.on("metadata", metadata);
    connection.on("received", tracks);
    answer({ "org.matrix.msc3077.sdp_stream_metadata": METADATA });
    await settle();
    expect(metadata.mock.calls[0]![0]).toMatchObject(METADATA);
    expect(tracks).toHaveBeenCalledTimes(1);
  });

  it("without a connection after it ends the leg", async () => {
    answer();
    await wait(20_000);
    expect(endings[0]).toMatchObject({ by: "failure", reason: "ice_timeout" });
  });
});

describe("the focus", () => {
  it("may refuse", async () => {
    connect([]);
    void connection.start();
    await settle();
    fromFocus("m.call.reject", { reason: "user_busy", seq: 0 });
    await settle();
    expect(endings).toEqual([{ by: "focus", how: "reject", reason: "user_busy" }]);
    expect(pc().connectionState).toBe("closed");
    expect(signalling.take("m.call.hangup")).toEqual([]);
  });

  it("may hang up, after a restart without a number", async () => {
    await open();
    fromFocus("m.call.hangup", { reason: "unknown_error" });
    expect(endings).toEqual([{ by: "focus", how: "hangup", reason: "unknown_error" }]);
  });

  it("is answered when it pings, and given up when it is silent", async () => {
    await open();
    channel().receive("m.call.ping");
    expect(channel().take("m.call.pong")).toHaveLength(1);
    await wait(12_000);
    expect(channel().take("m.call.ping")).toHaveLength(1);
    await wait(22_999);
    expect(endings).toEqual([]);
    await wait(1);
    expect(endings[0]).toMatchObject({ by: "failure", reason: "keep_alive_timeout" });
  });

  it("tells how far away it is", async () => {
    await open();
    const latency = vi.fn();
    connection.on("latency", latency);
    await wait(12_000);
    await wait(40);
    channel().receive("m.call.pong");
    expect(latency).toHaveBeenCalledWith(40);
  });

  it("is gone when it closes the data channel", async () => {
    await open();
    channel().onclose!();
    expect(endings[0]).toMatchObject({ by: "failure", reason: "channel_closed" });
  });
});

describe("an ended leg", () => {
  it("says its hangup once and hears nothing more", async () => {
    await open();
    connection.hangup();
    connection.hangup();
    fromFocus("m.call.hangup", { reason: "unknown_error" });
    await wait(60_000);
    expect(signalling.take("m.call.hangup")).toHaveLength(1);
    expect(endings).toEqual([{ by: "us", reason: "user_hangup" }]);
    expect(vi.getTimerCount()).toBe(0);
  });
});
