//! Learning-rate schedules. A rate is a function of the base rate, the optimizer steps taken and the
//! epochs finished (and for `reduce_on_plateau` of the metrics seen), so a resume needs only those.

use crate::cpu::math::cos_sin_turns;
use crate::error::{Error, Result};

/// Whether less or more of a metric is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Min,
    Max,
}

/// Which schedule; the tag `type` tells. Lengths are in epochs where they say so, else in optimizer steps.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SchedulerConfig {
    /// The base rate throughout.
    #[default]
    #[serde(alias = "none")]
    Constant,
    /// eta_min + (base - eta_min) (1 + cos(pi epoch / T_max)) / 2; rises again after T_max epochs
    /// (Loshchilov and Hutter 2017, without restarts).
    CosineAnnealing {
        #[serde(rename = "T_max", alias = "t_max")]
        t_max: u64,
        #[serde(default)]
        eta_min: f64,
    },
    /// From start_factor * base up to base over warmup_steps, then constant.
    LinearWarmup {
        warmup_steps: u64,
        #[serde(default)]
        start_factor: f64,
    },
    /// Times gamma after every step_size epochs.
    #[serde(alias = "step_lr")]
    Step {
        step_size: u64,
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// Smith and Topin (2019), cosine form: from max_lr / div_factor up to max_lr for pct_start of the steps,
    /// then down to that beginning / final_div_factor. max_lr defaults to the base rate.
    OneCycle {
        total_steps: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_lr: Option<f64>,
        #[serde(default = "three_tenths")]
        pct_start: f64,
        #[serde(default = "twenty_five")]
        div_factor: f64,
        #[serde(default = "ten_thousand")]
        final_div_factor: f64,
    },
    /// Times factor once the metric has not improved by threshold (relative) for more than patience epochs;
    /// a change of at most 1e-8 is not made, as PyTorch has it.
    ReduceOnPlateau {
        #[serde(default = "tenth")]
        factor: f64,
        #[serde(default = "ten")]
        patience: u64,
        #[serde(default = "ten_thousandth")]
        threshold: f64,
        #[serde(default)]
        cooldown: u64,
        #[serde(default)]
        min_lr: f64,
        #[serde(default)]
        mode: Direction,
    },
    /// Linear from 0 over warmup_steps, then a half cosine to eta_min at total_steps.
    #[serde(alias = "cosine_with_warmup")]
    WarmupCosine {
        warmup_steps: u64,
        total_steps: u64,
        #[serde(default)]
        eta_min: f64,
    },
}

fn tenth() -> f64 {
    0.1
}
fn three_tenths() -> f64 {
    0.3
}
fn twenty_five() -> f64 {
    25.0
}
fn ten_thousand() -> f64 {
    1e4
}
fn ten_thousandth() -> f64 {
    1e-4
}
fn ten() -> u64 {
    10
}

impl SchedulerConfig {
    /// Refuses values out of range, naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |expected: &str, got: f64| Err(Error::value("scheduler", expected, got));
        let rate = |v: f64| v.is_finite() && v >= 0.0;
        match *self {
            SchedulerConfig::CosineAnnealing { t_max: 0, .. } => refuse("T_max of at least 1 epoch", 0.0),
            SchedulerConfig::CosineAnnealing { eta_min, .. } | SchedulerConfig::WarmupCosine { eta_min, .. }
                if !rate(eta_min) =>
            {
                refuse("a finite eta_min of at least 0", eta_min)
            }
            SchedulerConfig::LinearWarmup { start_factor, .. } if !(0.0..=1.0).contains(&start_factor) => {
                refuse("start_factor in [0, 1]", start_factor)
            }
            SchedulerConfig::Step { step_size: 0, .. } => refuse("step_size of at least 1 epoch", 0.0),
            SchedulerConfig::Step { gamma, .. } if !(gamma.is_finite() && gamma > 0.0) => {
                refuse("a finite gamma above 0", gamma)
            }
            SchedulerConfig::OneCycle { total_steps, .. } if total_steps < 2 => {
                refuse("total_steps of at least 2", total_steps as f64)
            }
            SchedulerConfig::OneCycle { pct_start, .. } if !(0.0..=1.0).contains(&pct_start) => {
                refuse("pct_start in [0, 1]", pct_start)
            }
            SchedulerConfig::OneCycle { div_factor, final_div_factor, .. }
                if !(div_factor >= 1.0 && final_div_factor >= 1.0) =>
            {
                refuse("div_factor and final_div_factor of at least 1", div_factor.min(final_div_factor))
            }
            SchedulerConfig::OneCycle { max_lr: Some(max), .. } if !rate(max) => {
                refuse("a finite max_lr of at least 0", max)
            }
            SchedulerConfig::ReduceOnPlateau { factor, .. } if !(0.0..1.0).contains(&factor) => {
                refuse("factor in [0, 1)", factor)
            }
            SchedulerConfig::ReduceOnPlateau { threshold, .. } if !rate(threshold) => {
                refuse("a finite threshold of at least 0", threshold)
            }
            SchedulerConfig::ReduceOnPlateau { min_lr, .. } if !rate(min_lr) => {
                refuse("a finite min_lr of at least 0", min_lr)
            }
            SchedulerConfig::WarmupCosine { warmup_steps, total_steps, .. } if total_steps <= warmup_steps => {
                refuse("total_steps above warmup_steps", total_steps as f64)
            }
            _ => Ok(()),
        }
    }
}

