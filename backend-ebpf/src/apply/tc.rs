//! The front end at interfaces: traffic control on the node's side of the interfaces of pods.
//!
//! ```text
//!   from  (what a pod sends)      ─┐
//!   to    (what is sent to a pod) ─┴─▶ slot ──▶ judge, with one set of maps
//! ```

mod attached;
mod attachment;
mod connections;
mod interfaces;
mod netlink;
mod peers;
mod points;
mod side;
mod surroundings;
mod whereabouts;

pub use attached::Tc;
pub(super) use attached::{AtInterfaces, Manner, remove_pinned};
pub use attachment::Attach;
pub(super) use connections::Connections;
pub use connections::Times;
pub use interfaces::{ByRoute, Interface, InterfaceError, Interfaces};
pub use peers::ByPeer;
pub use side::Side;
pub(super) use surroundings::Tables;
pub use surroundings::{Service, Surroundings};
pub(super) use whereabouts::Ways;
