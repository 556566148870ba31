//! Following changes comes to the same as lowering anew.

#![expect(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "test support")]

use netpol_conformance::events::{Happening, Script};
use netpol_conformance::generate::Random;
use netpol_core::backend::{Backend as _, Program as _};
use netpol_core::engine::{Delta, Engine};
use netpol_core::ir::{Flow, Ruleset};
use netpol_core::model::Cidr;
use netpol_core::net::PrefixSet;
use netpol_ebpf::{Ebpf, Limits, Lowering};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Asks some flows, and lowers anew to compare sizes.
fn check(lowering: &Lowering, ruleset: &Ruleset, flows: &[Flow]) -> Option<String> {
    if !lowering.is_of(ruleset) || lowering.delta_to(ruleset).is_none_or(|delta| !delta.is_empty())
    {
        return Some("it says that it is another ruleset".into());
    }
    let image = lowering.image();
    let wrong = flows.iter().find_map(|flow| {
        let (expected, got) = (ruleset.verdict(flow).verdict, image.verdict(flow));
        (expected != got).then(|| format!("{flow}: {got}, must {expected}\n{image}"))
    });
    wrong.or_else(|| {
        let anew = Ebpf::default().lower(ruleset).unwrap();
        let (followed, anew) = (image.rows(), anew.rows());
        // Words and networks may be cut otherwise; what is named is named as often.
        let told = |rows: netpol_ebpf::image::Rows| (rows.pods, rows.policies, rows.ranges);
        (told(followed) != told(anew)).then(|| format!("{followed:?}, anew {anew:?}"))
    })
}

fn run(seed: u64, script: &Script) -> Result<[usize; 2], String> {
    let mut random = Random::seeded(seed);
    let mut engine = Engine::with_tuning(script.options.clone(), script.tuning);
    let mut lowering = Lowering::new(engine.snapshot(), Limits::default()).unwrap();
    let mut counts = [0, 0];
    for (step, happening) in script.happenings.iter().enumerate() {
        let deltas: Vec<Delta> = match happening {
            Happening::Event(event) => vec![engine.apply(event.clone())],
            Happening::Batch(events) => vec![engine.apply_batch(events.iter().cloned())],
            Happening::Restart(_) => vec![],
        };
        // What the engine says, or what a look at both finds.
        let found = lowering.delta_to(engine.snapshot());
        let found = (step % 2 == 0).then_some(found).flatten();
        for delta in found.as_slice().iter().chain(deltas.iter().filter(|_| found.is_none())) {
            if delta.is_empty() {
                continue;
            }
            lowering.follow(delta).map_err(|error| format!("step {step}: {error}"))?;
            counts[0] += 1;
        }
        let some: Vec<Flow> =
            (0..40).filter_map(|_| random.pick_from(&script.flows).copied()).collect();
        if let Some(wrong) = check(&lowering, engine.snapshot(), &some) {
            return Err(format!("step {step}: {wrong}"));
        }
        counts[1] += some.len();
    }
    check(&lowering, engine.snapshot(), &script.flows).map_or(Ok(counts), Err)
}

fn campaign(script: impl Fn(u64) -> Script) {
    let (first, seeds) = (number("NETPOL_SEED", 1), number("NETPOL_SCRIPTS", 60));
    let mut total = [0, 0];
    for seed in first..first + seeds {
        let mut script = script(seed);
        if seed % 2 == 0 {
            let some = script.flows.iter().step_by(16).map(|flow| Cidr::host(flow.source));
            let some: Vec<Cidr> = some.collect();
            script.options.pod_ranges = PrefixSet::from_cidrs(&some);
        }
        match run(seed, &script) {
            Ok(counts) => total = [total[0] + counts[0], total[1] + counts[1]],
            Err(wrong) => panic!("NETPOL_SEED={seed}: {wrong}"),
        }
    }
    eprintln!("{seeds} scripts: {} changes, {} flows, 0 wrong", total[0], total[1]);
}

#[test]
fn an_image_that_followed_events_judges_as_the_ruleset_does() {
    campaign(|seed| Script::new(seed, 60));
}

#[test]
fn an_image_that_followed_relabelled_pods_judges_as_the_ruleset_does() {
    campaign(|seed| Script::relabels(seed, 40));
}
