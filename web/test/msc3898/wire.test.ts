import { describe, expect, it } from "vitest";

import { readChannelMessage, readEnvelope, readFocusMessage, readMetadata } from "../../src/msc3898/wire.js";
import { CAPTURES, capture } from "./captures.js";

describe.each(CAPTURES)("the recording %s", (name) => {
  const recorded = capture(name);

  it("has only to-device messages of the focus that are understood", () => {
    for (const { type, content } of recorded.filter(
      (message) => message.channel === "to-device" && message.direction === "sfu>client",
    )) {
      expect(readFocusMessage(type, content)).toMatchObject({ type });
      expect(readEnvelope(content)).toMatchObject({ callId: content["call_id"], confId: content["conf_id"] });
    }
  });

  it("has only data-channel messages of the focus that are understood", () => {
    const messages = recorded.filter(
      ({ channel, direction, type }) =>
        channel === "dc" && direction === "sfu>client" && !type.startsWith("_"),
    );
    for (const { type, content } of messages) {
      expect(readChannelMessage(JSON.stringify({ type, content }))).toMatchObject({ type });
    }
  });

  it("has stream metadata that is read without loss", () => {
    for (const { content } of recorded) {
      const written = content["sdp_stream_metadata"] ?? content["org.matrix.msc3077.sdp_stream_metadata"];
      if (written !== undefined) expect(readMetadata(content)).toMatchObject(written as object);
    }
  });
});

describe("a data-channel message", () => {
  it.each([
    ["no JSON", "{"],
    ["no object", "[]"],
    ["no type", "{}"],
    ["a type nobody knows", '{"type":"m.call.dance","content":{}}'],
    ["an offer without SDP", '{"type":"m.call.negotiate","content":{"description":{"type":"offer"}}}'],
    ["a rollback", '{"type":"m.call.negotiate","content":{"description":{"type":"rollback","sdp":""}}}'],
    [
      "metadata that is a list",
      '{"type":"m.call.sdp_stream_metadata_changed","content":{"sdp_stream_metadata":[]}}',
    ],
    ["a pause of nothing", '{"type":"org.matrix.msc3898.track_suspended","content":{"stream_id":"a"}}'],
    ["a speaker without a name", '{"type":"org.matrix.msc3898.active_speaker","content":{"stream_id":"a"}}'],
  ])("is left alone if it is %s", (_, text) => {
    expect(readChannelMessage(text)).toBeNull();
  });

  it("is left alone if it is binary", () => {
    expect(readChannelMessage(new ArrayBuffer(8))).toBeNull();
  });

  it("may report who speaks, and what was refused", () => {
    const speaker = { stream_id: "s", user_id: "@a:b", device_id: "D" };
    expect(
      readChannelMessage(JSON.stringify({ type: "org.matrix.msc3898.active_speaker", content: speaker })),
    ).toEqual({
      type: "org.matrix.msc3898.active_speaker",
      streamId: "s",
      speaker: { userId: "@a:b", deviceId: "D" },
    });
    const error = { code: "too_large", message: "no", in_reply_to: "m.call.negotiate" };
    expect(readChannelMessage(JSON.stringify({ type: "org.matrix.msc3898.error", content: error }))).toEqual({
      type: "org.matrix.msc3898.error",
      code: "too_large",
      message: "no",
      inReplyTo: "m.call.negotiate",
    });
  });
});

describe("stream metadata", () => {
  it("loses its bad entries only", () => {
    const metadata = readMetadata({
      sdp_stream_metadata: {
        good: { purpose: "m.usermedia", tracks: { t: { kind: "video", width: "wide", height: 3 }, u: 7 } },
        bad: "no",
      },
    });
    expect(metadata).toEqual({
      good: {
        purpose: "m.usermedia",
        audio_muted: false,
        video_muted: false,
        tracks: { t: { kind: "video" }, u: {} },
      },
    });
  });
});
