//! Rows of tables picked by id and added: token + position + type embeddings in one pass, or a category's
//! embedding on its own.
//!
//! The gradient of a table is dense. A block of table rows takes the items whose id falls in it, sorted by
//! (id, item): the items of one id are summed in order within a shard, shards in the order of the tree. A
//! shard without the id would add +0, which changes no sum that began at +0, so it is left out.

use super::linear::pair_sum;
use super::{DeviceEnv, DeviceTask, Env, GradStore, MAX_PARAMS, Op, ParamTask, Raw, RawId, Var};
use crate::cpu::gemm::{MAX_LEAF, Scratch, TileStack, dot};
use crate::cpu::reduce::add_assign;
use crate::cuda::launch::{MANY_BLOCKS, WARP};
use crate::cuda::machine::word;
use crate::cuda::{Argument, EMBEDDING, Launch};
use crate::error::{Error, Result};
use crate::params::ParamId;
use crate::tape::{Items, Space, Tape};
use std::ops::Range;

const OP: &str = "embedding";

/// Ids as an input: rows of a space, each of `columns` ids.
#[derive(Clone, Copy, Debug)]
pub struct Ids<'a> {
    pub(super) raw: RawId,
    pub(super) space: Space,
    pub(super) columns: usize,
    pub(super) values: &'a [u32],
}

/// Where the row of a table comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Column `at` of rows of `columns` ids.
    Ids { raw: RawId, columns: usize, at: usize },
    /// The item's position in its sample.
    Position,
    /// Row 0: the one type of a text that has no second part.
    Zero,
}

/// One recorded embedding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedding {
    pub output: Var,
    tables: [Option<(Source, ParamId)>; 3],
    columns: usize,
}

impl<'a> Tape<'a> {
    /// Ids [rows of the space, columns], row-major. `Shape` error where the count differs.
    pub fn ids(&mut self, space: Space, values: &'a [u32], columns: usize) -> Result<Ids<'a>> {
        let rows = self.rows_of(space).at(self.samples());
        if rows.checked_mul(columns) != Some(values.len()) {
            let expected = format!("{rows} rows of {columns}");
            return Err(Error::shape("ids", expected, format!("{} ids", values.len())));
        }
        Ok(Ids { raw: self.hold(Raw::Ids(values))?, space, columns, values })
    }

    /// Rows of `table` [ids, columns] by column `at` of the ids. `Value` error names a sample whose id is
    /// out of range.
    pub fn embedding(&mut self, ids: Ids<'a>, at: usize, table: ParamId) -> Result<Var> {
        self.embed(ids, at, table, None, None)
    }

    /// The sum of a token's row, the row of `positions` at its place in the sample, and of `types` either
    /// the row by a second column of ids or row 0.
    pub fn embedding_sum(
        &mut self,
        ids: Ids<'a>,
        table: ParamId,
        positions: Option<ParamId>,
        types: Option<ParamId>,
    ) -> Result<Var> {
        self.embed(ids, 0, table, positions, types)
    }

    fn embed(
        &mut self,
        ids: Ids<'a>,
        at: usize,
        table: ParamId,
        positions: Option<ParamId>,
        types: Option<ParamId>,
    ) -> Result<Var> {
        let Ids { raw, space, columns, .. } = ids;
        let by = |at| Source::Ids { raw, columns, at };
        let type_source = if columns > 1 { by(1) } else { Source::Zero };
        let tables = [Some((by(at), table)), positions.map(|p| (Source::Position, p)), types.map(|t| (type_source, t))];
        let width = self.params().param(table).shape.get(1).copied().unwrap_or(0);
        for (source, id) in tables.iter().flatten() {
            let param = self.params().param(*id);
            let [rows, columns] = *param.shape.as_slice() else {
                return Err(Error::shape("embedding", "a table [ids, columns]", format!("{:?}", param.shape)));
            };
            if columns != width {
                let expected = format!("{} of {width} columns", param.name);
                return Err(Error::shape("embedding", expected, columns.to_string()));
            }
            self.check_ids(&ids, *source, rows, &param.name)?;
        }
        let output = self.fresh_in(space, width)?;
        self.record(Op::Embedding(Embedding { output, tables, columns: width }))?;
        Ok(output)
    }

    fn check_ids(&self, ids: &Ids<'a>, source: Source, rows: usize, name: &str) -> Result<()> {
        let space = self.rows_of(ids.space);
        let refuse = |expected: String, got: usize, sample: usize| {
            Err(Error::value("embedding", expected, format!("{got} ({})", self.name_sample(sample))))
        };
        match source {
            Source::Zero if rows == 0 => Err(Error::shape("embedding", format!("a row in {name}"), "none")),
            Source::Zero => Ok(()),
            Source::Position => {
                let length = |s: usize| space.at(s + 1) - space.at(s);
                match (0..self.samples()).find(|&s| length(s) > rows) {
                    Some(s) => refuse(format!("at most {rows} items per sample ({name})"), length(s), s),
                    None => Ok(()),
                }
            }
            Source::Ids { columns, at, .. } => {
                if at >= columns {
                    return Err(Error::shape("embedding", format!("a column below {columns}"), at.to_string()));
                }
                let bad = ids.values.iter().skip(at).step_by(columns).position(|&id| id as usize >= rows);
                let Some(row) = bad else { return Ok(()) };
                let sample = (0..self.samples()).find(|&s| space.at(s + 1) > row).unwrap_or(0);
                refuse(format!("ids below {rows} ({name})"), ids.values[row * columns + at] as usize, sample)
            }
        }
    }
}

impl Embedding {
    pub(crate) fn params(&self) -> [Option<ParamId>; MAX_PARAMS] {
        let [a, b, c] = self.tables.map(|t| t.map(|(_, id)| id));
        [a, b, c, None, None]
    }

