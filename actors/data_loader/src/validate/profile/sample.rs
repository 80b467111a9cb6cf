//! Every n-th row, n growing with the table: what is compared between columns, and drawn. Of a table of up to
//! 32,768 rows it is every row.

use super::column::MISSING;

/// Least and most rows are about one to two times this; less for very many columns.
const ROWS: usize = 32_768;
const BUDGET_CELLS: usize = 4_000_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Sample {
    stride: u64,
    most: usize,
    pub rows: usize,
    /// By column: its numbers, NaN where there is none.
    pub numbers: Vec<Vec<f64>>,
    /// By column: keys of its values.
    pub keys: Vec<Vec<u32>>,
}

impl Sample {
    pub fn new(columns: usize) -> Self {
        let most = (BUDGET_CELLS / columns.max(1)).clamp(512, ROWS);
        Self { stride: 1, most, rows: 0, numbers: vec![Vec::new(); columns], keys: vec![Vec::new(); columns] }
    }

    pub fn observe(&mut self, first_row: u64, rows: usize, numbers: &[Vec<f64>], keys: &[Vec<u32>]) {
        let next = |row: usize, stride: u64| {
            let at = first_row + row as u64;
            row + (at.next_multiple_of(stride) - at) as usize
        };
        let mut row = next(0, self.stride);
        while row < rows {
            for (kept, all) in self.numbers.iter_mut().zip(numbers) {
                kept.push(all[row]);
            }
            for (kept, all) in self.keys.iter_mut().zip(keys) {
                kept.push(all[row]);
            }
            self.rows += 1;
            if self.rows > 2 * self.most {
                self.halve();
            }
            row = next(row + 1, self.stride);
        }
    }

    /// The rows that a stride of twice the length would have kept.
    fn halve(&mut self) {
        fn every_second<T: Copy>(values: &mut Vec<T>) {
            let mut index = 0;
            values.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.stride *= 2;
        self.numbers.iter_mut().for_each(every_second);
        self.keys.iter_mut().for_each(every_second);
        self.rows = self.rows.div_ceil(2);
    }

    /// Whether every row is in it.
    pub fn is_whole(&self) -> bool {
        self.stride == 1
    }

    /// The numbers that are there, in rising order.
    pub fn sorted(&self, column: usize) -> Vec<f64> {
        let mut numbers: Vec<f64> = self.numbers[column].iter().copied().filter(|number| !number.is_nan()).collect();
        numbers.sort_by(f64::total_cmp);
        numbers
    }

    /// Share of missing values of each of `runs` equal runs of rows.
    pub fn missing_by_run(&self, column: usize, runs: usize) -> Vec<f64> {
        let keys = &self.keys[column];
        let runs = runs.min(keys.len()).max(1);
        let share = |run: usize| {
            let part = &keys[keys.len() * run / runs..keys.len() * (run + 1) / runs];
            part.iter().filter(|key| **key == MISSING).count() as f64 / part.len().max(1) as f64
        };
        (0..runs).map(share).collect()
    }

    /// Pearson's correlation over the rows where both are there; none where one does not vary.
    pub fn correlation(&self, a: usize, b: usize) -> Option<f64> {
        let pairs = || self.numbers[a].iter().zip(&self.numbers[b]).filter(|(a, b)| !a.is_nan() && !b.is_nan());
        let count = pairs().count() as f64;
        if count < 10.0 {
            return None;
        }
        let mean = |of: fn((&f64, &f64)) -> f64| pairs().map(of).sum::<f64>() / count;
        let (mean_a, mean_b) = (mean(|(a, _)| *a), mean(|(_, b)| *b));
        let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
        for (a, b) in pairs() {
            let (a, b) = (a - mean_a, b - mean_b);
            (both, of_a, of_b) = (both + a * b, of_a + a * a, of_b + b * b);
        }
        let correlation = both / (of_a * of_b).sqrt();
        correlation.is_finite().then_some(correlation)
    }
}
