//! placeholder
use netpol_core::model::Cluster;
/// Placeholder.
#[must_use]
pub fn write_yaml(_cluster: &Cluster) -> String {
    String::new()
}
