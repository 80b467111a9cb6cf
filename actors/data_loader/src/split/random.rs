//! Random split: the first rows of a keyed permutation are held out.

use super::Cut;

pub fn held(cut: Cut, rows: usize) -> Vec<bool> {
    let mut held = vec![false; rows];
    for row in cut.order(rows).into_iter().take(cut.held) {
        held[row as usize] = true;
    }
    held
}
