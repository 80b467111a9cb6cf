//! A PNG or JPEG picture, decoded and brought to a size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use within_data_loader::source::picture::{Shape, pixels};

fuzz_target!(|bytes: &[u8]| {
    for channels in [1, 3] {
        if let Ok(pixels) = pixels(bytes, Shape { channels, height: 4, width: 4 }) {
            assert_eq!(pixels.len(), 16 * channels as usize);
        }
    }
});
