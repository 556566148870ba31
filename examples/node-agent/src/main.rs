//! `netpol-agent`: keeps one node's kernel as the cluster's network policies say.
//!
//! ```text
//!   API server ──watch──▶ Cluster ──compile──▶ Ruleset ──sync──▶ kernel
//!                            └── changes that wait, batched, retried: `agent`
//! ```
//!
//! Until the first full listing the rules found from before stay in force, and so they do when the agent ends, by
//! SIGTERM or otherwise; `netpol-agent remove` takes them out.

extern crate alloc;

mod agent;
mod cli;
mod dataplane;
mod http;
mod log;
mod metrics;
mod state;
mod status;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use kube::config::{KubeConfigOptions, Kubeconfig};

use agent::Agent;
use cli::{Cli, Command, RunArgs};
use status::Shared;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(&cli.log);
    let outcome = match &cli.command {
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

fn remove(cli: &Cli) -> anyhow::Result<()> {
    let mut dataplane = dataplane::open(cli.run.backend);
    dataplane.remove().context("cannot take the rules out")?;
    tracing::info!("the rules are out");
    Ok(())
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(args).await?;
        let shared = Shared::new();
        if let Some(address) = args.listen {
            let listener = tokio::net::TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
            tokio::spawn(http::serve(listener, shared.clone()));
        }
        Agent::new(args, shared, dataplane::open(args.backend))?.run(client).await
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
