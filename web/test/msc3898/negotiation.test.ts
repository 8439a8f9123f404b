import { describe, expect, it, vi } from "vitest";

import type { Metadata } from "../../src/msc3898/wire.js";
import { fakeTrack } from "./fakes.js";
import {
  answer,
  camera,
  channel,
  connect,
  connection,
  endings,
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

describe("negotiation", () => {
  const offer = (sdp = SDP): void =>
    channel().receive("m.call.negotiate", {
      description: { type: "offer", sdp },
      sdp_stream_metadata: METADATA,
    });
  const acceptOurs = (): void =>
    channel().receive("m.call.negotiate", { description: { type: "answer", sdp: SDP } });
  const types = (): string[] =>
    channel()
      .take("m.call.negotiate")
      .map(({ content }) => (content["description"] as { type: string }).type);

  it("answers the focus's offers one after the other", async () => {
    await open();
    offer();
    offer();
    await settle();
    expect(types()).toEqual(["answer", "answer"]);
  });

  it("offers what is published later, with its metadata", async () => {
    await open([]);
    expect(types()).toEqual([]);
    connection.publish([camera()]);
    await settle();
    expect(types()).toEqual(["offer"]);
    const metadata = channel().take("m.call.negotiate")[0]!.content["sdp_stream_metadata"] as Metadata;
    expect(Object.values(metadata)[0]!.tracks).toEqual({
      "track-0": { kind: "audio" },
      "track-1": { kind: "video", width: 640, height: 360 },
    });
  });

  it("has one offer in flight, and folds what comes meanwhile into the next", async () => {
    await open([]);
    const first = camera({ tracks: { audio: fakeTrack("audio"), video: null } });
    connection.publish([first]);
    await settle();
    connection.publish([{ ...first, tracks: { ...first.tracks, video: fakeTrack("video") } }]);
    connection.publish([
      { ...first, tracks: { ...first.tracks, video: fakeTrack("video") } },
      camera({ purpose: "m.screenshare" }),
    ]);
    await settle();
    expect(types()).toEqual(["offer"]);
    acceptOurs();
    await settle();
    expect(types()).toEqual(["offer", "offer"]);
    acceptOurs();
    await settle();
    expect(types()).toHaveLength(2);
  });

  it("ignores an offer of the focus that meets its own, and takes the one that follows", async () => {
    await open([]);
    connection.publish([camera()]);
    await settle();
    offer();
    await settle();
    expect(types()).toEqual(["offer"]);
    acceptOurs();
    offer();
    await settle();
    expect(types()).toEqual(["offer", "answer"]);
    expect(endings).toEqual([]);
  });

  it("waits with its own offer until the data channel is open", async () => {
    connect([]);
    void connection.start();
    await settle();
    connection.publish([camera()]);
    answer();
    await settle();
    expect(types()).toEqual([]);
    channel().open();
    await settle();
    expect(types()).toEqual(["offer"]);
  });

  it("takes back an offer that the focus refuses", async () => {
    await open([]);
    const refused = vi.fn();
    connection.on("refused", refused);
    connection.publish([camera()]);
    await settle();
    channel().receive("org.matrix.msc3898.error", {
      code: "bad_sdp",
      message: "no",
      in_reply_to: "m.call.negotiate",
    });
    await settle();
    expect(refused).toHaveBeenCalledOnce();
    expect(pc().signalingState).toBe("stable");
    offer();
    await settle();
    expect(types()).toEqual(["offer", "answer", "offer"]);
  });

  it("gives the leg up when an offer stays unanswered", async () => {
    await open([]);
    connection.publish([camera()]);
    await wait(15_000);
    expect(endings[0]).toMatchObject({ by: "failure", reason: "negotiation_failed" });
  });

  it("gives the leg up when the browser does not take the focus's SDP", async () => {
    await open();
    pc().rejects.add("broken");
    offer("broken");
    await settle();
    expect(endings[0]).toMatchObject({ by: "failure", reason: "negotiation_failed" });
  });

  it("tells a mute by metadata alone, and switches the camera off", async () => {
    const publication = camera();
    await open([publication]);
    connection.publish([
      { ...publication, videoMuted: true, tracks: { ...publication.tracks, video: null } },
    ]);
    await settle();
    expect(types()).toEqual([]);
    expect(pc().transceivers[1]!.sender.track).toBeNull();
    const said = channel().take("m.call.sdp_stream_metadata_changed").at(-1)!;
    const [stream] = Object.values(said.content["sdp_stream_metadata"] as Metadata);
    expect(stream).toMatchObject({ video_muted: true, audio_muted: false });
    expect(Object.keys(stream!.tracks)).toHaveLength(2);
  });

  it("uses the screen's m-line again for the next time", async () => {
    const screen = camera({ purpose: "m.screenshare", tracks: { audio: null, video: fakeTrack("video") } });
    await open([]);
    for (const publications of [[screen], [], [screen]]) {
      connection.publish(publications);
      await settle();
      acceptOurs();
      await settle();
    }
    expect(types()).toEqual(["offer", "offer", "offer"]);
    expect(pc().transceivers).toHaveLength(1);
    expect(pc().transceivers[0]!.direction).toBe("sendonly");
  });

  it("leaves out the layers that nobody watches, but the smallest, until they are watched or sent anew", async () => {
    const tracks = { audio: null, video: fakeTrack("video", 1280, 720) };
    const screen = camera({ purpose: "m.screenshare", tracks });
    await open([screen]);
    const sender = pc().transceivers[0]!.sender;
    const active = (): (string | undefined)[] =>
      sender.getParameters().encodings.flatMap(({ active, rid }) => (active ? [rid] : []));
    const [stream_id, track_id] = pc().transceivers[0]!.msid.split(" ");
    const watched = async (layers: unknown, track = track_id): Promise<void> => {
      channel().receive("org.matrix.msc3898.layers_watched", { stream_id, track_id: track, layers });
      await settle();
    };
    expect(active()).toEqual(["f", "h", "q"]);
    await watched(["h", "q"]);
    expect(active()).toEqual(["h", "q"]);
    await watched([]);
    expect(active()).toEqual(["q"]);
    await watched(["f", "h", "q"], "another");
    await watched("f");
    await watched([1]);
    expect(active()).toEqual(["q"]);
    await watched(["f", "h", "q"]);
    expect(active()).toEqual(["f", "h", "q"]);
    await watched([]);
    for (const publications of [[], [screen]]) {
      connection.publish(publications);
      await settle();
      acceptOurs();
      await settle();
    }
    expect(active()).toEqual(["f", "h", "q"]);
  });
});

describe("a connection that breaks", () => {
  it("is restarted to-device, where the way still works", async () => {
    await open();
    pc().become("failed");
    await settle();
    expect(pc().iceRestarts).toBe(1);
    expect(signalling.take("m.call.negotiate")[0]).toMatchObject({ description: { type: "offer" } });
    fromFocus("m.call.negotiate", { description: { type: "answer", sdp: SDP }, seq: 1 });
    await settle();
    pc().become("connected");
    await wait(8_000);
    expect(endings).toEqual([]);
  });

  it("is given up when the restart does not help", async () => {
    await open();
    pc().become("failed");
    await wait(8_000);
    expect(endings[0]).toMatchObject({ by: "failure", reason: "ice_failed" });
  });

  it("is left alone while it is disturbed for a moment only", async () => {
    await open();
    pc().become("disconnected");
    await wait(3_000);
    pc().become("connected");
    await wait(5_000);
    expect(pc().iceRestarts).toBe(0);
  });

  it("is restarted even while an offer of ours is in flight, which then goes along", async () => {
    await open([]);
    connection.publish([camera()]);
    await settle();
    pc().become("failed");
    await settle();
    expect(pc().signalingState).toBe("have-local-offer");
    const sdp = (signalling.take("m.call.negotiate")[0]!["description"] as { sdp: string }).sdp;
    expect(sdp).toContain("track-1");
  });
});
