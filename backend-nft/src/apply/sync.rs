//! The kernel led to a ruleset, whatever there is: a look, the difference, and make before break.

use netpol_core::ir::Ruleset;

use super::clearing::Clearing;
use super::ownership::Claim;
use super::plan::{self, Plan};
use super::transaction::{Additions, Fault, Transactions};
use super::{BASE, Connection, IMPATIENT, ROUNDS, replacement};
use crate::lower::{Lowering, Versions, unversioned};
use crate::netlink::{
    Declared, Failure, Half, Observed, Operation, clear, declared_sets, observe, stamp,
    wait_for_packets,
};
use crate::options::Style;
use crate::script::{Name, Stamp, Table};

impl Connection {
    /// Leads the kernel to the ruleset, once. The style has the first generation.
    pub(super) fn lead_to(
        &mut self,
        ruleset: &Ruleset,
        style: Style,
        number: u32,
        fault: Fault,
    ) -> Result<(), Failure> {
        self.look();
        self.clear(Clearing::Now);
        let generation = self.socket.generation()?;
        let known = self.known.take().filter(|(then, _)| *then == generation);
        let (versions, stamp, written, declared) = match &known {
            Some((_, known)) => (versions_in(&known.table), known.stamp, known.written, Vec::new()),
            None => {
                let declared = declared_sets(&self.socket)?;
                (versions_of(&declared), self.stamp(style.stamp)?, None, declared)
            }
        };
        let style = Style { stamp, written, ..style };
        let mut wanted = Lowering::new(ruleset, versions.clone(), style);
        let observed = match known {
            Some((_, known)) => Observed::known(self.holder, known.table),
            None => observe(&self.socket, &declared, &wanted.table)?,
        };
        let (holder, claim) = (observed.holder, self.claim(&observed)?);
        if claim == Claim::Keep && observed.is_as(&wanted.table) {
            self.holder = holder;
            self.known = Some((generation, wanted));
            return Ok(());
        }
        let foreign = matches!(claim, Claim::Replace(_));
        let mut there = observed.into_table(&wanted.table);
        // Sets under other names make other chains, and those other maps.
        let mut versions = Some(versions);
        for _ in 0..ROUNDS {
            let Some(current) = versions.take() else { break };
            versions = plan::new_versions(&there, &wanted.table, current);
            if let Some(versions) = &versions {
                wanted = Lowering::new(ruleset, versions.clone(), style);
            }
        }
        let changes = foreign || Plan::between(&there, &wanted.table).is_seen();
        let guard = (number < IMPATIENT).then_some(generation);
        let mut transactions = Transactions::new(&self.socket, guard, fault);
        let standing = holder.map_or(Standing::Nothing, |_| Standing::InForce);
        let closes = changes && standing == Standing::InForce;
        if closes {
            if wanted.is_about_to_cross() {
                ratify_there(&mut transactions, &mut there, &wanted)?;
            }
            wanted.restamp();
            self.make_room(stamp, wanted.stamp)?;
        }
        let led = lead(&mut transactions, claim, &there, &wanted, standing);
        // How far it got does not matter.
        self.unsettled.note_anything();
        self.settling.passed(self.unsettled.last());
        led.map_err(|failure| failure.measured(&wanted.table))?;
        if closes {
            // The last thing waited for was the last packet that was judged before.
            if let Some((name, chain)) = wanted.ratification() {
                transactions.commit(&replacement(&name, &chain))?;
                wanted.ratify();
            }
        }
        let generation = transactions.generation;
        self.unsettled.note_anything();
        self.settling.passed(self.unsettled.last());
        self.leftover = None;
        self.holder = claim.holder(holder);
        self.known = generation.map(|generation| (generation, wanted));
        Ok(())
    }

    /// Returns the generation of the rules that are there. Without rules there is none, and connections that still carry one
    /// lose it.
    fn stamp(&self, first: Option<Stamp>) -> Result<Option<Stamp>, Failure> {
        let Some(first) = first else { return Ok(None) };
        let there = stamp(&self.socket, BASE)?.filter(|there| there.mask == first.mask);
        match there.filter(|there| there.value != 0 && there.value & !there.mask == 0) {
            Some(there) => Ok(Some(there)),
            None => clear(&self.socket, first, Half::Both).map(|()| Some(first)),
        }
    }

