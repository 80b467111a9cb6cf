//! Logistic regression over sparse rows: one model a class against the others (two classes: one model), by Newton's
//! method whose steps are found by conjugate gradients (Lin, Weng and Keerthi 2008). Products by rows and by columns each
//! have an order of their own, so threads change no bit.

use super::sparse::Sparse;
use crate::cpu::math::{exp_f64, ln_f64};
use crate::error::{Error, Result};
use crate::pool::Pool;

/// Rows or columns that a thread takes at once.
const GRAIN: usize = 1024;

/// By how much of itself the objective may rise: near the minimum its own rounding hides what a step gains.
const ROUNDING: f64 = 1e-13;

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticConfig {
    /// Weight of the errors beside half the squared weights: scikit-learn's C.
    pub inverse_strength: f64,
    /// Ends where the gradient is this share of what it was at first.
    pub tolerance: f64,
    /// Most steps of Newton's method.
    pub steps: usize,
}

impl Default for LogisticConfig {
    fn default() -> Self {
        Self { inverse_strength: 1.0, tolerance: 1e-4, steps: 50 }
    }
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    /// Of each model: weights of the columns, then the intercept.
    models: Vec<Vec<f64>>,
    classes: usize,
}

impl Logistic {
    /// Fits on the rows named; `labels` are classes below `classes`, one a row of the table. `Value` errors: no row, or
    /// a class out of range.
    pub fn fit(
        table: &Sparse,
        labels: &[u32],
        classes: usize,
        rows: &[u32],
        config: &LogisticConfig,
        pool: &Pool,
    ) -> Result<Logistic> {
        const OP: &str = "logistic regression";
        if rows.is_empty() || classes < 2 || labels.len() != table.rows() {
            let got = format!("{} rows, {classes} classes, {} labels", rows.len(), labels.len());
            return Err(Error::value(
                OP,
                format!("rows of a table of {}, a label each, two classes", table.rows()),
                got,
            ));
        }
        if let Some(row) = rows.iter().find(|row| labels[**row as usize] as usize >= classes) {
            return Err(Error::value(OP, format!("classes below {classes}"), labels[*row as usize]));
        }
        let data = Data::new(table, rows, pool);
        let wanted = if classes == 2 { 1..2 } else { 0..classes };
        let models = wanted.map(|class| {
            let is_class: Vec<bool> = rows.iter().map(|row| labels[*row as usize] as usize == class).collect();
            newton(&data, &is_class, config)
        });
        Ok(Logistic { models: models.collect(), classes })
    }

    /// Probabilities of the classes for these rows, [rows, classes].
    pub fn predict(&self, table: &Sparse, rows: &[u32]) -> Vec<f64> {
        let width = table.width();
        let mut answers = Vec::with_capacity(rows.len() * self.classes);
        for &row in rows {
            let score = |model: &Vec<f64>| sigmoid(table.dot(row as usize, &model[..width]) + model[width]);
            if let [model] = &self.models[..] {
                let positive = score(model);
                answers.extend([1.0 - positive, positive]);
            } else {
                let scores: Vec<f64> = self.models.iter().map(score).collect();
                let total: f64 = scores.iter().sum();
                let share = |score: &f64| if total > 0.0 { score / total } else { 1.0 / self.classes as f64 };
                answers.extend(scores.iter().map(share));
            }
        }
        answers
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + exp_f64(-z))
}

/// ln(1 + e^z), without overflow.
fn softplus(z: f64) -> f64 {
    z.max(0.0) + ln_f64(1.0 + exp_f64(-z.abs()))
}

/// The rows that are learned, by rows and by columns.
struct Data<'a> {
    table: &'a Sparse,
    rows: &'a [u32],
    /// Of each column: where its entries begin.
    starts: Vec<usize>,
    /// Place among `rows`, and value, of each entry.
    entries: Vec<(u32, f32)>,
    pool: &'a Pool,
}

