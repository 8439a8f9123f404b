/** What went wrong, in plain words. */

import type { Ending, Kind, Removal } from "../msc3898/index.js";

const DEVICE: Record<Kind, string> = { audio: "microphone", video: "camera" };

/** Why a camera or microphone could not be had (getUserMedia's errors). */
export function mediaTrouble(kind: Kind, error: unknown): string {
  const device = DEVICE[kind];
  if (!globalThis.isSecureContext) return `Browsers only allow the ${device} on pages that come over https.`;
  switch (error instanceof Error ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return `This page is not allowed to use the ${device}. Allow it in the browser's address bar, then switch it on here.`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No ${device} was found.`;
    case "NotReadableError":
    case "AbortError":
      return `The ${device} does not work now; another program may be using it.`;
    default:
      return `The ${device} could not be started.`;
  }
}

/** Why a leg ended that nobody here ended; says nothing of what happens next. */
export function endingWords(ending: Ending): string {
  if (ending.by === "focus") {
    if (ending.removal) return removalWords(ending.removal);
    if (ending.how === "reject") return `The call server refuses the call (${ending.reason}).`;
    switch (ending.reason) {
      case "new_session":
      case "replaced":
      case "answered_elsewhere":
        return "You joined this call from another window.";
      case "keep_alive_timeout":
        return "The call server did not hear from this page for too long.";
      case "user_busy":
        return "The call server takes no more calls now.";
      default:
        return `The call server ended the connection (${ending.reason}).`;
    }
  }
  switch (ending.reason) {
    case "invite_timeout":
      return "The call server does not answer.";
    case "ice_failed":
    case "ice_timeout":
      return "No audio or video gets through to the call server; a firewall may block it.";
    case "keep_alive_timeout":
    case "channel_closed":
      return "The call server is gone.";
    case "signalling_failed":
      return "The homeserver does not pass messages on to the call server.";
    default:
      return "Setting up audio and video failed.";
  }
}

function removalWords({ cause, why }: Removal): string {
  const said = why === "" ? "." : `: ${why}`;
  switch (cause) {
    case "kicked":
      return `The operator of the call server has removed you from the call${said}`;
    case "call_ended":
      return "The operator of the call server has ended the call.";
    case "guest":
      return "This call server takes no guests of other homeservers.";
    default:
      return `You may not use this call server${said}`;
  }
}

/** What a request to the homeserver said when it failed (Matrix's `errcode`). */
export function homeserverTrouble(error: unknown): string {
  const { errcode, httpStatus, message } = (error ?? {}) as {
    errcode?: string;
    httpStatus?: number;
    message?: string;
  };
  switch (errcode) {
    case "M_FORBIDDEN":
      return httpStatus === 403 && /invalid (username|password)/i.test(message ?? "")
        ? "The user name or the password is wrong."
        : "The homeserver does not allow this.";
    case "M_UNKNOWN_TOKEN":
    case "M_MISSING_TOKEN":
      return "The session is over. Please log in again.";
    case "M_NOT_FOUND":
      return "There is no such room.";
    case "M_LIMIT_EXCEEDED":
      return "The homeserver asks to wait a little. Please try again.";
    case "M_USER_DEACTIVATED":
      return "This account has been closed.";
    case undefined:
      return "The homeserver cannot be reached.";
    default:
      return `The homeserver refuses: ${message ?? errcode}`;
  }
}

export const NO_PERMISSION =
  "This room does not let you start or join calls: ask an admin of the room for permission to send " +
  "org.matrix.msc3401.call.member events.";

export const NO_FOCUS =
  "No call server (focus) is known for this room: open the call page of your homeserver's focus.";
