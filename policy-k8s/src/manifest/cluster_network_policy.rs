//! `policy.networking.k8s.io`: ClusterNetworkPolicy v1alpha2 (semantics 17.8), and its two predecessors of v1alpha1 read
//! as what they become (ANP-002, ANP-004).

use alloc::sync::Arc;
use std::collections::HashSet;

use netpol_core::model::{
    Cidr, ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterPort,
    ClusterRule, ClusterSubject, Field, LabelSelector, NamespacedPods, Tier, Violation,
};

use super::cluster_port::{PeerAddresses, port, protocol_entry};
use super::decode::{Fields, Reader};
use super::error::Problem;
use super::metadata::Metadata;
use super::note::Remark;
use super::path::Path;
use super::selector::selector;
use super::tree::{Node, Value};

/// Which of the three kinds is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dialect {
    Cluster,
    Admin,
    Baseline,
}

impl Dialect {
    /// Rules, peers and ports: 25 in v1alpha2 (CNP-006), 100 in v1alpha1.
    const fn limit(self) -> usize {
        match self {
            Self::Cluster => 25,
            Self::Admin | Self::Baseline => 100,
        }
    }

    const fn ports_field(self) -> &'static str {
        match self {
            Self::Cluster => "protocols",
            Self::Admin | Self::Baseline => "ports",
        }
    }

    const fn spec_fields(self) -> &'static [&'static str] {
        match self {
            Self::Cluster => &["tier", "priority", "subject", "ingress", "egress"],
            Self::Admin => &["priority", "subject", "ingress", "egress"],
            Self::Baseline => &["subject", "ingress", "egress"],
        }
    }

    const fn actions(self) -> &'static str {
        match self {
            Self::Cluster => "`Accept`, `Deny` and `Pass`",
            Self::Admin => "`Allow`, `Deny` and `Pass`",
            Self::Baseline => "`Allow` and `Deny`",
        }
    }

    fn action(self, text: &str) -> Option<ClusterAction> {
        match (self, text) {
            (Self::Cluster, "Accept") | (Self::Admin | Self::Baseline, "Allow") => {
                Some(ClusterAction::Accept)
            }
            (_, "Deny") => Some(ClusterAction::Deny),
            (Self::Cluster | Self::Admin, "Pass") => Some(ClusterAction::Pass),
            (_, _) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    Ingress,
    Egress,
}

pub(super) fn cluster_network_policy(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
    dialect: Dialect,
) -> Option<ClusterNetworkPolicy> {
    reader.only(root, &["apiVersion", "kind", "metadata", "spec", "status"]);
    note_conversion(reader, root, &metadata, dialect);
    let path = root.path.key("spec");
    let Some(entry) = root.entry("spec").filter(|entry| !entry.value.is_null()) else {
        reader.report(root.position, &path, Problem::MissingField("spec"));
        return None;
    };
    let fields = reader.mapping(&entry.value, &path)?;
    reader.only(&fields, dialect.spec_fields());
    let tier = tier(reader, &fields, dialect);
    let priority = priority(reader, &fields, dialect);
    let subject = subject(reader, &fields, dialect);
    let ingress = rules(reader, &fields, dialect, Direction::Ingress, tier);
    let egress = rules(reader, &fields, dialect, Direction::Egress, tier);
    Some(ClusterNetworkPolicy {
        meta: metadata.meta,
        tier: tier?,
        priority: priority?,
        subject: subject?,
        ingress,
        egress,
    })
}

fn note_conversion(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: &Metadata,
    dialect: Dialect,
) {
    let kind = match dialect {
        Dialect::Cluster => return,
        Dialect::Admin => "AdminNetworkPolicy",
        Dialect::Baseline => "BaselineAdminNetworkPolicy",
    };
    reader.note(root.position, root.path, Remark::Converted(kind));
    let name = &metadata.meta.object.name;
    if dialect == Dialect::Baseline && name.as_ref() != "default" {
        let path = root.path.key("metadata");
        reader.report(root.position, &path.key("name"), Violation::BaselineName(name.to_string()));
    }
}

fn tier(reader: &mut Reader<'_>, fields: &Fields<'_, '_, '_>, dialect: Dialect) -> Option<Tier> {
    match dialect {
        Dialect::Admin => return Some(Tier::Admin),
        Dialect::Baseline => return Some(Tier::Baseline),
        Dialect::Cluster => {}
    }
    let given =
        reader.field(fields, "tier", |reader, node, path| match reader.string(node, path)? {
            "Admin" => Some(Tier::Admin),
            "Baseline" => Some(Tier::Baseline),
            other => {
                reader.report(node.position, path, Violation::UnknownTier(other.to_owned()));
                None
            }
        });
    if given.is_unset() {
        reader.report(
            fields.position,
            &fields.path.key("tier"),
            Violation::UnknownTier(String::new()),
        );
    }
    given.given().copied()
}

fn priority(reader: &mut Reader<'_>, fields: &Fields<'_, '_, '_>, dialect: Dialect) -> Option<u16> {
    if dialect == Dialect::Baseline {
        // There is one only; any number serves (ANP-004).
        return Some(10);
    }
    let given = reader.field(fields, "priority", |reader, node, path| {
        let number = reader.integer(node, path)?;
        let priority = u16::try_from(number).ok().filter(|priority| *priority <= 1000);
        if priority.is_none() {
            reader.report(node.position, path, Violation::PriorityOutOfRange(number));
        }
        priority
    });
    if given.is_unset() {
        reader.report(fields.position, &fields.path.key("priority"), Violation::MissingPriority);
    }
    given.given().copied()
}

fn subject(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    dialect: Dialect,
) -> Option<ClusterSubject> {
    let path = fields.path.key("subject");
    let choose = |found| Violation::NotExactlyOne {
        what: "`subject`",
        choices: "`namespaces` and `pods`",
        found,
    };
    let Some(entry) = fields.entry("subject").filter(|entry| !entry.value.is_null()) else {
        reader.report(fields.position, &path, choose(0));
        return None;
    };
    let fields = reader.mapping(&entry.value, &path)?;
    reader.only(&fields, &["namespaces", "pods"]);
    let given = fields.given(&["namespaces", "pods"]);
    if given.len() != 1 {
        reader.report(fields.position, &path, choose(given.len()));
        return None;
    }
    let namespaces = reader.optional(&fields, "namespaces", |reader, node, path| {
        namespaces(reader, node, path, dialect)
    });
    let pods =
        reader.optional(&fields, "pods", |reader, node, path| pods(reader, node, path, dialect));
    namespaces.map(ClusterSubject::Namespaces).or_else(|| pods.map(ClusterSubject::Pods))
}

/// `namespaces` is a selector itself; what older releases had inside it would silently mean everything (VAL-C-12, ANP-005).
fn namespaces(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    dialect: Dialect,
) -> Option<LabelSelector> {
    let fields = reader.mapping(node, path)?;
    let old = ["namespaceSelector", "sameLabels", "notSameLabels"];
    let Some(entry) = fields.entries.iter().find(|entry| old.contains(&entry.key.as_ref())) else {
        return selector(reader, node, path);
    };
    let name = entry.key.to_string();
    let problem = match dialect {
        Dialect::Cluster => Problem::UnknownField {
            name,
            did_you_mean: Some("the selector itself: `namespaces: {matchLabels: …}`".to_owned()),
        },
        Dialect::Admin | Dialect::Baseline => {
            Problem::Violation(Violation::OldNamespacesShape(name))
        }
    };
    reader.report(entry.key_position, &path.key(&entry.key), problem);
    None
}

fn pods(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    dialect: Dialect,
) -> Option<NamespacedPods> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["namespaceSelector", "podSelector"]);
    let namespace_selector = reader.field(&fields, "namespaceSelector", selector);
    if dialect != Dialect::Cluster && namespace_selector.is_unset() {
        reader.report(
            fields.position,
            &path.key("namespaceSelector"),
            Problem::MissingField("namespaceSelector"),
        );
    }
    let pod_selector = reader.field(&fields, "podSelector", selector);
    if pod_selector.is_unset() {
        reader.report(fields.position, &path.key("podSelector"), Violation::MissingPodSelector);
    }
    let pod_selector = pod_selector.given()?.clone();
    Some(NamespacedPods { namespace_selector, pod_selector })
}

