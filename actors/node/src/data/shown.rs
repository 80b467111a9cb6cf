//! How `within data validate` and `profile` print and keep what was found.

use std::path::{Path, PathBuf};

use data_loader::validate::Checked;
use data_loader::validate::outcome;
use messages::WireError;
use messages::error::Code;
use serde_json::json;

use crate::config::Config;
use crate::exit::Failure;
use crate::watch::print_line;

/// Writes the report into a folder, as JSON and as a page, with the rows that are left out.
pub fn keep(checked: &Checked, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::StorageFull {
            Code::StorageFull
        } else {
            Code::ArtifactStoreUnavailable
        };
        Failure::Infrastructure(WireError::new(code, format!("{}: {error}", path.display())))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut written = Vec::new();
    let files = [("report.json", checked.report.to_json()), ("report.html", checked.page.html().into_bytes())];
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| failed(&path, error))?;
        written.push(path);
    }
    if let Some(quarantine) = &checked.quarantine {
        let path = folder.join("quarantined_rows.parquet");
        std::fs::copy(quarantine.path(), &path).map_err(|error| failed(&path, error))?;
        written.push(path);
    }
    Ok(written)
}

/// One line for each violation and finding, then the end.
pub fn print(config: &Config, event: &str, checked: &Checked, written: &[PathBuf]) {
    let report = &checked.report;
    if config.json {
        for found in &report.schema_violations {
            print_line(&with_event("violation", found).to_string());
        }
        for finding in &report.findings {
            print_line(&with_event("finding", finding).to_string());
        }
        let end = json!({
            "event": event, "passed": report.passed, "rows": report.rows, "columns": report.columns.len(),
            "quarantined_rows": report.quarantined_rows, "not_checked": report.not_checked, "files": written,
        });
        return print_line(&end.to_string());
    }
    let files: Vec<&str> = report.files.iter().map(|file| file.path.as_str()).collect();
    print_line(&format!("{}: {} rows, {} columns", files.join(", "), report.rows, report.columns.len()));
    for found in &report.schema_violations {
        print_line(&format!("{:<10} {}: {}", found.severity.as_str(), found.rule, outcome::line(found)));
    }
    for why in &report.not_checked {
        print_line(&format!("not checked {why}"));
    }
    for finding in &report.findings {
        let columns = finding.columns.join(", ");
        let columns = if columns.is_empty() { columns } else { format!("{columns}: ") };
        let first = finding.examples.first().map(|example| format!(" ({example})")).unwrap_or_default();
        print_line(&format!("found      {}: {columns}{}{first}", finding.kind, finding.message));
    }
    if report.quarantined_rows > 0 {
        print_line(&format!("{} rows are left out", report.quarantined_rows));
    }
    for path in written {
        print_line(&format!("written    {}", path.display()));
    }
}

fn with_event(event: &str, value: &impl serde::Serialize) -> serde_json::Value {
    let mut line = serde_json::to_value(value).expect("invariant: a report serializes");
    line["event"] = json!(event);
    line
}
