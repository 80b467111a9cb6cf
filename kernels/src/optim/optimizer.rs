//! An optimizer's state and its step: one fused pass over parameters, gradient and moments, block by
//! block on the pool's threads (LAMB takes two, as its step needs the norms of whole tensors). While a
//! block is in the cache its weights are rounded to the training's precision, packed for products and
//! averaged. Blocks are cut by the parameters' shapes alone, so the bits do not depend on threads.

use super::config::{EmaConfig, OptimizerConfig, ParamGroup};
use crate::buffer::{AlignedBuf, Shared};
use crate::cpu::gemm::PANEL_COLUMNS;
use crate::cpu::update::{AdamStep, LambStep, Scale, SgdStep, adam, average, lamb_apply, lamb_moments, sgd};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::params::{Decay, ParamStore, SharedParams};
use crate::pool::Pool;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block of one parameter.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub param: usize,
    pub setting: usize,
    pub range: Range<usize>,
    /// A running average: no step is taken, nothing is rounded.
    pub statistic: bool,
}

/// How some parameters are treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting {
    multiplier: f64,
    decay: f64,
}

/// What an optimizer does beside its steps.
#[derive(Clone, Debug, Default)]
pub struct Extras<'a> {
    /// Parameters that are treated apart.
    pub groups: &'a [ParamGroup],
    /// An average of the weights.
    pub ema: Option<&'a EmaConfig>,
    /// What the weights are rounded to after each step.
    pub precision: Precision,
}

/// A step's gradient: the sum over a batch, and how it becomes the one that is applied.
#[derive(Clone, Copy, Debug)]
pub struct StepGradient<'a> {
    pub sum: &'a [f32],
    /// Each element is multiplied by this,
    pub factor: f64,
    /// and then bounded in magnitude by this.
    pub max_value: Option<f64>,
}

/// Moments and step count beside a parameter store.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    ema: Option<EmaConfig>,
    pub(super) precision: Precision,
    /// Adam, LAMB: first moments; SGD: momentum.
    pub(super) first: AlignedBuf,
    /// Adam, LAMB: second moments; SGD: empty.
    pub(super) second: AlignedBuf,
    /// The weights in f32, where the store's are rounded; else empty.
    pub(super) master: AlignedBuf,
    /// Averages of the weights, if wanted; else empty.
    pub(super) averages: AlignedBuf,
    pub(super) steps: u64,
    pub(super) blocks: Vec<Block>,
    pub(super) settings: Vec<Setting>,
    /// Per setting, for the step at hand.
    pub(super) rules: Vec<Rule>,
    /// LAMB: per block the sums of squares of weights and direction, then per parameter the trust ratio.
    pub(super) squares: Vec<[AtomicU64; 2]>,
    pub(super) trust: Vec<f32>,
    /// A device has a newer state.
    pub(super) stale: bool,
}

/// The numbers of a step for one setting.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Adam(AdamStep),
    Sgd(SgdStep),
    Lamb { step: LambStep, rate: f32 },
}

/// Elements of a block, about.
const BLOCK: usize = 1 << 14;

