//! Ranks as processes: one TCP connection between each two, all of a rank's driven by the thread that
//! waits for the sum. Payloads go from and to the caller's buffers by vectored calls that also take the
//! header, so a piece costs one call where the socket has room. A checksum is computed when the piece is in
//! cache anyway: right before it is sent, right after it came and before it is added.
//!
//! Between hosts socket buffers are left to the kernel, which grows them as the path needs. Between ranks of
//! one host what is on its way had better stay in the processor's caches, so their send buffers are short;
//! and a congestion control that paces (BBR) costs half the bandwidth there, so they ask for one that does not.

use std::io::{ErrorKind as IoKind, IoSlice, IoSliceMut};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kernels::collective::{Accept, Outgoing, Round, Ticket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::handshake::Seat;
use super::secure::Line;
use super::wire::{HEADER_BYTES, Header, Message, Origin, Unreadable, VERSION, checksum};
use super::{left, seconds};
use crate::error::{Error, ErrorKind, PeerName};

/// What went over a rank's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub frames_sent: u64,
    pub frames_received: u64,
    /// Headers included.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Frames of an earlier generation, which were dropped.
    pub stale_frames: u64,
}

/// Ends the group.
#[derive(Clone)]
pub struct Abort {
    aborted: Arc<AtomicBool>,
    /// The group's, which close with it.
    streams: Weak<Vec<TcpStream>>,
}

