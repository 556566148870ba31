//! Ruleset to maps: classes of addresses, a word for each policy and class, and interned port lists.
//!
//! The atoms have folded except, overlap, tiers, Pass, union and default already; what is left is disjoint, so nothing
//! in the kernel has a precedence.

mod between;
mod compare;
mod key;
mod limits;
mod networks;
mod numbers;
mod patch;
mod policy;
mod ports;
mod told;
mod update;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use netpol_core::atoms::{Atoms, Bound, Classes};
use netpol_core::backend::LowerError;
use netpol_core::engine::Delta;
use netpol_core::ir::{
    Direction, Endpoint, Origin, PeerSetId, Peers, Pipeline, PipelineId, Ruleset, Settings,
    Situation,
};
use netpol_core::model::ObjectRef;

use crate::image::{
    CounterId, Host, MapImage, NOBODY, Place, PodNumber, PodRow, Policy, PolicyNumber, Word,
};
use key::{PolicyKey, origins};
pub use limits::Limits;
use numbers::Numbers;
#[cfg(feature = "apply")]
pub(crate) use patch::Garbage;
pub(crate) use patch::Patch;
use policy::{Counters, PolicyState, Shared};
use ports::PortLists;
pub use told::Told;
pub use update::UpdateError;

/// Counters of what is no word's (`bpf/judge.h`).
const GUARD_OF_INGRESS: CounterId = 0;
const GUARD_OF_EGRESS: CounterId = 1;
/// Strict mode: counters of the words of [`NOBODY`].
const UNKNOWN_DESTINATION: CounterId = 2;
const UNKNOWN_SOURCE: CounterId = 6;
const FIRST_COUNTER: CounterId = 10;

/// Up to so many counters, classes that rules tell apart are counted apart although they may do the same.
const PLENTY: u32 = 1 << 16;

/// Lowers a ruleset.
pub(crate) fn lower(ruleset: &Ruleset, limits: Limits) -> Result<MapImage, LowerError> {
    Lowering::new(ruleset, limits).map(|lowering| lowering.image)
}

/// A ruleset and what it is lowered to, ready to follow changes.
///
/// Numbers of classes, pods, policies and port lists stay what they are while they mean something. So an image after
/// changes and one lowered anew differ in numbers, and nothing else.
#[derive(Clone, Debug)]
pub struct Lowering {
    image: MapImage,
    limits: Limits,
    settings: Settings,
    classes: Classes,
    pipelines: BTreeMap<PipelineId, Lowered>,
    /// Of pipelines that policies are made of, for as long as one is.
    leads: BTreeMap<PipelineId, Lead>,
    /// The leads whose rules name a set. Look-up only.
    leads_by_set: HashMap<PeerSetId, BTreeSet<PipelineId>>,
    policies: BTreeMap<PolicyNumber, Kept>,
    /// Look-up only.
    policies_by_key: HashMap<PolicyKey, PolicyNumber>,
    /// Policies with rows for classes that none of their sets holds.
    inverted: BTreeSet<PolicyNumber>,
    policy_numbers: Numbers,
    endpoints: BTreeMap<ObjectRef, Binding>,
    pod_numbers: Numbers,
    /// Addresses that are networks of their own: their class stands with the hosts.
    singles: BTreeSet<IpAddr>,
    /// Networks that are gone, but not yet from the kernel: packets still find them.
    ghosts: BTreeSet<IpNet>,
    shared: Shared,
    /// What changed since it was taken.
    patch: Patch,
    /// How many changes were followed.
    changes: u64,
}

/// A pipeline that is there, and its policies by situation.
#[derive(Clone, Debug)]
struct Lowered {
    pipeline: Pipeline,
    ordinary: PolicyNumber,
    hairpin: PolicyNumber,
    own_node: PolicyNumber,
}

impl Lowered {
    const fn policies(&self) -> [PolicyNumber; 3] {
        [self.ordinary, self.hairpin, self.own_node]
    }
}

/// The atoms of a pipeline.
#[derive(Clone, Debug)]
struct Lead {
    atoms: Atoms,
    sets: Vec<PeerSetId>,
    /// Its rules, in the order of the policies' keys.
    origins: Vec<Origin>,
    policies: BTreeSet<PolicyNumber>,
}

/// A policy, and who uses it.
#[derive(Clone, Debug)]
struct Kept {
    key: PolicyKey,
    state: PolicyState,
    /// As often as they have situations in which this is their policy.
    users: BTreeMap<PipelineId, usize>,
    /// With which change it came.
    since: u64,
}

/// An endpoint as it is bound.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Binding {
    number: PodNumber,
    addresses: Vec<IpAddr>,
    ingress: PipelineId,
    egress: PipelineId,
}

