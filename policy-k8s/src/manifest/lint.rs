//! Remarks on policies that are valid, but perhaps not what was meant (VAL-040).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_core::model::{
    Cidr, Cluster, ClusterDestination, ClusterNetworkPolicy, ClusterSubject, Field, Kind,
    LabelSelector, Labels, NAMESPACE_NAME_LABEL, NetworkPolicy, NetworkPolicyPeer,
    NetworkPolicyRule, ObjectMeta, PeerKind, PolicyType, Position,
};

use super::collect::note;
use super::contradiction::contradiction;
use super::note::{Note, Remark};
use super::write;

pub(super) fn lint(cluster: &Cluster, notes: &mut Vec<Note>) {
    let mut lint = Lint { labels: Known::of(cluster), notes };
    for policy in cluster.network_policies.values() {
        lint.network_policy(policy);
    }
    for policy in cluster.cluster_network_policies.values() {
        lint.cluster_network_policy(policy);
    }
}

/// What the cluster says about labels and addresses; equal label sets are kept once.
struct Known<'c> {
    namespaces: BTreeMap<&'c str, &'c Labels>,
    undeclared: Vec<&'c str>,
    pods: BTreeMap<&'c str, BTreeSet<&'c Labels>>,
    dual_stack: bool,
}

impl<'c> Known<'c> {
    fn of(cluster: &'c Cluster) -> Self {
        let mut pods: BTreeMap<&str, BTreeSet<&Labels>> = BTreeMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.is_policed()) {
            pods.entry(&pod.meta.object.namespace).or_default().insert(&pod.meta.labels);
        }
        let namespaces = cluster.namespaces.values();
        let undeclared = namespaces.clone().filter(|namespace| !namespace.declared);
        let addresses = cluster.pods.values().flat_map(|pod| &pod.addresses).map(IpAddr::is_ipv6);
        let cidrs = cluster.nodes.values().flat_map(|node| &node.pod_cidrs);
        let families: BTreeSet<bool> =
            addresses.chain(cidrs.map(|cidr| cidr.net().addr().is_ipv6())).collect();
        Self {
            undeclared: undeclared.map(|namespace| namespace.name().as_ref()).collect(),
            namespaces: namespaces
                .map(|namespace| (namespace.name().as_ref(), &namespace.meta.labels))
                .collect(),
            pods,
            dual_stack: families.len() == 2,
        }
    }

    fn any_pod(&self, namespace: &str, selector: Option<&LabelSelector>) -> bool {
        let mut pods = self.pods.get(namespace).into_iter().flatten();
        pods.any(|labels| selector.is_none_or(|selector| selector.matches(labels)))
    }

    fn any_pod_of(&self, namespaces: Option<&LabelSelector>, pods: Option<&LabelSelector>) -> bool {
        let chosen = self.namespaces.iter();
        let mut chosen =
            chosen.filter(|(_, labels)| namespaces.is_none_or(|selector| selector.matches(labels)));
        chosen.any(|(name, _)| self.any_pod(name, pods))
    }
}

struct Lint<'c, 'n> {
    labels: Known<'c>,
    notes: &'n mut Vec<Note>,
}

/// A policy and the namespace selectors in it.
struct Subject<'p> {
    meta: &'p ObjectMeta,
    kind: Kind,
}

impl Lint<'_, '_> {
    fn add(&mut self, subject: &Subject<'_>, position: Position, path: String, remark: Remark) {
        let whole = note(subject.meta, subject.kind, remark);
        let position = if position.is_known() { position } else { whole.position };
        self.notes.push(Note { position, path, ..whole });
    }

