//! The figures of `make gpu-bench`: cases by operation, whole training steps, a peer, and the table of it all. Its own file
//! so that the tests run it on a played device, where the figures mean nothing.

mod cases;
mod peer;
mod report;
mod steps;
mod timing;

use kernels::cuda::cublaslt::Form;
use kernels::cuda::{Cache, CublasLt, CudaEnvironment, Gpu, Graphs, Machine, Nvml};
use kernels::dtype::Precision;
use kernels::philox::{Key, Stream};
use kernels::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

pub use report::Report;

/// Sizes and repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Such that a large device is busy and its caches are too small.
    Full,
    /// Such that a CPU that plays a device is done at once.
    Quick,
}

/// How a run is made.
pub struct Settings {
    pub scale: Scale,
    pub environment: CudaEnvironment,
    /// Where compiled kernels are kept.
    pub cubins: PathBuf,
    /// A Python with torch.
    pub python: Option<PathBuf>,
}

/// Where the device tests and this bench look for libraries.
pub fn environment() -> CudaEnvironment {
    let variable = |name: &str| std::env::var(name).ok();
    CudaEnvironment {
        folder: variable("WITHIN_CUDA_LIBRARIES").map(Into::into),
        library_path: variable("LD_LIBRARY_PATH"),
        cuda_home: variable("CUDA_HOME").map(Into::into),
        site_packages: variable("WITHIN_SITE_PACKAGES").map(Into::into).into_iter().collect(),
    }
}

/// A device and what it is measured with.
pub struct Bench {
    pub gpu: Arc<Gpu>,
    /// The same device, whose kernels are always started one by one.
    pub without_graphs: Arc<Gpu>,
    pub library: std::result::Result<CublasLt, Error>,
    pub nvml: std::result::Result<Nvml, String>,
    pub scale: Scale,
}

/// Measures everything.
///
/// # Errors
/// Where there is no device, or it fails.
pub fn run(settings: &Settings) -> Result<Report> {
    let open = || Gpu::open(0, &settings.environment, Cache::new(&settings.cubins), |warning| eprintln!("{warning}"));
    let gpu = Arc::new(open()?);
    gpu.prepare()?;
    let bench = Bench {
        library: CublasLt::load(gpu.clone(), &settings.environment),
        nvml: Nvml::open(&gpu.bus_id()?, &settings.environment),
        scale: settings.scale,
        without_graphs: Arc::new(open()?.with_graphs(Graphs::Off)),
        gpu,
    };
    let mut report = Report::new(&bench, bench.copy_bandwidth()?)?;
    let cases = cases::all(settings.scale);
    for case in &cases {
        for &precision in case.precisions {
            report.rows.extend(timing::measure(&bench, case, precision)?);
        }
    }
    report.rows.extend(timing::optimizer(&bench)?);
    report.steps = steps::measure(&bench)?;
    if let Some(python) = &settings.python {
        report.peer = Some(peer::ask(python, settings.scale, &cases, &report.steps));
    }
    Ok(report)
}

/// Memory of the device, given back when it is dropped.
pub struct Held<'b> {
    gpu: &'b Gpu,
    pub at: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.gpu.release(self.at);
    }
}

impl Bench {
    /// How often a kernel is started for one figure.
    pub fn repeats(&self) -> usize {
        if self.scale == Scale::Full { 20 } else { 1 }
    }

    /// Seconds of one of `repeats` starts, the best of three tries after a first one.
    pub fn seconds(&self, mut start: impl FnMut() -> Result<()>) -> Result<f64> {
        let repeats = self.repeats();
        let mut best = f64::INFINITY;
        start()?;
        for _ in 0..3 {
            let all = self.gpu.timed(|| (0..repeats).try_for_each(|_| start()))?;
            best = best.min(all / repeats as f64);
        }
        Ok(best)
    }

    fn held(&self, bytes: usize) -> Result<Held<'_>> {
        Ok(Held { gpu: &self.gpu, at: self.gpu.allocate(bytes.max(1))? })
    }

    /// Memory with numbers in (-1, 1) of this precision: what a device works on decides its clock.
    fn filled(&self, count: usize, precision: Precision) -> Result<Held<'_>> {
        let values = random(count.min(1 << 20));
        let bytes: Vec<u8> = match precision {
            Precision::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Precision::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            Precision::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        };
        let all = count * bytes.len() / values.len().max(1);
        let held = self.held(all)?;
        for from in (0..all).step_by(bytes.len().max(1)) {
            self.gpu.upload(&bytes[..bytes.len().min(all - from)], held.at + from as u64)?;
        }
        Ok(held)
    }

    /// Bytes read and written a second by a copy within the device's memory.
    fn copy_bandwidth(&self) -> Result<f64> {
        let count = if self.scale == Scale::Full { 64 << 20 } else { 1 << 10 };
        let (from, to) = (self.filled(count, Precision::F32)?, self.held(count * 4)?);
        let seconds = self.seconds(|| self.gpu.copy(from.at, to.at, count * 4))?;
        Ok(8.0 * count as f64 / seconds)
    }

    /// Seconds of cuBLASLt for a product; none where the library is not there or has no algorithm for it.
    pub fn product_seconds(&self, form: Form, precision: Precision, sizes: [usize; 3]) -> Result<Option<f64>> {
        let Ok(library) = &self.library else { return Ok(None) };
        let Ok(product) = library.product(form, precision, sizes) else { return Ok(None) };
        let [rows, outputs, inputs] = sizes;
        let (left, right, out) = match form {
            Form::Forward => (rows * inputs, outputs * inputs, rows * outputs),
            Form::Backward => (rows * outputs, outputs * inputs, rows * inputs),
            Form::Weight => (rows * outputs, rows * inputs, outputs * inputs),
        };
        let (left, right) = (self.filled(left, precision)?, self.filled(right, precision)?);
        let out = self.held(out * 4)?;
        self.seconds(|| product.start(left.at, right.at, out.at)).map(Some)
    }
}

/// Numbers in (-1, 1).
pub fn random(count: usize) -> Vec<f32> {
    let mut rng = Key::new(1, Stream::Generate).rng(0, 0);
    (0..count).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect()
}

/// As jobs write it.
pub fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::F16 => "f16",
    }
}
