//! The IR as data for other programs, with a version.
//!
//! Reading is strict: ids are checked against the content they name, and the result against [`verify`](super::verify), so that a
//! ruleset from a file means exactly what one from `compile` means.

mod read;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::{
    Action, Direction, Endpoint, NamespaceScope, OtherProtocols, OwnNodeEgress, PeerSelector,
    Peers, Pipeline, PolicyKind, Ports, ResolvedPort, Rule, RuleBlock, Ruleset, Scope, Selector,
    SelectorRequirement, Violated,
};
use crate::model::{Operator, Protocol};
use crate::net::PrefixSet;

/// The schema this version writes and reads.
pub const SCHEMA_VERSION: &str = "netpol.ruleset/v1";

/// Why data is not a ruleset.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Written by another version.
    #[error("schema `{0}` is not `{SCHEMA_VERSION}`")]
    Version(String),
    /// A pipeline names a block that is not there.
    #[error("pipeline {pipeline} names block {block}, which is not there")]
    MissingBlock {
        /// The pipeline's id.
        pipeline: String,
        /// The block's id.
        block: String,
    },
    /// A block, pipeline or set stands under an id that is not its content's.
    #[error("{found} stands under the id {written}")]
    Id {
        /// The id that was written.
        written: String,
        /// The id of what was written under it.
        found: String,
    },
    /// Not a CIDR without host bits.
    #[error("`{0}` is not a network")]
    Network(String),
    /// An id twice.
    #[error("{0} appears twice")]
    Twice(String),
    /// The parts do not make a ruleset.
    #[error("{0}")]
    Violated(Violated),
}

