//! How ranks find each other: each listens, connects to all lower ranks and is called by all higher ones.
//!
//! Both sides prove that they know the group's token, which only the rendezvous gives out, without sending
//! it: each answers the other's nonce with a keyed BLAKE3 over all that was said. A caller that fails is
//! told why and hung up on; it costs the one that was called a slot among a bounded number of calls.

use std::collections::HashMap;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::cancel::Cancel;
use super::secure::{self, Line, Side};
use super::wire::{HEADER_BYTES, Header, MAGIC, Message, Origin, VERSION, job_number};
use super::{left, seconds};
use crate::error::{Error, ErrorKind, PeerName};

const NONCE: usize = 32;
const HELLO: usize = 32 + NONCE;
const CHALLENGE: usize = 8 + NONCE + 32;
const PROOF: usize = 32;
const WELCOME: usize = 8;
/// Longest time for one call, so that a caller who says nothing is soon out of the way.
const CALL: Duration = Duration::from_secs(5);
/// Callers at once beyond those that are expected.
const STRANGERS: usize = 16;
/// Pause before a rank that does not listen yet, or not yet in this generation, is called again.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait before a cancellation is seen.
const SLICE: Duration = Duration::from_millis(50);
/// For so long nobody listens where a rank did, or a caller that hung up does not call again: it is gone. Who
/// lost a connection, or was slow to be answered, calls again within [`LONGEST_PAUSE`].
const CLOSED: Duration = Duration::from_secs(1);

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
    /// The number by which errors and people name it. It stays when other ranks are lost or join, which its seat
    /// (its index in [`Seat::members`]) does not.
    pub rank: u32,
    pub host: String,
    pub address: SocketAddr,
}

/// This rank's place in a generation of a group, as the rendezvous gives it.
#[derive(Debug, Clone)]
pub struct Seat {
    pub job: String,
    pub generation: u32,
    /// This rank's seat: its index in `members`.
    pub rank: u32,
    pub shards: usize,
    /// The same in all generations, or a caller of a later one cannot prove that it is.
    pub token: Token,
    /// What is exchanged goes through TLS 1.3. All ranks of a group do, or none.
    pub encrypted: bool,
    /// All ranks by seat, this one included.
    pub members: Vec<Member>,
}

impl Seat {
    /// How errors name the rank at a seat.
    pub(super) fn name(&self, seat: usize) -> PeerName {
        let Member { rank, host, .. } = &self.members[seat];
        PeerName { rank: *rank, host: host.clone() }
    }

    /// Where a rank sits, by its stable number.
    pub(super) fn seat_of(&self, rank: u32) -> Option<usize> {
        self.members.iter().position(|member| member.rank == rank)
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { job: job_number(&self.job), generation: self.generation, rank: self.rank as u16 }
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
    /// Another job, world, number of shards or seat than this group's.
    Group = 3,
    Token = 4,
    /// One encrypts, the other does not.
    Encryption = 5,
}

impl Refusal {
    fn of(byte: u8) -> Option<Refusal> {
        let all = [Refusal::Version, Refusal::Generation, Refusal::Group, Refusal::Token, Refusal::Encryption];
        all.into_iter().find(|r| *r as u8 == byte)
    }
}

/// What a call or a caller came to.
enum Heard {
    /// The call to this lower seat.
    Called(usize, Result<TcpStream, Error>),
    Greeted(u64, std::io::Result<Greeting>),
}

/// How a caller was greeted.
enum Greeting {
    Met(usize, TcpStream),
    /// It knows the token and a later generation: this one is over.
    Ahead(PeerName, u32),
    Refused(String),
}

/// A generation that is being met.
struct Meeting<'s> {
    seat: &'s Seat,
    until: Instant,
    timeout: Duration,
    cancel: &'s Cancel,
    /// It has met or failed: whoever still calls or listens stops.
    over: AtomicBool,
}

