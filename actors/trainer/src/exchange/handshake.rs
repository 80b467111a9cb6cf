//! How ranks find each other: each listens, connects to all lower ranks and is called by all higher ones.
//!
//! Both sides prove that they know the group's token, which only the rendezvous gives out, without sending
//! it: each answers the other's nonce with a keyed BLAKE3 over all that was said. A caller that fails is
//! told why and hung up on; it costs the one that was called a slot among a bounded number of calls.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::seconds;
use super::wire::{MAGIC, VERSION, job_number};
use crate::error::{Error, ErrorKind, PeerName};

const NONCE: usize = 32;
const HELLO: usize = 32 + NONCE;
const CHALLENGE: usize = 8 + NONCE + 32;
const PROOF: usize = 32;
const WELCOME: usize = 1;
/// Longest time for one call, so that a caller who says nothing is soon out of the way.
const CALL: Duration = Duration::from_secs(5);
/// Callers at once beyond those that are expected.
const STRANGERS: usize = 16;
/// Pause before a rank that does not listen yet, or not yet in this generation, is called again.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What the members of a group know and nobody else does.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    pub fn new(bytes: [u8; 32]) -> Token {
        Token(bytes)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A rank as the rendezvous names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub host: String,
    pub address: SocketAddr,
}

/// This rank's place in a generation of a group, as the rendezvous gives it.
#[derive(Debug, Clone)]
pub struct Seat {
    pub job: String,
    pub generation: u32,
    pub rank: u32,
    pub shards: usize,
    pub token: Token,
    /// All ranks in order, this one included.
    pub members: Vec<Member>,
}

impl Seat {
    pub(super) fn name(&self, rank: usize) -> PeerName {
        PeerName { rank: rank as u32, host: self.members[rank].host.clone() }
    }
}

/// Where a rank is called. It lives as long as the rank, over all generations.
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Listens; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> Result<Listener, Error> {
        let failed = |error| Error::new(ErrorKind::Network, format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Listener { listener })
    }

    /// The address to tell the rendezvous.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        let failed = |error| Error::new(ErrorKind::Network, format!("a listener without address: {error}"));
        self.listener.local_addr().map_err(failed)
    }
}

/// Why a caller is refused, as a byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Version = 1,
    Generation = 2,
    /// Another job, world, number of shards or rank than this group's.
    Group = 3,
    Token = 4,
}

impl Refusal {
    fn of(byte: u8) -> Option<Refusal> {
        [Refusal::Version, Refusal::Generation, Refusal::Group, Refusal::Token].into_iter().find(|r| *r as u8 == byte)
    }
}

/// A connection to every other rank, by rank.
pub(super) fn meet(listener: &Listener, seat: &Seat, timeout: Duration) -> Result<Vec<Option<TcpStream>>, Error> {
    let (rank, world, until) = (seat.rank as usize, seat.members.len(), Instant::now() + timeout);
    let mut streams: Vec<Option<TcpStream>> = (0..world).map(|_| None).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers = scope.spawn(|| answer(listener, seat, until, timeout, &over));
        let called: Result<Vec<TcpStream>, Error> = (0..rank).map(|peer| call(seat, peer, until, timeout)).collect();
        over.store(called.is_err(), Ordering::SeqCst);
        let answered = callers.join().map_err(|_| Error::new(ErrorKind::Network, "a handshake panicked"))?;
        for (peer, stream) in called?.into_iter().enumerate() {
            streams[peer] = Some(stream);
        }
        for (peer, stream) in answered? {
            streams[peer] = Some(stream);
        }
        Ok(streams)
    })
}

