//! An optimizer's state and its step: one fused pass over parameters, gradient and moments, block by
//! block on the pool's threads. Blocks of a product's weight are packed anew while they are in the cache.

use super::config::OptimizerConfig;
use crate::buffer::AlignedBuf;
use crate::cpu::gemm::PANEL_COLUMNS;
use crate::cpu::update::{AdamStep, Scale, SgdStep, adam, sgd};
use crate::error::{Error, Result};
use crate::params::{Decay, ParamStore};
use crate::pool::Pool;
use std::ops::Range;

/// A block of one parameter.
#[derive(Clone, Debug)]
struct Block {
    param: usize,
    decayed: bool,
    range: Range<usize>,
}

/// Moments and step count beside a parameter store.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// Adam: first moments; SGD: momentum.
    first: AlignedBuf,
    /// Adam: second moments; SGD: empty.
    second: AlignedBuf,
    steps: u64,
    blocks: Vec<Block>,
}

/// Elements of a block, about.
const BLOCK: usize = 1 << 14;

impl Optimizer {
    /// Fresh state for these parameters.
    pub fn new(config: &OptimizerConfig, params: &ParamStore) -> Result<Optimizer> {
        config.validate()?;
        let flat = params.flat_len();
        let second = if matches!(config, OptimizerConfig::Sgd(_)) { 0 } else { flat };
        let mut blocks = Vec::new();
        for (param, (entry, _)) in params.iter().enumerate() {
            // Whole groups of 16 rows, so that a block's packed form is a run of whole panels.
            let row = entry.shape.get(1).copied().unwrap_or(1).max(1);
            let step = (BLOCK / row).max(1).next_multiple_of(PANEL_COLUMNS) * row;
            let decayed = entry.decay == Decay::Decayed;
            for start in entry.range.clone().step_by(step) {
                blocks.push(Block { param, decayed, range: start..(start + step).min(entry.range.end) });
            }
        }
        Ok(Optimizer {
            config: config.clone(),
            first: AlignedBuf::zeroed(flat)?,
            second: AlignedBuf::zeroed(second)?,
            steps: 0,
            blocks,
        })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moments in the layout of the parameter store: (first or momentum, second or empty).
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first, &self.second)
    }

    /// Replaces the state; lengths must be those of [`Optimizer::moments`].
    pub(crate) fn restore(&mut self, first: &[f32], second: &[f32], steps: u64) -> Result<()> {
        if first.len() != self.first.len() || second.len() != self.second.len() {
            let expected = format!("{} and {} moments", self.first.len(), self.second.len());
            return Err(Error::weights("optimizer state", expected, format!("{} and {}", first.len(), second.len())));
        }
        self.first.copy_from_slice(first);
        self.second.copy_from_slice(second);
        self.steps = steps;
        Ok(())
    }

    /// One step at `learning_rate` with the summed `gradient`, scaled by `factor` and then bounded by
    /// `max_value` per element.
    pub fn step(
        &mut self,
        params: &mut ParamStore,
        gradient: &[f32],
        factor: f64,
        max_value: Option<f64>,
        learning_rate: f64,
        pool: &Pool,
    ) {
        assert_eq!(gradient.len(), self.first.len(), "invariant: one layout");
        self.steps += 1;
        let scale = Scale { factor: factor as f32, max_value: max_value.map_or(f32::INFINITY, |v| v as f32) };
        let (first, second) = (self.first.shared(), self.second.shared());
        let (config, steps, blocks) = (&self.config, self.steps, &self.blocks);
        let adam_step = |decayed: bool| adam_step(config, steps, learning_rate, decayed);
        let sgd_step = |decayed: bool| sgd_step(config, learning_rate, decayed);
        let (adam_steps, sgd_steps) = ([adam_step(false), adam_step(true)], [sgd_step(false), sgd_step(true)]);
        let params = params.shared();
        pool.parallel_for(blocks.len(), 1, |_, tasks| {
            for block in &blocks[tasks] {
                let (range, g) = (block.range.clone(), &gradient[block.range.clone()]);
                // SAFETY: blocks are disjoint; each is touched by the one task that owns it.
                let (w, m) = unsafe { (params.values.get_mut(range.clone()), first.get_mut(range.clone())) };
                if let Some(step) = sgd_steps[usize::from(block.decayed)] {
                    sgd(w, g, m, scale, step);
                } else if let Some(step) = adam_steps[usize::from(block.decayed)] {
                    // SAFETY: as above.
                    adam(w, g, m, unsafe { second.get_mut(range.clone()) }, scale, step);
                }
                // SAFETY: as above; blocks begin at multiples of 16 rows of their parameter.
                unsafe { params.repack(block.param, range) };
            }
        });
    }
}