/// A ruleset as plain data. Convert with `From<&Ruleset>` and `TryFrom<RulesetForm>`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RulesetForm {
    /// [`SCHEMA_VERSION`].
    pub schema: String,
    scope: ScopeForm,
    settings: SettingsForm,
    /// Strict mode; absent: off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pod_ranges: Vec<String>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    endpoints: Vec<EndpointForm>,
    blocks: Vec<BlockForm>,
    pipelines: Vec<PipelineForm>,
    peer_sets: Vec<PeerSetForm>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum ScopeForm {
    Cluster,
    Node(String),
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SettingsForm {
    enforce_own_node_egress: bool,
    pass_other_protocols: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EndpointForm {
    namespace: String,
    name: String,
    node: Option<String>,
    addresses: Vec<IpAddr>,
    ingress: String,
    egress: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BlockForm {
    id: String,
    kind: PolicyKindForm,
    namespace: String,
    name: String,
    uid: Option<String>,
    direction: DirectionForm,
    rules: Vec<RuleForm>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum PolicyKindForm {
    ClusterNetworkPolicy,
    NetworkPolicy,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum DirectionForm {
    Ingress,
    Egress,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
enum ActionForm {
    Accept,
    Deny,
    Pass,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleForm {
    rule: u32,
    peer: Option<u32>,
    action: ActionForm,
    /// `None`: everybody.
    peers: Option<String>,
    /// `None`: every port of every protocol, and protocols without ports.
    ports: Option<Vec<PortsForm>>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum ProtocolForm {
    Tcp,
    Udp,
    Sctp,
}

/// Protocol, first port, last port.
type PortsForm = (ProtocolForm, u16, u16);

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PipelineForm {
    id: String,
    direction: DirectionForm,
    admin: Vec<String>,
    /// `None`: not isolated.
    network_policy: Option<Vec<String>>,
    baseline: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PeerSetForm {
    id: String,
    selector: PeerSelectorForm,
    addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum PeerSelectorForm {
    Pods { namespaces: NamespacesForm, pods: Vec<RequirementForm>, port: Option<ResolvedPortForm> },
    Nodes(Vec<RequirementForm>),
    Networks(Vec<String>),
    PodsInNetworks { networks: Vec<String>, port: ResolvedPortForm },
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum NamespacesForm {
    One(String),
    Matching(Vec<RequirementForm>),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RequirementForm {
    key: String,
    operator: OperatorForm,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum OperatorForm {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ResolvedPortForm {
    name: String,
    protocol: ProtocolForm,
    number: NonZeroU16,
}

/// Pairs a form's variants with the IR's, both ways.
macro_rules! twins {
    ($form:ident, $ir:ident, $($variant:ident),+) => {
        impl From<$ir> for $form {
            fn from(value: $ir) -> Self {
                match value {
                    $($ir::$variant => Self::$variant,)+
                }
            }
        }
        impl From<$form> for $ir {
            fn from(value: $form) -> Self {
                match value {
                    $($form::$variant => Self::$variant,)+
                }
            }
        }
    };
}
twins!(PolicyKindForm, PolicyKind, ClusterNetworkPolicy, NetworkPolicy);
twins!(DirectionForm, Direction, Ingress, Egress);
twins!(ActionForm, Action, Accept, Deny, Pass);
twins!(ProtocolForm, Protocol, Tcp, Udp, Sctp);
twins!(OperatorForm, Operator, In, NotIn, Exists, DoesNotExist);

impl From<&Ruleset> for RulesetForm {
    fn from(ruleset: &Ruleset) -> Self {
        let mut blocks: BTreeMap<_, &Arc<RuleBlock>> = BTreeMap::new();
        for (_, pipeline) in ruleset.pipelines() {
            blocks.extend(pipeline.blocks().map(|block| (block.id(), block)));
        }
        Self {
            schema: SCHEMA_VERSION.into(),
            scope: match ruleset.scope() {
                Scope::Cluster => ScopeForm::Cluster,
                Scope::Node(name) => ScopeForm::Node(name.to_string()),
            },
            settings: SettingsForm {
                enforce_own_node_egress: ruleset.settings().own_node_egress
                    == OwnNodeEgress::Enforce,
                pass_other_protocols: ruleset.settings().other_protocols == OtherProtocols::Pass,
            },
            pod_ranges: networks(ruleset.pod_ranges()),
            nodes: ruleset
                .nodes()
                .iter()
                .map(|(name, addresses)| (name.to_string(), addresses.clone()))
                .collect(),
            endpoints: ruleset.endpoints().map(endpoint_form).collect(),
            blocks: blocks.into_values().map(|block| block_form(block)).collect(),
            pipelines: ruleset.pipelines().map(|(_, pipeline)| pipeline_form(pipeline)).collect(),
            peer_sets: ruleset
                .peer_sets()
                .map(|(id, set)| PeerSetForm {
                    id: id.to_string(),
                    selector: selector_form(&set.selector),
                    addresses: set.addresses.iter().collect(),
                })
                .collect(),
        }
    }
}

fn endpoint_form(endpoint: &Endpoint) -> EndpointForm {
    EndpointForm {
        namespace: endpoint.pod.namespace.to_string(),
        name: endpoint.pod.name.to_string(),
        node: endpoint.node.as_ref().map(ToString::to_string),
        addresses: endpoint.addresses.clone(),
        ingress: endpoint.ingress.to_string(),
        egress: endpoint.egress.to_string(),
    }
}

fn block_form(block: &RuleBlock) -> BlockForm {
    let policy = block.policy();
    let rule = |rule: &Rule| RuleForm {
        rule: rule.rule,
        peer: rule.peer,
        action: rule.action.into(),
        peers: match rule.peers {
            Peers::Any => None,
            Peers::Set(id) => Some(id.to_string()),
        },
        ports: match &rule.ports {
            Ports::Any => None,
            Ports::Set(ports) => Some(
                ports.ranges().map(|(protocol, low, high)| (protocol.into(), low, high)).collect(),
            ),
        },
    };
    BlockForm {
        id: block.id().to_string(),
        kind: policy.kind.into(),
        namespace: policy.object.namespace.to_string(),
        name: policy.object.name.to_string(),
        uid: policy.uid.as_ref().map(ToString::to_string),
        direction: block.direction().into(),
        rules: block.rules().iter().map(rule).collect(),
    }
}

fn pipeline_form(pipeline: &Pipeline) -> PipelineForm {
    let ids = |blocks: &[Arc<RuleBlock>]| {
        blocks.iter().map(|block| block.id().to_string()).collect::<Vec<_>>()
    };
    PipelineForm {
        id: pipeline.id().to_string(),
        direction: pipeline.direction.into(),
        admin: ids(&pipeline.admin),
        network_policy: pipeline.network_policy.as_deref().map(ids),
        baseline: ids(&pipeline.baseline),
    }
}

fn networks(ranges: &PrefixSet) -> Vec<String> {
    ranges.cidrs().iter().map(ToString::to_string).collect()
}

fn selector_form(selector: &PeerSelector) -> PeerSelectorForm {
    match selector {
        PeerSelector::Pods { namespaces, pods, port } => PeerSelectorForm::Pods {
            namespaces: match namespaces {
                NamespaceScope::One(name) => NamespacesForm::One(name.to_string()),
                NamespaceScope::Matching(selector) => {
                    NamespacesForm::Matching(requirement_forms(selector))
                }
            },
            pods: requirement_forms(pods),
            port: port.as_ref().map(port_form),
        },
        PeerSelector::Nodes(selector) => PeerSelectorForm::Nodes(requirement_forms(selector)),
        PeerSelector::Networks(ranges) => PeerSelectorForm::Networks(networks(ranges)),
        PeerSelector::PodsInNetworks(ranges, port) => {
            PeerSelectorForm::PodsInNetworks { networks: networks(ranges), port: port_form(port) }
        }
    }
}

fn requirement_forms(selector: &Selector) -> Vec<RequirementForm> {
    let form = |requirement: &SelectorRequirement| RequirementForm {
        key: requirement.key.to_string(),
        operator: requirement.operator.into(),
        values: requirement.values.iter().map(ToString::to_string).collect(),
    };
    selector.requirements().iter().map(form).collect()
}

fn port_form(port: &ResolvedPort) -> ResolvedPortForm {
    ResolvedPortForm {
        name: port.name.to_string(),
        protocol: port.protocol.into(),
        number: port.number,
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::{RulesetForm, SchemaError};
    use crate::compile::{Options, compile};
    use crate::ir::Ruleset;
    use crate::model::{
        Cidr, Cluster, Field, IpBlock, LabelSelector, NetworkPolicy, NetworkPolicyPeer,
        NetworkPolicyRule, ObjectMeta, ObjectRef, Pod, Position,
    };

    fn ruleset() -> Ruleset {
        let mut cluster = Cluster::default();
        let meta = ObjectMeta::new("x", "a", [("app", "web")].into_iter().collect());
        let addresses = alloc::vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        cluster.pods.insert(ObjectRef::new("x", "a"), Pod { meta, addresses, ..Pod::default() });
        let block = |cidr| IpBlock {
            cidr: Cidr::parse(cidr).unwrap(),
            except: alloc::vec![Cidr::parse("10.1.0.0/16").unwrap()],
            position: Position::default(),
        };
        let peers = alloc::vec![
            NetworkPolicyPeer { ip_block: Field::Given(block("10.0.0.0/8")), ..Default::default() },
            NetworkPolicyPeer {
                pod_selector: Field::Given(LabelSelector::labels([("app", "web")])),
                ..Default::default()
            },
        ];
        let rule = NetworkPolicyRule { peers: Field::Given(peers), ..Default::default() };
        let meta = ObjectMeta::new("x", "p", Default::default());
        let policy =
            NetworkPolicy { meta, ingress: Field::Given(alloc::vec![rule]), ..Default::default() };
        cluster.network_policies.insert(ObjectRef::new("x", "p"), policy);
        compile(&cluster, &Options::default()).ruleset
    }

    fn read(text: &str) -> Result<Ruleset, SchemaError> {
        serde_json::from_str::<RulesetForm>(text).unwrap().try_into()
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_ruleset() {
        let ruleset = ruleset();
        let text = serde_json::to_string(&RulesetForm::from(&ruleset)).unwrap();
        assert_eq!(read(&text).unwrap(), ruleset);
    }

    #[test]
    fn a_ruleset_that_was_tampered_with_is_refused() {
        let text = serde_json::to_string(&RulesetForm::from(&ruleset())).unwrap();
        let tampered = |from: &str, to: &str| -> String {
            assert!(text.contains(from), "{from} is not in {text}");
            text.replacen(from, to, 1)
        };
        assert!(matches!(read(&tampered("/v1", "/v9")), Err(SchemaError::Version(_))));
        assert!(matches!(
            read(&tampered("10.0.0.0/16", "11.0.0.0/16")),
            Err(SchemaError::Id { .. })
        ));
        assert!(matches!(read(&tampered("accept", "deny")), Err(SchemaError::Id { .. })));
        assert!(matches!(
            read(&tampered("\"10.0.0.1\",\"fd00::1\"],\"ing", "],\"ing")),
            Err(SchemaError::Violated(_))
        ));
    }
}
