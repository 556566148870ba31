//! Numbers about the agent.

use core::sync::atomic::AtomicU64;
use core::time::Duration;

use netpol_core::engine::{Create, Delete, Delta};
use netpol_core::ir::{Direction, Ruleset};
use netpol_core::model::Kind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::status::Status;

type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, AtomicU64>;

/// What packets and bytes are counted by.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Counted {
    pub(crate) direction: String,
    pub(crate) verdict: String,
    /// Several, where the kernel counts their rules together; empty where no policy decided.
    pub(crate) policy: String,
    pub(crate) cause: String,
}

/// The registry and what is counted in it.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    latency: Histogram,
    compile: Histogram,
    sync: Histogram,
    waiting: Seconds,
    objects: Family<Labels, Gauge>,
    following: Family<Labels, Gauge>,
    endpoints: Gauge,
    pipelines: Gauge,
    peer_sets: Gauge,
    members: Gauge,
    atoms: Gauge,
    diagnostics: Gauge,
    changes: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    oddities: Family<Labels, Counter>,
    applies: Family<Labels, Counter>,
    apply_failures: Family<Labels, Counter>,
    applied: Family<Labels, Counter>,
    resyncs: Counter,
    repairs: Counter,
    repaired: Counter,
    packets: Family<Counted, Counter>,
    bytes: Family<Counted, Counter>,
    denied: Family<Labels, Counter>,
    lost_denials: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.000_5, 2.0, 18));
        let mut metrics = Self {
            registry: Registry::with_prefix("netpol_agent"),
            latency: histogram(),
            compile: histogram(),
            sync: histogram(),
            waiting: Seconds::default(),
            objects: Family::default(),
            following: Family::default(),
            endpoints: Gauge::default(),
            pipelines: Gauge::default(),
            peer_sets: Gauge::default(),
            members: Gauge::default(),
            atoms: Gauge::default(),
            diagnostics: Gauge::default(),
            changes: Family::default(),
            failures: Family::default(),
            oddities: Family::default(),
            applies: Family::default(),
            apply_failures: Family::default(),
            applied: Family::default(),
            resyncs: Counter::default(),
            repairs: Counter::default(),
            repaired: Counter::default(),
            packets: Family::default(),
            bytes: Family::default(),
            denied: Family::default(),
            lost_denials: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let all = "From hearing of the oldest change of a batch to its enforcement, in seconds";
        registry.register("enforcement_latency_seconds", all, self.latency.clone());
        registry.register(
            "engine_seconds",
            "Time for the engine to say what changes",
            self.compile.clone(),
        );
        registry.register("sync_seconds", "Time to bring the kernel up to date", self.sync.clone());
        let waiting = "Age of the oldest change that is not enforced; 0 if there is none";
        registry.register("oldest_unapplied_change_seconds", waiting, self.waiting.clone());
        registry.register("objects", "Objects known, by kind", self.objects.clone());
        let following = "1 while a kind is followed, 0 while its last known state stands in";
        registry.register("watch_following", following, self.following.clone());
        registry.register("endpoints", "Pods policed on this node", self.endpoints.clone());
        registry.register("pipelines", "Distinct policy results", self.pipelines.clone());
        registry.register("peer_sets", "Distinct selectors of peers", self.peer_sets.clone());
        registry.register("members", "Addresses in all peer sets", self.members.clone());
        let atoms = "Disjoint decisions by class of addresses, protocol and ports that the eBPF backend looks up; 0 with others, which have rules";
        registry.register("atoms", atoms, self.atoms.clone());
        let diagnostics = "Oddities in the policies in force; see the log";
        registry.register("diagnostics", diagnostics, self.diagnostics.clone());
        registry.register("watch_changes", "Changes heard, by kind", self.changes.clone());
        let failures = "Failures to list or watch, by kind and reason";
        registry.register("watch_failures", failures, self.failures.clone());
        let oddities = "Objects or fields that cannot be read, by kind";
        registry.register("unreadable", oddities, self.oddities.clone());
        let applies = "Attempts to bring the kernel up to date, by outcome";
        registry.register("applies", applies, self.applies.clone());
        let failures = "Attempts to bring the kernel up to date that failed, by reason";
        registry.register("apply_failures", failures, self.apply_failures.clone());
        let applied = "What enforced changes consisted of, by kind";
        registry.register("applied_changes", applied, self.applied.clone());
        let resyncs = "Times the kernel was made to agree again although nothing had changed";
        registry.register("resyncs", resyncs, self.resyncs.clone());
        let repairs = "Times that another program had changed the rules and they were put back";
        registry.register("drift_repairs", repairs, self.repairs.clone());
        let repaired = "Objects in the kernel that another program had changed";
        registry.register("drifted_objects", repaired, self.repaired.clone());
        let packets = "Packets judged (of new connections, and the next ones after a change), by policy and verdict";
        registry.register("policy_packets", packets, self.packets.clone());
        let bytes = "Bytes of the packets judged, where the backend counts them";
        registry.register("policy_bytes", bytes, self.bytes.clone());
        let denied = "Denied flows that the kernel reported, which it does at a limited rate";
        registry.register("denied_flows", denied, self.denied.clone());
        let lost = "Reports of denied flows that were lost on the way to the agent";
        registry.register("denied_flows_lost", lost, self.lost_denials.clone());
        let info = prometheus_client::metrics::info::Info::new(vec![(
            "version",
            env!("CARGO_PKG_VERSION"),
        )]);
        registry.register("build", "This agent", info);
    }

    /// The exposition text.
    pub(crate) fn text(&self, status: &Status) -> String {
        self.waiting.set(status.oldest.map_or(0.0, |oldest| oldest.elapsed().as_secs_f64()));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn heard(&self, kind: Kind) {
        self.changes.get_or_create(&of_kind(kind)).inc();
    }

    pub(crate) fn following(&self, kind: Kind, following: bool) {
        self.following.get_or_create(&of_kind(kind)).set(following.into());
    }

    pub(crate) fn failed(&self, kind: Kind, reason: &str) {
        let mut labels = of_kind(kind);
        labels.push(("reason", reason.to_owned()));
        self.failures.get_or_create(&labels).inc();
    }

    pub(crate) fn odd(&self, kind: Kind) {
        self.oddities.get_or_create(&of_kind(kind)).inc();
    }

    pub(crate) fn counts(&self, counts: [(Kind, usize); 5]) {
        for (kind, count) in counts {
            self.objects.get_or_create(&of_kind(kind)).set(number(count));
        }
    }

    pub(crate) fn compiled(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
    }

    pub(crate) fn ruleset(&self, ruleset: &Ruleset, atoms: Option<usize>) {
        self.atoms.set(number(atoms.unwrap_or_default()));
        self.endpoints.set(number(ruleset.endpoints().len()));
        self.pipelines.set(number(ruleset.pipelines().len()));
        self.peer_sets.set(number(ruleset.peer_sets().len()));
        self.members.set(number(ruleset.peer_sets().map(|(_, set)| set.addresses.len()).sum()));
    }

    pub(crate) fn diagnosed(&self, diagnostics: usize) {
        self.diagnostics.set(number(diagnostics));
    }

    pub(crate) fn synced(&self, took: Duration, outcome: &str) {
        self.sync.observe(took.as_secs_f64());
        self.applies.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }

    pub(crate) fn failed_to_apply(&self, reason: &str) {
        self.apply_failures.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    pub(crate) fn applied(&self, delta: &Delta) {
        let count = |kind: &str, number: usize| {
            if number > 0 {
                let more = u64::try_from(number).unwrap_or(u64::MAX);
                self.applied.get_or_create(&vec![("kind", kind.to_owned())]).inc_by(more);
            }
        };
        let sets = delta.create.iter().filter(|create| matches!(create, Create::PeerSet(..)));
        let sets = sets.count();
        count("create-peer-set", sets);
        count("create-pipeline", delta.create.len() - sets);
        count("endpoint", delta.switch.endpoints.len());
        count("node", delta.switch.nodes.len());
        let members = delta.switch.members.iter();
        count("join-peer-set", members.clone().map(|change| change.joins.len()).sum());
        count("leave-peer-set", members.map(|change| change.leaves.len()).sum());
        let sets = delta.delete.iter().filter(|delete| matches!(delete, Delete::PeerSet(_)));
        let sets = sets.count();
        count("delete-peer-set", sets);
        count("delete-pipeline", delta.delete.len() - sets);
    }

    pub(crate) fn enforced(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    pub(crate) fn resynced(&self) {
        self.resyncs.inc();
    }

    pub(crate) fn repaired(&self, objects: usize) {
        self.repairs.inc();
        self.repaired.inc_by(u64::try_from(objects).unwrap_or(u64::MAX));
    }

    pub(crate) fn counted(&self, labels: &Counted, packets: u64, bytes: u64) {
        self.packets.get_or_create(labels).inc_by(packets);
        // A backend that counts no bytes says nothing of them, rather than that there were none.
        if bytes > 0 {
            self.bytes.get_or_create(labels).inc_by(bytes);
        }
    }

    pub(crate) fn no_longer_counted(&self, labels: &Counted) {
        self.packets.remove(labels);
        self.bytes.remove(labels);
    }

    pub(crate) fn denied(&self, direction: Direction, policy: &str, cause: &str) {
        let labels = vec![
            ("direction", direction.to_string()),
            ("policy", policy.to_owned()),
            ("cause", cause.to_owned()),
        ];
        self.denied.get_or_create(&labels).inc();
    }

    pub(crate) fn lost_denials(&self, lost: u64) {
        self.lost_denials.inc_by(lost);
    }
}

fn of_kind(kind: Kind) -> Labels {
    vec![("kind", kind.as_str().to_owned())]
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use netpol_core::ir::Direction;
    use netpol_core::model::Kind;

    use super::Counted;
    use crate::status::Shared;

    #[test]
    fn everything_that_the_readme_names_is_told_and_nothing_else() {
        let shared = Shared::new();
        let metrics = &shared.metrics;
        // What has labels is told from its first time on.
        metrics.heard(Kind::Pod);
        metrics.following(Kind::Pod, true);
        metrics.failed(Kind::Pod, "gone");
        metrics.odd(Kind::Pod);
        metrics.counts([Kind::Pod; 5].map(|kind| (kind, 1)));
        metrics.synced(Duration::ZERO, "whole");
        metrics.failed_to_apply("refused");
        metrics.denied(Direction::Ingress, "", "isolation");
        metrics.applied.get_or_create(&vec![("kind", "endpoint".to_owned())]).inc();
        let none = String::new;
        let counted = Counted { direction: none(), verdict: none(), policy: none(), cause: none() };
        metrics.counted(&counted, 1, 1);
        let text = metrics.text(&shared.status());
        let help = text.lines().filter_map(|line| line.strip_prefix("# HELP netpol_agent_"));
        let mut told: Vec<&str> = help.filter_map(|line| line.split(' ').next()).collect();
        let readme = include_str!("../README.md");
        let table = readme.split("## Metrics").nth(1).unwrap().split("## ").next().unwrap();
        let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        let mut named: Vec<&str> = names
            .flat_map(|names| names.split(", ").map(|name| name.trim_matches('`')))
            .map(|name| name.strip_suffix("_total").unwrap_or(name))
            .collect();
        told.sort_unstable();
        named.sort_unstable();
        assert_eq!(told, named);
    }
}
