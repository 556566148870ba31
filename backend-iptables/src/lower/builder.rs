//! The program under construction: everything in it is made once.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;

use ipnet::IpNet;
use netpol_core::backend::LowerError;
use netpol_core::ir::{Family, PeerSelector, PeerSetId, PipelineId, Ruleset};
use netpol_core::net::PrefixSet;

use super::Memory;
use super::pipeline::Place;
use super::role::Role;
use crate::Iptables;
use crate::restore::{
    Account, End, Filter, Key, Match, Name, Reported, Rule, Target, chain_name, collision,
};

/// Up to this many sets of addresses are looked up one by one.
const SEPARATE: usize = 2;

/// The lowering's memory.
pub(super) struct Builder<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) options: &'a Iptables,
    pub(super) memory: &'a Memory,
    pub(super) roles: BTreeMap<Name, (Family, Role)>,
    pub(super) reports: BTreeMap<Arc<str>, Reported>,
    pub(super) filter: Filter,
    pub(super) family: Family,
    /// What each pipeline became in this family; `None` allows everything.
    pub(super) entries: BTreeMap<(PipelineId, Place), Option<Target>>,
}

/// The peers of a step in one family.
#[derive(Default)]
pub(super) struct Members {
    /// Each way to be a member by exact address.
    pub(super) exact: Vec<Match>,
    /// How to be a member by network.
    pub(super) networks: Networks,
}

/// The networks among the peers.
#[derive(Default)]
pub(super) enum Networks {
    /// None in this family.
    #[default]
    Nothing,
    /// The whole family.
    Everything,
    /// One comparison or look-up.
    Some(Match),
}

impl<'a> Builder<'a> {
    pub(super) const fn new(
        ruleset: &'a Ruleset,
        options: &'a Iptables,
        memory: &'a Memory,
    ) -> Self {
        Self {
            ruleset,
            options,
            memory,
            roles: BTreeMap::new(),
            reports: BTreeMap::new(),
            filter: Filter { chains: BTreeMap::new() },
            family: Family::V4,
            entries: BTreeMap::new(),
        }
    }

    /// Adds a chain named by its rules, and by what else tells it from others of the same rules.
    pub(super) fn chain(
        &mut self,
        letters: &str,
        besides: &str,
        rules: Vec<Rule>,
    ) -> Result<Name, LowerError> {
        let mut text = String::from(besides);
        for rule in &rules {
            let _ = writeln!(text, "{rule}"); // Writing to a String cannot fail.
        }
        let name = chain_name(letters, &text);
        match self.filter.chains.get(&name) {
            Some(known) if *known != rules => return Err(collision(&name)),
            Some(_) => {}
            None => {
                self.filter.chains.insert(name.clone(), rules);
            }
        }
        Ok(name)
    }

    /// Adds a set of this role, in the edition that the memory tells.
    pub(super) fn set(&mut self, role: Role) -> Result<Name, LowerError> {
        let name = self.memory.edition(role.name(self.family));
        let wanted = (self.family, role);
        match self.roles.get(&name) {
            Some(known) if *known != wanted => return Err(collision(&name)),
            Some(_) => {}
            None => {
                self.roles.insert(name.clone(), wanted);
            }
        }
        Ok(name)
    }

    /// Returns where denied packets go: to a chain that reports and drops them, if reports are wanted.
    pub(super) fn denied(
        &mut self,
        prefix: String,
        account: &Arc<Account>,
        is_answer: bool,
    ) -> Result<Target, LowerError> {
        let mut rules: Vec<Rule> = self.report(prefix, account, is_answer)?.into_iter().collect();
        if rules.is_empty() {
            return Ok(Target::Drop);
        }
        rules.push(Rule::always(Target::Drop));
        Ok(Target::Goto(self.chain("X", "", rules)?))
    }

