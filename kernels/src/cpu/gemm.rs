//! Matrix products whose bits are a function of the operands' own row and column.
//!
//! Definition: k is cut into chunks of [`CHUNK`]; within a chunk an element is one chain of fused
//! multiply-adds in ascending k begun at zero; chunks are added in ascending order. Products with fewer
//! than [`DOT_BELOW`] columns are dot products over 32 fixed lanes (`dot`). Nothing else enters: not the
//! number of rows, the tiling, the threads, the host's caches, or the instruction set.
//!
//! A general library picks another path for small sizes and derives its k blocks from the caches, so its
//! bits depend on both; that is why these loops are ours. Blocking after Goto and van de Geijn (2008).

use super::gemm_kernel::{MAX_TILE, PANEL, Store, Tile, run, tile_of};
use super::isa::{Isa, isa};
use super::simd;
use crate::shard::{MAX_LEVELS, Node, TreeStack, WideStack};

/// Terms of one chain.
pub const CHUNK: usize = 256;
/// Products narrower than this are dot products.
pub const DOT_BELOW: usize = 4;
/// Rows and columns per panel of a packed matrix.
pub(crate) const PANEL_COLUMNS: usize = PANEL;

/// A row-major matrix inside a longer slice: element (i, j) at `i * stride + j`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    pub(crate) fn dense(data: &'a [f32], rows: usize, columns: usize) -> Matrix<'a> {
        Matrix { data, rows, columns, stride: columns }.checked()
    }

    fn checked(self) -> Matrix<'a> {
        assert!(self.columns <= self.stride, "invariant: rows do not overlap");
        let end = if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.columns };
        assert!(end <= self.data.len(), "invariant: the matrix lies inside its slice");
        self
    }
}

/// Elements of the packed form of the transpose of a [n, k] matrix.
pub(crate) fn packed_len(n: usize, k: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// Packs rows `first..first + rows` of W [n, k] as columns of W^T: panel q holds, for each k, the
/// elements of rows 16q..16q+16. `first` is a multiple of 16; missing rows of the last panel are zero.
pub(crate) fn pack_transposed(w: &[f32], k: usize, out: &mut [f32]) {
    let rows = w.len().checked_div(k).unwrap_or(0);
    pack_matrix(Matrix::dense(&w[..rows * k], rows, k), out);
}

/// The same of a matrix inside a longer slice.
pub(crate) fn pack_matrix(w: Matrix<'_>, out: &mut [f32]) {
    let Matrix { data: w, rows, columns: k, stride } = w.checked();
    for (q, panel) in out.chunks_exact_mut((PANEL * k).max(1)).enumerate() {
        let held = rows.saturating_sub(q * PANEL).min(PANEL);
        if held == PANEL {
            pack_full(&w[q * PANEL * stride..], k, stride, panel);
        } else {
            panel.fill(0.0);
            for j in 0..held {
                let row = &w[(q * PANEL + j) * stride..][..k];
                row.iter().enumerate().for_each(|(p, &v)| panel[p * PANEL + j] = v);
            }
        }
    }
}

simd! {
    fn pack_full(w: &[f32], k: usize, stride: usize, panel: &mut [f32]) {
        const BLOCK: usize = 8;
        let whole = k / BLOCK * BLOCK;
        for p in (0..whole).step_by(BLOCK) {
            let mut square = [[0.0f32; PANEL]; BLOCK];
            for j in 0..PANEL {
                let row: &[f32; BLOCK] = w[j * stride + p..].first_chunk().expect("invariant: inside the row");
                for i in 0..BLOCK {
                    square[i][j] = row[i];
                }
            }
            for (i, line) in square.iter().enumerate() {
                panel[(p + i) * PANEL..][..PANEL].copy_from_slice(line);
            }
        }
        for p in whole..k {
            for j in 0..PANEL {
                panel[p * PANEL + j] = w[j * stride + p];
            }
        }
    }
}

/// The right operand of a product, [k, n].
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// The transpose of W [n, k], as [`pack_transposed`] lays it out.
    Packed { panels: &'a [f32], n: usize, k: usize },
    /// A row-major [k, n] matrix as it stands.
    Rows(Matrix<'a>),
}

/// Where a product goes: element (i, j) at `i * stride + j`, over what is there or added to it.
pub(crate) struct Target<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
    pub add: bool,
}

/// The left operand: element (i, p) of [rows, k] at `i * row + p * step`.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    rows: usize,
    k: usize,
    row: usize,
    step: usize,
}

