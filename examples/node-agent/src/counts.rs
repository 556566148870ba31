//! Packets and bytes per policy and verdict, as counters that never go back.
//!
//! The kernel counts for each rule in force, and from zero again where a rule is replaced. What is told outside is the sum
//! over a policy's rules, so the differences are taken rule by rule.

use alloc::collections::{BTreeMap, BTreeSet};

use netpol_core::backend::{Cause, Counter};
use netpol_core::ir::{Direction, PolicyRef, Verdict};

use crate::metrics::{Counted, Metrics};

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// What the kernel said last, packets and bytes, by what it counts.
    last: BTreeMap<(Direction, bool, Cause), (u64, u64)>,
    /// What is told outside.
    labels: BTreeSet<Counted>,
}

impl Counts {
    pub(crate) fn take(&mut self, counters: Vec<Counter>, metrics: &Metrics) {
        let mut now: BTreeMap<(Direction, bool, Cause), (u64, u64)> = BTreeMap::new();
        for Counter { direction, verdict, cause, packets, bytes } in counters {
            let sum = now.entry((direction, verdict == Verdict::Allow, cause)).or_default();
            *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
        }
        let mut labels = BTreeSet::new();
        for (key, counted) in &now {
            let before = self.last.get(key).copied().unwrap_or_default();
            let (direction, is_allowed, cause) = key;
            let label = Counted::new(*direction, *is_allowed, cause);
            metrics.counted(&label, more(before.0, counted.0), more(before.1, counted.1));
            labels.insert(label);
        }
        for gone in self.labels.difference(&labels) {
            metrics.no_longer_counted(gone);
        }
        (self.last, self.labels) = (now, labels);
    }
}

/// What was added; all of it, if it was begun anew.
const fn more(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}

impl Counted {
    fn new(direction: Direction, is_allowed: bool, cause: &Cause) -> Self {
        let (policy, cause) = told(cause);
        Self {
            direction: direction.to_string(),
            verdict: if is_allowed { "allow" } else { "deny" }.to_owned(),
            policy,
            cause: cause.to_owned(),
        }
    }
}

/// The policies behind a cause (several, where the kernel counts their rules together), and what sort of cause it is.
pub(crate) fn told(cause: &Cause) -> (String, &'static str) {
    let names = |policies: &mut dyn Iterator<Item = &PolicyRef>| {
        let names: BTreeSet<String> = policies.map(ToString::to_string).collect();
        names.into_iter().collect::<Vec<_>>().join(",")
    };
    match cause {
        Cause::Rules(origins) => {
            (names(&mut origins.iter().map(|origin| origin.policy.as_ref())), "rule")
        }
        Cause::Isolation(policies) => (names(&mut policies.iter().map(AsRef::as_ref)), "isolation"),
        Cause::Default => (String::new(), "default"),
        Cause::UnknownPod => (String::new(), "unknown-pod"),
        Cause::Guard => (String::new(), "guard"),
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use netpol_core::backend::{Cause, Counter};
    use netpol_core::ir::{Direction, Origin, PolicyKind, PolicyRef, Verdict};
    use netpol_core::model::ObjectRef;

    use super::Counts;
    use crate::metrics::Metrics;
    use crate::status::Shared;

    fn counter(rule: u32, packets: u64) -> Counter {
        let object = ObjectRef::new("shop", "api");
        let policy = Arc::new(PolicyRef { kind: PolicyKind::NetworkPolicy, object, uid: None });
        let direction = Direction::Ingress;
        let origin = Origin { policy, direction, rule, peer: None };
        let cause = Cause::Rules(vec![origin]);
        Counter { direction, verdict: Verdict::Allow, cause, packets, bytes: packets * 60 }
    }

    #[test]
    fn a_rule_that_is_replaced_takes_nothing_away_and_one_that_is_gone_is_not_told() {
        let shared = Shared::new();
        let metrics: &Metrics = &shared.metrics;
        let mut counts = Counts::default();
        let says = |number: u64| {
            let text = metrics.text(&shared.status());
            let line = format!(
                "netpol_agent_policy_packets_total{{direction=\"ingress\",verdict=\"allow\",policy=\"NetworkPolicy shop/api\",cause=\"rule\"}} {number}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        };
        counts.take(vec![counter(0, 10), counter(1, 5)], metrics);
        says(15);
        // Rule 0 begins anew; rule 1 goes on.
        counts.take(vec![counter(0, 2), counter(1, 6)], metrics);
        says(18);
        counts.take(vec![counter(0, 2), counter(1, 6)], metrics);
        says(18);
        counts.take(vec![], metrics);
        let text = metrics.text(&shared.status());
        assert!(!text.contains("policy=\"NetworkPolicy shop/api\""), "{text}");
    }
}
