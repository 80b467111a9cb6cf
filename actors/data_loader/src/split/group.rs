//! Group split: all rows of a group are in one part. Groups come in a keyed random order, and each is held
//! out where that brings the number of rows nearer to what is wanted.

use super::Cut;

/// Groups numbered without gaps, and the rows of each.
pub fn dense(groups: &[u32]) -> (Vec<usize>, Vec<usize>) {
    let mut distinct = groups.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let dense: Vec<usize> = groups.iter().map(|group| distinct.partition_point(|other| other < group)).collect();
    let mut sizes = vec![0usize; distinct.len()];
    for &group in &dense {
        sizes[group] += 1;
    }
    (dense, sizes)
}

pub fn held(cut: Cut, groups: &[u32]) -> Vec<bool> {
    let (dense, sizes) = dense(groups);
    let mut out = vec![false; sizes.len()];
    let (mut rows, mut groups_out) = (0usize, 0);
    let order = cut.order(sizes.len());
    for &group in &order {
        let group = group as usize;
        if groups_out + 1 < sizes.len() && (rows + sizes[group]).abs_diff(cut.held) < rows.abs_diff(cut.held) {
            out[group] = true;
            rows += sizes[group];
            groups_out += 1;
        }
    }
    // Where every group is much larger than wanted, the smallest is held out: no part may be empty.
    if groups_out == 0 && cut.held > 0 && sizes.len() > 1 {
        let smallest = order.iter().map(|&group| group as usize).min_by_key(|&group| sizes[group]);
        if let Some(group) = smallest {
            out[group] = true;
        }
    }
    dense.into_iter().map(|group| out[group]).collect()
}
