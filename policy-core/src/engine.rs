//! The incremental compiler: events in, [`Delta`]s out. Cost follows the change, not the cluster.
//!
//! At every moment [`Engine::snapshot`] equals what [`compile`](crate::compile::compile()) makes of the same objects, byte
//! for byte, and the delta leads there from the snapshot before.
//!
//! ```text
//!   pod, namespace ──labels──▶ selections ──▶ peer sets (members)
//!                                   │   └───▶ tallies (numbers behind port names) ──▶ policies to rebuild
//!                                   └───────▶ subjects ──▶ classes ──▶ rule blocks ──▶ pipelines ──▶ endpoints
//! ```
//!
//! Objects become small numbers on the way in: strings, label sets, selectors and lists of ports are interned. A selection
//! (namespaces × pod selector) is shared by all that ask the same, and filed under the one label that the fewest pods are
//! likely to carry, so that a pod leads to the selections it can satisfy and to few others. Peers are looked at only for
//! policies that apply to a pod of the scope. Members of a set live in the ruleset and nowhere else.
//!
//! An event first changes the objects and what follows directly (memberships, subjects, numbers of port names), noting
//! what has to be made again; then the policies, pipelines and endpoints concerned are made again, each once, however
//! many events a batch had; then what nothing refers to any more goes.

mod bind;
mod claims;
mod delta;
mod diagnostics;
mod event;
mod flush;
mod index;
mod interner;
mod labels;
mod memory;
mod namespaces;
mod nodes;
mod objects;
mod peers;
mod pods;
mod policies;
mod query;
mod recall;
mod selections;
mod slab;
mod transit;

pub use delta::{
    Create, Delete, Delta, DeltaError, EndpointChange, MemberChange, NodeChange, Split, Step,
    Switch,
};
pub use event::Event;
pub use memory::MemoryUse;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use self::bind::{Blocks, Pipelines};
use self::flush::Work;
use self::labels::{LabelSets, Symbol, Symbols};
use self::namespaces::Namespaces;
use self::nodes::Node;
use self::peers::{Sets, Tallies, User};
use self::pods::Pods;
use self::policies::Policies;
use self::selections::Selections;
use self::slab::{Id, NONE};
use crate::compile::{Diagnostic, Options};
use crate::ir::{Parts, Ruleset, Scope};

/// The incremental compiler of one scope.
///
/// Put every object there is, then say [`Event::InSync`]; until then nothing is published, so that a restart never takes
/// away what a longer listing would have put back. When a watch has to list again later, the embedder compares the new
/// listing with what it put before and sends the difference: puts for what is there, deletes for what is not. (Putting
/// what has not changed costs little and changes nothing.)
///
/// # Examples
///
/// ```
/// use netpol_core::compile::Options;
/// use netpol_core::engine::{Engine, Event};
/// use netpol_core::model::{Labels, NetworkPolicy, ObjectMeta, Phase, Pod};
///
/// let mut engine = Engine::new(Options::default());
/// let pod = Pod {
///     meta: ObjectMeta::new("shop", "web-1", Labels::from_iter([("app", "web")])),
///     phase: Phase::Running,
///     addresses: vec!["10.0.0.1".parse().unwrap()],
///     ..Pod::default()
/// };
/// assert!(engine.apply(Event::PutPod(pod)).is_empty()); // Not before everything is listed.
/// let delta = engine.apply(Event::InSync);
/// assert_eq!(delta.switch.endpoints.len(), 1);
///
/// let mut ruleset = engine.snapshot().clone();
/// let meta = ObjectMeta::new("shop", "deny-all", Labels::default());
/// let delta = engine.apply(Event::PutNetworkPolicy(NetworkPolicy { meta, ..NetworkPolicy::default() }));
/// ruleset.apply(&delta)?;
/// assert_eq!(ruleset, *engine.snapshot());
/// # Ok::<(), netpol_core::engine::DeltaError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    options: Options,
    tuning: Tuning,
    /// The scope's node; [`NONE`] for the whole cluster.
    home: Symbol,
    /// Whether the first listing is complete.
    is_live: bool,
    symbols: Symbols,
    labels: LabelSets,
    namespaces: Namespaces,
    pods: Pods,
    nodes: BTreeMap<Arc<str>, Node>,
    /// Selections of the pods that policies apply to; only pods of the scope are looked at.
    subjects: Selections<Id>,
    /// Selections of the pods that rules in use speak of.
    peers: Selections<User>,
    sets: Sets,
    tallies: Tallies,
    policies: Policies,
    blocks: Blocks,
    pipelines: Pipelines,
    ruleset: Ruleset,
    work: Work,
}

/// Thresholds between ways that come to the same. The default suits clusters of every size; tests set others, so that
/// small clusters go every way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Tuning {
    /// Up to so many pods are looked at one by one rather than through the index by label.
    pub few_pods: usize,
    /// Selections of namespaces that are no more than so many are filed under each of them, others under none.
    pub few_namespaces: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { few_pods: 32, few_namespaces: 64 }
    }
}

impl Engine {
    /// An engine that knows of no object.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with_tuning(options, Tuning::default())
    }

    /// As [`Engine::new`], with other thresholds.
    #[must_use]
    pub fn with_tuning(options: Options, tuning: Tuning) -> Self {
        let mut symbols = Symbols::default();
        let home = match &options.scope {
            Scope::Cluster => NONE,
            Scope::Node(name) => symbols.take(name),
        };
        let (scope, settings) = (options.scope.clone(), options.settings);
        let pod_ranges = options.pod_ranges.clone();
        let ruleset = Ruleset::new(Parts { scope, settings, pod_ranges, ..Parts::default() });
        Self {
            options,
            tuning,
            home,
            is_live: false,
            symbols,
            labels: LabelSets::default(),
            namespaces: Namespaces::default(),
            pods: Pods::default(),
            nodes: BTreeMap::new(),
            subjects: Selections::default(),
            peers: Selections::default(),
            sets: Sets::default(),
            tallies: Tallies::default(),
            policies: Policies::default(),
            blocks: Blocks::default(),
            pipelines: Pipelines::default(),
            ruleset,
            work: Work::default(),
        }
    }

    /// Takes one event. Returns the change; it is empty before [`Event::InSync`].
    pub fn apply(&mut self, event: Event) -> Delta {
        self.take(event);
        self.flush()
    }

    /// Takes events that belong together, or have piled up. Returns the change that they make in all: what a later event
    /// takes back does not appear.
    pub fn apply_batch(&mut self, events: impl IntoIterator<Item = Event>) -> Delta {
        events.into_iter().for_each(|event| self.take(event));
        self.flush()
    }

    /// Returns what must be enforced now; empty before [`Event::InSync`].
    ///
    /// Clones, and deltas that create sets, share the sets' members: as long as one is kept, the next change of such a set
    /// copies its members first. Drop them when they have been carried out.
    #[must_use]
    pub const fn snapshot(&self) -> &Ruleset {
        &self.ruleset
    }

    /// Returns whether the first listing is complete.
    #[must_use]
    pub const fn is_in_sync(&self) -> bool {
        self.is_live
    }

    /// Returns what is odd, as [`compile`](crate::compile::compile()) would say it; empty before [`Event::InSync`].
    ///
    /// Costs a look at every policy.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        if self.is_live { diagnostics::all(self) } else { Vec::new() }
    }

    /// Returns the memory held, by component.
    ///
    /// Costs a walk over everything.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        memory::of(self)
    }

    const fn is_cluster_wide(&self) -> bool {
        self.home == NONE
    }
}
