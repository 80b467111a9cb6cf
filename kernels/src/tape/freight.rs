//! What goes up to a device for a run: inputs, ids, where samples begin, targets, all in one piece of memory. It follows from
//! the batch and the recording alone, so it can be brought beside the device while that computes the step before, and steps
//! over batches of equal sizes find everything where the last one had it.

use super::Tape;
use crate::cuda::machine::bytes_of;
use crate::error::Result;
use crate::ops::loss::{Loss, Targets};
use crate::ops::{Op, Raw};

/// Places within the piece of memory, in bytes from its beginning.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub bytes: usize,
    /// By value, where it is an input.
    pub inputs: Vec<Option<usize>>,
    pub raws: Vec<usize>,
    /// First row of each sample, by space.
    pub offsets: Vec<usize>,
    /// First row of each shard, by space.
    pub bounds: Vec<usize>,
    pub sample_ids: usize,
    pub targets: usize,
    pub row_weights: Option<usize>,
    pub class_weights: Option<usize>,
    /// Items of tables that learn, by operation and table.
    pub sorted: Vec<(usize, usize, [usize; 3])>,
}

/// A layout with what goes there.
pub(crate) struct Freight<'f> {
    pub layout: Layout,
    parts: Vec<(usize, Part<'f>)>,
}

enum Part<'f> {
    Bytes(&'f [u8]),
    Words(Vec<u32>),
    Offsets(Vec<u64>),
}

impl Part<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Bytes(bytes) => bytes,
            Part::Words(words) => bytes_of(words),
            Part::Offsets(offsets) => bytes_of(offsets),
        }
    }
}

impl<'f> Freight<'f> {
    /// Puts a part where `room` bytes are left for it.
    fn add(&mut self, part: Part<'f>, room: usize) -> usize {
        /// Parts begin as memory of their own would.
        const ALIGNED: usize = 256;
        let at = self.layout.bytes;
        self.layout.bytes = (at + room).next_multiple_of(ALIGNED);
        self.parts.push((at, part));
        at
    }

    fn add_whole(&mut self, bytes: &'f [u8]) -> usize {
        self.add(Part::Bytes(bytes), bytes.len())
    }

    /// The parts with their places, but for those of no size.
    pub fn parts(&self) -> Vec<(usize, &[u8])> {
        self.parts.iter().map(|(at, part)| (*at, part.bytes())).filter(|(_, bytes)| !bytes.is_empty()).collect()
    }
}

impl Tape<'_> {
    /// What a run needs; `loss`: one that goes back, and is planned to.
    pub(crate) fn freight<'f>(&'f self, loss: Option<&Loss<'f>>) -> Result<Freight<'f>> {
        let (ws, samples) = (&*self.ws, self.rows.count);
        let mut all = Freight { layout: Layout::default(), parts: Vec::new() };
        for value in ws.values() {
            let place = value.is_input.then(|| all.add_whole(bytes_of(&value.data[..])));
            all.layout.inputs.push(place);
        }
        for raw in &self.raws[..self.raw_count] {
            let place = all.add_whole(match *raw {
                Raw::Ids(ids) => bytes_of(ids),
                Raw::Bytes(bytes) => bytes,
                Raw::Floats(floats) => bytes_of(floats),
            });
            all.layout.raws.push(place);
        }
        for space in ws.spaces.all() {
            let firsts = |samples: &mut dyn Iterator<Item = usize>| samples.map(|s| space.at(s) as u64).collect();
            let offsets: Vec<u64> = firsts(&mut (0..=samples));
            let bounds: Vec<u64> = firsts(&mut ws.shards.iter().copied());
            let rooms = [offsets.len() * 8, bounds.len() * 8];
            let places = [all.add(Part::Offsets(offsets), rooms[0]), all.add(Part::Offsets(bounds), rooms[1])];
            all.layout.offsets.push(places[0]);
            all.layout.bounds.push(places[1]);
        }
        all.layout.sample_ids = all.add_whole(bytes_of(self.rows.sample_ids));
        let Some(loss) = loss else { return Ok(all) };
        all.layout.targets = all.add_whole(match loss.targets {
            Targets::Real(values) => bytes_of(values),
            Targets::Class(classes) => bytes_of(classes),
        });
        all.layout.row_weights = loss.weights.map(|weights| all.add_whole(bytes_of(weights)));
        all.layout.class_weights = loss.config.class_weights().map(|weights| all.add_whole(bytes_of(weights)));
        for (at, recorded) in ws.ops.iter().enumerate().filter(|(_, recorded)| recorded.live) {
            let Op::Embedding(op) = &recorded.op else { continue };
            let items = ws.spaces.get(ws.values()[op.output.0].space);
            // As much as items that pick an id each would need.
            let most = (items.at(samples) + 1) * 4;
            for (which, _) in op.params().iter().enumerate().filter(|(_, id)| id.is_some()) {
                let sorted = op.sorted(which, &self.raws[..self.raw_count], items, samples)?;
                let places = [sorted.rows, sorted.starts, sorted.runs].map(|words| all.add(Part::Words(words), most));
                all.layout.sorted.push((at, which, places));
            }
        }
        Ok(all)
    }
}
