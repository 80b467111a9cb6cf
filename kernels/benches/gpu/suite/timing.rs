//! Kernels of a case, timed one by one where the operation starts them: a machine in front of the GPU repeats each start
//! between two events.

use super::cases::{Against, Case, Work};
use super::report::Row;
use super::{Bench, random};
use kernels::cuda::cublaslt::Form;
use kernels::cuda::{Argument, Gpu, Kernel, Launch, Machine};
use kernels::dtype::Precision;
use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
use kernels::ops::Randomness;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::params::{Decay, Layout, ParamBuilder, ParamStore};
use kernels::pool::Pool;
use kernels::shard::Node;
use kernels::tape::{HeldShards, InputGrad, Mode, Rows, Space, Tape, Workspace};
use kernels::train::{Batch, TrainConfig, Trainer};
use kernels::{Error, Result};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Seconds of each start, by kernel.
type Seen = Vec<(&'static str, f64)>;

/// See the module.
struct Timing {
    gpu: Arc<Gpu>,
    repeats: usize,
    seen: Mutex<Seen>,
}

impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timing({:?})", self.gpu)
    }
}

impl Timing {
    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Machine for Timing {
    fn describe(&self) -> String {
        self.gpu.describe()
    }
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.gpu.allocate(bytes)
    }
    fn release(&self, address: u64) {
        self.gpu.release(address);
    }
    fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.gpu.upload(from, to)
    }
    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.gpu.download(from, to)
    }
    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        self.gpu.clear(at, bytes)
    }
    fn take_aside(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.gpu.take_aside(from, to, bytes)
    }
    fn start(&self, op: &'static str, kernel: Kernel, launch: Launch, arguments: &[Argument]) -> Result<()> {
        let start = || self.gpu.start(op, kernel, launch, arguments);
        start()?;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            best = best.min(self.gpu.timed(|| (0..self.repeats).try_for_each(|_| start()))? / self.repeats as f64);
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((kernel.name, best));
        Ok(())
    }
}

fn store(case: &Case) -> Result<ParamStore> {
    let mut builder = ParamBuilder::default();
    for (name, shape) in &case.params {
        let layout = if shape.len() >= 2 { Layout::Product } else { Layout::Plain };
        builder.add((*name).into(), shape, Decay::Decayed, layout)?;
    }
    let mut store = builder.build()?;
    for (name, shape) in &case.params {
        let id = store.find(name).expect("invariant: declared above");
        let count: usize = shape.iter().product();
        // Small enough that nothing overflows two bytes.
        let values: Vec<f32> = random(count).iter().map(|v| v * 0.1).collect();
        store.set(id, &values)?;
    }
    Ok(store)
}

/// Runs a case forward and back; seconds of each start.
fn run(bench: &Bench, case: &Case, precision: Precision) -> Result<Seen> {
    let machine = Arc::new(Timing { gpu: bench.gpu.clone(), repeats: bench.repeats(), seen: Mutex::default() });
    let params = store(case)?;
    let items = case.items.unwrap_or(1);
    let x: Vec<f32> = random(1 << 16).into_iter().cycle().take(case.rows * items * case.columns).collect();
    let ids: Vec<u32> = (0..case.rows * items).map(|i| (i * 7919 % case.ids_below.max(1)) as u32).collect();
    let sample_ids: Vec<u64> = (0..case.rows as u64).collect();
    let mut ws = Workspace::on(machine.clone());
    ws.round_on_device(precision, 1.0);
    let randomness = Randomness { seed: 1, epoch: 0, step: 0 };
    let rows = Rows { count: case.rows, sample_ids: &sample_ids, mode: Mode::Train, randomness };
    let mut tape = Tape::new(&mut ws, &params, rows)?;
    let bounds = vec![0, case.rows];
    tape.set_shards(&bounds);
    let space = case.items.map_or(Space::SAMPLES, |items| tape.items(items));
    let input = tape.input_in(space, &x, case.columns, InputGrad::Wanted)?;
    let output = (case.graph)(&mut tape, input, &params, &ids)?;
    let columns = tape.columns(output);
    let (config, targets) = match case.classes {
        true => {
            let classes = (0..case.rows).map(|row| (row * 31 % columns) as u32).collect();
            (LossConfig::CrossEntropy { label_smoothing: 0.0, class_weights: None }, Targets::Class(classes))
        }
        false => (LossConfig::Mse, Targets::Real(vec![0.5; case.rows * columns])),
    };
    tape.forward_backward(&Pool::new(1), output, &Loss { config: &config, targets: &targets, weights: None })?;
    let held = HeldShards { nodes: vec![Node::root(1)], bounds, first: 0 };
    let mut gradient = [kernels::buffer::AlignedBuf::zeroed(params.flat_len())?];
    tape.param_gradients(&Pool::new(1), &held, &mut gradient)?;
    Ok(machine.take())
}

