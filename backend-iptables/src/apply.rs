//! Makes the kernel's sets and chains equal to the program: make before break.
//!
//! 1. New sets are created and filled under names that nothing refers to yet.
//! 2. For each family one text for `restore` replaces every chain that changes, and takes out those that are no longer
//!    wanted. The kernel switches from all old rules to all new rules at once, on both variants; and because a set whose
//!    members change has another name in the new rules, no decision ever depends on two sets that change together.
//!    Packets under the old rules are waited for.
//! 3. The old sets are destroyed.
//!
//! If the second family fails, the first is led back. Changes that are safe in single steps ([`change`]) touch members only.

mod change;
mod garbage;
mod hearing;
mod held;
mod next;
mod observe;
mod process;
mod report;
mod rules;
mod sets;
mod standby;
#[cfg(all(test, feature = "kernel-tests"))]
mod tests;
mod variant;

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;
use std::{fs, io, thread};

use netpol_core::backend::{Counter, Dataplane, Denials, Drift, Established, SyncError, Updated};
use netpol_core::engine::Delta;
use netpol_core::ir::{Family, Ruleset};

use crate::lower::role::Role;
use crate::lower::{Layout, Memory};
use crate::netlink::{Commands, Ipset, Kind, Log, freed};
use crate::restore::{Name, PREFIX};
use crate::{Iptables, OwnAddress, sys};
use change::{Op, Plan};
use hearing::Hearing;
use held::{Fill, Held};
use next::Next;
use observe::{Observed, Wanted};
use rules::Chains;
use standby::Standby;

pub use variant::Variant;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// How often a sync looks again that was refused quickly, and how much longer it waits each time.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// What is refused later than this has waited for others already.
const QUICK: Duration = Duration::from_millis(900);

/// Our chains and sets in the network namespace that the calling thread is in.
///
/// It remembers what it put into one namespace, so that changes there cost what they change.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct IptablesDataplane {
    variant: Option<Variant>,
    options: Iptables,
    patience: Patience,
    home: Option<Home>,
}

/// How long others may hold the lock of the packet filter, in seconds.
#[derive(Clone, Copy, Debug)]
struct Patience(u16);

impl Default for Patience {
    fn default() -> Self {
        Self(10)
    }
}

/// What belongs to one network namespace.
#[derive(Debug)]
struct Home {
    /// Which one.
    namespace: (u64, u64),
    variant: Variant,
    /// Who change the rules, for each family.
    standby: [Standby; 2],
    patience: Patience,
    /// Whether the other variant was found free of ours.
    alone: bool,
    ipset: Ipset,
    hearing: Hearing,
    log: Option<io::Result<Log>>,
    held: Option<Held>,
    /// Sets that nothing of ours refers to, but the kernel still did.
    garbage: BTreeSet<String>,
}

impl IptablesDataplane {
    /// Returns the dataplane of the calling thread's network namespace, in the variant of iptables that is in use there
    /// at the first [`sync`](Dataplane::sync). Nothing is touched before that.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a dataplane that uses this variant, whatever the namespace looks like.
    #[must_use]
    pub fn with_variant(variant: Variant) -> Self {
        Self { variant: Some(variant), ..Self::default() }
    }

    /// Lets it lower with these options, from the next [`sync`](Dataplane::sync) on.
    #[must_use]
    pub fn with_options(self, options: Iptables) -> Self {
        Self { options, home: None, ..self }
    }

    /// Says what becomes of open connections that a later ruleset denies.
    #[must_use]
    pub fn with_established(self, established: Established) -> Self {
        let options = Iptables { established, ..self.options };
        self.with_options(options)
    }

    /// Says how many seconds a change of rules waits while others hold the lock of the packet filter (by default 10); then
    /// it is refused, and what was in force stays.
    #[must_use]
    pub fn with_patience(self, seconds: u16) -> Self {
        Self { patience: Patience(seconds), home: None, ..self }
    }

