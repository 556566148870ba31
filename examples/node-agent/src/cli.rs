//! The command line. Every option can also be given by an environment variable, as a DaemonSet does.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Keeps one node's kernel as the cluster's network policies say.
#[derive(Debug, Parser)]
#[command(name = "netpol-agent", version, args_conflicts_with_subcommands = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take everything of ours out of this node's kernel.
    Remove,
}

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// How log lines are written.
    #[arg(long, env = "NETPOL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub(crate) log_format: LogFormat,

    /// What is logged: a level, or a filter such as `info,netpol_k8s=debug`.
    #[arg(long, env = "NETPOL_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The node whose pods are policed. Needed unless rules are removed.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub(crate) node_name: String,

    /// How to reach the API server; without it, as the pod's service account, or as `kubectl` would.
    #[arg(long, env = "NETPOL_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// What enforces.
    #[arg(long, env = "NETPOL_BACKEND", value_enum, default_value_t = BackendName::Auto, global = true)]
    pub(crate) backend: BackendName,

    /// Traffic from a pod to its own node, where NetworkPolicies would deny it.
    #[arg(long, env = "NETPOL_OWN_NODE_EGRESS", value_enum, default_value_t = OwnNode::Allow)]
    pub(crate) own_node_egress: OwnNode,

    /// Where to serve /livez, /readyz and /metrics; nowhere if not given.
    #[arg(long, env = "NETPOL_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// How often the kernel is made to agree again although nothing changed, such as `500ms`, `10s` or `5m`.
    #[arg(long, env = "NETPOL_RESYNC", value_parser = duration, default_value = "1m")]
    pub(crate) resync: Duration,

    /// How often the kernel is asked whether another program wrote, where it can tell.
    #[arg(long, env = "NETPOL_DRIFT_CHECK", value_parser = duration, default_value = "500ms")]
    pub(crate) drift_check: Duration,

    /// Print the program whenever it changes, and leave the kernel alone.
    #[arg(long, env = "NETPOL_DRY_RUN")]
    pub(crate) dry_run: bool,

    /// End after everything was listed and enforced once.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BackendName {
    /// The best that works here.
    Auto,
    /// iptables and ipset, in the variant that is in use here.
    Iptables,
    /// nftables.
    Nft,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OwnNode {
    Allow,
    Enforce,
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let number = text.strip_suffix(unit).unwrap_or_default().parse::<u32>();
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => return Err("write a whole number with `ms`, `s` or `m`".to_owned()),
    };
    match number {
        Ok(number) if number > 0 => Ok(unit * number),
        Ok(_) | Err(_) => Err("write a whole number above 0 with `ms`, `s` or `m`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use clap::CommandFactory as _;

    use super::{Cli, duration};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "5", "s", "0s", "-1s", "5h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
