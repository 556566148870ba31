//! The intermediate representation: what one scope must enforce, with every Kubernetes question already answered.
//!
//! Selectors have become addresses, names have become ports, defaults are explicit, excepts are cut out. Three things
//! remain: [`Endpoint`]s (pods as addresses), [`Pipeline`]s (one direction's tiers, shared by every endpoint with the
//! same policy result) and [`PeerSet`]s (the addresses a rule matches, shared by every rule with the same selector).
//!
//! The IR has one way to say a thing. Ids are digests of content, lists are sorted wherever order has no meaning, so
//! equal objects give equal bytes ([`Ruleset`]'s `Display` is the canonical text) and a change names exactly what changed.
#![expect(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "every backend matches on the whole IR; something new must fail to compile there, not be ignored"
)]

mod evaluate;
mod flow;
mod id;
mod peer_set;
mod pipeline;
mod ruleset;
mod selector;
#[cfg(feature = "serde")]
mod serde_form;
mod store;
mod text;
mod uncertain;
mod verify;

pub use evaluate::{Decision, Reason, SideDecision, Situation, Verdict, decide};
pub use flow::{Dialled, Family, Flow, Transport};
pub use id::{PeerSetId, PipelineId, RuleBlockId};
pub use peer_set::{NamespaceScope, PeerSelector, PeerSet, ResolvedPort};
pub use pipeline::{
    Action, Direction, Origin, Peers, Pipeline, PolicyKind, PolicyRef, Ports, Rule, RuleBlock,
};
pub use ruleset::{Endpoint, OtherProtocols, OwnNodeEgress, Parts, Ruleset, Scope, Settings};
pub use selector::{Selector, SelectorRequirement};
#[cfg(feature = "serde")]
pub use serde_form::{RulesetForm, SCHEMA_VERSION, SchemaError};
pub use uncertain::depends_on_unknown_address;
pub use verify::{Violated, verify};
