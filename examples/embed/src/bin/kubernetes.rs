//! A controller that follows a live cluster: `policy-k8s` and `core`.
//!
//! It says which pods of a node are isolated, whenever that changes. Usage: `kubernetes NODE [API-SERVER-URL]`; without
//! an address, it goes where `kubectl` would go.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the answer of a command")]

use anyhow::Context as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Direction, Ruleset, Scope};
use netpol_core::model::Cluster;
use netpol_k8s::watch::{self, Change, Event, Watch};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let node = arguments.next().context("which node?")?;
    let client = match arguments.next() {
        Some(address) => kube::Client::try_from(kube::Config::new(address.parse()?))?,
        None => kube::Client::try_default().await?,
    };
    let options = Options { scope: Scope::Node(node.into()), ..Options::default() };
    let (mut cluster, mut is_synced, mut last) = (Cluster::default(), false, None);
    let mut watch = Watch::start(client, watch::Options::default());
    while let Some(event) = watch.next().await {
        match event {
            Event::Change { change, .. } => {
                is_synced |= change == Change::InSync;
                watch::apply(change, &mut cluster);
            }
            Event::Failing { kind, failure, .. } => eprintln!("{kind}: {failure}"),
            Event::Odd(oddity) => eprintln!("{oddity}"),
            Event::Listed(_) | Event::Recovered(_) | _ => {}
        }
        // Not before everything is there: half a cluster would deny, or admit, what the whole does not.
        if is_synced {
            let said = describe(&compile(&cluster, &options).ruleset);
            if last.as_ref() != Some(&said) {
                println!("{said}");
                last = Some(said);
            }
        }
    }
    Ok(())
}

fn describe(ruleset: &Ruleset) -> String {
    let isolated = |pipeline| {
        ruleset.pipeline(pipeline).is_some_and(|pipeline| pipeline.network_policy.is_some())
    };
    let lines = ruleset.endpoints().map(|endpoint| {
        let sides = [Direction::Ingress, Direction::Egress].map(|direction| {
            if isolated(endpoint.pipeline(direction)) { "isolated" } else { "open" }
        });
        format!("{}: ingress {}, egress {}", endpoint.pod, sides[0], sides[1])
    });
    lines.collect::<Vec<_>>().join("; ")
}
