//! The command line itself: every option with its explanation.

use clap::{Args, Parser, Subcommand, ValueEnum};

use netpol_core::model::{Cidr, Protocol};

const AFTER_HELP: &str = "\
Exit codes:
  0  it holds: every flow is allowed, the manifests are right, packets agree
  1  a negative answer: a flow is denied, a manifest is wrong, packets disagree
  2  bad input or usage
  3  uncertain: with --strict, an answer hangs on something unknown (an address, a node, a DNS name);
     for `lab`, nothing could be enforced here

Start with:
  netpol check   -f manifests/
  netpol verdict -f manifests/ --flow 'shop/web -> shop/api:8080'
  netpol explain -f manifests/ 'shop/web -> shop/db:5432'
  netpol matrix  -f manifests/ --port 80/TCP
  netpol lab     -f manifests/

Named `kubectl-netpol` on the PATH, it is `kubectl netpol`.";

/// What do these Kubernetes network policies allow, why, and does a real kernel agree?
#[derive(Debug, Parser)]
#[command(name = "netpol", bin_name = bin_name(), version, after_help = AFTER_HELP, propagate_version = true)]
pub(crate) struct Cli {
    /// Colour the answer.
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true)]
    pub(crate) color: Color,

    /// Say nothing on standard error but errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Finishes what a grammar of options cannot say.
    pub(crate) fn sort_out(&mut self) {
        match &mut self.command {
            Command::Explain(args) => args.sort_out(),
            Command::Check(_)
            | Command::Compile(_)
            | Command::Lab(_)
            | Command::Lower(_)
            | Command::Matrix(_)
            | Command::Verdict(_) => {}
        }
    }
}

/// `kubectl netpol` where kubectl runs us, so that usage texts can be copied.
fn bin_name() -> &'static str {
    let kubectl = std::env::args_os().next().is_some_and(|name| {
        std::path::Path::new(&name).file_stem().is_some_and(|stem| stem == "kubectl-netpol")
    });
    if kubectl { "kubectl netpol" } else { "netpol" }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Judge flows: allowed or denied, on both sides, and which rule decided.
    Verdict(VerdictArgs),
    /// Explain flows: every policy that selects an end, which rule decided, and what came nearest to a denied flow.
    Explain(ExplainArgs),
    /// Show who reaches whom, and on which ports.
    Matrix(MatrixArgs),
    /// Check manifests: everything that is wrong with them, and everything that may not mean what it seems to.
    Check(CheckArgs),
    /// Compile the manifests and show the result: endpoints, pipelines and peer sets.
    Compile(CompileArgs),
    /// Lower the manifests to a backend's program, as the target's own tool would show it.
    Lower(LowerArgs),
    /// Build the cluster out of network namespaces, enforce the policies in this kernel, and send real packets.
    Lab(LabArgs),
}

/// When to colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Color {
    /// If standard output is a terminal and NO_COLOR is not set.
    Auto,
    Always,
    Never,
}

/// Where manifests come from and how they are read.
#[derive(Args, Debug)]
pub(crate) struct InputArgs {
    /// Manifests: a file, a folder (every .yaml, .yml and .json in and below it) or `-` for standard input. Multi-document
    /// YAML, JSON and `kind: List` are read; kinds that say nothing about policy are skipped with a note.
    #[arg(short, long = "filename", value_name = "PATH", required = true, num_args = 1..)]
    pub(crate) filename: Vec<String>,

    /// The namespace of objects and flow ends that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,

    /// Read CIDRs with host bits (`10.0.0.1/8`) as the network they lie in, as API servers before 1.36 do.
    #[arg(long)]
    pub(crate) lenient: bool,
}