    /// Returns what belongs to the calling thread's namespace.
    fn home(&mut self) -> Result<&mut Home, SyncError> {
        let namespace = namespace()?;
        let home = match self.home.take().filter(|home| home.namespace == namespace) {
            Some(home) => home,
            None => Home::open(namespace, self.variant, &mut self.options, self.patience)?,
        };
        Ok(self.home.insert(home))
    }

    /// Syncs, with the options that the kernel can follow.
    fn sync_with(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        self.home()?;
        let Self { home: Some(home), options, .. } = self else { return Ok(()) };
        let mut done = Ok(());
        for attempt in 0..ATTEMPTS {
            thread::sleep(PAUSE * attempt);
            let begun = Instant::now();
            done = home.sync(options, ruleset);
            // Somebody else may have been at it in between: the child process of one that was killed, for instance.
            let again = matches!(done, Err(SyncError::Refused { .. })) && begun.elapsed() < QUICK;
            if !again {
                break;
            }
        }
        match (&done, options.own_address) {
            (Err(SyncError::Refused { .. }), OwnAddress::Compare)
                if !rules::can_compare(home.variant, home.patience)? =>
            {
                // The kernel will not learn it later, so this is not tried again.
                options.own_address = OwnAddress::List;
                home.held = None;
                home.sync(options, ruleset)
            }
            (Ok(()) | Err(_), OwnAddress::Compare | OwnAddress::List) => done,
        }
    }
}

impl Dataplane for IptablesDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        self.sync_with(ruleset)?;
        if let Some(home) = &mut self.home {
            home.hearing.looks(home.variant, &home.ipset);
            home.stand_by();
        }
        Ok(())
    }

    fn update(&mut self, ruleset: &Ruleset, delta: &Delta) -> Result<Updated, SyncError> {
        self.home()?;
        if let Self { home: Some(home), options, .. } = self
            && let Some(held) = home.held.take_if(|held| held.fits(ruleset))
        {
            // What fails half-way is found out by looking, and made good.
            if let Ok(Some(held)) = home.update(options, held, ruleset, delta) {
                home.held = Some(held);
                home.hearing.wrote(home.variant);
                home.stand_by();
                return Ok(Updated::ByDelta);
            }
        }
        self.sync(ruleset).map(|()| Updated::BySync)
    }

    fn verify(&mut self, ruleset: &Ruleset) -> Result<Vec<Drift>, SyncError> {
        self.home()?;
        let Self { home: Some(home), options, .. } = self else { return Ok(Vec::new()) };
        // Before, so that what is changed meanwhile is heard of.
        home.hearing.looks(home.variant, &home.ipset);
        let there = home.observe()?;
        let memory = match &home.held {
            Some(held) => held.layout.memory.clone(),
            None => Memory::fresh(ruleset),
        };
        let wanted = Wanted::new(options, ruleset, memory, &there)?;
        let mut drift = wanted.drift(&there, home.variant, &home.garbage);
        drift.sort();
        Ok(drift)
    }

    fn may_have_drifted(&mut self) -> Result<bool, SyncError> {
        let home = self.home()?;
        home.sweep_up(1)?;
        let Home { variant, ipset, hearing, held, .. } = home;
        Ok(held.is_none() || hearing.may_have_drifted(*variant, ipset)?)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, SyncError> {
        let home = self.home()?;
        let Some(held) = &home.held else { return Err(not_synced("counters")) };
        report::counters(home.variant, &held.layout)
    }

    fn denials(&mut self) -> Result<Denials, SyncError> {
        if self.options.reports.is_none() {
            return Err(SyncError::Missing {
                what: "the reports of denied flows".to_owned(),
                hint: "the options ask for none".to_owned(),
            });
        }
        let home = self.home()?;
        match (&home.log, &home.held) {
            (Some(Ok(log)), Some(held)) => report::denials(log, &held.layout),
            (Some(Err(error)), _) => {
                Err(SyncError::refused("the log of denied packets", io::Error::from(error.kind())))
            }
            (None, _) | (_, None) => Err(not_synced("reports of denied flows")),
        }
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        self.home = None;
        take_out(Variant::Nft, self.patience)?;
        take_out(Variant::Legacy, self.patience)?;
        let ipset = sets::open()?;
        let names = ours(&ipset)?;
        let left = sets::destroy(&ipset, names, sets::LONG)?;
        match left.first() {
            None => Ok(()),
            Some(name) => Err(SyncError::refused(
                format!("set {name}"),
                "something that is not ours still refers to it",
            )),
        }
    }
}

