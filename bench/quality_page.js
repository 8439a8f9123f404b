// What `make quality` runs in Chromium: publishes a camera, shows what it is sent, and keeps book of it.
window.quality = (() => {
  const connections = {};
  const frames = []; // [ms, width] of each picture that was shown
  const samples = []; // of what arrives, every 100 ms
  const COUNTED = {
    audio: ["concealedSamples", "silentConcealedSamples", "totalSamplesReceived"],
    video: ["pliCount", "firCount", "nackCount"],
  };
  const bits = (pixels) => (pixels >= 1280 * 720 ? 1_700_000 : pixels >= 640 * 360 ? 500_000 : 150_000);

  function connection(name) {
    if (connections[name]) return connections[name];
    const made = (connections[name] = new RTCPeerConnection());
    made.ontrack = ({ track }) => {
      const shown = document.createElement(track.kind);
      shown.srcObject = new MediaStream([track]);
      shown.autoplay = true;
      document.body.append(shown);
      if (track.kind !== "video") return;
      const onFrame = (_, frame) => {
        frames.push([frame.presentationTime, frame.width]);
        shown.requestVideoFrameCallback(onFrame);
      };
      shown.requestVideoFrameCallback(onFrame);
    };
    return made;
  }

  async function described(made) {
    if (made.iceGatheringState !== "complete") {
      await new Promise((done) => (made.onicegatheringstatechange = () => made.iceGatheringState === "complete" && done()));
    }
    return made.localDescription.sdp;
  }

  async function inbound() {
    const found = { at: performance.now(), bytes: 0, voices: {}, video: {} };
    for (const made of Object.values(connections)) {
      for (const report of (await made.getStats()).values()) {
        if (report.type !== "inbound-rtp") continue;
        found.bytes += report.bytesReceived + report.headerBytesReceived;
        const kept = Object.fromEntries(COUNTED[report.kind].map((name) => [name, report[name] ?? 0]));
        if (report.kind === "video") found.video = kept;
        else found.voices[report.mid] = kept;
      }
    }
    return found;
  }

  async function layers() {
    const found = {};
    for (const made of Object.values(connections)) {
      for (const report of (await made.getStats()).values()) {
        if (report.type !== "outbound-rtp" || report.kind !== "video") continue;
        const { timestamp, bytesSent, frameWidth, qualityLimitationReason } = report;
        found[report.rid ?? ""] = { timestamp, bytesSent, frameWidth: frameWidth ?? 0, qualityLimitationReason };
      }
    }
    return found;
  }

  return {
    layers,
    now: () => performance.now(),

    async connected(name) {
      const made = connection(name);
      while (made.connectionState !== "connected") {
        await new Promise((done) => made.addEventListener("connectionstatechange", done, { once: true }));
      }
    },

    // Gives an offer of microphone, camera and data channel, as far as they are wished.
    async publish(name, { width, height, rate, camera, channel }) {
      const made = connection(name);
      if (channel) made.createDataChannel("datachannel");
      const video = camera && { width, height, frameRate: rate };
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video });
      const streams = [stream];
      for (const track of stream.getAudioTracks()) made.addTransceiver(track, { direction: "sendonly", streams });
      for (const track of stream.getVideoTracks()) {
        const sizes = [1, 2, 4].map((by) => ({ scaleResolutionDownBy: by, maxBitrate: bits((width * height) / by ** 2) }));
        const sendEncodings = sizes.map((size, index) => ({ rid: "fhq"[index], ...size }));
        made.addTransceiver(track, { direction: "sendonly", streams, sendEncodings });
      }
      await made.setLocalDescription();
      return await described(made);
    },

    async answered(name, sdp) {
      await connection(name).setRemoteDescription({ type: "answer", sdp });
    },

    // Gives an answer.
    async take(name, sdp) {
      const made = connection(name);
      await made.setRemoteDescription({ type: "offer", sdp });
      await made.setLocalDescription();
      return await described(made);
    },

    watch() {
      setInterval(async () => samples.push(await inbound()), 100);
    },

    last: () => [samples.at(-1)?.bytes, frames.at(-1)],
    book: () => ({ frames, samples }),
  };
})();