/// C [m, n] = A [m, k] * B [k, n], C dense. `edge` is scratch, grown to hold one panel of a ragged B.
pub(crate) fn product(a: Matrix<'_>, b: Right<'_>, c: &mut [f32], edge: &mut Vec<f32>) {
    let n = match b {
        Right::Packed { n, .. } => n,
        Right::Rows(b) => b.columns,
    };
    assert_eq!(c.len(), a.rows * n, "invariant: C is dense");
    product_to(a, b, Target { data: c, stride: n, add: false }, edge);
}

/// The same to rows of a wider matrix, or added to what is there (chunk by chunk of k).
pub(crate) fn product_to(a: Matrix<'_>, b: Right<'_>, c: Target<'_>, edge: &mut Vec<f32>) {
    let a = a.checked();
    product_of(Left { data: a.data, rows: a.rows, k: a.columns, row: a.stride, step: 1 }, b, c, edge);
}

/// C [m, n] = A^T * B for A [k, m] and B [k, n].
pub(crate) fn product_transposed(a: Matrix<'_>, b: Matrix<'_>, c: Target<'_>, edge: &mut Vec<f32>) {
    let a = a.checked();
    product_of(Left { data: a.data, rows: a.columns, k: a.rows, row: 1, step: a.stride }, Right::Rows(b), c, edge);
}

fn product_of(a: Left<'_>, b: Right<'_>, mut c: Target<'_>, edge: &mut Vec<f32>) {
    let (k, n) = match b {
        Right::Packed { panels, n, k } => {
            assert!(panels.len() >= packed_len(n, k), "invariant: panels hold the matrix");
            (k, n)
        }
        Right::Rows(b) => (b.checked().rows, b.columns),
    };
    assert_eq!(a.k, k, "invariant: inner sizes agree");
    assert!(n <= c.stride && (a.rows == 0 || (a.rows - 1) * c.stride + n <= c.data.len()), "invariant: C holds them");
    if k == 0 {
        if !c.add {
            (0..a.rows).for_each(|i| c.data[i * c.stride..][..n].fill(0.0));
        }
        return;
    }
    let whole = match b {
        Right::Packed { .. } => n.div_ceil(PANEL),
        Right::Rows(_) => n / PANEL,
    };
    // Read once: a product is of one instruction set.
    let isa = isa();
    let (_, wide) = tile_of(isa);
    let mut q = 0;
    while q < whole {
        let panels = wide.min(whole - q);
        let strip_of = match b {
            Right::Packed { panels: data, .. } => {
                Strip { b: &data[q * PANEL * k..], b_panel: PANEL * k, b_step: PANEL, panels }
            }
            Right::Rows(b) => Strip { b: &b.data[q * PANEL..], b_panel: PANEL, b_step: b.stride, panels },
        };
        strip(isa, a, strip_of, q, n, &mut c);
        q += panels;
    }
    if let Right::Rows(b) = b
        && whole * PANEL < n
    {
        copy_edge(b, whole * PANEL, edge);
        strip(isa, a, Strip { b: edge, b_panel: PANEL, b_step: PANEL, panels: 1 }, whole, n, &mut c);
    }
}

/// Copies columns `from..` of B into one zero-padded panel.
fn copy_edge(b: Matrix<'_>, from: usize, edge: &mut Vec<f32>) {
    edge.clear();
    edge.resize(b.rows * PANEL, 0.0);
    for p in 0..b.rows {
        let row = &b.data[p * b.stride + from..p * b.stride + b.columns];
        edge[p * PANEL..][..row.len()].copy_from_slice(row);
    }
}

/// One or two panels of B: panel q begins at `q * b_panel`, its rows `b_step` apart, 16 columns each.
#[derive(Clone, Copy)]
struct Strip<'a> {
    b: &'a [f32],
    b_panel: usize,
    b_step: usize,
    panels: usize,
}