impl Home {
    fn open(
        namespace: (u64, u64),
        variant: Option<Variant>,
        options: &mut Iptables,
        patience: Patience,
    ) -> Result<Self, SyncError> {
        let variant = match variant {
            Some(variant) => variant,
            None => Variant::in_use()?,
        };
        let ipset = sets::open()?;
        options.merged = options.merged && ipset.has(Kind::AddressPort);
        let log = None;
        let garbage = BTreeSet::new();
        Ok(Self {
            namespace,
            variant,
            standby: FAMILIES.map(|family| Standby::new(variant, family, patience)),
            patience,
            alone: false,
            ipset,
            hearing: Hearing::new(),
            log,
            held: None,
            garbage,
        })
    }

    fn observe(&self) -> Result<Observed, SyncError> {
        let [v4, v6] = both(|family| rules::listed(self.variant, family));
        Ok(Observed { sets: sets::listed(&self.ipset)?, chains: [v4?, v6?] })
    }

    fn sync(&mut self, options: &Iptables, ruleset: &Ruleset) -> Result<(), SyncError> {
        self.listen(options);
        let there = self.observe()?;
        let mut memory = Memory::fresh(ruleset);
        if let Some(held) = self.held.take() {
            memory.generations = held.layout.memory.generations;
        }
        let mut wanted = Wanted::new(options, ruleset, memory, &there)?;
        let changed = wanted.renew(options, ruleset, &there)?;
        sets::create(&self.ipset, wanted.missing())?;
        let spare_is_there = there.sets.contains_key(sets::SPARE);
        for (name, elements) in wanted.damaged() {
            sets::exchange(&self.ipset, name, elements, spare_is_there)?;
        }
        if let Err(error) = self.switch(&there.chains, &wanted.chains) {
            // The old rules are in force, and nothing refers to the new sets.
            let made = wanted.missing().map(|(name, _)| name.as_ref().to_owned());
            let _ = sets::destroy(&self.ipset, made.collect(), sets::SOON);
            return Err(error);
        }
        if !self.alone {
            take_out(self.variant.other(), self.patience)?;
            self.alone = true;
        }
        let held = Held::new(wanted.layout, ruleset, wanted.fills);
        settle(&self.ipset, &held, changed)?;
        // A set that the kernel still holds is left to the next sync: nothing of ours refers to it.
        let stale = |name: &String| !held.layout.roles.contains_key(name.as_str());
        let mut names: BTreeSet<String> = there.sets.into_keys().filter(stale).collect();
        names.append(&mut self.garbage);
        names.retain(stale);
        let left = sets::destroy(&self.ipset, names.into_iter().collect(), sets::SOON)?;
        self.garbage = left.into_iter().collect();
        self.held = Some(held);
        Ok(())
    }

    /// Listens to reports, from before the first rule that makes any.
    fn listen(&mut self, options: &Iptables) {
        if let (Some(reports), None | Some(Err(_))) = (options.reports, &self.log) {
            self.log = Some(Log::open(reports.group));
        }
    }

    /// Switches the chains of both families, or of none.
    fn switch(&mut self, there: &[Chains; 2], wanted: &[Chains; 2]) -> Result<(), SyncError> {
        let [v4, v6] = there;
        let [new_v4, new_v6] = wanted;
        let [of_v4, of_v6] = [(v4, new_v4), (v6, new_v6)];
        let of = |family| if family == Family::V4 { of_v4 } else { of_v6 };
        let there = |family| of(family).0.way_to(of(family).1);
        self.change_both(there, |family| of(family).1.way_to(of(family).0))
    }

