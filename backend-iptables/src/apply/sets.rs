//! Our sets: what is there, what is missing, what can go.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use std::thread;

use netpol_core::backend::SyncError;

use crate::netlink::{Commands, Failure, Ipset, Kind, Listed, Refusal};
use crate::restore::{Elements, Name, PREFIX};

/// The name under which a set is made that takes another's place.
pub(super) const SPARE: &str = "NETPOL-spare";
/// The nf_tables variant lets go of sets a little after its transaction: so often is asked, about 30 ms long.
pub(super) const SOON: u32 = 6;
/// The same where nothing may be left: about 2 s long.
pub(super) const LONG: u32 = 44;

/// Our sets by name.
pub(super) type Listing = BTreeMap<String, Listed>;

/// Opens the way to ipset, which must have the types that are always needed.
pub(super) fn open() -> Result<Ipset, SyncError> {
    let ipset = Ipset::open().map_err(|error| error.about("the sets of the kernel"))?;
    for kind in [Kind::Address, Kind::Network] {
        if !ipset.has(kind) {
            return Err(SyncError::Missing {
                what: format!("the set type `{}` of the kernel", kind.as_str()),
                hint: "load the kernel modules `ip_set_hash_ip` and `ip_set_hash_net`".to_owned(),
            });
        }
    }
    Ok(ipset)
}

impl Failure {
    pub(super) fn about(self, object: &str) -> SyncError {
        match self {
            Self::Refused(name, refusal) if !name.is_empty() => {
                SyncError::refused(format!("set {name}"), refusal)
            }
            Self::Refused(_, refusal) if refusal == Refusal::DENIED => denied(),
            Self::Refused(_, refusal) => SyncError::refused(object, refusal),
            Self::Socket(error) => SyncError::refused(object, error),
        }
    }
}

fn denied() -> SyncError {
    SyncError::Missing {
        what: "the privilege to change sets".to_owned(),
        hint: "run as root or with CAP_NET_ADMIN in the network namespace".to_owned(),
    }
}

/// Returns what is there.
pub(super) fn listed(ipset: &Ipset) -> Result<Listing, SyncError> {
    ipset.listed(PREFIX).map_err(|error| error.about("the sets `NETPOL-*`"))
}

pub(super) fn run(ipset: &Ipset, commands: Commands) -> Result<(), SyncError> {
    ipset.run(commands).map_err(|error| match error {
        Failure::Refused(_, refusal) if refusal == Refusal::DENIED => denied(),
        error @ (Failure::Refused(..) | Failure::Socket(_)) => error.about("the sets `NETPOL-*`"),
    })
}

/// Makes sets under names that are not there.
pub(super) fn create<'a>(
    ipset: &Ipset,
    sets: impl IntoIterator<Item = (&'a Name, &'a Elements)>,
) -> Result<(), SyncError> {
    let mut commands = Commands::default();
    let mut made = Vec::new();
    for (name, elements) in sets {
        commands.create(name, elements, ipset.revision_of(elements), elements.room());
        commands.add(name, elements.iter());
        made.push(name.clone());
    }
    run(ipset, commands).inspect_err(|_| {
        // Half of them may be there, and nothing refers to them.
        let _ = destroy(ipset, made.iter().map(|name| name.as_ref().to_owned()).collect(), SOON);
    })
}

/// Gives a set other members, all at once, and room for as many more. Whatever refers to the name sees the new ones.
pub(super) fn exchange(
    ipset: &Ipset,
    name: &str,
    elements: &Elements,
    spare_is_there: bool,
) -> Result<(), SyncError> {
    if spare_is_there {
        destroy(ipset, [SPARE.to_owned()].into(), SOON)?;
    }
    let mut commands = Commands::default();
    commands.create(SPARE, elements, ipset.revision_of(elements), elements.room());
    commands.add(SPARE, elements.iter());
    commands.swap(SPARE, name);
    commands.destroy(SPARE);
    run(ipset, commands).inspect_err(|_| {
        let _ = destroy(ipset, [SPARE.to_owned()].into(), 1);
    })
}

/// Destroys sets; returns the names of those that are still in use after so many attempts.
pub(super) fn destroy(
    ipset: &Ipset,
    names: Vec<String>,
    attempts: u32,
) -> Result<Vec<String>, SyncError> {
    let mut left = names;
    let mut pause = Duration::from_millis(1);
    for attempt in 0..attempts {
        if left.is_empty() {
            break;
        }
        if attempt > 0 {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        let mut commands = Commands::default();
        for name in &left {
            commands.destroy(name);
        }
        left.clear();
        let refused = |name: &str, refusal| {
            if refusal != Refusal::ABSENT {
                left.push(name.to_owned());
            }
        };
        ipset
            .each(&mut commands, refused)
            .map_err(|error| error.about("the sets that are no longer wanted"))?;
    }
    Ok(left)
}
