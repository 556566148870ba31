//! Placeholder.
pub mod netlab;
