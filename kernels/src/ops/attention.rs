//! Scaled dot-product self-attention (Vaswani et al. 2017), fused: per sample, head and block of queries
//! the scores live in scratch only. Kept for the way back is one number per item and head, the logarithm
//! of its sum of exponentials (Dao et al. 2022); backward forms the probabilities again.
//!
//! Items are packed, so a padding mask is the number of items of a sample: nothing is computed for padding.

use super::{DeviceEnv, Env, GradStore, Op, Var};
use crate::cpu::attention::{self as loops, padded};
use crate::cpu::gemm::{Matrix, Right, Scratch, Target, pack_matrix, packed_len, product_to, product_transposed};
use crate::cuda::launch::MANY_BLOCKS;
use crate::cuda::machine::word;
use crate::cuda::product::{Names, kernel};
use crate::cuda::{ATTENTION, ATTENTION_TENSOR, Argument, Launch, Source};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::philox::{Key, Stream, fill_words};
use crate::tape::{Scratch as DeviceScratch, Tape};
use std::ops::Range;

const OP: &str = "attention";

/// One recorded attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// Queries, keys, values side by side: [items, 3 heads width].
    pub input: Var,
    pub output: Var,
    /// [items, heads]
    log_sums: Var,
    heads: usize,
    width: usize,
    rate: f32,
    lane: u32,
}

/// Queries that are worked on at a time.
const BLOCK: usize = 64;

impl Tape<'_> {
    /// Attention of the items of each sample to one another: `qkv` [items, 3 D] (queries, keys, values, each
    /// of `heads` runs of D / heads columns) to [items, D]. Probabilities are dropped with `rate` during
    /// training; `lane` tells layers apart.
    pub fn attention(&mut self, qkv: Var, heads: usize, rate: f32, lane: u32) -> Result<Var> {
        let columns = self.columns(qkv);
        if heads == 0 || !columns.is_multiple_of(3 * heads) {
            return Err(Error::shape("attention", format!("a multiple of 3 * {heads} columns"), columns.to_string()));
        }
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::value("attention", "a dropout rate in [0, 1)", rate));
        }
        let rate = if self.is_training() { rate } else { 0.0 };
        let (output, log_sums) = (self.fresh_like(qkv, columns / 3)?, self.fresh_like(qkv, heads)?);
        let width = columns / 3 / heads;
        self.record(Op::Attention(Attention { input: qkv, output, log_sums, heads, width, rate, lane }))?;
        Ok(output)
    }
}

/// One head of one sample.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// The sample's rows of the input, from the head's first query column.
    qkv: &'a [f32],
    items: usize,
    width: usize,
    /// Columns of the output, a third of the input's.
    model: usize,
}

impl<'a> Head<'a> {
    /// Queries (0), keys (1) or values (2) of a range of items.
    fn part(&self, which: usize, items: Range<usize>) -> Matrix<'a> {
        let data = &self.qkv[items.start * 3 * self.model + which * self.model..];
        Matrix { data, rows: items.len(), columns: self.width, stride: 3 * self.model }
    }
}