/// How what is missing in manifests is filled in, and what the semantics leave to choose.
#[derive(Args, Debug)]
pub(crate) struct EvaluationArgs {
    /// Give pods without address one from this network and take it as true. Without, they get stand-ins that match only
    /// blocks covering a whole family, and the answer says where that was a guess. Can be repeated (IPv4 and IPv6).
    #[arg(long, value_name = "CIDR", value_parser = parse_cidr)]
    pub(crate) pod_cidr: Vec<Cidr>,

    /// Whether NetworkPolicies judge traffic from a pod to its own node. ClusterNetworkPolicies always do.
    #[arg(long, value_enum, default_value_t = OwnNodeEgress::Allow, value_name = "CHOICE")]
    pub(crate) own_node_egress: OwnNodeEgress,

    /// Protocols without ports (ICMP and the like): judge them by rules without ports, or let them pass.
    #[arg(long, value_enum, default_value_t = OtherProtocols::Judge, value_name = "CHOICE")]
    pub(crate) other_protocols: OtherProtocols,
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).map_err(|error| error.to_string())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OwnNodeEgress {
    /// It always passes them.
    Allow,
    /// Like any other egress.
    Enforce,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum OtherProtocols {
    /// Rules without ports match them.
    Judge,
    /// They always pass.
    Pass,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum TextOrJson {
    /// For people.
    Text,
    /// For programs, with a versioned schema.
    Json,
}

/// Which address family to judge.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum FamilyChoice {
    /// IPv4 where both ends have it, IPv6 otherwise; the answer says where they differ.
    Auto,
    Ipv4,
    Ipv6,
}

const FLOW_HELP: &str = "\
Flows:
  'shop/web -> shop/api:8080'           pod to pod; TCP is the default
  'shop/web -> shop/api:metrics/TCP'    a port by name, resolved on the destination pod
  'shop/web[Deployment] -> 10.0.0.7:53/UDP'
  '203.0.113.9 -> shop/web:80'          from outside the cluster
  'node/worker-1 -> shop/web:80'        from a node
  'shop/web -> [fd00::7]:443'           IPv6 with a port stands in brackets
  'shop/web -> svc/shop/api:80'         a Service: judged at every backend, at the target port
  'shop/web -> shop/api ICMP'           a protocol without ports, by name or IP number

Exit codes: 0 every flow is allowed, 1 some flow is denied, 2 bad input or usage (then nothing is judged),
3 with --strict: some answer hangs on something unknown.

Examples:
  netpol verdict -f manifests/ --flow 'shop/web -> shop/api:8080' --flow 'shop/web -> shop/db:5432'
  netpol verdict -f manifests/ --flows flows.txt -o json | jq -r 'select(.verdict==\"deny\").flow'
  kubectl get pods,ns,netpol,nodes -A -o yaml | netpol verdict -f - --flow 'shop/web -> shop/api:8080'";

#[derive(Args, Debug)]
#[command(after_help = FLOW_HELP)]
pub(crate) struct VerdictArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) evaluation: EvaluationArgs,

    /// A flow to judge; can be repeated.
    #[arg(long = "flow", value_name = "FLOW", required_unless_present = "flows")]
    pub(crate) flow: Vec<String>,

    /// A file of flows, one a line (`-` for standard input); blank lines and those that start with `#` are skipped.
    #[arg(long, value_name = "FILE")]
    pub(crate) flows: Option<String>,

    /// The address family to judge.
    #[arg(long, value_enum, default_value_t = FamilyChoice::Auto, value_name = "FAMILY")]
    pub(crate) family: FamilyChoice,

    /// Exit with 3 if some answer hangs on something unknown.
    #[arg(long)]
    pub(crate) strict: bool,

    /// `json` writes one JSON object a line, one for each flow, in the order given.
    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text, value_name = "FORM")]
    pub(crate) output: TextOrJson,
}

const CHECK_HELP: &str = "\
Exit codes: 0 nothing is wrong (there may be warnings), 1 something is wrong, 2 a path cannot be read, or bad usage.

