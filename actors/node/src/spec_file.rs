//! Reading a job spec from a file: base configurations are resolved and inlined here, so that what
//! goes over the wire is self-contained.

use std::path::{Path, PathBuf};

use messages::plan::JobPlan;
use messages::rpc::{SpecDocument, SpecFormat, Submit};
use messages::spec::{self, PlanDefaults, SpecError, SpecInput};

use crate::exit::Failure;

/// Largest spec file that is read; a larger one is refused before a byte of it is.
const MAX_BYTES: u64 = 4 << 20;

/// A spec that was found right.
pub struct Loaded {
    pub submit: Submit,
    pub plan: JobPlan,
}

/// Reads, resolves and validates; all mistakes come at once.
pub fn load(path: &Path, set: &[String]) -> Result<Loaded, Failure> {
    let text = read(path).map_err(|message| mistake(path, message))?;
    from_text(path, &text, set)
}

/// The same for a text that is not in a file.
pub fn from_text(path: &Path, text: &str, set: &[String]) -> Result<Loaded, Failure> {
    let format = match path.extension().and_then(|e| e.to_str()) {
        Some("json") => SpecFormat::Json,
        _ => SpecFormat::Yaml,
    };
    let name = path.display().to_string();
    let input = SpecInput { file: Some(&name), text, format };
    let mut loader = |wanted: &str, from: Option<&str>| {
        let base = from.map(Path::new).and_then(Path::parent).unwrap_or_else(|| Path::new("."));
        let file: PathBuf = base.join(wanted);
        read(&file)
    };
    let tree = spec::resolve_base(&input, &mut loader).map_err(Failure::Spec)?;
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("job");
    let plan = spec::plan(&tree, set, &PlanDefaults { name: Some(stem) }).map_err(Failure::Spec)?;
    let spec: SpecDocument = tree.to_document();
    Ok(Loaded { submit: Submit { spec, set: set.to_vec() }, plan })
}

fn read(path: &Path) -> Result<String, String> {
    let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("no such file{}", nearest(path)),
        _ => error.to_string(),
    })?;
    if meta.len() > MAX_BYTES {
        return Err(format!("too large: {} bytes, expected at most {MAX_BYTES}", meta.len()));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        format!("line {line}: not UTF-8")
    })
}

/// The most alike file name of the same folder.
fn nearest(path: &Path) -> String {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let wanted = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    names
        .map(|name| (strsim::normalized_levenshtein(&name, wanted), name))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

fn mistake(path: &Path, message: String) -> Failure {
    Failure::Spec(vec![SpecError {
        file: Some(path.display().to_string()),
        line: 0,
        column: 0,
        key: String::new(),
        message,
        suggestion: None,
    }])
}
