//! placeholder
use super::note::Note;
use netpol_core::model::Cluster;
pub(super) fn lint(_cluster: &Cluster, _notes: &mut Vec<Note>) {}
