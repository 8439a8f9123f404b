//! Real sockets on the loopback interface, and a real media thread.

use std::time::Instant;

use super::*;
use crate::proto::stun::{Password, Request};

const LEG: LegId = 1;

fn core() -> MediaCore {
    MediaCore::start(&["127.0.0.1:0".parse().unwrap()], 1).unwrap()
}

fn add_leg(core: &MediaCore) {
    core.command(Command::AddLeg { leg: LEG, ufrag: "ufrag".into(), pwd: "password".into() }).unwrap();
}

fn connect(core: &MediaCore, candidates: &[SocketAddr]) {
    core.connect(LEG, "ufrag".into(), "password".into(), candidates).unwrap().unwrap();
}

/// The next notice, which comes soon.
fn next(core: &MediaCore) -> Notice {
    let begun = Instant::now();
    loop {
        let mut notices = core.poll();
        if let Some(notice) = notices.pop_front() {
            assert!(notices.is_empty(), "one at a time: {notices:?}");
            return notice;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "nothing came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A socket that answers nothing by itself.
fn silent_peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn two_cores_connect_over_a_socket_of_the_dialling_leg() {
    let (near, far) = (core(), core());
    add_leg(&near);
    add_leg(&far);
    connect(&near, far.local_addresses());
    for core in [&near, &far] {
        assert_eq!(next(core), Notice::Engine(Event::IceConnected(LEG)));
    }
    for (from, to, datagram) in [(&near, &far, vec![22, 1]), (&far, &near, vec![22, 2])] {
        from.command(Command::SendDtls { leg: LEG, datagram: datagram.clone() }).unwrap();
        assert_eq!(next(to), Notice::Engine(Event::Dtls(LEG, datagram)));
    }
}

#[test]
fn the_socket_of_a_dialling_leg_is_its_own_and_closes_with_it() {
    let (core, (peer, address)) = (core(), silent_peer());
    add_leg(&core);
    connect(&core, &[address]);
    let mut buffer = [0; 500];
    let (length, first) = peer.recv_from(&mut buffer).unwrap();
    assert!(!core.local_addresses().contains(&first));
    assert!(UdpSocket::bind(first).is_err(), "it is open");
    let mut answer = Vec::new();
    Request::parse(&buffer[..length]).unwrap().write_success(first, &Password::new("password"), &mut answer);
    peer.send_to(&answer, first).unwrap();
    let nominates = |_| {
        let length = peer.recv_from(&mut buffer).unwrap().0;
        Request::parse(&buffer[..length]).unwrap().use_candidate
    };
    assert!((0..3).any(nominates), "what answered is nominated");

    connect(&core, &[address]); // anew: another socket, and the first closes
    let second = std::iter::repeat_with(|| peer.recv_from(&mut buffer).unwrap().1).find(|from| *from != first).unwrap();
    core.command_and_wait(Command::SetGroup { leg: LEG, group: 1 }).unwrap();
    drop(UdpSocket::bind(first).expect("the first is closed"));
    assert!(UdpSocket::bind(second).is_err());
    core.command_and_wait(Command::RemoveLeg { leg: LEG }).unwrap();
    drop(UdpSocket::bind(second).expect("the second is closed"));
    connect(&core, &[address]); // no such leg: nothing is kept, and the thread goes on
    assert!(core.stats().unwrap().contains(&("legs", 0)));
}

#[test]
fn candidates_that_no_bound_address_reaches_fail_at_once() {
    let core = core();
    add_leg(&core);
    connect(&core, &["[2001:db8::1]:5".parse().unwrap()]);
    assert_eq!(next(&core), Notice::Engine(Event::IceFailed(LEG)));
}

#[test]
fn many_trunks_come_and_go_in_the_places_of_those_before() {
    let core = core();
    let peers: Vec<_> = (0..20).map(|_| silent_peer()).collect();
    for round in 0..3 {
        for (n, (peer, address)) in peers.iter().enumerate() {
            let leg = 100 * round + n as u64;
            core.command(Command::AddLeg { leg, ufrag: format!("ufrag{leg}"), pwd: "password".into() }).unwrap();
            core.connect(leg, "ufrag".into(), "password".into(), &[*address]).unwrap().unwrap();
            let mut buffer = [0; 500];
            let (length, _) = peer.recv_from(&mut buffer).unwrap();
            assert!(Request::parse(&buffer[..length]).is_ok());
            if n % 2 == 0 {
                core.command(Command::RemoveLeg { leg }).unwrap();
            }
        }
    }
    assert!(core.stats().unwrap().contains(&("legs", 30)));
}

#[test]
fn a_panic_in_the_thread_is_told_and_later_calls_are_refused() {
    let core = core();
    core.shared.mailboxes[0].post(Message::Panic);
    assert!(matches!(next(&core), Notice::Failed(message) if message.contains("as asked")));
    assert!(core.stats().is_err());
    assert!(core.connect(LEG, "ufrag".into(), "password".into(), &[]).is_err());
    core.shutdown();
}

#[test]
fn after_a_shutdown_nothing_hangs() {
    let core = core();
    core.shutdown();
    assert_eq!(core.stats().unwrap(), []);
    connect(&core, &[]);
    core.shutdown();
}
