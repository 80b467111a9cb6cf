//! The figures as Markdown.

use super::steps::Step;
use super::{Bench, Scale, name};
use kernels::Result;
use kernels::dtype::Precision;
use std::collections::BTreeMap;
use std::fmt;

/// One figure of an operation.
pub struct Row {
    pub op: &'static str,
    pub what: &'static str,
    pub shape: String,
    pub precision: Precision,
    pub seconds: f64,
    /// One of the two is not 0.
    pub bytes: f64,
    pub flops: f64,
    pub is_product: bool,
    /// cuBLASLt's rate at the product that it is held against.
    pub product_flops: Option<f64>,
    pub goal: &'static str,
    pub peer: Option<&'static str>,
}

/// A peer's seconds, as it is and compiled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Theirs {
    pub eager: Option<f64>,
    pub compiled: Option<f64>,
}

/// What the peer said: its version, and its seconds by (operation and shape, what, precision).
pub type Peer = std::result::Result<(String, BTreeMap<(String, String, String), Theirs>), String>;

/// Everything.
pub struct Report {
    title: String,
    notes: Vec<String>,
    copy: f64,
    pub rows: Vec<Row>,
    pub steps: Vec<Step>,
    /// None: nobody asked for it.
    pub peer: Option<Peer>,
}

impl Report {
    /// Without figures yet; `copy`: bytes a second of a copy.
    pub fn new(bench: &Bench, copy: f64) -> Result<Report> {
        let (gpu, (major, minor)) = (&bench.gpu, bench.gpu.driver());
        let version = bench.nvml.as_ref().ok().and_then(|nvml| nvml.driver());
        let version = version.map_or_else(String::new, |version| format!(" ({version})"));
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        let title =
            format!("## Measured: {} ({}), driver of CUDA {major}.{minor}{version}, {date}", gpu.name(), gpu.arch());
        let mut notes = vec![format!("Copy within the device's memory: {:.1} GB/s, read and written.", copy / 1e9)];
        if bench.scale == Scale::Quick {
            notes.push("Small sizes: these figures show that the bench runs, and nothing else.".into());
        }
        if let Err(error) = &bench.library {
            notes.push(format!("cuBLASLt: not measured: {error}."));
        }
        if let Err(what) = &bench.nvml {
            notes.push(format!("Energy: not measured: {what}."));
        }
        Ok(Report { title, notes, copy, rows: Vec::new(), steps: Vec::new(), peer: None })
    }

    fn theirs(&self, op: &str, what: &str, precision: Precision) -> Theirs {
        let Some(Ok((_, all))) = &self.peer else { return Theirs::default() };
        all.get(&(op.to_owned(), what.to_owned(), name(precision).to_owned())).copied().unwrap_or_default()
    }
}

/// Theirs over ours: above 1 we are faster.
fn ratio(theirs: Option<f64>, ours: f64) -> String {
    theirs.map_or_else(|| "-".into(), |theirs| format!("{:.2}", theirs / ours))
}

fn share(of: Option<f64>) -> String {
    of.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        match &self.peer {
            None => writeln!(f, "PyTorch: not measured; `WITHIN_TORCH_PYTHON` names a Python that has it.")?,
            Some(Err(what)) => writeln!(f, "PyTorch: not measured: {what}.")?,
            Some(Ok((version, _))) => writeln!(f, "PyTorch {version}: a ratio above 1 says that we are faster.")?,
        }
        writeln!(f, "Of the roofline: of the copy, or of cuBLASLt at the same product.\n")?;
        writeln!(f, "| operation | | size | factors | us | achieved | of the roofline | goal | torch | compiled |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            let (achieved, of) = if row.is_product {
                let rate = row.flops / row.seconds;
                (format!("{:.2} TFLOP/s", rate / 1e12), row.product_flops.map(|best| rate / best))
            } else {
                let rate = row.bytes / row.seconds;
                (format!("{:.0} GB/s", rate / 1e9), Some(rate / self.copy))
            };
            let theirs = row.peer.map_or_else(Theirs::default, |what| {
                self.theirs(&format!("{} {}", row.op, row.shape), what, row.precision)
            });
            writeln!(
                f,
                "| {} | {} | {} | {} | {:.1} | {achieved} | {} | {} | {} | {} |",
                row.op,
                row.what,
                row.shape,
                name(row.precision),
                row.seconds * 1e6,
                share(of),
                row.goal,
                ratio(theirs.eager, row.seconds),
                ratio(theirs.compiled, row.seconds),
            )?;
        }
        writeln!(
            f,
            "\n| ad_score, rows a step | factors | graphs | ms | samples/s | joules a step | torch | compiled (goal 1.2) | last loss |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for step in &self.steps {
            let theirs = self.theirs(&format!("ad_score {}", step.batch), "step", step.precision);
            writeln!(
                f,
                "| {} | {} | {} | {:.3} | {:.0} | {} | {} | {} | {:.4} |",
                step.batch,
                name(step.precision),
                if step.graphs { "on" } else { "off" },
                step.seconds * 1e3,
                step.batch as f64 / step.seconds,
                step.joules.map_or_else(|| "not measured".into(), |joules| format!("{joules:.3}")),
                ratio(theirs.eager, step.seconds),
                ratio(theirs.compiled, step.seconds),
                step.loss,
            )?;
        }
        Ok(())
    }
}
