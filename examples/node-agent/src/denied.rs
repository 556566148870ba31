//! Denied flows, counted, and told by name where that is asked for.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;
use std::time::Instant;

use netpol_core::backend::{Cause, Denial, Denials};
use netpol_core::engine::Engine;
use netpol_core::ir::{Direction, Transport};

use crate::counts::told;
use crate::metrics::Metrics;

/// The same flow is not told again for so long.
const QUIET: Duration = Duration::from_secs(10);

/// So many lines are written in any second at most; nobody's flood fills a disk.
const LINES: u32 = 20;

/// So many flows are remembered.
const REMEMBERED: usize = 4096;

/// Source, destination, transport and direction: the source port changes with every attempt.
type Key = (IpAddr, IpAddr, Transport, Direction);

#[derive(Debug)]
pub(crate) struct DeniedFlows {
    is_logged: bool,
    told: HashMap<Key, Instant>,
    second: Instant,
    lines: u32,
    held_back: u64,
}

impl DeniedFlows {
    pub(crate) fn new(is_logged: bool) -> Self {
        Self { is_logged, told: HashMap::new(), second: Instant::now(), lines: 0, held_back: 0 }
    }

    pub(crate) fn take(&mut self, denials: &Denials, engine: &Engine, metrics: &Metrics) {
        for denial in &denials.flows {
            let (policy, cause) = told(&denial.cause);
            metrics.denied(denial.direction, &policy, cause);
            if !self.is_logged {
                continue;
            }
            if self.may_tell(denial, Instant::now()) {
                tell(denial, &policy, engine);
            } else {
                self.held_back = self.held_back.saturating_add(1);
            }
        }
        metrics.lost_denials(denials.lost);
    }

    /// Whether this one is written: not told lately, and not too many in this second.
    fn may_tell(&mut self, denial: &Denial, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            if self.held_back > 0 {
                tracing::info!(reports = self.held_back, "more denied flows were not written");
            }
            (self.second, self.lines, self.held_back) = (now, 0, 0);
        }
        if self.lines >= LINES {
            return false;
        }
        let flow = &denial.flow;
        let key = (flow.source, flow.destination, flow.transport, denial.direction);
        if self.told.get(&key).is_some_and(|then| now.duration_since(*then) < QUIET) {
            return false;
        }
        if self.told.len() >= REMEMBERED {
            self.told.retain(|_, then| now.duration_since(*then) < QUIET);
            if self.told.len() >= REMEMBERED {
                return false;
            }
        }
        self.told.insert(key, now);
        self.lines += 1;
        true
    }
}

fn tell(denial: &Denial, policy: &str, engine: &Engine) {
    let name = |address: IpAddr| match engine.pod_with(address) {
        Some(pod) => pod.meta.object.to_string(),
        None => engine
            .nodes()
            .find(|node| node.addresses.contains(&address))
            .map_or_else(|| address.to_string(), |node| format!("node/{}", node.name())),
    };
    let flow = &denial.flow;
    let rules = match &denial.cause {
        Cause::Rules(origins) => {
            origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        Cause::Isolation(_) => "none matches".to_owned(),
        Cause::Default => "default".to_owned(),
        Cause::UnknownPod => "unknown pod".to_owned(),
        Cause::Guard => "guard".to_owned(),
    };
    tracing::warn!(
        from = %name(flow.source), to = %name(flow.destination),
        source = %flow.source, source_port = denial.source_port.unwrap_or_default(),
        destination = %flow.destination, transport = %flow.transport,
        direction = %denial.direction, policy, rule = %rules, "denied"
    );
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::time::Instant;

    use netpol_core::backend::{Cause, Denial};
    use netpol_core::ir::{Direction, Flow, Transport};
    use netpol_core::model::Protocol;

    use super::{DeniedFlows, LINES, QUIET, REMEMBERED};

    fn denial(source: u32) -> Denial {
        let source = core::net::Ipv4Addr::from_bits(0x0a00_0000 + source).into();
        let transport = Transport::Port(Protocol::Tcp, 80);
        let flow = Flow::new(source, [10, 1, 0, 1].into(), transport);
        let (direction, cause) = (Direction::Ingress, Cause::Isolation(vec![]));
        Denial { flow, source_port: Some(40_000), direction, cause }
    }

    #[test]
    fn the_same_flow_is_told_once_in_ten_seconds_and_a_flood_is_cut() {
        let mut denied = DeniedFlows::new(true);
        let now = Instant::now();
        assert!(denied.may_tell(&denial(1), now));
        assert!(!denied.may_tell(&denial(1), now + QUIET / 2));
        assert!(denied.may_tell(&denial(1), now + QUIET * 2));
        let later = now + QUIET * 4;
        let told = (0..1000).filter(|source| denied.may_tell(&denial(*source), later)).count();
        assert_eq!(told, LINES as usize);
        // However many there are, little is remembered.
        for source in 0..20_000_u32 {
            denied.may_tell(&denial(source), later + Duration::from_secs(1) * source);
        }
        assert!(denied.told.len() <= REMEMBERED, "{}", denied.told.len());
    }
}