    fn id(env: &Env<'_>, source: Source, row: usize, first: usize) -> usize {
        match source {
            Source::Ids { raw, columns, at } => env.ids(raw)[row * columns + at] as usize,
            Source::Position => row - first,
            Source::Zero => 0,
        }
    }

    pub(super) fn forward(&self, env: &Env<'_>, samples: Range<usize>, _: &mut Scratch) {
        for sample in samples {
            let rows = env.rows_of(self.output, &(sample..sample + 1));
            for row in rows.clone() {
                let y = env.rows_mut(self.output, &(row..row + 1));
                for (n, (source, table)) in self.tables.iter().flatten().enumerate() {
                    let id = Embedding::id(env, *source, row, rows.start);
                    let x = &env.params.values(*table)[id * self.columns..][..self.columns];
                    if n == 0 { y.copy_from_slice(x) } else { add_assign(y, x) }
                }
            }
        }
    }

    pub(super) fn backward(&self, _: &Env<'_>, _: Range<usize>, _: [GradStore; 2], _: &mut Scratch) {}

    pub(super) fn param_gradient(&self, env: &Env<'_>, task: &ParamTask<'_>, scratch: &mut Scratch) {
        let (source, _) = self.tables[task.which].expect("invariant: planned for a table");
        let width = self.columns;
        // SAFETY: blocks of parameter gradients are disjoint.
        let out = unsafe { task.out.get_mut(task.block.start * width..task.block.end * width) };
        out.fill(0.0);
        let (Some(&first), Some(&last)) = (task.samples.first(), task.samples.last()) else { return };
        let Scratch { pairs, stack, .. } = scratch;
        pairs.clear();
        for sample in first..last {
            let rows = env.rows_of(self.output, &(sample..sample + 1));
            for row in rows.clone() {
                let id = Embedding::id(env, source, row, rows.start);
                if task.block.contains(&id) {
                    pairs.push((id as u64) << 32 | row as u64);
                }
            }
        }
        pairs.sort_unstable();
        let grad = env.whole(self.output, task.rows).1;
        for run in pairs.chunk_by(|a, b| a >> 32 == b >> 32) {
            let id = (run[0] >> 32) as usize;
            let out = &mut out[(id - task.block.start) * width..][..width];
            sum_run(run, grad, task.bounds, out, stack);
        }
    }
}

impl Embedding {
    /// One sample's squared norm: rows of one id add up, so the sum of dy_i . dy_j over pairs of one id.
    pub(super) fn sample_squares(&self, env: &Env<'_>, which: usize, sample: usize) -> f64 {
        let (source, _) = self.tables[which].expect("invariant: asked for a table");
        let rows = env.rows_of(self.output, &(sample..sample + 1));
        let id = |row: usize| Embedding::id(env, source, row, rows.start);
        let grad = |row: usize| env.grad(self.output, &(row..row + 1));
        pair_sum(rows.clone(), |i, j| if id(i) == id(j) { f64::from(dot(grad(i), grad(j))) } else { 0.0 })
    }
}

/// The sum of the rows named in the lower halves of `run`, shard by shard in the tree's order.
fn sum_run(run: &[u64], grad: &[f32], bounds: &[usize], out: &mut [f32], stack: &mut TileStack) {
    let width = out.len();
    let row_of = |pair: u64| (pair & u64::from(u32::MAX)) as usize;
    let shard_of = |row: usize| bounds.partition_point(|&b| b <= row);
    let (first, last) = (row_of(run[0]), row_of(run[run.len() - 1]));
    if shard_of(first) == shard_of(last) {
        return run.iter().for_each(|&pair| add_assign(out, &grad[row_of(pair) * width..][..width]));
    }
    for (n, out) in out.chunks_mut(MAX_LEAF).enumerate() {
        let mut rest = run;
        stack.clear();
        for shard in bounds.windows(2) {
            let sums = stack.push(out.len());
            sums.fill(0.0);
            let here = rest.partition_point(|&pair| row_of(pair) < shard[1]);
            for &pair in &rest[..here] {
                add_assign(sums, &grad[row_of(pair) * width + n * MAX_LEAF..][..out.len()]);
            }
            rest = &rest[here..];
            stack.settle(out.len());
        }
        out.copy_from_slice(stack.finish(out.len()));
    }
}

impl Embedding {
    pub(super) fn forward_on(&self, env: &mut DeviceEnv<'_>) -> Result<()> {
        let (mut kinds, mut ats, mut ids, mut columns) = (0, [0; 3], Argument::Address(0), 1);
        for (n, (source, _)) in self.tables.iter().enumerate().filter_map(|(n, table)| Some((n, (*table)?))) {
            kinds |= match source {
                Source::Ids { raw, columns: wide, at } => {
                    (ids, columns, ats[n]) = (env.raw(raw), wide, at);
                    1
                }
                Source::Position => 2,
                Source::Zero => 3,
            } << (2 * n);
        }
        let [first, second, third] = self.tables.map(|table| env.param_or_none(table.map(|(_, id)| id)));
        let arguments = [
            first,
            second,
            third,
            ids,
            env.offsets(self.output),
            env.data(self.output),
            Argument::Word64(env.samples as u64),
            Argument::Word(word(OP, self.columns)?),
            Argument::Word(word(OP, columns)?),
            Argument::Word(word(OP, ats[0])?),
            Argument::Word(word(OP, ats[2])?),
            Argument::Word(kinds),
        ];
        let each = (env.longest(self.output) * self.columns) as u64;
        env.start(OP, EMBEDDING, "embedding_forward", Launch::over_samples(OP, env.samples as u64, each), &arguments)
    }

