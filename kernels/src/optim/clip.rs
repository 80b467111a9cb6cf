//! Gradient clipping. The global norm is a function of the summed gradient alone: squares in f64, by
//! fixed blocks of the flat run, blocks in order.

use crate::cpu::reduce::{SQUARES_BLOCK, squares};
use crate::error::{Error, Result};
use crate::pool::Pool;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds on the mean gradient of the global batch: first the norm, then each value.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClipConfig {
    /// Scales the gradient so that its L2 norm is at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_norm: Option<f64>,
    /// Bounds the magnitude of each element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value: Option<f64>,
}

impl ClipConfig {
    /// Refuses bounds that are not above 0.
    pub fn validate(&self) -> Result<()> {
        for (key, bound) in [("max_norm", self.max_norm), ("max_value", self.max_value)] {
            if let Some(bound) = bound
                && !(bound.is_finite() && bound > 0.0)
            {
                return Err(Error::value("clip", format!("a finite {key} above 0"), bound));
            }
        }
        Ok(())
    }

    /// The factor that brings a gradient of this norm within `max_norm`: max_norm / (norm + 1e-6), at most 1.
    pub fn coefficient(&self, norm: f64) -> f64 {
        self.max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0))
    }
}

/// The L2 norm of a flat gradient.
pub(crate) fn norm(gradient: &[f32], pool: &Pool, partial: &mut Vec<AtomicU64>) -> f64 {
    let blocks = gradient.len().div_ceil(SQUARES_BLOCK);
    partial.resize_with(blocks, AtomicU64::default);
    pool.parallel_for(blocks, 8, |_, range| {
        for block in range {
            let end = gradient.len().min((block + 1) * SQUARES_BLOCK);
            partial[block].store(squares(&gradient[block * SQUARES_BLOCK..end]).to_bits(), Ordering::Relaxed);
        }
    });
    partial.iter().map(|bits| f64::from_bits(bits.load(Ordering::Relaxed))).sum::<f64>().sqrt()
}