impl Optimizer {
    /// Fresh state for these parameters. `Value` errors name what is out of range, and a group that fits none.
    /// Where the precision asks for it the store's weights are rounded.
    pub fn new(config: &OptimizerConfig, extras: &Extras<'_>, params: &mut ParamStore) -> Result<Optimizer> {
        config.validate()?;
        extras.ema.map_or(Ok(()), EmaConfig::validate)?;
        let chosen = choose(config, extras.groups, params)?;
        let flat = params.flat_len();
        let size = |wanted: bool| if wanted { flat } else { 0 };
        let mut settings: Vec<Setting> = Vec::new();
        let mut blocks = Vec::new();
        for (param, ((entry, _), setting)) in params.iter().zip(chosen).enumerate() {
            let known = settings.iter().position(|s| *s == setting);
            let setting = known.unwrap_or_else(|| {
                settings.push(setting);
                settings.len() - 1
            });
            // Whole groups of 16 rows, so that a block's packed form is a run of whole panels.
            let row = entry.shape.iter().skip(1).product::<usize>().max(1);
            let step = (BLOCK / row).max(1).next_multiple_of(PANEL_COLUMNS) * row;
            for start in entry.range.clone().step_by(step) {
                let range = start..(start + step).min(entry.range.end);
                blocks.push(Block { param, setting, range, statistic: entry.is_statistic() });
            }
        }
        let lamb = matches!(config, OptimizerConfig::Lamb(_));
        let mut optimizer = Optimizer {
            config: config.clone(),
            ema: extras.ema.cloned(),
            precision: extras.precision,
            first: AlignedBuf::zeroed(flat)?,
            second: AlignedBuf::zeroed(size(!matches!(config, OptimizerConfig::Sgd(_))))?,
            master: AlignedBuf::zeroed(size(extras.precision != Precision::F32))?,
            averages: AlignedBuf::zeroed(size(extras.ema.is_some()))?,
            steps: 0,
            stale: false,
            rules: Vec::with_capacity(settings.len()),
            settings,
            squares: if lamb { blocks.iter().map(|_| Default::default()).collect() } else { Vec::new() },
            trust: if lamb { vec![1.0; params.len()] } else { Vec::new() },
            blocks,
        };
        if extras.ema.is_some() {
            optimizer.averages.copy_from_slice(params.flat());
        }
        if extras.precision != Precision::F32 {
            optimizer.master.copy_from_slice(params.flat());
            params.set_flat(&optimizer.master, extras.precision);
        }
        Ok(optimizer)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moments in the layout of the parameter store: (first or momentum, second or empty).
    pub fn moments(&self) -> (&[f32], &[f32]) {
        self.assert_here();
        (&self.first, &self.second)
    }

    /// The f32 weights in the layout of the parameter store; empty where the store's own are f32.
    pub fn master(&self) -> &[f32] {
        self.assert_here();
        &self.master
    }

    /// The averages of the weights in the layout of the parameter store; empty where none are kept.
    pub fn averages(&self) -> &[f32] {
        self.assert_here();
        &self.averages
    }

    fn assert_here(&self) {
        assert!(!self.stale, "invariant: a training's state is brought to the host before it is looked at");
    }

    pub(super) fn is_lamb(&self) -> bool {
        matches!(self.config, OptimizerConfig::Lamb(_))
    }

    /// How far an average moves towards the weights at this step.
    pub(super) fn fresh_share(&self, step: u64) -> f32 {
        self.ema.as_ref().map_or(0.0, |ema| 1.0 - ema.decay_at(step) as f32)
    }

    /// The numbers of a step.
    pub(super) fn set_rules(&mut self, step: u64, learning_rate: f64) {
        self.rules.clear();
        self.rules.extend(self.settings.iter().map(|s| rule(&self.config, step, learning_rate, *s)));
    }

    /// Replaces the state; lengths must be those of what is kept.
    pub(crate) fn restore(&mut self, saved: &Saved) -> Result<()> {
        let lengths = |s: [&[f32]; 4]| s.map(<[f32]>::len);
        let (has, got) = (
            lengths([&self.first, &self.second, &self.master, &self.averages]),
            lengths([&saved.first, &saved.second, &saved.master, &saved.averages]),
        );
        if has != got {
            return Err(Error::weights("optimizer state", format!("runs of {has:?}"), format!("{got:?}")));
        }
        self.first.copy_from_slice(&saved.first);
        self.second.copy_from_slice(&saved.second);
        self.master.copy_from_slice(&saved.master);
        self.averages.copy_from_slice(&saved.averages);
        self.steps = saved.steps;
        self.stale = false;
        Ok(())
    }

    /// Takes over running averages that the store has moved, so that the f32 weights have them too.
    pub(crate) fn follow_statistics(&mut self, params: &ParamStore) {
        if !self.master.is_empty() {
            params.copy_statistics(&mut self.master);
        }
    }

    /// One step at `learning_rate`.
    pub fn step(&mut self, params: &mut ParamStore, gradient: StepGradient<'_>, learning_rate: f64, pool: &Pool) {
        assert_eq!(gradient.sum.len(), self.first.len(), "invariant: one layout");
        self.steps += 1;
        self.set_rules(self.steps, learning_rate);
        let decay = self.ema.as_ref().map(|ema| ema.decay_at(self.steps) as f32);
        let pass = Pass {
            scale: Scale {
                factor: gradient.factor as f32,
                max_value: gradient.max_value.map_or(f32::INFINITY, |v| v as f32),
            },
            gradient: gradient.sum,
            params: params.shared(),
            first: self.first.shared(),
            second: self.second.shared(),
            master: (!self.master.is_empty()).then(|| self.master.shared()),
            averages: decay.map(|decay| (self.averages.shared(), decay)),
            precision: self.precision,
        };
        let (blocks, rules) = (&self.blocks, &self.rules);
        if self.is_lamb() {
            let squares = &self.squares;
            pool.parallel_for(blocks.len(), 1, |_, tasks| {
                for n in tasks {
                    let sums = pass.moments(&blocks[n], rules[blocks[n].setting]);
                    sums.iter().zip(&squares[n]).for_each(|(s, slot)| slot.store(s.to_bits(), Ordering::Relaxed));
                }
            });
            trust_ratios(blocks, &self.settings, squares, &mut self.trust);
        }
        let trust = &self.trust;
        pool.parallel_for(blocks.len(), 1, |_, tasks| {
            for block in &blocks[tasks] {
                pass.update(block, rules[block.setting], trust.get(block.param).copied().unwrap_or(1.0));
            }
        });
    }
}

/// A saved state, as it is read.
pub(crate) struct Saved {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    pub master: Vec<f32>,
    pub averages: Vec<f32>,
    pub steps: u64,
}

/// One pass over the blocks: what every task sees.
struct Pass<'a> {
    scale: Scale,
    gradient: &'a [f32],
    params: SharedParams<'a>,
    first: Shared<f32>,
    second: Shared<f32>,
    master: Option<Shared<f32>>,
    averages: Option<(Shared<f32>, f32)>,
    precision: Precision,
}

