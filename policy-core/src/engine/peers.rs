//! Peer sets and tallies: what becomes of the pods that rules speak of.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::net::IpAddr;
use core::num::NonZeroU16;

use hashbrown::HashMap;

use super::Engine;
use super::index::{EVERYWHERE, SelectorIndex};
use super::interner::Interner;
use super::labels::{Matcher, Symbol};
use super::pods::{Pods, View};
use super::query::Among;
use super::selections::Reach;
use super::slab::{Id, Slab};
use crate::compile::plan::{NameQuery, World};
use crate::ir::{NamespaceScope, PeerSelector, PeerSet, PeerSetId, ResolvedPort, Selector};
use crate::model::Protocol;
use crate::net::{AddressSet, PrefixSet};

/// What uses a selection of peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum User {
    /// A peer set holds the addresses of its pods.
    Set(Id),
    /// A tally counts what a port name means on its pods.
    Tally(Id),
}

/// The peer sets that rule blocks refer to.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    pub(super) slab: Slab<Set>,
    by_id: HashMap<PeerSetId, Id>,
    /// Sets of nodes.
    pub(super) of_nodes: BTreeSet<Id>,
}

#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) id: PeerSetId,
    /// Number of rules in blocks that refer to it.
    holders: u32,
    pub(super) source: Source,
}

/// Where the members of a set come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Pods {
        selection: Id,
        port: Option<Port>,
        networks: Option<Arc<PrefixSet>>,
    },
    Nodes(Matcher),
    /// From no object: the networks are all.
    Nowhere,
}

/// A [`ResolvedPort`] over symbols.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Port {
    name: Symbol,
    protocol: Protocol,
    number: NonZeroU16,
}

pub(super) type Tallies = Interner<Tally>;

/// How many pods of a selection have which numbers behind a port name.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    key: TallyKey,
    counts: BTreeMap<(Protocol, NonZeroU16), u32>,
    /// The policies that split peers by these numbers, one entry for each block.
    policies: Vec<Id>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct TallyKey {
    selection: Id,
    name: Symbol,
    networks: Option<Arc<PrefixSet>>,
}

impl Borrow<TallyKey> for Tally {
    fn borrow(&self) -> &TallyKey {
        &self.key
    }
}

/// The engine as a policy's block sees it while it is made.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) policy: Id,
    /// The sets the block refers to, one entry for each rule.
    pub(super) sets: Vec<Id>,
    /// The tallies it depends on.
    pub(super) tallies: Vec<Id>,
}

impl World for Maker<'_> {
    fn peer_set(&mut self, selector: PeerSelector) -> PeerSetId {
        let (set, id) = self.engine.take_set(selector);
        self.sets.push(set);
        id
    }

    fn numbers(&mut self, query: &NameQuery<'_>) -> BTreeSet<(Protocol, NonZeroU16)> {
        let tally = self.engine.take_tally(query, self.policy);
        self.tallies.push(tally);
        let counts = self.engine.tallies.get(tally).map(|tally| &tally.counts);
        counts.into_iter().flat_map(BTreeMap::keys).copied().collect()
    }
}

impl Engine {
    /// Holds the set of a selector, making it on first use.
    fn take_set(&mut self, selector: PeerSelector) -> (Id, PeerSetId) {
        let id = selector.id();
        if let Some(known) = self.sets.by_id.get(&id).copied()
            && let Some(set) = self.sets.slab.get_mut(known)
        {
            set.holders += 1;
            return (known, id);
        }
        let number = self.sets.slab.insert(Set { id, holders: 1, source: Source::Nowhere });
        self.sets.by_id.insert(id, number);
        let mut networks = PrefixSet::default();
        let (source, addresses) = match &selector {
            PeerSelector::Pods { namespaces, pods, port } => {
                self.pod_source(number, namespaces, pods, port.as_ref(), None)
            }
            PeerSelector::PodsInNetworks(networks, port) => {
                let everywhere = NamespaceScope::Matching(Selector::everything());
                let pods = Selector::everything();
                self.pod_source(number, &everywhere, &pods, Some(port), Some(networks))
            }
            PeerSelector::Nodes(selector) => {
                let matcher = self.matcher(selector);
                self.sets.of_nodes.insert(number);
                let addresses = self.node_addresses(&matcher);
                (Source::Nodes(matcher), addresses)
            }
            PeerSelector::Networks(ranges) => {
                networks = ranges.clone();
                (Source::Nowhere, AddressSet::default())
            }
        };
        if let Some(set) = self.sets.slab.get_mut(number) {
            set.source = source;
        }
        self.ruleset.put_peer_set(id, Arc::new(PeerSet { selector, addresses, networks }));
        self.work.note_set(id);
        (number, id)
    }

