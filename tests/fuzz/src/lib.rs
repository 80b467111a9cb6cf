//! What the fuzz targets share: plans and files as the data_loader's own tests make them, and what may come of foreign
//! bytes: a dataset version or an error that is theirs, never a panic or an error of ours.

use messages::WireError;
use messages::error::Code;

// Not every target needs all of it.
#[allow(dead_code)]
#[path = "../../../actors/data_loader/tests/it/plan.rs"]
pub mod plan;

/// Panics where the error is none of the file's.
pub fn hold<T>(answer: Result<T, WireError>) {
    if let Err(error) = answer {
        assert_ne!(error.code, Code::InternalError, "{error}");
    }
}
