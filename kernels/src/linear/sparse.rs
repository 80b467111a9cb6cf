//! Rows of mostly zeros, and texts as such rows: hashed words and pairs of words, weighted by how rare they are.

use crate::cpu::math::ln_f64;
use crate::text::fnv1a64;

/// Rows of numbers of which most are 0, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    /// One more than rows; begins with 0.
    offsets: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
    width: usize,
}

impl Sparse {
    /// No row yet; columns are below `width`.
    pub fn new(width: usize) -> Sparse {
        Sparse { offsets: vec![0], columns: Vec::new(), values: Vec::new(), width }
    }

    /// Adds a row: its columns, each at most once, and their values.
    pub fn push(&mut self, row: impl IntoIterator<Item = (u32, f32)>) {
        for (column, value) in row {
            assert!((column as usize) < self.width, "invariant: a column below the width");
            self.columns.push(column);
            self.values.push(value);
        }
        self.offsets.push(self.columns.len());
    }

    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns and values of a row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.columns[range.clone()], &self.values[range])
    }

    /// The sum over a row of value times weight, in the row's order.
    pub(super) fn dot(&self, row: usize, weights: &[f64]) -> f64 {
        let (columns, values) = self.row(row);
        columns.iter().zip(values).map(|(column, value)| f64::from(*value) * weights[*column as usize]).sum()
    }
}

/// Words and pairs of words by their hash, with the weights that some texts gave them: `1 + ln(count)` in the row
/// times `1 + ln((1 + texts) / (1 + texts with it))`, rows of length 1 (TF-IDF with sublinear counts).
#[derive(Clone, Debug, PartialEq)]
pub struct HashedWords {
    size: u32,
    weights: Vec<f32>,
}

impl HashedWords {
    /// Weights from these texts; columns are below `size`, above 0.
    pub fn fit<'a>(texts: impl IntoIterator<Item = &'a str>, size: u32) -> HashedWords {
        let mut seen = vec![0_u32; size as usize];
        let mut count = 0_u32;
        for text in texts {
            count += 1;
            for (column, _) in counts(text, size) {
                seen[column as usize] += 1;
            }
        }
        let weight = |with: &u32| (1.0 + ln_f64(f64::from(1 + count) / f64::from(1 + with))) as f32;
        HashedWords { size, weights: seen.iter().map(weight).collect() }
    }

    /// Columns in rising order, and values; nothing for a text without words.
    pub fn encode(&self, text: &str) -> Vec<(u32, f32)> {
        let mut row: Vec<(u32, f64)> = counts(text, self.size)
            .into_iter()
            .map(|(column, count)| {
                (column, (1.0 + ln_f64(f64::from(count))) * f64::from(self.weights[column as usize]))
            })
            .collect();
        let length = row.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
        row.iter_mut().for_each(|(_, value)| *value /= length);
        row.into_iter().map(|(column, value)| (column, value as f32)).collect()
    }
}

/// How often each hash occurs, in rising order.
fn counts(text: &str, size: u32) -> Vec<(u32, u32)> {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).collect();
    let column = |text: &str| (fnv1a64(text.as_bytes()) % u64::from(size)) as u32;
    let mut columns: Vec<u32> = words.iter().map(|word| column(word)).collect();
    columns.extend(words.windows(2).map(|pair| column(&format!("{} {}", pair[0], pair[1]))));
    columns.sort_unstable();
    let mut counts: Vec<(u32, u32)> = Vec::with_capacity(columns.len());
    for column in columns {
        match counts.last_mut() {
            Some((last, count)) if *last == column => *count += 1,
            _ => counts.push((column, 1)),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_weighted_by_how_rare_they_are() {
        let words = HashedWords::fit(["a cat", "a dog", "a a bird"], 1 << 16);
        let row = words.encode("A, cat; A!");
        // a twice, cat, "a cat", "cat a".
        assert_eq!(row.len(), 4);
        let of = |text: &str| {
            let column = (fnv1a64(text.as_bytes()) % (1 << 16)) as u32;
            row.iter().find(|(c, _)| *c == column).expect("there").1
        };
        let (a, cat, unseen) = (1.0 + 2_f64.ln(), 1.0 + 2_f64.ln(), 1.0 + 4_f64.ln());
        let length = (a * a + 2.0 * cat * cat + unseen * unseen).sqrt();
        for (text, expected) in [("a", a), ("cat", cat), ("a cat", cat), ("cat a", unseen)] {
            assert!((f64::from(of(text)) - expected / length).abs() < 1e-6, "{text}");
        }
        assert_eq!(words.encode(" ... "), []);
    }
}