fn rules(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    dialect: Dialect,
    direction: Direction,
    tier: Option<Tier>,
) -> Vec<ClusterRule> {
    let name = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let rules = reader.optional(fields, name, |reader, node, path| {
        too_many(reader, node, path, (name, dialect.limit()));
        reader.list(node, path, |reader, node, path| rule(reader, node, path, dialect, direction))
    });
    let rules = rules.unwrap_or_default();
    let names_domains = |rule: &ClusterRule| {
        rule.peers.iter().any(|peer| matches!(peer.destination, ClusterDestination::DomainNames(_)))
    };
    if tier == Some(Tier::Baseline) {
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| names_domains(rule)) {
            let path = fields.path.key(name);
            reader.note(rule.position, &path.index(index), Remark::BaselineDomainNames);
        }
    }
    rules
}

fn rule(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    dialect: Dialect,
    direction: Direction,
) -> Option<ClusterRule> {
    let peers_field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["name", "action", peers_field, dialect.ports_field()]);
    let name = reader.optional(&fields, "name", |reader, node, path| {
        let name = reader.text(node, path)?;
        let length = name.chars().count();
        if length > 100 {
            reader.report(node.position, path, Violation::RuleNameTooLong(length));
        }
        Some(name)
    });
    let action = action(reader, &fields, dialect);
    let peers = reader.optional(&fields, peers_field, |reader, node, path| {
        too_many(reader, node, path, (peers_field, dialect.limit()));
        reader.list(node, path, |reader, node, path| peer(reader, node, path, dialect, direction))
    });
    let is_empty = fields
        .entry(peers_field)
        .is_none_or(|entry| entry.value.is_null() || entry.value.is_empty_list());
    if is_empty {
        reader.report(
            fields.position,
            &path.key(peers_field),
            Violation::MissingPeers(peers_field),
        );
    }
    let peers = peers.unwrap_or_default();
    check_domain_action(reader, &fields, peers_field, action);
    let protocols = protocols(reader, &fields, dialect, &peers);
    Some(ClusterRule { name, action: action?, peers, protocols, position: node.position })
}