impl Attention {
    fn model(&self) -> usize {
        self.heads * self.width
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The random words of a block of rows of probabilities.
    fn words(&self, env: &Env<'_>, sample: usize, head: usize, from: usize, columns: usize, words: &mut [u32]) {
        let random = env.randomness;
        let key = Key::new(random.seed, Stream::Dropout).lane(self.lane | (head as u32 + 1) << 16).epoch(random.epoch);
        // Rows are a multiple of 16 words long: each begins a block.
        let first = (from * columns / 4) as u32;
        fill_words(key.words(), env.sample_ids[sample], random.step, first, words);
    }

    fn dropped(&self) -> (u32, f32) {
        ((f64::from(self.rate) * 2f64.powi(32)) as u32, 1.0 / (1.0 - self.rate))
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, scratch: &mut Scratch) {
        let (model, scale) = (self.model(), self.scale());
        for sample in samples {
            let rows = env.rows_of(self.input, &(sample..sample + 1));
            let items = rows.len();
            let (x, y) = (env.rows(self.input, &rows), env.rows_mut(self.output, &rows));
            let log_sums = env.rows_mut(self.log_sums, &rows);
            if items == 0 {
                continue;
            }
            let columns = padded(items);
            let Scratch { planes: [keys, scores, dropped, ..], edge, words, .. } = &mut *scratch;
            keys.resize(packed_len(columns, self.width), 0.0);
            for head in 0..self.heads {
                let own = Head { qkv: &x[head * self.width..], items, width: self.width, model };
                pack_matrix(own.part(1, 0..items), keys);
                for from in (0..items).step_by(BLOCK) {
                    let block = from..(from + BLOCK).min(items);
                    scores.resize(block.len() * columns, 0.0);
                    let right = Right::Packed { panels: keys, n: columns, k: self.width };
                    product_to(
                        own.part(0, block.clone()),
                        right,
                        Target { data: scores, stride: columns, add: false },
                        edge,
                    );
                    let sums = &mut log_sums[from * self.heads + head..];
                    loops::softmax(scores, items, columns, scale, sums, self.heads);
                    let weights: &[f32] = if self.rate > 0.0 {
                        let (below, up) = self.dropped();
                        words.resize(scores.len(), 0);
                        dropped.resize(scores.len(), 0.0);
                        self.words(env, sample, head, from, columns, words);
                        loops::drop(scores, words, below, up, dropped);
                        dropped
                    } else {
                        scores
                    };
                    let left = Matrix { data: weights, rows: block.len(), columns: items, stride: columns };
                    let to = Target { data: &mut y[from * model + head * self.width..], stride: model, add: false };
                    product_to(left, Right::Rows(own.part(2, 0..items)), to, edge);
                }
            }
        }
    }

    pub(super) fn backward(&self, env: &Env<'_>, samples: Range<usize>, stores: [GradStore; 2], scratch: &mut Scratch) {
        if stores[0] == GradStore::Skip {
            return;
        }
        for sample in samples {
            let rows = env.rows_of(self.input, &(sample..sample + 1));
            if rows.is_empty() {
                continue;
            }
            for head in 0..self.heads {
                self.head_backward(env, sample, head, rows.clone(), stores[0] == GradStore::Add, scratch);
            }
        }
    }

    fn head_backward(
        &self,
        env: &Env<'_>,
        sample: usize,
        head: usize,
        rows: Range<usize>,
        add: bool,
        scratch: &mut Scratch,
    ) {
        let (model, scale, items) = (self.model(), self.scale(), rows.len());
        let (x, y) = (env.rows(self.input, &rows), env.rows(self.output, &rows));
        let (grad, log_sums) = (env.grad(self.output, &rows), env.rows(self.log_sums, &rows));
        let dx = &mut env.grad_mut(self.input, &rows)[head * self.width..];
        let columns = padded(items);
        let Scratch { planes: [keys, scores, dropped, values, upstream, _], edge, words, .. } = scratch;
        let own = Head { qkv: &x[head * self.width..], items, width: self.width, model };
        keys.resize(packed_len(columns, self.width), 0.0);
        values.resize(packed_len(columns, self.width), 0.0);
        pack_matrix(own.part(1, 0..own.items), keys);
        pack_matrix(own.part(2, 0..own.items), values);
        for from in (0..items).step_by(BLOCK) {
            let block = from..(from + BLOCK).min(items);
            let len = block.len() * columns;
            [&mut *scores, &mut *upstream].into_iter().for_each(|v| v.resize(len, 0.0));
            let packed = |panels| Right::Packed { panels, n: columns, k: self.width };
            let first = from * model + head * self.width;
            let out = Matrix { data: &grad[first..], rows: block.len(), columns: self.width, stride: model };
            product_to(
                own.part(0, block.clone()),
                packed(keys),
                Target { data: scores, stride: columns, add: false },
                edge,
            );
            loops::probabilities(scores, items, columns, scale, &log_sums[from * self.heads + head..], self.heads);
            product_to(out, packed(values), Target { data: upstream, stride: columns, add: false }, edge);
            let weights: &[f32] = if self.rate > 0.0 {
                let (below, up) = self.dropped();
                words.resize(len, 0);
                dropped.resize(len, 0.0);
                self.words(env, sample, head, from, columns, words);
                loops::drop(upstream, words, below, up, dropped);
                std::mem::swap(dropped, upstream);
                loops::drop(scores, words, below, up, dropped);
                dropped
            } else {
                scores
            };
            let later = add || from > 0;
            let stride = 3 * model;
            let weights = Matrix { data: weights, rows: block.len(), columns: items, stride: columns };
            product_transposed(weights, out, Target { data: &mut dx[2 * model..], stride, add: later }, edge);
            loops::backward(scores, upstream, columns, scale, &y[first..], &grad[first..], self.width, model);
            let slopes = Matrix { data: upstream, rows: block.len(), columns: items, stride: columns };
            let queries = Target { data: &mut dx[from * stride..], stride, add };
            product_to(slopes, Right::Rows(own.part(1, 0..items)), queries, edge);
            product_transposed(slopes, own.part(0, block), Target { data: &mut dx[model..], stride, add: later }, edge);
        }
    }
}

impl Attention {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let tiles = Tiles::of(self.width, env.precision())?;
        let mut arguments = vec![env.data(self.input), env.data(self.output), env.data(self.log_sums)];
        arguments.extend(self.shape(env)?);
        let launch = self.launch(env, tiles.queries, tiles.forward_bytes());
        env.start(OP, tiles.source, tiles.kernel(0), launch, &arguments)
    }

