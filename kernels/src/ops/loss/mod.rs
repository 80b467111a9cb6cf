//! Losses: each gives a loss and a weight per row and the gradient of the weighted sum. The mean over a
//! global batch is (sum of loss * weight) / (sum of weight), both summed by logical shard.

mod classification;
mod regression;

use crate::cpu::loss;
use crate::cuda::machine::word;
use crate::cuda::{Argument, Launch, ROWS};
use crate::error::{Error, Result};
use crate::ops::Var;
use crate::tape::DeviceEnv;
use std::ops::Range;

/// Which loss; what the job calls it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossConfig {
    /// (y - t)^2, mean over outputs.
    #[serde(alias = "mean_squared_error")]
    Mse,
    /// |y - t|, mean over outputs.
    #[serde(alias = "l1", alias = "mean_absolute_error")]
    Mae,
    /// Huber (1964): half the square within `delta`, linear beyond; mean over outputs.
    Huber {
        #[serde(default = "one")]
        delta: f64,
    },
    /// Binary cross-entropy of logits, mean over outputs; positives weigh `pos_weight` times.
    #[serde(alias = "bce")]
    BceWithLogits {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pos_weight: Option<f64>,
    },
    /// Cross-entropy of logits [rows, classes]. `class_weights`: one per class, the mean divides by the sum
    /// of the rows' weights. `label_smoothing` in [0, 1) moves that share evenly over all classes.
    CrossEntropy {
        #[serde(default)]
        label_smoothing: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class_weights: Option<Vec<f32>>,
    },
}

fn one() -> f64 {
    1.0
}

/// What the outputs are compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// [rows, outputs], row-major.
    Real(Vec<f32>),
    /// One class per row.
    Class(Vec<u32>),
}

/// A weighted sum of losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LossSum {
    /// Sum of loss * weight.
    pub sum: f64,
    /// Sum of weights.
    pub weight: f64,
    /// Rows summed over.
    pub rows: usize,
}

impl LossSum {
    /// sum / weight; `None` where nothing weighs.
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Adds what other rows gave.
    pub fn merge(&mut self, other: LossSum) {
        self.sum += other.sum;
        self.weight += other.weight;
        self.rows += other.rows;
    }
}

/// A loss with what it compares to.
pub struct Loss<'a> {
    pub config: &'a LossConfig,
    pub targets: &'a Targets,
    /// One weight per row, at least 0.
    pub weights: Option<&'a [f32]>,
}

impl LossConfig {
    /// The name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            LossConfig::Mse => "mse",
            LossConfig::Mae => "mae",
            LossConfig::Huber { .. } => "huber",
            LossConfig::BceWithLogits { .. } => "bce_with_logits",
            LossConfig::CrossEntropy { .. } => "cross_entropy",
        }
    }

    /// Refuses settings out of range, for a model of `outputs` outputs.
    pub fn validate(&self, outputs: usize) -> Result<()> {
        match self {
            LossConfig::Mse | LossConfig::Mae => Ok(()),
            LossConfig::Huber { delta } if delta.is_finite() && *delta > 0.0 => Ok(()),
            LossConfig::Huber { delta } => Err(Error::value("huber", "a finite delta above 0", delta)),
            LossConfig::BceWithLogits { pos_weight: Some(w) } if !(w.is_finite() && *w > 0.0) => {
                Err(Error::value("bce_with_logits", "a finite pos_weight above 0", w))
            }
            LossConfig::BceWithLogits { .. } => Ok(()),
            LossConfig::CrossEntropy { label_smoothing, class_weights } => {
                classification::validate(*label_smoothing, class_weights.as_deref(), outputs)
            }
        }
    }

    /// Turns raw outputs [rows, columns] into predictions, in place: values stay, logits become
    /// probabilities (sigmoid for binary, softmax per row for classes).
    pub fn to_predictions(&self, outputs: &mut [f32], columns: usize) {
        match self {
            LossConfig::Mse | LossConfig::Mae | LossConfig::Huber { .. } => {}
            LossConfig::BceWithLogits { .. } => loss::sigmoid_all(outputs),
            LossConfig::CrossEntropy { .. } => outputs.chunks_exact_mut(columns.max(1)).for_each(loss::softmax_row),
        }
    }
}