/// A schedule under way. Numbers are kept as bits so that a saved state is exact.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ScheduleState {
    pub steps: u64,
    pub epochs: u64,
    pub plateau_rate_bits: u64,
    pub plateau_best_bits: Option<u64>,
    pub plateau_bad: u64,
    pub plateau_cooldown: u64,
}

/// Below this a reduction on a plateau is not made: the `eps` of PyTorch's `ReduceLROnPlateau`.
const LEAST_CHANGE: f64 = 1e-8;

/// The learning rate of each step.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: SchedulerConfig,
    base: f64,
    state: ScheduleState,
}

fn half_cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * (1.0 + cos_sin_turns(share / 2.0).0) / 2.0
}

impl Schedule {
    /// Before the first step, from the optimizer's learning rate.
    pub fn new(config: &SchedulerConfig, base: f64) -> Result<Schedule> {
        config.validate()?;
        let state = ScheduleState {
            steps: 0,
            epochs: 0,
            plateau_rate_bits: base.to_bits(),
            plateau_best_bits: None,
            plateau_bad: 0,
            plateau_cooldown: 0,
        };
        Ok(Schedule { config: config.clone(), base, state })
    }

    /// The rate of the next optimizer step.
    pub fn learning_rate(&self) -> f64 {
        let (base, steps, epochs) = (self.base, self.state.steps, self.state.epochs);
        match self.config {
            SchedulerConfig::Constant => base,
            SchedulerConfig::CosineAnnealing { t_max, eta_min } => {
                half_cosine(base, eta_min, (epochs % (2 * t_max)) as f64 / t_max as f64)
            }
            SchedulerConfig::LinearWarmup { warmup_steps, start_factor } => {
                let share = if steps >= warmup_steps { 1.0 } else { steps as f64 / warmup_steps as f64 };
                base * (start_factor + (1.0 - start_factor) * share)
            }
            SchedulerConfig::Step { step_size, gamma } => {
                (0..epochs / step_size).take(10_000).fold(base, |rate, _| rate * gamma)
            }
            SchedulerConfig::OneCycle { total_steps, max_lr, pct_start, div_factor, final_div_factor } => {
                let top = max_lr.unwrap_or(base);
                let first = top / div_factor;
                let (rise, end) = (pct_start * total_steps as f64 - 1.0, total_steps as f64 - 1.0);
                let at = (steps as f64).min(end);
                if at <= rise && rise > 0.0 {
                    half_cosine(first, top, at / rise)
                } else {
                    let rise = rise.max(0.0);
                    half_cosine(
                        top,
                        first / final_div_factor,
                        if end > rise { (at - rise) / (end - rise) } else { 1.0 },
                    )
                }
            }
            SchedulerConfig::ReduceOnPlateau { .. } => f64::from_bits(self.state.plateau_rate_bits),
            SchedulerConfig::WarmupCosine { warmup_steps, total_steps, eta_min } => {
                if steps < warmup_steps {
                    return base * steps as f64 / warmup_steps as f64;
                }
                let share = (steps - warmup_steps) as f64 / (total_steps - warmup_steps) as f64;
                half_cosine(base, eta_min, share.min(1.0))
            }
        }
    }

    /// An optimizer step was taken.
    pub fn on_step(&mut self) {
        self.state.steps += 1;
    }

    /// An epoch ended; `metric` is what `reduce_on_plateau` watches, which it cannot do without.
    pub fn on_epoch(&mut self, metric: Option<f64>) -> Result<()> {
        self.state.epochs += 1;
        let SchedulerConfig::ReduceOnPlateau { factor, patience, threshold, cooldown, min_lr, mode } = self.config
        else {
            return Ok(());
        };
        let Some(metric) = metric else {
            return Err(Error::value("scheduler", "a metric at the end of each epoch for reduce_on_plateau", "none"));
        };
        let state = &mut self.state;
        let better = match (state.plateau_best_bits.map(f64::from_bits), mode) {
            (None, Direction::Min) => metric < f64::INFINITY,
            (None, Direction::Max) => metric > f64::NEG_INFINITY,
            (Some(best), Direction::Min) => metric < best * (1.0 - threshold),
            (Some(best), Direction::Max) => metric > best * (1.0 + threshold),
        };
        if better {
            state.plateau_best_bits = Some(metric.to_bits());
            state.plateau_bad = 0;
        } else {
            state.plateau_bad += 1;
        }
        if state.plateau_cooldown > 0 {
            state.plateau_cooldown -= 1;
            state.plateau_bad = 0;
        }
        if state.plateau_bad > patience {
            let rate = f64::from_bits(state.plateau_rate_bits);
            let reduced = (rate * factor).max(min_lr);
            if rate - reduced > LEAST_CHANGE {
                state.plateau_rate_bits = reduced.to_bits();
            }
            state.plateau_cooldown = cooldown;
            state.plateau_bad = 0;
        }
        Ok(())
    }

