//! What the binaries have in common: how people write flows, and how an explanation is told as text and as JSON.
#![forbid(unsafe_code)]

pub mod explanation;
pub mod flow_text;
pub mod json;
mod style;

pub use style::Style;
