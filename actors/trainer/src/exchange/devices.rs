//! Gradients of ranks that have a device each, summed by NCCL where they are. The group stays what connects the ranks: over
//! it they agree whether all can, get NCCL's id from the first seat, carry losses and what they say, and notice who is gone.
//!
//! NCCL's own way of noticing differs by what it runs over, from a closed socket to never. So whoever waits for devices looks
//! at the group's connections meanwhile ([`Exchange::watch`]), and ends an exchange with a barrier over them: before that no
//! rank may leave, so a connection that closes is a rank that died.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::collective::{Op, Values};
use kernels::cuda::Gpu;
use kernels::cuda::nccl::{Communicator, DeviceSum, Nccl, SumMode, UniqueId};
use kernels::train::DeviceBucket;
use messages::WireError;
use messages::error::Code;
use messages::plan::{Collective, CollectiveMode};

use super::{Exchange, Group, seconds};
use crate::error::{Error, ErrorKind, PeerName};

/// The operation that ends an exchange of devices; those of training count from 0.
const DONE: u32 = u32::MAX - 1;
/// Pause between two looks at a device; the first few have none.
const PAUSE: Duration = Duration::from_micros(50);
const WITHOUT_PAUSE: u32 = 64;
/// How long the group is watched for the rank that is to blame for what NCCL says.
const BLAME: Duration = Duration::from_millis(500);

/// How a rank's devices are to be connected, and what this rank has.
pub struct Wish {
    pub collective: Collective,
    pub mode: CollectiveMode,
    pub gpu: Arc<Gpu>,
    /// The library, or why there is none.
    library: Result<Arc<Nccl>, String>,
    /// Why it is not used any more, once it has failed with all ranks alive.
    distrust: Option<String>,
}

/// The devices of a group, connected.
pub struct Devices {
    sum: DeviceSum,
    /// For people.
    how: String,
    /// It failed, and no rank was to blame.
    failed_alone: Option<String>,
}

/// How the gradients of a group are summed.
pub enum Connected {
    Devices(Box<Devices>),
    /// And why.
    OverTcp(String),
}

/// Why it is not settled.
pub enum NotConnected {
    /// The job asks for NCCL, and it cannot be used.
    Refused(WireError),
    /// The group is over.
    Exchange(Error),
}

impl From<Error> for NotConnected {
    fn from(error: Error) -> Self {
        Self::Exchange(error)
    }
}

/// A job that asks for NCCL and cannot have it.
pub fn refusal(why: &str) -> WireError {
    let error = WireError::new(Code::DeviceError, format!("resources.collective: nccl: {why}"));
    error.with_hint("see within doctor on the workers' hosts, or set resources.collective: auto")
}

/// Why devices did not come to a sum.
pub enum Failed {
    /// This rank's device.
    Device(kernels::Error),
    Exchange(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Exchange(error)
    }
}

impl Wish {
    pub fn new(collective: Collective, mode: CollectiveMode, gpu: Arc<Gpu>) -> Wish {
        let library = Nccl::load(&crate::device::environment()).map(Arc::new).map_err(|error| error.to_string());
        Wish { collective, mode, gpu, library, distrust: None }
    }

    /// From now on this rank says that NCCL cannot be used.
    pub fn distrust(&mut self, devices: &Devices) {
        if let Some(why) = &devices.failed_alone {
            self.distrust = Some(format!("NCCL has failed: {why}"));
        }
    }

    /// What this rank has to offer.
    fn offer(&self, encrypted: bool) -> Offer {
        let library = self.library.as_ref().map_err(Clone::clone);
        let ready = match (&self.distrust, encrypted, library) {
            (Some(why), _, _) => Err(why.clone()),
            (None, true, _) => Err("collective_tls is set, and NCCL does not encrypt".to_owned()),
            (None, false, Err(why)) => Err(why),
            (None, false, Ok(library)) => {
                self.gpu.identity().map(|device| (library.version(), device)).map_err(|error| error.to_string())
            }
        };
        Offer(ready)
    }

