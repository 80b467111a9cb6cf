//! Translation of texts, a request to `svc.translator.translate`. A data_loader with a translator of its own serves
//! it; so may any other program.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::Payload;

/// Most texts of one request.
pub const MAX_TEXTS: usize = 64;

/// Asks for these texts in another language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Translate {
    /// From and to, as `eng-spa`.
    pub languages: String,
    /// At most 64, without line breaks.
    pub texts: Vec<String>,
}

/// A translation of each text, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Translated {
    pub texts: Vec<String>,
}

impl Payload for Translate {
    fn type_name(&self) -> String {
        "within.translate".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.translate"
    }
}