/// base^n by repeated squaring: the same sequence of products everywhere.
fn power(mut base: f64, mut n: u64) -> f64 {
    let mut result = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            result *= base;
        }
        base *= base;
        n >>= 1;
    }
    result
}

fn adam_step(config: &OptimizerConfig, steps: u64, rate: f64, decayed: bool) -> Option<AdamStep> {
    let (decay, b1, b2, epsilon, decoupled) = match config {
        OptimizerConfig::AdamW(c) => (c.weight_decay, c.beta1, c.beta2, c.epsilon, true),
        OptimizerConfig::Adam(c) => (c.weight_decay, c.beta1, c.beta2, c.epsilon, false),
        OptimizerConfig::Sgd(_) => return None,
    };
    let decay = if decayed { decay } else { 0.0 };
    Some(AdamStep {
        rate: (rate / (1.0 - power(b1, steps))) as f32,
        inverse_correction: (1.0 / (1.0 - power(b2, steps)).sqrt()) as f32,
        beta1: b1 as f32,
        beta2: b2 as f32,
        fresh1: (1.0 - b1) as f32,
        fresh2: (1.0 - b2) as f32,
        epsilon: epsilon as f32,
        shrink: if decoupled { (1.0 - rate * decay) as f32 } else { 1.0 },
        l2: if decoupled { 0.0 } else { decay as f32 },
    })
}

fn sgd_step(config: &OptimizerConfig, rate: f64, decayed: bool) -> Option<SgdStep> {
    let OptimizerConfig::Sgd(c) = config else { return None };
    let l2 = if decayed { c.weight_decay as f32 } else { 0.0 };
    Some(SgdStep { rate: rate as f32, momentum: c.momentum as f32, nesterov: if c.nesterov { 1.0 } else { 0.0 }, l2 })
}

#[cfg(test)]
mod tests {
    use super::super::config::{AdamConfig, AdamWConfig, SgdConfig};
    use super::*;
    use crate::params::{Layout, ParamBuilder, ParamId};

    fn one_step(config: OptimizerConfig, decay: Decay, gradient: f32) -> f32 {
        let mut builder = ParamBuilder::default();
        builder.add("w".into(), &[1], decay, Layout::Plain).expect("small");
        let mut params = builder.build().expect("small");
        params.set(ParamId(0), &[1.0]).expect("one value");
        let mut optimizer = Optimizer::new(&config, &params).expect("valid");
        let flat = vec![gradient; params.flat_len()];
        optimizer.step(&mut params, &flat, 1.0, None, config.learning_rate(), &Pool::new(1));
        params.values(ParamId(0))[0]
    }

    #[test]
    fn decay_is_decoupled_in_adamw_and_a_gradient_in_adam() {
        let adamw = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        assert!((one_step(adamw.clone(), Decay::Decayed, 0.0) - 0.95).abs() < 1e-6);
        assert_eq!(one_step(adamw, Decay::Exempt, 0.0), 1.0);
        let adam = OptimizerConfig::Adam(AdamConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        assert!((one_step(adam, Decay::Decayed, 0.0) - 0.9).abs() < 1e-6);
        let sgd = OptimizerConfig::Sgd(SgdConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        assert!((one_step(sgd, Decay::Decayed, 1.0) - 0.85).abs() < 1e-6);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_key() {
        let refused = |text: &str| {
            let config: OptimizerConfig = serde_json::from_str(text).expect("well-formed");
            config.validate().expect_err("out of range").to_string()
        };
        assert!(refused(r#"{"type":"adamw","learning_rate":-1}"#).contains("learning_rate"));
        assert!(refused(r#"{"type":"adam","beta2":1.0}"#).contains("beta2"));
        assert!(refused(r#"{"type":"sgd","momentum":1.5}"#).contains("momentum"));
        assert!(refused(r#"{"type":"adamw","weight_decay":-0.1}"#).contains("weight_decay"));
        assert!(serde_json::from_str::<OptimizerConfig>(r#"{"type":"adamw","beta3":1}"#).is_err());
    }

    #[test]
    fn powers() {
        assert_eq!((power(0.9, 0), power(2.0, 10)), (1.0, 1024.0));
        assert!((power(0.999, 12_345) / 0.999f64.powf(12_345.0) - 1.0).abs() < 1e-12);
    }
}
