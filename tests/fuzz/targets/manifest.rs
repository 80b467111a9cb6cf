//! The manifest of a dataset version. What is accepted can be used.
#![no_main]

use frame::{Encoder, Manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(read) = Manifest::from_json(bytes) {
        Encoder::new(&read).map_or_else(drop, drop);
        read.row_bytes();
    }
});
