//! Groups whose ranks encrypt: the same sums, nothing to be read or changed on the way, nobody in between.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fault_tests::{Fault, meeting, proxy};
use super::group_tests::{PATIENCE, check_group, gang, lend, listeners, met, seat, small, value};
use super::secure::{self, Line, Side};
use super::*;

/// What the called side of the handshake says, and the caller's, before a session begins.
const CALLED_SAYS: usize = 72 + 8;
const CALLER_SAYS: usize = 64 + 32;

fn encrypted(rank: u32, members: &[Member]) -> Seat {
    Seat { encrypted: true, ..seat(rank, members) }
}

#[test]
fn encrypted_connections_sum_to_the_bits_of_one_process() {
    for world in [2, 3, 8] {
        check_group(world, met(world, PATIENCE, small(), true));
    }
    check_group(4, met(4, PATIENCE, Tuning::default(), true));
}

#[test]
fn one_that_encrypts_and_one_that_does_not_are_told() {
    for (first, second) in [(true, false), (false, true)] {
        let (listeners, members) = listeners(2);
        let seats = [(0, first), (1, second)].map(|(rank, encrypted)| Seat { encrypted, ..seat(rank, &members) });
        let outcomes = meeting(seats, &listeners, Duration::from_secs(2));
        let error = outcomes[1].as_ref().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PeerRefused, "{error}");
        assert!(error.to_string().contains("collective_tls"), "{error}");
        assert!(outcomes[0].is_err());
    }
}

#[test]
fn a_changed_byte_ends_the_group_on_both_sides() {
    let (mut listeners, members) = listeners(2);
    let mut seen_by_1 = members.clone();
    seen_by_1[0].address = proxy(members[0].address, Fault::Flip(60_000));
    let (second, first) = (listeners.pop().expect("two"), listeners.pop().expect("two"));
    let connect = |listener: &Listener, seat: Seat| Group::connect(listener, &seat, small(), PATIENCE, &Cancel::new());
    let groups = std::thread::scope(|scope| {
        let called = scope.spawn(|| connect(&first, encrypted(0, &members)).expect("meets"));
        let caller = connect(&second, encrypted(1, &seen_by_1)).expect("meets");
        vec![called.join().expect("no panic"), caller]
    });
    let outcomes = gang(groups, |_, group| {
        let nodes = group.topology().nodes();
        let mut values: Vec<Vec<f32>> = nodes.iter().map(|node| value(*node, 200_000)).collect();
        group.all_reduce(lend(&nodes, &mut values))
    });
    let error = outcomes[0].as_ref().expect_err("changed");
    assert!(error.to_string().contains("rank 1 (host-1)") && error.to_string().contains("decrypt"), "{error}");
    assert!(outcomes[1].is_err());
}

/// Copies what passes until the end, and keeps it.
fn copy(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        seen.lock().expect("not poisoned").extend_from_slice(&bytes[..read]);
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        stream.shutdown(Shutdown::Both).ok();
    }
}

/// What passes from rank 1 to rank 0 in a broadcast of `content`.
fn overheard(content: &[u8], encrypt: bool) -> Vec<u8> {
    let (mut listeners, members) = listeners(2);
    let ear = TcpListener::bind("127.0.0.1:0").expect("listens");
    let mut seen_by_1 = members.clone();
    seen_by_1[0].address = ear.local_addr().expect("an address");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (heard, to) = (seen.clone(), members[0].address);
    let listening = std::thread::spawn(move || {
        let (caller, _) = ear.accept().expect("a caller");
        let called = TcpStream::connect(to).expect("connects");
        let back = (called.try_clone().expect("clones"), caller.try_clone().expect("clones"));
        let back = std::thread::spawn(move || copy(back.0, back.1, &Mutex::default()));
        copy(caller, called, &heard);
        back.join().expect("no panic");
    });
    let (second, first) = (listeners.pop().expect("two"), listeners.pop().expect("two"));
    let part = |rank: u32, listener: &Listener, members: &[Member]| {
        let seat = Seat { encrypted: encrypt, ..seat(rank, members) };
        let mut group = Group::connect(listener, &seat, small(), PATIENCE, &Cancel::new()).expect("meets");
        let mut bytes = if rank == 1 { content.to_vec() } else { vec![0; content.len()] };
        group.broadcast(Values::Bytes(&mut bytes), 1).expect("comes");
        assert_eq!(bytes, content);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| part(0, &first, &members));
        part(1, &second, &seen_by_1);
    });
    listening.join().expect("no panic");
    Arc::into_inner(seen).expect("nobody else").into_inner().expect("not poisoned")
}

