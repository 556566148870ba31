//! What is in force, as far as updates need to know it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use netpol_core::ir::{
    Direction, Family, PeerSetId, Peers, PipelineId, PolicyKind, Ruleset, Scope, Settings,
};
use netpol_core::net::PrefixSet;

use crate::lower::Layout;
use crate::lower::role::Role;
use crate::restore::{Elements, Filter, Hook, Match, Name, Rule, Target};

/// How much is in a set, and how much has room in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Fill {
    pub(super) members: usize,
    pub(super) room: usize,
}

/// The program in force, with what finds the parts of it that a change is about.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) layout: Layout,
    pub(super) fills: BTreeMap<Name, Fill>,
    pub(super) index: Index,
    /// What no delta changes.
    frame: (Scope, Settings, PrefixSet),
    /// How many addresses of pods there are in each family.
    pub(super) addresses: [usize; 2],
}

/// Which sets what is about.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Sets with the members of a peer set.
    pub(super) by_peers: BTreeMap<PeerSetId, Vec<Name>>,
    /// Sets with the addresses that are bound to a pipeline, those of few pipelines first: the way from a leaf of the
    /// search to its root.
    pub(super) by_pipeline: BTreeMap<(Direction, PipelineId), Vec<Name>>,
    /// Those of the sets of bound addresses that are looked up before a search begins.
    pub(super) roots: BTreeSet<Name>,
    /// Peer sets that tiers use in which order decides.
    pub(super) ordered: BTreeSet<PeerSetId>,
    /// The sets of addresses whose connections are judged with each packet, and of those that somebody owns.
    pub(super) unsettled: [Option<Name>; 2],
    pub(super) known: [Option<Name>; 2],
}

impl Held {
    pub(super) fn new(layout: Layout, ruleset: &Ruleset, fills: BTreeMap<Name, Fill>) -> Self {
        let index = Index::new(&layout, ruleset);
        let frame = (ruleset.scope().clone(), ruleset.settings(), ruleset.pod_ranges().clone());
        let mut addresses = [0; 2];
        for endpoint in ruleset.endpoints() {
            for address in &endpoint.addresses {
                let [v4, v6] = &mut addresses;
                *(if address.is_ipv4() { v4 } else { v6 }) += 1;
            }
        }
        Self { layout, fills, index, frame, addresses }
    }

    /// Returns whether a ruleset differs from the one in force only by what deltas change.
    pub(super) fn fits(&self, ruleset: &Ruleset) -> bool {
        let (scope, settings, ranges) = &self.frame;
        (scope, *settings, ranges) == (ruleset.scope(), ruleset.settings(), ruleset.pod_ranges())
    }

    /// Returns what a set is for.
    pub(super) fn role(&self, name: &str) -> Option<&(Family, Role)> {
        self.layout.roles.get(name)
    }
}

impl Fill {
    pub(super) fn of(elements: &Elements) -> Self {
        Self { members: elements.len(), room: elements.room() }
    }
}

impl Index {
    fn new(layout: &Layout, ruleset: &Ruleset) -> Self {
        let mut index = Self::default();
        let mut bound: Vec<(usize, Direction, &BTreeSet<PipelineId>, &Name)> = Vec::new();
        for (name, (family, role)) in &layout.roles {
            let of_family = |slots: &mut [Option<Name>; 2]| {
                let [v4, v6] = slots;
                *(if *family == Family::V4 { v4 } else { v6 }) = Some(name.clone());
            };
            match role {
                Role::Bound(direction, pipelines) => {
                    bound.push((pipelines.len(), *direction, pipelines, name));
                }
                Role::Peers(ids) => index.peers(ids.iter(), name),
                Role::Ports(parts) => {
                    let ids: BTreeSet<_> = parts.iter().flat_map(|(ids, _)| ids).collect();
                    index.peers(ids.into_iter(), name);
                }
                Role::Known => of_family(&mut index.known),
                Role::Unsettled => of_family(&mut index.unsettled),
                Role::Networks(_) | Role::Nodes => {}
            }
        }
        bound.sort_unstable();
        for filter in &layout.filters {
            index.roots.extend(roots(filter));
        }
        for (_, direction, pipelines, name) in bound {
            for pipeline in pipelines {
                index.by_pipeline.entry((direction, *pipeline)).or_default().push(name.clone());
            }
        }
        for (_, pipeline) in ruleset.pipelines() {
            for (block, rule) in pipeline.rules() {
                match (rule.peers, block.policy().kind) {
                    (Peers::Set(id), PolicyKind::ClusterNetworkPolicy) => {
                        index.ordered.insert(id);
                    }
                    (Peers::Set(_), PolicyKind::NetworkPolicy) | (Peers::Any, _) => {}
                }
            }
        }
        index
    }

    fn peers<'a>(&mut self, ids: impl Iterator<Item = &'a PeerSetId>, name: &Name) {
        for id in ids {
            self.by_peers.entry(*id).or_default().push(name.clone());
        }
    }
}

/// Returns the sets that are looked up before a search begins: jumps lead into searches, and nowhere else.
fn roots(filter: &Filter) -> impl Iterator<Item = Name> {
    let is_frame = |name: &Name| Hook::ALL.iter().any(|hook| name.starts_with(hook.chain()));
    let frame = filter.chains.iter().filter(move |(name, _)| is_frame(name));
    let jumps = frame.flat_map(|(_, rules)| rules.iter()).filter(|rule| match rule.target() {
        Target::Jump(_) => true,
        Target::Drop | Target::Return | Target::Goto(_) | Target::Mark(_) | Target::Log(..) => {
            false
        }
    });
    jumps.flat_map(Rule::matches).filter_map(|condition| match condition {
        Match::In(name, _) => Some(name.clone()),
        Match::NotIn(..)
        | Match::Within(..)
        | Match::Protocol(_)
        | Match::Port(..)
        | Match::Ports(..)
        | Match::Icmpv6(_)
        | Match::State(_)
        | Match::Mark(_)
        | Match::SameAddress(_)
        | Match::Limit(_) => None,
    })
}
