/** Which simulcast layers a camera of some size is sent in. */

const LAYERS = [
  { rid: "f", scaleResolutionDownBy: 1 },
  { rid: "h", scaleResolutionDownBy: 2 },
  { rid: "q", scaleResolutionDownBy: 4 },
];

/** Bits per second that a layer of so many pixels is worth, at 30 frames a second. */
function bitrate(pixels: number): number {
  if (pixels >= 1280 * 720) return 1_700_000;
  if (pixels >= 640 * 360) return 500_000;
  return 150_000;
}

/**
 * Encodings for a camera, highest first; one without rid if it is too small to be scaled down.
 *
 * Chromium itself never sends three layers below 960x540, nor two below 480x270, and then leaves out the
 * highest ones: so no more are asked for than it will send.
 */
export function simulcastEncodings(width: number, height: number): RTCRtpEncodingParameters[] {
  const pixels = width * height;
  const count = pixels >= 960 * 540 ? 3 : pixels >= 480 * 270 ? 2 : 1;
  if (count === 1) return [{ maxBitrate: bitrate(pixels) }];
  return LAYERS.slice(0, count).map((layer) => ({
    ...layer,
    maxBitrate: bitrate(pixels / layer.scaleResolutionDownBy ** 2),
  }));
}