    /// Returns the rule that reports a packet, if reports are wanted.
    pub(super) fn report(
        &mut self,
        prefix: String,
        account: &Arc<Account>,
        is_answer: bool,
    ) -> Result<Option<Rule>, LowerError> {
        let Some(reports) = self.options.reports else { return Ok(None) };
        let prefix: Arc<str> = prefix.into();
        let reported = Reported { account: account.clone(), is_answer };
        match self.reports.get(&prefix) {
            Some(known) if *known != reported => return Err(collision(&prefix)),
            Some(_) => {}
            None => {
                self.reports.insert(prefix.clone(), reported);
            }
        }
        let limit = vec![Match::Limit(reports.rate)];
        Ok(Some(Rule::new(limit, Target::Log(reports.group, prefix))))
    }

    /// Returns the matches that find the members of any of the peer sets, in this family.
    pub(super) fn members(
        &mut self,
        ids: &BTreeSet<PeerSetId>,
        end: End,
    ) -> Result<Members, LowerError> {
        let networks = self.networks_of(ids);
        let networks = self.networks(&networks, end)?;
        if matches!(networks, Networks::Everything) {
            return Ok(Members { exact: Vec::new(), networks });
        }
        let ids = self.with_addresses(ids);
        let (separate, merged): (BTreeSet<PeerSetId>, BTreeSet<PeerSetId>) =
            if ids.len() <= SEPARATE {
                (ids, BTreeSet::new())
            } else {
                ids.into_iter().partition(|id| self.memory.is_apart(*id))
            };
        let mut roles: Vec<Role> =
            separate.into_iter().map(|id| Role::Peers([id].into())).collect();
        if !merged.is_empty() {
            roles.push(Role::Peers(merged));
        }
        let mut exact = Vec::with_capacity(roles.len());
        for role in roles {
            exact.push(Match::In(self.set(role)?, Key::Address(end)));
        }
        Ok(Members { exact, networks })
    }

    /// Returns those of the sets that have exact addresses, now or later.
    pub(super) fn with_addresses(&self, ids: &BTreeSet<PeerSetId>) -> BTreeSet<PeerSetId> {
        let has = |id: &&PeerSetId| {
            self.ruleset.peer_set(**id).is_some_and(|set| match set.selector {
                PeerSelector::Networks(_) => !set.addresses.is_empty(),
                PeerSelector::Pods { .. }
                | PeerSelector::Nodes(_)
                | PeerSelector::PodsInNetworks(..) => true,
            })
        };
        ids.iter().filter(has).copied().collect()
    }

    /// Returns the networks of any of the sets.
    pub(super) fn networks_of(&self, ids: &BTreeSet<PeerSetId>) -> PrefixSet {
        let sets = ids.iter().filter_map(|id| self.ruleset.peer_set(*id));
        sets.fold(PrefixSet::default(), |all, set| all.union(&set.networks))
    }

    /// Returns the match of the networks of this family.
    pub(super) fn networks(
        &mut self,
        networks: &PrefixSet,
        end: End,
    ) -> Result<Networks, LowerError> {
        let all = match self.family {
            Family::V4 => networks.v4().is_all(),
            Family::V6 => networks.v6().is_all(),
        };
        if all {
            return Ok(Networks::Everything);
        }
        let family = self.family;
        let of_family = |net: &IpNet| Family::of(net.network()) == family;
        // Longest prefixes of one length only hold together what is whole, and never a family: ipset refuses /0.
        let members: Vec<IpNet> = networks.cidrs().into_iter().filter(of_family).collect();
        Ok(match members.as_slice() {
            [] => Networks::Nothing,
            [only] => Networks::Some(Match::Within(end, *only)),
            [_, ..] => {
                let name = self.set(Role::Networks(members))?;
                Networks::Some(Match::In(name, Key::Address(end)))
            }
        })
    }

    /// Returns whether any pod has an address of this family.
    pub(super) fn is_used(&self) -> bool {
        let addresses = self.ruleset.endpoints().flat_map(|endpoint| &endpoint.addresses);
        addresses.into_iter().any(|address| Family::of(*address) == self.family)
    }
}

/// Refuses what a set cannot hold.
pub(crate) fn check_capacity(name: &Name, members: usize) -> Result<(), LowerError> {
    /// The most that ipset's counter of members can say.
    const CAPACITY: usize = 1 << 31;
    if members <= CAPACITY {
        return Ok(());
    }
    Err(LowerError::CapacityExceeded {
        object: name.to_string(),
        needed: members,
        limit: CAPACITY,
        unit: "members",
    })
}
