//! Ruleset to maps: classes of addresses, a word for each policy and class, and interned port lists.
//!
//! The atoms have folded except, overlap, tiers, Pass, union and default already; what is left is disjoint, so nothing
//! in the kernel has a precedence.

mod limits;
mod ports;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::atoms::{Allowed, Atoms, Bound, Classes, Verdicts};
use netpol_core::backend::LowerError;
use netpol_core::ir::{Direction, Family, Pipeline, PipelineId, Ruleset, Situation};
use netpol_core::model::ObjectRef;

use crate::image::{Class, EndpointRow, MapImage, Policy, PolicyNumber, Topology, Word};
pub use limits::Limits;
use ports::PortLists;

/// Lowers a ruleset.
pub(crate) fn lower(ruleset: &Ruleset, limits: Limits) -> Result<MapImage, LowerError> {
    if !ruleset.pod_ranges().is_empty() {
        return Err(LowerError::Unsupported {
            object: "strict mode".into(),
            what: "addresses of pods that are not known yet",
        });
    }
    let classes = Classes::of_ruleset(ruleset);
    let mut builder = Builder::new(&classes);
    let mut lowered: BTreeMap<PipelineId, Lowered> = BTreeMap::new();
    for (id, pipeline) in ruleset.pipelines() {
        lowered.insert(id, builder.pipeline(id, pipeline, ruleset, limits)?);
    }
    let mut image = builder.into_image();
    let none = Lowered::default();
    for (number, endpoint) in (1..).zip(ruleset.endpoints()) {
        // INVARIANT (closed references) of the ruleset: both are there.
        let ingress = lowered.get(&endpoint.ingress).unwrap_or(&none);
        let egress = lowered.get(&endpoint.egress).unwrap_or(&none);
        let row = EndpointRow {
            number,
            ingress: ingress.ordinary,
            egress: egress.ordinary,
            ingress_of_hairpin: ingress.hairpin,
            egress_of_hairpin: egress.hairpin,
            egress_to_node: egress.own_node,
        };
        if row != (EndpointRow { number, ..EndpointRow::OPEN }) {
            image.endpoints.extend(endpoint.addresses.iter().map(|address| (*address, row)));
        }
    }
    image.addresses =
        classes.addresses().map(|(address, class)| (address, class.number())).collect();
    for (network, class) in [Family::V4, Family::V6].into_iter().flat_map(|f| classes.prefixes(f)) {
        if network.prefix_len() == network.max_prefix_len() {
            // The table of exact addresses is asked first, and is the cheaper one.
            image.addresses.entry(network.addr()).or_insert(class.number());
        } else {
            image.networks.insert(network, class.number());
        }
    }
    image.topology = topology(ruleset);
    limits.check(&image.rows())?;
    Ok(image)
}

/// The policies that one pipeline becomes, by situation.
#[derive(Clone, Copy, Debug, Default)]
struct Lowered {
    ordinary: PolicyNumber,
    hairpin: PolicyNumber,
    own_node: PolicyNumber,
}

struct Builder<'a> {
    classes: &'a Classes,
    policies: Vec<Policy>,
    words: BTreeMap<(PolicyNumber, Class), Word>,
    ports: PortLists,
    /// Policies by what they say.
    known: BTreeMap<(Word, Vec<(Class, Word)>), PolicyNumber>,
}

impl<'a> Builder<'a> {
    fn new(classes: &'a Classes) -> Self {
        Self {
            classes,
            policies: Vec::new(),
            words: BTreeMap::new(),
            ports: PortLists::default(),
            known: BTreeMap::new(),
        }
    }

    fn pipeline(
        &mut self,
        id: PipelineId,
        pipeline: &Pipeline,
        ruleset: &Ruleset,
        limits: Limits,
    ) -> Result<Lowered, LowerError> {
        let bound = Bound { max_pieces: limits.pieces };
        let atoms =
            Atoms::new(pipeline, ruleset.settings(), self.classes, bound).map_err(|list| {
                LowerError::CapacityExceeded {
                    object: alloc::format!("pipeline {id}"),
                    needed: list.cost.pieces,
                    limit: limits.pieces,
                    unit: "pieces",
                }
            })?;
        let mut policy = |situation| self.policy(id, &atoms.without_origin(situation));
        Ok(Lowered {
            ordinary: policy(Situation::Ordinary),
            hairpin: policy(Situation::Hairpin),
            own_node: match pipeline.direction {
                Direction::Egress => policy(Situation::OwnNode),
                // Recognised by local origin: such a packet passes none of our hooks (NP-125).
                Direction::Ingress => 0,
            },
        })
    }

    /// Returns the policy that says this; policies that say the same are one.
    fn policy(&mut self, pipeline: PipelineId, verdicts: &Verdicts) -> PolicyNumber {
        let default = self.word(verdicts.default_allowed());
        let rows: BTreeMap<Class, Word> = verdicts
            .rows()
            .map(|(class, allowed)| (class.number(), self.word(allowed)))
            .filter(|(_, word)| *word != default)
            .collect();
        let (default, rows) = most_frequent_default(self.classes, default, rows);
        if default == Word::EVERYTHING && rows.is_empty() {
            return 0;
        }
        let next = u32::try_from(self.policies.len()).map_or(u32::MAX, |count| count + 1);
        let number = *self.known.entry((default, rows.clone())).or_insert(next);
        if number == next {
            self.policies.push(Policy { default, pipeline });
            self.words.extend(rows.into_iter().map(|(class, word)| ((number, class), word)));
        }
        number
    }

    fn word(&mut self, allowed: &Allowed) -> Word {
        self.ports.word(allowed)
    }

    fn into_image(self) -> MapImage {
        MapImage {
            policies: self.policies,
            words: self.words,
            ports: self.ports.into_lists(),
            ..MapImage::default()
        }
    }
}

/// Makes the word of most classes the default, so that a policy that allows all pods costs no row for each of their
/// classes.
fn most_frequent_default(
    classes: &Classes,
    default: Word,
    rows: BTreeMap<Class, Word>,
) -> (Word, Vec<(Class, Word)>) {
    let mut counts: BTreeMap<Word, usize> = BTreeMap::new();
    for word in rows.values() {
        *counts.entry(*word).or_default() += 1;
    }
    let of_default = classes.len().saturating_sub(rows.len());
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    match most {
        Some((most, count)) if count > of_default => {
            let word = |class: u32| rows.get(&class).copied().unwrap_or(default);
            let rows = classes.iter().map(|class| (class.number(), word(class.number())));
            (most, rows.filter(|(_, word)| *word != most).collect())
        }
        Some(_) | None => (default, rows.into_iter().collect()),
    }
}

fn topology(ruleset: &Ruleset) -> Topology {
    let mut pods: BTreeMap<IpAddr, (ObjectRef, Arc<[IpAddr]>)> = BTreeMap::new();
    for endpoint in ruleset.endpoints() {
        let node = endpoint.node.as_ref().and_then(|name| ruleset.nodes().get(name));
        let node: Arc<[IpAddr]> = node.map(Vec::as_slice).unwrap_or_default().into();
        for address in &endpoint.addresses {
            pods.entry(*address).or_insert_with(|| (endpoint.pod.clone(), node.clone()));
        }
    }
    Topology { pods }
}

impl EndpointRow {
    /// A pod that nothing is asked of.
    const OPEN: Self = Self {
        number: 0,
        ingress: 0,
        egress: 0,
        ingress_of_hairpin: 0,
        egress_of_hairpin: 0,
        egress_to_node: 0,
    };
}
