//! A live cluster as a stream of changes: what an engine is fed with.
//!
//! Pods, Namespaces, Nodes, NetworkPolicies and, where they are served, ClusterNetworkPolicies are listed and then
//! watched, each on its own. Only the fields that policy needs are read from the wire, so that a pod of 18 KB costs about
//! one. What an embedder can rely on:
//!
//! - Nothing is ever cleared. A kind that has to be listed again yields puts for what is there and deletes for what is
//!   not, after the listing is complete; until then the last known state stands.
//! - No failure is final. Refused connections, 403 and 5xx answers, silence, broken streams and expired versions are told
//!   as [`Event::Failing`] and tried again, with a pause that grows until a watch makes progress again.
//! - What cannot be read fails closed, alone (DEC-16): the field becomes unreadable in the model object, and an
//!   [`Oddity`] says so. An object of which not even that much can be read keeps its last known state.
//! - [`Change::InSync`] comes once, when every kind was listed completely (or is known not to be served).
//!
//! # Examples
//!
//! ```no_run
//! use netpol_k8s::watch::{Event, Options, Watch};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = kube::Client::try_default().await?;
//! let mut watch = Watch::start(client, Options::default());
//! while let Some(event) = watch.next().await {
//!     if let Event::Change { change, .. } = event {
//!         // Keep a `Cluster`, or feed an engine.
//!         drop(change);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod change;
mod failure;
mod own_node;
mod reflector;
mod request;
mod served;
mod source;
mod strings;
mod wire;

use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::time::Instant;

use netpol_core::model::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use change::{apply, kind_of};
pub use failure::Failure;
pub use own_node::node;

pub use crate::oddity::Oddity;
/// One thing that happened to one object, or the end of the first listing.
pub use netpol_core::engine::Event as Change;

use reflector::{Following, Reflector};
use source::{ClusterNetworkPolicies, Namespaces, NetworkPolicies, Nodes, Pods};

/// The kinds that are watched.
pub const KINDS: [Kind; 5] =
    [Kind::Pod, Kind::Namespace, Kind::Node, Kind::NetworkPolicy, Kind::ClusterNetworkPolicy];

/// How the cluster is watched.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "options are written as literals with `..Default::default()`"
)]
pub struct Options {
    /// How lists are had.
    pub listing: Listing,
    /// Objects in one page of a list.
    pub page: u32,
    /// How long an answer may take to begin; a page of a list, to arrive.
    pub answer_timeout: Duration,
    /// After how long the server ends a watch, to be asked again. A connection that died without a word is noticed
    /// some seconds after that.
    pub watch_timeout: Duration,
    /// The pause after a first failure. It doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How often a kind that is not served is looked for.
    pub look_again: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listing: Listing::Pages,
            page: 500,
            answer_timeout: Duration::from_secs(15),
            watch_timeout: Duration::from_secs(240),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(8),
            look_again: Duration::from_secs(30),
        }
    }
}

/// How lists are had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum Listing {
    /// In pages; every server can.
    Pages,
    /// As the first events of the watch, which takes the least memory. On a server that cannot, in pages.
    Streaming,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "most events are of the large kind, and taken apart at once; a box would only cost an allocation"
)]
pub enum Event {
    /// The cluster changed.
    Change {
        /// How.
        change: Change,
        /// When this process heard of it.
        heard: Instant,
    },
    /// A kind cannot be followed now; it will be tried again. Its last known state stands.
    Failing {
        /// Which kind.
        kind: Kind,
        /// Why.
        failure: Arc<Failure>,
        /// After which pause it is tried again.
        pause: Duration,
    },
    /// A kind was listed completely; everything in that list was told before.
    Listed(Kind),
    /// A kind is followed again after failures.
    Recovered(Kind),
    /// Something about an object cannot be read.
    Odd(Oddity),
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Event>,
    ready: VecDeque<Event>,
    missing: BTreeSet<Kind>,
    /// How many objects of each of [`KINDS`] were told of and are there.
    counts: [Arc<AtomicUsize>; 5],
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Starts to list and watch. Needs `list` and `watch` on the five kinds, and nothing else.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn start(client: kube::Client, options: Options) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let options = Arc::new(options);
        let counts: [Arc<AtomicUsize>; 5] = Default::default();
        let [pods, namespaces, nodes, policies, cluster_policies] = counts.clone();
        let following = |count| Following {
            client: client.clone(),
            options: options.clone(),
            sender: sender.clone(),
            count,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Reflector::<Pods>::run(following(pods)));
        tasks.spawn(Reflector::<Namespaces>::run(following(namespaces)));
        tasks.spawn(Reflector::<Nodes>::run(following(nodes)));
        tasks.spawn(Reflector::<NetworkPolicies>::run(following(policies)));
        tasks.spawn(Reflector::<ClusterNetworkPolicies>::run(following(cluster_policies)));
        let (ready, missing) = (VecDeque::new(), KINDS.into());
        Self { events, ready, missing, counts, _tasks: tasks }
    }

    /// Returns how many objects of each kind there are, as far as was told.
    #[must_use]
    pub fn counts(&self) -> [(Kind, usize); 5] {
        let [pods, namespaces, nodes, policies, cluster_policies] = &self.counts;
        [
            (Kind::Pod, pods.load(Ordering::Relaxed)),
            (Kind::Namespace, namespaces.load(Ordering::Relaxed)),
            (Kind::Node, nodes.load(Ordering::Relaxed)),
            (Kind::NetworkPolicy, policies.load(Ordering::Relaxed)),
            (Kind::ClusterNetworkPolicy, cluster_policies.load(Ordering::Relaxed)),
        ]
    }

    /// Waits for the next event. May be dropped while it waits without losing one.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let event = self.events.recv().await?;
        Some(self.take(event))
    }

    /// Returns the next event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let event = self.events.try_recv().ok()?;
        Some(self.take(event))
    }

    /// Adds the word that everything is there, once.
    fn take(&mut self, event: Event) -> Event {
        if let Event::Listed(kind) = &event
            && self.missing.remove(kind)
            && self.missing.is_empty()
        {
            self.ready.push_back(Event::Change { change: Change::InSync, heard: Instant::now() });
        }
        event
    }
}