    /// Connects the devices of a group that has just met, or says why sums go over TCP. `timeout`: for NCCL to set up
    /// its connections.
    pub fn connect(
        &self,
        group: &mut Group,
        names: &[PeerName],
        encrypted: bool,
        timeout: Duration,
    ) -> Result<Connected, NotConnected> {
        let offers = gathered(group, &self.offer(encrypted).write())?;
        let offers: Vec<Offer> = offers.iter().map(|bytes| Offer::read(bytes)).collect();
        let version = match agreed(&offers, names) {
            Ok(version) => version.map(|part| part.to_string()).join("."),
            Err(why) => return self.without(why),
        };
        // Where all agree, this rank has offered it.
        let Ok(library) = &self.library else { return self.without("NCCL is not there".into()) };
        match self.set_up(library, group, names, timeout)? {
            Ok(sum) => {
                let mode = if sum.mode() == SumMode::Fast { "in its own order" } else { "in the order of the tree" };
                let how = format!("gradients are summed by NCCL {version}, {mode}");
                Ok(Connected::Devices(Box::new(Devices { sum, how, failed_alone: None })))
            }
            Err(why) => self.without(why),
        }
    }

    /// The way without NCCL, unless the job asks for it.
    fn without(&self, why: String) -> Result<Connected, NotConnected> {
        if self.collective == Collective::Nccl {
            return Err(NotConnected::Refused(refusal(&why)));
        }
        Ok(Connected::OverTcp(why))
    }

    /// The first seat's id, and a communicator on every rank, or on none and why.
    fn set_up(
        &self,
        library: &Arc<Nccl>,
        group: &mut Group,
        names: &[PeerName],
        timeout: Duration,
    ) -> Result<Result<DeviceSum, String>, Error> {
        let (world, rank, shards) = (group.topology().world, group.topology().rank, group.topology().shards);
        let mut text = vec![0; Note::BYTES];
        let made = (rank == 0).then(|| library.unique_id());
        if let Some(made) = &made {
            text = match made {
                Ok(id) => Note::Good(id.to_bytes().to_vec()).write(),
                Err(error) => Note::Bad(error.to_string()).write(),
            };
        }
        group.broadcast(Values::Bytes(&mut text), 0)?;
        let id = match Note::read(&text) {
            Note::Good(id) => id,
            Note::Bad(why) => return Ok(Err(format!("{}: {why}", names[0]))),
        };
        let Ok(id) = <[u8; UniqueId::BYTES]>::try_from(id) else {
            return Err(Error::peer(ErrorKind::Diverged, &names[0], "sent an id of another length"));
        };
        let mode = match self.mode {
            CollectiveMode::Deterministic => SumMode::Deterministic,
            CollectiveMode::Fast => SumMode::Fast,
        };
        let mut outcomes = vec![0; world * Note::BYTES];
        let mut exchange = group.begin()?;
        let mut patience = Patience::new(&mut exchange, timeout);
        let id = UniqueId::from_bytes(id);
        let sum = Communicator::new(library, &self.gpu, id, rank, world, &mut || patience.go_on())
            .and_then(|communicator| DeviceSum::new(communicator, shards, mode));
        // A rank that is gone is no fault of NCCL's.
        if let Some(error) = patience.gave_up.take().filter(|error| error.kind() != ErrorKind::Collective) {
            return Err(error);
        }
        let outcome = match &sum {
            Ok(_) => Note::Good(Vec::new()),
            Err(error) => Note::Bad(error.to_string()),
        };
        outcomes[rank * Note::BYTES..][..Note::BYTES].copy_from_slice(&outcome.write());
        let bounds = (0..=world).map(|at| at * Note::BYTES).collect();
        exchange.submit(0, Op::AllGather { values: Values::Bytes(&mut outcomes), bounds })?;
        exchange.finish()?;
        let failed = outcomes.chunks_exact(Note::BYTES).zip(names).find_map(|(note, name)| match Note::read(note) {
            Note::Good(_) => None,
            Note::Bad(why) => Some(format!("{name}: {why}")),
        });
        Ok(match (failed, sum) {
            (None, Ok(sum)) => Ok(sum),
            (Some(why), _) => Err(why),
            (None, Err(error)) => Err(error.to_string()),
        })
    }
}

impl Devices {
    /// For people: by what, in which order.
    pub fn how(&self) -> &str {
        &self.how
    }

    /// Begins the sum of a bucket, while the device goes on.
    pub fn begin(&mut self, bucket: &DeviceBucket<'_>, exchange: &mut Exchange<'_, '_>) -> Result<(), Failed> {
        let timeout = exchange.timeout();
        let mut patience = Patience::new(exchange, timeout);
        let begun = self.sum.begin(bucket, &mut || patience.go_on());
        let gave_up = patience.gave_up.take();
        begun.map_err(|error| self.failed(error, gave_up, exchange))
    }