impl Loss<'_> {
    /// Refuses targets and weights that do not fit `rows` outputs of `columns`; names the sample.
    pub(crate) fn check(&self, rows: usize, columns: usize, sample_ids: &[u64]) -> Result<()> {
        let op = self.config.name();
        let named = |row: usize, what: String| match sample_ids.get(row) {
            Some(id) => format!("{what} (sample {id})"),
            None => format!("{what} (row {row})"),
        };
        if let Some(weights) = self.weights {
            if weights.len() != rows {
                return Err(Error::shape(op, format!("{rows} sample weights"), weights.len().to_string()));
            }
            if let Some(row) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
                return Err(Error::value(
                    op,
                    "finite sample weights of at least 0",
                    named(row, weights[row].to_string()),
                ));
            }
        }
        match (self.targets, self.config) {
            (Targets::Class(classes), LossConfig::CrossEntropy { .. }) => {
                if classes.len() != rows {
                    return Err(Error::shape(op, format!("{rows} classes"), classes.len().to_string()));
                }
                match classes.iter().position(|&c| c as usize >= columns) {
                    Some(row) => {
                        Err(Error::value(op, format!("classes below {columns}"), named(row, classes[row].to_string())))
                    }
                    None => Ok(()),
                }
            }
            (Targets::Real(values), LossConfig::CrossEntropy { .. }) => {
                Err(Error::Dtype { op, expected: "class indices", got: format!("{} real targets", values.len()) })
            }
            (Targets::Class(classes), _) => {
                Err(Error::Dtype { op, expected: "real targets", got: format!("{} class indices", classes.len()) })
            }
            (Targets::Real(values), _) if Some(values.len()) != rows.checked_mul(columns) => {
                Err(Error::shape(op, format!("targets [{rows}, {columns}]"), format!("{} values", values.len())))
            }
            (Targets::Real(values), LossConfig::BceWithLogits { .. }) => {
                match values.iter().position(|t| !(0.0..=1.0).contains(t)) {
                    Some(i) => Err(Error::value(op, "targets in [0, 1]", named(i / columns, values[i].to_string()))),
                    None => Ok(()),
                }
            }
            (Targets::Real(_), _) => Ok(()),
        }
    }

    /// (loss * weight, weight) of rows into `sums`, the gradient of the sum into `grad` where not empty.
    pub(crate) fn rows(
        &self,
        rows: Range<usize>,
        columns: usize,
        outputs: &[f32],
        grad: &mut [f32],
        sums: &mut [[f64; 2]],
    ) {
        for (i, row) in rows.enumerate() {
            let span = i * columns..(i + 1) * columns;
            let weight = self.weights.map_or(1.0, |w| w[row]);
            let grad = if grad.is_empty() { &mut [] } else { &mut grad[span.clone()] };
            sums[i] = match self.targets {
                Targets::Real(t) => {
                    regression::row(self.config, &outputs[span], &t[row * columns..(row + 1) * columns], weight, grad)
                }
                Targets::Class(t) => classification::row(self.config, &outputs[span], t[row] as usize, weight, grad),
            };
        }
    }
}

/// Where a device has what a loss reads, and where its sums go.
pub(crate) struct OnDevice {
    pub targets: Argument,
    pub weights: Argument,
    pub classes: Argument,
    pub sums: Argument,
}

impl LossConfig {
    /// Weights of the classes, where there are some.
    pub(crate) fn class_weights(&self) -> Option<&[f32]> {
        match self {
            LossConfig::CrossEntropy { class_weights, .. } => class_weights.as_deref(),
            _ => None,
        }
    }

    /// As [`Loss::rows`], on a device.
    pub(crate) fn start_on(&self, env: &mut DeviceEnv<'_>, output: Var, at: &OnDevice) -> Result<()> {
        let (op, rows, columns) = (self.name(), env.rows(output) as u64, word(self.name(), env.columns(output))?);
        let (y, grad) = (env.data(output), env.grad(output));
        let (rows_of, wide, launch) = (Argument::Word64(rows), Argument::Word(columns), Launch::over_rows(op, rows));
        let (kind, parameter) = match self {
            LossConfig::Mse => (0, 0.0),
            LossConfig::Mae => (1, 0.0),
            LossConfig::Huber { delta } => (2, *delta as f32),
            LossConfig::BceWithLogits { pos_weight } => (3, pos_weight.unwrap_or(1.0) as f32),
            LossConfig::CrossEntropy { label_smoothing, .. } => {
                let smoothing = Argument::Float(*label_smoothing as f32);
                let arguments = [y, at.targets, at.weights, at.classes, grad, at.sums, rows_of, wide, smoothing];
                return env.start(op, ROWS, "loss_class", launch, &arguments);
            }
        };
        let last = [Argument::Word(kind), Argument::Float(parameter)];
        let arguments = [y, at.targets, at.weights, grad, at.sums, rows_of, wide, last[0], last[1]];
        env.start(op, ROWS, "loss_real", launch, &arguments)
    }
}
