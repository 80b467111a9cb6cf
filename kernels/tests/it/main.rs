//! Tests of the public interface: goldens, gradients, bits, resume, hostile files, bad input.

mod allocator;
mod bits;
mod coverage;
mod cuda;
mod exchanged;
mod files;
mod forest;
mod golden;
mod golden_models;
mod gradients;
mod gradients_items;
mod handed_in;
mod input_gradients;
mod minilm;
mod models;
mod numeric;
mod precision;
mod pretrained;
mod support;
mod text;
mod training;
mod training_golden;