Examples:
  netpol check -f manifests/
  helm template . | netpol check -f -
  netpol check -f manifests/ -o json | jq '.errors[].message'";

#[derive(Args, Debug)]
#[command(after_help = CHECK_HELP)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,

    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text, value_name = "FORM")]
    pub(crate) output: TextOrJson,
}

const COMPILE_HELP: &str = "\
The text is canonical: equal policies give equal bytes, whatever the order of files and objects.

Examples:
  netpol compile -f manifests/
  netpol compile -f manifests/ --node worker-1 -o json";

#[derive(Args, Debug)]
#[command(after_help = COMPILE_HELP)]
pub(crate) struct CompileArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) evaluation: EvaluationArgs,

    /// Compile for the pods of one node instead of the whole cluster.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text, value_name = "FORM")]
    pub(crate) output: TextOrJson,
}

const EXPLAIN_HELP: &str = "\
Flows are written as for `netpol verdict`; see `netpol verdict --help`. Exit codes: 0 every flow is allowed, 1 some flow
is denied, 2 bad input or usage, 3 with --strict: some answer hangs on something unknown.

Examples:
  netpol explain -f manifests/ 'shop/web -> shop/db:5432'
  netpol explain -f manifests/ 'shop/web -> shop/db:5432' -o json";

#[derive(Args, Debug)]
#[command(after_help = EXPLAIN_HELP)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) evaluation: EvaluationArgs,

    /// The flows to explain.
    #[arg(value_name = "FLOW")]
    pub(crate) flow: Vec<String>,

    /// A file of flows, one a line (`-` for standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) flows: Option<String>,

    /// The address family to judge.
    #[arg(long, value_enum, default_value_t = FamilyChoice::Auto, value_name = "FAMILY")]
    pub(crate) family: FamilyChoice,

    /// Exit with 3 if some answer hangs on something unknown.
    #[arg(long)]
    pub(crate) strict: bool,

    /// `json` writes one JSON object a line, one for each flow, in the order given.
    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text, value_name = "FORM")]
    pub(crate) output: TextOrJson,
}

impl ExplainArgs {
    /// Takes flows out of the list of paths: `-f a b 'x -> y:80'` means two paths and a flow.
    pub(crate) fn sort_out(&mut self) {
        let is_flow = |text: &String| text.contains("->") || text.contains('→');
        let (flows, paths) = self.input.filename.drain(..).partition(is_flow);
        self.input.filename = paths;
        self.flow.splice(0..0, flows);
    }
}

const MATRIX_HELP: &str = "\
Pods that no rule tells apart are one group in `text`, `md` and `dot`; `json` and `csv` list every pair. A pair that is
not listed is denied. What a pod sends to itself and what its own node sends to it always passes and is not shown; pods on
the host network are their nodes and not shown (OFF-010).

Examples:
  netpol matrix -f manifests/
  netpol matrix -f manifests/ --port 443/TCP
  netpol matrix -f manifests/ -o json | jq '.connections[] | select(.dst | startswith(\"shop/db\"))'
  netpol matrix -f manifests/ -o dot | dot -Tsvg > reach.svg";

#[derive(Args, Debug)]
#[command(after_help = MATRIX_HELP)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) evaluation: EvaluationArgs,

    /// Show this port only, such as `80`, `53/UDP`.
    #[arg(long, value_name = "PORT[/PROTOCOL]", value_parser = parse_port)]
    pub(crate) port: Option<(Protocol, u16)>,

    /// Exit with 3 if what passes between some pods hangs on addresses that the manifests do not give.
    #[arg(long)]
    pub(crate) strict: bool,

    /// The address family to show; `auto` is IPv4 if any pod has an IPv4 address.
    #[arg(long, value_enum, default_value_t = FamilyChoice::Auto, value_name = "FAMILY")]
    pub(crate) family: FamilyChoice,

    #[arg(short, long, value_enum, default_value_t = MatrixForm::Text, value_name = "FORM")]
    pub(crate) output: MatrixForm,
}

