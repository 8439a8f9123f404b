//! The ceiling: the smallest loop that receives, decrypts, rewrites, encrypts and sends what a focus would.
//!
//! No ICE, no RTCP, no cache, no header extensions of each subscriber, no routes: every source goes to everybody but its own
//! peer. Reads `bind ADDRESS`, then `peer ADDRESS LOCAL REMOTE send|receive|both` and `source PEER SSRC` lines from stdin, the
//! keys as the focus has them, then `go`; answers `count` with one line of JSON.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mautrix_sfu_load::net::{self, BATCH, Inbox, Out};
use mautrix_sfu_load::{master, profile};
use mautrix_sfu_media::proto::rtp::Header;
use mautrix_sfu_media::srtp::{PacketIndex, Protector, Unprotector};

/// Segments of one send, and its bytes: what the kernel takes.
const MAX_SEGMENTS: usize = 64;
const MAX_BYTES: usize = 64_000;
/// Packets that differ by less are padded to one size.
const MAX_PADDING: usize = 32;
const FIXED: usize = 12;
const TAG: usize = 16;

static SENT: AtomicU64 = AtomicU64::new(0);
static SENDS: AtomicU64 = AtomicU64::new(0);

struct Peer {
    address: SocketAddrV4,
    protector: Protector,
    unprotector: Unprotector,
    receives: bool,
    next: HashMap<u32, u64>,
}

/// A packet that was decrypted.
struct Taken {
    peer: usize,
    ssrc: u32,
    fixed: [u8; FIXED],
    payload: (usize, usize), // in the store
}

fn main() {
    let mut peers: Vec<Peer> = Vec::new();
    let mut sources: HashMap<u32, (usize, PacketIndex)> = HashMap::new();
    let mut bind = None;
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    for line in lines.by_ref() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["bind", address] => bind = Some(address.parse().expect("an address")),
            ["peer", address, profile_name, local, remote, role] => {
                let keys = |text| {
                    (
                        profile(profile_name).expect("a profile"),
                        master(text).expect("keys in hex"),
                    )
                };
                let ((profile, local), (_, remote)) = (keys(local), keys(remote));
                peers.push(Peer {
                    address: address.parse().expect("an address"),
                    protector: Protector::new(profile, &local).expect("keys of the profile"),
                    unprotector: Unprotector::new(profile, &remote).expect("keys of the profile"),
                    receives: role != "send",
                    next: HashMap::new(),
                });
            }
            ["source", peer, ssrc] => {
                let peer = peer.parse().expect("a number");
                sources.insert(
                    ssrc.parse().expect("a number"),
                    (peer, PacketIndex::default()),
                );
            }
            ["go"] => break,
            _ => panic!("a line that is not understood: {line}"),
        }
    }
    std::thread::spawn(move || run(bind.expect("a bind line"), peers, sources));
    for _ in lines {
        let (sent, sends) = (SENT.load(Ordering::Relaxed), SENDS.load(Ordering::Relaxed));
        println!("{{\"sent\": {sent}, \"sends\": {sends}}}");
        let _ = std::io::stdout().flush();
    }
    std::process::exit(0);
}

fn run(bind: SocketAddrV4, mut peers: Vec<Peer>, mut sources: HashMap<u32, (usize, PacketIndex)>) {
    let socket = net::open(bind).expect("a socket");
    let mut inbox = Inbox::default();
    let (mut store, mut taken) = (Vec::new(), Vec::new());
    let (mut bytes, mut runs) = (Vec::new(), Vec::new());
    loop {
        net::wait(&socket, Duration::from_secs(1)).expect("the socket stays");
        let count = inbox.receive(&socket).expect("the socket stays");
        store.clear();
        taken.clear();
        bytes.clear();
        runs.clear();
        for index in 0..count {
            take(
                &peers,
                &mut sources,
                inbox.datagram(index),
                &mut store,
                &mut taken,
            );
        }
        for (index, peer) in peers
            .iter_mut()
            .enumerate()
            .filter(|(_, peer)| peer.receives)
        {
            write(index, peer, &store, &taken, &mut bytes, &mut runs);
        }
        let outs: Vec<Out<'_>> = runs
            .iter()
            .map(|run: &Run| Out {
                from: None,
                to: run.to,
                bytes: &bytes[run.start..run.end],
                segment: run.segment,
            })
            .collect();
        let mut rest = &outs[..];
        while !rest.is_empty() {
            let sent =
                net::send(&socket, &rest[..rest.len().min(BATCH)]).expect("the network takes it");
            rest = &rest[sent..];
        }
        let segments: usize = runs.iter().map(|run| run.segments).sum();
        SENT.store(
            SENT.load(Ordering::Relaxed) + segments as u64,
            Ordering::Relaxed,
        );
        SENDS.store(
            SENDS.load(Ordering::Relaxed) + runs.len() as u64,
            Ordering::Relaxed,
        );
    }
}

