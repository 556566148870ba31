//! Strict mode: which addresses are those of this node's pods, whether or not the pods are known.

use core::time::Duration;

use anyhow::bail;
use netpol_core::net::PrefixSet;
use netpol_k8s::watch::{self, Options};

use crate::cli::RunArgs;
use crate::enforcer::chain;

/// The longest pause between two questions.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Returns the pod ranges that were given, or those of the node's own object; none unless in strict mode.
///
/// Waits for the API server as long as it takes: what is in force from before stays.
pub(crate) async fn pod_ranges(
    args: &RunArgs,
    client: &kube::Client,
    options: &Options,
) -> anyhow::Result<PrefixSet> {
    if !args.strict {
        return Ok(PrefixSet::default());
    }
    if !args.pod_cidr.is_empty() {
        return Ok(PrefixSet::from_cidrs(&args.pod_cidr));
    }
    let mut pause = options.first_pause;
    let node = loop {
        match watch::node(client, options, &args.node_name).await {
            Ok(node) => break node,
            Err(failure) => {
                tracing::warn!(reason = %chain(&failure), ?pause, "cannot ask for this node's pod ranges");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    };
    let Some(node) = node else {
        bail!("`--strict` needs `--pod-cidr`: there is no node `{}` to ask", args.node_name);
    };
    if node.pod_cidrs.is_empty() {
        bail!("`--strict` needs `--pod-cidr`: node `{}` has no spec.podCIDRs", args.node_name);
    }
    let ranges: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    tracing::info!(ranges = %ranges.join(","), "strict for this node's pod ranges");
    Ok(PrefixSet::from_cidrs(&node.pod_cidrs))
}
