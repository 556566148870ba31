//! A controller with a source of objects of its own, and no Kubernetes: `core` and one backend.
//!
//! It reads lines, keeps a `Cluster`, and makes the kernel follow at every `apply`; with `--print` it prints the program
//! instead.
//!
//! ```text
//! pod web 10.0.0.1
//! pod db 10.0.0.2
//! allow web db 5432
//! apply
//! ```
#![expect(clippy::print_stdout, reason = "the answer of a command")]

use anyhow::{Context as _, bail};
use netpol_core::backend::{Backend as _, Dataplane as _};
use netpol_core::compile::{Options, compile};
use netpol_core::model::{
    Cluster, Field, LabelSelector, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, ObjectMeta,
    Pod, PolicyPort, PolicyPortNumber,
};
use netpol_nft::{Nft, NftDataplane};

fn main() -> anyhow::Result<()> {
    let prints = std::env::args().any(|argument| argument == "--print");
    let mut dataplane = NftDataplane::new();
    let mut cluster = Cluster::default();
    for line in std::io::stdin().lines() {
        let line = line?;
        match *line.split_whitespace().collect::<Vec<_>>() {
            [] => {}
            ["pod", name, address] => {
                let labels = [("name", name)].into_iter().collect();
                let meta = ObjectMeta::new("default", name, labels);
                let addresses = vec![address.parse().context("not an address")?];
                cluster.pods.insert(meta.object.clone(), Pod { meta, addresses, ..Pod::default() });
            }
            ["allow", from, to, port] => allow(&mut cluster, from, to, port)?,
            ["apply"] => {
                cluster.mention_namespaces();
                let ruleset = compile(&cluster, &Options::default()).ruleset;
                if prints {
                    println!("{}", Nft::default().lower(&ruleset)?);
                } else {
                    dataplane.sync(&ruleset)?;
                }
            }
            _ => bail!("not understood: `{line}`"),
        }
    }
    Ok(())
}

/// Whatever else is not allowed to reach `to` is denied.
fn allow(cluster: &mut Cluster, from: &str, to: &str, port: &str) -> anyhow::Result<()> {
    let named = |name: &str| LabelSelector {
        match_labels: Field::Given([("name".into(), name.into())].into()),
        ..LabelSelector::default()
    };
    let peer = NetworkPolicyPeer {
        pod_selector: Field::Given(named(from)),
        ..NetworkPolicyPeer::default()
    };
    let port = PolicyPortNumber::Number(port.parse().context("not a port")?);
    let port = PolicyPort { port: Field::Given(port), ..PolicyPort::default() };
    let (peers, ports) = (Field::Given(vec![peer]), Field::Given(vec![port]));
    let rule = NetworkPolicyRule { peers, ports, ..NetworkPolicyRule::default() };
    let meta = ObjectMeta::new("default", &format!("{from}-{to}"), Default::default());
    let (pod_selector, ingress) = (Field::Given(named(to)), Field::Given(vec![rule]));
    let policy = NetworkPolicy { meta, pod_selector, ingress, ..NetworkPolicy::default() };
    cluster.network_policies.insert(policy.meta.object.clone(), policy);
    Ok(())
}
