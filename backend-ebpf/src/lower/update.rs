//! Following a change of the ruleset: what it does to the image, as rows to write and rows to take away.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::atoms::{Change, ClassId};
use netpol_core::backend::LowerError;
use netpol_core::engine::{Create, Delete, Delta, EndpointChange, NodeChange};
use netpol_core::ir::PipelineId;

use super::networks::Journal;
use super::patch::{Garbage, Patch};
use super::{Lowering, PodRow};
use crate::image::{Host, PodNumber, PolicyNumber};

/// Why a change could not be followed. What is lowered is of no use any more: lower the ruleset anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// It does not fit.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// It was made for another ruleset.
    #[error("the change was made for another ruleset")]
    OtherRuleset,
}

/// What a change has touched so far.
#[derive(Default)]
struct Touched {
    /// What was known of the address before.
    hosts: BTreeMap<IpAddr, Host>,
    networks: Journal,
    born: BTreeSet<ClassId>,
    died: BTreeSet<ClassId>,
}

impl Lowering {
    /// Follows a change. The image is the next one then; the patch leads to it from the one before.
    pub(crate) fn update(&mut self, delta: &Delta) -> Result<Patch, UpdateError> {
        self.changes += 1;
        let mut touched = Touched::default();
        for create in &delta.create {
            if let Create::PeerSet(id, set) = create {
                let change = self.classes.add_set(*id, set);
                self.absorb(change, &mut touched);
            }
        }
        for member in &delta.switch.members {
            for address in member.joins.iter() {
                let change = self.classes.join(address, member.set);
                self.absorb(change.map_err(|_| UpdateError::OtherRuleset)?, &mut touched);
            }
            for address in member.leaves.iter() {
                let change = self.classes.leave(address, member.set);
                self.absorb(change.map_err(|_| UpdateError::OtherRuleset)?, &mut touched);
            }
        }
        for delete in &delta.delete {
            if let Delete::Pipeline(id) = delete {
                self.remove_pipeline(*id)?;
            }
        }
        for delete in &delta.delete {
            if let Delete::PeerSet(id) = delete {
                let change = self.classes.remove_set(*id);
                self.absorb(change, &mut touched);
            }
        }
        self.turn(&touched);
        for create in &delta.create {
            if let Create::Pipeline(id, pipeline) = create {
                self.add_pipeline(*id, pipeline)?;
            }
        }
        for node in &delta.switch.nodes {
            self.move_node(node, &mut touched);
        }
        self.move_endpoints(&delta.switch.endpoints, &mut touched)?;
        self.finish();
        self.settle(touched);
        self.limits.check(&self.image.rows())?;
        Ok(core::mem::take(&mut self.patch))
    }

    fn touch(&self, address: IpAddr, touched: &mut Touched) {
        touched.hosts.entry(address).or_insert_with(|| self.image.host(address));
    }

    fn absorb(&mut self, change: Change, touched: &mut Touched) {
        for class in change.born {
            if !touched.died.remove(&class) {
                touched.born.insert(class);
            }
        }
        for class in change.died {
            if !touched.born.remove(&class) {
                touched.died.insert(class);
            }
        }
        for range in &change.ranges {
            let Self { image, singles, .. } = self;
            touched.networks.redraw(range, &mut image.networks, singles);
        }
        for moved in &change.addresses {
            self.touch(moved.address, touched);
        }
    }

    /// Gives classes that were born their words, and takes those of classes that died away.
    fn turn(&mut self, touched: &Touched) {
        for class in &touched.died {
            for lead in self.leads_of(*class) {
                if let Some(lead) = self.leads.get_mut(&lead) {
                    lead.atoms.dismiss(*class);
                }
            }
        }
        for class in &touched.born {
            for id in self.leads_of(*class) {
                if let Some(lead) = self.leads.get_mut(&id) {
                    lead.atoms.admit(*class, &self.classes);
                }
            }
        }
        for class in touched.died.iter().chain(&touched.born) {
            let leads = self.leads_of(*class);
            let led = leads.iter().filter_map(|id| self.leads.get(id));
            let mut policies: BTreeSet<PolicyNumber> =
                led.flat_map(|lead| lead.policies.iter().copied()).collect();
            policies.extend(&self.inverted);
            let died = touched.died.contains(class);
            for number in policies {
                let key = (number, class.number());
                if died {
                    if self.image.words.remove(&key).is_some() {
                        self.patch.garbage.words.insert(key);
                    }
                    continue;
                }
                let Some(kept) = self.policies.get_mut(&number) else { continue };
                let (lead, situation) = kept.state.lead;
                let Some(lead) = self.leads.get(&lead) else { continue };
                let pieces = lead.atoms.pieces(*class, situation);
                if let Some(word) = kept.state.word(pieces, &mut self.shared) {
                    self.image.words.insert(key, word);
                    self.patch.words.push((key, word));
                }
            }
        }
    }

    /// Returns the leads that may tell a class from nobody.
    fn leads_of(&self, class: ClassId) -> BTreeSet<PipelineId> {
        let sets = self.classes.sets_of(class);
        sets.iter().filter_map(|set| self.leads_by_set.get(set)).flatten().copied().collect()
    }

