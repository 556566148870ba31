//! Plans to blocks, bound to the pods they apply to.

use alloc::vec::Vec;

use hashbrown::HashMap;

use super::cluster_network_policy::{self, ties};
use super::context::Context;
use super::network_policy;
use super::pipelines::Bindings;
use super::plan::{Plan, Resolution, Side};
use super::pods::Row;
use crate::model::ClusterNetworkPolicy;

/// Compiles every policy, in the order their blocks stand in a pipeline: ClusterNetworkPolicies by tier, priority and
/// name (CNP-004, DEC-12), then NetworkPolicies by name.
pub(super) fn policies(context: &mut Context<'_>, bindings: &mut Bindings) {
    let cluster = context.cluster;
    let mut ordered: Vec<&ClusterNetworkPolicy> =
        cluster.cluster_network_policies.values().collect();
    ordered.sort_by_key(|policy| (policy.tier, policy.priority)); // Stable: names ascend already.
    let plans: Vec<Plan> = ordered.into_iter().map(cluster_network_policy::plan).collect();
    let rows: Vec<Vec<Row>> = plans.iter().map(|plan| apply(context, bindings, plan)).collect();
    let share =
        |one: &Vec<Row>, other: &Vec<Row>| one.iter().any(|row| other.binary_search(row).is_ok());
    ties(plans.iter().zip(&rows), share).into_iter().for_each(|tie| context.report(tie));
    for policy in cluster.network_policies.values() {
        apply(context, bindings, &network_policy::plan(policy));
    }
}

/// Returns the pods of the scope that the policy applies to.
fn apply(context: &mut Context<'_>, bindings: &mut Bindings, plan: &Plan) -> Vec<Row> {
    plan.diagnostics.iter().for_each(|diagnostic| context.report(diagnostic.clone()));
    let Some((namespaces, pods)) = &plan.subject else { return Vec::new() };
    let mut rows = context.select(namespaces, pods);
    rows.retain(|row| context.pods.row(*row).is_some_and(|row| row.in_scope));
    if rows.is_empty() {
        return rows;
    }
    for side in &plan.sides {
        side.diagnostics.iter().for_each(|diagnostic| context.report(diagnostic.clone()));
        bind(context, bindings, plan, side, &rows);
    }
    rows
}

/// Binds one direction. Where ingress rules name ports, pods on which the names mean other numbers get another block
/// (NP-086, CNP-056).
fn bind(
    context: &mut Context<'_>,
    bindings: &mut Bindings,
    plan: &Plan,
    side: &Side,
    rows: &[Row],
) {
    if !side.asks_subject() {
        if let Some(block) = side.block(&plan.policy, &[], context) {
            let block = bindings.add(block);
            rows.iter().for_each(|row| bindings.bind(*row, side.slot, block));
        }
        return;
    }
    let mut blocks: HashMap<Resolution, Option<u32>> = HashMap::new();
    for row in rows {
        let Some(pod) = context.pods.row(*row).map(|row| row.pod) else { continue };
        let resolution =
            side.resolution(|name| pod.named_ports(name).collect::<Vec<_>>().into_iter());
        let block = match blocks.get(&resolution) {
            Some(block) => *block,
            None => {
                let block = side.block(&plan.policy, &resolution, context);
                let block = block.map(|block| bindings.add(block));
                blocks.insert(resolution, block);
                block
            }
        };
        if let Some(block) = block {
            bindings.bind(*row, side.slot, block);
        }
    }
}
