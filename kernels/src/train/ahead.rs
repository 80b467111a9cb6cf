//! The batch that comes next, brought to the device beside what it computes: it is recorded on a tape of its own that never
//! runs, and goes up on a stream of its own to memory of its own, when the step before has been asked for and before that
//! step is waited for. Its own step then copies it within the device to where steps find their batches.
//!
//! A batch is known again by where it lies: it is shared, so nobody changes it or puts another in its place meanwhile.

use super::batch::{Batch, RankBatch};
use super::engine::{Recipe, geometry};
use crate::cuda::Machine;
use crate::cuda::machine::Memory;
use crate::error::Result;
use crate::ops::Randomness;
use crate::tape::{Layout, Tape, Workspace};
use std::ops::Range;
use std::sync::Arc;

/// See the module.
pub(super) struct Ahead {
    machine: Arc<dyn Machine>,
    ws: Workspace,
    memory: Memory,
    /// What comes next and has not gone up.
    next: Option<Next>,
    /// What lies on the device.
    there: Option<(Next, Layout)>,
}

/// A rank's part of a global batch, as [`RankBatch`].
pub(super) struct Next {
    pub batch: Arc<Batch>,
    pub global_rows: usize,
    pub held: Range<usize>,
}

impl Next {
    fn is(&self, part: &RankBatch<'_>) -> bool {
        let same = std::ptr::eq(Arc::as_ptr(&self.batch), part.batch);
        same && (self.global_rows, &self.held) == (part.global_rows, &part.held)
    }
}

impl Ahead {
    pub fn new(machine: Arc<dyn Machine>) -> Ahead {
        let (ws, memory) = (Workspace::on(machine.clone()), Memory::new(&machine));
        Ahead { machine, ws, memory, next: None, there: None }
    }

    /// What to bring beside the next step.
    pub fn expect(&mut self, next: Next) {
        self.next = Some(next);
    }

    /// Has the tape use what lies there, if it is this part. Whatever lies there is used up.
    pub fn hand_to(&mut self, tape: &mut Tape<'_>, part: &RankBatch<'_>) {
        if let Some((next, layout)) = self.there.take()
            && next.is(part)
        {
            tape.lies_ahead(self.memory.address(), layout);
        }
    }

    /// Brings what comes next. Where that does not work it goes up with its own step, which tells what is wrong.
    pub fn bring(&mut self, recipe: &Recipe<'_>) {
        let Some(next) = self.next.take() else { return };
        self.there = self.bring_part(recipe, &next).ok().map(|layout| (next, layout));
    }

    fn bring_part(&mut self, recipe: &Recipe<'_>, next: &Next) -> Result<Layout> {
        let part = RankBatch { batch: &next.batch, global_rows: next.global_rows, held: next.held.clone() };
        part.check(recipe.config.logical_shards)?;
        let bounds = geometry(&part, recipe.config.logical_shards).bounds;
        // Random numbers are addressed when it is its turn.
        let nowhere = Randomness { seed: 0, epoch: 0, step: 0 };
        let (mut tape, output) = recipe.record(&mut self.ws, &next.batch, &bounds, nowhere)?;
        let loss = recipe.loss(&next.batch);
        tape.plan_for(output, &loss)?;
        let freight = tape.freight(Some(&loss))?;
        self.memory.renew(freight.layout.bytes)?;
        self.machine.upload_aside(&freight.parts(), self.memory.address())?;
        Ok(freight.layout)
    }
}
