//! Work that comes again and again becomes a graph of the driver's, which is started by one call instead of one for each
//! kernel. A graph is used for the very list that it was captured from, to the last argument and address: so it cannot
//! compute anything else than that list would. What changes from step to step lies in memory, or the list is another one.
//!
//! Work is captured on a stream that nobody else uses, so nothing else can get into a graph. Where that does not go, kernels
//! are started one by one as before, and a line says why.

use super::{Function, Gpu, Name, Started, lock, new_stream, words};
use crate::cuda::work::{Item, Work};
use crate::error::Result;
use cudarc::driver::sys as cu;
use std::sync::Arc;

/// Whether work that comes again is kept as graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graphs {
    Auto,
    Off,
}

/// Shorter work gains nothing.
const LEAST: usize = 4;
/// Work that comes for this many times is steady.
const STEADY: u32 = 3;
/// Kernels of all lists that are remembered: whole batches, the last one of an epoch, validation, each with either of two
/// gradients, and each in as many lists as gradients have buckets. A list that is never met again before it is forgotten
/// would cost its copy at every step; so there is room for some dozens of steps of a large model.
const MOST_ITEMS: usize = 1 << 16;
/// So much work that was never seen before, one after the other, is worth a line.
const STRANGERS: u32 = 32;

/// What is remembered.
pub(super) struct Kept {
    /// Where work is captured.
    stream: cu::CUstream,
    lists: Vec<List>,
    turn: u64,
    replays: u64,
    /// Lists since the last one that was known.
    strangers: u32,
    /// The driver takes no graphs.
    refused: bool,
    told: bool,
}

struct List {
    work: Work,
    seen: u32,
    used: u64,
    graph: Option<Graph>,
}

struct Graph {
    exec: cu::CUgraphExec,
    /// In its order; none where it does not tell how far it is.
    names: Arc<[Name]>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made in `record`. One that is under way is freed when it is done.
        unsafe { cu::cuGraphExecDestroy(self.exec) };
    }
}

impl Kept {
    pub fn new(ordinal: u32) -> Result<Kept> {
        let stream = new_stream(ordinal)?;
        Ok(Kept { stream, lists: Vec::new(), turn: 0, replays: 0, strangers: 0, refused: false, told: false })
    }

    /// Starts the graph of this work; false where there is none.
    pub fn replay(&mut self, gpu: &Gpu, work: &Work) -> Result<bool> {
        if gpu.graphs == Graphs::Off || self.refused || work.len() < LEAST {
            return Ok(false);
        }
        self.turn += 1;
        let Some(known) = self.lists.iter().position(|list| list.work.difference(work).is_none()) else {
            self.remember(gpu, work);
            return Ok(false);
        };
        self.strangers = 0;
        let list = &mut self.lists[known];
        (list.used, list.seen) = (self.turn, list.seen + 1);
        if list.graph.is_none() && list.seen >= STEADY {
            match capture(gpu, self.stream, work)? {
                Ok(graph) => list.graph = Some(graph),
                Err(why) => {
                    self.refused = true;
                    (gpu.warn)(&format!("CUDA graphs are not used, kernels are started one by one: {why}"));
                }
            }
        }
        let Some(graph) = &self.lists[known].graph else { return Ok(false) };
        graph.start(gpu)?;
        self.replays += 1;
        Ok(true)
    }

    pub fn replays(&self) -> u64 {
        self.replays
    }

    fn remember(&mut self, gpu: &Gpu, work: &Work) {
        self.strangers += 1;
        let latest = self.lists.iter().max_by_key(|list| list.used);
        if self.strangers == STRANGERS && !self.told {
            self.told = true;
            let difference = latest.and_then(|list| list.work.difference(work));
            let difference = difference.map_or_else(String::new, |difference| format!(": {difference}"));
            (gpu.warn)(&format!(
                "CUDA graphs are not used, kernels are started one by one: they change from step to step{difference}; \
                 steps over batches of equal sizes would be kept"
            ));
        }
        let list = |work| List { work, seen: 1, used: self.turn, graph: None };
        let mut items = work.len() + self.lists.iter().map(|list| list.work.len()).sum::<usize>();
        while items > MOST_ITEMS
            && let Some(oldest) = (0..self.lists.len()).min_by_key(|&at| self.lists[at].used)
        {
            items -= self.lists.swap_remove(oldest).work.len();
        }
        self.lists.push(list(work.clone()));
    }

