//! The peers of a focus after their handshakes: they publish, take what comes, report, and count.
//!
//! Reads commands from stdin, one a line, and answers `count` with one line of JSON:
//!
//! - `peer IP REMOTE USERNAME PASSWORD PROFILE LOCAL REMOTE_KEYS [watch]`: a connection; keys are key and salt in hex. A watched
//!   one decrypts all that it gets and measures latency; of the others' packets one in 64 is decrypted.
//! - `source PEER video|audio SSRC PT BYTES INTERVAL_US`: what it publishes: so many bytes in each frame.
//! - `bytes video|audio BYTES`: other frame sizes from now on.
//! - `direct ADDRESS`: sends stamped datagrams there as well, to a `sink`, for the time that the path takes by itself.
//! - `count`, `reset` (of the latencies), `quit`.
//!
//! With arguments `sink ADDRESS` it is that sink: it answers each line of stdin with the latencies so far.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

use mautrix_sfu_load::net::{self, BATCH, Inbox, Out};
use mautrix_sfu_load::{Random, master, profile};
use mautrix_sfu_media::proto::rtcp::{self, Block, Packet};
use mautrix_sfu_media::proto::rtp::{FixedHeader, Header, write_extension};
use mautrix_sfu_media::proto::stun::{Check, Password};
use mautrix_sfu_media::srtp::{PacketIndex, Protector, Unprotector};

/// The port of every peer; they differ in their addresses.
const PORT: u16 = 5000;
/// What libwebrtc puts into one packet at most.
const MAX_PAYLOAD: usize = 1180;
/// One packet in so many is decrypted.
const SAMPLE: u64 = 64;
const SECOND: u64 = 1_000_000_000;
/// Header extensions, by the ids that the offers name.
const LEVEL: u8 = 1;
const SEND_TIME: u8 = 2;
const TRANSPORT_CC: u8 = 3;
const STAMP: usize = 8;
const KEY_FRAME: [u8; 10] = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02]; // 1280x720
const DELTA_FRAME: [u8; 3] = [0x11, 0x02, 0x00];

/// What came of one source.
#[derive(Default)]
struct Got {
    highest: u64,
    first: Option<u64>,
    packets: u64,
    position: PacketIndex,
}

/// One connection.
struct Peer {
    ip: Ipv4Addr,
    remote: SocketAddrV4,
    username: String,
    password: Password,
    protector: Protector,
    unprotector: Unprotector,
    rtcp_ssrc: u32,
    watched: bool,
    got: HashMap<u32, Got>,
    transport_seq: u16,
    check_due: u64,
    report_due: u64,
}

/// One published stream.
struct Source {
    peer: usize,
    video: bool,
    ssrc: u32,
    pt: u8,
    bytes: usize,
    interval: u64,
    due: u64,
    index: u64,
    frame: u64,
    wants_key_frame: bool,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    received: u64,
    bytes: u64,
    stray: u64,
    forged: u64,
    sampled: u64,
    key_frames: u64,
}

struct Generator {
    socket: UdpSocket,
    peers: Vec<Peer>,
    by_ip: HashMap<Ipv4Addr, usize>,
    sources: Vec<Source>,
    counts: Counts,
    random: Random,
    latencies: Vec<u32>, // ns
    direct: Option<SocketAddrV4>,
    buffer: Vec<u8>,
    cuts: Vec<(usize, usize, usize)>, // start, end, peer
}

fn commands() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        let _ = sender.send("quit".into());
    });
    receiver
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, address] = &arguments[..]
        && mode == "sink"
    {
        return sink(address.parse().expect("an IPv4 address and port"));
    }
    let socket =
        net::open(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT)).expect("a socket on port 5000");
    net::stamp(&socket).expect("kernel timestamps");
    let mut generator = Generator {
        socket,
        peers: Vec::new(),
        by_ip: HashMap::new(),
        sources: Vec::new(),
        counts: Counts::default(),
        random: Random(1),
        latencies: Vec::new(),
        direct: None,
        buffer: Vec::new(),
        cuts: Vec::new(),
    };
    let commands = commands();
    let mut inbox = Inbox::default();
    let mut maintained = 0;
    loop {
        while let Ok(line) = commands.try_recv() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words == ["quit"] {
                return;
            }
            assert!(
                generator.command(&words).is_some(),
                "a command that is not understood: {line}"
            );
        }
        let now = net::now();
        generator.play(now);
        if now - maintained > SECOND / 500 {
            maintained = now;
            generator.maintain(now);
        }
        let count = inbox.receive(&generator.socket).expect("the socket stays");
        for index in 0..count {
            let (to, stamp) = inbox.info(index);
            generator.take(to, stamp, inbox.datagram(index));
        }
    }
}