/// The columns `16 q ..` of C, from one strip of B, for all rows of A.
fn strip(isa: Isa, a: Left<'_>, b: Strip<'_>, q: usize, n: usize, c: &mut Target<'_>) {
    let (tall, _) = tile_of(isa);
    let reach = (b.panels - 1) * b.b_panel + PANEL;
    assert!((a.k - 1) * b.b_step + reach <= b.b.len(), "invariant: the strip lies inside B");
    let columns = (n - q * PANEL).min(b.panels * PANEL);
    let stride = c.stride;
    for start in (0..a.k).step_by(CHUNK) {
        let store = if start == 0 && !c.add { Store::Set } else { Store::Add };
        for i in (0..a.rows).step_by(tall) {
            let rows = tall.min(a.rows - i);
            let mut tile = Tile {
                k: CHUNK.min(a.k - start),
                a: a.data[i * a.row + start * a.step..].as_ptr(),
                a_row: a.row,
                a_step: a.step,
                b: b.b[start * b.b_step..].as_ptr(),
                b_panel: b.b_panel,
                b_step: b.b_step,
                c: c.data[i * stride + q * PANEL..].as_mut_ptr(),
                c_row: stride,
                store,
            };
            if columns == b.panels * PANEL {
                // SAFETY: A by `Matrix::checked`, B by the assertion above, C: `rows` rows of at least n
                // columns, of which 16q..16q+columns exist; `isa` was detected.
                unsafe { run(isa, rows, b.panels, &tile) };
                continue;
            }
            let mut square = [0.0f32; MAX_TILE];
            (tile.c, tile.c_row, tile.store) = (square.as_mut_ptr(), b.panels * PANEL, Store::Set);
            // SAFETY: as above; C is the local square, large enough for any tile.
            unsafe { run(isa, rows, b.panels, &tile) };
            for r in 0..rows {
                let c = &mut c.data[(i + r) * stride + q * PANEL..][..columns];
                let line = &square[r * b.panels * PANEL..][..columns];
                match store {
                    Store::Set => c.copy_from_slice(line),
                    Store::Add => c.iter_mut().zip(line).for_each(|(c, &v)| *c += v),
                }
            }
        }
    }
}

