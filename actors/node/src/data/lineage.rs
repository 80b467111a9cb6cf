//! `within data lineage`: from source files to a model.

use std::path::{Path, PathBuf};

use clap::Args;
use data_loader::versions::{Found, Graph, layout};
use messages::event::ModelRef;
use messages::job::JobRecord;
use messages::work::TaskOutput;

use super::version::{Place, read, write};
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

/// Largest model file.
const MAX_MODEL_BYTES: u64 = 64 << 30;
/// Digits of a hash that a person is shown.
const DIGITS: usize = 12;

#[derive(Debug, Args)]
pub struct LineageArgs {
    /// A job, or the file of a model
    #[arg(value_name = "JOB|MODEL")]
    pub of: String,
    /// Also in the language of Graphviz
    #[arg(long, value_name = "FILE")]
    pub dot: Option<PathBuf>,
    /// Also as a picture
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

pub async fn command(config: &Config, args: &LineageArgs) -> Result<u8, Failure> {
    let mut place = Place::open(config)?;
    let path = Path::new(&args.of);
    let graph = if path.is_file() {
        of_model(&place, path).await?
    } else {
        let none = || Failure::Usage(format!("{}: expected a job, or the file of a model", args.of));
        let record = place.job(&args.of).await?.ok_or_else(none)?;
        of_job(&place, &record).await?
    };
    if let Some(path) = &args.dot {
        write(path, &graph.dot())?;
    }
    if let Some(path) = &args.svg {
        write(path, &layout::svg(&graph))?;
    }
    if config.json {
        print_line(&serde_json::to_string(&graph).unwrap_or_default());
    } else {
        print(&graph);
    }
    place.close().await;
    Ok(exit::DONE)
}

/// What a model file says of itself, and the version that it names.
async fn of_model(place: &Place<'_>, path: &Path) -> Result<Graph, Failure> {
    let bytes = read(path, MAX_MODEL_BYTES)?;
    let wrong = |error: kernels::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let (model, serving) = frame::model_file::read(&bytes).map_err(wrong)?;
    let model = ModelRef {
        uri: path.display().to_string(),
        file_blake3: blake3::hash(&bytes).to_hex().to_string(),
        blake3: kernels::weights::params_blake3(&model),
        size_bytes: bytes.len() as u64,
    };
    let version = Found::by_digits(&place.artifacts, &serving.dataset_blake3)?;
    let mut graph = Graph::default();
    let dataset = graph.add_version(&place.artifacts, &version).await?;
    graph.add_model(&dataset, &model);
    Ok(graph)
}

async fn of_job(place: &Place<'_>, record: &JobRecord) -> Result<Graph, Failure> {
    let mut graph = Graph { job: Some(record.job.to_string()), ..Graph::default() };
    let none = || Failure::Usage(format!("job {} has prepared no data yet", record.job));
    let version = place.of_record(record).await?.ok_or_else(none)?;
    let dataset = graph.add_version(&place.artifacts, &version).await?;
    let outputs = || record.tasks.iter().filter_map(|task| task.output.as_ref());
    let model = outputs().find_map(|output| match output {
        TaskOutput::Trained { model, .. } => Some(model),
        _ => None,
    });
    let Some(model) = model.map(|model| graph.add_model(&dataset, model)) else { return Ok(graph) };
    for output in outputs() {
        if let TaskOutput::Evaluated { report, .. } = output {
            graph.add_report(&dataset, &model, report);
        }
    }
    Ok(graph)
}

/// A line for each thing, with what it was made of below.
fn print(graph: &Graph) {
    let named = |id: &str| {
        let node = graph.nodes.iter().find(|node| node.id == id);
        node.map_or_else(String::new, |node| {
            let digits = &node.blake3[..node.blake3.len().min(DIGITS)];
            format!("{:<8} {digits}  {}", node.kind.as_str(), node.label)
        })
    };
    for node in &graph.nodes {
        print_line(&named(&node.id));
        for edge in graph.edges.iter().filter(|edge| edge.to == node.id) {
            print_line(&format!("  {:<9} {}", edge.by, named(&edge.from)));
        }
    }
}