fn action(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    dialect: Dialect,
) -> Option<ClusterAction> {
    let given = reader.field(fields, "action", |reader, node, path| {
        let text = reader.string(node, path)?;
        let action = dialect.action(text);
        if action.is_none() {
            let violation =
                Violation::UnknownAction { found: text.to_owned(), allowed: dialect.actions() };
            reader.report(node.position, path, violation);
        }
        action
    });
    if given.is_unset() {
        reader.report(fields.position, &fields.path.key("action"), Violation::MissingAction);
    }
    given.given().copied()
}

/// Domain names can only be accepted: their addresses are never all known (DEC-13).
fn check_domain_action(
    reader: &mut Reader<'_>,
    rule: &Fields<'_, '_, '_>,
    peers_field: &'static str,
    action: Option<ClusterAction>,
) {
    let peers = match rule.entry(peers_field).map(|entry| &entry.value.value) {
        Some(Value::Sequence(items))
            if action.is_some_and(|action| action != ClusterAction::Accept) =>
        {
            items
        }
        Some(_) | None => return,
    };
    let path = rule.path.key(peers_field);
    for (index, peer) in peers.iter().enumerate() {
        let Value::Mapping(entries) = &peer.value else { continue };
        if let Some(entry) =
            entries.iter().find(|entry| entry.key == "domainNames" && !entry.value.is_null())
        {
            let path = path.index(index);
            reader.report(
                entry.key_position,
                &path.key("domainNames"),
                Violation::DomainNamesNotAccept,
            );
        }
    }
}

const INGRESS_PEERS: &[&str] = &["namespaces", "pods"];
const EGRESS_ONLY_PEERS: &[&str] = &["networks", "nodes", "domainNames"];
const PEERS: &[&str] = &["namespaces", "pods", "networks", "nodes", "domainNames"];

fn peer(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    dialect: Dialect,
    direction: Direction,
) -> Option<ClusterPeer> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, PEERS);
    let known = match direction {
        Direction::Ingress => INGRESS_PEERS,
        Direction::Egress => PEERS,
    };
    let egress_only = fields.given(EGRESS_ONLY_PEERS);
    if direction == Direction::Ingress && !egress_only.is_empty() {
        for name in egress_only {
            let position = fields.entry(name).map_or(fields.position, |entry| entry.key_position);
            reader.report(position, &path.key(name), Violation::EgressOnlyPeer(name));
        }
        return None;
    }
    let given = fields.given(known);
    let &[chosen] = given.as_slice() else {
        let choices = match direction {
            Direction::Ingress => "`namespaces` and `pods`",
            Direction::Egress => "`namespaces`, `pods`, `networks`, `nodes` and `domainNames`",
        };
        let violation = Violation::NotExactlyOne { what: "a peer", choices, found: given.len() };
        reader.report(node.position, path, violation);
        return None;
    };
    let destination = reader.optional(&fields, chosen, |reader, node, path| match chosen {
        "namespaces" => namespaces(reader, node, path, dialect).map(ClusterDestination::Namespaces),
        "pods" => pods(reader, node, path, dialect).map(ClusterDestination::Pods),
        "networks" => networks(reader, node, path).map(ClusterDestination::Networks),
        "nodes" => selector(reader, node, path).map(ClusterDestination::Nodes),
        _ => domain_names(reader, node, path).map(ClusterDestination::DomainNames),
    });
    Some(ClusterPeer { destination: destination?, position: node.position })
}