/// A connection to every other rank, by seat.
pub(super) fn meet(
    listener: &Listener,
    seat: &Seat,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<Vec<Option<Line>>, Error> {
    let meeting = Meeting { seat, until: Instant::now() + timeout, timeout, cancel, over: AtomicBool::new(false) };
    let mut streams: Vec<Option<TcpStream>> = (0..seat.members.len()).map(|_| None).collect();
    std::thread::scope(|scope| {
        let (tell, heard) = mpsc::sync_channel(seat.members.len() + STRANGERS);
        for peer in 0..seat.rank as usize {
            let (tell, meeting) = (tell.clone(), &meeting);
            scope.spawn(move || tell.send(Heard::Called(peer, meeting.call(peer))));
        }
        let mut talking: HashMap<u64, TcpStream> = HashMap::new();
        let met = meeting.gather(scope, listener, (&tell, &heard), &mut streams, &mut talking);
        meeting.over.store(true, Ordering::SeqCst);
        for line in talking.values() {
            line.shutdown(Shutdown::Both).ok();
        }
        met
    })
    .inspect_err(|error| meeting.say_farewell(&mut streams, error))?;
    if seat.encrypted {
        return meeting.encrypt(streams);
    }
    Ok(streams.into_iter().map(|stream| stream.map(Line::Plain)).collect())
}

impl Meeting<'_> {
    /// Waits for all calls and callers. Callers are heard side by side, so that one who says nothing holds up
    /// nobody. `talking`: handles of those who are being heard, to hang up on them at the end.
    fn gather<'scope>(
        &'scope self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        listener: &Listener,
        (tell, heard): (&mpsc::SyncSender<Heard>, &mpsc::Receiver<Heard>),
        streams: &mut [Option<TcpStream>],
        talking: &mut HashMap<u64, TcpStream>,
    ) -> Result<(), Error> {
        let (own, most) = (self.seat.rank as usize, streams.len() + STRANGERS);
        let (mut calls, mut refusal, mut lost) = (0, String::new(), Lost::default());
        loop {
            while let Ok(outcome) = heard.try_recv() {
                match outcome {
                    Heard::Called(peer, called) => streams[peer] = Some(called?),
                    Heard::Greeted(call, outcome) => {
                        talking.remove(&call);
                        match outcome {
                            // A rank that calls twice lost its first connection.
                            Ok(Greeting::Met(from, stream)) => streams[from] = Some(stream),
                            Ok(Greeting::Ahead(name, theirs)) => {
                                return Err(refused(&name, Refusal::Generation, theirs, self.seat));
                            }
                            Ok(Greeting::Refused(reason)) => refusal = format!("; {reason}"),
                            Err(_) => {}
                        }
                    }
                }
            }
            let missing = |seats: std::ops::Range<usize>| seats.into_iter().find(|&peer| streams[peer].is_none());
            let (called, caller) = (missing(0..own), missing(own + 1..streams.len()));
            if called.or(caller).is_none() {
                return Ok(());
            }
            self.cancel.check()?;
            lost.check(self.seat, streams)?;
            let left = self.left();
            // A call that fails in time says why by itself.
            if let (true, None, Some(missing)) = (left.is_zero(), called, caller) {
                let what = format!("did not call for {}{refusal}", seconds(self.timeout));
                return Err(Error::peer(ErrorKind::PeerTimedOut, &self.seat.name(missing), what));
            }
            if caller.is_none() || talking.len() >= most || left.is_zero() {
                std::thread::sleep(PAUSE);
                continue;
            }
            if !callers_wait(listener, left.min(PAUSE)) {
                continue;
            }
            let Ok((stream, _)) = listener.listener.accept() else { continue };
            let Ok(handle) = stream.try_clone() else { continue };
            calls += 1;
            talking.insert(calls, handle);
            let (tell, call) = (tell.clone(), calls);
            scope.spawn(move || tell.send(Heard::Greeted(call, self.greet(stream, left.min(CALL)))));
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.cancel.is_cancelled()
    }

    /// Waits so long, or until the meeting is over.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause.min(self.left());
        while !self.is_over() && Instant::now() < until {
            std::thread::sleep(SLICE.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Calls a lower rank until it answers, or the deadline.
    fn call(&self, peer: usize) -> Result<TcpStream, Error> {
        let (name, address) = (self.seat.name(peer), self.seat.members[peer].address);
        let (mut pause, mut behind) = (PAUSE, None);
        let mut closed: Option<Instant> = None;
        loop {
            self.cancel.check()?;
            let left = self.left();
            if left.is_zero() || self.is_over() {
                let what = format!("could not be reached at {address} for {}", seconds(self.timeout));
                let unreachable = || Error::peer(ErrorKind::PeerTimedOut, &name, what);
                let generation = |theirs| refused(&name, Refusal::Generation, theirs, self.seat);
                return Err(behind.map_or_else(unreachable, generation));
            }
            match self.dial(address).and_then(|stream| self.introduce(stream, peer, left.min(CALL))) {
                Ok(Ok(stream)) => return Ok(stream),
                // It has not heard of this generation yet.
                Ok(Err((Refusal::Generation, theirs))) if theirs < self.seat.generation => behind = Some(theirs),
                Ok(Err((refusal, theirs))) => return Err(refused(&name, refusal, theirs, self.seat)),
                Err(error) if error.kind() == IoKind::ConnectionRefused => {
                    if closed.get_or_insert_with(Instant::now).elapsed() >= CLOSED {
                        let what = format!("listens at {address} no more: {error}");
                        return Err(Error::peer(ErrorKind::PeerClosed, &name, what));
                    }
                    self.rest(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Err(_) => {}
            }
            closed = None;
            self.rest(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connects, which may take until the deadline: a host that is not there does not answer.
    fn dial(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let waits = nix::errno::Errno::EINPROGRESS as i32;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(waits) => return Err(error),
            _ => {}
        }
        let slice = PollTimeout::try_from(SLICE).unwrap_or(PollTimeout::from(10u8));
        while poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], slice).is_ok_and(|ready| ready == 0) {
            if self.is_over() || self.left().is_zero() {
                return Err(IoKind::TimedOut.into());
            }
        }
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        socket.set_nonblocking(false)?;
        Ok(socket.into())
    }

    /// Begins a session on each connection, side by side.
    fn encrypt(&self, streams: Vec<Option<TcpStream>>) -> Result<Vec<Option<Line>>, Error> {
        let begun = std::thread::scope(|scope| {
            let begin = |(peer, stream): (usize, Option<TcpStream>)| {
                stream.map(|stream| scope.spawn(move || self.encrypt_one(peer, stream)))
            };
            let sessions: Vec<_> = streams.into_iter().enumerate().map(begin).collect();
            let end = |session: Option<std::thread::ScopedJoinHandle<'_, _>>| {
                session.map(|session| session.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            };
            sessions.into_iter().map(end).collect::<Vec<Option<Result<Line, Error>>>>()
        });
        begun.into_iter().map(Option::transpose).collect()
    }

    fn encrypt_one(&self, peer: usize, stream: TcpStream) -> Result<Line, Error> {
        let side = if peer < self.seat.rank as usize { Side::Caller } else { Side::Called };
        let patient = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(SLICE)));
        let sign = |side: Side, bound: &[u8; 32]| {
            let side = if side == Side::Caller { "session caller" } else { "session called" };
            *proof(self.seat, side, bound, &self.seat.generation.to_le_bytes()).as_bytes()
        };
        let go_on = || !self.left().is_zero() && !self.cancel.is_cancelled();
        patient.and_then(|()| secure::begin(stream, side, go_on, sign)).map_err(|error| {
            let name = self.seat.name(peer);
            let (kind, what) = match error.kind() {
                _ if self.cancel.is_cancelled() => return Error::new(ErrorKind::Aborted, "the group was aborted"),
                IoKind::TimedOut => {
                    (ErrorKind::PeerTimedOut, format!("began no session for {}", seconds(self.timeout)))
                }
                IoKind::UnexpectedEof | IoKind::ConnectionReset | IoKind::BrokenPipe => {
                    (ErrorKind::PeerClosed, "closed the connection before a session had begun".to_owned())
                }
                IoKind::PermissionDenied => (ErrorKind::PeerRefused, error.to_string()),
                _ => (ErrorKind::Network, format!("began no session: {error}")),
            };
            Error::peer(kind, &name, what).because(error)
        })
    }

    /// Tells those who were met that this generation is over, and whom this rank blames.
    fn say_farewell(&self, streams: &mut [Option<TcpStream>], error: &Error) {
        let blamed = error.culprit().and_then(|culprit| self.seat.seat_of(culprit.rank));
        let farewell = Header::farewell(self.seat.origin(), blamed.unwrap_or(self.seat.rank as usize) as u16);
        for stream in streams.iter_mut().flatten() {
            // One that cannot be told sees the connection end.
            stream.write_all(&farewell.encode()).ok();
        }
    }
}

/// Connections that have ended while others are still awaited.
#[derive(Default)]
struct Lost(HashMap<usize, Instant>);

impl Lost {
    /// An error where a rank that was met has left: one that was called at once, a caller where it does not call
    /// again.
    fn check(&mut self, seat: &Seat, streams: &[Option<TcpStream>]) -> Result<(), Error> {
        for (peer, stream) in streams.iter().enumerate() {
            let Some(stream) = stream.as_ref().filter(|stream| has_ended(stream)) else {
                self.0.remove(&peer);
                continue;
            };
            let (name, since) = (seat.name(peer), *self.0.entry(peer).or_insert_with(Instant::now));
            if let Some(culprit) = farewell_of(stream, seat, peer) {
                return Err(left(&name, &culprit));
            }
            if peer < seat.rank as usize || since.elapsed() >= CLOSED {
                return Err(Error::peer(ErrorKind::PeerClosed, &name, "closed the connection"));
            }
        }
        Ok(())
    }
}

/// Whether the other side will send nothing more.
fn has_ended(stream: &TcpStream) -> bool {
    #[cfg(target_os = "linux")]
    let events = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    #[cfg(not(target_os = "linux"))]
    let events = PollFlags::empty();
    let mut fds = [PollFd::new(stream.as_fd(), events)];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    // No flags: one that `nix` has no name for, which is the one that was asked for.
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|_| fds[0].revents().is_none_or(|seen| seen.intersects(gone)))
}

/// Whom the farewell blames that is all a peer has sent, if it is.
fn farewell_of(stream: &TcpStream, seat: &Seat, peer: usize) -> Option<PeerName> {
    let mut bytes = [0; HEADER_BYTES];
    // It has ended, so this does not wait.
    (stream.peek(&mut bytes).ok()? == HEADER_BYTES).then_some(())?;
    let header = Header::decode(&bytes).ok()?;
    let Message::Farewell { culprit } = header.message else { return None };
    let expected = Origin { rank: peer as u16, ..seat.origin() };
    (header.origin == expected && usize::from(culprit) < seat.members.len()).then(|| seat.name(culprit.into()))
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
        Refusal::Encryption => {
            let (theirs, own) = if theirs == 0 { ("does not encrypt", "does") } else { ("encrypts", "does not") };
            let what = format!("{theirs} what the ranks exchange, this rank {own}: collective_tls of their workers");
            (ErrorKind::PeerRefused, what)
        }
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
    hello_of(seat, seat.rank as usize, to, nonce)
}

/// What the rank at seat `from` says to the one at `to`.
fn hello_of(seat: &Seat, from: usize, to: usize, nonce: &[u8; NONCE]) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &MAGIC.to_le_bytes());
    put(4, &VERSION.to_le_bytes());
    put(6, &(from as u16).to_le_bytes());
    put(8, &(to as u16).to_le_bytes());
    put(10, &(seat.members.len() as u16).to_le_bytes());
    put(12, &(seat.shards as u16).to_le_bytes());
    put(14, &u16::from(seat.encrypted).to_le_bytes());
    put(16, &seat.generation.to_le_bytes());
    put(20, &seat.members[from].rank.to_le_bytes());
    put(24, &job_number(&seat.job).to_le_bytes());
    put(32, nonce);
    bytes
}

