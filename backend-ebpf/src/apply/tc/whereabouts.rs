//! Where the pods of a ruleset are: which interfaces lead to them.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;

use netpol_core::engine::EndpointChange;
use netpol_core::ir::{Endpoint, Ruleset};
use netpol_core::model::ObjectRef;

use super::interfaces::{Interface, InterfaceError, Interfaces};

/// Where the pods of a ruleset are.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    pods: BTreeMap<ObjectRef, Pod>,
    /// Strict mode: the interfaces of whoever else has addresses of pods.
    unknown: Vec<u32>,
    /// Pods without an interface that is known, and why.
    lost: Vec<String>,
}

#[derive(Debug)]
struct Pod {
    addresses: Vec<IpAddr>,
    interfaces: Vec<Interface>,
}

/// What interfaces there are.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// All.
    pub(crate) wanted: BTreeSet<u32>,
    /// Those that lead to one pod and nobody else.
    pub(crate) alone: BTreeSet<u32>,
    /// Those of addresses whose pod has one only.
    pub(crate) places: BTreeMap<IpAddr, u32>,
}

impl Whereabouts {
    /// Looks for every pod.
    pub(super) fn of(interfaces: &dyn Interfaces, ruleset: &Ruleset) -> Self {
        let mut found = Self::default();
        for endpoint in ruleset.endpoints() {
            if let Err(error) = found.look(interfaces, endpoint) {
                let addresses = endpoint.addresses.iter().map(ToString::to_string);
                let addresses = addresses.collect::<Vec<_>>().join(", ");
                found.lost.push(format!("pod {} ({addresses}): {}", endpoint.pod, chain(&error)));
            }
        }
        if !ruleset.pod_ranges().is_empty() {
            match interfaces.of_unknown(ruleset.pod_ranges()) {
                Ok(unknown) => found.unknown = unknown,
                Err(error) => {
                    found.lost.push(format!("pods that no object tells of: {}", chain(&error)));
                }
            }
        }
        found
    }

    /// Looks for the pods that come or move, and forgets those that go. Says nothing where none does.
    ///
    /// # Errors
    /// If one is not found; what is known is of no use then.
    pub(super) fn follow(
        &mut self,
        interfaces: &dyn Interfaces,
        changes: &[EndpointChange],
    ) -> Result<Option<Ways>, InterfaceError> {
        let is_at = |known: &Self, endpoint: &Endpoint| {
            known.pods.get(&endpoint.pod).is_some_and(|pod| pod.addresses == endpoint.addresses)
        };
        let mut is_new = false;
        for EndpointChange { before, after } in changes {
            match (before, after) {
                (_, Some(after)) if is_at(self, after) => {}
                (_, Some(after)) => {
                    self.look(interfaces, after)?;
                    is_new = true;
                }
                (Some(before), None) => is_new |= self.pods.remove(&before.pod).is_some(),
                (None, None) => {}
            }
        }
        Ok(is_new.then(|| self.ways()))
    }

    fn look(
        &mut self,
        interfaces: &dyn Interfaces,
        endpoint: &Endpoint,
    ) -> Result<(), InterfaceError> {
        let addresses = endpoint.addresses.clone();
        let interfaces = interfaces.of(&endpoint.pod, &addresses)?;
        self.pods.insert(endpoint.pod.clone(), Pod { addresses, interfaces });
        Ok(())
    }

    /// Returns the pods that are not protected.
    pub(super) fn lost(&self) -> &[String] {
        &self.lost
    }

    /// Returns what interfaces there are.
    pub(super) fn ways(&self) -> Ways {
        // By interface, whether every pod says that it is alone there, and how many there are.
        let mut interfaces: BTreeMap<u32, (bool, usize)> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for pod in self.pods.values() {
            if let [only] = pod.interfaces.as_slice() {
                places.extend(pod.addresses.iter().map(|address| (*address, only.index)));
            }
            for interface in &pod.interfaces {
                let (is_alone, pods) = interfaces.entry(interface.index).or_insert((true, 0));
                *is_alone &= interface.is_alone;
                *pods += 1;
            }
        }
        for index in &self.unknown {
            interfaces.entry(*index).or_insert((false, 0));
        }
        let alone = interfaces.iter().filter(|(_, (is_alone, pods))| *is_alone && *pods == 1);
        let alone = alone.map(|(interface, _)| *interface).collect();
        Ways { wanted: interfaces.into_keys().collect(), alone, places }
    }
}

fn chain(error: &dyn core::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {source}"),
    }
}