    pub(super) fn backward_on(&self, _: &mut DeviceEnv<'_>, _: [GradStore; 2]) -> Result<()> {
        Ok(())
    }

    /// The items sorted by (id, item), for the gradient of table `which`: they go up with the batch.
    pub(crate) fn sorted(&self, which: usize, raws: &[Raw<'_>], items: &Items, samples: usize) -> Result<Sorted> {
        let (source, _) = self.tables[which].expect("invariant: a table");
        let count = items.at(samples);
        word(OP, count)?;
        let mut pairs = Vec::with_capacity(count);
        for sample in 0..samples {
            let begin = items.at(sample);
            for row in begin..items.at(sample + 1) {
                let id = match source {
                    Source::Ids { raw, columns, at } => u64::from(ids_of(&raws[raw.0])[row * columns + at]),
                    Source::Position => (row - begin) as u64,
                    Source::Zero => 0,
                };
                pairs.push(id << 32 | row as u64);
            }
        }
        pairs.sort_unstable();
        let (mut rows, mut starts, mut runs) = (Vec::with_capacity(count), Vec::new(), vec![0]);
        for run in pairs.chunk_by(|a, b| a >> 32 == b >> 32) {
            starts.push(rows.len() as u32);
            runs.push((run[0] >> 32) as u32);
            rows.extend(run.iter().map(|pair| *pair as u32));
        }
        starts.push(rows.len() as u32);
        runs[0] = runs.len() as u32 - 1;
        Ok(Sorted { rows, starts, runs })
    }

    /// Each id's run of items is summed by one block.
    pub(super) fn param_gradient_on(&self, env: &mut DeviceEnv<'_>, task: &DeviceTask) -> Result<()> {
        let (source, id) = self.tables[task.which].expect("invariant: planned for a table");
        let items = env.items(self.output).at(env.samples);
        // As many blocks as there may be ids, so that the launch does not depend on which ones a batch has.
        let most = match source {
            Source::Ids { .. } => items.min(env.params.param(id).shape[0]),
            Source::Position => env.longest(self.output),
            Source::Zero => items.min(1),
        };
        let [rows, starts, runs] = env.sorted(task);
        let arguments = [
            env.grad(self.output),
            rows,
            starts,
            runs,
            env.bounds_of(self.output, task),
            env.out(task),
            Argument::Word(word(OP, self.columns)?),
            Argument::Word(word(OP, task.node.span())?),
            Argument::Word(u32::from(task.add)),
        ];
        let threads = (self.columns as u32).clamp(1, 256).next_multiple_of(WARP);
        let launch = Launch::new(OP, [(most as u64).min(MANY_BLOCKS), 1, 1], [threads, 1, 1], 0);
        env.start(OP, EMBEDDING, "embedding_backward", launch, &arguments)
    }
}

/// Items by the ids that they pick.
pub(crate) struct Sorted {
    pub rows: Vec<u32>,
    /// Where each id's run of items begins, and the end of the last.
    pub starts: Vec<u32>,
    /// How many there are, then their ids.
    pub runs: Vec<u32>,
}

fn ids_of<'r>(raw: &Raw<'r>) -> &'r [u32] {
    match raw {
        Raw::Ids(ids) => ids,
        _ => unreachable!("invariant: held as ids"),
    }
}
