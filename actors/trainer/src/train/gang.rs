//! The other ranks as the compute thread sees them: where it meets them, what it says to them at each step,
//! and how it is called away from an exchange.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use kernels::collective::Tuning;
use kernels::cuda::Gpu;
use messages::WireError;
use messages::error::Code;
use messages::gang::{Joined, Left, Peer};
use messages::plan::{Collective, ResourcePlan};
use tokio::sync::mpsc;

use super::stop::{Stop, StopReason};
use crate::error::PeerName;
use crate::exchange::{
    Cancel, Connected, Devices, Error, Group, Listener, Member, NotConnected, Seat, Token, Wish, refusal,
};

/// How a rank is called to meet the others again.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Called>);

#[derive(Default)]
struct Called {
    regroup: AtomicBool,
    /// Ends the group of the generation under way.
    cancel: Mutex<Cancel>,
}

impl std::fmt::Debug for Called {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Called").field("regroup", &self.regroup).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// At the next step boundary.
    pub fn at_next_step(&self) {
        self.0.regroup.store(true, Ordering::SeqCst);
    }

    /// At once: whatever waits for another rank returns with an error.
    pub fn now(&self) {
        self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    fn is_asked(&self) -> bool {
        self.0.regroup.load(Ordering::SeqCst)
    }

    /// What ends the next generation; nothing is asked of it yet.
    fn next_generation(&self) -> Cancel {
        let fresh = Cancel::new();
        *self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }
}

/// Asks the rank's runtime to join at the rendezvous.
#[derive(Debug)]
pub struct MeetRequest {
    /// The generation that it comes back from; none on arrival.
    pub left: Option<Left>,
    pub answer: oneshot::Sender<Result<Joined, WireError>>,
}

/// Where a rank meets the others.
pub struct Rendezvous {
    pub requests: mpsc::Sender<MeetRequest>,
    /// Where others call it; none where it can have none.
    pub listener: Option<Listener>,
    /// What goes to them and comes from them goes through TLS.
    pub encrypted: bool,
    pub interrupt: Interrupt,
    /// The longest time for all to be connected, and the longest wait without progress later.
    pub connect_timeout: Duration,
    pub step_timeout: Duration,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendezvous").field("interrupt", &self.interrupt).finish_non_exhaustive()
    }
}

/// A generation of the gang, as one of its ranks has it.
pub struct Gang {
    rendezvous: Option<Rendezvous>,
    /// How its devices are to be connected; none where sums go over TCP in any case.
    wish: Option<Wish>,
    /// Why there can be no NCCL, where the job asks for it.
    refused: Option<&'static str>,
    /// Before the group, over whose end they are.
    pub devices: Option<Box<Devices>>,
    pub group: Option<Group>,
    pub generation: u32,
    pub seat: u32,
    /// By seat.
    pub peers: Vec<Peer>,
    /// Steps in a row that each seat took far longer over than the others.
    slow: Vec<u32>,
}

/// What came of a meeting.
pub enum Met {
    /// In the next generation, or still alone.
    Seated { joined: Option<Joined> },
    /// Nobody wants this rank any more.
    Stopped,
}

impl Gang {
    /// `rendezvous`: none for a rank that is alone and stays so.
    pub fn new(rendezvous: Option<Rendezvous>) -> Self {
        let (wish, refused, devices) = (None, None, None);
        let (group, peers, slow) = (None, Vec::new(), Vec::new());
        Self { rendezvous, wish, refused, devices, group, generation: 0, seat: 0, peers, slow }
    }

    /// The same with ranks that compute on devices, none: on the CPU, and sum as the job says.
    pub fn on(self, gpu: Option<&Arc<Gpu>>, resources: &ResourcePlan) -> Self {
        let (collective, mode) = (resources.collective, resources.collective_mode);
        let refused = "the ranks compute on the CPU";
        match gpu {
            None => Self { refused: (collective == Collective::Nccl).then_some(refused), ..self },
            // A rank that will always be alone has nothing to sum.
            Some(_) if collective == Collective::Tcp || resources.max_world_size.max(resources.world_size) < 2 => self,
            Some(gpu) => Self { wish: Some(Wish::new(collective, mode, gpu.clone())), ..self },
        }
    }

    pub fn world_size(&self) -> u32 {
        (self.peers.len() as u32).max(1)
    }