/// Counts stamped datagrams and how long they took.
fn sink(address: SocketAddrV4) {
    let socket = net::open(address).expect("a socket");
    net::stamp(&socket).expect("kernel timestamps");
    let commands = commands();
    let mut inbox = Inbox::default();
    let mut latencies = Vec::new();
    loop {
        while let Ok(line) = commands.try_recv() {
            if line == "quit" {
                return;
            }
            println!("{}", summary(&mut latencies));
            latencies.clear();
        }
        net::wait(&socket, std::time::Duration::from_millis(5)).expect("the socket stays");
        for index in 0..inbox.receive(&socket).expect("the socket stays") {
            let (_, stamp) = inbox.info(index);
            if let Some(sent) = stamp_of(inbox.datagram(index)) {
                latencies.push(stamp.saturating_sub(sent) as u32);
            }
        }
    }
}

fn stamp_of(payload: &[u8]) -> Option<u64> {
    payload
        .last_chunk::<STAMP>()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

/// Count and percentiles, in milliseconds, as JSON.
fn summary(latencies: &mut [u32]) -> String {
    latencies.sort_unstable();
    let at = |part: f64| {
        let place =
            ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
        f64::from(latencies.get(place).copied().unwrap_or(0)) / 1e6
    };
    format!(
        "{{\"measured\": {}, \"p50_ms\": {:.4}, \"p99_ms\": {:.4}, \"p999_ms\": {:.4}, \"max_ms\": {:.4}}}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

impl Generator {
    fn command(&mut self, words: &[&str]) -> Option<()> {
        match *words {
            [
                "peer",
                ip,
                remote,
                username,
                password,
                profile_name,
                local,
                theirs,
                ref rest @ ..,
            ] => {
                let ip = ip.parse().ok()?;
                let profile = profile(profile_name)?;
                let now = net::now();
                let spread = self.random.draw() % SECOND;
                self.by_ip.insert(ip, self.peers.len());
                self.peers.push(Peer {
                    ip,
                    remote: remote.parse().ok()?,
                    username: username.to_owned(),
                    password: Password::new(password),
                    protector: Protector::new(profile, &master(local)?)?,
                    unprotector: Unprotector::new(profile, &master(theirs)?)?,
                    rtcp_ssrc: self.random.draw() as u32,
                    watched: rest == ["watch"],
                    got: HashMap::new(),
                    transport_seq: 0,
                    check_due: now + spread / 5,
                    report_due: now + spread,
                });
            }
            ["source", peer, kind, ssrc, pt, bytes, interval] => {
                let interval = interval.parse::<u64>().ok()? * 1000;
                self.sources.push(Source {
                    peer: peer.parse().ok()?,
                    video: kind == "video",
                    ssrc: ssrc.parse().ok()?,
                    pt: pt.parse().ok()?,
                    bytes: bytes.parse().ok()?,
                    interval,
                    due: net::now() + self.random.draw() % interval,
                    index: self.random.draw() & 0x7fff,
                    frame: 0,
                    wants_key_frame: true,
                });
            }
            ["bytes", kind, bytes] => {
                let bytes = bytes.parse().ok()?;
                self.sources
                    .iter_mut()
                    .filter(|it| it.video == (kind == "video"))
                    .for_each(|it| it.bytes = bytes);
            }
            ["direct", address] => self.direct = Some(address.parse().ok()?),
            ["reset"] => self.latencies.clear(),
            ["count"] => self.report(),
            _ => return None,
        }
        Some(())
    }

    fn report(&mut self) {
        let all = self.peers.iter().flat_map(|peer| peer.got.values());
        let expected: u64 = all
            .clone()
            .map(|got| got.highest + 1 - got.first.unwrap_or(got.highest))
            .sum();
        let packets: u64 = all.map(|got| got.packets).sum();
        let counts = &self.counts;
        println!(
            "{{\"sent\": {}, \"received\": {}, \"bytes\": {}, \"stray\": {}, \"forged\": {}, \"sampled\": {}, \"lost\": {}, \
             \"key_frames\": {}, \"latency\": {}}}",
            counts.sent,
            counts.received,
            counts.bytes,
            counts.stray,
            counts.forged,
            counts.sampled,
            expected as i64 - packets as i64,
            counts.key_frames,
            summary(&mut self.latencies)
        );
        let _ = std::io::stdout().flush();
    }

    /// Sends the frames that are due, each as one burst.
    fn play(&mut self, now: u64) {
        for index in 0..self.sources.len() {
            if self.sources[index].due <= now {
                self.frame(index, now);
                self.flush();
            }
        }
    }

    fn frame(&mut self, index: usize, now: u64) {
        let source = &mut self.sources[index];
        let peer = &mut self.peers[source.peer];
        source.due = (source.due + source.interval).max(now.saturating_sub(source.interval));
        // Encoders do not make frames of one size: a fifth more or less.
        let spread = source.bytes / 5;
        let bytes = source.bytes - spread + (self.random.draw() % (2 * spread as u64 + 1)) as usize;
        let key = source.video && std::mem::take(&mut source.wants_key_frame);
        self.counts.key_frames += u64::from(key);
        let count = if source.video {
            bytes.div_ceil(MAX_PAYLOAD)
        } else {
            1
        };
        let timestamp = (source.frame * source.interval * if source.video { 9 } else { 48 }
            / if source.video { 100_000 } else { 1_000_000 }) as u32;
        for part in 0..count {
            let start = self.buffer.len();
            let fixed = FixedHeader {
                marker: source.video && part + 1 == count,
                pt: source.pt,
                seq: source.index as u16,
                timestamp,
                ssrc: source.ssrc,
                padding: false,
            };
            fixed.write(&mut self.buffer, true);
            let send_time = (((u128::from(now) << 18) / u128::from(SECOND)) as u32).to_be_bytes();
            let transport_seq = peer.transport_seq.to_be_bytes();
            peer.transport_seq = peer.transport_seq.wrapping_add(1);
            let level = [0x80 | (40 + (self.random.draw() % 8) as u8)];
            let elements: &[(u8, &[u8])] = &[
                (SEND_TIME, &send_time[1..]),
                (TRANSPORT_CC, &transport_seq),
                (LEVEL, &level),
            ];
            write_extension(
                &mut self.buffer,
                if source.video {
                    &elements[..2]
                } else {
                    elements
                },
            );
            let header = self.buffer.len() - start;
            let payload = bytes * (part + 1) / count - bytes * part / count; // all but equal
            let begin = self.buffer.len();
            if source.video {
                let picture = (0x8000 | source.frame as u16 & 0x7fff).to_be_bytes();
                self.buffer.extend_from_slice(&[
                    if part == 0 { 0x90 } else { 0x80 },
                    0x80,
                    picture[0],
                    picture[1],
                ]);
                if part == 0 {
                    self.buffer
                        .extend_from_slice(if key { &KEY_FRAME } else { &DELTA_FRAME });
                }
            }
            self.buffer.resize(
                (begin + payload).max(self.buffer.len() + STAMP) - STAMP,
                0x5a,
            );
            self.buffer.extend_from_slice(&net::now().to_be_bytes());
            peer.protector
                .protect_rtp(&mut self.buffer, start, header, source.ssrc, source.index);
            source.index += 1;
            self.cuts.push((start, self.buffer.len(), source.peer));
            self.counts.sent += 1;
        }
        source.frame += 1;
        if let Some(direct) = self.direct {
            let stamp = net::now().to_be_bytes();
            let datagram = [&[0x5a; 1000][..], &stamp].concat();
            let out = Out {
                from: None,
                to: direct,
                bytes: &datagram,
                segment: datagram.len(),
            };
            net::send(&self.socket, &[out]).expect("the network takes it");
        }
    }

    fn flush(&mut self) {
        let outs: Vec<Out<'_>> = self
            .cuts
            .iter()
            .map(|&(start, end, peer)| {
                let peer = &self.peers[peer];
                Out {
                    from: Some(peer.ip),
                    to: peer.remote,
                    bytes: &self.buffer[start..end],
                    segment: end - start,
                }
            })
            .collect();
        let mut rest = &outs[..];
        while !rest.is_empty() {
            let sent = net::send(&self.socket, rest).expect("the network takes it");
            rest = &rest[sent..];
        }
        self.cuts.clear();
        self.buffer.clear();
    }

    /// Consent checks every 2 s, receiver reports every second.
    fn maintain(&mut self, now: u64) {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            let start = self.buffer.len();
            if peer.check_due <= now && peer.username != "-" {
                peer.check_due = now + 2 * SECOND;
                let mut id = [0; 12];
                id[..8].copy_from_slice(&self.random.draw().to_be_bytes());
                let check = Check {
                    id,
                    username: &peer.username,
                    nominates: true,
                    controlling: true,
                    tie_breaker: u64::MAX,
                };
                check.write(&peer.password, &mut self.buffer);
                self.cuts.push((start, self.buffer.len(), index));
            } else if peer.report_due <= now && peer.username != "-" {
                peer.report_due = now + SECOND;
                let blocks: Vec<Block> = peer
                    .got
                    .iter()
                    .map(|(ssrc, got)| Block {
                        ssrc: *ssrc,
                        highest: got.highest as u32,
                        ..Block::default()
                    })
                    .collect();
                for blocks in blocks.chunks(31) {
                    let start = self.buffer.len();
                    rtcp::write_receiver_report(&mut self.buffer, peer.rtcp_ssrc, blocks);
                    peer.protector.protect_rtcp(&mut self.buffer, start);
                    self.cuts.push((start, self.buffer.len(), index));
                }
            }
            if self.cuts.len() >= BATCH {
                self.flush();
            }
        }
        self.flush();
    }

    fn take(&mut self, to: Ipv4Addr, stamp: u64, datagram: &mut [u8]) {
        let Some(&index) = self.by_ip.get(&to) else {
            self.counts.stray += 1;
            return;
        };
        let peer = &mut self.peers[index];
        match datagram {
            [128..192, 192..=223, ..] => self.take_rtcp(index, datagram),
            [128..192, ..] => {
                let Some(header) = Header::parse(datagram) else {
                    self.counts.stray += 1;
                    return;
                };
                self.counts.received += 1;
                self.counts.bytes += datagram.len() as u64;
                let got = peer.got.entry(header.ssrc).or_default();
                let index = got.position.estimate(header.seq);
                got.first = Some(got.first.map_or(index, |first| first.min(index)));
                got.highest = got.highest.max(index);
                got.packets += 1;
                let new = got.position.is_new(index);
                if new && (peer.watched || self.counts.received % SAMPLE == 0) {
                    self.counts.sampled += 1;
                    match peer.unprotector.unprotect_rtp(
                        datagram,
                        header.length,
                        header.ssrc,
                        header.seq,
                        &got.position,
                    ) {
                        Err(_) => self.counts.forged += 1,
                        Ok((length, _)) if peer.watched => {
                            if let Some(sent) =
                                header.payload(&datagram[..length]).and_then(stamp_of)
                            {
                                self.latencies.push(stamp.saturating_sub(sent) as u32);
                            }
                        }
                        Ok(_) => {}
                    }
                }
                got.position.accept(index);
            }
            _ => {} // STUN answers, DTLS
        }
    }

    /// Takes key-frame requests; the rest of RTCP is for the other side to send.
    fn take_rtcp(&mut self, index: usize, datagram: &mut [u8]) {
        let Ok(length) = self.peers[index].unprotector.unprotect_rtcp(datagram) else {
            self.counts.forged += 1;
            return;
        };
        for packet in rtcp::parse(&datagram[..length]) {
            let mut wish = |media: u32| {
                let wanted = self
                    .sources
                    .iter_mut()
                    .filter(|it| it.peer == index && it.ssrc == media);
                wanted.for_each(|it| it.wants_key_frame = true);
            };
            match packet {
                Packet::PictureLoss { media } => wish(media),
                Packet::FullIntra { entries } => entries.for_each(wish),
                _ => {}
            }
        }
    }
}
