//! `within data augment`: what a job's augmentation makes of its data, before it is trained on.

use std::path::PathBuf;

use clap::Args;
use data_loader::augment::sheet::sheet;
use data_loader::prepare::prepare;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exit::{DONE, Failure};
use crate::spec_file;
use crate::watch::print_line;

#[derive(Debug, Args)]
pub struct AugmentArgs {
    /// The job
    #[arg(value_name = "JOB.yaml")]
    pub job: PathBuf,
    /// Folder that a page of examples (augmentation.html) and the pictures in it are written to
    #[arg(long, value_name = "DIR")]
    pub preview: PathBuf,
    /// Takes precedence over the file, as in `within run`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub fn command(config: &Config, args: &AugmentArgs) -> Result<u8, Failure> {
    let plan = spec_file::load(&args.job, &args.set)?.plan;
    let Some(augmentation) = &plan.data.augmentation else {
        let message = format!(
            "{}: asks for no augmentation: set data.augmentation.text_augmentation, visual_augmentation, \
             features.methods or smote.ratio",
            args.job.display()
        );
        return Err(Failure::Usage(message));
    };
    let mut roots =
        vec![args.job.parent().filter(|p| !p.as_os_str().is_empty()).map_or_else(|| ".".into(), PathBuf::from)];
    roots.extend(config.data_roots.iter().cloned());
    let prepared = prepare(&plan.data, plan.task, &roots, &CancellationToken::new())?;
    let sheet = sheet(&prepared, augmentation, &plan.name)?;
    let written = |path: &PathBuf, bytes: &[u8]| {
        std::fs::write(path, bytes).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
    };
    std::fs::create_dir_all(&args.preview)
        .map_err(|error| Failure::Usage(format!("--preview {}: {error}", args.preview.display())))?;
    let page = args.preview.join("augmentation.html");
    written(&page, sheet.html.as_bytes())?;
    for (name, png) in &sheet.pictures {
        written(&args.preview.join(name), png)?;
    }
    if config.json {
        let pictures: Vec<&str> = sheet.pictures.iter().map(|(name, _)| name.as_str()).collect();
        print_line(&serde_json::json!({ "page": page.display().to_string(), "pictures": pictures }).to_string());
    } else {
        print_line(&format!("{} with {} pictures", page.display(), sheet.pictures.len()));
    }
    Ok(DONE)
}