simd! {
    /// The dot product over 32 lanes: lane l is a chain over the terms l, l + 32, ...; lanes are then added
    /// pairwise by halves. Slices of the same length.
    pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
        const LANES: usize = 32;
        let mut lanes = [0.0f32; LANES];
        let (x_whole, x_rest) = x.as_chunks::<LANES>();
        let (y_whole, y_rest) = y.as_chunks::<LANES>();
        for (x, y) in x_whole.iter().zip(y_whole) {
            for l in 0..LANES {
                lanes[l] = x[l].mul_add(y[l], lanes[l]);
            }
        }
        for (l, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
            lanes[l] = x.mul_add(*y, lanes[l]);
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

/// C [m, n] = X [m, k] * W^T for W [n, k] with n below [`DOT_BELOW`].
pub(crate) fn product_by_dots(x: Matrix<'_>, w: &[f32], n: usize, c: &mut [f32]) {
    let k = x.checked().columns;
    for i in 0..x.rows {
        let row = &x.data[i * x.stride..][..k];
        for j in 0..n {
            c[i * n + j] = dot(row, &w[j * k..][..k]);
        }
    }
}

/// What one thread needs beside its operands; grown once, then reused.
#[derive(Default)]
pub(crate) struct Scratch {
    /// One padded panel of a ragged right operand.
    pub edge: Vec<f32>,
    /// Sums on their way up the shard tree.
    pub stack: TileStack,
    /// A product that is added to what is there.
    pub product: Vec<f32>,
    /// Random words.
    pub words: Vec<u32>,
    /// Ids with their rows, to be sorted; samples by length.
    pub pairs: Vec<u64>,
    /// What an operation needs for itself while it works on a block.
    pub planes: [Vec<f32>; 6],
    /// Large leaves on their way up the shard tree.
    pub tree: WideStack,
    /// A parameter's gradient from another of its uses.
    pub addend: Vec<f32>,
    /// A parameter's gradient of one sample.
    pub sample: Vec<f32>,
}

/// A tree stack whose leaves are tiles.
pub(crate) type TileStack = TreeStack<MAX_TILE>;
/// The longest leaf of a [`TileStack`].
pub(crate) const MAX_LEAF: usize = MAX_TILE;

/// The sum over the rows of a run of logical shards, A^T * B, in the order of the shard tree.
pub(crate) struct ShardProduct<'a> {
    /// Gradient of the outputs, [rows, out].
    pub a: Matrix<'a>,
    /// Inputs, [rows, in].
    pub b: Matrix<'a>,
    /// First row of each shard of the node and the end of the last, relative to `a` and `b`.
    pub bounds: &'a [usize],
    /// The node whose sum is wanted; it spans `bounds.len() - 1` shards.
    pub node: Node,
}

/// Rows `i0..i1` of the node's sum, written dense to `out` [i1 - i0, in], tile by tile: a tile's sums
/// over the shards meet in the tree's order while they are in the first-level cache.
///
/// Within a shard the order over rows is that of [`product`] over k.
pub(crate) fn shard_product(p: &ShardProduct<'_>, i0: usize, i1: usize, out: &mut [f32], scratch: &mut Scratch) {
    let (a, b) = (p.a.checked(), p.b.checked());
    assert!(i1 <= a.columns && a.rows == b.rows && p.bounds.iter().all(|&r| r <= a.rows), "invariant: rows agree");
    assert_eq!(p.bounds.len(), p.node.span() + 1, "invariant: bounds of the node's shards");
    assert_eq!(out.len(), (i1 - i0) * b.columns, "invariant: out is dense");
    let isa = isa();
    let (tall, wide) = tile_of(isa);
    let n = b.columns;
    let whole = n / PANEL;
    let Scratch { edge, stack, .. } = scratch;
    let mut q = 0;
    while q * PANEL < n {
        let ragged = q >= whole;
        let panels = if ragged { 1 } else { wide.min(whole - q) };
        let strip = if ragged {
            copy_edge(b, q * PANEL, edge);
            Strip { b: edge, b_panel: PANEL, b_step: PANEL, panels }
        } else {
            // Without rows there is nothing to begin at.
            Strip { b: &b.data[(q * PANEL).min(b.data.len())..], b_panel: PANEL, b_step: b.stride, panels }
        };
        let columns = (n - q * PANEL).min(panels * PANEL);
        for i in (i0..i1).step_by(tall) {
            let rows = tall.min(i1 - i);
            let square = shard_tile(isa, p, &strip, i, rows, stack);
            for r in 0..rows {
                out[(i - i0 + r) * n + q * PANEL..][..columns]
                    .copy_from_slice(&square[r * panels * PANEL..][..columns]);
            }
        }
        q += panels;
    }
}

/// One tile of the node's sum; dense `rows` x `16 panels` at the start of what is returned.
fn shard_tile<'s>(
    isa: Isa,
    p: &ShardProduct<'_>,
    b: &Strip<'_>,
    i: usize,
    rows: usize,
    stack: &'s mut TileStack,
) -> &'s [f32] {
    let used = rows * b.panels * PANEL;
    stack.clear();
    for shard in p.bounds.windows(2) {
        let square = stack.push(used);
        if shard[0] >= shard[1] {
            square.fill(0.0);
        }
        for start in (shard[0]..shard[1]).step_by(CHUNK) {
            let k = CHUNK.min(shard[1] - start);
            assert!(
                (start + k - 1) * b.b_step + (b.panels - 1) * b.b_panel + PANEL <= b.b.len(),
                "invariant: inside B"
            );
            let tile = Tile {
                k,
                a: p.a.data[start * p.a.stride + i..].as_ptr(),
                a_row: 1,
                a_step: p.a.stride,
                b: b.b[start * b.b_step..].as_ptr(),
                b_panel: b.b_panel,
                b_step: b.b_step,
                c: square.as_mut_ptr(),
                c_row: b.panels * PANEL,
                store: if start == shard[0] { Store::Set } else { Store::Add },
            };
            // SAFETY: A: rows start..start+k exist and columns i..i+rows are at most `a.columns`; B by the
            // assertion; C is a slot of the stack with at least `used` elements; `isa` was detected.
            unsafe { run(isa, rows, b.panels, &tile) };
        }
        stack.settle(used);
    }
    stack.finish(used)
}

const _: () = assert!(MAX_LEVELS <= 16, "the stack of tiles stays inside the first-level cache");

#[cfg(test)]
mod tests {
    use super::super::isa::{available, limit};
    use super::*;
    use crate::philox::{Key, Stream};

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = Key::new(seed, Stream::Generate).rng(0, 0);
        (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()
    }

    fn transposed(w: &[f32], n: usize, k: usize) -> Vec<f32> {
        (0..k * n).map(|i| w[i % n * k + i / n]).collect()
    }

    fn linear(x: &[f32], m: usize, k: usize, w: &[f32], n: usize) -> Vec<f32> {
        let mut packed = vec![f32::NAN; packed_len(n, k)];
        pack_transposed(w, k, &mut packed);
        let mut c = vec![f32::NAN; m * n];
        product(Matrix::dense(x, m, k), Right::Packed { panels: &packed, n, k }, &mut c, &mut Vec::new());
        c
    }

