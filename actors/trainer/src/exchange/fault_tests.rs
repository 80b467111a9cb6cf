//! Connections that delay, cut, corrupt and stall; strangers and ranks of other generations.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kernels::collective::{Frame, Kind};
use kernels::shard::Node;

use super::group_tests::{PATIENCE, SHARDS, gang, lend, listeners, root, seat, small, value};
use super::wire::{Header, Origin, job_number};
use super::*;

const NUMBERS: usize = 200_000;

/// What a proxy does to the bytes from rank 1 to rank 0; the others pass.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Passes on little pieces, with a pause after each.
    Drip,
    /// Flips a bit of the byte at this place.
    Flip(usize),
    /// Hangs up after so many bytes.
    Cut(usize),
    /// Takes nothing more after so many bytes.
    Stall(usize),
}

/// Listens for one connection and passes it on to `to`, with the fault. It ends with its connections.
pub(super) fn proxy(to: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (caller, _) = listener.accept().expect("a caller");
        let called = TcpStream::connect(to).expect("connects");
        let (back_from, back_to) = (called.try_clone().expect("clones"), caller.try_clone().expect("clones"));
        let back = std::thread::spawn(move || forward(back_from, back_to, None));
        forward(caller, called, Some(fault));
        back.join().expect("no panic");
    });
    address
}