#[test]
fn who_listens_reads_nothing() {
    let content = b"weights that are nobody else's, ".repeat(100);
    let said = |bytes: &[u8]| bytes.windows(32).any(|window| window == &content[..32]);
    assert!(said(&overheard(&content, false)), "in the open it can be read");
    let bytes = overheard(&content, true);
    assert!(bytes.len() > content.len() && !said(&bytes));
}

/// Passes on so many bytes each way, as the handshake has them.
fn pass_handshake(caller: &mut TcpStream, called: &mut TcpStream) {
    let pass = |from: &mut TcpStream, to: &mut TcpStream, most: usize| {
        let mut bytes = vec![0; most];
        from.read_exact(&mut bytes).expect("says it");
        to.write_all(&bytes).expect("hears it");
    };
    pass(caller, called, 64);
    pass(called, caller, 72);
    pass(caller, called, CALLER_SAYS - 64);
    pass(called, caller, CALLED_SAYS - 72);
}

#[test]
fn nobody_sits_between_two_sessions() {
    let (listeners, members) = listeners(2);
    let middle = TcpListener::bind("127.0.0.1:0").expect("listens");
    let mut seen_by_1 = members.clone();
    seen_by_1[0].address = middle.local_addr().expect("an address");
    let to = members[0].address;
    // It lets the proof of the token pass, then begins a session with each of the two by itself.
    let relay = std::thread::spawn(move || {
        let (mut caller, _) = middle.accept().expect("a caller");
        let mut called = TcpStream::connect(to).expect("connects");
        pass_handshake(&mut caller, &mut called);
        let guess = |_: Side, _: &[u8; 32]| [0; 32];
        let session = move |stream: TcpStream, side| {
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
            let until = std::time::Instant::now() + Duration::from_secs(5);
            secure::begin(stream, side, || std::time::Instant::now() < until, guess).map(drop)
        };
        let with_caller = std::thread::spawn(move || session(caller, Side::Called));
        (session(called, Side::Caller).is_err(), with_caller.join().expect("no panic").is_err())
    });
    let outcomes = meeting([encrypted(0, &members), encrypted(1, &seen_by_1)], &listeners, PATIENCE);
    for outcome in outcomes {
        let error = outcome.expect_err("found out");
        assert!(matches!(error.kind(), ErrorKind::PeerRefused | ErrorKind::PeerClosed), "{error}");
    }
    assert_eq!(relay.join().expect("no panic"), (true, true));
}

#[test]
fn a_line_says_whether_all_of_it_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let caller = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    let (called, _) = listener.accept().expect("a caller");
    let sign = |_: Side, bound: &[u8; 32]| *bound;
    let (mut line, mut end) = std::thread::scope(|scope| {
        let called = scope.spawn(move || secure::begin(called, Side::Called, || true, sign).expect("begins"));
        (secure::begin(caller, Side::Caller, || true, sign).expect("begins"), called.join().expect("no panic"))
    });
    assert!(matches!((&line, &end), (Line::Secure(_), Line::Secure(_))));
    for line in [&line, &end] {
        line.socket().set_nonblocking(true).expect("sockets can");
    }
    // More than the socket and the session hold.
    let (content, mut sent) = (vec![7; 1 << 16], 0);
    while let Ok(written) = line.write_vectored(&[std::io::IoSlice::new(&content)]) {
        sent += written;
    }
    assert!(!line.is_flushed());
    let (mut received, mut bytes) = (0, vec![0; 1 << 16]);
    while received < sent {
        match end.read(&mut bytes) {
            Ok(read) => received += read,
            Err(_) => drop(line.write_vectored(&[])),
        }
    }
    assert!(line.is_flushed());
    line.close();
    assert_eq!((received, end.read(&mut bytes).expect("its end")), (sent, 0));
}