    fn network_policy(&mut self, policy: &NetworkPolicy) {
        let subject = &Subject { meta: &policy.meta, kind: Kind::NetworkPolicy };
        let nowhere = Position::default();
        if let Field::Given(types) = &policy.policy_types {
            let repeated = matches!(types.as_slice(), [first, second] if first == second);
            let remark = if types.is_empty() {
                Some(Remark::EmptyPolicyTypes)
            } else {
                repeated.then_some(Remark::RepeatedPolicyType)
            };
            if let Some(remark) = remark {
                self.add(subject, nowhere, "spec.policyTypes".to_owned(), remark);
            }
        }
        let selector = policy.pod_selector.given();
        self.selector(subject, selector, "spec.podSelector");
        if !self.labels.any_pod(&policy.meta.object.namespace, selector) {
            self.add(subject, nowhere, String::new(), Remark::SelectsNoPod);
        }
        let types = policy.effective_types();
        let directions = [
            ("ingress", "from", &policy.ingress, types.ingress, PolicyType::Ingress),
            ("egress", "to", &policy.egress, types.egress, PolicyType::Egress),
        ];
        for (field, peers, rules, isolates, direction) in directions {
            let rules = rules.given().map(Vec::as_slice).unwrap_or_default();
            if let (Some(first), false) = (rules.first(), isolates) {
                let name = match direction {
                    PolicyType::Ingress => "Ingress",
                    PolicyType::Egress => "Egress",
                };
                self.add(
                    subject,
                    first.position,
                    format!("spec.{field}"),
                    Remark::InertRules(name),
                );
            }
            for (index, rule) in rules.iter().enumerate() {
                self.rule(subject, rule, &format!("spec.{field}[{index}]"), peers);
            }
        }
        let namespaces = [&policy.ingress, &policy.egress].into_iter();
        let rules = namespaces.filter_map(|rules| rules.given()).flatten();
        let peers = rules.filter_map(|rule| rule.peers.given()).flatten();
        let selectors = peers.filter_map(|peer| peer.namespace_selector.given());
        self.unknown_namespaces(subject, selectors);
    }