impl Pass<'_> {
    /// The weights that steps are taken from.
    fn weights(&self) -> Shared<f32> {
        self.master.unwrap_or(self.params.values)
    }

    /// LAMB's first pass over a block.
    fn moments(&self, block: &Block, rule: Rule) -> [f64; 2] {
        let Rule::Lamb { step, .. } = rule else { return [0.0; 2] };
        let range = block.range.clone();
        // SAFETY: blocks are disjoint; each is touched by the one task that owns it.
        let (w, m, v) = unsafe {
            (self.weights().get(range.clone()), self.first.get_mut(range.clone()), self.second.get_mut(range.clone()))
        };
        lamb_moments(w, &self.gradient[range], m, v, self.scale, step)
    }

    /// The weights' step, then what follows from the new weights.
    fn update(&self, block: &Block, rule: Rule, trust: f32) {
        let (range, g) = (block.range.clone(), &self.gradient[block.range.clone()]);
        if block.statistic {
            if let Some((averages, decay)) = self.averages {
                // SAFETY: blocks are disjoint; each is touched by the one task that owns it.
                average(unsafe { averages.get_mut(range.clone()) }, unsafe { self.params.values.get(range) }, decay);
            }
            return;
        }
        // SAFETY: blocks are disjoint; each is touched by the one task that owns it.
        let (w, m) = unsafe { (self.weights().get_mut(range.clone()), self.first.get_mut(range.clone())) };
        // SAFETY: as above. SGD keeps no second moments.
        let second = || unsafe { self.second.get_mut(range.clone()) };
        match rule {
            Rule::Sgd(step) => sgd(w, g, m, self.scale, step),
            Rule::Adam(step) => adam(w, g, m, second(), self.scale, step),
            Rule::Lamb { step, rate } => lamb_apply(w, m, second(), rate * trust, step),
        }
        if let Some((averages, decay)) = self.averages {
            // SAFETY: as above.
            average(unsafe { averages.get_mut(range.clone()) }, w, decay);
        }
        if self.master.is_some() {
            // SAFETY: as above; the master weights are another buffer.
            self.precision.round_to(w, unsafe { self.params.values.get_mut(range.clone()) });
        }
        // SAFETY: as above; blocks begin at multiples of 16 rows of their parameter.
        unsafe { self.params.repack(block.param, range) };
    }
}

/// The setting of each parameter.
fn choose(config: &OptimizerConfig, groups: &[ParamGroup], params: &ParamStore) -> Result<Vec<Setting>> {
    for group in groups {
        group.validate()?;
        if !params.iter().any(|(param, _)| group.fits(&param.name)) {
            let names: Vec<&str> = params.iter().take(4).map(|(param, _)| param.name.as_str()).collect();
            let expected = format!("a pattern that fits a parameter (they are named {}, …)", names.join(", "));
            return Err(Error::value("parameter groups", expected, format!("`{}`", group.pattern)));
        }
    }
    let of = |name: &str, decay: Decay| {
        let group = groups.iter().find(|g| g.fits(name));
        let usual = if decay == Decay::Decayed { config.weight_decay() } else { 0.0 };
        Setting {
            multiplier: group.map_or(1.0, |g| g.learning_rate_multiplier),
            decay: group.and_then(|g| g.weight_decay).unwrap_or(usual),
        }
    };
    Ok(params.iter().map(|(param, _)| of(&param.name, param.decay)).collect())
}

