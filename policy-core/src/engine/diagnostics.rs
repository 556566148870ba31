//! What is odd about the objects, as the full compile says it.

use alloc::string::ToString as _;
use alloc::vec::Vec;

use super::Engine;
use super::policies::Policy;
use crate::compile::Diagnostic;
use crate::compile::cluster_network_policy::ties;
use crate::ir::PolicyKind;

pub(super) fn all(engine: &Engine) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut ordered: Vec<&Policy> = Vec::new();
    for (_, policy) in engine.policies.slab.iter() {
        found.extend(policy.plan.diagnostics.iter().cloned());
        if !policy.pods.is_empty() {
            found
                .extend(policy.plan.sides.iter().flat_map(|side| side.diagnostics.iter().cloned()));
        }
        if policy.plan.policy.kind == PolicyKind::ClusterNetworkPolicy {
            ordered.push(policy);
        }
    }
    ordered.sort_unstable_by_key(|policy| {
        let slot = policy.plan.sides.first().map(|side| side.slot);
        (slot, policy.plan.priority, &policy.plan.policy.object)
    });
    let plans = ordered.iter().map(|policy| (policy.plan.as_ref(), &policy.pods));
    found.extend(ties(plans, |one, other| !one.is_disjoint(other)));
    for (address, claimants) in engine.pods.claims.contested() {
        let owner = engine.pods.claims.owner(*address);
        let Some(owned_by) = owner.and_then(|owner| engine.object_of(owner)) else { continue };
        for loser in claimants.iter().filter(|claimant| Some(**claimant) != owner) {
            let Some(loser) = engine.object_of(*loser) else { continue };
            let (address, owner) = (*address, owned_by.clone());
            found.push(Diagnostic::AddressClash { address, owner, loser });
        }
    }
    for (_, namespace) in engine.namespaces.all.iter() {
        if !namespace.is_declared && !namespace.pods.is_empty() {
            found.push(Diagnostic::MissingNamespace(namespace.name.to_string()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}