    pub(super) fn backward_on(&self, env: &mut DeviceEnv<'_>, stores: [GradStore; 2]) -> Result<()> {
        if stores[0] == GradStore::Skip {
            return Ok(());
        }
        let (tiles, pairs) = (Tiles::of(self.width, env.precision())?, env.count(self.log_sums));
        let dots = Argument::Address(env.scratch(DeviceScratch::First, pairs as usize * 4)?);
        let width = Argument::Word(word(OP, self.width)?);
        let of_dots = [env.data(self.output), env.grad(self.output), dots, Argument::Word64(pairs), width];
        let blocks = pairs.div_ceil(4).min(MANY_BLOCKS);
        let launch = Launch::new(OP, [blocks, 1, 1], [THREADS, 1, 1], 0);
        env.start(OP, ATTENTION, "attention_dots", launch, &of_dots)?;
        let mut arguments =
            vec![env.data(self.input), env.grad(self.output), env.data(self.log_sums), dots, env.grad(self.input)];
        arguments.extend(self.shape(env)?);
        arguments.push(stores[0].argument());
        for which in [1, 2] {
            let launch = self.launch(env, tiles.own, tiles.backward_bytes());
            env.start(OP, tiles.source, tiles.kernel(which), launch, &arguments)?;
        }
        Ok(())
    }

    /// A block for each sample, head and tile of the longest sample's items, with so much shared memory.
    fn launch(&self, env: &DeviceEnv<'_>, tile: usize, bytes: usize) -> Result<Option<Launch>> {
        let grid = [env.samples, self.heads, env.longest(self.input).div_ceil(tile)].map(|n| n as u64);
        Launch::new(OP, grid, [THREADS, 1, 1], bytes as u32)
    }

    /// What all kernels are told of the shape and the dropout: `SHAPE` of `attention.cu`.
    fn shape(&self, env: &DeviceEnv<'_>) -> Result<[Argument; 10]> {
        let (below, up) = if self.rate > 0.0 { self.dropped() } else { (0, 1.0) };
        Ok([
            env.offsets(self.input),
            env.sample_ids(),
            Argument::Word(word(OP, self.heads)?),
            Argument::Word(word(OP, self.width)?),
            Argument::Float(self.scale()),
            env.random(),
            Argument::Word(Stream::Dropout as u32),
            Argument::Word(self.lane),
            Argument::Word(below),
            Argument::Float(up),
        ])
    }
}

/// Threads of a block: four warps.
const THREADS: u32 = 128;

/// The kernels for heads of some width, and their tiles: the template arguments in `attention.cu` and
/// `attention_tensor.cu`.
#[derive(Clone, Copy)]
struct Tiles {
    source: Source,
    /// Forward, for queries, and for keys and values.
    names: [Names; 3],
    precision: Precision,
    /// A row of a head in shared memory, in bytes.
    row: usize,
    /// Queries of a block, forward, and its tiles of keys.
    queries: usize,
    keys: usize,
    /// Rows that a block owns on the way back, and those that it goes through at a time.
    own: usize,
    other: usize,
}

