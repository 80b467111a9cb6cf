//! Which rows are in memory and shuffled together. A part that fits is one window, in any order of its rows. A
//! larger one is shuffled in two levels: its shards in an order of the epoch's own, and the rows of as many of
//! them as fit. Pure: a function of the manifest and of what the feed was opened with.

use kernels::philox::{Key, Stream, permutation};

/// Lanes of the shuffle stream; lane 0 orders the rows of a part that fits.
const SHARDS: u32 = 1;
const ROWS: u32 = 2;

/// How a part is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    shards: Vec<usize>,
    rows: usize,
    /// Most rows of a window of several shards.
    window_rows: usize,
    shuffle_seed: Option<u64>,
}

/// Consecutive places of an epoch's order, and the shards whose rows stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// From 0 within the epoch.
    pub index: usize,
    /// Its first place.
    pub first: usize,
    pub rows: usize,
    /// Numbers of its shards, in the order in which its rows are numbered.
    pub shards: Vec<usize>,
}

impl Layout {
    /// A part with shards of so many rows, of at most `row_bytes` bytes each.
    pub fn new(shards: &[u64], row_bytes: usize, window_mb: u32, shuffle_seed: Option<u64>) -> Self {
        let shards: Vec<usize> = shards.iter().map(|&rows| rows as usize).collect();
        let rows = shards.iter().sum();
        let window_rows = (window_mb as usize).saturating_mul(1_000_000) / row_bytes.max(1);
        Self { shards, rows, window_rows, shuffle_seed }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether all of it is one window.
    pub fn is_whole(&self) -> bool {
        self.rows <= self.window_rows || self.shards.len() < 2
    }

    /// The windows of an epoch.
    pub fn windows(&self, epoch: u32) -> Vec<Window> {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        if self.is_whole() {
            return vec![Window { index: 0, first: 0, rows: self.rows, shards: order }];
        }
        if let Some(seed) = self.shuffle_seed {
            Key::new(seed, Stream::Shuffle).lane(SHARDS).epoch(u64::from(epoch)).rng(0, 0).shuffle(&mut order);
        }
        let mut windows: Vec<Window> = Vec::new();
        let mut first = 0;
        for shard in order {
            let rows = self.shards[shard];
            match windows.last_mut() {
                Some(window) if window.rows + rows <= self.window_rows => {
                    window.shards.push(shard);
                    window.rows += rows;
                }
                _ => windows.push(Window { index: windows.len(), first, rows, shards: vec![shard] }),
            }
            first += rows;
        }
        windows
    }

    /// The row at each place of a window: a number within it, over its shards in their order.
    pub fn order(&self, epoch: u32, window: &Window) -> Vec<u32> {
        let stored = || (0..window.rows as u32).collect();
        match self.shuffle_seed {
            None => stored(),
            Some(seed) if self.is_whole() => permutation(seed, Stream::Shuffle, u64::from(epoch), window.rows),
            Some(seed) => {
                let mut order: Vec<u32> = stored();
                let key = Key::new(seed, Stream::Shuffle).lane(ROWS).epoch(u64::from(epoch));
                key.rng(window.index as u64, 0).shuffle(&mut order);
                order
            }
        }
    }

    /// Where each shard of a window begins: its first row within the window, and within the part.
    pub fn starts(&self, window: &Window) -> Vec<(u32, u64)> {
        let mut within = 0;
        let start = |shard: usize| self.shards[..shard].iter().sum::<usize>() as u64;
        let mut starts = Vec::with_capacity(window.shards.len());
        for &shard in &window.shards {
            starts.push((within, start(shard)));
            within += self.shards[shard] as u32;
        }
        starts
    }

    /// The row of the part at each place of an epoch.
    pub fn stored_rows(&self, epoch: u32) -> Vec<u64> {
        let mut rows = Vec::with_capacity(self.rows);
        for window in self.windows(epoch) {
            let starts = self.starts(&window);
            rows.extend(self.order(epoch, &window).into_iter().map(|row| stored(&starts, row)));
        }
        rows
    }
}

/// The row of the part that a window's row is.
pub fn stored(starts: &[(u32, u64)], row: u32) -> u64 {
    let after = starts.partition_point(|&(first, _)| first <= row);
    let (first, stored) = starts[after.saturating_sub(1)];
    stored + u64::from(row - first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_part_that_fits_keeps_its_order_of_old() {
        let layout = Layout::new(&[40, 60], 10_000, 1, Some(7));
        assert!(layout.is_whole());
        let expected: Vec<u64> = permutation(7, Stream::Shuffle, 3, 100).into_iter().map(u64::from).collect();
        assert_eq!(layout.stored_rows(3), expected);
        assert_eq!(Layout::new(&[40, 60], 10_000, 1, None).stored_rows(3), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_larger_part_goes_by_windows() {
        let layout = Layout::new(&[30, 30, 30, 30, 5], 20_000, 1, Some(7));
        assert!(!layout.is_whole());
        let windows = layout.windows(0);
        assert!(windows.iter().all(|window| window.rows <= 50 && window.shards.len() <= 2), "{windows:?}");
        let shards: Vec<usize> = windows.iter().flat_map(|window| window.shards.clone()).collect();
        assert_ne!(shards, [0, 1, 2, 3, 4]);
        assert_ne!(layout.stored_rows(0), layout.stored_rows(1));
        assert_eq!(layout.stored_rows(1), layout.stored_rows(1));
        // A shard larger than the window is a window of its own.
        assert_eq!(Layout::new(&[80, 30], 20_000, 1, None).windows(0).len(), 2);
        assert_eq!(Layout::new(&[80, 30], 20_000, 1, None).stored_rows(0), (0..110).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn each_row_stands_once(
            shards in prop::collection::vec(0u64..40, 0..12), bytes in 1usize..100_000,
            seed in prop::option::of(any::<u64>()), epoch in 0u32..3,
        ) {
            let layout = Layout::new(&shards, bytes, 1, seed);
            let mut rows = layout.stored_rows(epoch);
            let windows = layout.windows(epoch);
            prop_assert!(layout.is_whole() || windows.iter().all(|w| w.shards.len() == 1 || w.rows * bytes <= 1_000_000));
            prop_assert_eq!(windows.iter().map(|w| w.rows).sum::<usize>(), layout.rows());
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..layout.rows() as u64).collect::<Vec<_>>());
        }
    }
}
