//! A reference to a stored artifact. Messages carry this, never the blob.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where an artifact lies and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ArtifactRef {
    /// `file:///...` in a local store; the scheme of the store elsewhere.
    pub uri: String,
    /// BLAKE3 of the bytes, 64 hexadecimal digits.
    pub blake3: String,
    pub size_bytes: u64,
}
