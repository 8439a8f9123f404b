/** A client of MSC3898: group calls through a focus. Needs a browser's WebRTC, and nothing of Matrix but `Signalling`. */

export { FocusCall, type CallEvents, type CallOptions, type CallState, type LocalMedia } from "./call.js";
export {
  FocusConnection,
  type ConnectionEvents,
  type ConnectionOptions,
  type ConnectionState,
  type Ending,
  type FailureReason,
  type Refusal,
} from "./connection.js";
export type { ReceivedTrack, RemoteFeed } from "./feeds.js";
export { simulcastEncodings } from "./simulcast.js";
export type { Size } from "./subscriptions.js";
export type { DeviceAddress, Kind, Metadata, Purpose, Removal, Signalling } from "./wire.js";