impl Lowering {
    /// Lowers a ruleset.
    ///
    /// # Errors
    /// Names what does not fit, with numbers.
    pub fn new(ruleset: &Ruleset, limits: Limits) -> Result<Self, LowerError> {
        let classes = Classes::of_ruleset(ruleset);
        let image = MapImage { ranges: ruleset.pod_ranges().clone(), ..MapImage::default() };
        let counters = Counters::new(FIRST_COUNTER, PLENTY);
        let mut lowering = Self {
            image,
            limits,
            settings: ruleset.settings(),
            classes,
            pipelines: BTreeMap::new(),
            leads: BTreeMap::new(),
            leads_by_set: HashMap::new(),
            policies: BTreeMap::new(),
            policies_by_key: HashMap::new(),
            inverted: BTreeSet::new(),
            policy_numbers: Numbers::default(),
            endpoints: BTreeMap::new(),
            pod_numbers: Numbers::default(),
            singles: BTreeSet::new(),
            ghosts: BTreeSet::new(),
            shared: Shared { ports: PortLists::default(), born: Vec::new(), counters },
            patch: Patch::default(),
            changes: 0,
        };
        if lowering.image.is_strict() {
            lowering.add_nobody();
        }
        for (id, pipeline) in ruleset.pipelines() {
            lowering.add_pipeline(id, pipeline)?;
        }
        let Self { classes, image, singles, .. } = &mut lowering;
        networks::fill(classes, &mut image.networks, singles);
        image.topology.nodes.clone_from(ruleset.nodes());
        for endpoint in ruleset.endpoints() {
            lowering.bind(endpoint);
        }
        lowering.fill_hosts();
        lowering.finish();
        lowering.limits.check(&lowering.image.rows())?;
        // All of it is new.
        lowering.patch = Patch::default();
        Ok(lowering)
    }

    /// Strict mode: adds the pod of addresses that no known pod owns, to which nothing passes and from which nothing
    /// comes. The first numbers are its.
    fn add_nobody(&mut self) {
        let mut policy = |counter| {
            let number = self.policy_numbers.take();
            let default = Word::NOTHING.with_counter(counter);
            self.image.policies.insert(number, Policy { default, pipeline: None });
            number
        };
        let (ingress, egress) = (policy(UNKNOWN_DESTINATION), policy(UNKNOWN_SOURCE));
        let row = PodRow {
            ingress,
            egress,
            ingress_of_hairpin: ingress,
            egress_of_hairpin: egress,
            egress_to_node: egress,
        };
        let number = self.pod_numbers.take();
        debug_assert_eq!(number, NOBODY);
        self.image.pods.insert(number, row);
    }

    /// Returns what it is lowered to.
    #[must_use]
    pub const fn image(&self) -> &MapImage {
        &self.image
    }

    /// Follows a change: `delta` leads to the next ruleset from the one that is lowered.
    ///
    /// # Errors
    /// If it does not fit, or was made for another ruleset. This is of no use any more then: lower the ruleset anew.
    pub fn follow(&mut self, delta: &Delta) -> Result<(), UpdateError> {
        let patch = self.update(delta)?;
        self.recycle(patch.garbage);
        self.recycle_classes();
        Ok(())
    }

    /// Returns the largest numbers of a pod and of a policy that were ever given out.
    #[cfg(feature = "apply")]
    pub(crate) const fn largest(&self) -> (PodNumber, PolicyNumber) {
        (self.pod_numbers.largest(), self.policy_numbers.largest())
    }

    /// Puts every host in.
    fn fill_hosts(&mut self) {
        let Self { classes, image, .. } = self;
        let exact = classes.addresses().map(|(address, class)| {
            (address, Host { class: Some(class.number()), ..Host::default() })
        });
        image.hosts = exact.collect();
        let mut others: BTreeSet<IpAddr> = self.singles.clone();
        // In strict mode every pod has a number.
        let numbered = self.endpoints.values().filter(|bound| bound.number != 0);
        others.extend(numbered.flat_map(|bound| &bound.addresses));
        if self.image.is_strict() {
            others.extend(self.image.topology.nodes.values().flatten());
        }
        for address in others {
            let host = self.host(address);
            if host == Host::default() {
                self.image.hosts.remove(&address);
            } else {
                self.image.hosts.insert(address, host);
            }
        }
    }

    /// Returns what must be known of an address.
    fn host(&self, address: IpAddr) -> Host {
        let (class, range) = (self.classes.class_of(address), self.classes.class_of_range(address));
        let place = self.image.topology.pods.get(&address);
        let is_strict = self.image.is_strict();
        let mut nodes = self.image.topology.nodes.values();
        Host {
            class: (class != range || self.singles.contains(&address)).then_some(class.number()),
            pod: place
                .and_then(|place| self.endpoints.get(&place.pod))
                .map_or(0, |bound| bound.number),
            is_node: is_strict && nodes.any(|own| own.contains(&address)),
        }
    }

