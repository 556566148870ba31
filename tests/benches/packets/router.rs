//! A node between two veths, with rules or without.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netpol_conformance::netlab::{Lab, Plan, PlannedNode, PlannedPod};
use netpol_core::backend::Dataplane;
use netpol_core::ir::{Family, Ruleset};
use netpol_core::model::ObjectRef;
use netpol_ebpf::EbpfDataplane;
use netpol_iptables::{IptablesDataplane, Variant};
use netpol_nft::NftDataplane;

use crate::shape::{NODE, PORT, Shape, outsider, server};
use crate::traffic::{Client, Kind, Server, arrives, pin};

/// What stands between client and server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Rules {
    /// Nothing.
    None,
    /// `ct state established,related accept`, and nothing else.
    Tracked(Tool),
    /// A backend's.
    Backend(Backend),
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Tool {
    Nft,
    IptablesNft,
    IptablesLegacy,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Backend {
    Nft,
    IptablesNft,
    IptablesLegacy,
    Ebpf,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] =
        [Self::Nft, Self::IptablesNft, Self::IptablesLegacy, Self::Ebpf];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Ebpf => "ebpf",
        }
    }

    /// Returns what only tracks connections in the way this backend does.
    pub(crate) const fn baseline(self) -> Tool {
        match self {
            Self::Nft | Self::Ebpf => Tool::Nft,
            Self::IptablesNft => Tool::IptablesNft,
            Self::IptablesLegacy => Tool::IptablesLegacy,
        }
    }

    fn dataplane(self) -> Box<dyn Dataplane + Send> {
        match self {
            Self::Nft => Box::new(NftDataplane::new()),
            Self::IptablesNft => Box::new(IptablesDataplane::with_variant(Variant::Nft)),
            Self::IptablesLegacy => Box::new(IptablesDataplane::with_variant(Variant::Legacy)),
            Self::Ebpf => Box::new(EbpfDataplane::default()),
        }
    }
}

/// A node, a client and a server.
#[derive(Debug)]
pub(crate) struct Router {
    lab: Lab,
    server: Server,
    client: Client,
    /// What some backends put into the kernel lasts as long as this.
    dataplane: Option<Box<dyn Dataplane + Send>>,
    /// How long the rules took to load.
    pub(crate) loaded: Duration,
}

fn client_pod() -> ObjectRef {
    ObjectRef::new("perf", "client")
}

impl Router {
    /// Builds it. The client owns the addresses of all sources, so that look-ups differ.
    pub(crate) fn build(rules: Rules, shape: Shape, family: Family, ruleset: &Ruleset) -> Self {
        let sources = shape.sources(family);
        let pod = |pod: ObjectRef, addresses| PlannedPod { pod, node: NODE.into(), addresses };
        let server_pod = ObjectRef::new("perf", "server");
        let plan = Plan {
            nodes: vec![PlannedNode {
                name: NODE.into(),
                addresses: vec![[192, 168, 0, 1].into()],
            }],
            pods: vec![
                pod(server_pod.clone(), vec![server(family)]),
                pod(client_pod(), sources.iter().copied().chain([outsider(family)]).collect()),
            ],
            ..Plan::default()
        };
        let lab = Lab::build(&plan).unwrap();
        let address = SocketAddr::new(server(family), PORT);
        let server = lab.in_pod(&server_pod, || Server::open(address)).unwrap().unwrap();
        let mut router = Self {
            lab,
            server,
            client: Client::new(sources),
            dataplane: None,
            loaded: Duration::ZERO,
        };
        router.load(rules, ruleset);
        router
    }

    fn load(&mut self, rules: Rules, ruleset: &Ruleset) {
        let start = Instant::now();
        match rules {
            Rules::None => {}
            Rules::Tracked(tool) => self.lab.in_node(NODE, || track(tool)).unwrap(),
            Rules::Backend(backend) => {
                let mut dataplane = backend.dataplane();
                self.lab.in_node(NODE, || dataplane.sync(ruleset)).unwrap().unwrap();
                self.dataplane = Some(dataplane);
            }
        }
        self.loaded = start.elapsed();
        // The kernel forgets short connections soon, so that no run meets those of the runs before.
        self.lab
            .in_node(NODE, || {
                for timeout in ["udp_timeout", "udp_timeout_stream", "tcp_timeout_close"] {
                    let file = format!("/proc/sys/net/netfilter/nf_conntrack_{timeout}");
                    std::fs::write(file, "1").unwrap();
                }
            })
            .unwrap();
    }

    /// Proves that the rules are in force: one address must get through and another must not.
    pub(crate) fn prove(&mut self, family: Family, name: &str) {
        let Self { lab, server, client, dataplane, .. } = self;
        let enforced = dataplane.is_some();
        lab.in_pod(&client_pod(), || {
            // A machine under load may lose the first.
            let passed = (0..3).any(|_| client.measure(Kind::Udp, 3, server).is_ok());
            assert!(passed, "{name}: what the rules allow does not arrive");
            assert_eq!(
                arrives(outsider(family), server).unwrap(),
                !enforced,
                "{name}: an outsider"
            );
        })
        .unwrap();
    }

    /// Returns the processor time of one connection or exchange.
    pub(crate) fn measure(&mut self, kind: Kind, repeats: u32) -> Duration {
        let Self { lab, server, client, .. } = self;
        lab.in_pod(&client_pod(), || {
            pin()?;
            client.measure(kind, repeats.div_ceil(8), server)?; // Caches.
            client.measure(kind, repeats, server)
        })
        .unwrap()
        .unwrap()
    }
}

/// Puts in the rule that lets connections pass and judges nothing.
fn track(tool: Tool) {
    let rule = ["-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"];
    let iptables = |program: &str| {
        let status = Command::new(program).args(rule).args(["-j", "ACCEPT"]).status().unwrap();
        assert!(status.success(), "{program}: {status}");
    };
    match tool {
        Tool::IptablesNft => ["iptables-nft", "ip6tables-nft"].into_iter().for_each(iptables),
        Tool::IptablesLegacy => {
            ["iptables-legacy", "ip6tables-legacy"].into_iter().for_each(iptables);
        }
        Tool::Nft => {
            let mut nft =
                Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            let text = "table inet tracked { chain forward { type filter hook forward priority 0; \
                        policy accept; ct state established,related accept; }; }\n";
            nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success());
        }
    }
}
