//! `within schema`: what other languages build against.

use std::path::Path;

use messages::WireError;
use messages::error::Code;

use crate::cli::SchemaArgs;
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::watch::print_line;

pub fn command(config: &Config, args: &SchemaArgs) -> Result<u8, Failure> {
    let mut files = messages::schema::files();
    let data = data_loader::validate::builtin::FILES;
    files.extend(data.map(|(name, text)| (format!("data/{name}"), text.to_owned())));
    if let Some(name) = &args.show {
        let Some((_, text)) = files.iter().find(|(file, _)| file == name) else {
            let names: Vec<&str> = files.iter().map(|(file, _)| file.as_str()).collect();
            return Err(Failure::Usage(format!("--show {name}: expected one of {}", names.join(", "))));
        };
        print_line(text);
        return Ok(exit::DONE);
    }
    for (name, text) in &files {
        if let Some(folder) = &args.write {
            write(&folder.join(name), text)?;
        }
        if config.json {
            print_line(&serde_json::json!({ "file": name, "bytes": text.len() }).to_string());
        } else {
            print_line(name);
        }
    }
    Ok(exit::DONE)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(parent).and_then(|()| std::fs::write(path, text)).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::Infrastructure(WireError::new(Code::ArtifactStoreUnavailable, message))
    })
}
