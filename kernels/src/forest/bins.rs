//! Numbers cut into bins, so that a tree looks for splits among at most 256 places of a column. Cuts follow from the
//! rows that they are fitted on and nothing else; a column with few different values loses nothing by them.

/// Most bins of the numbers of a column; the missing ones have one more.
pub const MAX_BINS: usize = 255;

/// Where the columns of a table are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    /// Of each column, rising; a value's bin is the number of cuts below it.
    cuts: Vec<Vec<f64>>,
}

/// A table of bins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binned {
    rows: usize,
    columns: Vec<Vec<u8>>,
    /// Bins of each column, the one of missing values included.
    counts: Vec<usize>,
}

impl Bins {
    /// Cuts half-way between neighbouring values where there are at most [`MAX_BINS`] of them, else at quantiles of
    /// these rows. NaN is missing. Every column holds a value for each row named.
    pub fn fit(columns: &[Vec<f64>], rows: &[u32]) -> Bins {
        let cuts = columns.iter().map(|column| {
            let mut values: Vec<f64> = rows.iter().map(|&row| column[row as usize]).filter(|v| !v.is_nan()).collect();
            values.sort_unstable_by(f64::total_cmp);
            let mut distinct = values.clone();
            distinct.dedup();
            if distinct.len() <= MAX_BINS { between(&distinct) } else { quantiles(&values) }
        });
        Bins { cuts: cuts.collect() }
    }

    /// The bins of all rows of these columns.
    pub fn apply(&self, columns: &[Vec<f64>]) -> Binned {
        assert_eq!(columns.len(), self.cuts.len(), "invariant: bins are applied to the columns they were fitted on");
        let binned = self.cuts.iter().zip(columns).map(|(cuts, column)| {
            let bin = |value: &f64| {
                let below = if value.is_nan() { cuts.len() + 1 } else { cuts.partition_point(|cut| cut < value) };
                u8::try_from(below).expect("invariant: at most 256 bins")
            };
            column.iter().map(bin).collect()
        });
        Binned {
            rows: columns.first().map_or(0, Vec::len),
            columns: binned.collect(),
            counts: self.cuts.iter().map(|cuts| cuts.len() + 2).collect(),
        }
    }
}

fn between(distinct: &[f64]) -> Vec<f64> {
    distinct.windows(2).map(|pair| middle(pair[0], pair[1])).collect()
}

/// Between two neighbours, at or above the lower one and below the upper one.
fn middle(low: f64, high: f64) -> f64 {
    let middle = f64::midpoint(low, high);
    if middle < high { middle } else { low }
}

fn quantiles(sorted: &[f64]) -> Vec<f64> {
    let mut cuts: Vec<f64> = Vec::with_capacity(MAX_BINS - 1);
    for bin in 1..MAX_BINS {
        let at = bin * sorted.len() / MAX_BINS;
        let (low, high) = (sorted[at - 1], sorted[at]);
        if low < high {
            cuts.push(middle(low, high));
        } else if let Some(next) = sorted[at..].iter().find(|value| **value > high) {
            // The quantile falls into a run of one value: cut behind the run.
            cuts.push(middle(high, *next));
        }
    }
    cuts.dedup();
    cuts
}

impl Binned {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The bins of one column, a row each.
    pub fn column(&self, column: usize) -> &[u8] {
        &self.columns[column]
    }

    /// Every bin of the column is below this.
    pub fn count(&self, column: usize) -> usize {
        self.counts[column]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_keep_their_own_bins_and_missing_ones_come_last() {
        let column = vec![3.0, 1.0, f64::NAN, 3.0, 2.0, 9.0];
        let bins = Bins::fit(std::slice::from_ref(&column), &[0, 1, 2, 3, 4]);
        assert_eq!(bins.cuts, [vec![1.5, 2.5]]);
        let binned = bins.apply(&[column]);
        assert_eq!(binned.column(0), [2, 0, 3, 2, 1, 2]);
        assert_eq!(binned.count(0), 4);
        // Two neighbours without a number between them are told apart all the same.
        let (low, high) = (1.0, 1.0_f64.next_up());
        let near = Bins::fit(&[vec![low, high]], &[0, 1]).apply(&[vec![low, high]]);
        assert_eq!(near.column(0), [0, 1]);
    }

    #[test]
    fn many_values_fall_into_bins_of_about_the_same_size() {
        let column: Vec<f64> = (0..100_000).map(|i| f64::from(i * 7919 % 100_003)).collect();
        let rows: Vec<u32> = (0..100_000).collect();
        let binned = Bins::fit(std::slice::from_ref(&column), &rows).apply(&[column]);
        let mut counts = [0_usize; 256];
        binned.column(0).iter().for_each(|&bin| counts[bin as usize] += 1);
        assert!(counts[..MAX_BINS].iter().all(|&count| (390..=395).contains(&count)), "{counts:?}");
        // One value that fills half of the rows has a bin of its own.
        let skewed: Vec<f64> = (0..2000).map(|i| if i % 2 == 0 { 5.0 } else { f64::from(i) + 10.0 }).collect();
        let rows: Vec<u32> = (0..2000).collect();
        let binned = Bins::fit(std::slice::from_ref(&skewed), &rows).apply(std::slice::from_ref(&skewed));
        let of_five = binned.column(0)[0];
        assert!(skewed.iter().zip(binned.column(0)).all(|(value, bin)| (*bin == of_five) == (*value == 5.0)));
    }

    #[test]
    fn rows_that_are_not_named_move_no_cut() {
        let mut column: Vec<f64> = (0..50).map(f64::from).collect();
        let rows: Vec<u32> = (0..40).collect();
        let before = Bins::fit(std::slice::from_ref(&column), &rows);
        column[45] = -1e30;
        assert_eq!(Bins::fit(&[column], &rows), before);
    }
}