/// How a matrix is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum MatrixForm {
    /// Every pair that may connect, one a line.
    Csv,
    /// A graph of groups for Graphviz.
    Dot,
    /// Every pair that may connect, with a versioned schema.
    Json,
    /// A Markdown table of groups.
    Md,
    /// A table of groups.
    Text,
}

fn parse_port(text: &str) -> Result<(Protocol, u16), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let protocol = Protocol::ALL
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(protocol))
        .ok_or_else(|| format!("unknown protocol `{protocol}`; TCP, UDP and SCTP have ports"))?;
    match port.parse() {
        Ok(port) if port > 0 => Ok((protocol, port)),
        Ok(_) | Err(_) => Err(format!("`{port}` is not a port number from 1 to 65535")),
    }
}

/// A technology that policies are enforced with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum BackendChoice {
    /// nftables: one table `inet netpol`.
    Nft,
    /// iptables and ipset: chains and sets that begin with `NETPOL`.
    Iptables,
    /// eBPF: one fixed program at the netfilter hooks, with the policies in its maps (needs root).
    Ebpf,
    /// The same maps at the node's side of pods' interfaces, with a table of connections of its own (needs root).
    EbpfTc,
}

const LOWER_HELP: &str = "\
Examples:
  netpol lower -f manifests/ --node worker-1
  netpol lower -f manifests/ --node worker-1 | nft --check -f -
  netpol lower -f manifests/ --node worker-1 -o json | nft --json --check -f -";

#[derive(Args, Debug)]
#[command(after_help = LOWER_HELP)]
pub(crate) struct LowerArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) evaluation: EvaluationArgs,

    /// The node whose pods are policed; without, one program for the pods of all nodes.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    #[arg(long, value_enum, default_value_t = BackendChoice::Nft, value_name = "BACKEND")]
    pub(crate) backend: BackendChoice,

    /// `json` is for nftables alone: what `nft --json` loads and lists.
    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text, value_name = "FORM")]
    pub(crate) output: TextOrJson,
}

const LAB_HELP: &str = "\
Every pod, node and some hosts outside become network namespaces of this process; nothing of the machine's own network is
touched, and all of it is gone when the command ends. Pods without a node are spread over two, pods without address get
stand-ins. Needs root, or a kernel that allows user namespaces, and nf_tables in the kernel.

Exit codes: 0 every packet did what was expected, 1 some did not, 2 bad input or usage, 3 nothing could be enforced here
(the expected matrix is printed all the same).

Examples:
  netpol lab -f manifests/
  netpol lab -f manifests/ --flow 'shop/web -> shop/db:5432' --flow '203.0.113.9 -> shop/web:8080'
  netpol lab -f manifests/ --shell shop/web        # then: curl, nc, ping from inside the pod
  netpol lab -f manifests/ --keep                  # prints how to enter each namespace, and waits";

#[derive(Args, Debug)]
#[command(after_help = LAB_HELP)]
pub(crate) struct LabArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) evaluation: EvaluationArgs,

    #[arg(long, value_enum, default_value_t = BackendChoice::Nft, value_name = "BACKEND")]
    pub(crate) backend: BackendChoice,

    /// Probe this flow instead of every pair; can be repeated.
    #[arg(long = "flow", value_name = "FLOW")]
    pub(crate) flow: Vec<String>,

    /// A file of flows to probe, one a line (`-` for standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) flows: Option<String>,

    /// Keep the cluster after probing until Enter is pressed, and print how to look into it.
    #[arg(long)]
    pub(crate) keep: bool,

    /// Open a shell in a pod's (or `node/NAME`'s) network namespace after probing.
    #[arg(long, value_name = "NAMESPACE/POD")]
    pub(crate) shell: Option<String>,

    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text, value_name = "FORM")]
    pub(crate) output: TextOrJson,
}