    /// Meets the others in the next generation, and connects to them. `left` says why the last one is over. The
    /// outer error ends this rank, the inner one the generation.
    pub fn meet(&mut self, own: &Own, left: Option<Left>, stop: &Stop) -> Result<Result<Met, Error>, WireError> {
        if let (Some(wish), Some(devices)) = (&mut self.wish, &self.devices) {
            wish.distrust(devices);
        }
        self.devices = None;
        self.group = None;
        let Some(rendezvous) = &self.rendezvous else { return Ok(Ok(Met::Seated { joined: None })) };
        rendezvous.interrupt.0.regroup.store(false, Ordering::SeqCst);
        let (answer, answered) = oneshot::channel();
        let gone = || WireError::new(Code::InternalError, "the rank's runtime is gone");
        rendezvous.requests.blocking_send(MeetRequest { left, answer }).map_err(|_| gone())?;
        let joined = match stop.or_wait(answered) {
            None => return Ok(Ok(Met::Stopped)),
            Some(Ok(Ok(joined))) => joined,
            Some(Ok(Err(error))) if error.code == Code::Fenced => {
                stop.ask(StopReason::Fenced { reason: error.message });
                return Ok(Ok(Met::Stopped));
            }
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => return Err(gone()),
        };
        let seat = joined.peers.iter().position(|peer| peer.rank == own.rank);
        let Some(seat) = seat else {
            let message = format!("rank {} has no seat in generation {}", own.rank, joined.generation);
            return Err(WireError::new(Code::InternalError, message));
        };
        self.generation = joined.generation;
        self.seat = seat as u32;
        self.peers.clone_from(&joined.peers);
        self.slow = vec![0; joined.peers.len()];
        let cancel = rendezvous.interrupt.next_generation();
        if stop.ends_now() {
            return Ok(Ok(Met::Stopped));
        }
        if self.peers.len() > 1 {
            let (Some(listener), Some(seat)) =
                (&rendezvous.listener, self.at_table(own, &joined, rendezvous.encrypted)?)
            else {
                let message = "a gang of several ranks whose coordinator or ranks name no address and token";
                return Err(WireError::new(Code::InternalError, message));
            };
            match Group::connect(listener, &seat, Tuning::default(), rendezvous.connect_timeout, &cancel) {
                Ok(mut group) => {
                    group.set_timeout(rendezvous.step_timeout);
                    self.group = Some(group);
                }
                Err(error) => return Ok(Err(error)),
            }
            if let Err(error) = self.connect_devices()? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(Met::Seated { joined: Some(joined) }))
    }

    /// Settles how the ranks that have met sum their gradients. The outer error ends this rank, the inner one the
    /// generation.
    fn connect_devices(&mut self) -> Result<Result<(), Error>, WireError> {
        if let Some(why) = self.refused {
            return Err(refusal(why));
        }
        let (Some(wish), Some(group), Some(rendezvous)) = (&self.wish, &mut self.group, &self.rendezvous) else {
            return Ok(Ok(()));
        };
        let names = self.peers.iter().map(|peer| PeerName { rank: peer.rank, host: peer.host.clone() });
        let names: Vec<PeerName> = names.collect();
        match wish.connect(group, &names, rendezvous.encrypted, rendezvous.step_timeout) {
            Ok(Connected::Devices(devices)) => {
                tracing::info!("{}", devices.how());
                self.devices = Some(devices);
            }
            Ok(Connected::OverTcp(why)) => tracing::info!("gradients are summed over TCP: {why}"),
            Err(NotConnected::Exchange(error)) => return Ok(Err(error)),
            Err(NotConnected::Refused(error)) => return Err(error),
        }
        Ok(Ok(()))
    }

    /// Ends the devices' connections, when training is over on all ranks.
    pub fn close(&mut self) {
        if let Some(devices) = self.devices.take() {
            devices.close();
        }
    }

    fn at_table(&self, own: &Own, joined: &Joined, encrypted: bool) -> Result<Option<Seat>, WireError> {
        let wrong = |what: String| WireError::new(Code::BadMessage, format!("rendezvous: {what}"));
        let Some(token) = &joined.token else { return Ok(None) };
        let token = token_of(token).ok_or_else(|| wrong("a token that is not 64 hexadecimal digits".into()))?;
        let mut members = Vec::new();
        for peer in &joined.peers {
            let Some(address) = &peer.address else { return Ok(None) };
            let address =
                address.parse().map_err(|e| wrong(format!("address {address} of rank {}: {e}", peer.rank)))?;
            members.push(Member { rank: peer.rank, host: peer.host.clone(), address });
        }
        Ok(Some(Seat {
            job: own.job.clone(),
            generation: joined.generation,
            rank: self.seat,
            shards: own.shards,
            token,
            encrypted,
            members,
        }))
    }

    /// Whether it was asked to meet the others again.
    pub fn is_called(&self) -> bool {
        self.rendezvous.as_ref().is_some_and(|rendezvous| rendezvous.interrupt.is_asked())
    }

    /// What this rank says at a step.
    pub fn says(&self, stop: &Stop, samples: Samples, computed: Duration) -> Said {
        Said {
            drains: matches!(stop.reason(), Some(StopReason::Drain { .. })),
            regroups: self.is_called(),
            computed_us: u32::try_from(computed.as_micros()).unwrap_or(u32::MAX),
            samples,
        }
    }

