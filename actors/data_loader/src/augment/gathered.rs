//! What augmentation needs of the world outside, gathered once when the data are prepared and kept beside the
//! dataset version: so every data_loader, on whatever host, changes rows in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use messages::WireError;
use messages::error::Code;
use messages::plan::{AugmentationPlan, ImageMethod, TextMethod};
use serde::{Deserialize, Serialize};

use super::image::{Shape, Style};
use super::text::lookup_key;
use super::wordnet::{self, SYSTEM_FOLDER, Synonyms};
use crate::source::idx::Images;
use crate::source::path::{resolve, resolve_folder};

/// Name under which it is stored.
pub const ARTIFACT_NAME: &str = "augmentation.json";
/// Most reference images whose colors are taken, over all files.
pub const MAX_STYLES: usize = 256;

/// Kept as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gathered {
    /// Of the words of the training part.
    #[serde(default)]
    pub synonyms: Synonyms,
    /// Texts of the training part, into another language and back.
    #[serde(default)]
    pub translations: BTreeMap<String, String>,
    /// Colors of the reference images.
    #[serde(default)]
    pub styles: Vec<Style>,
    /// Standard deviation of each encoded feature in the training part; 0 where it is no quantity.
    #[serde(default)]
    pub spreads: Vec<f32>,
    /// Where synthetic rows came from.
    #[serde(default)]
    pub synthetic: Vec<SyntheticRow>,
}

/// A synthetic row: between a row and one of its neighbors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyntheticRow {
    pub sample_id: u64,
    /// Sample ids of the two.
    pub base: u64,
    pub neighbor: u64,
    /// Part of the way from the row to its neighbor.
    pub share: f64,
}

impl Gathered {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: texts and numbers serialize")
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, WireError> {
        let wrong = |e| WireError::new(Code::ArtifactCorrupt, format!("{ARTIFACT_NAME}: {e}"));
        serde_json::from_slice(bytes).map_err(wrong)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Synonyms of the words of these texts, where the plan's methods need them.
pub fn synonyms<'a>(
    plan: &AugmentationPlan,
    texts: impl Iterator<Item = &'a str>,
    roots: &[PathBuf],
) -> Result<Synonyms, WireError> {
    let needed = plan.uses_text(TextMethod::SynonymReplacement) || plan.uses_text(TextMethod::RandomInsertion);
    if !needed {
        return Ok(Synonyms::new());
    }
    let mut wanted = BTreeSet::new();
    for text in texts {
        wanted.extend(text.split_whitespace().filter_map(lookup_key));
    }
    match &plan.text.synonyms {
        Some(path) => wordnet::read(&resolve_folder(path, roots).or_else(|_| resolve(path, roots))?, &wanted),
        None if Path::new(SYSTEM_FOLDER).is_dir() => wordnet::read(Path::new(SYSTEM_FOLDER), &wanted),
        None => {
            let message = format!(
                "data.augmentation.text.methods: synonym_replacement and random_insertion need synonyms, and there \
                 is no {SYSTEM_FOLDER} on the host that prepares the data"
            );
            Err(WireError::new(Code::ConfigError, message).with_hint(
                "install WordNet's dictionary (Debian: wordnet-base), or name a file of synonyms in \
                 data.augmentation.text.synonyms, or leave both methods out",
            ))
        }
    }
}

/// The colors of the reference images, and the files' own records for the lineage.
pub fn styles(
    plan: &AugmentationPlan,
    channels: usize,
    roots: &[PathBuf],
) -> Result<(Vec<Style>, Vec<frame::manifest::Source>), WireError> {
    let (mut styles, mut sources) = (Vec::new(), Vec::new());
    if !plan.uses_image(ImageMethod::Style) {
        return Ok((styles, sources));
    }
    for path in &plan.image.style.references {
        let images = Images::open(path, roots)?;
        if images.channels as usize != channels {
            let message = format!(
                "data.augmentation.image.style.references: {path} has images of {} channels, the data's have {channels}",
                images.channels
            );
            return Err(WireError::new(Code::ConfigError, message));
        }
        let shape = Shape { channels, height: images.height as usize, width: images.width as usize };
        let room = MAX_STYLES - styles.len();
        styles.extend((0..images.count.min(room)).map(|index| Style::of(images.pixels(index), shape)));
        sources.push(images.source);
    }
    if styles.is_empty() {
        let message = "data.augmentation.image.style.references: the files hold no image";
        return Err(WireError::new(Code::ConfigError, message));
    }
    Ok((styles, sources))
}
