//! `netpol-agent`: keeps one node's kernel as the cluster's network policies say.
//!
//! ```text
//!   API server ──watch──▶ agent ──changes──▶ enforcer: engine ──Ruleset, Delta──▶ kernel
//!                           ▲                  └── tried again, looked after, put back
//!          /metrics, explain┘
//! ```
//!
//! Until the first full listing the rules found from before stay in force, and so they do when the agent ends, by
//! SIGTERM or otherwise; `netpol-agent remove` takes them out.

extern crate alloc;

mod agent;
mod cli;
mod counts;
mod dataplane;
mod denied;
mod enforcer;
mod explain;
mod http;
mod log;
mod metrics;
mod status;
mod strict;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use netpol_core::backend::SyncError;
use tokio::sync::mpsc;

use cli::{BackendName, Cli, Command, ExplainArgs, RunArgs};
use status::Shared;

/// Questions that wait for the loop.
const QUESTIONS: usize = 16;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(&cli.log);
    let outcome = match &cli.command {
        Some(Command::Explain(args)) => ask(&cli.run.socket, args),
        Some(Command::Remove) => remove(&cli),
        None => run(&cli.run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn ask(socket: &str, args: &ExplainArgs) -> anyhow::Result<()> {
    println!("{}", explain::socket::ask(socket, args)?.trim_end());
    Ok(())
}

/// Takes out what any backend put in, or the one that is named.
fn remove(cli: &Cli) -> anyhow::Result<()> {
    let args = &cli.run.dataplane;
    let mut dataplanes = match args.backend {
        BackendName::Auto => dataplane::others(None, args)?,
        BackendName::Ebpf | BackendName::EbpfTc | BackendName::Iptables | BackendName::Nft => {
            vec![dataplane::open(args)?]
        }
    };
    let mut failures = Vec::new();
    for (chosen, dataplane) in &mut dataplanes {
        if let Err(error) = dataplane.remove() {
            failures.push((chosen.name(), anyhow::Error::from(error)));
        }
    }
    let is_refused = |error: &anyhow::Error| {
        matches!(error.downcast_ref::<SyncError>(), Some(SyncError::Refused { .. }))
    };
    for (name, error) in &failures {
        tracing::warn!(backend = name, "cannot take the rules out: {error:#}");
    }
    // A backend that does not work here at all has left nothing, where it was not asked for by name.
    if failures.len() == dataplanes.len() {
        bail!("nothing could be taken out");
    }
    // One that works and was not let has: a table of an agent that still runs, for one.
    if failures.iter().any(|(_, error)| is_refused(error)) {
        bail!("not everything could be taken out");
    }
    tracing::info!("the rules are out");
    Ok(())
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(args).await?;
        let shared = Shared::new();
        let (asking, requests) = mpsc::channel(QUESTIONS);
        if let Some(address) = args.listen {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
            tokio::spawn(http::serve(listener, shared.clone(), asking.clone()));
        }
        match explain::socket::listen(&args.socket) {
            Ok(Some(listener)) => {
                tokio::spawn(explain::socket::serve(listener, asking.clone()));
            }
            Ok(None) => {}
            // Enforcement does not depend on it.
            Err(error) => tracing::warn!(socket = %args.socket, %error, "explanations cannot be asked for"),
        }
        agent::run(args, client, shared, requests).await
    })
}

async fn client(args: &RunArgs) -> anyhow::Result<kube::Client> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await.context("no way to the API server is configured")?,
    };
    Ok(kube::Client::try_from(config)?)
}
