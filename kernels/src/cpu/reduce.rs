//! Reductions in fixed orders: column sums by shard tree, sums of squares over a flat gradient.

use super::gemm::{MAX_LEAF, Matrix, TileStack};
use super::simd;

simd! {
    /// Adds the rows of a block to `sums`, one after the other.
    fn add_rows(data: &[f32], stride: usize, rows: usize, sums: &mut [f32]) {
        for r in 0..rows {
            for (sum, v) in sums.iter_mut().zip(&data[r * stride..]) {
                *sum += *v;
            }
        }
    }
}

simd! {
    /// Adds `data * (x - mean) * inverse_deviation` of each row to `sums`; `statistics` holds (mean,
    /// inverse deviation) per row.
    fn add_rows_normalized(data: &[f32], x: &[f32], stride: usize, statistics: &[f32], sums: &mut [f32]) {
        for (r, statistic) in statistics.as_chunks::<2>().0.iter().enumerate() {
            let row = data[r * stride..].iter().zip(&x[r * stride..]);
            for (sum, (v, x)) in sums.iter_mut().zip(row) {
                *sum = (*v).mul_add((*x - statistic[0]) * statistic[1], *sum);
            }
        }
    }
}

/// What is summed over the rows of each shard.
#[derive(Clone, Copy)]
pub(crate) enum Summand<'a> {
    /// The gradient itself (a bias).
    Plain,
    /// The gradient times the normalized input (the gain of a norm): inputs, and (mean, inverse
    /// deviation) per row.
    Normalized { x: &'a [f32], statistics: &'a [f32] },
}

/// Sums over the rows of a node's shards per column of `grad`, in the tree's order, to `out` [columns].
pub(crate) fn column_sums(
    grad: Matrix<'_>,
    summand: Summand<'_>,
    bounds: &[usize],
    out: &mut [f32],
    stack: &mut TileStack,
) {
    for (block, out) in out.chunks_mut(MAX_LEAF).enumerate() {
        let (from, used) = (block * MAX_LEAF, out.len());
        stack.clear();
        for shard in bounds.windows(2) {
            let sums = stack.push(used);
            sums.fill(0.0);
            if shard[0] < shard[1] {
                let at = shard[0] * grad.stride + from;
                match summand {
                    Summand::Plain => add_rows(&grad.data[at..], grad.stride, shard[1] - shard[0], sums),
                    Summand::Normalized { x, statistics } => {
                        add_rows_normalized(
                            &grad.data[at..],
                            &x[at..],
                            grad.stride,
                            &statistics[2 * shard[0]..2 * shard[1]],
                            sums,
                        );
                    }
                }
            }
            stack.settle(used);
        }
        out.copy_from_slice(stack.finish(used));
    }
}

/// Elements of one partial sum of [`squares`].
pub(crate) const SQUARES_BLOCK: usize = 1 << 14;

simd! {
    /// The sum of squares in f64 over 16 lanes, joined by halves.
    pub(crate) fn squares(values: &[f32]) -> f64 {
        const LANES: usize = 16;
        let mut lanes = [0.0f64; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for chunk in whole {
            for l in 0..LANES {
                let v = f64::from(chunk[l]);
                lanes[l] += v * v;
            }
        }
        for (l, v) in rest.iter().enumerate() {
            lanes[l] += f64::from(*v) * f64::from(*v);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

simd! {
    /// sum += addend
    pub(crate) fn add_assign(sum: &mut [f32], addend: &[f32]) {
        for (s, a) in sum.iter_mut().zip(addend) {
            *s += *a;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_right() {
        let (rows, columns) = (23, MAX_LEAF + 5);
        let grad: Vec<f32> = (0..rows * columns).map(|i| (i % 17) as f32).collect();
        let mut out = vec![f32::NAN; columns];
        let matrix = Matrix::dense(&grad, rows, columns);
        column_sums(matrix, Summand::Plain, &[0, 5, 5, 20, 23], &mut out, &mut TileStack::default());
        for (j, &got) in out.iter().enumerate() {
            assert_eq!(got, (0..rows).map(|r| grad[r * columns + j]).sum::<f32>());
        }
        assert_eq!(squares(&grad[..37]), grad[..37].iter().map(|v| f64::from(v * v)).sum::<f64>());
        assert_eq!(squares(&[]), 0.0);
    }
}
