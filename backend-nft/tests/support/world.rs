//! One node with three pods, in a lab.
#![expect(clippy::unwrap_used, reason = "test support")]

use core::cell::Cell;
use core::net::IpAddr;
use core::num::NonZeroU16;

use netpol_conformance::events::puts;
use netpol_conformance::netlab::{Connection, End, Lab, Plan};
use netpol_core::backend::{Dataplane as _, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::Scope;
use netpol_core::model::{Cluster, ObjectRef};
use netpol_k8s::manifest::{ReadOptions, read_str};
use netpol_nft::{NftDataplane, NftOptions};

pub(crate) const POLICY: &str = "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {peer: 'yes'}}}]}]}
";
pub(crate) const CLOSED: &str = "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}
";

/// One node with three pods; `a` and `c` are peers.
pub(crate) fn cluster(peer: &str, policies: &str) -> Cluster {
    let pod = |name: &str, number: u8, peer: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}, peer: '{peer}'}}}}, \
             spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}, \
             status: {{podIPs: [{{ip: 10.0.1.{number}}}, {{ip: 'fd00::1:{number}'}}]}}}}\n---\n"
        )
    };
    let text = format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: n1}}, status: {{addresses: \
         [{{type: InternalIP, address: 192.168.0.1}}, {{type: InternalIP, address: 'fd01::1'}}]}}}}\n---\n{}{}{}{policies}",
        pod("a", 1, peer),
        pod("b", 2, "no"),
        pod("c", 3, "yes")
    );
    read_str("cluster.yaml", &text, &ReadOptions::default()).unwrap().cluster
}

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) engine: Engine,
    pub(crate) dataplane: NftDataplane,
    /// The last port that was listened on.
    port: Cell<u16>,
}

impl World {
    pub(crate) fn new(options: NftOptions) -> Self {
        let cluster = cluster("yes", POLICY);
        let lab = Lab::build(&Plan::for_cluster(&cluster, []).unwrap()).unwrap();
        let options_of_engine = Options { scope: Scope::Node("n1".into()), ..Options::default() };
        let mut engine = Engine::new(options_of_engine);
        engine.apply_batch(puts(&cluster));
        engine.apply(Event::InSync);
        let mut dataplane = NftDataplane::with_options(options);
        lab.in_node("n1", || dataplane.sync(engine.snapshot())).unwrap().unwrap();
        Self { lab, engine, dataplane, port: Cell::new(5000) }
    }

    pub(crate) fn open(&self, from: &str, to: &str, tcp: bool) -> Connection {
        let end = End::Pod(ObjectRef::new("default", from));
        self.port.set(self.port.get() + 1);
        let (to, port): (IpAddr, _) =
            (to.parse().unwrap(), NonZeroU16::new(self.port.get()).unwrap());
        if tcp {
            self.lab.open_tcp(&end, to, port).unwrap()
        } else {
            self.lab.open_udp(&end, to, port).unwrap()
        }
    }

    /// Leads to other objects, by delta.
    pub(crate) fn change(&mut self, cluster: &Cluster) -> Updated {
        let delta = self.engine.apply_batch(puts(cluster));
        let (dataplane, ruleset) = (&mut self.dataplane, self.engine.snapshot());
        self.lab.in_node("n1", || dataplane.update(ruleset, &delta)).unwrap().unwrap()
    }
}