    /// Binds a pod to its policies, under a number of its own.
    fn bind(&mut self, endpoint: &Endpoint) {
        let Endpoint { pod, node, addresses, ingress, egress } = endpoint;
        let row = self.pod_row(*ingress, *egress);
        let number = if row == PodRow::default() && !self.image.is_strict() {
            0
        } else {
            let number = self.pod_numbers.take();
            self.image.pods.insert(number, row);
            self.patch.pods.push((number, row));
            number
        };
        for address in addresses {
            let place = Place { pod: pod.clone(), node: node.clone() };
            self.image.topology.pods.insert(*address, place);
        }
        let bound =
            Binding { number, addresses: addresses.clone(), ingress: *ingress, egress: *egress };
        self.endpoints.insert(pod.clone(), bound);
    }

    fn pod_row(&self, ingress: PipelineId, egress: PipelineId) -> PodRow {
        // INVARIANT (closed references) of the ruleset: both are there.
        let (ingress, egress) = (self.pipelines.get(&ingress), self.pipelines.get(&egress));
        PodRow {
            ingress: ingress.map_or(0, |lowered| lowered.ordinary),
            egress: egress.map_or(0, |lowered| lowered.ordinary),
            ingress_of_hairpin: ingress.map_or(0, |lowered| lowered.hairpin),
            egress_of_hairpin: egress.map_or(0, |lowered| lowered.hairpin),
            egress_to_node: egress.map_or(0, |lowered| lowered.own_node),
        }
    }

    fn add_pipeline(&mut self, id: PipelineId, pipeline: &Pipeline) -> Result<(), LowerError> {
        let mut policy = |situation| self.policy(id, pipeline, situation);
        let lowered = Lowered {
            pipeline: pipeline.clone(),
            ordinary: policy(Situation::Ordinary)?,
            hairpin: policy(Situation::Hairpin)?,
            own_node: match pipeline.direction {
                Direction::Egress => policy(Situation::OwnNode)?,
                // Recognised by local origin: such a packet passes none of our hooks (NP-125).
                Direction::Ingress => 0,
            },
        };
        self.pipelines.insert(id, lowered);
        Ok(())
    }

    /// Returns the policy that says what a pipeline does in a situation, and makes it if it is new.
    fn policy(
        &mut self,
        id: PipelineId,
        pipeline: &Pipeline,
        situation: Situation,
    ) -> Result<PolicyNumber, LowerError> {
        let key = PolicyKey::new(pipeline, situation, self.settings);
        if key.is_open() {
            return Ok(0);
        }
        if let Some(number) = self.policies_by_key.get(&key).copied() {
            if let Some(kept) = self.policies.get_mut(&number) {
                *kept.users.entry(id).or_default() += 1;
            }
            return Ok(number);
        }
        if !self.leads.contains_key(&id) {
            let lead = self.lead(id, pipeline)?;
            for set in &lead.sets {
                self.leads_by_set.entry(*set).or_default().insert(id);
            }
            self.leads.insert(id, lead);
        }
        let number = self.policy_numbers.take();
        let Some(lead) = self.leads.get_mut(&id) else { return Ok(number) };
        lead.policies.insert(number);
        let (state, rows) =
            PolicyState::new((id, situation), &lead.atoms, &self.classes, &mut self.shared);
        self.image.policies.insert(number, Policy { default: state.default, pipeline: Some(id) });
        self.patch.policies.push((number, state.default));
        for (class, word) in rows {
            self.image.words.insert((number, class), word);
            self.patch.words.push(((number, class), word));
        }
        if state.is_inverted {
            self.inverted.insert(number);
        }
        self.policies_by_key.insert(key.clone(), number);
        let users = BTreeMap::from([(id, 1)]);
        self.policies.insert(number, Kept { key, state, users, since: self.changes });
        Ok(number)
    }

    fn lead(&self, id: PipelineId, pipeline: &Pipeline) -> Result<Lead, LowerError> {
        let bound = Bound { max_pieces: self.limits.pieces };
        let atoms = Atoms::new(pipeline, self.settings, &self.classes, bound);
        let atoms = atoms.map_err(|list| LowerError::CapacityExceeded {
            object: alloc::format!("pipeline {id}"),
            needed: list.cost.pieces,
            limit: self.limits.pieces,
            unit: "pieces",
        })?;
        let sets: BTreeSet<PeerSetId> = pipeline
            .rules()
            .filter_map(|(_, rule)| match rule.peers {
                Peers::Set(set) => Some(set),
                Peers::Any => None,
            })
            .collect();
        let sets = sets.into_iter().collect();
        Ok(Lead { atoms, sets, origins: origins(pipeline), policies: BTreeSet::new() })
    }

    /// Brings the image up to date with what the policies share.
    fn finish(&mut self) {
        for list in core::mem::take(&mut self.shared.born) {
            let rows = self.shared.ports.rows(list);
            if !rows.is_empty() {
                self.patch.ports.push((list, rows.clone()));
                self.image.port_rows += rows.len();
                self.image.ports.insert(list, rows);
            }
        }
        self.image.counters = self.shared.counters.next;
    }
}