impl Meeting<'_> {
    /// Reads all of `bytes` before `until`, however slowly they come.
    fn read_by(&self, stream: &mut TcpStream, bytes: &mut [u8], until: Instant) -> std::io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let left = until.saturating_duration_since(Instant::now());
            // No time-out at all is what zero would mean.
            stream.set_read_timeout(Some(left.clamp(Duration::from_millis(1), SLICE)))?;
            match stream.read(&mut bytes[at..]) {
                Ok(0) => return Err(IoKind::UnexpectedEof.into()),
                Ok(read) => at += read,
                Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut | IoKind::Interrupted) => {
                    if left.is_zero() || self.is_over() {
                        return Err(IoKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The caller's side. A refusal comes with what the other said of itself.
    fn introduce(
        &self,
        mut stream: TcpStream,
        peer: usize,
        patience: Duration,
    ) -> std::io::Result<Result<TcpStream, (Refusal, u32)>> {
        let (seat, until) = (self.seat, Instant::now() + patience);
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience))?;
        let hello = hello(seat, peer, &nonce()?);
        stream.write_all(&hello)?;
        let theirs = |answer: &[u8]| u32::from_le_bytes(std::array::from_fn(|i| answer[4 + i]));
        let mut challenge = [0; CHALLENGE];
        self.read_by(&mut stream, &mut challenge, until)?;
        if let Some(refusal) = Refusal::of(challenge[0]) {
            return Ok(Err((refusal, theirs(&challenge))));
        }
        let (said, proved) = challenge.split_at(CHALLENGE - 32);
        if !proves(proof(seat, "called", &hello, said), proved) {
            return Ok(Err((Refusal::Token, 0)));
        }
        stream.write_all(proof(seat, "caller", &hello, &challenge).as_bytes())?;
        let mut welcome = [0; WELCOME];
        self.read_by(&mut stream, &mut welcome, until)?;
        match Refusal::of(welcome[0]) {
            Some(refusal) => Ok(Err((refusal, theirs(&welcome)))),
            None => Ok(Ok(stream)),
        }
    }

    /// The called side: who calls, or why it was refused.
    fn greet(&self, mut stream: TcpStream, patience: Duration) -> std::io::Result<Greeting> {
        let (seat, until) = (self.seat, Instant::now() + patience);
        let host = stream.peer_addr()?.ip().to_string();
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience))?;
        let mut theirs = [0; HELLO];
        self.read_by(&mut stream, &mut theirs, until)?;
        let from = usize::from(u16::from_le_bytes([theirs[6], theirs[7]]));
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| theirs[at + i]));
        let (generation, rank) = (number(16), number(20));
        let ahead = generation > seat.generation;
        let (refusal, said) = judge(seat, &theirs, from);
        let mut challenge = [0; CHALLENGE];
        challenge[0] = refusal.map_or(0, |refusal| refusal as u8);
        challenge[4..8].copy_from_slice(&said.to_le_bytes());
        if let Some(refusal) = refusal {
            stream.write_all(&challenge)?;
            return Ok(Greeting::Refused(format!("a caller that says it is rank {rank} was refused: {refusal:?}")));
        }
        challenge[8..8 + NONCE].copy_from_slice(&nonce()?);
        let proved = proof(seat, "called", &theirs, &challenge[..CHALLENGE - 32]);
        challenge[CHALLENGE - 32..].copy_from_slice(proved.as_bytes());
        stream.write_all(&challenge)?;
        let mut answer = [0; PROOF];
        if self.read_by(&mut stream, &mut answer, until).is_err() {
            let what = format!("a caller that says it is rank {rank} hung up when asked for the token");
            return Ok(Greeting::Refused(what));
        }
        let mut welcome = [0; WELCOME];
        if !proves(proof(seat, "caller", &theirs, &challenge), &answer) {
            welcome[0] = Refusal::Token as u8;
            stream.write_all(&welcome)?;
            return Ok(Greeting::Refused(format!("a caller that says it is rank {rank} was refused: wrong token")));
        }
        if ahead {
            welcome[0] = Refusal::Generation as u8;
            welcome[4..8].copy_from_slice(&seat.generation.to_le_bytes());
            stream.write_all(&welcome)?;
            let name = seat.seat_of(rank).map_or(PeerName { rank, host }, |seated| seat.name(seated));
            return Ok(Greeting::Ahead(name, generation));
        }
        stream.write_all(&welcome)?;
        Ok(Greeting::Met(from, stream))
    }
}