    /// Has both families changed by a text each, or neither: the way there, or the way back.
    ///
    /// When it returns, no packet is under the rules from before any more: what comes after relies on that.
    fn change_both(
        &mut self,
        there: impl Fn(Family) -> Option<String>,
        back: impl Fn(Family) -> Option<String>,
    ) -> Result<(), SyncError> {
        let texts = FAMILIES.map(there);
        if texts.iter().all(Option::is_none) {
            return Ok(());
        }
        let done = standby::change(&mut self.standby, &texts);
        if done.iter().any(Result::is_err) {
            for ((standby, done), family) in self.standby.iter_mut().zip(&done).zip(FAMILIES) {
                if let (Ok(()), Some(text)) = (done, back(family)) {
                    // What failed is told; where leading back fails too, the next sync repairs it.
                    let _ = standby.change(&text);
                }
            }
        }
        match self.variant {
            // The kernel itself waits for them before the command goes on.
            Variant::Legacy => {}
            Variant::Nft => {
                packets_leave();
                freed();
            }
        }
        done.into_iter().collect()
    }

    /// Has somebody wait for the next change of the rules, where there are any.
    fn stand_by(&mut self) {
        let Some(held) = &self.held else { return };
        for (standby, filter) in self.standby.iter_mut().zip(&held.layout.filters) {
            if !filter.chains.is_empty() {
                standby.prepare();
            }
        }
    }

    /// Carries out a delta; `None` where a sync must.
    fn update(
        &mut self,
        options: &Iptables,
        mut held: Held,
        ruleset: &Ruleset,
        delta: &Delta,
    ) -> Result<Option<Held>, SyncError> {
        let Some(Plan { before, rules, after }) = change::plan(&held, options, ruleset, delta)
        else {
            return Ok(None);
        };
        let counts = change::counted(held.addresses, &delta.switch.endpoints);
        self.steps(&mut held, ruleset, &before)?;
        if let Some(memory) = rules {
            held = self.replace(options, held, ruleset, memory)?;
            self.steps(&mut held, ruleset, &after)?;
        }
        held.addresses = counts;
        Ok(Some(held))
    }

    /// Changes members in place.
    fn steps(&self, held: &mut Held, ruleset: &Ruleset, ops: &[Op]) -> Result<(), SyncError> {
        let mut commands = Commands::default();
        for (place, op) in ops.iter().enumerate() {
            match op {
                Op::Add(name, members) => {
                    let Some(fill) = held.fills.get_mut(name) else {
                        return Err(unknown(name));
                    };
                    fill.members = fill.members.saturating_add(members.len());
                    if fill.members > fill.room {
                        sets::run(&self.ipset, core::mem::take(&mut commands))?;
                        let later = ops.get(place..).unwrap_or_default();
                        self.grow(held, ruleset, name, later)?;
                    } else {
                        commands.add(name, members.iter().copied());
                    }
                }
                Op::Delete(name, members) => {
                    let Some(fill) = held.fills.get_mut(name) else {
                        return Err(unknown(name));
                    };
                    fill.members = fill.members.saturating_sub(members.len());
                    commands.delete(name, members.iter().copied());
                }
                Op::Grace => {
                    sets::run(&self.ipset, core::mem::take(&mut commands))?;
                    packets_leave();
                }
            }
        }
        sets::run(&self.ipset, commands)
    }

    /// Gives a set more room, and with it the members that join: whoever leaves later is still in it.
    fn grow(
        &self,
        held: &mut Held,
        ruleset: &Ruleset,
        name: &Name,
        later: &[Op],
    ) -> Result<(), SyncError> {
        let Some((family, role)) = held.role(name).filter(|(_, role)| *role != Role::Unsettled)
        else {
            return Err(unknown(name));
        };
        let elements = role.elements(ruleset, *family);
        let mut members: BTreeSet<_> = elements.iter().collect();
        for op in later {
            if let Op::Delete(other, leaving) = op
                && other == name
            {
                members.extend(leaving);
            }
        }
        let elements = elements.with(members);
        sets::exchange(&self.ipset, name, &elements, false)?;
        held.fills.insert(name.clone(), Fill::of(&elements));
        Ok(())
    }

