//! Adversarial clusters, and the flows that are likely to catch somebody out on them.
//!
//! Everything is drawn from a tiny vocabulary, so that labels overlap, names collide, CIDRs cut through the pods' own
//! addresses and ports fall on the edges of ranges. [`case`] is a pure function of a seed; [`cases`] is the same as a
//! proptest strategy that shrinks by taking the objects apart.
#![expect(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "plain inputs that suites write as literals and take apart"
)]

mod campaign;
mod case_file;
mod cluster_network_policy;
mod flows;
mod network_policy;
mod objects;
mod random;
mod shrink;
mod strategy;
mod vocabulary;

use alloc::vec::Vec;

use netpol_core::ir::{Flow, OtherProtocols, OwnNodeEgress, Settings};
use netpol_core::model::Cluster;

pub use campaign::{Campaign, Failure, NotANumber, Report};
pub use random::Random;
pub use shrink::{reductions, shrink};
pub use strategy::{CaseTree, Cases, cases};

/// A cluster, the choices made for it, and flows to judge.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Case {
    /// The objects.
    pub cluster: Cluster,
    /// The embedder's choices.
    pub settings: Settings,
    /// What to judge.
    pub flows: Vec<Flow>,
}

/// How large and how odd a generated case is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Upper bound of the number of pods.
    pub pods: usize,
    /// Upper bound of the number of NetworkPolicies.
    pub network_policies: usize,
    /// Upper bound of the number of ClusterNetworkPolicies.
    pub cluster_network_policies: usize,
    /// Number of flows.
    pub flows: usize,
    /// What may be in the objects.
    pub oddities: Oddities,
}

/// Whether objects hold only what an API server takes, or also what may be met on live objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Oddities {
    /// Everything is valid, and can be written as manifests and read back.
    #[default]
    Valid,
    /// Now and then a field is unreadable, a peer unknown or a range upside down (DEC-16, CNP-041).
    Live,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            pods: 12,
            network_policies: 8,
            cluster_network_policies: 6,
            flows: 400,
            oddities: Oddities::Valid,
        }
    }
}

/// Makes the case of a seed.
#[must_use]
pub fn case(seed: u64, shape: Shape) -> Case {
    let mut random = Random::seeded(seed);
    let cluster = cluster(&mut random, shape);
    let settings = Settings {
        own_node_egress: random.pick([OwnNodeEgress::Allow, OwnNodeEgress::Enforce]),
        other_protocols: if random.one_in(4) {
            OtherProtocols::Pass
        } else {
            OtherProtocols::Judge
        },
    };
    let flows = flows::flows(&mut random, &cluster, shape.flows);
    Case { cluster, settings, flows }
}

fn cluster(random: &mut Random, shape: Shape) -> Cluster {
    let mut cluster = Cluster::default();
    let namespaces = objects::namespaces(random, &mut cluster);
    objects::nodes(random, &mut cluster);
    objects::pods(random, &mut cluster, &namespaces, shape);
    network_policy::policies(random, &mut cluster, &namespaces, shape);
    cluster_network_policy::policies(random, &mut cluster, shape);
    cluster
}
