//! What could not be read.

use netpol_core::model::{Kind, ObjectRef};

/// Something in a live object that cannot be read, and what became of it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{kind} {object}: {path}: {problem}; {effect}")]
#[non_exhaustive]
pub struct Oddity {
    /// The object's kind.
    pub kind: Kind,
    /// The object.
    pub object: ObjectRef,
    /// The field.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
    /// What is done about it.
    pub effect: &'static str,
}