    /// Waits until the sums stand on every rank's device. What else was submitted to the exchange is left to its end.
    pub fn finish(&mut self, exchange: &mut Exchange<'_, '_>) -> Result<(), Failed> {
        let timeout = exchange.timeout();
        let mut patience = Patience::new(exchange, timeout);
        let failed = loop {
            match self.sum.is_done() {
                Ok(true) => break None,
                Ok(false) if patience.go_on() => {}
                Ok(false) => break Some(kernels::Error::Collective { call: "wait", what: "given up".into() }),
                Err(error) => break Some(error),
            }
        };
        let gave_up = patience.gave_up.take();
        match failed {
            Some(error) => Err(self.failed(error, gave_up, exchange)),
            None => Ok(exchange.submit(DONE, Op::Barrier)?),
        }
    }

    /// Ends them together with the other ranks', who all come here; what goes wrong is of no matter any more.
    pub fn close(self) {
        /// Then the others have something else to do.
        const PATIENCE: Duration = Duration::from_secs(1);
        let until = Instant::now() + PATIENCE;
        let closed = self.sum.close(&mut || {
            std::thread::sleep(PAUSE);
            Instant::now() < until
        });
        if let Err(error) = closed {
            tracing::debug!("the devices' connections were cut: {error}");
        }
    }

    fn failed(&mut self, error: kernels::Error, gave_up: Option<Error>, exchange: &mut Exchange<'_, '_>) -> Failed {
        if error.kind() != kernels::ErrorKind::Collective {
            return Failed::Device(error);
        }
        if let Some(gave_up) = gave_up {
            return Failed::Exchange(gave_up);
        }
        // NCCL may notice earlier than the group that a rank is gone.
        let until = Instant::now() + BLAME;
        while Instant::now() < until {
            if let Err(error) = exchange.watch() {
                return Failed::Exchange(error);
            }
            std::thread::sleep(100 * PAUSE);
        }
        self.failed_alone = Some(error.to_string());
        Failed::Exchange(Error::new(ErrorKind::Collective, error.to_string()))
    }
}

/// How long a rank waits for devices: as long as the group is whole and its time is not over.
struct Patience<'x, 'g, 'a> {
    exchange: &'x mut Exchange<'g, 'a>,
    until: Instant,
    timeout: Duration,
    looks: u32,
    /// Why it did not wait any longer.
    gave_up: Option<Error>,
}

impl<'x, 'g, 'a> Patience<'x, 'g, 'a> {
    fn new(exchange: &'x mut Exchange<'g, 'a>, timeout: Duration) -> Self {
        Self { exchange, until: Instant::now() + timeout, timeout, looks: 0, gave_up: None }
    }

    fn go_on(&mut self) -> bool {
        if let Err(error) = self.exchange.watch() {
            self.gave_up = Some(error);
        } else if Instant::now() >= self.until {
            let late = self.exchange.late(self.timeout);
            let what = || format!("the devices did not finish for {}", seconds(self.timeout));
            self.gave_up = Some(late.unwrap_or_else(|| Error::new(ErrorKind::Collective, what())));
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks > WITHOUT_PAUSE {
            std::thread::sleep(PAUSE);
        } else {
            std::thread::yield_now();
        }
        self.gave_up.is_none()
    }
}

/// Every rank's bytes, which are of one length, by seat.
fn gathered(group: &mut Group, own: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let (world, rank, each) = (group.topology().world, group.topology().rank, own.len());
    let mut all = vec![0; world * each];
    all[rank * each..][..each].copy_from_slice(own);
    group.all_gather(Values::Bytes(&mut all), (0..=world).map(|at| at * each).collect())?;
    Ok(all.chunks_exact(each).map(<[u8]>::to_vec).collect())
}

/// What ranks tell each other of: bytes, or why there are none.
enum Note {
    Good(Vec<u8>),
    Bad(String),
}

impl Note {
    const BYTES: usize = 512;