/// Calls a lower rank until it answers, or the deadline.
fn call(seat: &Seat, peer: usize, until: Instant, timeout: Duration) -> Result<TcpStream, Error> {
    let name = seat.name(peer);
    let mut pause = PAUSE;
    let mut behind = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let what = format!("could not be reached at {} for {}", seat.members[peer].address, seconds(timeout));
            let unreachable = || Error::peer(ErrorKind::PeerTimedOut, &name, what);
            return Err(behind.map_or_else(unreachable, |theirs| refused(&name, Refusal::Generation, theirs, seat)));
        }
        let called = TcpStream::connect_timeout(&seat.members[peer].address, left)
            .and_then(|stream| introduce(stream, seat, peer, left.min(CALL)));
        match called {
            Ok(Ok(stream)) => return Ok(stream),
            // It has not heard of this generation yet.
            Ok(Err((Refusal::Generation, theirs))) if theirs < seat.generation => behind = Some(theirs),
            Ok(Err((refusal, theirs))) => return Err(refused(&name, refusal, theirs, seat)),
            Err(_) => {}
        }
        std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn refused(name: &PeerName, refusal: Refusal, theirs: u32, seat: &Seat) -> Error {
    let (kind, what) = match refusal {
        Refusal::Version => {
            (ErrorKind::OtherVersion, format!("speaks version {theirs} of the protocol, this rank {VERSION}"))
        }
        Refusal::Generation => {
            (ErrorKind::OtherGeneration, format!("is in generation {theirs}, this rank in {}", seat.generation))
        }
        Refusal::Group => (ErrorKind::Diverged, "is in another group: another job, world or rank".into()),
        Refusal::Token => (ErrorKind::PeerRefused, "the token of the group does not hold between us".into()),
    };
    Error::peer(kind, name, what)
}

/// What both sides sign.
fn proof(seat: &Seat, side: &str, hello: &[u8], challenge: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(&seat.token.0);
    hasher.update(side.as_bytes()).update(hello).update(challenge);
    hasher.finalize()
}

/// Whether `got` is the proof; takes the same time wherever they differ.
fn proves(expected: blake3::Hash, got: &[u8]) -> bool {
    <[u8; 32]>::try_from(got).is_ok_and(|got| expected == blake3::Hash::from_bytes(got))
}

fn nonce() -> std::io::Result<[u8; NONCE]> {
    let mut bytes = [0; NONCE];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn hello(seat: &Seat, to: usize, nonce: &[u8; NONCE]) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &MAGIC.to_le_bytes());
    put(4, &VERSION.to_le_bytes());
    put(6, &(seat.rank as u16).to_le_bytes());
    put(8, &(to as u16).to_le_bytes());
    put(10, &(seat.members.len() as u16).to_le_bytes());
    put(12, &(seat.shards as u32).to_le_bytes());
    put(16, &seat.generation.to_le_bytes());
    put(24, &job_number(&seat.job).to_le_bytes());
    put(32, nonce);
    bytes
}

/// Reads all of `bytes` before `until`, however slowly they come.
fn read_by(stream: &mut TcpStream, bytes: &mut [u8], until: Instant) -> std::io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let left = until.saturating_duration_since(Instant::now());
        // No time-out at all is what zero would mean.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut bytes[at..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ if left.is_zero() => return Err(std::io::ErrorKind::TimedOut.into()),
            read => at += read,
        }
    }
    Ok(())
}

/// The caller's side. A refusal comes with what the other said of itself.
fn introduce(
    mut stream: TcpStream,
    seat: &Seat,
    peer: usize,
    patience: Duration,
) -> std::io::Result<Result<TcpStream, (Refusal, u32)>> {
    let until = Instant::now() + patience;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(patience))?;
    let hello = hello(seat, peer, &nonce()?);
    stream.write_all(&hello)?;
    let mut challenge = [0; CHALLENGE];
    read_by(&mut stream, &mut challenge, until)?;
    if let Some(refusal) = Refusal::of(challenge[0]) {
        let theirs = u32::from_le_bytes(std::array::from_fn(|i| challenge[4 + i]));
        return Ok(Err((refusal, theirs)));
    }
    let (said, proved) = challenge.split_at(CHALLENGE - 32);
    if !proves(proof(seat, "called", &hello, said), proved) {
        return Ok(Err((Refusal::Token, 0)));
    }
    stream.write_all(proof(seat, "caller", &hello, &challenge).as_bytes())?;
    let mut welcome = [0; WELCOME];
    read_by(&mut stream, &mut welcome, until)?;
    match Refusal::of(welcome[0]) {
        Some(refusal) => Ok(Err((refusal, 0))),
        None => Ok(Ok(stream)),
    }
}