impl Abort {
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        for stream in self.streams.upgrade().iter().flat_map(|streams| streams.iter()) {
            // One that is closed already needs no closing.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// A frame on its way out.
struct Writing {
    outgoing: Outgoing,
    header: [u8; HEADER_BYTES],
    /// Bytes written, header and payload.
    at: usize,
}

/// What the next bytes of a peer are.
enum Input {
    Header,
    /// A frame that this rank is not ready for; its payload stays in the socket.
    Parked(Header),
    Payload {
        header: Header,
        ticket: Ticket,
        at: usize,
    },
    /// The rest of a frame that nobody wants.
    Skip(usize),
}

struct Peer {
    name: PeerName,
    /// Those of all ranks, by seat.
    names: Arc<[PeerName]>,
    line: Line,
    writing: Option<Writing>,
    input: Input,
    /// The header that is being read, and how much of it is there.
    head: [u8; HEADER_BYTES],
    filled: usize,
    /// Why nothing more can be sent to it. What it had sent before is still read.
    deaf: Option<String>,
    /// It sends nothing more.
    mute: bool,
    /// Its exchange has failed, and it blames this rank. What the others sent may still end this rank's.
    farewell: Option<PeerName>,
}

/// One rank's connections.
pub(super) struct Links {
    origin: Origin,
    /// By rank; none at this one's.
    peers: Vec<Option<Peer>>,
    /// The other ranks, from the next one on, so that not all turn to the same first.
    order: Vec<usize>,
    traffic: Traffic,
    abort: Abort,
    names: Arc<[PeerName]>,
    /// For [`Abort`].
    _streams: Arc<Vec<TcpStream>>,
}

impl Links {
    pub(super) fn new(seat: &Seat, lines: Vec<Option<Line>>) -> Result<Links, Error> {
        let (rank, world) = (seat.rank as usize, lines.len());
        let names: Arc<[PeerName]> = (0..world).map(|peer| seat.name(peer)).collect();
        let mut peers = Vec::with_capacity(world);
        let mut clones = Vec::new();
        for (peer, line) in lines.into_iter().enumerate() {
            let Some(line) = line else {
                peers.push(None);
                continue;
            };
            let (name, names) = (names[peer].clone(), names.clone());
            let failed = |error| Error::peer(ErrorKind::Network, &name, &error).because(error);
            line.socket().set_nonblocking(true).map_err(failed)?;
            clones.push(line.socket().try_clone().map_err(failed)?);
            near(line.socket());
            let head = [0; HEADER_BYTES];
            let (writing, input, filled, deaf, mute, farewell) = (None, Input::Header, 0, None, false, None);
            peers.push(Some(Peer { name, names, line, writing, input, head, filled, deaf, mute, farewell }));
        }
        let clones = Arc::new(clones);
        let abort = Abort { aborted: Arc::default(), streams: Arc::downgrade(&clones) };
        let order = (1..world).map(|step| (rank + step) % world).collect();
        let (origin, traffic) = (seat.origin(), Traffic::default());
        Ok(Links { origin, peers, order, traffic, abort, names, _streams: clones })
    }

    pub(super) fn abort_handle(&self) -> Abort {
        self.abort.clone()
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Sends and receives what is possible without waiting. Whether anything moved.
    pub(super) fn progress(&mut self, round: &mut Round<'_, '_>) -> Result<bool, Error> {
        let mut moved = false;
        for index in 0..self.order.len() {
            let rank = self.order[index];
            let Some(peer) = &mut self.peers[rank] else { continue };
            let traffic = &mut self.traffic;
            moved |= peer.write(rank, self.origin, round, traffic);
            moved |= peer.read(rank, self.origin, round, traffic).map_err(|error| self.failed(error))?;
        }
        Ok(moved)
    }

    pub(super) fn finish(&mut self, round: &mut Round<'_, '_>, timeout: Duration) -> Result<(), Error> {
        let frames = |traffic: &Traffic| traffic.frames_sent + traffic.frames_received;
        let (mut since, mut seen) = (Instant::now(), frames(&self.traffic));
        loop {
            let moved = self.progress(round)?;
            if round.done() {
                return Ok(());
            }
            if moved {
                continue;
            }
            self.check_closed(round)?;
            if frames(&self.traffic) != seen {
                (since, seen) = (Instant::now(), frames(&self.traffic));
            }
            let left = timeout.saturating_sub(since.elapsed());
            if left.is_zero() || !self.wait(round, left)? {
                let error = self.timed_out(round, timeout);
                return Err(self.failed(error));
            }
        }
    }

    /// A peer that has done its part may hang up; one that is still needed may not.
    fn check_closed(&mut self, round: &Round<'_, '_>) -> Result<(), Error> {
        if self.peers.iter().flatten().all(|peer| peer.deaf.is_none() && !peer.mute) {
            return Ok(());
        }
        let [own, made] = round.missing();
        let closed = self.order.iter().find_map(|rank| {
            let peer = self.peers[*rank].as_ref()?;
            let unsent = peer.writing.is_some() || round.has_next(*rank);
            let awaited = own.contains(rank) || made.contains(rank);
            let takes_no_more = peer.deaf.is_some() || peer.farewell.is_some();
            ((takes_no_more && unsent) || (peer.mute && awaited)).then_some(peer)
        });
        let Some(error) = closed.map(Peer::closed) else { return Ok(()) };
        Err(self.failed(error))
    }

    /// Moves what can be moved; an error where a rank has left.
    pub(super) fn watch(&mut self, round: &mut Round<'_, '_>) -> Result<(), Error> {
        while self.progress(round)? {}
        let gone = |peer: &&Peer| peer.deaf.is_some() || peer.mute || peer.farewell.is_some();
        match self.peers.iter().flatten().find(gone).map(Peer::closed) {
            Some(error) => Err(self.failed(error)),
            None => Ok(()),
        }
    }

    /// The end of the group where a rank owes something.
    pub(super) fn late(&mut self, round: &Round<'_, '_>, timeout: Duration) -> Option<Error> {
        let error = (!round.done()).then(|| self.timed_out(round, timeout))?;
        Some(self.failed(error))
    }

    /// Waits until a connection can be read or written. Whether one can.
    fn wait(&self, round: &Round<'_, '_>, left: Duration) -> Result<bool, Error> {
        let mut fds = Vec::with_capacity(self.order.len());
        for rank in &self.order {
            // One that has hung up would wake this one all the time.
            let Some(peer) = self.peers[*rank].as_ref().filter(|peer| !peer.mute) else { continue };
            let mut events = PollFlags::empty();
            // What is parked waits for another peer, and would wake this one all the time.
            events.set(PollFlags::POLLIN, !matches!(peer.input, Input::Parked(_)));
            let unsent = peer.writing.is_some() || round.has_next(*rank);
            events.set(PollFlags::POLLOUT, unsent && peer.deaf.is_none());
            fds.push(PollFd::new(peer.line.as_fd(), events));
        }
        // Rounded up, or the last millisecond would be spent spinning.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, left) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::errno::Errno::EINTR) => Ok(true),
            Err(errno) => Err(Error::new(ErrorKind::Network, format!("cannot wait for the group: {errno}"))),
        }
    }

    /// Whom to blame: who owes its own values, else who does not read, else who owes sums.
    fn timed_out(&self, round: &Round<'_, '_>, timeout: Duration) -> Error {
        let [own, made] = round.missing();
        let peer = |rank: &usize| self.peers[*rank].as_ref();
        // Whose next frame is here already waits itself.
        let ahead = |rank: &usize| peer(rank).is_some_and(|peer| matches!(peer.input, Input::Parked(_)));
        let owes_own = own.iter().find(|rank| !ahead(rank));
        let unread = |rank: &&usize| peer(rank).is_some_and(|peer| peer.writing.is_some()) || round.has_next(**rank);
        let stalled = self.order.iter().find(unread);
        let (rank, what) = match (owes_own, stalled, own.first().or(made.first())) {
            (Some(rank), _, _) => (*rank, "sent nothing of what it owes"),
            (None, Some(rank), _) => (*rank, "took nothing of what is sent to it"),
            (None, None, Some(rank)) => (*rank, "sent no sum"),
            (None, None, None) => (self.origin.rank.into(), "waited for nobody"),
        };
        Error::peer(ErrorKind::PeerTimedOut, &self.names[rank], format!("{what} for {}", seconds(timeout)))
    }

    /// The group is over: tells the others whom this rank blames, where it is not in the middle of a frame.
    fn failed(&mut self, error: Error) -> Error {
        if self.abort.aborted.load(Ordering::SeqCst) {
            return Error::new(ErrorKind::Aborted, "the group was aborted");
        }
        let blamed = error.culprit().and_then(|culprit| self.names.iter().position(|name| name == culprit));
        let culprit = blamed.map_or(self.origin.rank, |seat| seat as u16);
        let farewell = Header::farewell(self.origin, culprit).encode();
        for peer in self.peers.iter_mut().flatten() {
            if peer.writing.is_none() {
                // A peer that cannot be told sees the connection end.
                peer.line.write_all(&farewell).ok();
            }
            peer.line.close();
        }
        error
    }
}

impl Peer {
    /// What its leaving comes to.
    fn closed(&self) -> Error {
        if let Some(blamed) = &self.farewell {
            return left(&self.name, blamed);
        }
        let what = self.deaf.clone().unwrap_or_else(|| "closed the connection".into());
        Error::peer(ErrorKind::PeerClosed, &self.name, what)
    }

    /// Sends the frame that is on its way, or the next. Whether bytes moved.
    fn write(&mut self, rank: usize, origin: Origin, round: &mut Round<'_, '_>, traffic: &mut Traffic) -> bool {
        if self.deaf.is_some() {
            return false;
        }
        if self.writing.is_none() {
            let Some(outgoing) = round.next(rank) else { return false };
            let header = Header::of(origin, round.frame(&outgoing), round.payload(&outgoing)).encode();
            self.writing = Some(Writing { outgoing, header, at: 0 });
        }
        let Some(writing) = &mut self.writing else { return false };
        let payload = round.payload(&writing.outgoing);
        let rest = payload.get(writing.at.saturating_sub(HEADER_BYTES)..).unwrap_or_default();
        let head = writing.header.get(writing.at..).unwrap_or_default();
        let written = match self.line.write_vectored(&[IoSlice::new(head), IoSlice::new(rest)]) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::Interrupted) => return false,
            Err(error) => {
                // What it said last may say why.
                self.deaf = Some(broken(&error));
                return false;
            }
        };
        writing.at += written;
        traffic.bytes_sent += written as u64;
        let whole = writing.at == HEADER_BYTES + payload.len() && self.line.is_flushed();
        if whole {
            traffic.frames_sent += 1;
            round.sent(writing.outgoing);
            self.writing = None;
        }
        written > 0 || whole
    }

