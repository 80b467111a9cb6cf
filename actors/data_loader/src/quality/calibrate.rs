//! How sure it is that a label is wrong. What a model says is no such probability: a regularized one is less sure than
//! it could be, and nobody predicts a label of which 15 % are wrong with more than 85 %. So for each class a curve is
//! fitted to the labels given: a sigmoid of the model's log-odds, as of Platt (1999), that does not reach 0 and 1 but
//! what noise leaves: P(carries it) = in + (1 - in - out) sigmoid(slope z + shift). Where classes overlap the sigmoid is
//! flat, and where labels are wrong at random its ends are off; this tells hard rows from wrong ones. Bayes' rule makes
//! the rest. Fitted by expectation and maximization over the true labels, as Mnih and Hinton (2012) do for a network.

use messages::WireError;
use tokio_util::sync::CancellationToken;

use super::confident::Predicted;
use crate::load::alive;

/// Groups of rows of about the same log-odds, of which alone the fit takes account.
const GROUPS: usize = 256;
/// Probabilities are cut here: a forest of a hundred trees says 0 where it means little.
const LEAST: f64 = 1e-4;
const ROUNDS: usize = 300;
const SLOPES: (f64, f64) = (0.05, 20.0);
/// With more of them wrong, labels are those of the other class.
const MOST_NOISE: f64 = 0.49;

/// Rows with their mean log-odds, and how many of them carry the class.
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    odds: f64,
    rows: f64,
    hits: f64,
}

/// What is known of a class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Curve {
    slope: f64,
    shift: f64,
    /// Share of the rows of other classes that carry it.
    into: f64,
    /// Share of its rows that carry another one.
    out: f64,
}

impl Curve {
    fn fit(points: Vec<(f64, bool)>) -> Self {
        let groups = group(points);
        let mut curve = Self { slope: 1.0, shift: 0.0, into: 0.02, out: 0.02 };
        for _ in 0..ROUNDS {
            curve.step(&groups);
        }
        curve
    }

    /// Who truly is of the class, then what follows from it.
    fn step(&mut self, groups: &[Group]) {
        let (mut of_class, mut others, mut came, mut left) = (0.0, 0.0, 0.0, 0.0);
        let mut truly = Vec::with_capacity(groups.len());
        for group in groups {
            let own = self.truly(group.odds);
            let carrying = group.hits * (1.0 - self.wrong(own));
            let not_carrying = (group.rows - group.hits) * share(self.out * own, (1.0 - self.into) * (1.0 - own));
            came += group.hits - carrying;
            left += not_carrying;
            of_class += carrying + not_carrying;
            others += group.rows - carrying - not_carrying;
            truly.push(carrying + not_carrying);
        }
        self.into = share(came, others - came).min(MOST_NOISE);
        self.out = share(left, of_class - left).min(MOST_NOISE);
        // A step of Newton's method towards the likeliest slope and shift.
        let (mut by_slope, mut by_shift) = (0.0, 0.0);
        let (mut slopes, mut both, mut shifts) = (1e-6, 0.0, 1e-6);
        for (group, truly) in groups.iter().zip(&truly) {
            let own = self.truly(group.odds);
            let (error, weight) = (truly - group.rows * own, group.rows * own * (1.0 - own));
            by_slope += error * group.odds;
            by_shift += error;
            slopes += weight * group.odds * group.odds;
            both += weight * group.odds;
            shifts += weight;
        }
        let area = slopes * shifts - both * both;
        if area > 0.0 {
            let slope = (by_slope * shifts - by_shift * both) / area;
            let shift = (by_shift * slopes - by_slope * both) / area;
            self.slope = (self.slope + slope.clamp(-1.0, 1.0)).clamp(SLOPES.0, SLOPES.1);
            self.shift += shift.clamp(-2.0, 2.0);
        }
    }

    /// The probability that a row is of the class, whatever it carries.
    fn truly(&self, odds: f64) -> f64 {
        1.0 / (1.0 + (-(self.slope * odds + self.shift)).clamp(-40.0, 40.0).exp())
    }

    /// The probability that a row which carries the class is of another one.
    fn wrong(&self, truly: f64) -> f64 {
        share(self.into * (1.0 - truly), (1.0 - self.out) * truly)
    }
}

fn share(part: f64, rest: f64) -> f64 {
    if part > 0.0 { part / (part + rest.max(0.0)) } else { 0.0 }
}

fn odds(probability: f64) -> f64 {
    let probability = probability.clamp(LEAST, 1.0 - LEAST);
    (probability / (1.0 - probability)).ln()
}

/// Rows of equal log-odds are in one group, so that their order plays no part.
fn group(mut points: Vec<(f64, bool)>) -> Vec<Group> {
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let full = points.len().div_ceil(GROUPS) as f64;
    let mut groups: Vec<Group> = Vec::with_capacity(GROUPS);
    for equal in points.chunk_by(|a, b| a.0 == b.0) {
        let (rows, hits) = (equal.len() as f64, equal.iter().filter(|(_, hit)| *hit).count() as f64);
        if groups.last().is_none_or(|group| group.rows >= full) {
            groups.push(Group::default());
        }
        if let Some(group) = groups.last_mut() {
            group.odds += (equal[0].0 - group.odds) * rows / (group.rows + rows);
            group.rows += rows;
            group.hits += hits;
        }
    }
    groups
}