    /// One byte says which, two how many bytes follow.
    fn write(&self) -> Vec<u8> {
        let (good, content) = match self {
            Note::Good(bytes) => (1, bytes.as_slice()),
            Note::Bad(why) => (0, why.as_bytes()),
        };
        let content = &content[..content.len().min(Note::BYTES - 3)];
        let mut bytes = vec![0; Note::BYTES];
        bytes[0] = good;
        bytes[1..3].copy_from_slice(&(content.len() as u16).to_le_bytes());
        bytes[3..][..content.len()].copy_from_slice(content);
        bytes
    }

    fn read(bytes: &[u8]) -> Note {
        let length = usize::from(u16::from_le_bytes([bytes[1], bytes[2]])).min(Note::BYTES - 3);
        let content = &bytes[3..][..length];
        match bytes[0] {
            1 => Note::Good(content.to_vec()),
            _ => Note::Bad(String::from_utf8_lossy(content).into_owned()),
        }
    }
}

/// A version of NCCL and the identity of a device, or why a rank has not both.
struct Offer(Result<([u32; 3], [u8; 16]), String>);

impl Offer {
    fn write(&self) -> Vec<u8> {
        match &self.0 {
            Ok((version, device)) => {
                let version = version.iter().flat_map(|part| part.to_le_bytes());
                Note::Good(version.chain(device.iter().copied()).collect()).write()
            }
            Err(why) => Note::Bad(why.clone()).write(),
        }
    }

    fn read(bytes: &[u8]) -> Offer {
        Offer(match Note::read(bytes) {
            Note::Good(bytes) if bytes.len() == 28 => {
                let part = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[4 * at + i]));
                Ok(([part(0), part(1), part(2)], std::array::from_fn(|i| bytes[12 + i])))
            }
            Note::Good(_) => Err("sent an offer of another build".into()),
            Note::Bad(why) => Err(why),
        })
    }
}

/// The version that all have, each with a device of its own; every rank comes to the same answer.
fn agreed(offers: &[Offer], names: &[PeerName]) -> Result<[u32; 3], String> {
    let mut seen: Vec<([u32; 3], [u8; 16])> = Vec::with_capacity(offers.len());
    for (Offer(offer), name) in offers.iter().zip(names) {
        let (version, device) = offer.as_ref().map_err(|why| format!("{name}: {why}"))?;
        if let Some((first, _)) = seen.first().filter(|(first, _)| first != version) {
            let text = |version: &[u32; 3]| version.map(|part| part.to_string()).join(".");
            return Err(format!("{} has NCCL {}, {name} has {}", names[0], text(first), text(version)));
        }
        if let Some(other) = seen.iter().position(|(_, other)| other == device) {
            return Err(format!("{} and {name} share a device", names[other]));
        }
        seen.push((*version, *device));
    }
    seen.first().map(|(version, _)| *version).ok_or_else(|| "a group of nobody".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ranks_must_be_able_to() {
        let names: Vec<PeerName> = (0..3).map(|rank| PeerName { rank: rank + 4, host: "h".into() }).collect();
        let good = |patch, device| Offer(Ok(([2, 28, patch], [device; 16])));
        let read = |offers: [Offer; 3]| {
            let sent: Vec<Offer> = offers.iter().map(|offer| Offer::read(&offer.write())).collect();
            agreed(&sent, &names)
        };
        assert_eq!(read([good(9, 1), good(9, 2), good(9, 3)]), Ok([2, 28, 9]));
        let said = |offers| read(offers).expect_err("refused");
        assert_eq!(said([good(9, 1), good(9, 2), good(9, 1)]), "rank 4 (h) and rank 6 (h) share a device");
        assert_eq!(said([good(9, 1), good(3, 2), good(9, 3)]), "rank 4 (h) has NCCL 2.28.9, rank 5 (h) has 2.28.3");
        let lacks = Offer(Err("nccl: none of libnccl.so.2, libnccl.so was found".into()));
        assert_eq!(
            said([good(9, 1), lacks, good(9, 3)]),
            "rank 5 (h): nccl: none of libnccl.so.2, libnccl.so was found"
        );
    }

    #[test]
    fn a_long_reason_is_cut_and_not_lost() {
        let Note::Bad(why) = Note::read(&Note::Bad("x".repeat(4_000)).write()) else { panic!("a reason") };
        assert_eq!(why, "x".repeat(Note::BYTES - 3));
        let Note::Good(id) = Note::read(&Note::Good(vec![7; UniqueId::BYTES]).write()) else { panic!("an id") };
        assert_eq!(id, vec![7; UniqueId::BYTES]);
    }
}
