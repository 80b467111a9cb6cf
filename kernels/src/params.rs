//! A model's parameters: names, shapes and values in one flat run, in canonical order. Gradients and
//! optimizer state have the same layout, so that a step is a few passes over flat memory.

use crate::buffer::{AlignedBuf, Shared};
use crate::cpu::gemm::{pack_transposed, packed_len};
use crate::dtype::Precision;
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which parameter of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(pub(crate) usize);

/// Parameter groups by weight decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Weights of products.
    Decayed,
    /// Biases and norms.
    Exempt,
}

/// How a parameter is used, hence what is kept beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Values only.
    Plain,
    /// The [out, in] weight of a product (axes after the first count as one): a copy packed for it is kept
    /// in step.
    Product,
    /// A running average, not trained; its "gradient" is what a step saw of it, times the rows it saw. The
    /// parameter after the last statistic of a norm, of one number, counts rows.
    Statistic,
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// Canonical name, such as `layers.0.weight`.
    pub name: String,
    /// Sizes per axis.
    pub shape: Vec<usize>,
    /// Its group.
    pub decay: Decay,
    pub(crate) range: Range<usize>,
    packed: Option<Range<usize>>,
    layout: Layout,
}

impl Param {
    /// Whether it is a running average, which is not trained and never rounded.
    pub fn is_statistic(&self) -> bool {
        self.layout == Layout::Statistic
    }
}

/// How the name of a norm's count of rows ends.
pub(crate) const ROWS_SEEN: &str = "rows_seen";

/// Elements by which parameters are aligned in the flat run: a cache line.
const ALIGN: usize = 16;

/// All parameters of a model. Gaps between them in the flat run are zero and stay so.
#[derive(Clone, Debug)]
pub struct ParamStore {
    entries: Vec<Param>,
    values: AlignedBuf,
    packed: AlignedBuf,
    version: u64,
    /// A device has newer values.
    elsewhere: bool,
}

/// A number that no other state of any parameters has had in this process.
fn next_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// Collects parameters in canonical order.
#[derive(Default)]
pub struct ParamBuilder {
    entries: Vec<Param>,
    flat: usize,
    packed: usize,
}

impl ParamBuilder {
    /// Adds a parameter of one axis or more.
    pub fn add(&mut self, name: String, shape: &[usize], decay: Decay, layout: Layout) -> Result<ParamId> {
        let refuse = || Error::value("parameters", "a model that fits in memory", format!("{name} of shape {shape:?}"));
        let len = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).ok_or_else(refuse)?;
        let end = self.flat.checked_add(len).filter(|&n| n < usize::MAX / 64).ok_or_else(refuse)?;
        let range = self.flat..end;
        self.flat = end.next_multiple_of(ALIGN);
        let packed = (layout == Layout::Product).then(|| {
            let start = self.packed;
            self.packed += packed_len(shape[0], shape[1..].iter().product());
            start..self.packed
        });
        self.entries.push(Param { name, shape: shape.to_vec(), decay, range, packed, layout });
        Ok(ParamId(self.entries.len() - 1))
    }

    /// Numbers declared so far.
    pub(crate) fn count(&self) -> usize {
        self.entries.iter().map(|p| p.range.len()).sum()
    }

    /// The store, all zero.
    pub fn build(self) -> Result<ParamStore> {
        let (values, packed) = (AlignedBuf::zeroed(self.flat)?, AlignedBuf::zeroed(self.packed)?);
        Ok(ParamStore { entries: self.entries, values, packed, version: next_version(), elsewhere: false })
    }
}

/// Norms' running averages, each with the place of its count of rows.
pub(crate) fn statistics(entries: &[Param]) -> impl Iterator<Item = (&[Param], usize)> {
    let is_count = |e: &Param| e.is_statistic() && e.shape == [1] && e.name.ends_with(ROWS_SEEN);
    let counts = entries.iter().enumerate().filter(move |(_, entry)| is_count(entry));
    counts.map(|(group, count)| {
        let begin = (0..group).rev().find(|&i| !entries[i].is_statistic()).map_or(0, |i| i + 1);
        (&entries[begin..group], count.range.start)
    })
}

