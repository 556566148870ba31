//! Groups addresses by the sets that hold them, one look-up per membership.

use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;

use super::interner::index;

/// A tree of membership vectors: a node is its parent's vector and one more set.
///
/// Sets come in ascending order, so a vector has exactly one path, and two addresses stand at one node exactly if the
/// sets so far hold both or neither. Whatever the number of sets, an address carries one number.
#[derive(Debug)]
pub(super) struct Refinement {
    nodes: Vec<Node>,
    places: HashMap<IpAddr, u32>,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    set: u32,
    /// The child that the latest set made: earlier ones are never asked for again.
    child: Option<(u32, u32)>,
}

impl Refinement {
    pub(super) fn new() -> Self {
        Self { nodes: alloc::vec![Node { parent: 0, set: 0, child: None }], places: HashMap::new() }
    }

    /// Takes in the members of the next set.
    pub(super) fn refine(&mut self, set: u32, addresses: impl Iterator<Item = IpAddr>) {
        let Self { nodes, places } = self;
        for address in addresses {
            let place = places.entry(address).or_insert(0);
            let next = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            let Some(node) = nodes.get_mut(index(*place)) else { continue };
            match node.child {
                Some((latest, child)) if latest == set => *place = child,
                Some(_) | None => {
                    node.child = Some((set, next));
                    nodes.push(Node { parent: *place, set, child: None });
                    *place = next;
                }
            }
        }
    }

    /// Returns every address that some set holds with its node, ascending.
    pub(super) fn places(&self) -> Vec<(IpAddr, u32)> {
        let mut places: Vec<_> =
            self.places.iter().map(|(address, node)| (*address, *node)).collect();
        places.sort_unstable();
        places
    }

    /// Returns the vector of a node.
    pub(super) fn vector(&self, node: u32) -> Vec<u32> {
        let mut vector = Vec::new();
        let mut node = node;
        while node != 0
            && let Some(Node { parent, set, .. }) = self.nodes.get(index(node))
        {
            vector.push(*set);
            node = *parent;
        }
        vector.reverse();
        vector
    }
}