/// The widest head, and (names, [queries, keys, own, other]) as in [`Tiles`].
type Sizes = (usize, [Names; 3], [usize; 4]);

const NAMES_32: [Names; 3] = [
    ["attention_forward_32", "attention_forward_32_bf16", "attention_forward_32_f16"],
    ["attention_queries_32", "attention_queries_32_bf16", "attention_queries_32_f16"],
    ["attention_keys_32", "attention_keys_32_bf16", "attention_keys_32_f16"],
];
const NAMES_64: [Names; 3] = [
    ["attention_forward_64", "attention_forward_64_bf16", "attention_forward_64_f16"],
    ["attention_queries_64", "attention_queries_64_bf16", "attention_queries_64_f16"],
    ["attention_keys_64", "attention_keys_64_bf16", "attention_keys_64_f16"],
];
const NAMES_128: [Names; 3] = [
    ["attention_forward_128", "attention_forward_128_bf16", "attention_forward_128_f16"],
    ["attention_queries_128", "attention_queries_128_bf16", "attention_queries_128_f16"],
    ["attention_keys_128", "attention_keys_128_bf16", "attention_keys_128_f16"],
];
/// Wider heads have kernels in f32 only: a warp's results of two-byte factors would not fit its registers.
const NAMES_256: [Names; 3] = [["attention_forward_256"; 3], ["attention_queries_256"; 3], ["attention_keys_256"; 3]];

const OF_SINGLES: [Sizes; 4] = [
    (32, NAMES_32, [32, 32, 32, 32]),
    (64, NAMES_64, [32, 32, 16, 32]),
    (128, NAMES_128, [16, 32, 16, 16]),
    (256, NAMES_256, [8, 16, 8, 8]),
];
const OF_HALVES: [Sizes; 3] =
    [(32, NAMES_32, [64, 32, 64, 32]), (64, NAMES_64, [64, 32, 64, 32]), (128, NAMES_128, [64, 32, 64, 16])];

impl Tiles {
    fn of(width: usize, precision: Precision) -> Result<Tiles> {
        let fitting = |(most, ..): &&Sizes| width <= *most;
        let halves = OF_HALVES.iter().find(fitting).filter(|_| precision != Precision::F32);
        let make = |&(_, names, [queries, keys, own, other]): &Sizes, source: Source, row: usize| Tiles {
            source,
            names,
            precision,
            row,
            queries,
            keys,
            own,
            other,
        };
        if let Some(sizes) = halves {
            return Ok(make(sizes, ATTENTION_TENSOR, (sizes.0 / 2 + 4) * 4));
        }
        let singles = OF_SINGLES.iter().find(fitting);
        let singles = singles.ok_or_else(|| Error::value(OP, "heads of at most 256 columns on a device", width))?;
        Ok(Tiles { precision: Precision::F32, ..make(singles, ATTENTION, (width + 1) * 4) })
    }

    fn kernel(&self, which: usize) -> &'static str {
        kernel(self.names[which], self.precision)
    }

    fn forward_bytes(&self) -> usize {
        (self.queries + 2 * self.keys) * self.row
    }

    fn backward_bytes(&self) -> usize {
        2 * (self.own + self.other) * self.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_the_shared_memory_of_every_device() {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            for width in 1..=256 {
                let tiles = Tiles::of(width, precision).expect("fits");
                for bytes in [tiles.forward_bytes(), tiles.backward_bytes()] {
                    Launch::new(OP, [1 << 20, 64, 512], [THREADS, 1, 1], bytes as u32).expect("fits");
                }
            }
            assert!(Tiles::of(257, precision).is_err());
        }
        let name = |width, precision| Tiles::of(width, precision).expect("fits").kernel(0);
        assert_eq!(name(40, Precision::Bf16), "attention_forward_64_bf16");
        assert_eq!(name(128, Precision::F16), "attention_forward_128_f16");
        assert_eq!(name(129, Precision::F16), "attention_forward_256");
    }
}
