//! Nodes: their addresses, and the sets that hold them (CNP-045).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::Engine;
use super::labels::Matcher;
use super::slab::Id;
use crate::compile::ascending;
use crate::ir::Scope;
use crate::model;
use crate::net::AddressSet;

/// A node, as far as policy looks at it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Node {
    labels: Id,
    /// Ascending.
    addresses: Vec<IpAddr>,
}

impl Node {
    pub(super) const fn labels(&self) -> Id {
        self.labels
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Engine {
    pub(super) fn put_node(&mut self, node: &model::Node) {
        let labels = self.labels.take(&mut self.symbols, &node.meta.labels);
        let new = Node { labels, addresses: ascending(&node.addresses) };
        if self.nodes.get(node.name()) == Some(&new) {
            return self.labels.give_back(&mut self.symbols, labels);
        }
        let addresses = new.addresses.clone();
        if let Some(old) = self.nodes.insert(node.name().clone(), new) {
            self.labels.give_back(&mut self.symbols, old.labels);
        }
        self.publish_node(node.name(), Some(addresses));
    }

    pub(super) fn delete_node(&mut self, name: &Arc<str>) {
        let Some(old) = self.nodes.remove(name) else { return };
        self.labels.give_back(&mut self.symbols, old.labels);
        self.publish_node(name, None);
    }

    pub(super) fn publish_nodes(&mut self) {
        let nodes: Vec<(Arc<str>, Vec<IpAddr>)> =
            self.nodes.iter().map(|(name, node)| (name.clone(), node.addresses.clone())).collect();
        for (name, addresses) in nodes {
            self.publish_node(&name, Some(addresses));
        }
    }

    fn publish_node(&mut self, name: &Arc<str>, addresses: Option<Vec<IpAddr>>) {
        if !self.is_live {
            return;
        }
        self.work.nodes_changed = true;
        let is_of_scope = match &self.options.scope {
            Scope::Cluster => true,
            Scope::Node(own) => own == name,
        };
        if is_of_scope {
            let before = self.ruleset.set_node(name, addresses);
            self.work.nodes.entry(name.clone()).or_insert(before);
        }
    }

    /// Returns the addresses of the nodes that match.
    pub(super) fn node_addresses(&self, matcher: &Matcher) -> AddressSet {
        let matches = |node: &&Node| matcher.matches(self.labels.labels(node.labels));
        let matching = self.nodes.values().filter(matches);
        matching.flat_map(|node| node.addresses.iter().copied()).collect()
    }
}
