//! A schema file of `data.validation`, with its rules and expressions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use within_data_loader::validate::parse_schema;
use within_fuzz::hold;

fuzz_target!(|text: &str| hold(parse_schema("schema.json", text)));