/// The figures of one case.
pub fn measure(bench: &Bench, case: &Case, precision: Precision) -> Result<Vec<Row>> {
    let seen = run(bench, case, precision)?;
    case.work.iter().map(|work| row(bench, case.name, &case.shape, precision, work, &seen)).collect()
}

fn row(bench: &Bench, op: &'static str, shape: &str, precision: Precision, work: &Work, seen: &Seen) -> Result<Row> {
    let of = |kernel: &'static str| seen.iter().filter(move |(name, _)| name.starts_with(kernel));
    if let Some(missing) = work.kernels.iter().copied().find(|kernel| of(kernel).next().is_none()) {
        let what = format!("gpu-bench: {op} starts no kernel {missing}*, but {seen:?}");
        return Err(Error::Device { device: bench.gpu.describe(), op: op.into(), what });
    }
    let seconds = work.kernels.iter().copied().flat_map(of).map(|(_, seconds)| seconds).sum::<f64>();
    let roofline = match work.against {
        Against::Copy => None,
        Against::Product(form, sizes) => bench.product_seconds(form, precision, sizes)?.map(|best| {
            let [rows, outputs, inputs] = sizes;
            2.0 * rows as f64 * outputs as f64 * inputs as f64 / best
        }),
    };
    Ok(Row {
        op,
        what: work.what,
        shape: shape.to_owned(),
        precision,
        seconds,
        bytes: work.bytes,
        flops: work.flops,
        is_product: work.against != Against::Copy,
        product_flops: roofline,
        goal: work.goal,
        peer: work.peer,
    })
}

/// The optimizer's kernels, over the parameters of a wide layer.
pub fn optimizer(bench: &Bench) -> Result<Vec<Row>> {
    let machine = Arc::new(Timing { gpu: bench.gpu.clone(), repeats: bench.repeats(), seen: Mutex::default() });
    let width = if bench.scale == super::Scale::Full { 4096 } else { 16 };
    let config = MlpConfig { input_dim: width, hidden_layers: vec![width, width], ..MlpConfig::default() };
    let model = Model::new(&ModelConfig::Mlp(config), &Init::Default, 1)?;
    let (params, rows) = (model.params().flat_len() as f64, 8);
    let plan = TrainConfig { logical_shards: 1, ..TrainConfig::default() };
    let mut trainer = Trainer::new(model, plan, Arc::new(Pool::new(1)))?.on_machine(machine.clone());
    let batch = Batch {
        rows,
        features: random(rows * width),
        inputs: Default::default(),
        targets: Targets::Real(vec![0.5; rows]),
        weights: None,
        sample_ids: (0..rows as u64).collect(),
    };
    trainer.step(&batch)?;
    let seen = machine.take();
    let shape = format!("{params} parameters");
    let memory = |what, kernels: &'static [&'static str], bytes: f64| Work {
        what,
        kernels,
        bytes,
        flops: 0.0,
        against: Against::Copy,
        goal: "85 %",
        peer: None,
    };
    // Reads a gradient, a weight and two moments, writes all but the gradient.
    let work = [memory("adamw", &["adam"], 28.0 * params), memory("norm", &["squares"], 4.0 * params)];
    work.iter().map(|work| row(bench, "optimizer", &shape, Precision::F32, work, &seen)).collect()
}

/// A product that is measured for itself.
pub const fn product(form: Form, sizes: [usize; 3]) -> Against {
    Against::Product(form, sizes)
}
