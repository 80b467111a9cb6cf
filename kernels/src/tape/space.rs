//! Row spaces: what a row of a value is. In the space of samples a row is a sample; in a space of items a
//! sample has a run of rows of its own (tokens, time steps, pixels), a fixed number or as many as an
//! offsets array says. Items are packed, so padding is neither stored nor computed.
//!
//! Invariant: items of one sample are consecutive and samples are in order, so a range of samples is a
//! range of rows in every space. That is what lets a task own samples whatever the operations between.

use crate::error::{Error, Result};
use std::ops::Range;

/// Which row space a value lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space(pub(crate) usize);

impl Space {
    /// One row per sample.
    pub const SAMPLES: Space = Space(0);
}

/// The rows of each sample in one space.
#[derive(Clone, Debug, Default)]
pub(crate) struct Items {
    /// Rows per sample, where that is fixed.
    fixed: Option<usize>,
    /// First row of each sample and the end of the last, where it is not.
    offsets: Vec<usize>,
}

impl Items {
    /// First row of a sample (of the one after the last: the number of rows).
    pub(crate) fn at(&self, sample: usize) -> usize {
        match self.fixed {
            Some(n) => n * sample,
            None => self.offsets[sample],
        }
    }

    /// The rows of a range of samples.
    pub(crate) fn range(&self, samples: &Range<usize>) -> Range<usize> {
        self.at(samples.start)..self.at(samples.end)
    }
}

/// The spaces of one tape; their storage outlives it.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    list: Vec<Items>,
    live: usize,
}

impl Spaces {
    /// Leaves the space of samples only.
    pub(crate) fn reset(&mut self) {
        self.live = 0;
        self.slot().fixed = Some(1);
    }

    fn slot(&mut self) -> &mut Items {
        if self.live == self.list.len() {
            self.list.push(Items::default());
        }
        self.live += 1;
        let items = &mut self.list[self.live - 1];
        items.offsets.clear();
        items
    }

    /// The space of `per_sample` rows per sample; the same as before where it was asked for before.
    pub(crate) fn fixed(&mut self, per_sample: usize) -> Space {
        if let Some(found) = self.all().iter().position(|s| s.fixed == Some(per_sample)) {
            return Space(found);
        }
        self.slot().fixed = Some(per_sample);
        Space(self.live - 1)
    }

    /// The space of `offsets[i] .. offsets[i + 1]` for each sample i, counted from `offsets[0]`; the same as
    /// before where it was asked for before.
    pub(crate) fn ragged(&mut self, offsets: &[u32], samples: usize) -> Result<Space> {
        if offsets.len() != samples + 1 {
            return Err(Error::shape("offsets", format!("{} of them", samples + 1), offsets.len().to_string()));
        }
        if let Some(i) = offsets.windows(2).position(|w| w[1] < w[0]) {
            return Err(Error::value(
                "offsets",
                "ascending numbers",
                format!("{} after {}", offsets[i + 1], offsets[i]),
            ));
        }
        let first = offsets[0] as usize;
        let equal = |s: &Items| {
            s.fixed.is_none() && s.offsets.iter().zip(offsets).all(|(own, given)| own + first == *given as usize)
        };
        if let Some(found) = self.all().iter().position(equal) {
            return Ok(Space(found));
        }
        let items = self.slot();
        items.fixed = None;
        items.offsets.extend(offsets.iter().map(|o| *o as usize - first));
        Ok(Space(self.live - 1))
    }

    pub(crate) fn all(&self) -> &[Items] {
        &self.list[..self.live]
    }

    pub(crate) fn get(&self, space: Space) -> &Items {
        &self.all()[space.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_samples_are_ranges_of_rows() {
        let mut spaces = Spaces::default();
        spaces.reset();
        let four = spaces.fixed(4);
        let ragged = spaces.ragged(&[10, 13, 13, 20], 3).expect("ascending");
        assert_eq!((spaces.fixed(1), spaces.fixed(4)), (Space::SAMPLES, four));
        assert_eq!(spaces.ragged(&[0, 3, 3, 10], 3).expect("the same space"), ragged);
        assert_eq!(spaces.get(four).range(&(1..3)), 4..12);
        assert_eq!((spaces.get(ragged).range(&(0..2)), spaces.get(ragged).at(3)), (0..3, 10));
        assert!(spaces.ragged(&[0, 2], 3).is_err() && spaces.ragged(&[0, 2, 1, 4], 3).is_err());
    }
}