/// Several packets of one size, but for the last, to one peer.
struct Run {
    to: SocketAddrV4,
    start: usize,
    end: usize,
    segment: usize,
    segments: usize,
}

fn take(
    peers: &[Peer],
    sources: &mut HashMap<u32, (usize, PacketIndex)>,
    datagram: &mut [u8],
    store: &mut Vec<u8>,
    taken: &mut Vec<Taken>,
) {
    let Some(header) = Header::parse(datagram).filter(|_| !(192..=223).contains(&datagram[1]))
    else {
        return;
    };
    let Some((peer, position)) = sources.get_mut(&header.ssrc) else {
        return;
    };
    let unprotector = &peers[*peer].unprotector;
    let Ok((length, index)) =
        unprotector.unprotect_rtp(datagram, header.length, header.ssrc, header.seq, position)
    else {
        return;
    };
    position.accept(index);
    let start = store.len();
    store.extend_from_slice(&datagram[header.length..length]);
    let mut fixed: [u8; FIXED] = datagram[..FIXED].try_into().expect("a header");
    fixed[0] = 0x80;
    taken.push(Taken {
        peer: *peer,
        ssrc: header.ssrc,
        fixed,
        payload: (start, store.len()),
    });
}

fn write(
    index: usize,
    peer: &mut Peer,
    store: &[u8],
    taken: &[Taken],
    bytes: &mut Vec<u8>,
    runs: &mut Vec<Run>,
) {
    let mut own = taken
        .iter()
        .filter(|packet| packet.peer != index)
        .peekable();
    while let Some(first) = own.peek() {
        let size = |packet: &Taken| packet.payload.1 - packet.payload.0;
        // The largest of those that follow and differ by little is the size of them all.
        let base = size(first);
        let near = taken
            .iter()
            .map(size)
            .filter(|size| (base..=base + MAX_PADDING).contains(size))
            .max()
            .unwrap_or(base);
        let segment = FIXED + near + TAG;
        let mut run = Run {
            to: peer.address,
            start: bytes.len(),
            end: 0,
            segment,
            segments: 0,
        };
        while let Some(packet) = own.next_if(|packet| {
            size(packet) <= near
                && run.segments < MAX_SEGMENTS
                && bytes.len() - run.start + segment <= MAX_BYTES
        }) {
            let start = bytes.len();
            bytes.extend_from_slice(&packet.fixed);
            let next = peer.next.entry(packet.ssrc).or_insert(1000);
            bytes[start + 2..start + 4].copy_from_slice(&(*next as u16).to_be_bytes());
            bytes.extend_from_slice(&store[packet.payload.0..packet.payload.1]);
            let short = near - size(packet);
            if (1..=MAX_PADDING).contains(&short) {
                bytes[start] |= 0x20;
                bytes.resize(bytes.len() + short, 0);
                *bytes.last_mut().expect("padding") = short as u8;
            }
            peer.protector
                .protect_rtp(bytes, start, FIXED, packet.ssrc, *next);
            *next += 1;
            run.segments += 1;
            if short > MAX_PADDING {
                break; // a shorter one ends the run
            }
        }
        run.end = bytes.len();
        runs.push(run);
    }
}