/// The called side: the caller's rank, or why it was refused.
fn greet(
    mut stream: TcpStream,
    seat: &Seat,
    patience: Duration,
) -> std::io::Result<Result<(usize, TcpStream), String>> {
    let until = Instant::now() + patience;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(patience))?;
    let mut theirs = [0; HELLO];
    read_by(&mut stream, &mut theirs, until)?;
    let from = usize::from(u16::from_le_bytes([theirs[6], theirs[7]]));
    let expected = hello(&Seat { rank: from as u32, ..seat.clone() }, seat.rank as usize, &[0; NONCE]);
    let (refusal, said) = if theirs[..4] != expected[..4] || theirs[4..6] != expected[4..6] {
        (Some(Refusal::Version), u32::from(VERSION))
    } else if theirs[16..20] != expected[16..20] {
        (Some(Refusal::Generation), seat.generation)
    } else if theirs[..32] != expected[..32] || from <= seat.rank as usize || from >= seat.members.len() {
        (Some(Refusal::Group), 0)
    } else {
        (None, 0)
    };
    let mut challenge = [0; CHALLENGE];
    challenge[0] = refusal.map_or(0, |refusal| refusal as u8);
    challenge[4..8].copy_from_slice(&said.to_le_bytes());
    if let Some(refusal) = refusal {
        stream.write_all(&challenge)?;
        return Ok(Err(format!("a caller that says it is rank {from} was refused: {refusal:?}")));
    }
    challenge[8..8 + NONCE].copy_from_slice(&nonce()?);
    let proved = proof(seat, "called", &theirs, &challenge[..CHALLENGE - 32]);
    challenge[CHALLENGE - 32..].copy_from_slice(proved.as_bytes());
    stream.write_all(&challenge)?;
    let mut answer = [0; PROOF];
    if read_by(&mut stream, &mut answer, until).is_err() {
        return Ok(Err(format!("a caller that says it is rank {from} hung up when asked for the token")));
    }
    if !proves(proof(seat, "caller", &theirs, &challenge), &answer) {
        stream.write_all(&[Refusal::Token as u8])?;
        return Ok(Err(format!("a caller that says it is rank {from} was refused: wrong token")));
    }
    stream.write_all(&[0])?;
    Ok(Ok((from, stream)))
}

/// Waits for all higher ranks to call. Callers are heard side by side, so that one who says nothing holds
/// up nobody.
fn answer(
    listener: &Listener,
    seat: &Seat,
    until: Instant,
    timeout: Duration,
    over: &AtomicBool,
) -> Result<Vec<(usize, TcpStream)>, Error> {
    let (first, world) = (seat.rank as usize + 1, seat.members.len());
    let mut found: Vec<Option<TcpStream>> = (first..world).map(|_| None).collect();
    let mut refusal = String::new();
    // Handles of those who are being heard, to hang up on them at the end.
    let mut talking: HashMap<u64, TcpStream> = HashMap::new();
    let mut calls = 0;
    let outcome = std::thread::scope(|scope| {
        let (tell, heard) = mpsc::sync_channel(world + STRANGERS);
        let outcome = loop {
            while let Ok((call, outcome)) = heard.try_recv() {
                talking.remove(&call);
                match outcome {
                    // A rank that calls twice lost its first connection.
                    Ok(Ok((from, stream))) => found[from - first] = Some(stream),
                    Ok(Err(reason)) => refusal = format!("; {reason}"),
                    Err(_) => {}
                }
            }
            let Some(missing) = (first..world).find(|peer| found[peer - first].is_none()) else { break Ok(()) };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || over.load(Ordering::SeqCst) {
                let what = format!("did not call for {}{refusal}", seconds(timeout));
                break Err(Error::peer(ErrorKind::PeerTimedOut, &seat.name(missing), what));
            }
            if talking.len() >= world + STRANGERS || !callers_wait(listener, left.min(PAUSE)) {
                continue;
            }
            let Ok((stream, _)) = listener.listener.accept() else { continue };
            let Ok(handle) = stream.try_clone() else { continue };
            calls += 1;
            talking.insert(calls, handle);
            let (tell, call) = (tell.clone(), calls);
            scope.spawn(move || tell.send((call, greet(stream, seat, left.min(CALL)))));
        };
        for line in talking.values() {
            line.shutdown(Shutdown::Both).ok();
        }
        outcome
    });
    outcome.map(|()| found.into_iter().enumerate().filter_map(|(i, stream)| Some((first + i, stream?))).collect())
}

/// Whether somebody calls within `wait`.
fn callers_wait(listener: &Listener, wait: Duration) -> bool {
    let mut fds = [PollFd::new(listener.listener.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::from(10u8));
    poll(&mut fds, wait).is_ok_and(|ready| ready > 0)
}