    /// Makes sure that no connection carries a generation of the half that is entered, from when it was last used.
    pub(super) fn make_room(
        &self,
        before: Option<Stamp>,
        after: Option<Stamp>,
    ) -> Result<(), Failure> {
        match (before, after) {
            (Some(before), Some(after)) if before.is_high() != after.is_high() => {
                let half = if after.is_high() { Half::Upper } else { Half::Lower };
                clear(&self.socket, after, half)
            }
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }
}

/// Returns under which names sets are there, and with how much room.
pub(super) fn versions_of(sets: &[Declared]) -> Versions {
    let mut versions = Versions::new();
    sets.iter().for_each(|set| note(&mut versions, &set.name, set.room));
    versions
}

fn versions_in(table: &Table) -> Versions {
    let mut versions = Versions::new();
    for name in table.sets.keys().chain(table.maps.keys()) {
        note(&mut versions, name, table.rooms.get(name).copied());
    }
    versions
}

fn note(versions: &mut Versions, name: &Name, room: Option<u32>) {
    if unversioned(name) != &**name {
        versions.names.insert(unversioned(name).into(), name.clone());
    }
    if let Some(room) = room {
        versions.rooms.insert(name.clone(), room);
    }
}

/// Has connections get the generation that passes, where they get another one.
fn ratify_there(
    transactions: &mut Transactions<'_>,
    there: &mut Table,
    wanted: &Lowering,
) -> Result<(), Failure> {
    let Some((name, chain)) = wanted.stamping() else { return Ok(()) };
    let Some(present) = there.chains.get_mut(&name).filter(|present| **present != chain) else {
        return Ok(());
    };
    wait_for_packets();
    transactions.commit(&replacement(&name, &chain))?;
    // Nobody gets the other one any more.
    wait_for_packets();
    *present = chain;
    Ok(())
}

/// Whether packets go by rules of ours already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Nothing,
    InForce,
}

/// Applies the difference. Where there are rules already, packets that are under way are waited for before the switch, so that
/// none of them sees half of it, and behind it, before what it left is deleted.
fn lead(
    transactions: &mut Transactions<'_>,
    claim: Claim,
    there: &Table,
    wanted: &Lowering,
    standing: Standing,
) -> Result<(), Failure> {
    let wait = || match standing {
        Standing::Nothing => {}
        Standing::InForce => wait_for_packets(),
    };
    let wanted = &wanted.table;
    if let Claim::Replace(holding) = claim {
        // Something of ours has another type than we gave it: a foreign hand, or another version of us. It cannot be
        // changed in place, and its name is taken. One transaction replaces the table; the policy of base chains is
        // accept, so that not even then a drop is lost.
        wait();
        transactions.commit(&Plan::whole(wanted, holding))?;
        wait();
        return Ok(());
    }
    let mut plan = Plan::between(there, wanted);
    if let Claim::Make(holding) | Claim::Take(holding) = claim {
        plan.create.insert(0, Operation::NewTable(holding));
    }
    let additions = match standing {
        Standing::Nothing => Additions::InPieces,
        Standing::InForce => Additions::AtOnce,
    };
    if !plan.create.is_empty() {
        // A switch of a moment ago, of an update or a predecessor, is one moment only until the next transaction.
        wait();
    }
    let mut made = transactions.fill(&plan.create, additions);
    if made.is_ok() && plan.is_seen() {
        wait();
        let all = plan.create.len();
        made = transactions.commit(&plan.switch).map_err(|failure| (all, failure));
    }
    if let Err((begun, failure)) = made {
        if !transactions.is_ended() && begun > 0 {
            // What was created is out of use. Should this fail too, the next look finds and deletes it.
            let table = [Operation::DeleteTable];
            let objects = plan.undo(begun);
            let made_table = matches!(claim, Claim::Make(_));
            let _ = transactions.undo(if made_table { &table } else { &objects });
        }
        return Err(failure);
    }
    // What is to be deleted may have been in use a moment ago, if not by us then by a predecessor.
    if plan.is_seen() || !plan.delete.is_empty() {
        wait();
    }
    transactions.fill(&plan.delete, Additions::InPieces).map_err(|(_, failure)| failure)
}
