//! The wall clock. Only roles' actors read it; states and kernels get time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use messages::UnixMs;

/// Milliseconds since the Unix epoch, UTC; 0 on a clock set before it.
pub fn now_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs)
}
