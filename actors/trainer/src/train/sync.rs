//! Ranks that meet agree on where training stands: whoever is furthest gives its state to those who lack it,
//! over the group, and every rank that was already there must hold the same bits.

use kernels::collective::Values;
use messages::WireError;
use messages::error::Code;

use crate::checkpoint::{Position, Snapshot, TrainState};
use crate::error::Error;
use crate::exchange::Group;

/// Why ranks did not agree.
pub enum SyncError {
    /// The group is over; they meet again.
    Exchange(Error),
    /// It would be the same again.
    Failed(WireError),
}

impl From<Error> for SyncError {
    fn from(error: Error) -> Self {
        Self::Exchange(error)
    }
}

/// Where a rank stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub position: Position,
    pub step: u64,
    /// BLAKE3 of parameters, optimizer state and counters.
    pub state: [u8; 32],
}

const BYTES: usize = 4 + 8 + 8 + 32;

impl Standing {
    fn write(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.position.epoch.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.position.batch.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.step.to_le_bytes());
        bytes[20..].copy_from_slice(&self.state);
    }

    fn read(bytes: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let epoch = u32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
        let state = std::array::from_fn(|i| bytes[20 + i]);
        Self { position: Position { epoch, batch: u64_at(4) }, step: u64_at(12), state }
    }

    fn order(&self) -> (u32, u64, u64) {
        (self.position.epoch, self.position.batch, self.step)
    }
}

/// Where all stand, by seat.
pub fn standings(group: &mut Group, own: Standing) -> Result<Vec<Standing>, SyncError> {
    let (world, seat) = (group.topology().world, group.topology().rank);
    let mut bytes = vec![0; world * BYTES];
    own.write(&mut bytes[seat * BYTES..][..BYTES]);
    group.all_gather(Values::Bytes(&mut bytes), (0..=world).map(|at| at * BYTES).collect())?;
    Ok(bytes.chunks_exact(BYTES).map(Standing::read).collect())
}

/// The first seat that is furthest, and whether all others are there too. Two that are there with other bits are
/// an error.
pub fn furthest(standings: &[Standing]) -> Result<(usize, bool), SyncError> {
    let most = standings.iter().map(Standing::order).max().unwrap_or_default();
    let mut there = standings.iter().enumerate().filter(|(_, standing)| standing.order() == most);
    let Some((source, first)) = there.next() else { return Ok((0, true)) };
    if let Some((other, _)) = there.clone().find(|(_, standing)| standing.state != first.state) {
        let message = format!(
            "seats {source} and {other} are at step {} with other bits: this must not be, and training on would hide it",
            first.step
        );
        return Err(SyncError::Failed(WireError::new(Code::TrainingError, message)));
    }
    Ok((source, there.count() + 1 == standings.len()))
}

/// The bytes of the seat `root` to all.
pub fn broadcast(group: &mut Group, bytes: Vec<u8>, root: usize) -> Result<Vec<u8>, SyncError> {
    let mut length = (bytes.len() as u64).to_le_bytes();
    group.broadcast(Values::Bytes(&mut length), root)?;
    let mut all = bytes;
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if group.topology().rank != root {
        all = vec![0; length];
    }
    group.broadcast(Values::Bytes(&mut all), root)?;
    Ok(all)
}

/// A snapshot as bytes: length and content of each part, the last one's presence by its length, and the BLAKE3 of
/// all before it.
pub fn pack(snapshot: &Snapshot) -> Result<Vec<u8>, WireError> {
    let internal = |e: serde_json::Error| WireError::new(Code::InternalError, format!("a state to send: {e}"));
    let state = serde_json::to_vec(&snapshot.state).map_err(internal)?;
    let none = Vec::new();
    let best = snapshot.best.as_deref().unwrap_or(&none);
    let mut bytes = Vec::with_capacity(state.len() + snapshot.optimizer.len() + best.len() + 56);
    for part in [&state, &snapshot.optimizer, best] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    Ok(bytes)
}

/// The snapshot of [`pack`]; its `model` is empty, because the optimizer's state has the parameters.
pub fn unpack(bytes: &[u8]) -> Result<Snapshot, WireError> {
    let damaged = |what: &str| WireError::new(Code::ArtifactCorrupt, format!("a state from another rank: {what}"));
    let (content, hash) = bytes.split_last_chunk::<32>().ok_or_else(|| damaged("it is cut"))?;
    if blake3::hash(content) != blake3::Hash::from_bytes(*hash) {
        return Err(damaged("its hash does not hold"));
    }
    let mut rest = content;
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (part, after) = after.split_at_checked(length)?;
        rest = after;
        Some(part.to_vec())
    };
    let (Some(state), Some(optimizer), Some(best)) = (part(), part(), part()) else {
        return Err(damaged("it is cut"));
    };
    let state: TrainState = serde_json::from_slice(&state).map_err(|e| damaged(&e.to_string()))?;
    let best = (!best.is_empty()).then(|| best.into());
    Ok(Snapshot { state, model: Vec::new(), optimizer, best })
}
