/** The little that a client must read in SDP: which m-line carries which stream and track (RFC 8830). */

export interface Msid {
  readonly streamId: string;
  readonly trackId: string;
}

/** mid → msid of every m-line of `sdp` that its author sends on. */
export function sentMsids(sdp: string): Map<string, Msid> {
  const found = new Map<string, Msid>();
  for (const section of sdp.split(/\r?\n(?=m=)/).slice(1)) {
    const mid = /^a=mid:(\S+)/m.exec(section)?.[1];
    const msid = /^a=msid:(\S+) (\S+)/m.exec(section);
    const sends = /^a=(sendrecv|sendonly)\s*$/m.test(section);
    const rejected = /^m=\S+ 0 /.test(section);
    if (mid !== undefined && msid && sends && !rejected) {
      found.set(mid, { streamId: msid[1]!, trackId: msid[2]! });
    }
  }
  return found;
}
