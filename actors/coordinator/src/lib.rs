//! placeholder while wiring; see state.rs
pub mod state;
