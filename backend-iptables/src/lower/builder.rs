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

use super::pipeline::Place;
use super::role::Role;
use super::{Layout, Memory};
use crate::Iptables;
use crate::restore::{
    Account, End, Filter, Key, Match, Name, Reported, Rule, Target, chain_name, collision,
    other_edition,
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
    /// What each pipeline became.
    pub(super) lowered: BTreeMap<(Family, PipelineId, Place), Lowered>,
    /// What is made of the pipeline that is lowered at the moment.
    pub(super) made: Lowered,
    /// A layout of which pipelines may be taken over.
    earlier: Option<Earlier<'a>>,
}

/// What a pipeline became at a place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lowered {
    /// Where its packets go; `None` where nothing is judged.
    pub(super) target: Option<Target>,
    chains: Vec<Name>,
    sets: Vec<Name>,
    reports: Vec<Arc<str>>,
}

/// A layout that was, with the sets that are there in another edition now.
struct Earlier<'a> {
    layout: &'a Layout,
    turned: BTreeSet<&'a Name>,
}

impl Earlier<'_> {
    /// Returns what a pipeline became, if it would become the same again.
    fn lowered(&self, key: &(Family, PipelineId, Place)) -> Option<&Lowered> {
        let lowered = self.layout.lowered.get(key)?;
        let is_turned =
            |name: &Name| self.turned.contains(name) || self.turned.contains(&other_edition(name));
        let stays = self.turned.is_empty() || !lowered.sets.iter().any(is_turned);
        stays.then_some(lowered)
    }
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
    pub(super) fn new(
        ruleset: &'a Ruleset,
        options: &'a Iptables,
        memory: &'a Memory,
        earlier: Option<&'a Layout>,
    ) -> Self {
        let earlier = earlier.map(|layout| {
            let turned = memory.second.symmetric_difference(&layout.memory.second).collect();
            Earlier { layout, turned }
        });
        Self {
            earlier,
            lowered: BTreeMap::new(),
            made: Lowered::default(),
            ruleset,
            options,
            memory,
            roles: BTreeMap::new(),
            reports: BTreeMap::new(),
            filter: Filter { chains: BTreeMap::new() },
            family: Family::V4,
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
        self.made.chains.push(name.clone());
        match self.filter.chains.get(&name) {
            Some(known) if **known != *rules => return Err(collision(&name)),
            Some(_) => {}
            None => {
                self.filter.chains.insert(name.clone(), rules.into());
            }
        }
        Ok(name)
    }

    /// Adds a set of this role, in the edition that the memory tells.
    pub(super) fn set(&mut self, role: Role) -> Result<Name, LowerError> {
        let name = self.memory.edition(role.name(self.family));
        self.made.sets.push(name.clone());
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

    /// Takes over what a pipeline became, with everything that it was made of; returns whether it could be.
    pub(super) fn take_over(&mut self, key: &(Family, PipelineId, Place)) -> bool {
        let Some(earlier) = &self.earlier else { return false };
        let Some(lowered) = earlier.lowered(key) else { return false };
        let [v4, v6] = &earlier.layout.filters;
        let filter = if self.family == Family::V4 { v4 } else { v6 };
        // What is missing was left out because no packet reaches it.
        for name in &lowered.chains {
            if let Some((name, rules)) = filter.chains.get_key_value(name) {
                self.filter.chains.insert(name.clone(), rules.clone());
            }
        }
        for name in &lowered.sets {
            if let Some((name, role)) = earlier.layout.roles.get_key_value(name) {
                self.roles.insert(name.clone(), role.clone());
            }
        }
        for prefix in &lowered.reports {
            if let Some((prefix, reported)) = earlier.layout.reports.get_key_value(prefix) {
                self.reports.insert(prefix.clone(), reported.clone());
            }
        }
        self.lowered.insert(*key, lowered.clone());
        true
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
        self.made.reports.push(prefix.clone());
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
