//! Data to ruleset: every id is checked against the content it names, and the whole against [`verify`].

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{
    BlockForm, EndpointForm, NamespacesForm, PeerSelectorForm, PeerSetForm, PipelineForm,
    RequirementForm, ResolvedPortForm, RuleForm, RulesetForm, SCHEMA_VERSION, SchemaError,
    ScopeForm,
};
use crate::ir::{
    Endpoint, NamespaceScope, OtherProtocols, OwnNodeEgress, Parts, PeerSelector, PeerSet,
    PeerSetId, Peers, Pipeline, PolicyRef, Ports, ResolvedPort, Rule, RuleBlock, Ruleset, Scope,
    Selector, SelectorRequirement, Settings, verify,
};
use crate::model::{Cidr, ObjectRef};
use crate::net::{PortSet, PrefixSet};

impl TryFrom<RulesetForm> for Ruleset {
    type Error = SchemaError;

    fn try_from(form: RulesetForm) -> Result<Self, SchemaError> {
        if form.schema != SCHEMA_VERSION {
            return Err(SchemaError::Version(form.schema));
        }
        let mut peer_sets = BTreeMap::new();
        let mut set_ids = BTreeMap::new();
        for PeerSetForm { id: written, selector, addresses } in form.peer_sets {
            let selector = selector_of(selector)?;
            let id = selector.id();
            named(&written, &id.to_string())?;
            let networks = match &selector {
                PeerSelector::Networks(networks) => networks.clone(),
                PeerSelector::Pods { .. }
                | PeerSelector::Nodes(_)
                | PeerSelector::PodsInNetworks(..) => PrefixSet::default(),
            };
            let set = PeerSet { selector, addresses: addresses.into_iter().collect(), networks };
            once(peer_sets.insert(id, Arc::new(set)), &written)?;
            set_ids.insert(written, id);
        }
        let mut blocks: BTreeMap<String, Arc<RuleBlock>> = BTreeMap::new();
        for block in form.blocks {
            let written = block.id.clone();
            let block = block_of(block, &set_ids)?;
            named(&written, &block.id().to_string())?;
            once(blocks.insert(written.clone(), Arc::new(block)), &written)?;
        }
        let mut pipelines = BTreeMap::new();
        let mut pipeline_ids = BTreeMap::new();
        for pipeline in form.pipelines {
            let written = pipeline.id.clone();
            let pipeline = pipeline_of(pipeline, &blocks)?;
            let id = pipeline.id();
            named(&written, &id.to_string())?;
            once(pipelines.insert(id, Arc::new(pipeline)), &written)?;
            pipeline_ids.insert(written, id);
        }
        let pipeline = |id: String| {
            pipeline_ids
                .get(&id)
                .copied()
                .ok_or_else(|| SchemaError::Id { written: id, found: "no pipeline".into() })
        };
        let mut endpoints = Vec::with_capacity(form.endpoints.len());
        for EndpointForm { namespace, name, node, addresses, ingress, egress } in form.endpoints {
            endpoints.push(Endpoint {
                pod: ObjectRef::new(&namespace, &name),
                node: node.map(Into::into),
                addresses,
                ingress: pipeline(ingress)?,
                egress: pipeline(egress)?,
            });
        }
        let count = endpoints.len();
        let ruleset = Self::new(Parts {
            scope: match form.scope {
                ScopeForm::Cluster => Scope::Cluster,
                ScopeForm::Node(name) => Scope::Node(name.into()),
            },
            settings: Settings {
                own_node_egress: if form.settings.enforce_own_node_egress {
                    OwnNodeEgress::Enforce
                } else {
                    OwnNodeEgress::Allow
                },
                other_protocols: if form.settings.pass_other_protocols {
                    OtherProtocols::Pass
                } else {
                    OtherProtocols::Judge
                },
            },
            pod_ranges: networks(form.pod_ranges)?,
            nodes: form
                .nodes
                .into_iter()
                .map(|(name, addresses)| (name.into(), addresses))
                .collect(),
            endpoints,
            pipelines,
            peer_sets,
        });
        if ruleset.endpoints().len() != count {
            return Err(SchemaError::Twice("an endpoint".into()));
        }
        verify(&ruleset)
            .into_iter()
            .next()
            .map_or(Ok(ruleset), |violated| Err(SchemaError::Violated(violated)))
    }
}