fn forward(mut from: TcpStream, mut to: TcpStream, fault: Option<Fault>) {
    let mut passed = 0;
    let mut bytes = vec![0; if matches!(fault, Some(Fault::Drip)) { 20_000 } else { 1 << 16 }];
    while let Ok(read) = from.read(&mut bytes) {
        let mut read = read;
        match fault {
            Some(Fault::Flip(at)) if (passed..passed + read).contains(&at) => bytes[at - passed] ^= 0x10,
            Some(Fault::Cut(at) | Fault::Stall(at)) => read = read.min(at.saturating_sub(passed)),
            Some(Fault::Drip) => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            break;
        }
        passed += read;
    }
    if matches!(fault, Some(Fault::Stall(_))) {
        // Until the other side has gone: what it sends stays where it is.
        let mut nothing = [0; 1];
        to.set_read_timeout(Some(PATIENCE)).ok();
        to.peek(&mut nothing).ok();
        while to.peek(&mut nothing).is_ok_and(|peeked| peeked > 0) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    for stream in [from, to] {
        stream.shutdown(Shutdown::Both).ok();
    }
}

/// Two ranks, rank 1 through a proxy. What an all_reduce of both gives, and how long it took.
fn through(fault: Fault, timeout: Duration) -> Vec<(Result<Vec<f32>, Error>, Duration)> {
    let (mut listeners, members) = listeners(2);
    let mut seen_by_1 = members.clone();
    seen_by_1[0].address = proxy(members[0].address, fault);
    let (second, first) = (listeners.pop().expect("two"), listeners.pop().expect("two"));
    let groups = std::thread::scope(|scope| {
        let called = scope
            .spawn(|| Group::connect(&first, &seat(0, &members), small(), PATIENCE, &Cancel::new()).expect("meets"));
        let caller = Group::connect(&second, &seat(1, &seen_by_1), small(), PATIENCE, &Cancel::new()).expect("meets");
        vec![called.join().expect("no panic"), caller]
    });
    let groups = groups.into_iter().map(|group| Group { timeout, ..group }).collect();
    gang(groups, |_, group| {
        let nodes = group.topology().nodes();
        let mut values: Vec<Vec<f32>> = nodes.iter().map(|node| value(*node, NUMBERS)).collect();
        let begun = Instant::now();
        let summed = group.all_reduce(lend(&nodes, &mut values));
        (summed.map(|()| values.swap_remove(0)), begun.elapsed())
    })
}

/// Bytes that rank 1 says before its first frame: hello and proof.
const GREETING: usize = 64 + 32;

#[test]
fn a_slow_connection_changes_no_bit() {
    let expected = root(2, NUMBERS);
    for (summed, _) in through(Fault::Drip, PATIENCE) {
        assert!(summed.expect("sums").iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn a_corrupt_byte_is_found_and_its_place_named() {
    // In the first header, the first and a later payload, and the frames after.
    for at in [0, 9, 40, 71, 72, 4_000, 100_000, 400_000] {
        let outcomes = through(Fault::Flip(GREETING + at), PATIENCE);
        let error = outcomes[0].0.as_ref().expect_err("corrupt");
        assert_eq!(error.kind(), ErrorKind::FrameCorrupt, "byte {at}: {error}");
        assert!(error.to_string().starts_with("rank 1 (host-1): "), "{error}");
        if at == 4_000 {
            assert!(error.to_string().contains("bucket 0, shards 4..8, operation 0, bytes 0..4"), "{error}");
        }
        // The other side is told, and applies nothing either.
        let error = outcomes[1].0.as_ref().expect_err("told");
        assert!(matches!(error.kind(), ErrorKind::Aborted | ErrorKind::PeerClosed), "{error}");
    }
}

#[test]
fn a_cut_connection_is_seen_by_both() {
    for at in [0, 50, 30_000, 300_000] {
        for (rank, (summed, took)) in through(Fault::Cut(GREETING + at), PATIENCE).into_iter().enumerate() {
            let error = summed.expect_err("cut");
            assert!(matches!(error.kind(), ErrorKind::PeerClosed | ErrorKind::Aborted), "{error}");
            assert_eq!(error.culprit().map(|peer| peer.rank), Some(1 - rank as u32), "{error}");
            assert!(took < PATIENCE / 2, "{took:?}");
        }
    }
}

#[test]
fn a_peer_that_stops_reading_ends_in_time_and_is_named() {
    let timeout = Duration::from_millis(500);
    for (rank, (summed, took)) in through(Fault::Stall(GREETING + 50_000), timeout).into_iter().enumerate() {
        let error = summed.expect_err("stalled");
        assert!(
            matches!(error.kind(), ErrorKind::PeerTimedOut | ErrorKind::Aborted | ErrorKind::PeerClosed),
            "{error}"
        );
        // Who gave up first has told the other whom it blames.
        let told = error.kind() == ErrorKind::Aborted;
        assert!(error.culprit().is_some_and(|peer| told || peer.rank == 1 - rank as u32), "{error}");
        assert!(took >= timeout / 2 && took < timeout + Duration::from_secs(3), "{took:?}");
    }
}

/// What two ranks with these seats say of each other.
pub(super) fn meeting(seats: [Seat; 2], listeners: &[Listener], patience: Duration) -> Vec<Result<(), Error>> {
    let [first, second] = seats;
    std::thread::scope(|scope| {
        let called =
            scope.spawn(|| Group::connect(&listeners[0], &first, small(), patience, &Cancel::new()).map(|_| ()));
        let caller = Group::connect(&listeners[1], &second, small(), patience, &Cancel::new()).map(|_| ());
        vec![called.join().expect("no panic"), caller]
    })
}

#[test]
fn a_caller_of_another_kind_is_refused_and_told_why() {
    let patience = Duration::from_millis(400);
    let (listeners, members) = listeners(2);
    let other = |change: fn(&mut Seat)| {
        let mut seat = seat(1, &members);
        change(&mut seat);
        seat
    };
    let cases = [
        (other(|seat| seat.token = Token::new([8; 32])), ErrorKind::PeerRefused, "token"),
        (other(|seat| seat.generation = 2), ErrorKind::OtherGeneration, "is in generation 3, this rank in 2"),
        (other(|seat| seat.generation = 4), ErrorKind::OtherGeneration, "is in generation 3, this rank in 4"),
        (other(|seat| seat.job = "j2".into()), ErrorKind::Diverged, "another group"),
        (other(|seat| seat.shards = 16), ErrorKind::Diverged, "another group"),
    ];
    for (second, kind, what) in cases {
        let begun = Instant::now();
        let outcomes = meeting([seat(0, &members), second], &listeners, patience);
        let error = outcomes[1].as_ref().expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().starts_with("rank 0 (host-0): ") && error.to_string().contains(what), "{error}");
        let error = outcomes[0].as_ref().expect_err("nobody came");
        assert_eq!(error.culprit().map(|peer| peer.rank), Some(1), "{error}");
        if what.ends_with('4') {
            // It has proved that it belongs to the group: waiting longer would not help.
            assert_eq!(error.kind(), ErrorKind::OtherGeneration, "{error}");
            assert!(error.to_string().contains("is in generation 4, this rank in 3"), "{error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::PeerTimedOut, "{error}");
            assert!(error.to_string().contains("a caller that says it is rank 1"), "{error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    assert!(format!("{:?}", seat(0, &members)).contains("Token(..)"), "a token is not shown");
}

#[test]
fn strangers_hold_up_nobody() {
    let (listeners, members) = listeners(2);
    let address = members[0].address;
    let silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).expect("connects")).collect();
    let mut loud = TcpStream::connect(address).expect("connects");
    loud.write_all(b"GET / HTTP/1.1\r\nhost: rank\r\n\r\n and much more than any greeting is long").expect("sends");
    let begun = Instant::now();
    for outcome in meeting([seat(0, &members), seat(1, &members)], &listeners, PATIENCE) {
        outcome.expect("meets");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(silent);
}

/// Ranks of these seats that meet at the same time, each with its own handle; what each says and after how long.
fn meet_all(seats: Vec<(Seat, Listener)>, meanwhile: impl FnOnce(&[Cancel])) -> Vec<(Result<Group, Error>, Duration)> {
    let cancels: Vec<Cancel> = seats.iter().map(|_| Cancel::new()).collect();
    std::thread::scope(|scope| {
        let meet = |((seat, listener), cancel): ((Seat, Listener), Cancel)| {
            scope.spawn(move || {
                let begun = Instant::now();
                let met = Group::connect(&listener, &seat, small(), PATIENCE, &cancel);
                (met, begun.elapsed())
            })
        };
        let threads: Vec<_> = seats.into_iter().zip(cancels.iter().cloned()).map(meet).collect();
        meanwhile(&cancels);
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// A rank that is cancelled when it is seen to wait ends soon.
fn ends_when_cancelled(seat: Seat, listener: Listener, it_waits: impl FnOnce()) {
    let mut cancelled = None;
    let outcome = meet_all(vec![(seat, listener)], |cancels| {
        it_waits();
        cancels[0].cancel();
        cancelled = Some(Instant::now());
    });
    let took = cancelled.expect("cancelled").elapsed();
    let error = outcome[0].0.as_ref().err().expect("cancelled");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_cancelled_rank_stops_waiting_at_once() {
    let bind = || listeners(1).0.pop().expect("one");
    // Nobody calls but a stranger, who is answered.
    let (mut own, members) = listeners(2);
    own.truncate(1);
    ends_when_cancelled(seat(0, &members), own.pop().expect("one"), || {
        let mut stranger = TcpStream::connect(members[0].address).expect("connects");
        stranger.write_all(&[0; 64]).expect("sends");
        assert!(stranger.read(&mut [0; 64]).expect("a refusal") > 0);
    });
    // The peer takes the call and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let mut quiet = members.clone();
    quiet[0].address = silent.local_addr().expect("an address");
    let mut line = None;
    ends_when_cancelled(seat(1, &quiet), bind(), || {
        let (mut caller, _) = silent.accept().expect("a caller");
        caller.read_exact(&mut [0; 64]).expect("its hello");
        line = Some(caller);
    });
    drop(line);
    // The host is not there: an address of a network for documentation.
    let mut away = members.clone();
    away[0].address = "192.0.2.1:9".parse().expect("an address");
    ends_when_cancelled(seat(1, &away), bind(), || {});
}

#[test]
fn the_others_name_a_cancelled_rank_by_its_stable_number() {
    let (mut own, mut members) = listeners(3);
    for (member, rank) in members.iter_mut().zip([4, 7, 9]) {
        member.rank = rank;
    }
    let _late = own.pop();
    let seats = own.into_iter().enumerate().map(|(at, listener)| (seat(at as u32, &members), listener)).collect();
    // Before or after the second has met it: it is told, hung up on, or finds that nobody listens.
    let mut outcomes = meet_all(seats, |cancels| cancels[0].cancel()).into_iter();
    let [(first, _), (second, took)] = [outcomes.next(), outcomes.next()].map(|outcome| outcome.expect("two"));
    assert_eq!(first.err().expect("cancelled").kind(), ErrorKind::Aborted);
    let error = second.err().expect("over");
    assert!(matches!(error.kind(), ErrorKind::Aborted | ErrorKind::PeerClosed), "{error}");
    assert_eq!(error.culprit().map(|peer| peer.rank), Some(4), "{error}");
    assert!(error.to_string().contains("rank 4 (host-0)"), "{error}");
    assert!(took < PATIENCE / 2, "{took:?}");
}

#[test]
fn a_handle_ends_its_group_after_it_has_met_too() {
    let (own, members) = listeners(2);
    let seats = own.into_iter().enumerate().map(|(at, listener)| (seat(at as u32, &members), listener)).collect();
    let mut handles = Vec::new();
    let groups = meet_all(seats, |cancels| handles = cancels.to_vec());
    let mut groups: Vec<Group> = groups.into_iter().map(|(group, _)| group.expect("meets")).collect();
    let waiting = std::thread::spawn(move || groups.remove(0).barrier().expect_err("ended"));
    handles[0].cancel();
    assert_eq!(waiting.join().expect("no panic").kind(), ErrorKind::Aborted);
    let late = Group::local(1, SHARDS, small(), PATIENCE).expect("valid").remove(0);
    late.obey(&handles[0]);
    let mut late = late;
    assert_eq!(late.barrier().expect_err("ended before").kind(), ErrorKind::Aborted);
}

#[test]
fn a_rank_that_has_gone_ends_the_meeting_early() {
    // Its listener has closed, so it listens nowhere.
    let (mut own, members) = listeners(2);
    let second = own.pop().expect("two");
    own.clear();
    let outcomes = meet_all(vec![(seat(1, &members), second)], |_| {});
    let (error, took) = (outcomes[0].0.as_ref().err().expect("gone"), outcomes[0].1);
    assert_eq!((error.kind(), error.culprit().map(|peer| peer.rank)), (ErrorKind::PeerClosed, Some(0)), "{error}");
    assert!(took < PATIENCE / 2, "{took:?}");
    let (mut own, members) = listeners(3);
    let _late = own.pop();
    let (second, first) = (own.pop().expect("two"), own.pop().expect("two"));
    // Rank 1 gives up on rank 2 early, and says so to rank 0.
    let begun = Instant::now();
    let outcomes = std::thread::scope(|scope| {
        let waits = scope.spawn(|| Group::connect(&first, &seat(0, &members), small(), PATIENCE, &Cancel::new()));
        let hasty = seat(1, &members);
        let patience = Duration::from_millis(400);
        let left = Group::connect(&second, &hasty, small(), patience, &Cancel::new());
        [waits.join().expect("no panic"), left]
    });
    for outcome in outcomes {
        let error = outcome.err().expect("nobody can meet rank 2");
        assert_eq!(error.culprit().map(|peer| peer.rank), Some(2), "{error}");
    }
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

/// Rank 0 of two, and the raw connection of its peer.
fn raw() -> (Group, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    let (stream, _) = listener.accept().expect("the peer");
    let member =
        |rank: u32| Member { rank, host: format!("host-{rank}"), address: listener.local_addr().expect("an address") };
    let seat = seat(0, &[member(0), member(1)]);
    let links = tcp::Links::new(&seat, vec![None, Some(super::secure::Line::Plain(stream))]).expect("a connection");
    let topology = Topology::new(0, 2, seat.shards).expect("valid");
    (Group::new(topology, small(), Transport::Tcp(links), PATIENCE), peer)
}

fn origin(generation: u32) -> Origin {
    Origin { job: job_number("j1"), generation, rank: 1 }
}

/// Rank 1's frame of a barrier.
fn barrier(sequence: u64, payload: &[u8]) -> Frame {
    let node = Node { first: 4, end: 8 };
    Frame { kind: Kind::Value, sequence, bucket: 0, node, offset: 0, len: payload.len() as u32 }
}

#[test]
fn frames_of_an_earlier_generation_are_dropped_and_counted() {
    let (mut group, mut peer) = raw();
    let stale = vec![1u8; 10_000];
    for generation in [1, 2] {
        peer.write_all(&Header::of(origin(generation), barrier(0, &stale), &stale).encode()).expect("sends");
        peer.write_all(&stale).expect("sends");
    }
    peer.write_all(&Header::of(origin(3), barrier(0, b""), b"").encode()).expect("sends");
    group.barrier().expect("the peer came");
    assert_eq!(group.traffic().stale_frames, 2);
    let mut header = [0; wire::HEADER_BYTES];
    peer.read_exact(&mut header).expect("rank 0's frame");
    let sent = Header::decode(&header).expect("a header");
    assert_eq!((sent.origin.generation, sent.origin.rank), (3, 0));
}

#[test]
fn a_frame_that_came_early_counts_when_it_is_time() {
    let (mut group, mut peer) = raw();
    for sequence in [0, 1, 2] {
        peer.write_all(&Header::of(origin(3), barrier(sequence, b""), b"").encode()).expect("sends");
    }
    let begun = Instant::now();
    for _ in 0..3 {
        group.barrier().expect("the peer came early");
    }
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let farewell = Header::farewell(origin(3), 1);
    let foreign = Header::of(Origin { job: 1, ..origin(3) }, barrier(0, b""), b"");
    let once = Header::of(origin(3), barrier(0, b""), b"");
    let mut version = once.encode();
    version[4] = 9;
    let check = wire::checksum(&version[..64]).to_le_bytes();
    version[64..].copy_from_slice(&check);
    let cases = [
        (Header::of(origin(4), barrier(0, b""), b"").encode(), ErrorKind::OtherGeneration, "is in generation 4"),
        (farewell.encode(), ErrorKind::Aborted, "has left the exchange"),
        (foreign.encode(), ErrorKind::Diverged, "of job"),
        (Header { payload_bytes: 3, ..once }.encode(), ErrorKind::Diverged, "same length"),
        (version, ErrorKind::OtherVersion, "version 9"),
    ];
    for (bytes, kind, what) in cases {
        let (mut group, mut peer) = raw();
        peer.write_all(&bytes).expect("sends");
        let error = group.barrier().expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().starts_with("rank 1 (host-1): ") && error.to_string().contains(what), "{error}");
    }
}
