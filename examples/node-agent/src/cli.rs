//! The command line. Every option can also be given by an environment variable, as a DaemonSet does.

use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use netpol_core::backend;
use netpol_core::model::Cidr;

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
    /// Ask the running agent of this node why it allows or denies a flow.
    Explain(ExplainArgs),
    /// Take everything of ours out of this node's kernel.
    Remove,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Such as `shop/web -> shop/api:80`, `shop/web -> 192.0.2.1:53/UDP` or `node/n1 -> shop/api:http`.
    pub(crate) flow: String,

    /// The namespace of names without one.
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,

    /// The form of the answer.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    Json,
    Text,
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
    /// The node whose pods are policed. Needed to run.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub(crate) node_name: String,

    /// How to reach the API server; without it, as the pod's service account, or as `kubectl` would.
    #[arg(long, env = "NETPOL_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) dataplane: DataplaneArgs,

    /// Traffic from a pod to its own node, where NetworkPolicies would deny it.
    #[arg(long, env = "NETPOL_OWN_NODE_EGRESS", value_enum, default_value_t = OwnNode::Allow)]
    pub(crate) own_node_egress: OwnNode,

    /// Drop what goes from and to addresses of this node's pod ranges that no known pod has: pods whose policies are not
    /// known yet talk to nobody.
    #[arg(long, env = "NETPOL_STRICT")]
    pub(crate) strict: bool,

    /// A range of addresses that only pods of this node have; the ranges of its Node object if not given.
    #[arg(long, env = "NETPOL_POD_CIDR", value_name = "CIDR", value_delimiter = ',', value_parser = cidr, requires = "strict")]
    pub(crate) pod_cidr: Vec<Cidr>,

    /// Where to serve /livez, /readyz and /metrics; nowhere if not given.
    #[arg(long, env = "NETPOL_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// The local socket that `explain` asks: a path, or `@name` without a file. Empty: none.
    #[arg(long, env = "NETPOL_SOCKET", default_value = "@netpol-agent", global = true)]
    pub(crate) socket: String,

    /// Log denied flows, each flow at most every ten seconds.
    #[arg(long, env = "NETPOL_LOG_DENIED")]
    pub(crate) log_denied: bool,

    /// How lists are had: in pages, or as a stream, which takes less memory, where the API server can.
    #[arg(long, env = "NETPOL_LISTING", value_enum, default_value_t = Listing::Pages)]
    pub(crate) listing: Listing,

    /// How often the kernel is made to agree again although nothing changed, such as `500ms`, `10s` or `5m`.
    #[arg(long, env = "NETPOL_RESYNC", value_parser = duration, default_value = "5m")]
    pub(crate) resync: Duration,

    /// How often the kernel is asked whether somebody else may have changed our rules.
    #[arg(long, env = "NETPOL_DRIFT_CHECK", value_parser = duration, default_value = "50ms")]
    pub(crate) drift_check: Duration,

    /// Say what would change, print the program whenever it changes, and leave the kernel alone.
    #[arg(long, env = "NETPOL_DRY_RUN")]
    pub(crate) dry_run: bool,

    /// End after everything was listed and enforced once.
    #[arg(long)]
    pub(crate) once: bool,
}

/// What enforces, and how.
#[derive(Args, Clone, Debug, Eq, PartialEq)]
pub(crate) struct DataplaneArgs {
    /// What enforces.
    #[arg(long, env = "NETPOL_BACKEND", value_enum, default_value_t = BackendName::Auto, global = true)]
    pub(crate) backend: BackendName,

    /// What becomes of open connections that a later ruleset denies.
    #[arg(long, env = "NETPOL_ESTABLISHED", value_enum, default_value_t = Established::Recheck, global = true)]
    pub(crate) established: Established,

    /// The bits of connections' marks that `--established recheck` uses, with nft and iptables: a row of at least two, such
    /// as 0xfff00000. Nobody else on the node may use them; each backend has bits of its own if not given.
    #[arg(long, env = "NETPOL_MARK", value_name = "BITS", value_parser = mark, global = true)]
    pub(crate) mark: Option<u32>,

    /// Which of the kernel's two packet filters `iptables` is: the one that others here use, if not given.
    #[arg(long, env = "NETPOL_IPTABLES_VARIANT", value_enum, global = true)]
    pub(crate) iptables_variant: Option<IptablesVariant>,

    /// Where the eBPF backend pins its hooks, so that they outlive the agent: a directory in a BPF file system.
    #[arg(
        long,
        env = "NETPOL_EBPF_PINS",
        value_name = "DIRECTORY",
        default_value = "/sys/fs/bpf/netpol",
        global = true
    )]
    pub(crate) ebpf_pins: PathBuf,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BackendName {
    /// The first that works here: nft, ebpf, iptables.
    Auto,
    /// eBPF programs on netfilter's hooks.
    Ebpf,
    /// eBPF programs at the interfaces of pods, for nodes whose packets do not pass netfilter's hooks. Services that are
    /// translated behind these interfaces are judged by their own addresses.
    EbpfTc,
    /// iptables and ipset, in the variant that is in use here.
    Iptables,
    /// nftables.
    Nft,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Established {
    /// They stay open.
    Keep,
    /// Their next packet is the last.
    Recheck,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum IptablesVariant {
    /// The old tables.
    Legacy,
    /// nf_tables, under iptables' own names.
    Nft,
}

impl From<IptablesVariant> for netpol_iptables::Variant {
    fn from(variant: IptablesVariant) -> Self {
        match variant {
            IptablesVariant::Legacy => Self::Legacy,
            IptablesVariant::Nft => Self::Nft,
        }
    }
}

impl From<Established> for backend::Established {
    fn from(established: Established) -> Self {
        match established {
            Established::Keep => Self::Keep,
            Established::Recheck => Self::Recheck,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Listing {
    Pages,
    Streaming,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OwnNode {
    Allow,
    Enforce,
}

fn cidr(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).map_err(|error| error.to_string())
}

/// What every backend can count with.
fn mark(text: &str) -> Result<u32, String> {
    let hexadecimal = text.strip_prefix("0x").map(|digits| u32::from_str_radix(digits, 16));
    let mask = hexadecimal.unwrap_or_else(|| text.parse()).map_err(|error| error.to_string())?;
    let bits = mask.count_ones();
    if bits < 2 || bits + mask.leading_zeros() + mask.trailing_zeros() != u32::BITS {
        return Err("write a row of at least two bits without gaps, such as 0xfff00000".to_owned());
    }
    Ok(mask)
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

    use super::{Cli, duration, mark};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_the_agent_is_a_variable_too() {
        let but = ["help", "version", "once"];
        for option in Cli::command().get_arguments() {
            let name = option.get_id().as_str();
            assert!(but.contains(&name) || option.get_env().is_some(), "{name}");
        }
    }

    #[test]
    fn marks_are_rows_of_bits() {
        assert_eq!(mark("0xfff00000"), Ok(0xfff0_0000));
        assert_eq!(mark("48"), Ok(0x30));
        for bad in ["", "0", "0x", "0x10", "0x5", "-3", "0x1ffffffff", "many"] {
            assert!(mark(bad).is_err(), "{bad}");
        }
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