    /// Puts other rules in force.
    fn replace(
        &mut self,
        options: &Iptables,
        held: Held,
        ruleset: &Ruleset,
        memory: Memory,
    ) -> Result<Held, SyncError> {
        let Next { layout, changed, made, fills } = Next::new(options, &held, ruleset, memory)?;
        self.sweep(&made)?;
        sets::create(&self.ipset, &made)?;
        if let Err(error) = self.restore(&held.layout, &layout) {
            let made = made.keys().map(|name| name.as_ref().to_owned()).collect();
            let _ = sets::destroy(&self.ipset, made, sets::SOON);
            return Err(error);
        }
        let stale = held.layout.roles.keys().filter(|name| !layout.roles.contains_key(*name));
        self.garbage.extend(stale.map(|name| name.as_ref().to_owned()));
        let held = Held::new(layout, ruleset, fills);
        settle(&self.ipset, &held, changed)?;
        self.sweep_up(2)?;
        Ok(held)
    }

    /// Leads the chains of both families to other rules, or of none.
    fn restore(&mut self, from: &Layout, to: &Layout) -> Result<(), SyncError> {
        let [v4, v6] = &from.filters;
        let [new_v4, new_v6] = &to.filters;
        let [of_v4, of_v6] = [(v4, new_v4), (v6, new_v6)];
        let of = |family| if family == Family::V4 { of_v4 } else { of_v6 };
        let there = |family| rules::difference(of(family).0, of(family).1);
        self.change_both(there, |family| rules::difference(of(family).1, of(family).0))
    }
}

/// Waits until packets that are on their way have come through.
fn packets_leave() {
    if !sys::grace() {
        // Longer than any packet is under way.
        thread::sleep(Duration::from_millis(20));
    }
}

/// After new rules every connection is judged anew once, so that none needs to be with every packet.
fn settle(ipset: &Ipset, held: &Held, changed: [bool; 2]) -> Result<(), SyncError> {
    let mut commands = Commands::default();
    for (changed, name) in changed.into_iter().zip(&held.index.unsettled) {
        if let (true, Some(name)) = (changed, name) {
            commands.flush(name);
        }
    }
    sets::run(ipset, commands)
}

fn ours(ipset: &Ipset) -> Result<Vec<String>, SyncError> {
    let names = ipset.names().map_err(|error| error.about("the sets of the kernel"))?;
    Ok(names.into_iter().filter(|name| name.starts_with(PREFIX)).collect())
}

/// Takes our chains out of one variant.
fn take_out(variant: Variant, patience: Patience) -> Result<(), SyncError> {
    for (family, there) in FAMILIES.into_iter().zip(both(|family| rules::listed(variant, family))) {
        let there = match there {
            // Where the variant is not installed, nothing of ours can be in it.
            Err(SyncError::Missing { .. }) => return Ok(()),
            there => there?,
        };
        rules::lead(variant, family, &there, &Chains::default(), patience)?;
    }
    Ok(())
}

/// Does the same for both families at once: most of it is waiting for child processes and the kernel.
fn both<T: Send>(each: impl Fn(Family) -> T + Sync) -> [T; 2] {
    thread::scope(|scope| {
        let other = scope.spawn(|| each(Family::V6));
        let one = each(Family::V4);
        match other.join() {
            Ok(other) => [one, other],
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Returns which network namespace the calling thread is in.
fn namespace() -> Result<(u64, u64), SyncError> {
    let metadata = fs::metadata("/proc/thread-self/ns/net")
        .map_err(|error| SyncError::refused("the network namespace of the thread", error))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn unknown(name: &Name) -> SyncError {
    SyncError::refused(format!("set {name}"), "it is not among those that are in force")
}

fn not_synced(what: &str) -> SyncError {
    SyncError::Missing {
        what: format!("the {what}"),
        hint: "nothing was synced in this network namespace yet".to_owned(),
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