    fn pod_source(
        &mut self,
        set: Id,
        namespaces: &NamespaceScope,
        pods: &Selector,
        port: Option<&ResolvedPort>,
        networks: Option<&PrefixSet>,
    ) -> (Source, AddressSet) {
        let port = port.map(|port| Port {
            name: self.symbols.take(&port.name),
            protocol: port.protocol,
            number: port.number,
        });
        let selection = self.ask_peers(namespaces, pods, User::Set(set));
        let networks = networks.cloned().map(Arc::new);
        let source = Source::Pods { selection, port, networks };
        let members = self.members_of(selection);
        let mut addresses = Vec::with_capacity(members.len());
        for id in members {
            let Some(pod) = self.pods.slab.get(id) else { continue };
            if resolves(&self.pods, &source, pod.ports) {
                let owned = self.pods.owned_by(id, pod);
                addresses.extend(owned.filter(|address| is_inside(&source, *address)));
            }
        }
        let addresses = addresses.into_iter().collect();
        (source, addresses)
    }

    fn members_of(&mut self, selection: Id) -> Vec<Id> {
        let Some(selection) = self.peers.get(selection) else { return Vec::new() };
        let question = selection.question.clone();
        self.query(&question, Among::All)
    }

    /// Adds a user to the selection of a question.
    fn ask_peers(&mut self, namespaces: &NamespaceScope, pods: &Selector, user: User) -> Id {
        let question = self.question(namespaces, pods);
        let places = match self.peers.find(&question) {
            Some(_) => Vec::new(),
            None => self.places(question.reach),
        };
        let reach = question.reach;
        let added = self.peers.add(question, user, &places);
        if let Some(surplus) = added.surplus {
            self.drop_question(&surplus);
        } else if let Reach::Matching(selector) = reach
            && let Some(selector) = self.namespaces.selectors.get_mut(selector)
        {
            selector.peers.push(added.id);
        }
        added.id
    }

    fn leave_peers(&mut self, selection: Id, user: User) {
        let Some(known) = self.peers.get(selection) else { return };
        let places =
            if known.users.len() == 1 { self.places(known.question.reach) } else { Vec::new() };
        let Some(gone) = self.peers.remove(selection, user, &places) else { return };
        if let Reach::Matching(selector) = gone.question.reach
            && let Some(selector) = self.namespaces.selectors.get_mut(selector)
        {
            selector.peers.retain(|other| *other != selection);
        }
        self.drop_question(&gone.question);
    }

    /// Lets go of a set; where nobody else holds it, it goes.
    pub(super) fn release_set(&mut self, number: Id) {
        let Some(set) = self.sets.slab.get_mut(number) else { return };
        set.holders -= 1;
        if set.holders > 0 {
            return;
        }
        let Some(gone) = self.sets.slab.remove(number) else { return };
        self.sets.by_id.remove(&gone.id);
        self.ruleset.remove_peer_set(gone.id);
        self.work.members.remove(&number);
        if !self.work.created_sets.remove(&gone.id) {
            self.work.deleted_sets.push(gone.id);
        }
        match gone.source {
            Source::Pods { selection, port, .. } => {
                if let Some(port) = port {
                    self.symbols.give_back(port.name);
                }
                self.leave_peers(selection, User::Set(number));
            }
            Source::Nodes(matcher) => {
                self.sets.of_nodes.remove(&number);
                matcher.give_back(&mut self.symbols);
            }
            Source::Nowhere => {}
        }
    }

    fn take_tally(&mut self, query: &NameQuery<'_>, policy: Id) -> Id {
        // The selection's user must have a number before the tally has one: ask on behalf of nobody first.
        let nobody = User::Tally(super::slab::NONE);
        let selection = self.ask_peers(query.namespaces, query.pods, nobody);
        let name = self.symbols.take(query.name);
        let networks = query.networks.cloned().map(Arc::new);
        let key = TallyKey { selection, name, networks };
        let mut is_new = false;
        let id = self.tallies.acquire(&key, || {
            is_new = true;
            Tally { key: key.clone(), counts: BTreeMap::new(), policies: Vec::new() }
        });
        if is_new {
            self.peers.rename(selection, nobody, User::Tally(id));
            for pod in self.members_of(selection) {
                if let Some(view) = self.view(pod) {
                    self.count(id, &view, Sign::Plus);
                }
            }
        } else {
            self.leave_peers(selection, nobody);
            self.symbols.give_back(name);
        }
        if let Some(tally) = self.tallies.get_mut(id) {
            tally.policies.push(policy);
        }
        id
    }