    fn remove_pipeline(&mut self, id: PipelineId) -> Result<(), UpdateError> {
        let lowered = self.pipelines.remove(&id).ok_or(UpdateError::OtherRuleset)?;
        for number in lowered.policies() {
            let Some(kept) = self.policies.get_mut(&number) else { continue };
            if let Some(uses) = kept.users.get_mut(&id) {
                *uses -= 1;
                if *uses == 0 {
                    kept.users.remove(&id);
                }
            }
            if kept.users.is_empty() {
                self.remove_policy(number);
            }
        }
        Ok(())
    }

    fn remove_policy(&mut self, number: PolicyNumber) {
        let Some(kept) = self.policies.remove(&number) else { return };
        self.policies_by_key.remove(&kept.key);
        self.inverted.remove(&number);
        self.image.policies.remove(&number);
        let words = self.image.words.range((number, 0)..=(number, u32::MAX));
        let words: Vec<_> = words.map(|(key, _)| *key).collect();
        for key in words {
            self.image.words.remove(&key);
            self.patch.garbage.words.insert(key);
        }
        for list in kept.state.lists() {
            if self.shared.ports.release(list) {
                let rows = self.image.ports.remove(&list).unwrap_or_default();
                self.image.port_rows -= rows.len();
                self.patch.garbage.ports.insert(list, rows);
            }
        }
        self.patch.garbage.policies.push(number);
        self.patch.garbage.counters.extend(&kept.state.blocks);
        let (id, _) = kept.state.lead;
        let Some(lead) = self.leads.get_mut(&id) else { return };
        lead.policies.remove(&number);
        if lead.policies.is_empty()
            && let Some(lead) = self.leads.remove(&id)
        {
            for set in lead.sets {
                if let Some(leads) = self.leads_by_set.get_mut(&set) {
                    leads.remove(&id);
                    if leads.is_empty() {
                        self.leads_by_set.remove(&set);
                    }
                }
            }
        }
    }

    fn move_node(&mut self, change: &NodeChange, touched: &mut Touched) {
        let NodeChange { name, before, after } = change;
        if self.image.is_strict() {
            for address in before.iter().chain(after).flatten() {
                self.touch(*address, touched);
            }
        }
        let nodes = &mut self.image.topology.nodes;
        match after {
            Some(addresses) => drop(nodes.insert(name.clone(), addresses.clone())),
            None => drop(nodes.remove(name)),
        }
    }

    fn move_endpoints(
        &mut self,
        changes: &[EndpointChange],
        touched: &mut Touched,
    ) -> Result<(), UpdateError> {
        let mut vacant: BTreeMap<PodNumber, PodRow> = BTreeMap::new();
        for before in changes.iter().filter_map(|change| change.before.as_ref()) {
            let bound = self.endpoints.remove(&before.pod).ok_or(UpdateError::OtherRuleset)?;
            for address in &bound.addresses {
                self.touch(*address, touched);
                let pods = &mut self.image.topology.pods;
                if pods.get(address).is_some_and(|place| place.pod == before.pod) {
                    pods.remove(address);
                }
            }
            if bound.number != 0 {
                vacant.insert(bound.number, PodRow::default());
            }
        }
        for after in changes.iter().filter_map(|change| change.after.as_ref()) {
            for address in &after.addresses {
                self.touch(*address, touched);
            }
            self.bind(after);
        }
        for (number, _) in vacant {
            self.image.pods.remove(&number);
            self.patch.garbage.pods.push(number);
        }
        Ok(())
    }

    /// Brings hosts and networks up to date, and says how they change.
    fn settle(&mut self, touched: Touched) {
        let Touched { mut hosts, networks, .. } = touched;
        for address in &networks.singles {
            hosts.entry(*address).or_insert_with(|| self.image.host(*address));
        }
        for (address, before) in hosts {
            let now = self.host(address);
            if now == before {
                continue;
            }
            if now == Host::default() {
                self.image.hosts.remove(&address);
                self.patch.garbage.hosts.insert(address);
            } else {
                self.image.hosts.insert(address, now);
            }
            self.patch.hosts.push((address, before, now));
        }
        if networks.is_empty() {
            return;
        }
        for (network, before, now, is_there) in networks.changes(&self.image.networks, &self.ghosts)
        {
            if is_there {
                self.ghosts.remove(&network);
            } else {
                self.ghosts.insert(network);
                self.patch.garbage.networks.insert(network);
            }
            self.patch.networks.push((network, before, now));
        }
    }

    /// Takes the numbers of classes back that died. Nothing in the kernel refers to them any more.
    pub(crate) fn recycle_classes(&mut self) {
        self.classes.recycle();
    }

    /// Takes the numbers back that garbage held, once the kernel has none of it any more and
    /// the counters stand at zero.
    pub(crate) fn recycle(&mut self, garbage: Garbage) {
        self.ghosts.retain(|network| !garbage.networks.contains(network));
        garbage.policies.into_iter().for_each(|number| self.policy_numbers.free(number));
        garbage.pods.into_iter().for_each(|number| self.pod_numbers.free(number));
        garbage.counters.into_iter().for_each(|block| self.shared.counters.free(block));
        garbage.ports.into_keys().for_each(|list| self.shared.ports.free(list));
    }
}
