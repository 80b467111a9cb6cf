//! The search for the operation that first gave a value which is not finite.

use super::{Tape, lock};
use crate::buffer::Shared;
use crate::error::MAX_NAMED_SAMPLES;
use crate::ops::loss::Loss;
use crate::ops::{GradStore, Slot, Var};
use crate::pool::Pool;

impl Tape<'_> {
    /// Runs forward and backward once more, one operation after the other, and names the first whose
    /// result is not finite, with the samples concerned.
    pub(crate) fn find_not_finite(&mut self, output: Var, loss: &Loss<'_>) -> Option<(String, Vec<u64>)> {
        let pool = Pool::new(1);
        self.ws.row_sums.resize(self.rows.count, [0.0; 2]);
        self.prepare(1);
        let (env, ws) = (self.env(), &*self.ws);
        let count = self.rows.count;
        let bad = |slot: &Slot, values: Shared<f32>| {
            let broken = |sample: &usize| {
                let rows = env.spaces[slot.space.0].range(&(*sample..sample + 1));
                // SAFETY: nothing else runs.
                let values = unsafe { values.get(rows.start * slot.columns..rows.end * slot.columns) };
                !values.iter().all(|v| v.is_finite())
            };
            let ids = (0..count).filter(broken).take(MAX_NAMED_SAMPLES).map(|s| self.rows.sample_ids[s]);
            let ids: Vec<u64> = ids.collect();
            (!ids.is_empty()).then_some(ids)
        };
        for (slot, _) in ws.slots.iter().zip(ws.values()).filter(|(_, value)| value.is_input) {
            if let Some(ids) = bad(slot, slot.data) {
                return Some(("input".into(), ids));
            }
        }
        for recorded in &ws.ops {
            if recorded.op.couples() {
                recorded.op.couple_forward(&env, &pool, &ws.scratch);
            }
            recorded.op.forward(&env, 0..count, &mut lock(&ws.scratch[0]));
            let slot = ws.slots[recorded.op.output().0];
            if let Some(ids) = bad(&slot, slot.data) {
                return Some((recorded.op.describe(self.params), ids));
            }
        }
        let slot = ws.slots[output.0];
        let mut sums = vec![[0.0; 2]; count];
        let span = 0..count * slot.columns;
        // SAFETY: nothing else runs.
        let (outputs, grad) = unsafe { (slot.data.get(span.clone()), slot.grad.get_mut(span)) };
        loss.rows(0..count, slot.columns, outputs, grad, &mut sums);
        let rows = (0..count).filter(|&r| !sums[r][0].is_finite());
        let ids: Vec<u64> = rows.take(MAX_NAMED_SAMPLES).map(|r| self.rows.sample_ids[r]).collect();
        if !ids.is_empty() {
            return Some((format!("loss {}", loss.config.name()), ids));
        }
        for recorded in ws.ops.iter().rev().filter(|r| r.live) {
            if recorded.op.couples() {
                recorded.op.couple_backward(&env, &pool, &ws.scratch);
            }
            recorded.op.backward(&env, 0..count, recorded.stores, &mut lock(&ws.scratch[0]));
            for (var, _) in
                recorded.op.inputs().into_iter().flatten().zip(recorded.stores).filter(|(_, s)| *s != GradStore::Skip)
            {
                let slot = ws.slots[var.0];
                if let Some(ids) = bad(&slot, slot.grad) {
                    return Some((format!("backward of {}", recorded.op.describe(self.params)), ids));
                }
            }
        }
        None
    }
}