/// Norm of the weights over norm of the direction per parameter, blocks in order; 1 where either is 0 or
/// the parameter has no decay.
pub(super) fn trust_ratios(blocks: &[Block], settings: &[Setting], squares: &[[AtomicU64; 2]], trust: &mut [f32]) {
    let mut at = 0;
    while at < blocks.len() {
        let (param, setting) = (blocks[at].param, blocks[at].setting);
        let mut sums = [0.0f64; 2];
        while at < blocks.len() && blocks[at].param == param {
            for (sum, bits) in sums.iter_mut().zip(&squares[at]) {
                *sum += f64::from_bits(bits.load(Ordering::Relaxed));
            }
            at += 1;
        }
        let [weights, direction] = sums.map(f64::sqrt);
        let adapts = settings[setting].decay > 0.0 && weights > 0.0 && direction > 0.0;
        trust[param] = if adapts { (weights / direction) as f32 } else { 1.0 };
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

fn rule(config: &OptimizerConfig, steps: u64, learning_rate: f64, setting: Setting) -> Rule {
    let (rate, decay) = (learning_rate * setting.multiplier, setting.decay);
    let adam = |b1: f64, b2: f64, epsilon: f64, shrink: f64, l2: f64| {
        Rule::Adam(AdamStep {
            rate: (rate / (1.0 - power(b1, steps))) as f32,
            inverse_correction: (1.0 / (1.0 - power(b2, steps)).sqrt()) as f32,
            beta1: b1 as f32,
            beta2: b2 as f32,
            fresh1: (1.0 - b1) as f32,
            fresh2: (1.0 - b2) as f32,
            epsilon: epsilon as f32,
            shrink: shrink as f32,
            l2: l2 as f32,
        })
    };
    match config {
        OptimizerConfig::AdamW(c) => adam(c.beta1, c.beta2, c.epsilon, 1.0 - rate * decay, 0.0),
        OptimizerConfig::Adam(c) => adam(c.beta1, c.beta2, c.epsilon, 1.0, decay),
        OptimizerConfig::Sgd(c) => Rule::Sgd(SgdStep {
            rate: rate as f32,
            momentum: c.momentum as f32,
            nesterov: if c.nesterov { 1.0 } else { 0.0 },
            l2: decay as f32,
        }),
        OptimizerConfig::Lamb(c) => Rule::Lamb {
            rate: rate as f32,
            step: LambStep {
                first_correction: (1.0 / (1.0 - power(c.beta1, steps))) as f32,
                inverse_correction: (1.0 / (1.0 - power(c.beta2, steps)).sqrt()) as f32,
                beta1: c.beta1 as f32,
                beta2: c.beta2 as f32,
                fresh1: (1.0 - c.beta1) as f32,
                fresh2: (1.0 - c.beta2) as f32,
                epsilon: c.epsilon as f32,
                decay: decay as f32,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{AdamConfig, AdamWConfig, LambConfig, SgdConfig};
    use super::*;
    use crate::params::{Layout, ParamBuilder, ParamId};

    fn store(names: &[(&str, Decay)]) -> ParamStore {
        let mut builder = ParamBuilder::default();
        for (name, decay) in names {
            builder.add((*name).into(), &[1], *decay, Layout::Plain).expect("small");
        }
        let mut params = builder.build().expect("small");
        (0..names.len()).for_each(|i| params.set(ParamId(i), &[1.0]).expect("one value"));
        params
    }

    fn step(config: &OptimizerConfig, extras: &Extras<'_>, params: &mut ParamStore, gradient: f32) -> Optimizer {
        let mut optimizer = Optimizer::new(config, extras, params).expect("valid");
        let sum = vec![gradient; params.flat_len()];
        let gradient = StepGradient { sum: &sum, factor: 1.0, max_value: None };
        optimizer.step(params, gradient, config.learning_rate(), &Pool::new(1));
        optimizer
    }

    fn one_step(config: &OptimizerConfig, decay: Decay, gradient: f32) -> f32 {
        let mut params = store(&[("w", decay)]);
        step(config, &Extras::default(), &mut params, gradient);
        params.values(ParamId(0))[0]
    }

    #[test]
    fn decay_is_decoupled_in_adamw_and_a_gradient_in_adam() {
        let adamw = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        assert!((one_step(&adamw, Decay::Decayed, 0.0) - 0.95).abs() < 1e-6);
        assert_eq!(one_step(&adamw, Decay::Exempt, 0.0), 1.0);
        let adam = OptimizerConfig::Adam(AdamConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        assert!((one_step(&adam, Decay::Decayed, 0.0) - 0.9).abs() < 1e-6);
        let sgd = OptimizerConfig::Sgd(SgdConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        assert!((one_step(&sgd, Decay::Decayed, 1.0) - 0.85).abs() < 1e-6);
    }

    #[test]
    fn lamb_scales_by_the_norm_of_the_weights_where_there_is_decay() {
        let lamb = OptimizerConfig::Lamb(LambConfig { learning_rate: 0.1, ..Default::default() });
        // A weight of 1 and a direction of 1.01: the step is 0.1 * (1 / 1.01) * 1.01.
        assert!((one_step(&lamb, Decay::Decayed, 3.0) - 0.9).abs() < 1e-5);
        assert!((one_step(&lamb, Decay::Exempt, 3.0) - 0.9).abs() < 1e-5);
        assert_eq!(one_step(&lamb, Decay::Exempt, 0.0), 1.0);
    }

    #[test]
    fn groups_have_their_own_rate_and_decay() {
        let config = OptimizerConfig::Sgd(SgdConfig { learning_rate: 0.1, weight_decay: 0.5, ..Default::default() });
        let group = |pattern: &str, learning_rate_multiplier, weight_decay| ParamGroup {
            pattern: pattern.into(),
            learning_rate_multiplier,
            weight_decay,
        };
        let groups = [group("encoder.a", 2.0, None), group("encoder.*", 0.0, None), group("head.bias", 1.0, Some(1.0))];
        let names = [
            ("encoder.a", Decay::Decayed),
            ("encoder.b", Decay::Decayed),
            ("head.weight", Decay::Decayed),
            ("head.bias", Decay::Exempt),
        ];
        let mut params = store(&names);
        step(&config, &Extras { groups: &groups, ..Default::default() }, &mut params, 1.0);
        let after: Vec<f32> = params.iter().map(|(_, v)| v[0]).collect();
        for (got, want) in after.iter().zip([1.0 - 0.2 * 1.5, 1.0, 1.0 - 0.1 * 1.5, 1.0 - 0.1 * 2.0]) {
            assert!((got - want).abs() < 1e-6, "{after:?}");
        }
        let refused = |group: ParamGroup| {
            let extras = Extras { groups: &[group], ..Default::default() };
            Optimizer::new(&config, &extras, &mut store(&names)).expect_err("refused").to_string()
        };
        let error = refused(group("enocder.*", 1.0, None));
        assert!(error.contains("enocder") && error.contains("encoder.a"), "{error}");
        assert!(refused(group("head.*", -1.0, None)).contains("learning_rate_multiplier"));
        assert!(refused(group("head.*", 1.0, Some(f64::NAN))).contains("weight_decay"));
    }

    #[test]
    fn averages_follow_and_master_weights_keep_what_rounding_loses() {
        let config = OptimizerConfig::Sgd(SgdConfig { learning_rate: 1e-4, ..Default::default() });
        let ema = EmaConfig { decay: 0.75, warmup: false };
        let extras = Extras { ema: Some(&ema), precision: Precision::Bf16, ..Default::default() };
        let mut params = store(&[("w", Decay::Decayed)]);
        let optimizer = step(&config, &extras, &mut params, 1.0);
        assert_eq!(params.values(ParamId(0)), [1.0], "bf16 has no 0.9999");
        assert!((optimizer.master()[0] - 0.9999).abs() < 1e-7);
        assert!((optimizer.averages()[0] - (0.75 + 0.25 * 0.9999)).abs() < 1e-7);
        let warming = EmaConfig { decay: 0.9, warmup: true };
        assert_eq!((warming.decay_at(1), warming.decay_at(1000)), (2.0 / 11.0, 0.9));
        assert!(EmaConfig { decay: 1.0, warmup: false }.validate().is_err());
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
        assert!(refused(r#"{"type":"lamb","eps":0}"#).contains("epsilon"));
        assert!(serde_json::from_str::<OptimizerConfig>(r#"{"type":"adamw","beta3":1}"#).is_err());
    }

    #[test]
    fn powers() {
        assert_eq!((power(0.9, 0), power(2.0, 10)), (1.0, 1024.0));
        assert!((power(0.999, 12_345) / 0.999f64.powf(12_345.0) - 1.0).abs() < 1e-12);
    }
}