    /// For a checkpoint.
    pub fn state(&self) -> &ScheduleState {
        &self.state
    }

    /// From a checkpoint.
    pub fn restore(&mut self, state: ScheduleState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SchedulerConfig {
        serde_json::from_str(text).expect("well-formed")
    }

    fn by_epoch(text: &str, epochs: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(&parse(text), 0.1).expect("valid");
        (0..epochs)
            .map(|_| {
                let rate = schedule.learning_rate();
                schedule.on_epoch(None).expect("no metric needed");
                rate
            })
            .collect()
    }

    fn by_step(text: &str, steps: usize) -> Vec<f64> {
        let mut schedule = Schedule::new(&parse(text), 0.1).expect("valid");
        (0..steps)
            .map(|_| {
                let rate = schedule.learning_rate();
                schedule.on_step();
                rate
            })
            .collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?} {want:?}");
    }

    #[test]
    fn cosine_follows_t_max_and_rises_again() {
        let rates = by_epoch(r#"{"type":"cosine_annealing","T_max":4,"eta_min":0.02}"#, 9);
        close(&rates[..5], &[0.1, 0.06 + 0.04 * 0.5f64.sqrt(), 0.06, 0.06 - 0.04 * 0.5f64.sqrt(), 0.02]);
        close(&rates[5..], &[rates[3], rates[2], rates[1], rates[0]]);
    }

    #[test]
    fn warm_ups_and_steps() {
        close(
            &by_step(r#"{"type":"linear_warmup","warmup_steps":4,"start_factor":0.2}"#, 6),
            &[0.02, 0.04, 0.06, 0.08, 0.1, 0.1],
        );
        close(&by_step(r#"{"type":"linear_warmup","warmup_steps":0}"#, 2), &[0.1, 0.1]);
        close(&by_epoch(r#"{"type":"step","step_size":2}"#, 5), &[0.1, 0.1, 0.01, 0.01, 0.001]);
        let rates = by_step(r#"{"type":"warmup_cosine","warmup_steps":2,"total_steps":6,"eta_min":0.02}"#, 8);
        close(&rates, &[0.0, 0.05, 0.1, 0.06 + 0.04 * 0.5f64.sqrt(), 0.06, 0.06 - 0.04 * 0.5f64.sqrt(), 0.02, 0.02]);
        close(&by_epoch(r#"{"type":"constant"}"#, 2), &[0.1, 0.1]);
    }

    /// Reference: torch.optim.lr_scheduler.OneCycleLR(max_lr=0.1, total_steps=10), steps 0 to 9.
    #[test]
    fn one_cycle_is_pytorchs() {
        let want = [
            0.004,
            0.052,
            0.1,
            0.09504846320134737,
            0.08117456539497631,
            0.06112620219362893,
            0.03887419780637106,
            0.018825834605023683,
            0.004951936798652637,
            4e-07,
        ];
        close(&by_step(r#"{"type":"one_cycle","total_steps":10}"#, 10), &want);
    }

    #[test]
    fn plateau_waits_reduces_cools_down_and_stops_at_the_floor() {
        let config = parse(r#"{"type":"reduce_on_plateau","factor":0.5,"patience":1,"cooldown":1,"min_lr":0.03}"#);
        let mut schedule = Schedule::new(&config, 0.1).expect("valid");
        let mut rates = Vec::new();
        for metric in [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, f64::NAN] {
            schedule.on_epoch(Some(metric)).expect("a metric");
            rates.push(schedule.learning_rate());
        }
        assert_eq!(rates, [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.03, 0.03]);
        assert!(schedule.on_epoch(None).is_err());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for text in [
            r#"{"type":"cosine_annealing","T_max":0}"#,
            r#"{"type":"cosine_annealing","T_max":3,"eta_min":-1.0}"#,
            r#"{"type":"linear_warmup","warmup_steps":1,"start_factor":2.0}"#,
            r#"{"type":"step","step_size":0}"#,
            r#"{"type":"one_cycle","total_steps":1}"#,
            r#"{"type":"reduce_on_plateau","factor":1.0}"#,
            r#"{"type":"warmup_cosine","warmup_steps":5,"total_steps":5}"#,
        ] {
            assert!(parse(text).validate().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<SchedulerConfig>(r#"{"type":"step","step_size":1,"gama":0.5}"#).is_err());
    }
}
