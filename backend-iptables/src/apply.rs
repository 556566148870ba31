//! Makes the kernel's sets and chains equal to the program: make before break.
//!
//! 1. New sets are created and filled under names that nothing refers to yet.
//! 2. For each family one `restore` replaces every chain that changes, and takes out those that are no longer wanted. The
//!    kernel switches from all old rules to all new rules at once, on both variants; and because the names of sets
//!    follow their members, no decision ever depends on two sets that change together.
//! 3. The old sets are destroyed.
//!
//! If the second family fails, the first is led back.

mod members;
mod process;
mod rules;
mod sets;
mod variant;

use alloc::collections::BTreeSet;
use core::fmt;

use netpol_core::backend::{Backend as _, Dataplane, SyncError};
use netpol_core::ir::{Family, Ruleset};

use crate::restore::RestoreInput;
use crate::{Iptables, OwnAddress};
use rules::Chains;

pub use variant::Variant;

/// Our chains and sets in the network namespace that the calling thread is in.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct IptablesDataplane {
    variant: Option<Variant>,
    own_address: OwnAddress,
}

impl IptablesDataplane {
    /// Returns the dataplane of the calling thread's network namespace, in the variant of iptables that is in use there
    /// at the first [`sync`](Dataplane::sync). Nothing is touched before that.
    #[must_use]
    pub const fn new() -> Self {
        Self { variant: None, own_address: OwnAddress::Compare }
    }

    /// Returns a dataplane that uses this variant, whatever the namespace looks like.
    #[must_use]
    pub const fn with_variant(variant: Variant) -> Self {
        Self { variant: Some(variant), own_address: OwnAddress::Compare }
    }

    /// Puts a program in the place of whatever is there.
    fn replace(variant: Variant, program: &RestoreInput) -> Result<(), SyncError> {
        let there = sets::listed()?;
        sets::create(program, &there)?;
        if let Err(error) = Self::switch(variant, program) {
            // The old rules are in force, and nothing refers to the new sets.
            let _ = sets::destroy(|name| !there.contains_key(name), sets::SOON);
            return Err(error);
        }
        Self::take_out(variant.other())?;
        // A set that the kernel still holds is left to the next sync: nothing of ours refers to it.
        let wanted: BTreeSet<&str> = program.sets().iter().map(|(name, _)| name.as_ref()).collect();
        sets::destroy(|name| !wanted.contains(name), sets::SOON).map(drop)
    }

    /// Switches the chains of both families, or of none.
    fn switch(variant: Variant, program: &RestoreInput) -> Result<(), SyncError> {
        let mut done: Option<(Family, Chains, Chains)> = None;
        for family in [Family::V4, Family::V6] {
            let there = rules::listed(variant, family)?;
            let wanted = Chains::of(program.filter(family));
            let switched = rules::lead(variant, family, &there, &wanted);
            if let (Err(_), Some((family, before, after))) = (&switched, &done) {
                // What failed is told; where leading back fails too, the next sync repairs it.
                let _ = rules::lead(variant, *family, after, before);
            }
            switched?;
            done = Some((family, there, wanted));
        }
        Ok(())
    }

    /// Takes our chains out of one variant.
    fn take_out(variant: Variant) -> Result<(), SyncError> {
        for family in [Family::V4, Family::V6] {
            let there = match rules::listed(variant, family) {
                // Where the variant is not installed, nothing of ours can be in it.
                Err(SyncError::Missing { .. }) => return Ok(()),
                there => there?,
            };
            rules::lead(variant, family, &there, &Chains::default())?;
        }
        Ok(())
    }
}

impl Dataplane for IptablesDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let variant = match self.variant {
            Some(variant) => variant,
            None => *self.variant.insert(Variant::in_use()?),
        };
        let lower = |own_address| Iptables { own_address }.lower(ruleset);
        let done = Self::replace(variant, &lower(self.own_address)?);
        match (&done, self.own_address) {
            (Err(SyncError::Refused { .. }), OwnAddress::Compare)
                if !rules::can_compare(variant)? =>
            {
                // The kernel will not learn it later, so this is not tried again.
                self.own_address = OwnAddress::List;
                Self::replace(variant, &lower(self.own_address)?)
            }
            (Ok(()) | Err(_), OwnAddress::Compare | OwnAddress::List) => done,
        }
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        Self::take_out(Variant::Nft)?;
        Self::take_out(Variant::Legacy)?;
        let left = sets::destroy(|_| true, sets::LONG)?;
        match left.first() {
            None => Ok(()),
            Some(name) => Err(SyncError::refused(
                alloc::format!("set {name}"),
                "something that is not ours still refers to it",
            )),
        }
    }
}

/// `iptables` and `ip6tables` as words.
pub(crate) const fn program_prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
