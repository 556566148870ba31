//! Objects from JSON as the API serves it, leniently (DEC-16): what cannot be read fails closed, alone, and is told.

#[cfg(feature = "watch")]
pub(crate) mod cluster_network_policy;
mod metadata;
pub(crate) mod network_policy;
pub(crate) mod node;
pub(crate) mod pod;
mod value;

/// Something that cannot be read in an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Odd {
    pub(crate) path: String,
    pub(crate) problem: String,
    pub(crate) effect: &'static str,
}