    /// Lets go of a tally for one block of a policy.
    pub(super) fn release_tally(&mut self, id: Id, policy: Id) {
        if let Some(tally) = self.tallies.get_mut(id)
            && let Some(at) = tally.policies.iter().position(|other| *other == policy)
        {
            tally.policies.swap_remove(at);
        }
        if let Some(gone) = self.tallies.release::<TallyKey>(id) {
            self.symbols.give_back(gone.key.name);
            self.leave_peers(gone.key.selection, User::Tally(id));
        }
    }

    /// Counts a pod in or out. Where a number appears or disappears, the policies that ask are made again.
    fn count(&mut self, id: Id, view: &View, sign: Sign) {
        let Self { tallies, pods, work, .. } = self;
        let Some(tally) = tallies.get_mut(id) else { return };
        let inside = tally.key.networks.as_ref().is_none_or(|networks| {
            view.addresses.iter().any(|address| networks.contains(*address))
        });
        if !inside {
            return;
        }
        let mut changed = false;
        for number in pods.numbers(view.ports, tally.key.name) {
            let count = tally.counts.entry(number).or_default();
            match sign {
                Sign::Plus => {
                    changed |= *count == 0;
                    *count += 1;
                }
                Sign::Minus => {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        changed = true;
                        tally.counts.remove(&number);
                    }
                }
            }
        }
        if changed {
            tally.policies.iter().for_each(|policy| work.rebuild_all(*policy));
        }
    }

    /// Moves pods into or out of whatever uses a selection of peers.
    pub(super) fn move_peer<'a>(
        &mut self,
        selection: Id,
        views: impl Iterator<Item = &'a View> + Clone,
        sign: Sign,
    ) {
        let users = self.peers.get(selection).map_or(0, |selection| selection.users.len());
        for number in 0..users {
            let user = self.peers.get(selection).and_then(|selection| selection.users.get(number));
            match user {
                None => {}
                Some(User::Tally(tally)) => {
                    let tally = *tally;
                    views.clone().for_each(|view| self.count(tally, view, sign));
                }
                Some(User::Set(number)) => {
                    let Some(set) = self.sets.slab.get(*number) else { continue };
                    let source = &set.source;
                    let inside = |address: &&IpAddr| is_inside(source, **address);
                    let mut addresses = views
                        .clone()
                        .filter(|view| resolves(&self.pods, source, view.ports))
                        .flat_map(|view| view.addresses.iter().filter(inside))
                        .peekable();
                    if addresses.peek().is_some() {
                        let ops = self.work.members.entry(*number).or_default();
                        ops.extend(addresses.map(|address| (*address, sign)));
                    }
                }
            }
        }
    }

    /// Moves pods, those with the same labels side by side, into or out of whatever uses some selections of peers.
    pub(super) fn move_peers(&mut self, selections: &[Id], views: &[(Id, View)], joins: bool) {
        let sign = if joins { Sign::Plus } else { Sign::Minus };
        // Filed anew, so that the labels lead to the selections: there may be as many of them as there are pods.
        let mut index = SelectorIndex::default();
        let matchers: BTreeMap<Id, Matcher> = selections
            .iter()
            .filter_map(|id| Some((*id, self.peers.get(*id)?.question.pods.clone())))
            .collect();
        for (id, matcher) in &matchers {
            let anchor = index.anchor(EVERYWHERE, matcher);
            index.file(EVERYWHERE, matcher, anchor, *id);
        }
        for alike in views.chunk_by(|(_, one), (_, other)| one.labels == other.labels) {
            let Some((_, first)) = alike.first() else { continue };
            let mut matching = Vec::new();
            let labels = self.labels.labels(first.labels);
            index.candidates(&[EVERYWHERE], labels, |id| {
                let matches = matchers.get(&id).is_some_and(|matcher| matcher.matches(labels));
                matching.extend(matches.then_some(id));
            });
            for selection in matching {
                self.move_peer(selection, alike.iter().map(|(_, view)| view), sign);
            }
        }
    }
}

/// In or out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Sign {
    Minus,
    Plus,
}

/// Returns whether the port that members of a set must have is there.
fn resolves(pods: &Pods, source: &Source, ports: Id) -> bool {
    match source {
        Source::Pods { port: Some(port), .. } => {
            pods.numbers(ports, port.name).any(|number| number == (port.protocol, port.number))
        }
        Source::Pods { port: None, .. } | Source::Nodes(_) | Source::Nowhere => true,
    }
}

/// Returns whether an address is in the networks that members of a set must be in.
fn is_inside(source: &Source, address: IpAddr) -> bool {
    match source {
        Source::Pods { networks: Some(networks), .. } => networks.contains(address),
        Source::Pods { networks: None, .. } | Source::Nodes(_) | Source::Nowhere => true,
    }
}