impl<'a> Data<'a> {
    fn new(table: &'a Sparse, rows: &'a [u32], pool: &'a Pool) -> Self {
        let mut starts = vec![0; table.width() + 1];
        for &row in rows {
            for &column in table.row(row as usize).0 {
                starts[column as usize + 1] += 1;
            }
        }
        for column in 0..table.width() {
            starts[column + 1] += starts[column];
        }
        let mut next = starts.clone();
        let mut entries = vec![(0, 0.0); starts[table.width()]];
        for (place, &row) in rows.iter().enumerate() {
            let (columns, values) = table.row(row as usize);
            for (&column, &value) in columns.iter().zip(values) {
                entries[next[column as usize]] = (place as u32, value);
                next[column as usize] += 1;
            }
        }
        Self { table, rows, starts, entries, pool }
    }

    /// Rows times weights, and the intercept.
    fn scores(&self, weights: &[f64]) -> Vec<f64> {
        let width = self.table.width();
        blocks(self.pool, self.rows.len(), |place| {
            self.table.dot(self.rows[place] as usize, &weights[..width]) + weights[width]
        })
    }

    /// Columns times a number of each row, and the sum of these numbers.
    fn sums(&self, of: &[f64]) -> Vec<f64> {
        let mut sums = blocks(self.pool, self.table.width(), |column| {
            let entries = &self.entries[self.starts[column]..self.starts[column + 1]];
            entries.iter().map(|(place, value)| f64::from(*value) * of[*place as usize]).sum()
        });
        sums.push(of.iter().sum());
        sums
    }
}

/// A number for each index, computed by several threads.
fn blocks(pool: &Pool, count: usize, number: impl Fn(usize) -> f64 + Sync) -> Vec<f64> {
    let slots: Vec<std::sync::OnceLock<Vec<f64>>> =
        (0..count.div_ceil(GRAIN)).map(|_| std::sync::OnceLock::new()).collect();
    pool.parallel_for(count, GRAIN, |_, range| {
        let block = range.start / GRAIN;
        slots[block].set(range.map(&number).collect()).expect("invariant: each block is computed once");
    });
    slots.into_iter().flat_map(|slot| slot.into_inner().expect("invariant: every block is computed")).collect()
}

/// Minimizes half the squared weights (not the intercept's) plus the strength times the log losses.
fn newton(data: &Data<'_>, is_class: &[bool], config: &LogisticConfig) -> Vec<f64> {
    let width = data.table.width();
    let strength = config.inverse_strength;
    let mut weights = vec![0.0; width + 1];
    let mut scores = data.scores(&weights);
    let mut value = objective(&weights[..width], &scores, is_class, strength);
    let mut first = None;
    for _ in 0..config.steps {
        let chances: Vec<f64> = scores.iter().map(|score| sigmoid(*score)).collect();
        let errors: Vec<f64> =
            chances.iter().zip(is_class).map(|(p, is)| strength * (p - f64::from(u8::from(*is)))).collect();
        let mut gradient = data.sums(&errors);
        gradient.iter_mut().zip(&weights[..width]).for_each(|(g, w)| *g += w);
        let norm = dot(&gradient, &gradient).sqrt();
        if norm <= config.tolerance * *first.get_or_insert(norm) {
            break;
        }
        let curvature: Vec<f64> = chances.iter().map(|p| strength * p * (1.0 - p)).collect();
        let step = conjugate_gradients(data, &curvature, &gradient, norm);
        let slope = dot(&gradient, &step);
        let moved = data.scores(&step);
        // Half the step until the value falls by a share of what the slope promises (Armijo).
        let mut length = 1.0;
        let found = (0..30).find_map(|_| {
            let tried: Vec<f64> = weights.iter().zip(&step).map(|(w, s)| w + length * s).collect();
            let at: Vec<f64> = scores.iter().zip(&moved).map(|(z, m)| z + length * m).collect();
            let there = objective(&tried[..width], &at, is_class, strength);
            if there <= value + 1e-4 * length * slope + ROUNDING * value {
                return Some((tried, at, there));
            }
            length *= 0.5;
            None
        });
        let Some(found) = found else { break };
        (weights, scores, value) = found;
    }
    weights
}

