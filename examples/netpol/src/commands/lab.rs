//! `netpol lab`: the same manifests, a cluster of network namespaces, and real packets.

mod flows;
mod inside;
mod report;

use alloc::sync::Arc;
use core::time::Duration;

use anyhow::{Context as _, bail};
use netpol_conformance::exam::{Exam, ExamError, traffic};
use netpol_conformance::netlab::{Availability, Observation, Patience, Probe};
use netpol_core::backend::{Dataplane, SyncError};
use netpol_core::ir::{Flow, Verdict};
use netpol_ebpf::tc::{Tc, Times};
use netpol_ebpf::{Ebpf, EbpfDataplane, FrontEnd};
use netpol_iptables::IptablesDataplane;
use netpol_nft::NftDataplane;

use super::Session;
use super::verdict::{Need, addresses_of, compile_cluster, flows, judge_all};
use crate::cli::{BackendChoice, FamilyChoice, LabArgs, TextOrJson};
use crate::evaluate::{Judge, Judged};
use crate::input::{Input, settings};
use crate::outcome::Outcome;
use crate::output::progress::Progress;

use flows::Pair;
use report::Report;

/// One flow of the lab.
#[derive(Clone, Debug)]
struct Trial {
    pair: Pair,
    flow: Flow,
    expected: Verdict,
    observed: Observed,
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Observed {
    /// Nothing was sent.
    Untried,
    Seen(Observation),
}

impl Trial {
    /// Allowed means that the traffic works both ways, denied means silence (DEC-14).
    fn differs(&self) -> bool {
        match (self.observed, self.expected) {
            (Observed::Untried, _) => false,
            (Observed::Seen(observation), Verdict::Allow) => observation != Observation::Passed,
            (Observed::Seen(observation), Verdict::Deny) => observation != Observation::TimedOut,
        }
    }
}

pub(crate) fn run(session: Session, args: &LabArgs) -> anyhow::Result<Outcome> {
    let privilege = Availability::enter(); // First: the kernel allows it only to a process of one thread.
    let written = flows(&args.flow, args.flows.as_deref(), &args.input.filename, Need::None)?;
    let input = load(args, &written)?;
    let ruleset = compile_cluster(session, &input, &args.evaluation);
    let shell = args.shell.as_deref().map(|name| inside::find(&input, &args.input.namespace, name));
    let shell = shell.transpose()?;
    let mut trials = if written.is_empty() {
        flows::every_pair(&input, &ruleset)
    } else {
        let judge = Judge { input: &input, ruleset: &ruleset, family: FamilyChoice::Auto };
        given(&judge_all(&judge, &args.input.namespace, &written)?)
    };
    if trials.is_empty() {
        bail!("no pods in these manifests, so there is nothing to send");
    }
    let mut report = Report { backend: args.backend, privilege: None, failure: None };
    let mut lab = None;
    match privilege {
        Ok(privilege) => {
            report.privilege = Some(privilege);
            match enforce(args, &input, &trials)? {
                Ok(enforced) => lab = Some(enforced),
                Err(missing) => report.failure = Some(missing),
            }
        }
        Err(unavailable) => report.failure = Some(unavailable.to_string()),
    }
    if let Some(Enforced { exam, .. }) = &lab {
        send(exam, &mut trials)?;
    }
    match args.output {
        TextOrJson::Text => report.text(session.style, &input, &ruleset, &trials)?,
        TextOrJson::Json => report.json(&input, &trials)?,
    }
    if let (Some(Enforced { exam, .. }), Some(end)) = (&lab, &shell) {
        inside::shell(exam.lab(), end)?;
    }
    if let (Some(Enforced { exam, .. }), true) = (&lab, args.keep) {
        inside::keep(exam.lab(), report.privilege)?;
    }
    Ok(if lab.is_none() {
        Outcome::Uncertain
    } else if trials.iter().any(Trial::differs) {
        Outcome::Negative
    } else {
        Outcome::Holds
    })
}

/// Reads manifests and gives every pod a node.
fn load(args: &LabArgs, written: &[super::verdict::Given]) -> anyhow::Result<Input> {
    let reserved = addresses_of(written);
    let input = Input::load(&args.input, &args.evaluation, reserved.clone(), Vec::new())?;
    if input.cluster.pods.values().all(|pod| pod.node.is_some() || pod.phase.is_finished()) {
        return Ok(input);
    }
    let declared: Vec<Arc<str>> = input.cluster.nodes.keys().cloned().collect();
    let nodes = if declared.is_empty() { vec!["node-1".into(), "node-2".into()] } else { declared };
    Ok(input.schedule(nodes, reserved))
}

/// A lab whose nodes enforce the policies. A backend may enforce only as long as its dataplane lives.
struct Enforced {
    exam: Exam,
    _dataplane: Box<dyn Dataplane + Send>,
}

/// Builds the lab and enforces the policies on every node; the inner error says what this machine lacks for it.
fn enforce(
    args: &LabArgs,
    input: &Input,
    trials: &[Trial],
) -> anyhow::Result<Result<Enforced, String>> {
    let flows: Vec<Flow> = trials.iter().map(|trial| trial.flow).collect();
    let exam = {
        let _progress = Progress::start("building the lab");
        Exam::new(&input.cluster, settings(&args.evaluation), &flows)
            .context("the lab cannot be built from these manifests")?
    };
    let mut dataplane: Box<dyn Dataplane + Send> = match args.backend {
        BackendChoice::Nft => Box::new(NftDataplane::new()),
        BackendChoice::Iptables => Box::new(IptablesDataplane::new()),
        BackendChoice::Ebpf => Box::new(EbpfDataplane::new(Ebpf::default())),
        BackendChoice::EbpfTc => Box::new(at_interfaces()),
    };
    let _progress = Progress::start("enforcing policies");
    match exam.enforce(&input.cluster, dataplane.as_mut()) {
        Ok(()) => Ok(Ok(Enforced { exam, _dataplane: dataplane })),
        Err(ExamError::Sync { source: missing @ SyncError::Missing { .. }, .. }) => {
            Ok(Err(missing.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// eBPF at the interfaces of pods. Probes of protocols without ports have nothing that tells one from another, so a
/// connection of theirs is forgotten before the next one, which may go the other way.
fn at_interfaces() -> EbpfDataplane {
    let times = Times { bare: Duration::from_millis(1), ..Times::default() };
    let front_end = FrontEnd::Tc(Tc { times, ..Tc::default() });
    EbpfDataplane::new(Ebpf::default()).with_front_end(front_end)
}

/// The pairs of addresses of the flows that were asked for.
fn given(judged: &[(&str, Judged)]) -> Vec<Trial> {
    let cases = judged.iter().flat_map(|(written, answer)| {
        let cases = match &answer.service {
            Some((_, cases)) => cases.as_slice(),
            None => core::slice::from_ref(&answer.decisive),
        };
        cases.iter().map(move |case| (*written, case))
    });
    cases
        .map(|(written, case)| Trial {
            pair: Pair::of_case(written, case),
            flow: case.flow,
            expected: case.decision.verdict,
            observed: Observed::Untried,
        })
        .collect()
}

/// Sends what can be sent. What was expected to pass and did not is tried once more, so that a packet lost on a busy
/// machine is not taken for a denial.
fn send(exam: &Exam, trials: &mut [Trial]) -> anyhow::Result<()> {
    let lab = exam.lab();
    let _progress = Progress::start(format!("sending {} probes", trials.len()));
    for _ in 0..2 {
        let mut sent: Vec<&mut Trial> = Vec::new();
        let mut probes: Vec<Probe> = Vec::new();
        let open = |trial: &&mut Trial| trial.observed == Observed::Untried || trial.differs();
        for trial in trials.iter_mut().filter(open) {
            let Flow { source, destination, transport, .. } = trial.flow;
            let ends = lab.owner(source).zip(lab.owner(destination));
            if let (Some((from, _)), Some(traffic)) = (ends, traffic(transport)) {
                probes.push(Probe { from, to: destination, traffic });
                sent.push(trial);
            }
        }
        let seen = lab.probe_with(&probes, Patience::default())?;
        for (trial, observation) in sent.into_iter().zip(seen) {
            trial.observed = Observed::Seen(observation);
        }
    }
    Ok(())
}