fn networks(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Vec<Cidr>> {
    unique_list(reader, node, path, "networks", |reader, node, path| {
        let text = reader.string(node, path)?;
        if text.len() > 43 {
            reader.report(node.position, path, Violation::NetworkTooLong(text.to_owned()));
            return None;
        }
        reader.cidr(node, path, Violation::InvalidNetwork)
    })
}

fn domain_names(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Vec<Arc<str>>> {
    unique_list(reader, node, path, "domainNames", |reader, node, path| {
        let name = reader.text(node, path)?;
        if is_domain_pattern(&name) {
            return Some(name);
        }
        reader.report(node.position, path, Violation::InvalidDomainName(name.to_string()));
        None
    })
}

/// A list of 1 to 25 texts without repetition.
fn unique_list<T>(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    name: &'static str,
    mut each: impl FnMut(&mut Reader<'_>, &Node<'_>, &Path<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    too_many(reader, node, path, (name, 25));
    if node.is_empty_list() {
        reader.report(node.position, path, Violation::EmptyList(name));
    }
    let mut seen = HashSet::new();
    reader.list(node, path, |reader, node, path| {
        if let Value::Scalar(scalar) = &node.value
            && !seen.insert(scalar.text.to_string())
        {
            reader.report(node.position, path, Violation::Repeated(scalar.text.to_string()));
        }
        each(reader, node, path)
    })
}

/// At least two labels; `*` may stand for one or more labels before them (CNP-046).
fn is_domain_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_fine = |label: &str| {
        let ends = |byte: &u8| byte.is_ascii_alphanumeric();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(ends)
            && bytes.last().is_some_and(ends)
            && bytes.iter().all(|byte| ends(byte) || matches!(byte, b'-' | b'_'))
    };
    name.split('.').count() >= 2 && name.split('.').all(label_fine)
}

fn protocols(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    dialect: Dialect,
    peers: &[ClusterPeer],
) -> Field<Vec<ClusterPort>> {
    let is_address = |peer: &ClusterPeer| match peer.destination {
        ClusterDestination::Networks(_)
        | ClusterDestination::Nodes(_)
        | ClusterDestination::DomainNames(_) => true,
        ClusterDestination::Namespaces(_)
        | ClusterDestination::Pods(_)
        | ClusterDestination::Unknown => false,
    };
    let addresses =
        if peers.iter().any(is_address) { PeerAddresses::Some } else { PeerAddresses::None };
    let name = dialect.ports_field();
    reader.field(fields, name, |reader, node, path| {
        too_many(reader, node, path, (name, dialect.limit()));
        if node.is_empty_list() {
            reader.report(node.position, path, Violation::EmptyList(name));
        }
        reader.list(node, path, |reader, node, path| match dialect {
            Dialect::Cluster => protocol_entry(reader, node, path, addresses),
            Dialect::Admin | Dialect::Baseline => port(reader, node, path, addresses),
        })
    })
}

fn too_many(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    (list, limit): (&'static str, usize),
) {
    match &node.value {
        Value::Sequence(items) if items.len() > limit => {
            reader.report(
                node.position,
                path,
                Violation::TooManyEntries { list, found: items.len(), limit },
            );
        }
        Value::Sequence(_) | Value::Scalar(_) | Value::Mapping(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::is_domain_pattern;

    #[rstest]
    #[case("example.com", true)]
    #[case("*.example.com.", true)]
    #[case("EXAMPLE.com", true)]
    #[case("com", false)]
    #[case("*.com", false)]
    #[case("a.*.com", false)]
    #[case("*a.example.com", false)]
    #[case("_a.example.com", false)]
    #[case("a..com", false)]
    #[case("", false)]
    fn a_domain_pattern_has_two_labels_and_a_star_only_in_front(
        #[case] text: &str,
        #[case] valid: bool,
    ) {
        assert_eq!(is_domain_pattern(text), valid);
    }
}