fn objective(weights: &[f64], scores: &[f64], is_class: &[bool], strength: f64) -> f64 {
    let losses: f64 = scores.iter().zip(is_class).map(|(z, is)| softplus(if *is { -z } else { *z })).sum();
    0.5 * dot(weights, weights) + strength * losses
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves curvature times step = -gradient, to a tenth of the gradient.
fn conjugate_gradients(data: &Data<'_>, curvature: &[f64], gradient: &[f64], norm: f64) -> Vec<f64> {
    let width = data.table.width();
    let mut step = vec![0.0; gradient.len()];
    let mut rest: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut direction = rest.clone();
    let mut square = dot(&rest, &rest);
    for _ in 0..200 {
        if square.sqrt() <= 0.1 * norm {
            break;
        }
        let mut along = data.scores(&direction);
        along.iter_mut().zip(curvature).for_each(|(along, curvature)| *along *= curvature);
        let mut bent = data.sums(&along);
        bent.iter_mut().zip(&direction[..width]).for_each(|(b, d)| *b += d);
        let length = square / dot(&direction, &bent);
        step.iter_mut().zip(&direction).for_each(|(s, d)| *s += length * d);
        rest.iter_mut().zip(&bent).for_each(|(r, b)| *r -= length * b);
        let next = dot(&rest, &rest);
        let keep = next / square;
        direction.iter_mut().zip(&rest).for_each(|(d, r)| *d = r + keep * *d);
        square = next;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Key, Stream};

    fn table(classes: u32) -> (Sparse, Vec<u32>) {
        let mut rng = Key::new(8, Stream::Generate).rng(0, 0);
        let (mut table, mut labels) = (Sparse::new(50), Vec::new());
        for row in 0..3000 {
            let label = row % classes;
            let shown = if rng.uniform() < 0.8 { label } else { rng.below(classes) };
            table.push([(shown * 3, 1.0), (20 + rng.below(30), 0.5)]);
            labels.push(label);
        }
        (table, labels)
    }

    #[test]
    fn classes_are_told_apart_with_the_same_bits_for_any_number_of_threads() {
        for classes in [2, 4] {
            let (table, labels) = table(classes);
            let rows: Vec<u32> = (0..2000).collect();
            let rest: Vec<u32> = (2000..3000).collect();
            let fit = |threads| {
                let config = LogisticConfig::default();
                Logistic::fit(&table, &labels, classes as usize, &rows, &config, &Pool::new(threads)).expect("fits")
            };
            let model = fit(1);
            assert_eq!(fit(3), model);
            let answers = model.predict(&table, &rest);
            let right = rest.iter().zip(answers.chunks(classes as usize)).filter(|(row, answer)| {
                assert!((answer.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                let best = (0..answer.len()).max_by(|a, b| answer[*a].total_cmp(&answer[*b])).expect("classes");
                best as u32 == labels[**row as usize]
            });
            let share = right.count() as f64 / 1000.0;
            assert!(share > 0.78, "{classes} classes: {share}");
        }
    }

    /// At the minimum the gradient is 0: with no columns the intercept is the log odds.
    #[test]
    fn without_columns_the_answer_is_the_share() {
        let mut table = Sparse::new(1);
        (0..100).for_each(|_| table.push([]));
        let labels: Vec<u32> = (0..100).map(|row| u32::from(row < 30)).collect();
        let rows: Vec<u32> = (0..100).collect();
        let config = LogisticConfig { tolerance: 1e-10, ..LogisticConfig::default() };
        let model = Logistic::fit(&table, &labels, 2, &rows, &config, &Pool::new(1)).expect("fits");
        assert!((model.predict(&table, &[0])[1] - 0.3).abs() < 1e-9);
        let error = Logistic::fit(&table, &labels, 2, &[], &config, &Pool::new(1)).expect_err("refused");
        assert!(error.to_string().starts_with("logistic regression: expected rows"), "{error}");
    }
}
