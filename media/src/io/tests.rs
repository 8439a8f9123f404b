//! The media thread over real sockets on loopback.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::*;
use crate::engine::plan::{Kind, Line, Payload, Plan, Receive, Transmit};
use crate::proto::demux::{Class, classify};
use crate::proto::rtp::{self, FixedHeader, Header};
use crate::proto::stun::{Password, write_request};
use crate::srtp::{Master, PacketIndex, Profile, Protector, Unprotector};

const PWD: &str = "a password of some length";
const PROFILE: Profile = Profile::Aes128CmHmacSha1_80;
const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn master(seed: u8) -> Master {
    Master { key: vec![seed; 16], salt: vec![seed; 14] }
}

fn wait_for(core: &MediaCore, wanted: &Notice) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !core.poll().contains(wanted) {
        assert!(Instant::now() < deadline, "{wanted:?} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connected leg, and its peer's socket.
fn connect(core: &MediaCore, leg: LegId) -> UdpSocket {
    let socket = UdpSocket::bind(any_port()).unwrap();
    socket.connect(core.local_addresses()[0]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let add = Command::AddLeg { leg, ufrag: format!("leg{leg}"), pwd: PWD.into() };
    core.command(add).unwrap();
    let mut request = Vec::new();
    write_request([9; 12], &format!("leg{leg}:them"), &Password::new(PWD), true, true, &mut request);
    socket.send(&request).unwrap();
    let mut answer = [0; 200];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(answer[..2], [1, 1]);
    assert!(length > 40);
    wait_for(core, &Notice::Engine(Event::IceConnected(leg)));
    let (local, remote) = (master(100 + leg as u8), master(leg as u8));
    core.command(Command::SetKeys { leg, profile: PROFILE, local, remote }).unwrap();
    core.command(Command::SetGroup { leg, group: 1 }).unwrap();
    socket
}

fn plan(line: Line) -> Plan {
    let payload = Payload { pt: 111, codec: "opus".into(), clock_rate: 48_000, apt: None };
    Plan { payloads: vec![payload], extensions: vec![(MID.into(), 1)], lines: vec![line] }
}

/// What was published once this counter has come so far.
fn published_when(core: &MediaCore, name: &str, value: u64) -> Arc<Snapshot> {
    for _ in 0..500 {
        let published = core.published().unwrap();
        if published.numbers.iter().any(|series| series.name == name && series.value >= value) {
            return published;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} was not published");
}

#[test]
fn packets_go_from_publisher_to_subscriber_until_the_leg_is_removed() {
    let core = MediaCore::start(&[any_port()], 1).unwrap();
    let (publisher, subscriber) = (connect(&core, 1), connect(&core, 2));
    let receive = Line { mid: "a".into(), kind: Kind::Audio, receive: Some(Receive::default()), send: vec![] };
    let transmit = Transmit { ssrc: 77, rtx: None, pt: 111, red: None, cname: "focus".into(), rid: None };
    let send = Line { mid: "s".into(), kind: Kind::Audio, receive: None, send: vec![transmit] };
    core.command(Command::SetPlan { leg: 1, plan: plan(receive) }).unwrap();
    core.command(Command::SetPlan { leg: 2, plan: plan(send) }).unwrap();
    let (source_mid, mid) = ("a".into(), "s".into());
    core.command(Command::Forward { leg: 2, mid, source_leg: 1, source_mid, sizes: vec![None] }).unwrap();
    core.stats().unwrap(); // everything above was carried out

    let protector = Protector::new(PROFILE, &master(1)).unwrap();
    let unprotector = Unprotector::new(PROFILE, &master(102)).unwrap();
    let speak = |index: u64| {
        let mut packet = Vec::new();
        let header = FixedHeader { marker: false, pt: 111, seq: index as u16, timestamp: 0, ssrc: 5, padding: false };
        header.write(&mut packet, true);
        rtp::write_extension(&mut packet, &[(1, b"a")]);
        let length = packet.len();
        packet.extend_from_slice(&index.to_be_bytes());
        protector.protect_rtp(&mut packet, 0, length, 5, index);
        publisher.send(&packet).unwrap();
    };
    for index in 0..500u64 {
        speak(index);
        let mut packet = [0; 1500];
        let mut length = subscriber.recv(&mut packet).unwrap();
        while classify(&packet[..length]) == Class::Rtcp {
            length = subscriber.recv(&mut packet).unwrap(); // a sender report between
        }
        let header = Header::parse(&packet[..length]).unwrap();
        let position = PacketIndex::default();
        let opened =
            unprotector.unprotect_rtp(&mut packet[..length], header.length, header.ssrc, header.seq, &position);
        let (length, _) = opened.unwrap();
        assert_eq!((header.ssrc, &packet[header.length..length]), (77, &index.to_be_bytes()[..]));
    }
    let stats: std::collections::HashMap<_, _> = core.stats().unwrap().into_iter().collect();
    assert_eq!((stats["forwarded_total"], stats["legs"], stats["forwards_flowing"]), (500, 2, 1));
    assert_eq!(stats["forwarding_latency_packets_total"], 500);
    assert!(stats["thread_cpu_ns_total"] > 0);
    let published = published_when(&core, "datagrams_in_total", stats["datagrams_in_total"]);
    let latency = published.histograms.iter().find(|series| series.name == "forwarding_latency_microseconds").unwrap();
    assert_eq!(latency.value.count(), 500);
    assert!(latency.value.sum() > 0, "it takes time, which the kernel's stamps show");
    let batches = published.histograms.iter().find(|series| series.name == "send_batch_datagrams").unwrap();
    assert!(batches.value.sum() >= stats["datagrams_out_total"]);

    core.command_and_wait(Command::RemoveLeg { leg: 2 }).unwrap();
    subscriber.set_nonblocking(true).unwrap();
    while subscriber.recv(&mut [0; 1500]).is_ok() {} // what was sent before
    for index in 500..600 {
        speak(index);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(subscriber.recv(&mut [0; 1500]).is_err());
    core.shutdown();
    core.shutdown();
    assert!(core.stats().unwrap().is_empty());
}

#[test]
fn every_local_address_answers_from_itself() {
    let core = MediaCore::start(&[(Ipv4Addr::UNSPECIFIED, 0).into()], 1).unwrap();
    let local = core.local_addresses();
    assert!(local.iter().any(|address| address.ip() == Ipv4Addr::LOCALHOST));
    assert!(local.iter().all(|address| address.port() == local[0].port() && !address.ip().is_unspecified()));
    core.command(Command::AddLeg { leg: 1, ufrag: "leg1".into(), pwd: PWD.into() }).unwrap();
    for address in local {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut request = Vec::new();
        write_request([9; 12], "leg1:them", &Password::new(PWD), false, true, &mut request);
        socket.send_to(&request, address).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 200]).unwrap();
        assert_eq!(from, *address);
    }
}

#[test]
fn a_taken_port_is_an_error() {
    let core = MediaCore::start(&[any_port()], 1).unwrap();
    let error = MediaCore::start(core.local_addresses(), 1).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(MediaCore::start(&[], 1).is_err());
}

#[test]
fn a_panic_in_the_thread_is_told_and_everything_after_it_refused() {
    let core = MediaCore::start(&[any_port()], 1).unwrap();
    core.shared.mailboxes[0].post(Message::Panic);
    wait_for(&core, &Notice::Failed("the media thread panicked: as asked".into()));
    assert!(core.command(Command::RemoveLeg { leg: 1 }).is_err());
    assert!(core.stats().is_err());
    core.shutdown();
}
