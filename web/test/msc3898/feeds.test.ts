import { beforeEach, describe, expect, it } from "vitest";

import { RemoteFeeds } from "../../src/msc3898/feeds.js";
import { Subscriptions } from "../../src/msc3898/subscriptions.js";
import type { Metadata, StreamMetadata } from "../../src/msc3898/wire.js";
import { FakeStream, fakeTrack, installFakes } from "./fakes.js";

const FOCUS = { userId: "@sfu:x", deviceId: "SFU1" };

const stream = (user: string, tracks: StreamMetadata["tracks"]): StreamMetadata => ({
  purpose: "m.usermedia",
  user_id: user,
  device_id: "D",
  audio_muted: false,
  video_muted: false,
  tracks,
});

const ADA: Metadata = { S: stream("@ada:x", { a: { kind: "audio" }, v: { kind: "video" } }) };

describe("feeds", () => {
  let feeds: RemoteFeeds;

  beforeEach(() => {
    installFakes();
    feeds = new RemoteFeeds(FOCUS);
  });

  const tracksOf = (index: number): MediaStreamTrack[] =>
    (feeds.list[index]!.stream as unknown as FakeStream).tracks;

  it("are joined with the tracks that arrive, whichever comes first", () => {
    const [first, second] = [fakeTrack("audio"), fakeTrack("video")];
    feeds.setReceived([{ streamId: "S", trackId: "a", mid: "s0", track: first }]);
    feeds.setMetadata(ADA);
    feeds.setReceived([
      { streamId: "S", trackId: "a", mid: "s0", track: first },
      { streamId: "S", trackId: "v", mid: "s1", track: second },
    ]);
    expect(tracksOf(0)).toEqual([first, second]);
  });

  it("keep their object and their stream while their description changes", () => {
    feeds.setMetadata(ADA);
    const [before, shown] = [feeds.list[0], feeds.list[0]!.stream];
    feeds.setMetadata({ S: { ...ADA["S"]!, video_muted: true } });
    expect(feeds.list[0]).toBe(before);
    expect(feeds.list[0]).toMatchObject({ videoMuted: true, stream: shown });
  });

  it("are gone once the focus no longer names them", () => {
    feeds.setMetadata(ADA);
    feeds.setMetadata({});
    expect(feeds.list).toEqual([]);
  });

  it("find a track by its own id when the stream id has flipped", () => {
    const track = fakeTrack("video");
    feeds.setMetadata(ADA);
    feeds.setReceived([{ streamId: "other", trackId: "v", mid: "s0", track }]);
    expect(tracksOf(0)).toEqual([track]);
  });

  it("lose a track whose m-line now carries another feed", () => {
    const track = fakeTrack("video");
    feeds.setMetadata({ ...ADA, T: stream("@bob:x", { w: { kind: "video" } }) });
    feeds.setReceived([{ streamId: "S", trackId: "v", mid: "s0", track }]);
    feeds.setReceived([{ streamId: "T", trackId: "w", mid: "s0", track }]);
    expect(tracksOf(0)).toEqual([]);
    expect(tracksOf(1)).toEqual([track]);
  });

  it("are the focus's own if nobody is named", () => {
    const { user_id, device_id, ...unnamed } = ADA["S"]!;
    feeds.setMetadata({ S: unnamed });
    expect(feeds.list[0]!.owner).toEqual(FOCUS);
  });
});

describe("subscriptions", () => {
  let feeds: RemoteFeeds;
  let subscriptions: Subscriptions;

  beforeEach(() => {
    installFakes();
    feeds = new RemoteFeeds(FOCUS);
    feeds.setMetadata(ADA);
    subscriptions = new Subscriptions();
  });

  const audio = { stream_id: "S", track_id: "a" };
  const video = { stream_id: "S", track_id: "v" };

  it("hold all sound, and pictures only while they are shown", () => {
    expect(subscriptions.change(feeds.list)).toEqual({ subscribe: [audio], unsubscribe: [] });
    subscriptions.show("S", { width: 319.5, height: 179.5 });
    expect(subscriptions.change(feeds.list)).toEqual({
      subscribe: [{ ...video, width: 320, height: 180 }],
      unsubscribe: [],
    });
    subscriptions.show("S", null);
    expect(subscriptions.change(feeds.list)).toEqual({ subscribe: [], unsubscribe: [video] });
  });

  it("say nothing twice", () => {
    subscriptions.show("S", { width: 320, height: 180 });
    subscriptions.change(feeds.list);
    expect(subscriptions.show("S", { width: 320, height: 180 })).toBe(false);
    expect(subscriptions.change(feeds.list)).toBeNull();
  });

  it("say a new size", () => {
    subscriptions.show("S", { width: 320, height: 180 });
    subscriptions.change(feeds.list);
    expect(subscriptions.show("S", { width: 640, height: 360 })).toBe(true);
    expect(subscriptions.change(feeds.list)?.subscribe).toEqual([{ ...video, width: 640, height: 360 }]);
  });

  it("lose no word over a stream that is gone, and ask again when it is back", () => {
    subscriptions.change(feeds.list);
    feeds.setMetadata({});
    expect(subscriptions.change(feeds.list)).toBeNull();
    feeds.setMetadata(ADA);
    expect(subscriptions.change(feeds.list)?.subscribe).toEqual([audio]);
  });

  it("are said anew to the focus of a new leg", () => {
    subscriptions.change(feeds.list);
    subscriptions.reset();
    expect(subscriptions.change(feeds.list)?.subscribe).toEqual([audio]);
  });
});
