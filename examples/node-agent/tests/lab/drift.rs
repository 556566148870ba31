//! Another program takes away what is ours: it is found and put back at once.

use core::time::Duration;
use std::time::Instant;

use netpol_conformance::cases::e2e;

use crate::deny_ingress;
use crate::fleet::{Backend, Fleet, Setup};

/// What somebody does in a node, as shell scripts. They fail where there is nothing to do it to.
const fn vandals(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Ebpf | Backend::EbpfTc => &["own=$(stat -Lc %i /proc/self/ns/net); \
            for f in $(find $PINS -path \"*$own*\" -type f); do bpftool link detach pinned $f && exit 0; done; exit 1"],
        Backend::IptablesLegacy => &["iptables-legacy -F FORWARD", EMPTY_A_SET],
        Backend::IptablesNft => &["iptables-nft -F FORWARD", EMPTY_A_SET],
        Backend::Nft => {
            &["nft delete table inet netpol", "nft insert rule inet netpol forward accept"]
        }
    }
}

const EMPTY_A_SET: &str = "for s in $(ipset list -n); do \
    ipset list $s | grep -q '^10\\.' && ipset flush $s && exit 0; done; exit 1";

pub(crate) fn repairs_and_removal(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("drift", base.clone(), Setup::of(backend));
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("before", &flows);
    let mut repairs = 0;
    for script in vandals(backend) {
        let began = Instant::now();
        if !fleet.is_let(0, script) {
            // Its table belongs to the agent, where the kernel can say so; nobody else may touch it.
            assert_eq!(backend, Backend::Nft, "{script}");
            eprintln!("{backend}: {script:.40}: refused");
            fleet.is_right("after what was refused", &flows);
            continue;
        }
        repairs += 1;
        fleet.until_logs_times(0, "what another program had changed is put back", repairs);
        // With the time that the script took.
        let took = began.elapsed();
        eprintln!("{backend}: {script:.40}: put back after {took:?}");
        // A second is the aim where nothing else runs; the programs that iptables needs are slow to start on a busy machine.
        assert!(took < Duration::from_secs(15), "{took:?}");
        fleet.is_right("after the repair", &flows);
    }
    let counted = format!("netpol_agent_drift_repairs_total {repairs}\n");
    fleet.until_says(0, "/metrics", &counted);
    // What others do elsewhere is no drift.
    fleet.run(0, "nft", &["add", "table", "inet", "other"]);
    fleet.run(0, "nft", &["delete", "table", "inet", "other"]);
    fleet.is_right("after another's change", &flows);
    fleet.until_says(0, "/metrics", &counted);
    // SIGTERM leaves the rules; `remove` does not.
    for agent in 0..fleet.agents.len() {
        let mut process = fleet.agents[agent].process.take().unwrap();
        fleet.run(agent, "kill", &["-TERM", &process.id().to_string()]);
        assert!(process.wait().unwrap().success());
    }
    fleet.is_right("after SIGTERM", &flows);
    for agent in 0..fleet.agents.len() {
        fleet.command(agent, &["remove"]);
        fleet.command(agent, &["remove"]);
    }
    assert_eq!(fleet.left_behind(0), "");
    // Nobody is denied anything any more, whatever the API says.
    fleet.cluster = base;
    let report = fleet.send(&flows);
    assert!(report.wrong.is_empty() && report.denied == 0, "{report:?}");
}
