//! Confident learning (Northcutt, Jiang and Chuang 2021): which labels are probably wrong, from the probabilities that
//! models which did not see a row give for it. A row counts for a class where its probability reaches what rows of that
//! class have on average; the counts of given against confident labels estimate how labels are mixed up.

/// Beyond this a threshold is reached; what rounding may take away.
const TOLERANCE: f64 = 1e-6;
/// Least threshold of a class.
const LEAST: f64 = 2e-6;

/// Labels given, and probabilities of the classes, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Predicted<'a> {
    pub labels: &'a [u32],
    /// [rows, classes].
    pub probabilities: &'a [f64],
    pub classes: usize,
}

impl<'a> Predicted<'a> {
    fn rows(self) -> impl Iterator<Item = (usize, &'a [f64])> {
        self.labels.iter().map(|label| *label as usize).zip(self.probabilities.chunks(self.classes))
    }

    /// Mean probability of each class among the rows that carry it; none for a class without rows.
    pub fn thresholds(self) -> Vec<Option<f64>> {
        let (mut sums, mut counts) = (vec![0.0; self.classes], vec![0_u64; self.classes]);
        for (label, row) in self.rows() {
            sums[label] += row[label];
            counts[label] += 1;
        }
        let mean = |(sum, count): (f64, u64)| (count > 0).then(|| (sum / count as f64).max(LEAST));
        sums.into_iter().zip(counts).map(mean).collect()
    }

    /// Rows by label given and confident label, calibrated to the numbers of labels given. Each class has at least one
    /// row that is right.
    pub fn joint(self, thresholds: &[Option<f64>]) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0_u64; self.classes]; self.classes];
        let mut given = vec![0_u64; self.classes];
        for (label, row) in self.rows() {
            given[label] += 1;
            if let Some(class) = confident(row, thresholds) {
                counts[label][class] += 1;
            }
        }
        for class in 0..self.classes {
            counts[class][class] = counts[class][class].max(1);
        }
        let calibrate = |(counts, given): (&Vec<u64>, &u64)| {
            let total: u64 = counts.iter().sum();
            let shares = counts.iter().map(|&count| count as f64 / total as f64 * *given as f64);
            rounded(&shares.collect::<Vec<_>>())
        };
        counts.iter().zip(&given).map(calibrate).collect()
    }

    /// Which labels are probably wrong: for each pair of classes as many as the joint estimates, those with the largest
    /// margin first ("prune by noise rate"), unless the label given is the most probable one. One row of each class
    /// stays.
    pub fn issues(self, joint: &[Vec<u64>]) -> Vec<bool> {
        let mut issues = vec![false; self.labels.len()];
        for (class, counts) in joint.iter().enumerate() {
            let of: Vec<usize> = (0..self.labels.len()).filter(|&row| self.labels[row] as usize == class).collect();
            if of.len() <= 1 {
                continue;
            }
            let wrong = keep_one(counts, class);
            for (other, &count) in wrong.iter().enumerate().filter(|(other, count)| *other != class && **count > 0) {
                let margin = |row: &usize| {
                    let row = &self.probabilities[row * self.classes..][..self.classes];
                    row[other] - row[class]
                };
                let mut order = of.clone();
                order.sort_by(|a, b| margin(b).total_cmp(&margin(a)).then(a.cmp(b)));
                order.iter().take(count as usize).for_each(|&row| issues[row] = true);
            }
        }
        for (issue, (label, row)) in issues.iter_mut().zip(self.rows()) {
            *issue &= best(row) != label;
        }
        issues
    }
}

/// The most probable class, the first of equals.
pub fn best(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}

/// The class that a row counts for: the most probable of those whose threshold it reaches.
fn confident(row: &[f64], thresholds: &[Option<f64>]) -> Option<usize> {
    let reached = |class: &usize| thresholds[*class].is_some_and(|threshold| row[*class] >= threshold - TOLERANCE);
    let mut classes = (0..row.len()).filter(reached);
    let first = classes.next()?;
    Some(if classes.next().is_some() { best(row) } else { first })
}

/// (own probability - greatest other one + 1) / 2.
pub fn normalized_margin(row: &[f64], label: usize) -> f64 {
    let other = row.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, p)| *p);
    f64::midpoint(row[label] - other.fold(0.0, f64::max), 1.0)
}

/// A row of the joint in which at least one is right: what is added there is taken from the wrong ones evenly.
fn keep_one(counts: &[u64], class: usize) -> Vec<u64> {
    if counts[class] >= 1 {
        return counts.to_vec();
    }
    let others = (counts.iter().filter(|count| **count > 0).count() as f64 - 1.0).max(1.0);
    let mut shares: Vec<f64> = counts.iter().map(|&count| (count as f64 - 1.0 / others).max(0.0)).collect();
    shares[class] = 1.0;
    rounded(&shares)
}

/// Whole numbers with the same sum: rounded, then those that were rounded most changed by one.
fn rounded(shares: &[f64]) -> Vec<u64> {
    let mut whole: Vec<f64> = shares.iter().map(|share| share.round_ties_even()).collect();
    let total = shares.iter().sum::<f64>().round_ties_even();
    loop {
        let missing = total - whole.iter().sum::<f64>();
        if missing.abs() < 0.5 {
            return whole.into_iter().map(|number| number.max(0.0) as u64).collect();
        }
        let step = missing.signum();
        let mut order: Vec<usize> = (0..shares.len()).collect();
        // By how much is missing there, in the direction of the step.
        let lack = |place: &usize| step * (shares[*place] - whole[*place]);
        order.sort_by(|a, b| lack(b).total_cmp(&lack(a)).then(if step > 0.0 { b.cmp(a) } else { a.cmp(b) }));
        let changes = (missing.abs() as usize).min(order.len());
        order[..changes].iter().for_each(|&place| whole[place] += step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_for_the_most_probable_class_that_it_reaches() {
        let thresholds = [Some(0.6), Some(0.3), None];
        assert_eq!(confident(&[0.65, 0.35, 0.0], &thresholds), Some(0));
        assert_eq!(confident(&[0.5, 0.31, 0.19], &thresholds), Some(1));
        assert_eq!(confident(&[0.5, 0.2, 0.3], &thresholds), None);
        // Both are reached; the third is more probable than either.
        assert_eq!(confident(&[0.3, 0.3, 0.4], &[Some(0.2), Some(0.2), None]), Some(2));
        assert_eq!(confident(&[0.6 - 1e-7, 0.2, 0.2], &thresholds), Some(0));
    }

    #[test]
    fn rounding_keeps_the_sum() {
        assert_eq!(rounded(&[1.4, 2.4, 3.2]), [1, 3, 3]);
        assert_eq!(rounded(&[0.5, 0.5]), [0, 1]);
        assert_eq!(rounded(&[2.6, 2.6, 0.8]), [2, 3, 1]);
        assert_eq!(rounded(&[7.0]), [7]);
        assert_eq!(keep_one(&[0, 3, 2], 0), [1, 2, 1]);
        assert_eq!(keep_one(&[4, 3], 0), [4, 3]);
    }

    #[test]
    fn margins() {
        assert!((normalized_margin(&[0.2, 0.5, 0.3], 2) - 0.4).abs() < 1e-15);
        assert_eq!(normalized_margin(&[1.0, 0.0], 1), 0.0);
        assert_eq!(best(&[0.4, 0.4, 0.2]), 0);
    }
}