/// What tells how sure a correction is.
#[derive(Debug, Clone, PartialEq)]
pub struct Certainty {
    by_class: Vec<Curve>,
}

impl Certainty {
    /// Of rows that no model saw which predicts them.
    ///
    /// # Errors
    /// Cancelled.
    pub fn fit(predicted: Predicted<'_>, cancelled: &CancellationToken) -> Result<Self, WireError> {
        let Predicted { labels, probabilities, classes } = predicted;
        let of_class = |class: usize| {
            alive(cancelled)?;
            let rows = labels.iter().zip(probabilities.chunks(classes));
            Ok(Curve::fit(rows.map(|(&label, row)| (odds(row[class]), label as usize == class)).collect()))
        };
        Ok(Self { by_class: (0..classes).map(of_class).collect::<Result<_, WireError>>()? })
    }

    /// The probability that a row which carries `given` is of `other`.
    pub fn wrong(&self, row: &[f64], given: usize, other: usize) -> f64 {
        let truly = |class: usize| self.by_class[class].truly(odds(row[class]));
        let wrong = self.by_class[given].wrong(truly(given));
        let rest = (0..row.len()).filter(|class| *class != given && *class != other).map(truly).sum();
        wrong * share(truly(other), rest)
    }
}

#[cfg(test)]
mod tests {
    use kernels::philox::{Key, Stream};

    use super::*;

    /// Rows of classes that overlap, predicted by a model that is half as sure as it could be; some labels are flipped.
    /// Answers labels, probabilities, and which are flipped.
    fn flipped(noise: f64) -> (Vec<u32>, Vec<f64>, Vec<bool>) {
        let mut rng = Key::new(7, Stream::Generate).rng(0, 0);
        let (mut labels, mut probabilities, mut flipped) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..8000 {
            let odds = 6.0 * rng.normal();
            let truly = rng.uniform() < 1.0 / (1.0 + (-odds).exp());
            let flip = rng.uniform() < noise;
            labels.push(u32::from(truly != flip));
            let said = 1.0 / (1.0 + (-odds / 2.0).exp());
            probabilities.extend([1.0 - said, said]);
            flipped.push(flip);
        }
        (labels, probabilities, flipped)
    }

    fn certainty(labels: &[u32], probabilities: &[f64]) -> Certainty {
        let predicted = Predicted { labels, probabilities, classes: 2 };
        Certainty::fit(predicted, &CancellationToken::new()).expect("not cancelled")
    }

    #[test]
    fn noise_is_told_from_rows_that_are_hard() {
        for noise in [0.0, 0.05, 0.2] {
            let (labels, probabilities, _) = flipped(noise);
            let certainty = certainty(&labels, &probabilities);
            for curve in &certainty.by_class {
                assert!((curve.into - noise).abs() < 0.015 && (curve.out - noise).abs() < 0.015, "{noise}: {curve:?}");
                assert!((curve.slope - 2.0).abs() < 0.5 && curve.shift.abs() < 0.5, "{noise}: {curve:?}");
            }
        }
    }

    #[test]
    fn it_is_as_sure_as_it_is_right() {
        let (labels, probabilities, flipped) = flipped(0.15);
        let certainty = certainty(&labels, &probabilities);
        let sure = |row: usize| {
            certainty.wrong(&probabilities[2 * row..][..2], labels[row] as usize, 1 - labels[row] as usize)
        };
        for (from, to) in [(0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.0)] {
            let rows: Vec<usize> = (0..labels.len()).filter(|row| (from..to).contains(&sure(*row))).collect();
            let said = rows.iter().map(|row| sure(*row)).sum::<f64>() / rows.len() as f64;
            let right = rows.iter().filter(|row| flipped[**row]).count() as f64 / rows.len() as f64;
            assert!(rows.len() > 30 && (said - right).abs() < 0.1, "{} rows: {right}, {said} were said", rows.len());
        }
    }

    #[test]
    fn of_three_classes_the_likeliest_other_one_counts() {
        let curve = |into, out| Curve { slope: 1.0, shift: 0.0, into, out };
        let certainty = Certainty { by_class: vec![curve(0.1, 0.2), curve(0.1, 0.2), curve(0.0, 0.0)] };
        // 0 is wrong by 0.1 x 0.8 / (0.1 x 0.8 + 0.8 x 0.2), and then 1 in 6 of 8 cases.
        let row = [0.2, 0.6, 0.2];
        assert!((certainty.wrong(&row, 0, 1) - 0.25).abs() < 1e-12, "{}", certainty.wrong(&row, 0, 1));
        assert!((certainty.wrong(&row, 0, 2) - 0.25 / 3.0).abs() < 1e-12);
        assert_eq!(certainty.wrong(&row, 2, 1), 0.0);
    }

    #[test]
    fn few_or_equal_rows_make_no_trouble() {
        for labels in [vec![0, 1], vec![0, 0, 0, 0], vec![1; 300]] {
            let probabilities: Vec<f64> = labels.iter().flat_map(|_| [0.0, 1.0]).collect();
            let certainty = certainty(&labels, &probabilities);
            for (given, other) in [(0, 1), (1, 0)] {
                assert!((0.0..=1.0).contains(&certainty.wrong(&[0.0, 1.0], given, other)), "{certainty:?}");
            }
        }
    }
}