    fn rule(
        &mut self,
        subject: &Subject<'_>,
        rule: &NetworkPolicyRule,
        path: &str,
        field: &'static str,
    ) {
        let Some(peers) = rule.peers.given() else { return self.ports(subject, rule, path) };
        if peers.is_empty() {
            self.add(subject, rule.position, format!("{path}.{field}"), Remark::OpenPeers(field));
        }
        let written = peers.iter().map(|peer| (write::peer(peer).to_string(), peer.position));
        self.repeated(subject, written, &format!("{path}.{field}"));
        for (index, peer) in peers.iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            self.selector(subject, peer.pod_selector.given(), &format!("{path}.podSelector"));
            self.selector(
                subject,
                peer.namespace_selector.given(),
                &format!("{path}.namespaceSelector"),
            );
            match peer.kind() {
                PeerKind::PodsOfOwnNamespace(pods) if pods.is_empty() => {
                    self.add(subject, peer.position, path, Remark::OwnNamespaceOnly);
                }
                PeerKind::IpBlock(block) => {
                    let except =
                        block.except.iter().map(|except| (except.to_string(), block.position));
                    self.repeated(subject, except, &format!("{path}.ipBlock.except"));
                }
                PeerKind::PodsOfOwnNamespace(_)
                | PeerKind::Namespaces(_)
                | PeerKind::PodsOfNamespaces { .. }
                | PeerKind::Unknown => {}
            }
        }
        self.or_instead_of_and(subject, peers, &format!("{path}.{field}"));
        self.one_family(subject, peers, &format!("{path}.{field}"));
        self.ports(subject, rule, path);
    }

    fn ports(&mut self, subject: &Subject<'_>, rule: &NetworkPolicyRule, path: &str) {
        let ports = rule.ports.given().into_iter().flatten();
        let written = ports.map(|port| (write::policy_port(port).to_string(), port.position));
        self.repeated(subject, written, &format!("{path}.ports"));
    }

    fn repeated(
        &mut self,
        subject: &Subject<'_>,
        entries: impl Iterator<Item = (String, Position)>,
        path: &str,
    ) {
        let mut seen = BTreeSet::new();
        for (index, (entry, position)) in entries.enumerate() {
            if !seen.insert(entry) {
                self.add(subject, position, format!("{path}[{index}]"), Remark::RepeatedEntry);
            }
        }
    }

    /// A namespace selector directly followed by a pod selector, or the other way round: the shape of a stray dash.
    fn or_instead_of_and(
        &mut self,
        subject: &Subject<'_>,
        peers: &[NetworkPolicyPeer],
        path: &str,
    ) {
        for (index, pair) in peers.windows(2).enumerate() {
            let [first, second] = pair else { continue };
            let field = match (first.kind(), second.kind()) {
                (PeerKind::Namespaces(_), PeerKind::PodsOfOwnNamespace(_)) => "podSelector",
                (PeerKind::PodsOfOwnNamespace(_), PeerKind::Namespaces(_)) => "namespaceSelector",
                (_, _) => continue,
            };
            let path = format!("{path}[{}]", index + 1);
            self.add(subject, second.position, path, Remark::OrInsteadOfAnd(field));
        }
    }

    fn one_family(&mut self, subject: &Subject<'_>, peers: &[NetworkPolicyPeer], path: &str) {
        let blocks = peers
            .iter()
            .enumerate()
            .filter_map(|(index, peer)| Some((index, peer.ip_block.given()?)));
        let full: Vec<_> = blocks.filter(|(_, block)| block.cidr.net().prefix_len() == 0).collect();
        let has = |cidr: Cidr| full.iter().any(|(_, block)| block.cidr == cidr);
        if !self.labels.dual_stack || has(Cidr::all_ipv4()) == has(Cidr::all_ipv6()) {
            return;
        }
        for (index, block) in full {
            self.add(
                subject,
                block.position,
                format!("{path}[{index}].ipBlock"),
                Remark::OneFamily(block.cidr),
            );
        }
    }

    fn selector(&mut self, subject: &Subject<'_>, selector: Option<&LabelSelector>, path: &str) {
        if let Some((selector, key)) =
            selector.and_then(|selector| Some((selector, contradiction(selector)?)))
        {
            self.add(subject, selector.position, path.to_owned(), Remark::Contradiction(key));
        }
    }

    /// Namespaces without manifest carry no labels here but their name; a selector by other labels passes them by.
    fn unknown_namespaces<'s>(
        &mut self,
        subject: &Subject<'_>,
        mut selectors: impl Iterator<Item = &'s LabelSelector>,
    ) {
        if self.labels.undeclared.is_empty() {
            return;
        }
        if let Some(selector) = selectors.find(|selector| uses_other_labels(selector)) {
            let undeclared = &self.labels.undeclared;
            let mut names: Vec<String> =
                undeclared.iter().take(5).map(|name| format!("`{name}`")).collect();
            if undeclared.len() > names.len() {
                names.push(format!("and {} more", undeclared.len() - names.len()));
            }
            let remark = Remark::NamespaceLabelsUnknown(names.join(", "));
            self.add(subject, selector.position, String::new(), remark);
        }
    }

    fn cluster_network_policy(&mut self, policy: &ClusterNetworkPolicy) {
        let subject = &Subject { meta: &policy.meta, kind: Kind::ClusterNetworkPolicy };
        let (namespaces, pods) = match &policy.subject {
            ClusterSubject::Namespaces(namespaces) => (Some(namespaces), None),
            ClusterSubject::Pods(pods) => {
                (pods.namespace_selector.given(), Some(&pods.pod_selector))
            }
            ClusterSubject::Unknown => (None, None),
        };
        self.selector(subject, namespaces, "spec.subject");
        self.selector(subject, pods, "spec.subject");
        if !self.labels.any_pod_of(namespaces, pods) {
            self.add(subject, Position::default(), String::new(), Remark::SelectsNoPod);
        }
        let mut selectors: Vec<&LabelSelector> = namespaces.into_iter().collect();
        for (field, peers, rules) in
            [("ingress", "from", &policy.ingress), ("egress", "to", &policy.egress)]
        {
            for (rule_index, rule) in rules.iter().enumerate() {
                for (index, peer) in rule.peers.iter().enumerate() {
                    let path = format!("spec.{field}[{rule_index}].{peers}[{index}]");
                    let (namespaces, pods) = peer_selectors(&peer.destination);
                    selectors.extend(namespaces);
                    self.selector(subject, namespaces, &path);
                    self.selector(subject, pods, &path);
                }
            }
        }
        self.unknown_namespaces(subject, selectors.into_iter());
    }
}

const fn peer_selectors(
    peer: &ClusterDestination,
) -> (Option<&LabelSelector>, Option<&LabelSelector>) {
    match peer {
        ClusterDestination::Namespaces(namespaces) => (Some(namespaces), None),
        ClusterDestination::Pods(pods) => {
            (pods.namespace_selector.given(), Some(&pods.pod_selector))
        }
        ClusterDestination::Nodes(_)
        | ClusterDestination::Networks(_)
        | ClusterDestination::DomainNames(_)
        | ClusterDestination::Unknown => (None, None),
    }
}

fn uses_other_labels(selector: &LabelSelector) -> bool {
    let is_other = |key: &Arc<str>| key.as_ref() != NAMESPACE_NAME_LABEL;
    selector.match_labels.given().is_some_and(|labels| labels.keys().any(is_other))
        || selector
            .match_expressions
            .given()
            .is_some_and(|list| list.iter().any(|entry| is_other(&entry.key)))
}