    /// Receives once. Whether bytes moved or a parked frame found its place.
    fn read(
        &mut self,
        rank: usize,
        origin: Origin,
        round: &mut Round<'_, '_>,
        traffic: &mut Traffic,
    ) -> Result<bool, Error> {
        if self.mute {
            return Ok(false);
        }
        if let Input::Parked(header) = self.input {
            self.place(rank, header, round)?;
            // One without payload is whole already.
            self.settle(rank, origin, round, traffic)?;
            return Ok(!matches!(self.input, Input::Parked(_)));
        }
        let received = match &mut self.input {
            Input::Payload { ticket, at, .. } => {
                let rest = &mut round.buffer(ticket)[*at..];
                let missing = rest.len();
                // The next header comes along.
                let mut parts = [IoSliceMut::new(rest), IoSliceMut::new(&mut self.head)];
                self.line.read_vectored(&mut parts).inspect(|received| {
                    *at += missing.min(*received);
                    self.filled = received - missing.min(*received);
                })
            }
            Input::Skip(left) => {
                let mut sink = [0; 4096];
                let most = sink.len().min(*left);
                self.line.read(&mut sink[..most]).inspect(|received| *left -= received)
            }
            Input::Header | Input::Parked(_) => {
                self.line.read(&mut self.head[self.filled..]).inspect(|received| self.filled += received)
            }
        };
        let received = match received {
            Ok(0) => {
                self.mute = true;
                return Ok(false);
            }
            Ok(received) => received,
            Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::Interrupted) => return Ok(false),
            Err(error) => {
                (self.mute, self.deaf) = (true, Some(broken(&error)));
                return Ok(false);
            }
        };
        traffic.bytes_received += received as u64;
        self.settle(rank, origin, round, traffic)?;
        Ok(true)
    }

    /// Takes what is whole: a payload, then a header, then a payload of no bytes.
    fn settle(
        &mut self,
        rank: usize,
        origin: Origin,
        round: &mut Round<'_, '_>,
        traffic: &mut Traffic,
    ) -> Result<(), Error> {
        loop {
            match self.input {
                Input::Payload { header, ticket, at } if at == header.payload_bytes as usize => {
                    self.check(&header, round.buffer(&ticket))?;
                    traffic.frames_received += 1;
                    round.arrived(ticket);
                    self.input = Input::Header;
                }
                Input::Skip(0) => self.input = Input::Header,
                Input::Header if self.filled == HEADER_BYTES => {
                    self.filled = 0;
                    let header = self.expected(rank, origin)?;
                    if header.origin.generation < origin.generation {
                        traffic.stale_frames += 1;
                        self.input = Input::Skip(header.payload_bytes as usize);
                    } else {
                        self.place(rank, header, round)?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Finds the place of a frame in the round, if it is time for it.
    fn place(&mut self, rank: usize, header: Header, round: &mut Round<'_, '_>) -> Result<(), Error> {
        let frame = match header.message {
            Message::Frame(frame) => frame,
            Message::Farewell { culprit } => {
                self.farewell = Some(self.names.get(usize::from(culprit)).unwrap_or(&self.name).clone());
                (self.mute, self.input) = (true, Input::Header);
                return Ok(());
            }
        };
        let accepted = round.accept(rank, &frame);
        self.input = match accepted.map_err(|error| Error::peer(ErrorKind::Diverged, &self.name, error))? {
            Accept::Take(ticket) => Input::Payload { header, ticket, at: 0 },
            Accept::Later => Input::Parked(header),
        };
        Ok(())
    }

    /// The header that was read, if it can be of this peer and group.
    fn expected(&self, seat: usize, origin: Origin) -> Result<Header, Error> {
        let fail = |kind, what: String| Err(Error::peer(kind, &self.name, what));
        let header = match Header::decode(&self.head) {
            Ok(header) => header,
            Err(Unreadable::Corrupt) => {
                return fail(ErrorKind::FrameCorrupt, "the checksum of a frame's header does not hold".into());
            }
            Err(Unreadable::Version(theirs)) => {
                let what = format!("sent a frame of version {theirs} of the protocol, this rank speaks {VERSION}");
                return fail(ErrorKind::OtherVersion, what);
            }
            Err(Unreadable::Foreign) => return fail(ErrorKind::Diverged, "sent what is no frame".into()),
        };
        let Origin { job, generation, rank } = header.origin;
        if job != origin.job || usize::from(rank) != seat {
            return fail(ErrorKind::Diverged, format!("sent a frame of job {job:016x}, seat {rank}"));
        }
        if generation > origin.generation {
            let what = format!("is in generation {generation}, this rank in {}", origin.generation);
            return fail(ErrorKind::OtherGeneration, what);
        }
        Ok(header)
    }

    fn check(&self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        if checksum(payload) == header.checksum {
            return Ok(());
        }
        let Message::Frame(frame) = header.message else { return Ok(()) };
        let what = format!(
            "a frame came corrupt: bucket {}, shards {}..{}, operation {}, bytes {}..{}: the checksum does not hold",
            frame.bucket,
            frame.node.first,
            frame.node.end,
            frame.sequence,
            frame.offset,
            frame.offset + u64::from(frame.len),
        );
        Err(Error::peer(ErrorKind::FrameCorrupt, &self.name, what))
    }
}

fn broken(error: &std::io::Error) -> String {
    format!("the connection broke: {error}")
}

/// What may be on its way between two ranks of one host, in bytes; the kernel takes twice as much with its own.
const NEAR_BYTES: usize = 128 << 10;

/// Between ranks of one host: a short way, and the first congestion control without pacing that this process
/// may use.
fn near(stream: &TcpStream) {
    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
    if ends.is_some_and(|(here, there)| here.ip() == there.ip()) {
        let socket = socket2::SockRef::from(stream);
        // Both only make it faster: where they are refused, the host's own choice stays.
        socket.set_send_buffer_size(NEAR_BYTES).ok();
        #[cfg(target_os = "linux")]
        let _chosen = [b"cubic".as_slice(), b"reno"].iter().any(|name| socket.set_tcp_congestion(name).is_ok());
    }
}
