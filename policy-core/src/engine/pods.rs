//! The pods, as far as policy looks at them.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::num::NonZeroU16;
use core::ops::Deref;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::claims::Claims;
use super::index::Postings;
use super::interner::{Interner, ShortHash};
use super::labels::{Symbol, Symbols};
use super::slab::{Id, Slab};
use crate::model::{self, Protocol};

/// A policed pod that claims an address. Others leave no trace (NP-131, NP-135, NP-137).
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: Arc<str>,
    pub(super) namespace: Id,
    pub(super) labels: Id,
    pub(super) ports: Id,
    /// [`NONE`](super::slab::NONE) until scheduled.
    pub(super) node: Symbol,
    /// [`NONE`](super::slab::NONE) if not known.
    pub(super) created: Symbol,
    /// Ascending.
    pub(super) claimed: Box<[IpAddr]>,
    /// Whether it runs and is not being deleted: then its claims come before those of others.
    pub(super) stays: bool,
    /// What a pod of the scope has that owns an address.
    pub(super) subject: Option<Box<Subject>>,
}

/// A pod of the scope: the policies that apply to it, and the pipelines that come of them.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) policies: BTreeSet<Id>,
    /// Numbers of pipelines, ingress and egress; [`NONE`](super::slab::NONE) until first bound.
    pub(super) pipelines: [Id; 2],
}

/// What policy sees of a pod at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct View {
    pub(super) namespace: Id,
    pub(super) labels: Id,
    pub(super) ports: Id,
    pub(super) node: Symbol,
    pub(super) is_local: bool,
    /// The addresses it owns, ascending; at least one.
    pub(super) addresses: Addresses,
}

/// Addresses of one pod: one or two but for oddities, and then without an allocation.
#[derive(Clone, Debug)]
pub(super) enum Addresses {
    One([IpAddr; 1]),
    Two([IpAddr; 2]),
    Many(Vec<IpAddr>),
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut rest = addresses.into_iter();
        match (rest.next(), rest.next(), rest.next()) {
            (None, _, _) => Self::Many(Vec::new()),
            (Some(one), None, _) => Self::One([one]),
            (Some(one), Some(two), None) => Self::Two([one, two]),
            (Some(one), Some(two), Some(three)) => {
                Self::Many([one, two, three].into_iter().chain(rest).collect())
            }
        }
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match self {
            Self::One(one) => one,
            Self::Two(two) => two,
            Self::Many(many) => many,
        }
    }
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Addresses {}

/// A container port that has a name.
pub(super) type NamedPort = (Symbol, Protocol, NonZeroU16);

/// The pods and the ways to find them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    pub(super) slab: Slab<Pod>,
    by_name: HashTable<(ShortHash, Id)>,
    hasher: DefaultHashBuilder,
    pub(super) ports: Interner<Box<[NamedPort]>>,
    pub(super) claims: Claims,
    /// Pods that own an address, by label.
    pub(super) postings: Postings,
    /// Pods that own an address.
    pub(super) active: usize,
    /// Pods of the scope that own an address; empty where the scope is the cluster.
    pub(super) local: BTreeSet<Id>,
}

impl Pods {
    pub(super) fn find(&self, namespace: Id, name: &str) -> Option<Id> {
        let hash = self.hash(namespace, name);
        let same = |(_, id): &(ShortHash, Id)| {
            let found = self.slab.get(*id);
            found.is_some_and(|pod| pod.namespace == namespace && *pod.name == *name)
        };
        self.by_name.find(hash.spread(), same).map(|(_, id)| *id)
    }

    pub(super) fn insert(&mut self, pod: Pod) -> Id {
        let hash = self.hash(pod.namespace, &pod.name);
        let id = self.slab.insert(pod);
        self.by_name.insert_unique(hash.spread(), (hash, id), |(hash, _)| hash.spread());
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Pod> {
        let pod = self.slab.remove(id)?;
        let hash = self.hash(pod.namespace, &pod.name);
        if let Ok(found) = self.by_name.find_entry(hash.spread(), |(_, other)| *other == id) {
            found.remove();
        }
        Some(pod)
    }

    fn hash(&self, namespace: Id, name: &str) -> ShortHash {
        ShortHash::of(&self.hasher, &(namespace, name))
    }

    /// Returns the number of the list of a pod's named ports (NP-091, NP-092).
    pub(super) fn take_ports(&mut self, symbols: &mut Symbols, pod: &model::Pod) -> Id {
        let named = pod
            .resolvable_ports()
            .filter_map(|port| Some((symbols.take(port.name.as_ref()?), port.protocol, port.port)));
        let mut list: Vec<NamedPort> = named.collect();
        list.sort_unstable();
        let given = list.clone();
        list.dedup();
        let mut new = false;
        let id = self.ports.acquire(list.as_slice(), || {
            new = true;
            list.as_slice().into()
        });
        // A list holds each of its names as often as it has it.
        let surplus: &[NamedPort] = if new { &[] } else { &list };
        let doubled = given.windows(2).filter_map(|pair| match pair {
            [one, other] if one == other => Some(*one),
            _ => None,
        });
        for (name, _, _) in surplus.iter().copied().chain(doubled) {
            symbols.give_back(name);
        }
        id
    }

    pub(super) fn give_back_ports(&mut self, symbols: &mut Symbols, id: Id) {
        if let Some(list) = self.ports.release::<[NamedPort]>(id) {
            list.iter().for_each(|(name, _, _)| symbols.give_back(*name));
        }
    }

    /// Returns the numbers behind a port name on a pod.
    pub(super) fn numbers(
        &self,
        ports: Id,
        name: Symbol,
    ) -> impl Iterator<Item = (Protocol, NonZeroU16)> + '_ {
        let list = self.ports.get(ports).map(AsRef::as_ref).unwrap_or_default();
        let start = list.partition_point(|(other, _, _)| *other < name);
        let rest = list.get(start..).unwrap_or_default().iter();
        rest.take_while(move |(other, _, _)| *other == name)
            .map(|(_, protocol, number)| (*protocol, *number))
    }

    /// Returns the addresses a pod owns, ascending.
    pub(super) fn owned_by<'a>(
        &'a self,
        id: Id,
        pod: &'a Pod,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let is_peaceful = self.claims.is_peaceful();
        let owns = move |address: &IpAddr| is_peaceful || self.claims.owner(*address) == Some(id);
        pod.claimed.iter().copied().filter(owns)
    }

    /// Returns whether a pod owns an address.
    pub(super) fn is_active(&self, id: Id) -> bool {
        let Some(pod) = self.slab.get(id) else { return false };
        self.claims.is_peaceful()
            || pod.claimed.iter().any(|address| self.claims.owner(*address) == Some(id))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let each = self.slab.iter().map(|(_, pod)| {
            let subject = pod.subject.as_ref().map_or(0, |subject| {
                size_of::<Subject>() + super::memory::btree_bytes::<Id>(subject.policies.len())
            });
            super::memory::text_bytes(&pod.name) + size_of_val::<[IpAddr]>(&pod.claimed) + subject
        });
        self.slab.heap_bytes()
            + self.by_name.allocation_size()
            + self.ports.heap_bytes()
            + super::memory::btree_bytes::<Id>(self.local.len())
            + each.sum::<usize>()
    }
}