impl ParamStore {
    /// Number of parameters (tensors).
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of trained numbers.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|p| p.range.len()).sum()
    }

    /// In canonical order: each parameter and its values.
    pub fn iter(&self) -> impl Iterator<Item = (&Param, &[f32])> {
        self.assert_here();
        self.entries.iter().map(|p| (p, &self.values[p.range.clone()]))
    }

    /// In canonical order, wherever the values are.
    pub fn entries(&self) -> &[Param] {
        &self.entries
    }

    fn assert_here(&self) {
        assert!(!self.elsewhere, "invariant: parameters are brought to the host before they are looked at");
    }

    /// The parameter itself.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.entries[id.0]
    }

    /// Values of one parameter.
    pub fn values(&self, id: ParamId) -> &[f32] {
        self.assert_here();
        &self.values[self.entries[id.0].range.clone()]
    }

    /// The part of a flat run (a gradient, a moment) that belongs to one parameter.
    pub fn part<'a>(&self, id: ParamId, flat: &'a [f32]) -> &'a [f32] {
        &flat[self.entries[id.0].range.clone()]
    }

    /// By name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.entries.iter().position(|p| p.name == name).map(ParamId)
    }

    /// Replaces the values of one parameter. `Shape` error where the count differs.
    pub fn set(&mut self, id: ParamId, values: &[f32]) -> Result<()> {
        let range = self.entries[id.0].range.clone();
        if values.len() != range.len() {
            return Err(Error::shape("set parameter", format!("{} values", range.len()), values.len().to_string()));
        }
        self.values[range].copy_from_slice(values);
        self.version = next_version();
        self.repack(id);
        Ok(())
    }

    /// Changes whenever a value may have changed; the same for a copy.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether there are running averages.
    pub fn has_statistics(&self) -> bool {
        self.entries.iter().any(Param::is_statistic)
    }

    /// Moves running averages towards what a step saw of them, by `momentum` of the way, and clears their
    /// part of the gradient: see [`Layout::Statistic`].
    pub fn absorb_statistics(&mut self, gradient: &mut [f32], momentum: f32) {
        self.version = next_version();
        for (averages, count) in statistics(&self.entries) {
            let rows = gradient[count];
            for range in averages.iter().map(|entry| entry.range.clone()) {
                if rows > 0.0 {
                    let seen = gradient[range.clone()].iter();
                    let pairs = self.values[range.clone()].iter_mut().zip(seen);
                    pairs.for_each(|(v, s)| *v += momentum * (s / rows - *v));
                }
                gradient[range].fill(0.0);
            }
            self.values[count] += rows;
            gradient[count] = 0.0;
        }
    }

    /// All values in the flat layout, gaps included.
    pub(crate) fn flat(&self) -> &[f32] {
        self.assert_here();
        &self.values
    }

    /// Copies the running averages to their places in a flat run.
    pub(crate) fn copy_statistics(&self, flat: &mut [f32]) {
        for entry in self.entries.iter().filter(|e| e.is_statistic()) {
            flat[entry.range.clone()].copy_from_slice(&self.values[entry.range.clone()]);
        }
    }

    /// The values are elsewhere, and newer, until [`ParamStore::set_exact`] or [`ParamStore::set_flat`] brings them.
    pub(crate) fn set_elsewhere(&mut self) {
        (self.version, self.elsewhere) = (next_version(), true);
    }

    /// Replaces all values by those of a flat run.
    pub(crate) fn set_exact(&mut self, values: &[f32]) {
        self.set_flat(values, Precision::F32);
    }

    /// Replaces all values by those of a flat run, rounded where they are trained.
    pub(crate) fn set_flat(&mut self, values: &[f32], precision: Precision) {
        assert_eq!(values.len(), self.values.len(), "invariant: one layout");
        (self.version, self.elsewhere) = (next_version(), false);
        precision.round_to(values, &mut self.values);
        for entry in self.entries.iter().filter(|e| e.is_statistic()) {
            self.values[entry.range.clone()].copy_from_slice(&values[entry.range.clone()]);
        }
        (0..self.entries.len()).for_each(|id| self.repack(ParamId(id)));
    }

    /// Length of the flat run: the length of a gradient.
    pub fn flat_len(&self) -> usize {
        self.values.len()
    }

    /// The packed form of a product's weight.
    pub(crate) fn packed(&self, id: ParamId) -> &[f32] {
        self.assert_here();
        let range = self.entries[id.0].packed.clone().expect("invariant: the weight of a product is packed");
        &self.packed[range]
    }

    fn repack(&mut self, id: ParamId) {
        let entry = &self.entries[id.0];
        if let Some(packed) = entry.packed.clone() {
            let k = entry.shape[1..].iter().product();
            pack_transposed(&self.values[entry.range.clone()], k, &mut self.packed[packed]);
        }
    }

    /// Views for an update that writes disjoint blocks on several threads.
    pub(crate) fn shared(&mut self) -> SharedParams<'_> {
        self.version = next_version();
        SharedParams { values: self.values.shared(), packed: self.packed.shared(), entries: &self.entries }
    }
}

/// The store during a parallel update.
pub(crate) struct SharedParams<'a> {
    pub values: Shared<f32>,
    packed: Shared<f32>,
    entries: &'a [Param],
}

impl SharedParams<'_> {
    /// Packs anew what a block of a product's weight holds. `block` is in the flat run and, within its
    /// parameter, begins at a multiple of 16 rows and ends at one or at the end.
    ///
    /// # Safety
    /// Nobody else touches the block or its packed form meanwhile.
    pub(crate) unsafe fn repack(&self, param: usize, block: Range<usize>) {
        let entry = &self.entries[param];
        let Some(packed) = &entry.packed else { return };
        let k: usize = entry.shape[1..].iter().product();
        let (first, len) = (block.start - entry.range.start, block.len());
        if k == 0 || len == 0 {
            return;
        }
        let start = packed.start + first;
        let end = start + packed_len(len / k, k);
        // SAFETY: by the caller's promise; the packed form of rows 16q.. begins at the same offset as the rows.
        let (values, out) = unsafe { (self.values.get(block), self.packed.get_mut(start..end)) };
        pack_transposed(values, k, out);
    }
}