fn named(written: &str, found: &str) -> Result<(), SchemaError> {
    if written == found {
        return Ok(());
    }
    Err(SchemaError::Id { written: written.into(), found: found.into() })
}

fn once<T>(replaced: Option<T>, id: &str) -> Result<(), SchemaError> {
    replaced.map_or(Ok(()), |_| Err(SchemaError::Twice(id.into())))
}

fn block_of(form: BlockForm, sets: &BTreeMap<String, PeerSetId>) -> Result<RuleBlock, SchemaError> {
    let mut rules = Vec::with_capacity(form.rules.len());
    for RuleForm { rule, peer, action, peers, ports } in form.rules {
        let peers = match peers {
            None => Peers::Any,
            Some(id) => match sets.get(&id) {
                Some(id) => Peers::Set(*id),
                None => return Err(SchemaError::Id { written: id, found: "no peer set".into() }),
            },
        };
        let ports = ports.map_or(Ports::Any, |ranges| {
            let ranges =
                ranges.into_iter().map(|(protocol, low, high)| (protocol.into(), low, high));
            Ports::Set(Arc::new(PortSet::from_ranges(ranges)))
        });
        rules.push(Rule { rule, peer, action: action.into(), peers, ports });
    }
    let object = ObjectRef::new(&form.namespace, &form.name);
    let policy = PolicyRef { kind: form.kind.into(), object, uid: form.uid.map(Into::into) };
    Ok(RuleBlock::new(Arc::new(policy), form.direction.into(), rules))
}

fn pipeline_of(
    form: PipelineForm,
    blocks: &BTreeMap<String, Arc<RuleBlock>>,
) -> Result<Pipeline, SchemaError> {
    let PipelineForm { id, direction, admin, network_policy, baseline } = form;
    let tier = |ids: Vec<String>| -> Result<Vec<Arc<RuleBlock>>, SchemaError> {
        let block = |block: String| {
            let missing =
                || SchemaError::MissingBlock { pipeline: id.clone(), block: block.clone() };
            blocks.get(&block).cloned().ok_or_else(missing)
        };
        ids.into_iter().map(block).collect()
    };
    Ok(Pipeline {
        direction: direction.into(),
        admin: tier(admin)?,
        network_policy: network_policy.map(&tier).transpose()?,
        baseline: tier(baseline)?,
    })
}

fn networks(texts: Vec<String>) -> Result<PrefixSet, SchemaError> {
    let parse = |text: String| Cidr::parse(&text).map_err(|_| SchemaError::Network(text));
    let cidrs: Vec<Cidr> = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
    Ok(PrefixSet::from_cidrs(&cidrs))
}

fn selector_of(form: PeerSelectorForm) -> Result<PeerSelector, SchemaError> {
    Ok(match form {
        PeerSelectorForm::Pods { namespaces, pods, port } => PeerSelector::Pods {
            namespaces: match namespaces {
                NamespacesForm::One(name) => NamespaceScope::One(name.into()),
                NamespacesForm::Matching(requirements) => {
                    NamespaceScope::Matching(requirements_of(requirements))
                }
            },
            pods: requirements_of(pods),
            port: port.map(port_of),
        },
        PeerSelectorForm::Nodes(requirements) => PeerSelector::Nodes(requirements_of(requirements)),
        PeerSelectorForm::Networks(texts) => PeerSelector::Networks(networks(texts)?),
        PeerSelectorForm::PodsInNetworks { networks: texts, port } => {
            PeerSelector::PodsInNetworks(networks(texts)?, port_of(port))
        }
    })
}

fn requirements_of(forms: Vec<RequirementForm>) -> Selector {
    Selector::new(forms.into_iter().map(|RequirementForm { key, operator, values }| {
        SelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: values.into_iter().map(Into::into).collect(),
        }
    }))
}

fn port_of(form: ResolvedPortForm) -> ResolvedPort {
    ResolvedPort { name: form.name.into(), protocol: form.protocol.into(), number: form.number }
}
