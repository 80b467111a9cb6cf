//! Dataset versions beside each other and in their line: what differs between two, and what a version was made of and
//! what was made of it.
//!
//! | module | holds |
//! | --- | --- |
//! | [`diff`] | [`Diff`]: sources, schema, preprocessing, rows by sample id, moves between parts |
//! | [`shift`] | the distributions of each column in both |
//! | [`show`] | a diff as text and as a page |
//! | [`lineage`] | [`Graph`]: from source files over a dataset version to model and report; as JSON and DOT |
//! | [`layout`] | the same as a picture, in layers |

pub mod diff;
pub mod layout;
pub mod lineage;
pub mod shift;
pub mod show;

use bus::artifact::ArtifactStore;
use frame::Manifest;
use frame::manifest::{ARTIFACT_KIND, ARTIFACT_NAME};
use messages::error::Code;
use messages::{ArtifactRef, WireError};

pub use diff::Diff;
pub use lineage::Graph;

/// Fewest digits by which a dataset version may be named.
const FEWEST_DIGITS: usize = 6;

/// A dataset version that was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub manifest: Manifest,
    /// BLAKE3 of the manifest's bytes, by which it is stored.
    pub blake3: String,
}

impl Found {
    /// Reads the bytes of a manifest.
    pub fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let manifest =
            Manifest::from_json(bytes).map_err(|error| WireError::new(Code::ArtifactCorrupt, error.to_string()))?;
        Ok(Self { manifest, blake3: blake3::hash(bytes).to_hex().to_string() })
    }

    /// The version that a reference names.
    pub async fn of(artifacts: &ArtifactStore, dataset: &ArtifactRef) -> Result<Self, WireError> {
        Self::read(&artifacts.get(dataset).await.map_err(|error| error.to_wire())?)
    }

    /// The version in the store whose manifest, or whose id, begins with these digits.
    pub fn by_digits(artifacts: &ArtifactStore, digits: &str) -> Result<Self, WireError> {
        let not_found =
            |what: String| WireError::new(Code::DatasetNotFound, format!("dataset version {digits:?}: {what}"));
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex || !(FEWEST_DIGITS..=64).contains(&digits.len()) {
            return Err(not_found(format!(
                "expected a job, the path of a manifest, or {FEWEST_DIGITS} to 64 digits of an id"
            )));
        }
        let digits = digits.to_ascii_lowercase();
        let mut found: Vec<Self> = Vec::new();
        for bytes in artifacts.named(ARTIFACT_KIND, ARTIFACT_NAME) {
            let Ok(version) = Self::read(&bytes) else { continue };
            if version.blake3.starts_with(&digits) || version.manifest.id().starts_with(&digits) {
                found.push(version);
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(not_found(format!("none in the artifact store {}", artifacts.root().display()))),
            n => Err(not_found(format!("{n} begin so, expected more digits"))),
        }
    }
}
