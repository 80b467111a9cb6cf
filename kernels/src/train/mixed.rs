//! Mixed precision: the rounding of the mean gradient with its loss scale, and the models that a trainer
//! holds beside the one it computes with. [`crate::dtype`] says where else is rounded.

use super::engine::Trainer;
use crate::cpu::reduce::SQUARES_BLOCK;
use crate::dtype::{Precision, round_gradient_bf16, round_gradient_f16};
use crate::error::Result;
use crate::nn::Model;
use std::sync::atomic::{AtomicBool, Ordering};

impl Trainer {
    /// Makes the accumulated sum the mean gradient of the training's precision, in place; `weight` is what
    /// the samples' weights sum to. False where it overflowed: then the scale is reduced and the step must
    /// be left out.
    pub(super) fn round_gradient(&mut self, weight: f64) -> Result<bool> {
        let scale = self.scaler.as_ref().map_or(1.0, |s| s.scale());
        let (factor, unscale) = ((f64::from(scale) / weight) as f32, (1.0 / f64::from(scale)) as f32);
        let (len, shared) = (self.pending.gradient.len(), self.pending.gradient.shared());
        let (precision, overflow) = (self.config.precision, AtomicBool::new(false));
        if let Some(device) = &mut self.device {
            overflow.store(device.round(len, precision, factor, unscale)?, Ordering::Relaxed);
        } else {
            self.pool.parallel_for(len.div_ceil(SQUARES_BLOCK), 4, |_, blocks| {
                // SAFETY: ranges are disjoint, each touched by the one task that owns it.
                let part = unsafe { shared.get_mut(blocks.start * SQUARES_BLOCK..len.min(blocks.end * SQUARES_BLOCK)) };
                if precision == Precision::Bf16 {
                    round_gradient_bf16(part, factor);
                } else if round_gradient_f16(part, factor, unscale) {
                    overflow.store(true, Ordering::Relaxed);
                }
            });
        }
        let overflow = overflow.into_inner();
        match &mut self.scaler {
            Some(scaler) if overflow => scaler.on_overflow(),
            Some(scaler) => scaler.on_step(),
            None => {}
        }
        Ok(!overflow)
    }

    /// Whether a gradient that is not finite may be the doing of the loss scale, which is then reduced: where a device
    /// computes with f16, gradients overflow before they are summed.
    pub(super) fn overflowed(&mut self) -> bool {
        let Some(scaler) = self.scaler.as_mut().filter(|scaler| self.device.is_some() && scaler.scale() > 1.0) else {
            return false;
        };
        scaler.on_overflow();
        true
    }

    /// The loss scale of the next step; none but with f16.
    pub fn loss_scale(&self) -> Option<f32> {
        self.scaler.as_ref().map(|s| s.scale())
    }

    /// The model with the average of its weights, where one is kept; rounded as the trained one is.
    ///
    /// # Errors
    /// Those of the device.
    pub fn averaged_model(&mut self) -> Result<Option<Model>> {
        if self.config.ema.is_none() {
            return Ok(None);
        }
        self.settle()?;
        Ok(Some(self.with_weights(self.optimizer.averages(), self.config.precision)))
    }

    /// The model with the f32 weights that steps are taken from: [`Trainer::model`] before it is rounded.
    ///
    /// # Errors
    /// Those of the device.
    pub fn master_model(&mut self) -> Result<Model> {
        self.settle()?;
        Ok(match self.optimizer.master() {
            [] => self.model.clone(),
            master => self.with_weights(master, Precision::F32),
        })
    }

    fn with_weights(&self, flat: &[f32], precision: Precision) -> Model {
        let mut model = self.model.clone();
        model.params_mut().set_flat(flat, precision);
        model
    }
}
