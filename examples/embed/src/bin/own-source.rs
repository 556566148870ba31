//! A controller with a source of objects of its own, and no Kubernetes: `core` and one backend.
//!
//! It reads lines, keeps a `Cluster`, and makes the kernel follow at every `apply`; with `--print` it prints the program
//! instead. For example: `pod web 10.0.0.1`, `pod db 10.0.0.2`, `allow web db 5432`, `apply`.
#![expect(clippy::print_stdout, reason = "the answer of a command")]

use anyhow::{Context as _, bail};
use netpol_core::backend::{Backend as _, Dataplane as _};
use netpol_core::compile::{Options, compile};
use netpol_core::model::{
    Cluster, Field, LabelSelector, Labels, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule,
    ObjectMeta, Pod, PolicyPort,
};
use netpol_nft::{Nft, NftDataplane};

fn main() -> anyhow::Result<()> {
    let prints = std::env::args().any(|argument| argument == "--print");
    let (mut cluster, mut dataplane) = (Cluster::default(), NftDataplane::new());
    for line in std::io::stdin().lines() {
        let line = line?;
        match *line.split_whitespace().collect::<Vec<_>>() {
            [] => {}
            ["pod", name, address] => {
                let meta = ObjectMeta::new("default", name, Labels::from_iter([("name", name)]));
                let addresses = vec![address.parse().context("not an address")?];
                cluster.pods.insert(meta.object.clone(), Pod { meta, addresses, ..Pod::default() });
            }
            ["allow", from, to, port] => {
                let port = PolicyPort::tcp(port.parse().context("not a port")?);
                let policy = allow(from, to, port);
                cluster.network_policies.insert(policy.meta.object.clone(), policy);
            }
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
fn allow(from: &str, to: &str, port: PolicyPort) -> NetworkPolicy {
    let named = |name| LabelSelector::from_iter([("name", name)]);
    let peers = Field::Given(vec![NetworkPolicyPeer::pods(named(from))]);
    let ports = Field::Given(vec![port]);
    let meta = ObjectMeta::new("default", &format!("{from}-{to}"), Labels::default());
    let ingress =
        Field::Given(vec![NetworkPolicyRule { peers, ports, ..NetworkPolicyRule::default() }]);
    NetworkPolicy { meta, pod_selector: Field::Given(named(to)), ingress, ..Default::default() }
}
