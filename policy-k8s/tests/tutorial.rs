//! The tutorial's manifests read cleanly.

use netpol_k8s::manifest::{ReadOptions, read_paths};

#[test]
fn the_tutorial_reads_without_an_error() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/manifests/tutorial");
    let manifests = match read_paths(&[folder], &ReadOptions::default()) {
        Ok(manifests) => manifests,
        Err(errors) => panic!("{errors}"),
    };
    let cluster = manifests.cluster;
    assert_eq!(cluster.network_policies.len(), 3);
    assert_eq!(cluster.services.len(), 12);
    assert_eq!(cluster.ingresses.len(), 2);
    assert_eq!(cluster.endpoints.len(), 1);
    assert_eq!(cluster.pods.len(), 6);
}
