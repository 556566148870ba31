//! Objects to [`Ruleset`]: selectors become addresses, names become ports, defaults become explicit.
//!
//! `compile` never fails. What is odd in one object fails closed there and then, alone, and is told as a [`Diagnostic`]
//! (DEC-16).

mod bind;
pub(crate) mod cluster_network_policy;
mod context;
mod diagnostic;
mod index;
pub(crate) mod network_policy;
pub(crate) mod peers;
pub(crate) mod pipelines;
pub(crate) mod plan;
mod pods;

pub use diagnostic::{Diagnostic, Effect};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use self::context::Context;
use self::pipelines::Bindings;
use self::pods::Pods;
use crate::ir::{Parts, Ruleset, Scope, Settings, verify};
use crate::model::Cluster;
use crate::net::PrefixSet;

/// What to compile for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a new choice must reach every embedder")]
pub struct Options {
    /// Whose pods are policed.
    pub scope: Scope,
    /// Choices of the embedder.
    pub settings: Settings,
    /// Strict mode: [`Parts::pod_ranges`].
    pub pod_ranges: PrefixSet,
}

/// The result of [`compile`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "two parts, and there will be no third")]
pub struct Compiled {
    /// What must be enforced.
    pub ruleset: Ruleset,
    /// What was odd, and what each oddity does to traffic; sorted.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles a snapshot of the cluster for one scope.
///
/// Costs what the policies that select pods of the scope select: never pods × policies.
#[must_use]
pub fn compile(cluster: &Cluster, options: &Options) -> Compiled {
    let mut diagnostics = Vec::new();
    let pods = Pods::new(cluster, &options.scope, &mut diagnostics);
    let mut context = Context::new(cluster, &pods, diagnostics);
    let mut bindings = Bindings::default();
    bind::policies(&mut context, &mut bindings);
    let (endpoints, pipelines) = bindings.into_endpoints(&pods);
    let (peer_sets, mut diagnostics) = context.finish();
    diagnostics.sort_unstable();
    diagnostics.dedup();
    let nodes = match &options.scope {
        Scope::Cluster => cluster
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), ascending(&node.addresses)))
            .collect(),
        Scope::Node(name) => cluster
            .nodes
            .get(name)
            .map(|node| BTreeMap::from([(name.clone(), ascending(&node.addresses))]))
            .unwrap_or_default(),
    };
    let parts = Parts {
        scope: options.scope.clone(),
        settings: options.settings,
        pod_ranges: options.pod_ranges.clone(),
        nodes,
        endpoints,
        pipelines,
        peer_sets,
    };
    let ruleset = Ruleset::new(parts);
    debug_assert_eq!(verify(&ruleset), Vec::new());
    Compiled { ruleset, diagnostics }
}

/// The order in which an object lists its addresses means nothing, so it must not reach the ruleset.
pub(crate) fn ascending(addresses: &[core::net::IpAddr]) -> Vec<core::net::IpAddr> {
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