    /// The seat that has just become a straggler, with its time and the median, in milliseconds: every rank comes
    /// to the same answer.
    pub fn straggler(&mut self, said: &[Said], factor: f64) -> Option<(usize, f64, f64)> {
        /// A single slow step is no straggler.
        const IN_A_ROW: u32 = 5;
        /// Nor is a step too short to measure, in microseconds.
        const SHORTEST_US: u32 = 2_000;
        if said.len() < 2 || self.slow.len() != said.len() {
            return None;
        }
        let mut times: Vec<u32> = said.iter().map(|said| said.computed_us).collect();
        times.sort_unstable();
        // The lower one of two in the middle, so that the slower of two ranks can stand out.
        let median = f64::from(times[(times.len() - 1) / 2]);
        let mut found = None;
        for (seat, (said, slow)) in said.iter().zip(&mut self.slow).enumerate() {
            let is_slow = said.computed_us >= SHORTEST_US && f64::from(said.computed_us) > factor * median;
            *slow = if is_slow { *slow + 1 } else { 0 };
            if *slow == IN_A_ROW {
                found = found.or(Some((seat, f64::from(said.computed_us) / 1e3, median / 1e3)));
            }
        }
        found
    }
}

/// What of a rank stays the same in all generations.
#[derive(Debug, Clone)]
pub struct Own {
    pub job: String,
    pub rank: u32,
    pub shards: usize,
}

/// Rows of an epoch so far, counted and told apart: a sum over the ranks that does not depend on who had which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Samples {
    pub rows: u64,
    /// Sum of a hash of each sample's id, modulo 2^64.
    pub digest: u64,
}

impl Samples {
    pub fn of(ids: &[u64]) -> Self {
        Self { rows: ids.len() as u64, digest: ids.iter().fold(0, |sum, id| sum.wrapping_add(mix(*id))) }
    }

    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), of the id moved off zero.
fn mix(id: u64) -> u64 {
    let mut z = id.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a rank says to all others with each micro-batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// It leaves after this step.
    pub drains: bool,
    /// It was asked to meet the others again.
    pub regroups: bool,
    /// Its computing time of the step before.
    pub computed_us: u32,
    pub samples: Samples,
}

impl Said {
    pub const BYTES: usize = 24;

    pub fn write(&self, bytes: &mut [u8]) {
        let flags = u32::from(self.drains) | u32::from(self.regroups) << 1;
        bytes[..4].copy_from_slice(&flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.computed_us.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.samples.rows.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.samples.digest.to_le_bytes());
    }

    pub fn read(bytes: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            drains: u32_at(0) & 1 != 0,
            regroups: u32_at(0) & 2 != 0,
            computed_us: u32_at(4),
            samples: Samples { rows: u64_at(8), digest: u64_at(16) },
        }
    }
}

fn token_of(hex: &str) -> Option<Token> {
    let digits = hex.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Token::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_as_written() {
        let said = Said { drains: true, regroups: false, computed_us: 77, samples: Samples { rows: 3, digest: 9 } };
        let mut bytes = [0; Said::BYTES];
        said.write(&mut bytes);
        assert_eq!(Said::read(&bytes), said);
    }

    #[test]
    fn the_digest_tells_which_samples_and_not_who_had_them() {
        let whole = Samples::of(&[3, 1, 2, 0]);
        let mut parts = Samples::of(&[0, 2]);
        parts.add(Samples::of(&[3, 1]));
        assert_eq!(parts, whole);
        assert_ne!(Samples::of(&[3, 1, 2, 4]), whole);
        assert_ne!(Samples::of(&[3, 1, 1, 1]).digest, whole.digest);
    }

    #[test]
    fn a_straggler_is_one_that_stays_behind() {
        let mut gang = Gang::new(None);
        gang.slow = vec![0; 3];
        let said = |times: [u32; 3]| times.map(|computed_us| Said { computed_us, ..Said::default() });
        for _ in 0..4 {
            assert_eq!(gang.straggler(&said([10_000, 50_000, 11_000]), 3.0), None);
        }
        assert_eq!(gang.straggler(&said([10_000, 20_000, 11_000]), 3.0), None, "it has caught up");
        for _ in 0..4 {
            assert_eq!(gang.straggler(&said([10_000, 50_000, 11_000]), 3.0), None);
        }
        assert_eq!(gang.straggler(&said([10_000, 50_000, 11_000]), 3.0), Some((1, 50.0, 11.0)));
        assert_eq!(gang.straggler(&said([10_000, 50_000, 11_000]), 3.0), None, "told once");
    }

    #[test]
    fn a_token_is_sixty_four_digits() {
        assert!(token_of(&"5a".repeat(32)).is_some());
        assert!(token_of("5a").is_none() && token_of(&"zz".repeat(32)).is_none());
    }
}