    /// Gives back what it has.
    pub fn free(&mut self) {
        self.lists.clear();
        // SAFETY: made in `new` and not used any more; what fails is gone with the process.
        unsafe { cu::cuStreamDestroy_v2(self.stream) };
    }
}

impl Graph {
    fn start(&self, gpu: &Gpu) -> Result<()> {
        const OP: &str = "graph";
        let mut progress = lock(&gpu.progress);
        let (number, address) = (progress.start(Started::Graph(self.names.clone())), progress.address);
        drop(progress);
        // SAFETY: captured from work whose memory is still there, as the work of now names the same.
        gpu.done(OP, "cuGraphLaunch", unsafe { cu::cuGraphLaunch(self.exec, gpu.stream) })?;
        gpu.tell(OP, address, number)
    }
}

/// A graph of this work, or why there is none. The work was done before, so its kernels are loaded.
fn capture(gpu: &Gpu, stream: cu::CUstream, work: &Work) -> Result<std::result::Result<Graph, String>> {
    let of = |(op, item): (&'static str, Item<'_>)| match item {
        Item::Start { kernel, .. } => gpu.kernel(op, kernel).map(Some),
        Item::Clear { .. } => Ok(None),
    };
    let functions: Vec<Option<Function>> = work.items().map(of).collect::<Result<_>>()?;
    let names: Arc<[Name]> = work.items().map(|(op, item)| (op, item.name())).collect();
    let within = gpu.tells.then(|| lock(&gpu.progress).within_graph());
    let told = match record(stream, &functions, work, within) {
        Ok(exec) if within.is_some() => return Ok(Ok(Graph { exec, names })),
        // A driver may take kernels only; then a failure is that of the graph.
        Err(_) if within.is_some() => record(stream, &functions, work, None),
        other => other,
    };
    Ok(told.map(|exec| Graph { exec, names: Arc::new([]) }))
}

/// Captures and instantiates. A failure is none of the device: the stream is as before.
fn record(
    stream: cu::CUstream,
    functions: &[Option<Function>],
    work: &Work,
    within: Option<u64>,
) -> std::result::Result<cu::CUgraphExec, String> {
    let check = |call: &str, status: cu::CUresult| match status {
        cu::CUresult::CUDA_SUCCESS => Ok(()),
        status => Err(format!("{call}: {}", words(status))),
    };
    let mode = cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is of the current context, and only this captures on it.
    check("cuStreamBeginCapture", unsafe { cu::cuStreamBeginCapture_v2(stream, mode) })?;
    let tell = |number: usize| match within {
        // SAFETY: page-locked memory that the device may write.
        Some(at) => check("cuStreamWriteValue32", unsafe { cu::cuStreamWriteValue32_v2(stream, at, number as u32, 0) }),
        None => Ok(()),
    };
    let put = |(at, (function, (_, item)))| {
        let (call, status) = match (function, item) {
            (&Some(function), Item::Start { launch, arguments, .. }) => {
                ("cuLaunchKernel", Function::launch(function, stream, launch, arguments))
            }
            // SAFETY: memory of this device, by the promise of who collected the work.
            (_, Item::Clear { at, bytes }) => ("cuMemsetD8Async", unsafe { cu::cuMemsetD8Async(at, 0, bytes, stream) }),
            (None, Item::Start { .. }) => unreachable!("invariant: a function for each kernel"),
        };
        check(call, status).and_then(|()| tell(at + 1))
    };
    let put = tell(0).and_then(|()| functions.iter().zip(work.items()).enumerate().try_for_each(put));
    let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the pointer is valid for the call. It is made whatever came before, so that the capture ends.
    let ended = check("cuStreamEndCapture", unsafe { cu::cuStreamEndCapture(stream, &raw mut graph) });
    let made = put.and(ended).and_then(|()| {
        // SAFETY: a graph that was just captured.
        check("cuGraphInstantiate", unsafe { cu::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) })
    });
    if !graph.is_null() {
        // SAFETY: as above; what was instantiated stands for itself.
        unsafe { cu::cuGraphDestroy(graph) };
    }
    made.map(|()| exec)
}