/// Whether a caller is refused for what it says of itself, and what it is told. One of a later generation first
/// proves that it belongs to the group: what it says ends this generation.
fn judge(seat: &Seat, theirs: &[u8; HELLO], from: usize) -> (Option<Refusal>, u32) {
    let higher = from > seat.rank as usize && from < seat.members.len();
    let expected = hello_of(seat, if higher { from } else { 0 }, seat.rank as usize, &[0; NONCE]);
    let generation = u32::from_le_bytes(std::array::from_fn(|i| theirs[16 + i]));
    if theirs[..6] != expected[..6] {
        return (Some(Refusal::Version), u32::from(VERSION));
    }
    if theirs[24..32] != expected[24..32] {
        return (Some(Refusal::Group), 0);
    }
    if theirs[14..16] != expected[14..16] {
        return (Some(Refusal::Encryption), u32::from(seat.encrypted));
    }
    match generation.cmp(&seat.generation) {
        std::cmp::Ordering::Less => (Some(Refusal::Generation), seat.generation),
        std::cmp::Ordering::Equal if theirs[..32] != expected[..32] || !higher => (Some(Refusal::Group), 0),
        _ => (None, 0),
    }
}

/// Whether somebody calls within `wait`.
fn callers_wait(listener: &Listener, wait: Duration) -> bool {
    let mut fds = [PollFd::new(listener.listener.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::from(10u8));
    poll(&mut fds, wait).is_ok_and(|ready| ready > 0)
}
