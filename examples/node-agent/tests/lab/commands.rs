//! What the command line does on a node: once, dry, removed; and what is found and put back.

use netpol_conformance::cases::e2e;
use netpol_conformance::netlab::kernel_test;

use crate::deny_ingress;
use crate::fleet::{Fleet, Setup};

#[test]
fn what_another_program_takes_away_comes_back_and_removal_is_complete() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("drift", base.clone(), Setup::of("nft"));
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        fleet.run(0, "nft", &["delete", "table", "inet", "netpol"]);
        fleet.until_right("after the loss", &flows);
        // A backend that cannot compare what is there writes it again, and cannot say whether that changed anything.
        if !fleet.logs().contains("drift is not looked for") {
            fleet.until_says(0, "/metrics", "netpol_agent_drift_repairs_total 1");
            // What others do elsewhere is no drift.
            fleet.run(0, "nft", &["add", "table", "inet", "other"]);
            fleet.run(0, "nft", &["delete", "table", "inet", "other"]);
            fleet.is_right("after another's change", &flows);
            fleet.until_says(0, "/metrics", "netpol_agent_drift_repairs_total 1");
        }
        // SIGTERM leaves the rules; `remove` does not.
        let mut process = fleet.agents[0].process.take().unwrap();
        fleet.run(0, "kill", &["-TERM", &process.id().to_string()]);
        assert!(process.wait().unwrap().success());
        fleet.is_right("after SIGTERM", &flows);
        fleet.run(0, env!("CARGO_BIN_EXE_netpol-agent"), &["remove"]);
        assert_eq!(fleet.run(0, "nft", &["list", "tables"]), "");
    });
}

#[test]
fn once_enforces_and_ends_and_a_dry_run_leaves_the_kernel_alone() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("once", base.clone(), Setup::of("nft"));
        for agent in 0..fleet.agents.len() {
            fleet.kill(agent);
            fleet.run(agent, env!("CARGO_BIN_EXE_netpol-agent"), &["remove"]);
        }
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        for agent in 0..fleet.agents.len() {
            let kubeconfig = fleet.agents[agent].kubeconfig.to_str().unwrap().to_owned();
            let node = fleet.agents[agent].node.clone();
            let arguments = ["--node-name", &node, "--kubeconfig", &kubeconfig, "--once"];
            let printed = fleet.run(
                agent,
                env!("CARGO_BIN_EXE_netpol-agent"),
                &[arguments.as_slice(), &["--dry-run"]].concat(),
            );
            assert!(printed.contains("table inet netpol"), "{printed}");
            assert_eq!(fleet.run(agent, "nft", &["list", "tables"]), "");
            fleet.run(agent, env!("CARGO_BIN_EXE_netpol-agent"), &arguments);
        }
        fleet.is_right("after one run each", &flows);
    });
}
