//! From a checkpoint back into a running training. The one that the coordinator names; where that is
//! damaged or gone, the furthest one on disk that is whole and of the same plan and data; else none.

use messages::event::Checkpoint;

use super::engine::Engine;
use super::selection::Selection;
use crate::checkpoint::{CheckpointStore, Refused, Snapshot, TrainState};
use crate::error::{Error, ErrorKind};

/// What training goes on from.
pub struct Found {
    pub snapshot: Option<Snapshot>,
    /// What was refused on the way.
    pub refused: Vec<Refused>,
}

/// What a checkpoint must be of.
pub struct Identity<'a> {
    pub plan_blake3: &'a str,
    pub dataset_blake3: &'a str,
}

impl Identity<'_> {
    fn check(&self, state: &TrainState) -> Result<(), Error> {
        let info = &state.extra_info;
        for (what, found, expected) in
            [("plan", &info.plan_blake3, self.plan_blake3), ("dataset", &info.dataset_blake3, self.dataset_blake3)]
        {
            if found != expected {
                let message = format!("a checkpoint of step {} is of {what} {found}, expected {expected}", state.step);
                return Err(Error::new(ErrorKind::Mismatch, message));
            }
        }
        Ok(())
    }
}

/// Looks for the checkpoint to go on from.
pub fn find(store: &CheckpointStore, named: Option<&Checkpoint>, identity: &Identity<'_>) -> Result<Found, Error> {
    let Some(named) = named else { return Ok(Found { snapshot: None, refused: Vec::new() }) };
    let loaded = store.load(&named.name, Some(&named.blake3)).and_then(|s| identity.check(&s.state).map(|()| s));
    let first = match loaded {
        Ok(snapshot) => return Ok(Found { snapshot: Some(snapshot), refused: Vec::new() }),
        Err(error) if matches!(error.kind(), ErrorKind::Storage | ErrorKind::StorageFull) => return Err(error),
        Err(error) => Refused { name: named.name.clone(), error },
    };
    let (snapshot, others) = store.newest(|state| identity.check(state))?;
    let mut refused = vec![first];
    refused.extend(others.into_iter().filter(|other| other.name != named.name));
    Ok(Found { snapshot, refused })
}

/// Puts the snapshot into engine and selection.
pub fn restore(snapshot: &Snapshot, engine: &mut Engine, selection: &mut Selection) -> Result<Option<String>, Error> {
    let state = &snapshot.state;
    let refuse = |message: String| Error::new(ErrorKind::Mismatch, message);
    engine.trainer_mut().load_state(&snapshot.optimizer).map_err(|e| refuse(e.to_string()))?;
    let params = kernels::weights::params_blake3(engine.trainer().model());
    if params != state.extra_info.params_blake3 || engine.trainer().global_step() != state.step {
        let found = format!("step {} with parameters {params}", engine.trainer().global_step());
        let expected = format!("step {} with parameters {}", state.step, state.extra_info.params_blake3);
        return Err(refuse(format!("checkpoint: optimizer.safetensors holds {found}, state.json says {expected}")));
    }
    Ok(selection.restore(&state.early_stopping, &state.best, state.best_model))
}
