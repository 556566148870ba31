//! The API server fails, hangs and forgets, and an agent starts with half of a listing: nothing opens, nothing closes.

use core::time::Duration;
use std::time::Instant;

use netpol_conformance::api_server::Fault;
use netpol_conformance::cases::e2e;

use crate::deny_ingress;
use crate::fleet::{Backend, Fleet, Setup};

pub(crate) fn half_a_listing(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("half", base.clone(), Setup::of(backend));
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("before", &flows);
    for agent in 0..fleet.agents.len() {
        fleet.kill(agent);
    }
    // The short lists are complete long before that of the pods.
    fleet.server.set_fault(Some(Fault::Drip(Duration::from_millis(1))));
    for agent in 0..fleet.agents.len() {
        fleet.start(agent);
    }
    fleet.until_says(0, "/metrics", "netpol_agent_watch_following{kind=\"Node\"} 1");
    for _ in 0..2 {
        fleet.is_right("while the lists drip", &flows);
    }
    assert!(fleet.ask(0, "/readyz").contains("not everything was listed yet"));
    fleet.server.set_fault(None);
    fleet.server.cut_off();
    fleet.until_ready();
    fleet.is_right("after the lists", &flows);
}

pub(crate) fn server_away(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("away", base.clone(), Setup::of(backend));
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("before", &flows);
    fleet.server.set_fault(Some(Fault::Refuse));
    fleet.server.cut_off();
    fleet.until_says(0, "/metrics", "netpol_agent_watch_following{kind=\"Pod\"} 0");
    // A whole minute, in which things happen that nobody hears of.
    let gone = Instant::now();
    let mut rounds = 0;
    while gone.elapsed() < Duration::from_secs(60) {
        fleet.is_right("while the server is away", &flows);
        rounds += 1;
    }
    assert!(rounds > 10, "{rounds}");
    assert!(fleet.ask(0, "/readyz").contains("200 OK"), "the rules are what they should be");
    assert!(fleet.ask(0, "/livez").contains("200 OK"));
    // It comes back without its history, first without its access rules, and with another policy.
    fleet.server.set_fault(Some(Fault::Forbidden));
    fleet.server.restart();
    fleet.until_says(0, "/readyz", "403");
    fleet.is_right("while everything is forbidden", &flows);
    fleet.reset(&base);
    fleet.server.set_fault(None);
    fleet.until_right("after the return", &flows);
    fleet.until_says(0, "/metrics", "netpol_agent_watch_following{kind=\"Pod\"} 1");
}