    #[test]
    fn products_are_right_and_both_layouts_agree() {
        let sizes = [0, 1, 2, 3, 5, 6, 7, 15, 16, 17, 33, 64, 257];
        for (s, &m) in sizes.iter().enumerate() {
            for &n in &sizes {
                for &k in &sizes {
                    let (x, w) = (random(s as u64, m * k), random(99, n * k));
                    let c = linear(&x, m, k, &w, n);
                    let mut direct = vec![f32::NAN; m * n];
                    let b = transposed(&w, n, k);
                    product(
                        Matrix::dense(&x, m, k),
                        Right::Rows(Matrix::dense(&b, k, n)),
                        &mut direct,
                        &mut Vec::new(),
                    );
                    assert_eq!(c, direct, "m {m} n {n} k {k}");
                    for i in 0..m {
                        for j in 0..n {
                            let want: f64 = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum();
                            assert!(
                                (f64::from(c[i * n + j]) - want).abs() < 1e-4,
                                "m {m} n {n} k {k}: {} {want}",
                                c[i * n + j]
                            );
                        }
                    }
                }
            }
        }
    }

    /// The claim everything rests on, over thousands of shapes drawn with a fixed seed.
    #[test]
    fn a_rows_bits_do_not_depend_on_the_number_of_rows() {
        let mut rng = Key::new(2024, Stream::Sample).rng(0, 0);
        let data = random(1, 300 * 700);
        for case in 0..3000 {
            let (n, k) = match case % 4 {
                0 => (1 + rng.below(5) as usize, 1 + rng.below(700) as usize),
                1 => (1 + rng.below(64) as usize, 200 + rng.below(500) as usize),
                _ => (1 + rng.below(130) as usize, 1 + rng.below(130) as usize),
            };
            let m = 1 + rng.below(70) as usize;
            let w = &data[rng.below(1000) as usize..][..n * k];
            let x = &data[rng.below(1000) as usize..][..m * k];
            let value = |x: &[f32], m: usize| {
                if n < DOT_BELOW {
                    let mut c = vec![0.0; m * n];
                    product_by_dots(Matrix::dense(x, m, k), w, n, &mut c);
                    return c;
                }
                linear(x, m, k, w, n)
            };
            let together = value(x, m);
            for i in [0, m / 2, m - 1] {
                let alone = value(&x[i * k..(i + 1) * k], 1);
                assert!(bits(&alone) == bits(&together[i * n..(i + 1) * n]), "case {case}: m {m} n {n} k {k} row {i}");
            }
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn instruction_sets_agree_to_the_last_bit() {
        let (m, n, k) = (29, 53, 611);
        let (x, w) = (random(3, m * k), random(4, n * k));
        let bounds = [0, 7, 7, 20, 29];
        let seen: Vec<_> = available()
            .into_iter()
            .map(|isa| {
                limit(isa);
                let mut all = bits(&linear(&x, m, k, &w, n));
                all.push(dot(&x[..k], &w[..k]).to_bits());
                let mut out = vec![0.0; 53 * 600];
                let (a, b) = (
                    Matrix { stride: 53, ..Matrix::dense(&w, 29, 53) },
                    Matrix { stride: 611, ..Matrix::dense(&x, 29, 600) },
                );
                let p = ShardProduct { a, b, bounds: &bounds, node: Node { first: 4, end: 8 } };
                shard_product(&p, 0, 53, &mut out, &mut Scratch::default());
                all.extend(bits(&out));
                all
            })
            .collect();
        limit(super::super::isa::Isa::Avx512);
        assert!(seen.iter().all(|one| *one == seen[0]));
    }

    #[test]
    fn shard_products_are_right() {
        for (out_n, in_n, bounds) in
            [(1, 1, vec![0, 3]), (7, 33, vec![0, 5, 5, 6]), (13, 40, vec![2, 300, 301, 310, 320, 330])]
        {
            let rows = 330;
            let (a, b) = (random(1, rows * out_n), random(2, rows * in_n));
            let node = Node { first: 0, end: bounds.len() - 1 };
            let p = ShardProduct {
                a: Matrix::dense(&a, rows, out_n),
                b: Matrix::dense(&b, rows, in_n),
                bounds: &bounds,
                node,
            };
            let mut got = vec![f32::NAN; out_n * in_n];
            let split = out_n / 2;
            let (top, bottom) = got.split_at_mut(split * in_n);
            shard_product(&p, 0, split, top, &mut Scratch::default());
            shard_product(&p, split, out_n, bottom, &mut Scratch::default());
            for i in 0..out_n {
                for j in 0..in_n {
                    let range = bounds[0]..bounds[bounds.len() - 1];
                    let want: f64 = range.map(|r| f64::from(a[r * out_n + i]) * f64::from(b[r * in_n + j])).sum();
                    assert!((f64::from(got[i * in_n + j]) - want).abs() < 1e-3);
                }
            }
        }
    }
}
